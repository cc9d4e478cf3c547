"""What only sound has: shapes that the feature extractor decides, windows of long recordings, what is refused."""

import json

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator

import predict
import train
from lab.errors import UserError
from lab.judging import predictions
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.tasks.audio_classification import Windows
from modeling_perceiver_study import PerceiverStudyForAudioClassification
from modeling_perceiver_study.audio_reading import read_audio
from tests.small_data import fresh_accelerate
from tests.task_kinds import KINDS, make_sound

WAVEFORMS, SPECTROGRAMS = KINDS["waveforms"].recipe, KINDS["spectrograms"].recipe


def task_of(*overrides, recipe=WAVEFORMS):
    return build_task(load_recipe(None, ["data.name=sound", *recipe, *overrides]))


def test_the_model_follows_the_feature_extractor():
    assert task_of().config.grid == [160] and task_of().config.attended_grid == [20]
    config = task_of("feature_extractor.feature_size=3", recipe=SPECTROGRAMS).config
    assert config.grid == [11, 8] and config.attended_grid == [6, 2] and config.num_channels == 3
    with pytest.raises(UserError, match=r"model.image_size=7: feature_extractor makes it 160"):
        task_of("model.image_size=7")


@pytest.mark.parametrize(("stretch_to", "longest"), [(None, 160), (64, 64)])
def test_cost_is_that_of_the_longest_sample(stretch_to, longest):
    task = task_of(f"feature_extractor.stretch_to={'null' if stretch_to is None else stretch_to}")
    arguments, _ = task.example(2, "cpu")
    assert arguments["input_values"].shape[-1] == longest and arguments["attention_mask"].shape == (2, longest)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["feature_extractor.max_length=null"], r"feature_extractor.max_length: say how many samples"),
        (["feature_extractor.rate=3"], r"unknown key 'feature_extractor.rate'"),
        (["feature_extractor.normalize=all"], r"section feature_extractor: normalize='all'"),
        (["image_processor.size=3"], r"section image_processor: task=audio-classification has feature_extractor"),
        (["augmentation.speed=[1.2,0.8]"], r"augmentation.speed=\[1.2, 0.8\]: expected null, or two numbers above 0"),
        (["augmentation.speed=[0,1]"], r"two numbers above 0"),
        (["augmentation.noise=[3]"], r"augmentation.noise=\[3.0\]: expected null, or two numbers, the lower first"),
        (["augmentation.vocal_tract=[0.9,1.1]"], r"are for feature_extractor.feature_type=log-mel"),
        (["augmentation.equalizer=3"], r"are for feature_extractor.feature_type=log-mel"),
        (["augmentation.time_mask=2"], r"augmentation.time_mask=2"),
    ],
)
def test_what_is_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        task_of(*overrides)


def test_windows_of_long_recordings():
    """Of 3 recordings of which one makes four windows: the mean of their answers, by their shares of the power."""
    task = task_of()
    lengths = torch.tensor([100, 400, 160])
    values = torch.randn(3, 400, 1) * (torch.arange(400)[:, None] < lengths[:, None, None])
    values[1, 250:] *= 0.3
    arguments, targets = task.inputs({"values": values, "lengths": lengths, "labels": torch.tensor([0, 1, 2])})
    assert isinstance(targets, Windows) and targets.owners.tolist() == [0, 1, 1, 1, 1, 2]
    assert arguments["attention_mask"].sum(dim=1).tolist() == [100, 160, 160, 160, 160, 160]
    power = torch.stack([values[1, start : start + 160, 0].var(correction=0) for start in (0, 80, 160, 240)])
    torch.testing.assert_close(targets.shares, torch.tensor([1, *power / power.sum(), 1]))
    model = task.build_model().eval()
    logits = model(**arguments).logits
    judged = task.judge([model(**arguments)], targets)
    expected = torch.stack([logits[0], targets.shares[1:5] @ logits[1:5], logits[5]])
    torch.testing.assert_close(judged["logits"], task.target.mean([expected]))
    assert judged["labels"].tolist() == [0, 1, 2]
    loss = torch.nn.functional.cross_entropy(expected, judged["labels"], label_smoothing=0.0)
    torch.testing.assert_close(task.loss(model(**arguments), targets), loss)


def test_windows_of_long_recordings_come_to_the_model_a_batch_at_a_time():
    task, seen = task_of(), []
    model = task.build_model().eval()
    rows = [{"values": torch.randn(700, 1), "lengths": torch.tensor(700), "labels": torch.tensor(0)} for _ in range(3)]
    loader = torch.utils.data.DataLoader(rows, batch_size=3)
    arguments, targets = task.inputs(next(iter(loader)))
    with torch.no_grad():
        expected = task.judge([model(**arguments)], targets)
    assert len(arguments["input_values"]) == 24
    model.register_forward_pre_hook(lambda module, _, given: seen.append(len(given["input_values"])), with_kwargs=True)
    fresh_accelerate()
    (found,) = predictions.predict(Accelerator(cpu=True), task, model, loader)
    assert seen == [3] * 8
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name], tensor, rtol=1e-5, atol=1e-6)


def test_the_card_of_series_speaks_of_sensors():
    task = task_of("feature_extractor.do_rescale=false", "feature_extractor.feature_size=2")
    task.config.id2label = {0: "still", 1: "moving", 2: "falling"}
    judged = {"logits": torch.randn(3, 3), "labels": torch.tensor([0, 1, 2])}
    card, heard = task.card(judged), task_of().card(judged)
    assert "series of up to 160 numbers, of 2 channels" in card["purpose"] and "Other sensors" in card["limits"]
    assert "time-series" in card["tags"] and "series.csv" in card["usage"][0]
    assert card["elements"] == "patches of moments"
    task.config.patch_size = None
    assert task.card(judged)["elements"] == "single moments" and task.samples == "series"
    assert "recordings of up to" in heard["purpose"] and "microphones" in heard["limits"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    (folder / "plain.yaml").write_text("seed: 0\n")
    return make_sound(folder / "data")


def run(data, output, *overrides, recipe=SPECTROGRAMS):
    fresh_accelerate()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", data.parent / "cache")
        config = f"--config={data.parent / 'plain.yaml'}"
        train.main([config, *recipe, "logging.log_with=null", f"data.path={data}", f"output_dir={output}", *overrides])
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.slow
def test_a_speaker_is_left_out(data, tmp_path):
    results = run(data, tmp_path / "run", "data.hold_out={speaker: b}", "data.validate_on={speaker: c}")
    counts = {name: results[f"{name}_samples"] for name in ("train", "validation", "test")}
    assert sum(counts.values()) == 81 and counts["test"] == 20 and counts["validation"] == 20


@pytest.mark.slow
def test_shards_are_streamed(data, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    rows = datasets.load_dataset("parquet", data_files=str(data / "train.parquet"), split="train")
    for index in range(4):
        rows.shard(4, index).to_parquet(folder / f"train-{index:05d}.parquet")
    rows.select(range(9)).to_parquet(folder / "test-00000.parquet")
    streamed = ["data.streaming=true", "data.train_samples=40", f"data.path={folder}", "optimization.epochs=1"]
    results = run(data, tmp_path / "run", *streamed)
    assert results["steps"] == 5 and np.isfinite(results["test_loss"])


@pytest.mark.slow
def test_fine_tuning_takes_over_what_the_extractor_was(data, tmp_path, capsys):
    run(data, tmp_path / "first")
    other = [name for name in SPECTROGRAMS if not name.startswith(("feature_extractor.", "model."))]
    run(data, tmp_path / "second", f"pretrained={tmp_path / 'first'}", "feature_extractor.max_length=96", recipe=other)
    model = PerceiverStudyForAudioClassification.from_pretrained(tmp_path / "second")
    assert model.config.grid == [7, 8] and model.config.patch_size == [2, 4]
    assert "starting from" in capsys.readouterr().out


@pytest.mark.parametrize("rescaled", [False, True])
def test_examples_of_a_card(rescaled, tmp_path):
    """Numbers of sensors stay what they are; recordings are in [-1, 1]."""
    task = task_of(f"feature_extractor.do_rescale={rescaled}")
    series = np.array([-250.0, 0.125, 3.5], dtype=np.float32)
    name = task.write_example(tmp_path, "one", series)
    found = read_audio(tmp_path / name, task.processor.sampling_rate, 1, do_rescale=rescaled)[0]
    np.testing.assert_allclose(found, series.clip(-1, 1) if rescaled else series, atol=1e-4 if rescaled else 0)


@pytest.mark.slow
def test_numbers_of_sensors(tmp_path, capsys):
    """How far two sensors swing, in units that differ a thousandfold, from series that are mixed and masked."""
    rng = np.random.default_rng(0)
    for split, count in {"train": 120, "test": 24}.items():
        swings = rng.uniform([0.5, 500], [2, 2000], size=(count, 2))
        series = [np.sin(np.arange(rng.integers(40, 100)) + rng.uniform(0, 6)) for _ in range(count)]
        rows = {
            "series": [(one * swing[:, None]).tolist() for one, swing in zip(series, swings, strict=True)],
            "volts": swings[:, 0],
            "pascals": swings[:, 1],
        }
        (tmp_path / "data").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "data" / f"{split}.parquet")
    (tmp_path / "plain.yaml").write_text("seed: 0\n")
    settings = [
        "feature_extractor.feature_size=2",
        "feature_extractor.do_rescale=false",
        "feature_extractor.normalize=training",
        "feature_extractor.mean=[0,0]",
        "feature_extractor.std=[1,1000]",
        "feature_extractor.max_length=100",
        "model.problem_type=regression",
        "model.num_labels=2",
        "model.d_latents=32",
        "data.columns={audio: series, label: [volts,pascals]}",
        "data.validation_samples=20",
        "augmentation.mixup_alpha=0.3",
        "augmentation.time_masks=1",
        "optimization.epochs=12",
        "optimization.learning_rate=0.01",
    ]
    results = run(tmp_path / "data", tmp_path / "run", *settings, recipe=KINDS["series"].recipe)
    assert results["test_r2"] > 0.5
    np.savetxt(tmp_path / "one.csv", np.outer(np.sin(np.arange(80)), [1.25, 1250]), delimiter=",")
    capsys.readouterr()
    predict.main([str(tmp_path / "run"), str(tmp_path / "one.csv")])
    told = dict(line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert list(told) == ["volts", "pascals"], "in the order of the model, whichever is larger"
    assert float(told["volts"]) == pytest.approx(1.25, abs=0.75)
    assert float(told["pascals"]) == pytest.approx(1250, abs=750)
