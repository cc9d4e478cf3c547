"""transformers' Perceivers for text, converted there and back: the same numbers, and the same gradients."""

import json
import shutil
from functools import partial

import pytest
import torch
import transformers
from huggingface_hub import ModelCard
from transformers import AutoTokenizer, PerceiverConfig, PerceiverTokenizer

import convert
from lab.errors import UserError
from lab.peers.deepmind_text import (
    MODELS,
    our_text_config,
    our_tokenizer,
    their_text_config,
    their_text_name,
    their_tokenizer,
)
from lab.peers.masked_lm import OFFICIAL as OFFICIAL_SIZE
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyTokenizer
from tests.deepmind_models import TOLERANCES, assert_close

TOY = {
    "num_latents": 6,
    "d_latents": 16,
    "d_model": 24,
    "num_blocks": 2,
    "num_self_attends_per_block": 2,
    "num_self_attention_heads": 4,
    "num_cross_attention_heads": 4,
    "qk_channels": 8,
    "v_channels": 16,
    "max_position_embeddings": 20,
    "attention_probs_dropout_prob": 0.0,
    "num_labels": 3,
    # Fresh weights of the usual size attend almost evenly, which would hide a wrong scale or a wrong position.
    "initializer_range": 0.3,
}
OFFICIAL = OFFICIAL_SIZE | {"num_labels": 2, "initializer_range": 0.05}


def their_model(architecture, **fields):
    """In evaluation mode, with norms and biases that are not the identity."""
    torch.manual_seed(0)
    return disturbed(getattr(transformers, architecture)(PerceiverConfig(**fields)))


def our_model(architecture, **fields):
    torch.manual_seed(0)
    return disturbed(MODELS[architecture](our_text_config(PerceiverConfig(**fields), architecture)))


def disturbed(model):
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("weight") and "norm" in name:
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                tensor.normal_(std=0.2)
    return model.eval()


def save(model, folder, tokenizer=PerceiverTokenizer):
    model.save_pretrained(folder)
    tokenizer(model_max_length=model.config.max_position_embeddings).save_pretrained(folder)


def converted(architecture, folder):
    """A model of transformers, and what convert.py makes of it."""
    theirs = their_model(architecture, **TOY)
    save(theirs, folder / "theirs")
    convert.main([str(folder / "theirs"), str(folder / "ours")])
    return theirs, MODELS[architecture].from_pretrained(folder / "ours").eval()


def converted_back(architecture, folder):
    """The same for a model that is made here; theirs first."""
    ours = our_model(architecture, **TOY)
    save(ours, folder / "ours", PerceiverStudyTokenizer)
    convert.main([str(folder / "ours"), str(folder / "theirs"), "--reverse"])
    return getattr(transformers, architecture).from_pretrained(folder / "theirs").eval(), ours


@pytest.fixture(scope="module", params=MODELS)
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    return folder, *converted(request.param, folder)


def texts(config, batch=3):
    """Ids of whole inputs, of which the ends are padding."""
    torch.manual_seed(1)
    length = config.max_position_embeddings
    ids = torch.randint(0, config.vocab_size, (batch, length))
    mask = (torch.arange(length) < torch.tensor([[length], [length // 2], [3]])[:batch]).long()
    return ids, mask


def gradients(model, ids, mask):
    """Those of all weights that learn, of a loss of some size."""
    name = "input_ids" if isinstance(model.config, PerceiverStudyConfig) else "inputs"
    model.zero_grad()
    answers = model(**{name: ids}, attention_mask=mask).logits.log_softmax(dim=-1)
    shares = torch.randn(answers.shape, generator=torch.Generator().manual_seed(2)).to(answers)
    (answers * shares).sum(dim=-1).mean().backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad}
    model.zero_grad()  # lets go of them
    return found


def assert_same_gradients(architecture, ours, theirs, dtype):
    """To the tolerance of logits, as a share of the largest gradient of each weight where that is above 1."""
    largest = 0.0
    for name, found in ours.items():  # biases of keys are not among them, since they change nothing
        expected = theirs[their_text_name(architecture, name)]
        size = expected.abs().max().item()
        largest = max(largest, size)
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCES[dtype] * max(1.0, size), msg=name)
    assert largest > 0.1  # otherwise nothing would be compared


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("convert_one", [converted, converted_back])
def test_the_same_logits_and_gradients(convert_one, architecture, dtype, tmp_path):
    """Whichever of the two the weights come from."""
    theirs, ours = (model.to(dtype) for model in convert_one(architecture, tmp_path))
    ids, mask = texts(theirs.config)
    with torch.no_grad():
        expected = theirs(inputs=ids, attention_mask=mask).logits
        assert_close(ours(input_ids=ids, attention_mask=mask).logits, expected, dtype)
    assert_same_gradients(architecture, gradients(ours, ids, mask), gradients(theirs, ids, mask), dtype)


def test_the_same_losses(both):
    _, theirs, ours = both
    ids, mask = texts(theirs.config)
    labels = torch.tensor([0, 2, 1])
    if type(theirs).__name__ == "PerceiverForMaskedLM":
        labels = torch.where(torch.rand(ids.shape) < 0.2, ids, -100)
    expected = theirs.float()(inputs=ids, attention_mask=mask, labels=labels).loss
    ours = ours.float()
    for training in (False, True):  # in training only what has a label is asked for
        found = ours.train(training)(input_ids=ids, attention_mask=mask, labels=labels).loss
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    ours.eval()


def test_there_and_back(both, tmp_path):
    folder, theirs, _ = both
    convert.main([str(folder / "ours"), str(tmp_path / "again"), "--reverse"])
    again = type(theirs).from_pretrained(tmp_path / "again")
    for name, weight in theirs.float().state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    text = "naïve [MASK] text"
    expected = PerceiverTokenizer.from_pretrained(folder / "theirs")(text)["input_ids"]
    assert PerceiverTokenizer.from_pretrained(tmp_path / "again")(text)["input_ids"] == expected
    ours = AutoTokenizer.from_pretrained(folder / "ours", trust_remote_code=True)
    assert ours(text)["input_ids"] == expected and ours.model_max_length == TOY["max_position_embeddings"]


def test_the_card(both):
    folder, theirs, _ = both
    card = ModelCard.load(folder / "ours" / "README.md")
    masked = type(theirs).__name__ == "PerceiverForMaskedLM"
    assert card.data.pipeline_tag == ("fill-mask" if masked else "text-classification")
    assert "AutoTokenizer" in card.text and "trust_remote_code=True" in card.text


def test_what_does_not_fit_is_said(both, tmp_path):
    folder, theirs, _ = both
    config = json.loads((folder / "ours" / "config.json").read_text())
    changed = {"ngram_sizes": [2, 3]} | ({"masked_lm_queries": "inputs"} if "Masked" in type(theirs).__name__ else {})
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(UserError, match=r"does not fit into transformers'.*\n.*ngram_sizes=\[2, 3\], expected None"):
        convert.main([str(tmp_path), str(tmp_path / "there"), "--reverse"])


@pytest.mark.parametrize("architecture", MODELS)
def test_shapes_that_transformers_cannot_run_are_refused(architecture):
    config = PerceiverConfig(d_latents=16, qk_channels=8, d_model=16, num_self_attention_heads=2)
    with pytest.raises(UserError, match="values of 8 channels in self-attends, expected d_latents=16"):
        our_text_config(config, architecture)


def test_several_tasks_do_not_fit():
    config = PerceiverStudyConfig(input_type="bytes", decoder_type="query", tasks={"mood": 2, "topic": 3})
    with pytest.raises(UserError, match=r"tasks=\{.*\}, expected None: for_task gives a model of one"):
        their_text_config(config, "PerceiverForSequenceClassification")


def test_tokenizers_keep_their_settings():
    texts = ["a", "abcdef"]
    theirs = PerceiverTokenizer(model_max_length=5, padding_side="left", truncation_side="left")
    ours = our_tokenizer(theirs)
    expected = theirs(texts, padding=True, truncation=True)["input_ids"]
    assert expected[0][0] == theirs.pad_token_id
    for each in (ours, their_tokenizer(ours)):
        assert each(texts, padding=True, truncation=True)["input_ids"] == expected


def test_tokenizers_keep_tokens_that_were_added():
    theirs = PerceiverTokenizer()
    theirs.add_tokens(["<u>"])
    theirs.add_special_tokens({"mask_token": "<?>"})
    ours = our_tokenizer(theirs)
    back = their_tokenizer(ours)
    for text in ("a<u>b", "<?>[MASK]", "é"):
        assert theirs(text)["input_ids"] == ours(text)["input_ids"] == back(text)["input_ids"]
    assert theirs.mask_token_id == ours.mask_token_id == back.mask_token_id == 263
    with pytest.raises(UserError, match=r"the tokenizer does not fit: special tokens .* at least 2 characters"):
        our_tokenizer(PerceiverTokenizer(mask_token="_"))


@pytest.fixture(scope="module", params=MODELS)
def official(request, tmp_path_factory):
    """An architecture, and functions that load both models of it, so that a test may hold one at a time.

    256 latents of 1,280 channels, 26 self-attends, 2,048 bytes: 201 million parameters, with random weights.
    """
    folder = tmp_path_factory.mktemp("official")
    save(their_model(request.param, **OFFICIAL), folder / "theirs")
    convert.main([str(folder / "theirs"), str(folder / "ours")])
    theirs, ours = getattr(transformers, request.param), MODELS[request.param]
    yield (
        request.param,
        partial(theirs.from_pretrained, folder / "theirs"),
        partial(ours.from_pretrained, folder / "ours"),
    )
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_official_size(official):
    """Of theirs as it is saved, and of what is made of that."""
    architecture, load_theirs, load_ours = official
    theirs, ours = load_theirs().eval(), load_ours().eval()
    if architecture == "PerceiverForMaskedLM":
        assert ours.num_parameters() == theirs.num_parameters() == 201_108_230
    ids, mask = texts(theirs.config, batch=2)
    with torch.no_grad():
        for dtype in TOLERANCES:
            expected = theirs.to(dtype)(inputs=ids, attention_mask=mask).logits
            assert_close(ours.to(dtype)(input_ids=ids, attention_mask=mask).logits, expected, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_gradients_of_the_official_size(official, dtype):
    """Of one text of 2,048 bytes, of which half is padding."""
    architecture, load_theirs, load_ours = official
    theirs = load_theirs(dtype=dtype).eval()
    ids, mask = (tensor[1:] for tensor in texts(theirs.config, batch=2))
    expected = gradients(theirs, ids, mask)
    del theirs
    ours = load_ours(dtype=dtype).eval()
    assert_same_gradients(architecture, gradients(ours, ids, mask), expected, dtype)
