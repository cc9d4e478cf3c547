"""Model cards: what they say of a run, and what is refused."""

import json
import re
import shutil

import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from lab.augment.images import describe_augmentation
from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.release import staging
from lab.release.card import check_card, energy, render_card
from lab.tasks import build_task
from tests.small_data import CLASSES, TINY_RUN

# The client's own, for what it gives to its HTTP library.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")]


def test_the_card(staged, run):
    card = ModelCard((staged / "README.md").read_text())
    data = card.data.to_dict()
    metrics = json.loads((run / "metrics.json").read_text())
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    (accuracy,) = (result for result in card.data.eval_results if result.metric_type == "accuracy")
    assert accuracy.metric_value == metrics["test_accuracy"]
    assert "datasets" not in data  # a local folder is not a dataset of the Hub
    assert {entry["src"] for entry in data["widget"]} == {f"examples/{number}.png" for number in range(3)}
    assert {entry["example_title"] for entry in data["widget"]} <= set(CLASSES)
    assert f"| test accuracy | {100 * metrics['test_accuracy']:.2f} % |" in card.text
    assert metrics["hardware"] in card.text and "One seed (seed 0)" in card.text
    for link in re.findall(r"\]\(([a-z][\w/.]*)\)", card.text):
        assert (staged / link).is_file(), link


def test_the_card_names_what_happens_to_images():
    def text(*augmentation):
        recipe = load_recipe(DEFAULT_RECIPE, [f"augmentation.{each}" for each in augmentation])
        return describe_augmentation(build_task(recipe).augmentation)

    assert text("crop_padding=0") == ""
    found = text("crop_padding=2", "trivial_augment=true", "random_erasing=0.1", "mixup_alpha=0.2", "cutmix_alpha=1.0")
    assert found == (
        "; random crops of images padded by 2, TrivialAugment, random erasing (0.1), mixup (0.2), CutMix (1.0)"
    )
    assert text("crop_padding=0", "trivial_augment=0.5") == "; TrivialAugment of 50 % of the images"


def test_several_seeds(run, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    metrics = json.loads((run / "metrics.json").read_text())
    for name in ("test_accuracy", "validation_accuracy"):
        metrics[name] -= 0.02
    (other / "metrics.json").write_text(json.dumps({**metrics, "seed": 1}))
    (other / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace("\nseed: 0\n", "\nseed: 1\n"))
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    with staging.stage(run, "org/tiny", seeds=[other]) as folder:
        text = (folder / "README.md").read_text()
    assert f" | {100 * metrics['test_accuracy'] + 1:.2f} ± 1.41 % |" in text and "2 seeds (seed 0, 1)" in text
    with (
        pytest.raises(UserError, match="--seeds: the runs have seeds 0, 1, 1; give each once"),
        staging.stage(run, "org/tiny", seeds=[other, other]),
    ):
        pass
    with pytest.raises(
        UserError, match=r"--seeds .*tiny: expected a run that differs in its seed alone, not in nothing"
    ):
        staging.read_other_seed(run, run)


@pytest.mark.parametrize(
    ("name", "revision", "told"),
    [
        ("org/base", "c0ffee", "[org/base](https://huggingface.co/org/base/tree/c0ffee)"),
        ("/home/me/secret-place/base", None, "a local checkpoint, base"),
    ],
)
def test_what_was_fine_tuned_says_so(run, tmp_path, monkeypatch, name, revision, told):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    copy = shutil.copytree(run, tmp_path / "copy")
    origin = {"name": name, "revision": revision, "made_anew": ["classifier.bias"], "resampled": []}
    metrics = json.loads((copy / "metrics.json").read_text()) | {"pretrained": origin}
    (copy / "metrics.json").write_text(json.dumps(metrics))
    recipe = (copy / "recipe.yaml").read_text().replace("\npretrained: null\n", f"\npretrained: {name}\n")
    recipe = recipe.replace("\n  freeze: []\n", "\n  freeze: [perceiver.*]\n")
    (copy / "recipe.yaml").write_text(recipe)
    with staging.stage(copy, "org/tiny") as folder:
        text = (folder / "README.md").read_text()
        published = load_recipe(folder / "recipe.yaml")
        found = json.loads((folder / "metrics.json").read_text())["pretrained"]
    assert f"It was fine-tuned from {told}; made anew: classifier.bias. Frozen: perceiver.*.\n" in text
    header = ModelCard(text).data.to_dict()
    assert header["co2_eq_emissions"]["training_type"] == "fine-tuning"
    assert header.get("base_model") == (name if revision else None)
    assert published.pretrained == found["name"] == (name if revision else "base")
    assert "secret-place" not in text and "local_start" not in text
    command = "train.py --config recipe.yaml data.path=FOLDER"
    assert f"{command}{'' if revision else ' pretrained=FOLDER'}\n" in text


def test_what_was_trained_from_scratch_says_so(staged):
    text = (staged / "README.md").read_text()
    assert ModelCard(text).data.to_dict()["co2_eq_emissions"]["training_type"] == "from scratch"
    assert "fine-tuned" not in text and "alone\nand carries the biases of these data" in text


def test_the_card_says_where_heads_began_and_what_was_averaged(run, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    for spread, told in ((None, "at a random place"), (0.1, "of its own (`local_start_width`), at offsets from\nthe")):
        copy = shutil.copytree(run, tmp_path / str(spread))
        config = json.loads((copy / "config.json").read_text())
        config |= {"local_start_width": 0.2, "local_start_spread": spread, "training_latents": [2, 4]}
        (copy / "config.json").write_text(json.dumps(config))
        recipe = (copy / "recipe.yaml").read_text()
        (copy / "recipe.yaml").write_text(recipe.replace("  ema_decay: null\n", "  ema_decay: 0.99\n"))
        with staging.stage(copy, "org/tiny") as folder:
            text = (folder / "README.md").read_text()
        assert f"each head of a latent looks at a spot {told}" in text
        assert ",\naveraged over steps with a decay of 0.99. Before" in text
        assert " Each\nstep computed 2 to 4 of the latents. All settings" in text


def test_the_card_tells_what_was_changed_on_the_way(run, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    copy = shutil.copytree(run, tmp_path / "copy")
    metrics = json.loads((copy / "metrics.json").read_text())
    changes = [
        {"step": 1200, "changes": ["optimization.epochs: 3 -> 6", "seed: 0 -> 1"], "after_the_end": False},
        {"step": 1300, "changes": ["optimization.epochs: 6 -> 7"], "after_the_end": True},
    ]
    first = "so no single command repeats it:\n\n- from step 1,200 on: `optimization.epochs: 3 -> 6`, `seed: 0 -> 1`\n"
    second = "- from step 1,300 on, when it had ended before: `optimization.epochs: 6 -> 7`\n"
    for kept, end in ((1, "read once at the end. 6"), (2, "read once at the end, and at ends before that. 6")):
        (copy / "metrics.json").write_text(json.dumps(metrics | {"changes": changes[:kept]}))
        with staging.stage(copy, "org/tiny") as folder:
            text = (folder / "README.md").read_text()
            assert json.loads((folder / "metrics.json").read_text())["changes"] == changes[:kept]
        assert end in text and (first + second if kept == 2 else first) + "\n![" in text
        assert "repeats the run" not in text


def test_the_card_of_a_run_without_validation_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "check_loads", lambda *arguments: None)
    copy = shutil.copytree(run, tmp_path / "copy")
    metrics = json.loads((copy / "metrics.json").read_text()) | {"validation_samples": 0}
    (copy / "metrics.json").write_text(json.dumps(without_validation(metrics)))
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    (copy / "metrics.jsonl").write_text("".join(json.dumps(without_validation(line)) + "\n" for line in lines))
    with staging.stage(copy, "org/tiny") as folder:
        text = (folder / "README.md").read_text()
    assert "to train on, and 21 to test with" in text and "those of the last epoch." in text
    assert "![Loss against epochs]" in text and "validation" not in text.partition("## Results")[2].partition("##")[0]


def without_validation(values: dict) -> dict:
    return {name: value for name, value in values.items() if not name.startswith(("validation_a", "validation_l"))}


def test_bad_metadata_is_noticed(staged):
    card = ModelCard((staged / "README.md").read_text())
    check_card(card)
    card.data.license = "Apache 2"
    with pytest.raises(UserError, match=r"--license Apache 2: expected an identifier"):
        check_card(card)
    card.data.license = None
    with pytest.raises(UserError, match=r"lacks license"):
        check_card(card)


def test_pictures_show_something_and_fit_a_page(staged):
    for path in (staged / "figures").iterdir():
        with Image.open(path) as picture:
            assert 300 <= picture.width <= 1600 and 300 <= picture.height <= 1600, path
            assert len(picture.convert("RGB").getcolors(maxcolors=10**6)) > 50, path


def test_energy():
    assert energy(3600, "4 x NVIDIA H100 80GB HBM3") == {
        "seconds": "1.0 hours",
        "watts": 2800,
        "basis": "700 W for each GPU, an upper bound",
        "energy": "2.8 kWh",
        "grams": 1300.0,
        "emissions": "1.3 kg",
        "intensity": 475,
    }
    assert energy(36, "Some CPU, 2 threads")["energy"] == "0.2 Wh"
    long = energy(21600, "Some CPU, 2 threads")
    assert (long["energy"], long["emissions"]) == ("120 Wh", "57 g")
    assert energy(86400, "Some CPU, 2 threads")["emissions"] == "230 g"
    assert energy(36, "1 x Some GPU")["basis"] == "a guess of 300 W for each GPU"
    assert energy(36, "1 x Some GPU")["watts"] == energy(36, "1 x NVIDIA L40")["watts"] == 300
    assert (energy(36, "1 x NVIDIA L4")["watts"], energy(36, "1 x Tesla V100-SXM2-16GB")["watts"]) == (72, 300)


def rendered(*overrides: str, names: tuple[str, ...] = tuple(CLASSES), logits: np.ndarray | None = None) -> ModelCard:
    """The card of a run of one epoch and one step that was right everywhere, but for `logits`."""
    task = build_task(load_recipe(DEFAULT_RECIPE, [*TINY_RUN, "data.name=org/colours", *overrides]))
    task.config.id2label = dict(enumerate(names))
    counts = ("train_samples", "validation_samples", "test_samples", "epochs", "steps", "best_epoch", "train_seconds")
    metrics = dict.fromkeys((*counts, "parameters", "seed"), 1)
    metrics |= {f"{split}_{task.best}": 1.0 for split in ("test", "validation")}
    metrics |= {"hardware": "a CPU, 1 thread", "versions": {"torch": "2", "transformers": "5"}, "git_commit": None}
    right = np.eye(len(names), dtype=np.float32)
    labels = right if task.best == "r2" else np.arange(len(names))
    judged = {"logits": right if logits is None else logits, "labels": labels}
    return render_card("org/name", "apache-2.0", task.recipe, task, [metrics], judged, [], {})


def test_data_of_the_hub_are_named():
    card = rendered("data.title=null")
    assert card.data.datasets == ["org/colours"] and card.data.eval_results[0].dataset_type == "org/colours"


def test_a_card_counts_one_as_one():
    text = rendered("optimization.batch_size=1", "model.num_latents=1").text
    assert "1 epoch\n(1 step of one of the images) of" in text and "1 latent of 16 channels looks at" in text
    text = rendered().text
    assert "steps of" not in text and "(1 step of 8 images) of" in text and "4 latents of 16 channels look at" in text


def test_names_with_line_breaks_stay_on_their_lines():
    logits = np.eye(3, dtype=np.float32)[[1, 1, 2]]
    text = rendered('data.title="a\\nb"', names=("red\n# rose", "green", "blue"), logits=logits).text
    assert "Classes: red # rose, green, blue." in text and "mistake is red # rose taken for green." in text
    assert "| a b | this checkpoint |" in text


def test_only_what_gives_a_confidence_is_not_calibrated():
    numbers = rendered("model.problem_type=regression", "data.label_column=[a,b,c]").text
    assert "what it was not trained for. It was" in numbers and "calibrated" not in numbers
    assert "what it was not trained for, and its confidence is not calibrated. It was" in rendered().text
