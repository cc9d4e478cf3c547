"""What the pipelines of all kinds have in common."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from modeling_perceiver_study import PerceiverStudyModel
from tests.clips import encoded_clip, random_clip
from tests.pipelines import CLASSIFIERS, PIPELINES, SAMPLES, model_for, pipeline_of

# What is given at construction, and at a call


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_what_a_pipeline_is_made_with_holds_for_each_call(kind):
    sample = SAMPLES[kind][0]
    every = pipeline_of(kind)(sample, top_k=None)
    raw = pipeline_of(kind)(sample, top_k=None, function_to_apply="none")
    assert len(every) == len(raw) == 8 and every[0]["score"] != raw[0]["score"]
    made = pipeline_of(kind, top_k=2, function_to_apply="none")
    assert made(sample) == raw[:2]
    assert made(sample, top_k=3) == raw[:3]
    assert made(sample, top_k=None) == raw
    assert made(sample, function_to_apply="softmax") == made(sample, function_to_apply=None) == every[:2]
    assert made(sample, function_to_apply="SOFTMAX") == every[:2]
    assert made(sample) == raw[:2]
    assert pipeline_of(kind, top_k=None)(sample) == every
    assert len(pipeline_of(kind)(sample)) == (8 if kind == "sound" else 5)


@pytest.mark.parametrize("kind", CLASSIFIERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k=0: expected None or a whole number of at least 1"),
        ({"top_k": 2.0}, "top_k=2.0: expected None"),
        ({"top_k": True}, "top_k=True: expected None"),
        ({"function_to_apply": "tanh"}, "function_to_apply='tanh': expected one of 'softmax', 'sigmoid', 'none'"),
        ({"topk": 2}, "topk: expected top_k, function_to_apply"),
    ],
)
def test_what_is_no_setting(kind, options, message):
    with pytest.raises(ValueError, match=message):
        pipeline_of(kind, **options)
    with pytest.raises(ValueError, match=message):
        pipeline_of(kind)(SAMPLES[kind][0], **options)


def test_frames_that_a_pipeline_is_made_with():
    clip = SAMPLES["video"][0]
    made = pipeline_of("video", num_frames=2)
    assert made(clip) == made(clip, num_frames=None) == pipeline_of("video")(clip, num_frames=2)
    assert made(clip) != pipeline_of("video")(clip)


# Scores


@pytest.mark.parametrize("problem", [None, "multi_label_classification", "regression"])
@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_single_class(kind, problem):
    """Whose softmax would be 1, whatever the sample is."""
    classify = pipeline_of(kind, model_for(kind, num_labels=1, problem_type=problem))
    for sample in SAMPLES[kind]:
        (raw,), (found,) = classify(sample, function_to_apply="none"), classify(sample)
        expected = raw["score"] if problem == "regression" else 1 / (1 + math.exp(-raw["score"]))
        assert found["score"] == pytest.approx(expected, abs=1e-6) and abs(raw["score"]) > 1e-3


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_several_tasks(kind):
    """A softmax over the classes of all tasks would make less of each, the more tasks there are."""
    model = model_for(kind, decoder_type="query", tasks={"size": 2, "colour": 3})
    for several in (False, True):
        with pytest.raises(ValueError, match=r"several tasks, colour, size, .* make it of model.for_task\('colour'\)"):
            pipeline_of(kind, model)(SAMPLES[kind] if several else SAMPLES[kind][0])
    answers = pipeline_of(kind, model.for_task("size"))(SAMPLES[kind][0])
    assert sum(answer["score"] for answer in answers) == pytest.approx(1) and len(answers) == 2


# Items that are several samples


def nested(kind: str) -> list:
    """Lists of several samples, of which each is an item; and arrays of such."""
    one, two = SAMPLES[kind]
    items = [[one, two], (one, two), [two, one, two]]
    if kind in ("sound", "points", "video"):
        items.append([one.tolist(), two.tolist()])
    if kind not in ("several", "sound"):  # an array of recordings is one with channels
        items.append(np.stack([one, two]))
    if kind == "video":
        items += [[list(one), list(two)], [[Image.fromarray(frame[..., 0]) for frame in one]] * 2]
        items += [[one[..., 0], two[..., 0]], [one[0], two]]
    if kind == "image":
        items += [[Image.fromarray(one), Image.fromarray(two)], [[one], [two]]]
    return items


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("kind", PIPELINES)
def test_items_that_are_several_samples(kind, batch_size):
    """Not one answer to the first of them, or to all together."""
    answer, one = pipeline_of(kind), SAMPLES[kind][0]
    for item in nested(kind):
        for inputs in ([item], [item, one], [one, item], (item for _ in range(1))):
            with pytest.raises(ValueError, match=r"holds \d samples: expected one|A frame has shape"):
                list(answer(inputs, batch_size=batch_size))


@pytest.mark.parametrize("kind", PIPELINES)
def test_an_item_that_is_a_list_of_one_sample(kind):
    answer, (one, two) = pipeline_of(kind), SAMPLES[kind]
    assert answer([[one], [two]]) == answer([one, two])


@pytest.mark.parametrize("kind", ["image", "latents"])
def test_pictures_by_the_name_of_transformers(kind):
    answer, pictures = pipeline_of(kind), SAMPLES[kind]
    assert answer(images=np.stack(pictures)) == answer(images=pictures) == answer(pictures)
    assert answer(inputs=np.stack(pictures)) == answer(pictures)


# Heads that transformers has no Auto class for


@pytest.fixture(params=["points", "several"])
def head(request):
    return request.param


def test_a_bare_model_made_from_a_config(head):
    bare = model_for(head).perceiver
    bare.name_or_path = ""
    message = rf"bare PerceiverStudyModel: it has no classifier, .* no folder .* Expected a .*{PIPELINES[head][1]}"
    with pytest.raises(ValueError, match=message):
        pipeline_of(head, bare)


def test_a_folder_of_a_bare_model(head, tmp_path):
    """Rather than answers of a classifier of random weights."""
    model_for(head).perceiver.save_pretrained(tmp_path)
    bare = PerceiverStudyModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a model without classifier.bias, classifier.weight"):
        pipeline_of(head, bare)


def test_a_bare_model_gets_the_rest_of_its_classifier(head, tmp_path):
    model_for(head).save_pretrained(tmp_path)
    bare = PerceiverStudyModel.from_pretrained(tmp_path)
    found = pipeline_of(head, bare)
    assert found.model.perceiver is bare
    for made, expected in zip(found(SAMPLES[head]), pipeline_of(head)(SAMPLES[head]), strict=True):
        assert [one["label"] for one in made] == [one["label"] for one in expected]
        # Weights lie at other addresses, with which some processors round products otherwise.
        scores = [[one["score"] for one in answers] for answers in (made, expected)]
        np.testing.assert_allclose(*scores, rtol=1e-4)


def test_a_bare_model_of_a_subfolder_gets_its_classifier(head, tmp_path):
    model_for(head).save_pretrained(tmp_path / "inner")
    bare = PerceiverStudyModel.from_pretrained(tmp_path, subfolder="inner")
    assert pipeline_of(head, bare).model.perceiver is bare


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_what_transformers_leaves_in_the_arguments(kind):
    assert pipeline_of(kind, local_files_only=True)(SAMPLES[kind]) == pipeline_of(kind)(SAMPLES[kind])


@pytest.mark.parametrize("form", [bytes, bytearray, memoryview, io.BytesIO])
@pytest.mark.parametrize("kind", ["image", "sound", "points", "video"])
def test_forms_of_bytes(kind, form):
    """The same of files of all kinds, alone and in a list."""
    content = encoded_clip(random_clip())
    if kind != "video":
        file = io.BytesIO()
        if kind == "image":
            Image.fromarray(SAMPLES[kind][1]).save(file, "png")
        else:
            np.save(file, SAMPLES[kind][1])
        content = file.getvalue()
    answer = pipeline_of(kind)
    expected = answer(content if kind == "video" else SAMPLES[kind][1])
    assert answer(form(content)) == answer([form(content)])[0] == expected
