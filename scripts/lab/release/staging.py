"""The folder that is published: complete, without local paths, and checked to load in a clean process."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lab.augment.images import Normalization
from lab.data.arrays import load_split
from lab.errors import UserError
from lab.judging.report import draw_confusions
from lab.looking.curves import draw_curves
from lab.recipe import Recipe, differences, load_recipe, recipe_to_yaml
from lab.release.card import render_card
from lab.release.figures import Classified, draw_attention, draw_predictions, predict
from lab.release.hub import push
from lab.training.run_folder import LOG, RESULTS
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor

_NEEDED = ("config.json", "preprocessor_config.json", "recipe.yaml", LOG, RESULTS)


_PICKLED = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")


# Weights of another run give another accuracy; another device or precision moves it by less than this.
_SAME_ACCURACY = 0.01


_LOAD = """
import sys
sys.modules["modeling_perceiver_study"] = None  # what counts is the code in the folder
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline
folder = sys.argv[1]
for auto_class in (AutoModel, AutoModelForImageClassification):
    model, report = auto_class.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(report.values()), report
AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
assert classify(Image.new("RGB", (40, 30)))
"""


def publish(checkpoint: Path, repo_id: str, private: bool):
    """What the command does, for train.py. A `UserError` says how to try again."""
    try:
        with stage(checkpoint, repo_id) as folder:
            push(folder, repo_id, private)
    except UserError as error:
        again = f"python scripts/publish.py {checkpoint} --repo_id {repo_id}{' --private' if private else ''}"
        raise UserError(f"the run is finished, but not published: {error}; repeat with {again}") from None


@contextmanager
def stage(
    checkpoint: Path,
    repo_id: str,
    licence: str = "apache-2.0",
    overrides: list[str] | tuple[str, ...] = (),
    seeds: list[Path] | tuple[Path, ...] = (),
    with_images: bool = True,
    dtype: str | None = None,
) -> Iterator[Path]:
    """A temporary folder with exactly what is to be published, checked to load in a clean process.

    Args:
        dtype: what weights are rounded to; the accuracy that they have then is measured and added to the metrics.

    Raises:
        UserError: the checkpoint is not complete, holds pickled weights, is not what its metrics say, or does not load.
    """
    weights = find_weights(checkpoint)
    recipe = load_recipe(checkpoint / "recipe.yaml")
    runs = [read_metrics(checkpoint), *(read_other_seed(folder, checkpoint) for folder in seeds)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / checkpoint.resolve().name
        (folder / "figures").mkdir(parents=True)
        code = sorted(checkpoint.glob("*.py"))
        for path in [
            *weights,
            *code,
            *(checkpoint / name for name in ("config.json", "preprocessor_config.json", LOG)),
        ]:
            shutil.copy(path, folder)
        if dtype is not None:
            model = PerceiverStudyForImageClassification.from_pretrained(folder, dtype=dtype)
            model.save_pretrained(folder)
        check_loads(folder)
        public_recipe, runs[0] = without_paths(recipe, runs[0], folder.name)
        (folder / "recipe.yaml").write_text(recipe_to_yaml(public_recipe))
        model, predictions = predict_test_images(folder, checkpoint, overrides, runs[0]["test_accuracy"])
        if dtype is not None:
            runs[0] |= {"released_dtype": dtype, "released_accuracy": predictions.accuracy}
        (folder / RESULTS).write_text(json.dumps(runs[0], indent=2) + "\n")
        draw_curves(folder / LOG, folder / "figures" / "curves.png", title=folder.name)
        draw_confusions(predictions.confusions(), predictions.names, folder / "figures" / "confusions.png")
        examples = {}
        if with_images:
            draw_predictions(predictions, folder / "figures" / "predictions.png")
            normalize = Normalization(PerceiverStudyImageProcessor.from_pretrained(folder), model.device)
            draw_attention(model, normalize, predictions, folder / "figures" / "attention.png")
            examples = save_examples(predictions, folder)
        card = render_card(repo_id, licence, recipe, model.config, runs, predictions, examples)
        card.save(folder / "README.md")
        yield folder


def find_weights(checkpoint: Path) -> list[Path]:
    """The safetensors files of a finished run, with their index if there are several."""
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such folder; expected one that train.py wrote")
    pickled = sorted(path.name for path in checkpoint.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise UserError(
            f"{checkpoint} holds pickled files ({', '.join(pickled)}), which can run code on whoever loads them: "
            "publish safetensors only, and move these away"
        )
    missing = [name for name in _NEEDED if not (checkpoint / name).is_file()]
    weights = [path for pattern in ("model*.safetensors", "model*.index.json") for path in checkpoint.glob(pattern)]
    if not weights:
        missing.append("model.safetensors")
    if not any(checkpoint.glob("modeling_*.py")):
        missing.append("the model's code")
    if missing:
        raise UserError(
            f"{checkpoint} is no finished run: {', '.join(missing)} missing; finish it with train.py --resume"
        )
    return sorted(weights)


def read_metrics(checkpoint: Path) -> dict:
    """What train.py found out at the end, on test images too."""
    try:
        metrics = json.loads((checkpoint / RESULTS).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint / RESULTS} cannot be read: {error}; expected a finished run") from None
    if "test_accuracy" not in metrics:
        raise UserError(
            f"{checkpoint} was trained with data.test_split=null, so there is no figure to publish: train the recipe "
            "that you chose with its test split"
        )
    return metrics


def read_other_seed(other: Path, checkpoint: Path) -> dict:
    """Metrics of a run that differs from `checkpoint` in its seed alone."""
    metrics = read_metrics(other)
    changed = differences(load_recipe(checkpoint / "recipe.yaml"), load_recipe(other / "recipe.yaml"))
    if [line.partition(":")[0] for line in changed] != ["seed"]:
        raise UserError(
            f"--seeds {other}: expected a run that differs in its seed alone, not in {changed or 'nothing'}"
        )
    return metrics


def without_paths(recipe: Recipe, metrics: dict, name: str) -> tuple[Recipe, dict]:
    """Both without a word of where things are on this machine."""
    local = recipe.data.path is not None
    stands_for = recipe.data.name or "local-data"
    data = dataclasses.replace(recipe.data, path=None, name=stands_for, cache_dir=None)
    metrics = {key: value for key, value in metrics.items() if key != "command"}
    if local:
        metrics["data"] = recipe.data.title or "a local folder"
    return dataclasses.replace(recipe, data=data, output_dir=f"output/{name}"), metrics


def check_loads(folder: Path):
    """Load a folder as a stranger would: another process, an empty cache, no network, none of this repository."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", _LOAD, str(folder)]
        done = subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{folder.name} does not load in a clean process: {reason}")


def predict_test_images(
    folder: Path, checkpoint: Path, overrides: list[str] | tuple[str, ...], expected_accuracy: float
) -> tuple[PerceiverStudyForImageClassification, Classified]:
    """The model in a folder, and what it says of its recipe's test images; it must be as good as its metrics say."""
    recipe = load_recipe(checkpoint / "recipe.yaml", overrides)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = PerceiverStudyForImageClassification.from_pretrained(folder).eval().to(device)
    processor = PerceiverStudyImageProcessor.from_pretrained(folder)
    images, _ = load_split(recipe.data, model.config, processor, "test")
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    predictions = predict(model, Normalization(processor, model.device), images, names)
    if abs(predictions.accuracy - expected_accuracy) > _SAME_ACCURACY:
        raise UserError(
            f"{RESULTS} says {100 * expected_accuracy:.2f} % of the test images, but these weights get "
            f"{100 * predictions.accuracy:.2f} % of {len(images)}; expected {checkpoint} and the data of that run"
        )
    return model, predictions


def save_examples(predictions: Classified, folder: Path, count: int = 3) -> dict[str, str]:
    """Test images for the Hub's widget: their classes, by path in the folder."""
    (folder / "examples").mkdir()
    examples = {}
    for number, index in enumerate(predictions.sample(count)):
        path = f"examples/{number}.png"
        predictions.picture(index).save(folder / path)
        examples[path] = predictions.names[predictions.images.labels[index]]
    return examples
