"""The folder that is published: complete, without local paths, and checked to load in a clean process."""

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_imports

from lab.checkpoint_names import LOG, RESULTS, weight_files
from lab.data.loaders import evaluation_loader
from lab.errors import UserError
from lab.judging.evaluation import open_checkpoint
from lab.judging.predictions import predict
from lab.machine import without_gpu
from lab.recipe import Recipe, differences, load_recipe, recipe_to_yaml
from lab.release.card import render_card
from lab.release.hub import push
from lab.scoring.measures import measure_of
from lab.tasks import find_task
from lab.tasks.task import Judged, Task
from lab.training.curves import draw_curves

_PICKLED = (".bin", ".ckpt", ".pkl", ".pickle", ".pt", ".pth")


# Another device or precision changes a score by less than this, or by less than this share; other weights by more.
_SAME_SCORE = 0.01


_LOAD = """
import json, sys
sys.modules["modeling_perceiver_study"] = None  # what counts is the code in the folder
import transformers
folder = sys.argv[1]
with open(folder + "/config.json", encoding="utf-8") as file:
    config = json.load(file)
for name, code in config["auto_map"].items():
    # Texts load as each head of text, with a new one where the folder has another.
    if name == "AutoModel" or code.rpartition(".")[2] in config["architectures"]:
        model, report = getattr(transformers, name).from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
        assert not any(report.values()), report
"""


def publish(checkpoint: Path, repo_id: str, private: bool):
    """Publish a finished run, for train.py; a `UserError` says how to try again."""
    try:
        with stage(checkpoint, repo_id) as folder:
            push(folder, repo_id, private)
    except UserError as error:
        again = shlex.join(["python", "scripts/publish.py", str(checkpoint), "--repo_id", repo_id])
        again += " --private" if private else ""
        raise UserError(f"the run is finished, but not published: {error}; repeat with {again}") from None


@contextmanager
def stage(
    checkpoint: Path,
    repo_id: str,
    licence: str = "apache-2.0",
    overrides: list[str] | tuple[str, ...] = (),
    seeds: list[Path] | tuple[Path, ...] = (),
    show_samples: bool = True,
    dtype: str | None = None,
) -> Iterator[Path]:
    """Yield a temporary folder with exactly the files to publish, after a test that it loads in a clean process.

    Args:
        show_samples: pictures may show samples of the test data.
        dtype: the weights are rounded to it; their score is then measured and added to the metrics.

    Raises:
        UserError: the checkpoint is not complete, holds pickled weights, is not what its metrics say, or does not load.
    """
    recipe = load_recipe(checkpoint / "recipe.yaml") if (checkpoint / "recipe.yaml").is_file() else Recipe()
    kind = find_task(recipe)
    weights = find_weights(checkpoint, kind)
    name = repo_id.rpartition("/")[2]
    runs = [read_metrics(checkpoint), *(read_other_seed(folder, checkpoint) for folder in seeds)]
    if len({run["seed"] for run in runs}) < len(runs):
        found = ", ".join(str(run["seed"]) for run in runs)
        raise UserError(f"--seeds: the runs have seeds {found}; give each once, as twice the same says nothing")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / checkpoint.resolve().name
        figures, examples = folder / "figures", folder / "examples"
        figures.mkdir(parents=True)
        for path in [*weights, *code_files(checkpoint), *(checkpoint / name for name in _copied(kind))]:
            shutil.copy(path, folder)
        if dtype is not None:
            kind.model_class.from_pretrained(folder, dtype=dtype).save_pretrained(folder)
        check_loads(folder, kind)
        public_recipe, runs[0] = without_paths(recipe, runs[0], name)
        (folder / "recipe.yaml").write_text(recipe_to_yaml(public_recipe), encoding="utf-8")
        task, model, dataset, judged = predict_test(folder, checkpoint, overrides, runs[0])
        if dtype is not None:
            runs[0] |= {"released_dtype": dtype, "released_score": task.scores(judged)[task.best]}
        (folder / RESULTS).write_text(json.dumps(runs[0], indent=2) + "\n", encoding="utf-8")
        draw_curves(folder / LOG, figures / "curves.png", title=name, best=task.best)
        pictures = task.illustrate(figures, model, dataset, judged, show_samples)
        titles = {}
        if show_samples:
            examples.mkdir()
            titles = {f"examples/{name}": title for name, title in task.save_examples(examples, dataset).items()}
        card = render_card(repo_id, licence, recipe, task, runs, judged, pictures, titles)
        card.save(folder / "README.md")
        yield folder


def find_weights(checkpoint: Path, kind: type[Task]) -> list[Path]:
    """Return the safetensors files of a finished run, with their index if there are several."""
    if not checkpoint.is_dir():
        raise UserError(f"{checkpoint}: no such folder; expected one that train.py wrote")
    pickled = sorted(path.name for path in checkpoint.iterdir() if path.suffix in _PICKLED)
    if pickled:
        raise UserError(
            f"{checkpoint} holds pickled files ({', '.join(pickled)}), which can run code on whoever loads them: "
            "publish safetensors only, and move these away"
        )
    missing = [name for name in ("recipe.yaml", RESULTS, *_copied(kind)) if not (checkpoint / name).is_file()]
    weights = weight_files(checkpoint)
    if weights and weights[0].name != "model.safetensors":
        weights += checkpoint.glob("model.safetensors.index.json")
    if not weights:
        missing.append("model.safetensors")
    if not any(checkpoint.glob("modeling_*.py")):
        missing.append("the model's code")
    if missing:
        raise UserError(
            f"{checkpoint} is not a finished run: {', '.join(missing)} missing; finish it with train.py --resume"
        )
    return sorted(weights)


def code_files(checkpoint: Path) -> list[Path]:
    """Return the modules that a saved folder names, and what they import.

    Other programs that lie there are nobody's business.
    """
    found, waiting = set(), [*checkpoint.glob("modeling_*.py"), *_named_modules(checkpoint)]
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():  # one that is missing is told when the folder is loaded
            found.add(path)
            waiting += [checkpoint / f"{name}.py" for name in get_relative_imports(path)]
    return sorted(found)


def _named_modules(checkpoint: Path) -> Iterator[Path]:
    """The files that hold the classes that model and processor load as."""
    for path in checkpoint.glob("*config.json"):
        names = json.loads(path.read_text(encoding="utf-8")).get("auto_map", {}).values()
        for name in (name for several in names for name in ([several] if isinstance(several, str) else several)):
            if name is not None:  # of a tokenizer that comes in one of two forms
                yield checkpoint / f"{name.rpartition('--')[2].partition('.')[0]}.py"


def read_metrics(checkpoint: Path) -> dict:
    """Return the final scores of train.py."""
    try:
        metrics = json.loads((checkpoint / RESULTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{checkpoint / RESULTS} cannot be read: {error}; expected a finished run") from None
    if not any(key.startswith("test_") for key in metrics):
        raise UserError(
            f"{checkpoint} was trained with data.test_split=null, so there is no figure to publish: train the recipe "
            "that you chose with its test split"
        )
    return metrics


def read_other_seed(other: Path, checkpoint: Path) -> dict:
    """Return the metrics of a run that differs from `checkpoint` in its seed only."""
    metrics = read_metrics(other)
    changed = differences(load_recipe(checkpoint / "recipe.yaml"), load_recipe(other / "recipe.yaml"))
    if list(changed) != ["seed"]:
        found = "; ".join(changed.values()) or "nothing, as the same run does"
        raise UserError(f"--seeds {other}: expected a run that differs in its seed alone, not in {found}")
    return metrics


def without_paths(recipe: Recipe, metrics: dict, name: str) -> tuple[Recipe, dict]:
    """Return recipe and metrics without any path of this machine."""
    local = recipe.data.path is not None
    stands_for = recipe.data.name or "local-data"
    data = dataclasses.replace(recipe.data, path=None, name=stands_for, cache_dir=None)
    metrics = {key: value for key, value in metrics.items() if key != "command"}
    if local:
        metrics["data"] = recipe.data.title or "a local folder"
    recipe = dataclasses.replace(recipe, data=data, output_dir=f"output/{name}")
    origin = metrics.get("pretrained")
    if origin and origin["revision"] is None:  # a folder, of which the name may be told
        recipe = dataclasses.replace(recipe, pretrained=Path(origin["name"]).name)
        metrics["pretrained"] = origin | {"name": recipe.pretrained}
    return recipe, metrics


def _copied(kind: type[Task]) -> tuple[str, ...]:
    return ("config.json", *kind.processor_files, LOG)


def check_loads(folder: Path, kind: type[Task]):
    """Load a folder as a stranger would: in another process, with an empty cache, offline, without this repository."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        environment.pop("PYTHONPATH", None)
        command = [sys.executable, "-c", _LOAD + kind.clean_check, str(folder)]
        done = subprocess.run(
            command, cwd=cache, env=environment, capture_output=True, encoding="utf-8", errors="replace"
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{folder.name} does not load in a clean process: {reason}")


def predict_test(
    folder: Path, checkpoint: Path, overrides: list[str] | tuple[str, ...], metrics: dict
) -> tuple[Task, PreTrainedModel, Dataset, Judged]:
    """Return the model in a folder and its answers to the test samples; its score must be the one in its metrics."""
    recipe = load_recipe(checkpoint / "recipe.yaml", overrides)
    task, model = open_checkpoint(str(folder), recipe)
    dataset = task.load_split("test")
    accelerator = Accelerator(cpu=without_gpu())
    loader = tqdm(evaluation_loader(accelerator, dataset, 64), desc="predictions", disable=None, leave=False)
    (judged,) = predict(accelerator, task, model.to(accelerator.device), loader)
    expected, found = metrics[f"test_{task.best}"], task.scores(judged)[task.best]
    if abs(found - expected) > _SAME_SCORE * max(1.0, abs(expected)):
        measure = measure_of(task.best)
        raise UserError(
            f"{RESULTS} says a test {measure.title} of {measure.write(expected)}, but these weights get "
            f"{measure.write(found)} on {len(dataset)} {task.samples}; expected {checkpoint} and the data of that run"
        )
    return task, model, dataset, judged
