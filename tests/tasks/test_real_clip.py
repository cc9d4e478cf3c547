"""A real video with sound through the whole chain: files, processor, model, maps over frames and over the sound."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

import attention_maps
from lab.looking.maps import draw_attention_maps
from lab.looking.multimodal_view import MultimodalView
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyFeatureExtractor,
    PerceiverStudyForMultimodalClassification,
    PerceiverStudyProcessor,
    PerceiverStudyVideoProcessor,
)
from tests.clips import encoded_clip, random_clip, real_clip
from tests.paths import ROOT

pytestmark = pytest.mark.slow

RATE, FRAMES = 16000, 16


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    video = {"num_axes": 3, "channel_axis": 2, "image_size": [FRAMES, 36, 64], "patch_size": [2, 6, 8]}
    sound = {"input_name": "input_values", "num_axes": 1, "num_channels": 1, "image_size": 20480, "patch_size": 128}
    modalities = {
        "sound": sound | {"num_frequency_bands": 16},
        "video": video | {"num_frequency_bands": 8, "absolute_positions": True},
    }
    config = PerceiverStudyConfig(
        modalities=modalities, num_latents=12, d_latents=32, num_labels=5, initializer_range=0.3
    )
    return PerceiverStudyForMultimodalClassification(config).eval()


@pytest.fixture(scope="module")
def processor():
    video = PerceiverStudyVideoProcessor(size={"height": 36, "width": 64}, num_frames=FRAMES, fps=12.5)
    sound = PerceiverStudyFeatureExtractor(sampling_rate=RATE, max_length=20480)
    return PerceiverStudyProcessor({"video": video, "sound": sound})


def test_sound_and_frames_of_a_file(processor, model):
    """A tone and frames that are known, of a file that holds both."""
    tone = np.sin(np.arange(12000) / 8000 * 2 * np.pi * 440).astype(np.float32)
    content = encoded_clip(random_clip(15, 36, 64), rate=10, sound=tone)
    batch = processor(content)
    heard = batch["input_values"][0, : int(batch["sound_attention_mask"].sum())]
    assert len(heard) == 20480  # 1.5 s at 8 kHz, of which 1.28 s at 16 kHz are kept
    assert int(torch.fft.rfft(heard).abs().argmax()) == round(440 * 1.28)
    assert batch["pixel_values"].shape[:2] == (1, FRAMES)
    exact = copy.deepcopy(model).double()
    batch = batch.to(torch.float64)  # of what are floats
    alone = exact(input_values=batch["input_values"]).logits
    frames_hidden = {**batch, "video_attention_mask": torch.zeros_like(batch["video_attention_mask"])}
    torch.testing.assert_close(exact(**frames_hidden).logits, alone, rtol=0, atol=1e-10)


def test_a_real_clip(processor, model, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(real_clip())
    batch = processor(str(path))
    assert batch["pixel_values"].std() > 0.1 and batch["input_values"].std() == pytest.approx(1, abs=0.01)
    logits = model(**batch).logits
    sample = MultimodalView.read(path, processor)
    torch.testing.assert_close(model(**processor(sample)).logits, logits, rtol=0, atol=1e-3)
    figure = draw_attention_maps(model, processor, sample, latents=[1, 12])
    figure.savefig(tmp_path / "maps.png", dpi=60)
    assert (tmp_path / "maps.png").stat().st_size > 5000
    view = MultimodalView.of(processor, model.config, sample)
    weights = model(**batch, output_attentions=True).cross_attentions[0][0].mean(dim=(0, 1))
    assert len(weights) == view.count and view.overlay(weights.detach().numpy()).width > 300


def test_the_picture_of_the_docs(tmp_path):
    """The command of docs/modalities/video.md, of a clip before training."""
    (tmp_path / "bigbuckbunny.mp4").write_bytes(real_clip())
    recipe = ROOT / "docs" / "modalities" / "video" / "clip.yaml"
    options = ["--heads", "1", "2", "--latents", "1", "10", "20", "30", "-o", str(tmp_path / "maps.png")]
    attention_maps.main([str(recipe), str(tmp_path / "bigbuckbunny.mp4"), *options])
    with Image.open(tmp_path / "maps.png") as drawn, Image.open(recipe.with_name("attention.png")) as shown:
        assert drawn.size == shown.size
        difference = np.asarray(drawn.convert("RGB"), int) - np.asarray(shown.convert("RGB"), int)
    assert np.abs(difference).mean() < 5


def test_the_pipeline_takes_the_file(processor, model, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(real_clip())
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    classify = pipeline("multimodal-classification", model=str(tmp_path / "model"), trust_remote_code=True)
    best = classify(str(tmp_path / "clip.mp4"), top_k=1)[0]
    with torch.no_grad():
        logits = model(**processor(str(tmp_path / "clip.mp4"))).logits[0]
    assert best["label"] == model.config.id2label[int(logits.argmax())]
    assert best["score"] == pytest.approx(float(logits.softmax(dim=-1).max()), abs=1e-5)
