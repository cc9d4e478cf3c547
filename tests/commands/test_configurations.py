import pytest

from configurations import count_parameters, not_run, pages, presets, read_header
from lab.recipe import CONFIGURATION_FOLDER, load_recipe
from lab.tasks import build_task
from tests.paths import ROOT

PARAMETERS = {
    "audioset": 48_668_451,
    "avletters-both": 319_760,
    "avletters-sound": 293_102,
    "avletters-video": 318_182,
    "cifar10-long": 6_817_694,
    "cifar10-study": 3_872_148,
    "cifar10-longer": 5_451_668,
    "digits": 239_408,
    "digits-finetune": 5_451_668,
    "fsdd": 786_930,
    "fsdd-known": 898_834,
    "imagenet-8gpus": 44_912_254,
    "imagenet-fourier": 44_912_254,  # the paper's table 7 says 44.9 M
    "modelnet10": 989_782,
    "sst2": 2_515_842,
    "sst2-masked": 2_586_758,
    "study-digits": 95_856,
    "texts-at-once": 2_672_201,
    "time-series": 124_118,
    "tinyshakespeare": 2_578_566,
    "udhr": 2_047_559,
}


ALL = [*presets(), *not_run()]


def test_every_preset_is_pinned():
    assert sorted(preset.stem for preset in ALL) == sorted(PARAMETERS)


def test_what_was_not_run_stands_apart():
    """A recipe has a score if and only if it lies beside the results; each folder has some."""
    for preset in ALL:
        header = read_header(preset)
        assert header["Score"].startswith("not run") == header["Time"].startswith("not run") == (preset in not_run())
        assert any(digit.isdigit() for digit in header["Score"]) == (preset in presets())
    assert presets() and not_run()


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.stem)
def test_parameter_count(preset):
    assert count_parameters(preset) == PARAMETERS[preset.stem]


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.stem)
def test_preset_is_whole(preset):
    recipe = load_recipe(preset)
    config = build_task(recipe).config
    processor = build_task(recipe).processor
    assert recipe.output_dir == f"output/{preset.stem}"
    if recipe.task == "image-classification":
        assert len(processor.image_mean) == len(processor.image_std) == config.num_channels
    processes = " --num_processes 8" if preset.stem == "imagenet-8gpus" else ""
    expected = f"accelerate launch{processes} scripts/train.py"
    if preset.stem != "digits":
        expected += f" --config {preset.relative_to(ROOT)}"
    assert read_header(preset)["Command"] == expected


def test_a_header_without_a_score_is_noticed(tmp_path):
    preset = tmp_path / "new.yaml"
    preset.write_text("# New.\n#\n# Paper: none\n# Command: none\n# Time: none\n")
    with pytest.raises(ValueError, match=r"new\.yaml lacks Score"):
        read_header(preset)


def test_tables_are_fresh():
    for path, text in pages().items():
        assert path.read_text() == text, "run: python scripts/configurations.py"


def test_the_streamed_recipe_trains_the_same_model():
    streamed, whole = (
        load_recipe(CONFIGURATION_FOLDER / "not-run" / name)
        for name in ("imagenet-8gpus.yaml", "imagenet-fourier.yaml")
    )
    whole.optimization.gradient_accumulation_steps = streamed.optimization.gradient_accumulation_steps
    for section in ("model", "image_processor", "augmentation", "optimization"):
        assert getattr(streamed, section) == getattr(whole, section)
