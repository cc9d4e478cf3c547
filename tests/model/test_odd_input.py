"""What people give by mistake: a ValueError that names it, and never an answer to something else."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AddedToken

import modeling_perceiver_study as package
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyFeatureExtractor,
    PerceiverStudyImageProcessor,
    PerceiverStudyPointCloudProcessor,
    PerceiverStudyTokenizer,
    PerceiverStudyVideoProcessor,
)
from modeling_perceiver_study.pipeline_video_perceiver_study import PerceiverStudyVideoClassificationPipeline
from tests.clips import random_clip
from tests.kinds import KINDS, arguments_of, model_of
from tests.pipelines import PIPELINES, SAMPLES, SMALL, VIDEO, pipeline_of

NAN = np.where(random_clip() > 250, np.nan, random_clip())

MASKED = np.ma.array(np.ones((4, 8, 8, 3)), mask=np.zeros((4, 8, 8, 3)))
MASKED[2, 3, 1] = np.ma.masked  # as files of sensors have what is missing; below the mask is any number


@pytest.mark.parametrize(
    ("kind", "sample", "message"),
    [
        (PerceiverStudyFeatureExtractor, MASKED[2, 3, :, 0], "holds nan at sample 1"),
        (PerceiverStudyImageProcessor, MASKED[2], "holds nan"),
        (PerceiverStudyVideoProcessor, MASKED, "holds nan"),
        (PerceiverStudyPointCloudProcessor, MASKED[2, 3], "NaN or infinite, the first of them point 1"),
    ],
)
def test_what_a_mask_hides_is_missing(kind, sample, message):
    with pytest.raises(ValueError, match=message):
        kind()(sample)
    plain = np.ma.array(np.ma.getdata(sample), mask=False)
    for name, values in kind()(plain).items():
        np.testing.assert_array_equal(values, kind()(np.ma.getdata(sample))[name])


# Settings

WHOLE, REAL = np.int64, np.float32
IMAGE = {"num_channels": WHOLE(3), "num_frequency_bands": WHOLE(4), "max_frequencies": REAL(4), "size": WHOLE(8)}


@pytest.mark.parametrize(
    "kind, settings",
    [
        (PerceiverStudyImageProcessor, IMAGE | {"image_mean": REAL(0.5), "image_std": np.full(3, 0.5)}),
        (PerceiverStudyVideoProcessor, {"num_frames": WHOLE(4), "fps": REAL(2), "size": {"shortest_edge": WHOLE(8)}}),
        (PerceiverStudyFeatureExtractor, {"feature_size": WHOLE(2), "sampling_rate": WHOLE(8000), "mean": np.ones(2)}),
        (PerceiverStudyFeatureExtractor, {"normalize": "training", "mean": REAL(1), "std": torch.tensor([2.0])}),
        (
            PerceiverStudyFeatureExtractor,
            {"feature_type": "log-mel", "dynamic_range": REAL(9), "min_frequency": REAL(9), "max_length": WHOLE(99)},
        ),
        (package.PerceiverStudyPointCloudProcessor, {"num_axes": WHOLE(2), "num_points": WHOLE(4)}),
    ],
)
def test_numbers_of_other_libraries_are_kept_as_plain_ones(kind, settings, tmp_path):
    """Also where they come beside a saved folder."""
    of_python = {name: value.tolist() for name, value in settings.items() if hasattr(value, "tolist")}
    expected = kind(**settings | of_python).to_json_string()
    assert kind(**settings).to_json_string() == expected
    kind(**settings).save_pretrained(tmp_path)
    for given in ({}, settings):
        loaded = kind.from_pretrained(tmp_path, **given).to_dict()
        loaded.pop("auto_map")
        assert loaded == kind(**settings | of_python).to_dict()


def test_numbers_of_other_libraries_at_a_call():
    clip = random_clip()
    found = PerceiverStudyVideoProcessor(size=8)(clip, num_frames=WHOLE(3), num_channels=WHOLE(3))["pixel_values"]
    torch.testing.assert_close(found, PerceiverStudyVideoProcessor(size=8)(clip, num_frames=3)["pixel_values"])
    found = PerceiverStudyImageProcessor(size=8)(clip[0], **IMAGE)
    of_python = {name: value.item() for name, value in IMAGE.items()}
    torch.testing.assert_close(dict(found), dict(PerceiverStudyImageProcessor(size=8)(clip[0], **of_python)))
    config = PerceiverStudyConfig(**VIDEO, **SMALL)
    model = package.PerceiverStudyForVideoClassification(config).eval()
    clips = PerceiverStudyVideoProcessor(size=8)(clip)
    torch.testing.assert_close(model(**clips, num_latents=WHOLE(2)).logits, model(**clips, num_latents=2).logits)


# Texts


@pytest.fixture(scope="module")
def tokenizer():
    return PerceiverStudyTokenizer(model_max_length=24)


@pytest.mark.parametrize("pair", [None, "b"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "ä\udc80"])
def test_half_of_a_surrogate_pair(tokenizer, text, several, pair):
    given = ([text], pair and [pair]) if several else (text, pair)
    with pytest.raises(ValueError, match=r"A text holds '\\ud.*expected Unicode text"):
        tokenizer(*given)


@pytest.mark.parametrize(
    "given, options, message",
    [
        (["a", None], {}, "A list of texts holds None: expected texts alone"),
        (["a", 3], {}, "holds 3"),
        (["a", b"b"], {}, "holds b'b'"),
        (["a", float("nan")], {}, "holds nan"),
        (None, {}, "need to specify"),
        (b"a", {}, r"text=b'a': expected a text, a list of texts"),
        ("abc", {"truncation": True, "max_length": 1}, "max_length=1: expected a whole number of at least 2"),
        (["abc"], {"truncation": True, "max_length": -1}, "max_length=-1: expected a whole number of at least 2"),
        (["a"], {"text_pair": ["b"], "truncation": True, "max_length": 2}, "=2: expected a whole number of at least 3"),
        ([("a", "b")], {"truncation": True, "max_length": 2}, "max_length=2: expected a whole number of at least 3"),
        (["a", "bb"], {"padding": True, "padding_side": "middle"}, "padding_side='middle': expected 'left' or 'right'"),
    ],
)
def test_what_the_tokenizer_refuses(tokenizer, given, options, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(given, **options)


@pytest.mark.parametrize("ids", [[300], [-1], [70, 262]])
def test_ids_that_there_are_not(tokenizer, ids):
    for decode in (tokenizer.decode, tokenizer.convert_ids_to_tokens, lambda one: tokenizer.batch_decode([one])):
        with pytest.raises(ValueError, match=r"id -?\d+: expected 0 to 261"):
            decode(ids)


@pytest.mark.parametrize("length", [0, -3, "24", 2.5, True])
def test_lengths_that_make_no_sense(length):
    with pytest.raises(ValueError, match="model_max_length="):
        PerceiverStudyTokenizer(model_max_length=length)


@pytest.mark.parametrize("given, length", [(None, int(1e30)), (np.int64(9), 9), (int(1e30), int(1e30))])
def test_lengths_of_other_kinds(given, length):
    """None is what transformers has where nothing limits a text."""
    assert PerceiverStudyTokenizer(model_max_length=given).model_max_length == length


@pytest.mark.parametrize("kind", [iter, np.array, torch.tensor])
def test_ids_that_can_be_gone_through_once(tokenizer, kind):
    assert tokenizer.decode(kind([103, 104])) == "ab"
    assert tokenizer.convert_ids_to_tokens(kind([103, 104])) == ["a", "b"]


def test_no_texts_have_no_ids(tokenizer):
    assert dict(tokenizer([])) == {"input_ids": [], "attention_mask": []}
    assert dict(tokenizer([], return_attention_mask=False)) == {"input_ids": []}


# Pictures and clips


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [PerceiverStudyImageProcessor, PerceiverStudyVideoProcessor])
def test_pixels_that_are_no_numbers(kind, wrong):
    clip = random_clip().astype(np.float32)
    clip[1, 2, 3, 0] = wrong
    given = clip if kind is PerceiverStudyVideoProcessor else clip[1]
    for pixels in (given, torch.from_numpy(given)):
        with pytest.raises(ValueError, match=rf"holds {wrong}: expected finite numbers"):
            kind(size={"height": 8, "width": 8})(pixels)


@pytest.mark.parametrize("dtype, message", [(complex, "complex128"), (object, "object"), (str, "<U")])
@pytest.mark.parametrize("kind", [PerceiverStudyImageProcessor, PerceiverStudyVideoProcessor])
def test_arrays_of_other_things(kind, dtype, message):
    given = random_clip(2).astype(dtype)
    with pytest.raises(ValueError, match=f"An image has dtype {message}"):
        kind(size={"height": 8, "width": 8})(given)


@pytest.mark.parametrize("given", [None, 3, {1}, ["a", 3]])
def test_what_is_no_image(given):
    with pytest.raises((ValueError, TypeError), match=r"NoneType|int|set|not an image"):
        PerceiverStudyImageProcessor()(given)


@pytest.fixture(scope="module")
def classify():
    torch.manual_seed(0)
    config = PerceiverStudyConfig(**VIDEO, **SMALL, num_labels=3, absolute_positions=True, initializer_range=0.3)
    processor = PerceiverStudyVideoProcessor(size={"height": 8, "width": 8}, num_frames=6)
    model = package.PerceiverStudyForVideoClassification(config).eval()
    return PerceiverStudyVideoClassificationPipeline(model=model, image_processor=processor)


CLIPS = {
    "grey": random_clip()[..., 0],
    "one frame": random_clip(1),
    "one grey frame": random_clip(1)[..., 0],
    "floats": random_clip().astype(np.float32),
    "channels first": random_clip().transpose(0, 3, 1, 2),
    "list of one": [random_clip(1)[0]],
    "sizes that differ": [random_clip()[0], random_clip()[1, :5]],
    "grey among colours": [Image.fromarray(random_clip()[0]), Image.fromarray(random_clip()[1, ..., 0])],
}


@pytest.mark.parametrize("name", CLIPS)
def test_the_pipeline_sees_what_the_processor_sees(classify, name):
    clip = CLIPS[name]
    found = {answer["label"]: answer["score"] for answer in classify(clip, top_k=None)}
    with torch.no_grad():
        scores = classify.model(**classify.image_processor(clip, return_tensors="pt")).logits[0].softmax(dim=-1)
    for label, score in enumerate(scores.tolist()):
        assert found[classify.model.config.id2label[label]] == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize(
    "clip, options, message",
    [
        (NAN, {}, "holds nan"),
        (random_clip()[:0], {}, "no frames"),
        (random_clip()[:, :0], {}, "no pixels"),
        (random_clip()[0, 0], {}, r"shape \(16, 3\)|shape \(12, 3\)"),
        ([random_clip()[0], None], {}, "A frame is a NoneType"),
        (3, {}, "A frame is a int"),
        ([], {}, "at least one sample"),
        (b"", {}, "not a clip that can be read"),
        (b"a text", {}, "not a clip that can be read"),
        ("/no/such/clip.mp4", {}, "there is no such file"),
        ({"bytes": None, "path": None}, {}, "expected `bytes` or `path`"),
        (random_clip(), {"num_frames": 0}, "num_frames=0: expected None or a whole number"),
        (random_clip(), {"num_frames": 2.5}, "num_frames=2.5: expected None or a whole number"),
        (random_clip(), {"num_frames": 2, "frame_sampling_rate": 0}, "frame_sampling_rate=0: expected"),
        (random_clip(), {"num_frames": 2, "frame_sampling_rate": 1.5}, "frame_sampling_rate=1.5: expected"),
        (random_clip(), {"num_frames": 2, "frame_sampling_rate": True}, "frame_sampling_rate=True: expected"),
        (random_clip(), {"num_frames": 2.5, "frame_sampling_rate": 2}, "num_frames=2.5: expected a whole number"),
        (random_clip(), {"num_frames": 0, "frame_sampling_rate": 2}, "num_frames=0: expected a whole number"),
        (random_clip(), {"num_frames": 9, "frame_sampling_rate": 2}, "are wanted of a clip that has 6"),
    ],
)
def test_what_the_pipeline_of_clips_refuses(classify, clip, options, message):
    with pytest.raises(ValueError, match=message):
        classify(clip, **options)


@pytest.mark.parametrize("kind", PIPELINES)
@pytest.mark.parametrize("nothing", [[], Dataset.from_dict({"sample": []})["sample"]], ids=["list", "column"])
def test_a_list_of_nothing(kind, nothing):
    with pytest.raises(ValueError, match=r"inputs=\[\]: expected at least one sample"):
        pipeline_of(kind)(nothing)


@pytest.mark.parametrize("kind", PIPELINES)
def test_several_samples_of_any_form(kind):
    """A column of two recordings is not one with two channels."""
    answer, samples = pipeline_of(kind), SAMPLES[kind]
    expected = [answer(sample) for sample in samples]
    several = [samples, tuple(samples)]
    if kind not in ("several", "video"):  # whose columns are not arrays of 8 bits
        column = Dataset.from_dict({"sample": [sample.tolist() for sample in samples]})
        several.append(column.with_format("numpy")["sample"])
    for given in several:
        assert answer(given) == expected
    assert list(answer(sample for sample in samples)) == expected


# Arguments of models


@pytest.mark.parametrize("kind", KINDS)
def test_no_samples_and_no_tensors(kind):
    model = model_of(kind)
    given = arguments_of(model.config, (kind,))
    with pytest.raises(ValueError, match="expected at least one sample"):
        model(**{name: value[:0] for name, value in given.items()})
    for other in (torch.Tensor.tolist, torch.Tensor.numpy):
        with pytest.raises(ValueError, match=r"are a (list|ndarray): expected a torch.Tensor"):
            model(**{name: other(value) for name, value in given.items()})
    with pytest.raises(ValueError, match=r"attention_mask are a list: expected a torch.Tensor"):
        model(**given, attention_mask=[[1]])


# Sound, and several modalities


@pytest.mark.parametrize(
    "given, options, message",
    [
        ({"array": np.ones(9), "sampling_rate": "8"}, {}, "sampling_rate='8': expected a finite number above 0"),
        ({"array": np.ones(9), "sampling_rate": 0}, {}, "sampling_rate=0: expected a finite number above 0"),
        (
            {"array": np.ones(9), "sampling_rate": float("nan")},
            {},
            "sampling_rate=nan: expected a finite number above 0",
        ),
        (np.ones(9), {"sampling_rate": "a"}, "sampling_rate='a': expected a finite number above 0"),
        (np.ones(9), {"sampling_rate": True}, "sampling_rate=True: expected a finite number above 0"),
        (
            {"array": np.ones(9), "sampling_rate": torch.ones(2)},
            {},
            "sampling_rate=.*: expected a finite number above 0",
        ),
        (np.ones(9), {"max_length": 0}, "max_length=0: expected None or a whole number"),
        (np.ones(9), {"max_length": -4}, "max_length=-4: expected None or a whole number"),
        (np.ones(9), {"max_length": 2.5}, "max_length=2.5: expected None or a whole number"),
        (np.ones(9), {"padding": "somehow"}, "padding='somehow': expected True, False or one of 'longest'"),
        (np.full(9, np.nan), {}, "holds nan"),
        (np.ones(9, dtype=complex), {}, "dtype complex128"),
        (None, {}, "dtype object"),
    ],
)
def test_what_the_feature_extractor_refuses(given, options, message):
    with pytest.raises(ValueError, match=message):
        PerceiverStudyFeatureExtractor(sampling_rate=1000)(given, **options)


@pytest.mark.parametrize("rate", [2000, 2000.0, np.int64(2000), np.array(2000), torch.tensor(2000)])
def test_forms_of_a_rate(rate):
    """Formats of `datasets` make tensors and arrays of numbers."""
    extractor, waves = PerceiverStudyFeatureExtractor(sampling_rate=1000), np.linspace(-1, 1, 30)
    expected = extractor(waves, sampling_rate=2000)["input_values"]
    found = extractor({"array": waves, "sampling_rate": rate}), extractor(waves, sampling_rate=rate)
    for one in found:
        np.testing.assert_array_equal(one["input_values"], expected)


def test_a_length_of_numpy():
    extractor = PerceiverStudyFeatureExtractor(sampling_rate=1000)
    assert extractor(np.ones(30), max_length=np.int64(9))["input_values"].shape == (1, 9)


@pytest.mark.parametrize("padding, lengths", [("longest", [9, 9]), ("do_not_pad", [9, 4]), ("max_length", [12, 12])])
def test_names_of_padding(padding, lengths):
    extractor = PerceiverStudyFeatureExtractor(sampling_rate=1000, max_length=12)
    assert [len(one) for one in extractor([np.arange(9.0), np.arange(4.0)], padding=padding)["input_values"]] == lengths


def test_a_recording_in_bfloat16():
    waves = torch.linspace(-1, 1, 33, dtype=torch.bfloat16)
    extractor = PerceiverStudyFeatureExtractor(sampling_rate=1000)
    np.testing.assert_array_equal(extractor(waves)["input_values"], extractor(waves.float())["input_values"])


@pytest.fixture(scope="module")
def several():
    video = PerceiverStudyVideoProcessor(size={"height": 8, "width": 8})
    sound = PerceiverStudyFeatureExtractor(sampling_rate=1000)
    return package.PerceiverStudyProcessor({"video": video, "sound": sound, "text": PerceiverStudyTokenizer()})


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("make", [np.asarray, torch.from_numpy])
def test_grey_clips_beside_others(several, make, count):
    """Frames `(T, H, W)` are those of one clip, also among several samples."""
    clips = [random_clip(seed=seed)[..., 0] for seed in range(count)]
    found = several([{"video": make(clip)} for clip in clips], return_tensors="np")
    expected = several([{"video": list(clip)} for clip in clips], return_tensors="np")
    np.testing.assert_array_equal(found["pixel_values"], expected["pixel_values"])
    assert found["video_attention_mask"].shape == (count, 6)


@pytest.mark.parametrize(
    "sample, options, message",
    [
        ({"video": 3}, {}, "video: A frame is a int"),
        ({"video": [None]}, {}, "video: A frame is a NoneType"),
        ({"video": NAN}, {}, "video: .* holds nan"),
        ({"sound": np.full(9, np.nan)}, {}, "sound: .* holds nan"),
        ({"text": "\ud800"}, {}, "half of a pair of surrogates"),
        ({"text": b"a"}, {}, "text is b'a'"),
        ({"video": random_clip()}, {"video": 3}, "video=3: expected a dict of settings"),
        ({"video": random_clip()}, {"video": {"num_frames": 0}}, "num_frames=0"),
        ({"video": random_clip()}, {"smell": {}}, "smell: expected settings of video, sound, text"),
        ({"sound": np.ones(9)}, {"sound": {"return_tensors": "pt"}}, "sound: return_tensors is said once"),
        ({"sound": np.ones(9)}, {"sound": {"padding": False}}, "sound: padding=False: expected another"),
        ({"text": "a"}, {"text": {"padding": "do_not_pad"}}, "text: padding='do_not_pad': expected another"),
    ],
)
def test_what_the_processor_of_several_refuses(several, sample, options, message):
    with pytest.raises(ValueError, match=message):
        several(sample, **options)


def test_a_tokenizer_among_others_comes_back_as_it_was(several, tmp_path):
    tokenizer = PerceiverStudyTokenizer(padding_side="left", truncation_side="left", split_special_tokens=True)
    tokenizer.add_tokens(["<new>"])
    tokenizer.add_tokens(["<special>"], special_tokens=True)
    processor = package.PerceiverStudyProcessor({**several.modalities, "text": tokenizer})
    processor.save_pretrained(tmp_path)
    loaded = package.PerceiverStudyProcessor.from_pretrained(tmp_path).modalities["text"]
    assert (loaded.padding_side, loaded.truncation_side) == ("left", "left")
    texts = ["a<new>", "b<special> [MASK]c"]
    for settings in ({}, {"split_special_tokens": False}, {"truncation": True, "max_length": 4}):
        assert dict(loaded(texts, padding=True, **settings)) == dict(tokenizer(texts, padding=True, **settings))


TOKENIZERS = {
    "as it is": {},
    "a new mask": {"change": lambda tokenizer: tokenizer.add_special_tokens({"mask_token": "<mask>"})},
    "another mask": {"mask_token": "<mask>"},
    "a mask that takes spaces": {"mask_token": AddedToken("[MASK]", lstrip=True)},
    "a new one that does": {
        "change": lambda tokenizer: tokenizer.add_special_tokens({"mask_token": AddedToken("<mask>", rstrip=True)})
    },
    "a name that is there": {"change": lambda tokenizer: setattr(tokenizer, "cls_token", "[BOS]")},
    "more special ones": {
        "change": lambda tokenizer: tokenizer.add_special_tokens({"additional_special_tokens": ["<x>"]})
    },
    "more from the start": {"extra_special_tokens": ["<x>", "<y>"]},
    "special, but of no kind": {"change": lambda tokenizer: tokenizer.add_tokens(["<x>"], special_tokens=True)},
    "one with a name": {"extra_special_tokens": {"image_token": "<x>"}},
    "in an order of its own": {
        "mask_token": "<m>",
        "change": lambda tokenizer: (
            tokenizer.add_tokens(["<y>", AddedToken("<z>", single_word=True, normalized=False)]),
            tokenizer.add_special_tokens({"sep_token": "<end>", "additional_special_tokens": ["<x>"]}),
        ),
    },
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_special_tokens_of_a_tokenizer_among_others_come_back(several, name, tmp_path):
    """Their ids, and what they do to spaces around them, also when saved and loaded twice."""
    settings = dict(TOKENIZERS[name])
    change = settings.pop("change", lambda tokenizer: None)
    tokenizer = PerceiverStudyTokenizer(**settings)
    change(tokenizer)
    processor = package.PerceiverStudyProcessor({**several.modalities, "text": tokenizer})
    texts = ["a <mask> b", "a [MASK] <m> [CLS]", " <x> <y> <z>c <z> <end> [SEP][BOS]"]
    ids = [tokenizer(text)["input_ids"] for text in texts]
    for _ in range(2):
        processor.save_pretrained(tmp_path)
        processor = package.PerceiverStudyProcessor.from_pretrained(tmp_path)
        loaded = processor.modalities["text"]
        assert [loaded(text)["input_ids"] for text in texts] == loaded(texts)["input_ids"] == ids
        for skip in (False, True):
            found = loaded.batch_decode(ids, skip_special_tokens=skip)
            assert found == tokenizer.batch_decode(ids, skip_special_tokens=skip)
        assert loaded.added_tokens_decoder == tokenizer.added_tokens_decoder
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        assert loaded.all_special_ids == tokenizer.all_special_ids and len(loaded) == len(tokenizer)


def test_added_tokens_as_files_had_them_before(several):
    fields = {"content": "<new>", "single_word": False, "lstrip": False, "rstrip": False}
    added = [{**fields, "normalized": True, "special": False}, {**fields, "content": "<s>", "normalized": False}]
    added[1]["special"] = True
    settings = {"processor": "PerceiverStudyTokenizer", "mask_token": "[MASK]", "added_tokens": added}
    tokenizer = package.PerceiverStudyProcessor({"text": settings}).modalities["text"]
    assert tokenizer(["<new>a<s>"])["input_ids"] == [[4, 262, 103, 263, 5]]


def test_masks_whatever_a_processor_makes_by_itself(several):
    """The padding of a batch is hidden also where the extractor is set to make no mask."""
    sound = PerceiverStudyFeatureExtractor(return_attention_mask=False)
    recordings = [{"sound": np.ones(length, np.float32)} for length in (50, 20)]
    found = package.PerceiverStudyProcessor({"sound": sound})(recordings)
    assert found["sound_attention_mask"].sum(dim=1).tolist() == [50, 20]
    pictures = package.PerceiverStudyProcessor({"image": PerceiverStudyImageProcessor()})
    picture = {"image": Image.new("RGB", (32, 32))}
    assert set(pictures(picture, image={"do_fourier_encode": True})) == set(pictures(picture))


def test_two_modalities_of_one_input_name(tmp_path):
    """Pictures beside clips, which are both `pixel_values` by themselves: one would replace the other."""
    image, video = PerceiverStudyImageProcessor(size=8), PerceiverStudyVideoProcessor(size=8, num_frames=6)
    with pytest.raises(ValueError, match="image and video are both pixel_values to a model: give input_names"):
        package.PerceiverStudyProcessor({"image": image, "video": video})
    with pytest.raises(ValueError, match="input_names has 'sound': expected some of image, video"):
        package.PerceiverStudyProcessor({"image": image, "video": video}, {"sound": "waves"})
    processor = package.PerceiverStudyProcessor({"image": image, "video": video}, {"image": "picture"})
    processor.save_pretrained(tmp_path)
    loaded = package.PerceiverStudyProcessor.from_pretrained(tmp_path)
    samples = [{"image": Image.new("RGB", (8, 8), "red"), "video": random_clip()}, {"video": random_clip(seed=1)}]
    found, again = processor(samples), loaded(samples)
    assert sorted(found) == ["image_attention_mask", "picture", "pixel_values", "video_attention_mask"]
    assert sorted(found) == sorted(loaded.model_input_names)
    fields = {"image": {"image_size": 8, "num_frequency_bands": 2, "input_name": "picture"}, "video": VIDEO}
    config = PerceiverStudyConfig(modalities=fields, num_labels=3, **SMALL)
    model = package.PerceiverStudyForMultimodalClassification(config).eval()
    torch.testing.assert_close(model(**again).logits, model(**found).logits)


ONE_OF_EACH = {
    "image": [Image.new("RGB", (8, 8), "red"), random_clip()[0]],
    "points": [np.eye(3), np.tri(3).tolist()],
    "sound": [np.linspace(-1, 1, 30), np.linspace(1, 0, 30).tolist(), np.ones((2, 30))],
    "text": ["a", "bc"],
    "video": [random_clip(), list(random_clip()), random_clip()[..., 0].tolist(), [Image.new("L", (8, 8))] * 3],
}


@pytest.fixture(scope="module")
def all_kinds():
    return package.PerceiverStudyProcessor(
        {
            "image": PerceiverStudyImageProcessor(size={"height": 8, "width": 8}),
            "points": package.PerceiverStudyPointCloudProcessor(),
            "sound": PerceiverStudyFeatureExtractor(sampling_rate=1000),
            "text": PerceiverStudyTokenizer(),
            "video": PerceiverStudyVideoProcessor(size={"height": 8, "width": 8}),
        },
        input_names={"image": "picture"},
    )


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_dict_of_lists_is_not_several_samples(all_kinds, name):
    """Two recordings are not one in stereo, two clips no longer one, a second picture not that of the next sample."""
    ones = ONE_OF_EACH[name]
    several = [[one, other] for one in ones for other in ones] + [[ones[0]] * 3, tuple(ones)]
    if hasattr(ones[0], "shape"):
        several.append(np.stack([ones[0], ones[0]]) if name != "sound" else np.ones((2, 2, 30)))
    for value in several:
        for samples, row in (
            ({name: value}, 0),
            ([{name: ones[0]}, {name: value}], 1),
            ([{name: value}, {name: []}], 0),
        ):
            with pytest.raises(
                ValueError, match=rf"Sample {row} has a list of \d for '{name}': .* a list of dicts, \[{{"
            ):
                all_kinds(samples)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_what_may_be_a_list_in_one_sample(all_kinds, name):
    """And gives each sample of a list what it has alone."""
    samples = [{name: one} for one in ONE_OF_EACH[name]]
    together = all_kinds(samples, return_tensors="np")
    for row, sample in enumerate(samples):
        for argument, values in all_kinds(sample, return_tensors="np").items():
            assert len(values) == 1 and len(together[argument]) == len(samples)
            whole = together[argument][row][tuple(slice(size) for size in values.shape[1:])]
            np.testing.assert_allclose(whole, values[0], atol=1e-6)


def test_a_list_for_each_channel():
    stereo = package.PerceiverStudyProcessor({"sound": PerceiverStudyFeatureExtractor(2, sampling_rate=1000)})
    waves = np.stack([np.linspace(-1, 1, 30), np.linspace(1, 0, 30)])
    expected = stereo({"sound": waves})["input_values"]
    for given in (list(waves), waves.tolist()):
        torch.testing.assert_close(stereo({"sound": given})["input_values"], expected)
    with pytest.raises(ValueError, match="a list of 3 for 'sound'"):
        stereo({"sound": [waves[0]] * 3})


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("width", [1, 3, 4, 8])
def test_a_grey_picture_alone_is_the_same_as_one_of_two(width, channels):
    """However narrow: a width of 3 is not a number of channels."""
    colours = {"num_channels": channels, "image_mean": [0.5] * channels, "image_std": [0.5] * channels}
    processor = package.PerceiverStudyProcessor(
        {"image": PerceiverStudyImageProcessor(do_resize=False, do_center_crop=False, **colours)}
    )
    picture = np.arange(8 * width, dtype=np.uint8).reshape(8, width)
    alone, both = (processor([{"image": picture}] * count)["pixel_values"] for count in (1, 2))
    assert alone.shape == (1, channels, 8, width) and alone[0].equal(both[0])
