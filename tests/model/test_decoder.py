"""Output queries: judged by transformers' decoders with the same weights; asked in part, in groups and in chunks."""

import re

import pytest
import torch
from torch import nn
from transformers import PerceiverConfig
from transformers.models.perceiver import modeling_perceiver as theirs

from lab.peers.deepmind import their_name
from modeling_perceiver_study import decoder as module
from modeling_perceiver_study.decoder import (
    FourierQueries,
    PerceiverStudyDecoder,
    PerceiverStudyLatents,
    PerceiverStudyOutputs,
)
from modeling_perceiver_study.inputs import LearnedPadding
from tests.kinds import arguments_of, joint_array, model_of
from tests.models import replica_of, small_config, small_model

pytestmark = pytest.mark.slow

TOLERANCE = {"rtol": 0, "atol": 1e-9}
FOURIER = {"num_bands": 3, "max_resolution": (4, 5), "concat_pos": True}


def their_config(**fields) -> PerceiverConfig:
    return PerceiverConfig(num_latents=6, d_latents=16, num_labels=5, attention_probs_dropout_prob=0.0, **fields)


def latents_of(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def randomized(modules: nn.Module) -> nn.Module:
    """In float64, with weights that attend sharply."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in modules.named_parameters():
            parameter.normal_(std=0.3, mean=float(name.endswith("weight") and "norm" in name))
    return modules.double().eval()


def carry_over(ours: nn.Module, their_layer: nn.Module):
    """Into `ours`, a decoder's layer, weights of transformers'."""
    weights = their_layer.state_dict()
    prefix = "perceiver.decoder.decoder.decoding_cross_attention."
    ours.load_state_dict(
        {name: weights[their_name(f"decoder.layer.{name}").removeprefix(prefix)] for name in ours.state_dict()}
    )


@pytest.mark.parametrize("use_query_residual", [False, True])
def test_the_classification_decoder(use_query_residual):
    positions = {"num_channels": 16, "index_dims": 1}
    their = randomized(
        theirs.PerceiverClassificationDecoder(
            their_config(),
            num_channels=16,
            trainable_position_encoding_kwargs=positions,
            use_query_residual=use_query_residual,
        )
    )
    ours = PerceiverStudyDecoder(
        small_config(), PerceiverStudyLatents(1, 16), use_query_residual=use_query_residual
    ).double()
    carry_over(ours.layer, their.decoder.decoding_cross_attention)
    ours.query.weight.data = their.decoder.output_position_encodings.position_embeddings.data
    latents = latents_of()
    expected = their(their.decoder_query(latents), latents).logits
    actual = ours(latents, head=their.decoder.final_layer)
    torch.testing.assert_close(actual.squeeze(1), expected, **TOLERANCE)


@pytest.mark.parametrize("projected", [False, True])
def test_a_grid_of_fourier_positions(projected):
    """As transformers' video decoder has them."""
    width = 9 if projected else 2 * (1 + 2 * 3)
    project = {"project_pos_dim": 9, "out_channels": 2 * (1 + 2 * 3)} if projected else {}
    their = randomized(
        theirs.PerceiverBasicDecoder(
            their_config(),
            output_num_channels=4,
            position_encoding_type="fourier",
            fourier_position_encoding_kwargs=FOURIER,
            output_index_dims=(4, 5),
            num_channels=width,
            **project,
        )
    )
    query = FourierQueries([4, 5], 3, projected_width=9 if projected else None)
    ours = PerceiverStudyDecoder(small_config(), query, use_query_residual=False).double()
    carry_over(ours.layer, their.decoding_cross_attention)
    if projected:
        query.projection.load_state_dict(their.positions_projection.state_dict())
    latents = latents_of()
    their_queries = their.decoder_query(torch.zeros(3, 2, 4, 5, dtype=torch.float64))
    our_queries = query(torch.arange(20), torch.float64)
    torch.testing.assert_close(our_queries.expand(3, -1, -1), their_queries, rtol=0, atol=1e-5)  # theirs in float32
    expected = ours(latents, their_queries, head=their.final_layer)
    torch.testing.assert_close(expected, their(their_queries, latents).logits, **TOLERANCE)
    own = ours(latents, head=their.final_layer)
    torch.testing.assert_close(own, ours(latents, our_queries, head=their.final_layer), rtol=0, atol=1e-12)


def test_the_optical_flow_decoder():
    """Its queries are the inputs, and given to ours at the call."""
    kinds = ("image",)
    model = model_of(*kinds)
    given = arguments_of(model.config, kinds)
    queries = model.elements(**given)
    torch.testing.assert_close(queries, joint_array(model, kinds, given)[0], rtol=0, atol=1e-12)
    their = randomized(
        theirs.PerceiverOpticalFlowDecoder(
            their_config(),
            num_channels=queries.shape[-1],
            output_image_shape=(5, 4),
            rescale_factor=100.0,
            use_query_residual=False,
            output_num_channels=2,
            position_encoding_type="none",
        )
    )
    ours = PerceiverStudyDecoder(small_config(), query_width=queries.shape[-1], use_query_residual=False).double()
    carry_over(ours.layer, their.decoder.decoding_cross_attention)
    latents = latents_of()
    expected = their(their.decoder_query(queries), latents).logits
    actual = ours(latents, queries, head=their.decoder.final_layer).unflatten(1, (5, 4)) / 100
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_the_language_decoder():
    their = randomized(
        theirs.PerceiverBasicDecoder(
            their_config(),
            output_num_channels=16,
            output_index_dims=7,
            num_channels=12,
            qk_channels=8,
            v_channels=20,
            num_heads=4,
            use_query_residual=False,
            final_project=False,
            trainable_position_encoding_kwargs={"num_channels": 12, "index_dims": 7},
        )
    )
    ours = PerceiverStudyDecoder(
        small_config(),
        PerceiverStudyLatents(7, 12),
        num_heads=4,
        qk_channels=8,
        v_channels=20,
        use_query_residual=False,
    ).double()
    carry_over(ours.layer, their.decoding_cross_attention)
    ours.query.weight.data = their.output_position_encodings.position_embeddings.data
    latents = latents_of()
    torch.testing.assert_close(ours(latents), their(their.decoder_query(latents), latents).logits, **TOLERANCE)


def test_the_multimodal_decoder():
    config = their_config()
    shapes = {"video": (7, 6), "audio": (5, 4), "label": (3, 1)}
    decoders = {
        name: theirs.PerceiverBasicDecoder(
            config,
            output_num_channels=4,
            num_channels=width,
            position_encoding_only=True,
            trainable_position_encoding_kwargs={"num_channels": width, "index_dims": count},
            project_pos_dim=width,
            out_channels=width,
        )
        for name, (width, count) in shapes.items()
    }
    their = randomized(
        theirs.PerceiverMultimodalDecoder(
            config, modalities=decoders, num_outputs=11, output_num_channels=9, use_query_residual=False
        )
    )
    queries = {name: PerceiverStudyLatents(count, width) for name, (width, count) in shapes.items()}
    ours = PerceiverStudyOutputs(small_config(), queries, dict.fromkeys(queries, 9), use_query_residual=False).double()
    carry_over(ours.decoder.layer, their.decoder.decoding_cross_attention)
    for name, padded in ours.queries.items():
        encodings = decoders[name]
        weight = encodings.output_position_encodings.position_embeddings
        padded.query.weight.data = encodings.positions_projection(weight).detach()
        padded.padding.weight.data = their.padding[name][0].data
        ours.heads[name].load_state_dict(their.decoder.final_layer.state_dict())
    latents = latents_of()
    sizes = dict.fromkeys(("audio", "label", "video"), 1)
    their_queries = their.decoder_query(torch.zeros(3, 3, 1, dtype=torch.float64), sizes)
    expected = their(their_queries, latents).logits
    actual = ours(latents)
    assert {name: tuple(answers.shape) for name, answers in actual.items()} == {
        "audio": (3, 4, 9),
        "label": (3, 1, 9),
        "video": (3, 6, 9),
    }
    torch.testing.assert_close(torch.cat(list(actual.values()), dim=1), expected, **TOLERANCE)


QUERIES = {
    "learned": lambda: PerceiverStudyLatents(20, 11),
    "fourier": lambda: FourierQueries([4, 5], 2),
    "projected": lambda: FourierQueries([2, 2, 5], 2, [1.0, 2.0, 3.0], False, projected_width=6),
    "given": lambda: None,
}


@pytest.mark.parametrize("kind", QUERIES)
@pytest.mark.parametrize("chunk_size", [1, 7, 21, 60, 10**6])
def test_chunks_and_subsets(kind, chunk_size):
    """Answers and all gradients are those of all at once; a subset's those of its queries."""
    torch.manual_seed(0)
    decoder = randomized(PerceiverStudyDecoder(small_config(), QUERIES[kind](), query_width=9, num_heads=2))
    head = nn.Linear(decoder.width, 2).double()
    latents = latents_of().requires_grad_()
    given = torch.randn(3, 20, 9, dtype=torch.float64, requires_grad=True) if kind == "given" else None
    leaves = [latents, *([given] if kind == "given" else []), *decoder.parameters(), *head.parameters()]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    for indices in (None, torch.tensor([3, 19, 0, 3])):
        expected = decoder(latents, given, head=head)
        expected = expected if indices is None else expected[:, indices]
        actual = decoder(latents, given, indices, head=head, chunk_size=chunk_size)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
        with torch.no_grad():
            torch.testing.assert_close(decoder(latents, given, indices, None, head, chunk_size), expected.detach())
        gradients = [torch.autograd.grad(part.square().sum(), leaves) for part in (actual, expected)]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("how", ["gradients of gradients", "many at once"])
@pytest.mark.parametrize("kind", QUERIES)
def test_gradients_of_chunks_beyond_the_first(kind, how):
    """Also where the first gradient is that of a sum: its own gradient was missing, without a word."""
    torch.manual_seed(0)
    decoder = randomized(PerceiverStudyDecoder(small_config(), QUERIES[kind](), query_width=9, num_heads=2))
    head = nn.Sequential(nn.Linear(decoder.width, 2), nn.Tanh()).double()
    latents = latents_of().requires_grad_()
    given = torch.randn(3, 20, 9, dtype=torch.float64, requires_grad=True) if kind == "given" else None
    asked = [latents, *([given] if kind == "given" else [])]
    weights = [weight for weight in (*decoder.parameters(), *head.parameters()) if weight.requires_grad]
    found = []
    for chunk_size in (21, 10**6):
        answers = decoder(latents, given, head=head, chunk_size=chunk_size)
        if how == "many at once":
            many = torch.stack([torch.ones_like(answers), answers.detach()])
            found.append(torch.autograd.grad(answers, asked + weights, many, is_grads_batched=True))
            continue
        slopes = torch.autograd.grad(answers.sum(), asked, create_graph=True)
        penalty = sum(slope.square().sum() for slope in slopes)
        found.append(torch.autograd.grad(penalty, asked + weights, materialize_grads=True))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_indices_of_any_whole_numbers(dtype):
    """Of as many bytes as there are queries torch would make a mask, which answers others."""
    decoder = randomized(PerceiverStudyDecoder(small_config(), PerceiverStudyLatents(4, 11)))
    indices = torch.tensor([0, 3, 1, 1])
    expected = decoder(latents_of(), output_query_indices=indices)
    assert torch.equal(decoder(latents_of(), output_query_indices=indices.to(dtype)), expected)


def test_queries_of_a_grid_are_the_features_of_its_points():
    """Of an axis of a single point, too."""
    from modeling_perceiver_study.position import fourier_axis_features, join_axis_features

    grid, highest = [3, 1, 4], [1.5, 0.5, 2.0]
    queries = FourierQueries(grid, 3)
    expected = join_axis_features(fourier_axis_features(grid, 3, highest, dtype=torch.float64))
    torch.testing.assert_close(queries(torch.arange(12), torch.float64)[0], expected, rtol=0, atol=1e-12)
    assert queries.num_queries == 12 and queries.width == expected.shape[-1]


def test_memory_of_many_queries_is_that_of_few():
    """For the backward pass latents are kept and nothing of any chunk; and backward keeps no more than a chunk."""
    decoder = PerceiverStudyDecoder(small_config(), FourierQueries([64, 64], 8))
    head, latents, kept = nn.Linear(decoder.width, 1), torch.randn(1, 6, 16, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        answers = decoder(latents, head=head, chunk_size=64)
    assert answers.shape == (1, 4096, 1)
    assert kept == [latents.numel()]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda x: x):
        answers.square().sum().backward()
    assert len(kept) > 64 and max(kept[1:]) <= max(64 * decoder.width * 2, answers.numel())


@pytest.mark.parametrize("autocast", [False, True])
def test_dropout_and_autocast_are_the_same_in_both_passes(autocast):
    """Chunks draw the same numbers again in backward, and leave torch's generator where forward left it."""
    torch.manual_seed(0)
    config = small_config(attention_probs_dropout_prob=0.5)
    decoder = PerceiverStudyDecoder(config, PerceiverStudyLatents(8, 4)).train()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    latents = torch.randn(1, 6, 16, requires_grad=True)
    results = []
    for whole in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            if whole:  # each chunk in turn, with an ordinary graph
                pieces = [decoder(latents, output_query_indices=some) for some in torch.arange(8).split(4)]
                answers = torch.cat(pieces, dim=1)
            else:
                answers = decoder(latents, chunk_size=4)
        state = torch.get_rng_state()
        (gradient,) = torch.autograd.grad(answers.square().sum(), latents)
        assert torch.equal(state, torch.get_rng_state())
        results.append((answers, gradient, state))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0.02 if autocast else 1e-6)


def test_some_tasks_at_a_time():
    queries = {"labels": PerceiverStudyLatents(1, 8), "pixels": FourierQueries([5, 6], 2)}
    outputs = randomized(PerceiverStudyOutputs(small_config(), queries, {"labels": 3, "pixels": 1}))
    latents = latents_of()
    every = outputs(latents)
    some = outputs(latents, tasks=["pixels"], output_query_indices={"pixels": torch.tensor([29, 4])})
    assert list(some) == ["pixels"]
    torch.testing.assert_close(some["pixels"], every["pixels"][:, [29, 4]], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="no task 'sounds': expected some of 'labels', 'pixels'"):
        outputs(latents, tasks=["sounds"])


@pytest.mark.parametrize("backward_inside", [False, True])
def test_tasks_under_autocast_learn_beside_one_that_is_answered_in_chunks(backward_inside):
    """The weights that autocast keeps have gradients, though chunks are answered without a graph."""
    torch.manual_seed(0)
    queries = {"a_picture": FourierQueries([5, 6], 2), "label": PerceiverStudyLatents(1, 8)}
    outputs = PerceiverStudyOutputs(small_config(), queries, {"a_picture": 1, "label": 3})
    latents, found = torch.randn(2, 6, 16), []
    weights = [weight for weight in outputs.parameters() if weight.requires_grad]
    for chunk_size in (8, 10**6):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = sum(part.float().square().sum() for part in outputs(latents, chunk_size=chunk_size).values())
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        found.append([weight.grad for weight in weights])
        outputs.zero_grad()
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.02)


def test_the_single_query_of_the_classifier_is_a_case():
    model = small_model(decoder_type="query")
    assert set(dict(model.decoder.named_children())) == {"query", "layer", "dropout"}
    assert model.decoder.query.weight.shape == (1, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "output_queries are missing: expected (1 or batch, queries, 9)"),
        ({"output_queries": torch.zeros(2, 4, 9)}, "(2, 4, 9): expected (1 or 3, queries, 9)"),
        ({"output_queries": torch.zeros(3, 0, 9)}, "at least one query"),
        ({"output_queries": torch.zeros(3, 4, 8)}, "(3, 4, 8)"),
        ({"output_queries": torch.zeros(3, 4, 9), "output_query_indices": torch.tensor([4])}, "4 to 4: expected 0"),
        ({"output_queries": torch.zeros(3, 4, 9), "output_query_indices": torch.tensor([-1])}, "-1 to -1"),
        ({"output_queries": torch.zeros(3, 4, 9), "output_query_indices": torch.ones(4)}, "an integer dtype"),
        ({"output_queries": torch.zeros(3, 4, 9), "output_query_indices": torch.tensor([], dtype=torch.int64)}, "(0,)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(arguments, message):
    decoder = PerceiverStudyDecoder(small_config(), query_width=9)
    with pytest.raises(ValueError, match=re.escape(message)):
        decoder(torch.zeros(3, 6, 16), **arguments)


def test_the_size_of_chunks_counts_samples():
    assert module._CHUNK == 2**12
    decoder, sizes = PerceiverStudyDecoder(small_config(), PerceiverStudyLatents(10, 4)), []
    decoder.layer.register_forward_hook(lambda _, given, answers: sizes.append(tuple(answers.shape)))
    with torch.no_grad():
        decoder(torch.zeros(3, 6, 16), chunk_size=12)
    assert sizes == [(3, 4, 4), (3, 4, 4), (3, 2, 4)]


def test_many_queries_of_a_copy_without_parameters():
    """Above the size of a chunk weights learn as well, of a copy as `DataParallel` makes one."""
    decoder = randomized(PerceiverStudyDecoder(small_config(), PerceiverStudyLatents(10, 4)))
    head, latents = randomized(torch.nn.Linear(4, 2)), latents_of()
    gradients = []
    for used, top in ((decoder, head), (replica_of(decoder), replica_of(head))):
        for part in (decoder, head):
            part.zero_grad()
        used(latents, head=top, chunk_size=6).square().sum().backward()
        weights = [*decoder.parameters(), *head.parameters()]
        gradients.append([weight.grad for weight in weights if weight.requires_grad])
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_tasks_begin_with_padding_of_their_own():
    queries = {name: FourierQueries([4, 4], 2) for name in "abc"}
    torch.manual_seed(0)
    outputs = PerceiverStudyOutputs(small_config(), queries, dict.fromkeys(queries, 2))
    weights = [padded.padding.weight for padded in outputs.queries.values()]
    assert len({tuple(weight.tolist()) for weight in weights}) == 3


@pytest.mark.parametrize("make", [lambda: PerceiverStudyLatents(500, 4), lambda: LearnedPadding(2000)])
def test_modules_outside_of_a_model_have_numbers(make):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    weight = make().weight
    assert torch.equal(torch.rand(3), expected)  # a seed goes on as without them
    assert abs(weight.std() - 0.02) < 0.002 and isinstance(weight, torch.nn.Parameter) and weight.requires_grad
    with torch.device("meta"):
        assert make().weight.is_meta


@pytest.mark.parametrize(("queries", "labels"), [({}, {}), (["a"], {"b": 2}), (["a"], {}), (["a"], {"a": 2, "b": 2})])
def test_outputs_without_a_head_for_each_task_are_refused(queries, labels):
    message = re.escape(f"queries of {list(queries)} and num_labels of {list(labels)}: expected both of the same tasks")
    with pytest.raises(ValueError, match=message):
        PerceiverStudyOutputs(small_config(), {task: PerceiverStudyLatents(1, 4) for task in queries}, labels)


def test_a_transform_answers_all_queries_at_once():
    decoder, latents = randomized(PerceiverStudyDecoder(small_config(), PerceiverStudyLatents(10, 4))), latents_of()
    found = torch.func.vmap(lambda one: decoder(one[None], chunk_size=3)[0])(latents)
    torch.testing.assert_close(found, decoder(latents), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_places_of_many_queries_are_rounded_last(dtype):
    queries, indices = FourierQueries([500], 4), torch.arange(500)
    found = queries(indices, dtype)
    assert found.dtype == dtype and torch.equal(found, queries(indices, torch.float32).to(dtype))
