"""What scripts/evaluate.py does: load a checkpoint and a split, predict, score, write."""

import argparse
import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np
import transformers
from accelerate import Accelerator
from torch.utils.data import DataLoader, default_convert
from tqdm.auto import tqdm

from augmentation import Normalization
from data import load_split
from errors import UserError, one_line
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyImageProcessor,
)
from predict import check_checkpoint
from predictions import Predictions, predict
from provenance import describe_run
from recipe import Recipe, load_recipe
from report import write_report
from scores import calibrate, class_table, confusions
from streams import load_stream_split
from threads import finish, use_threads, without_gpu

_DTYPES = ("auto", "float32", "bfloat16", "float16")


def main(arguments: list[str] | None = None):
    options = parse(arguments)
    transformers.utils.logging.disable_progress_bar()
    check_checkpoint(options.checkpoint)
    recipe = find_recipe(options)
    accelerator = Accelerator(cpu=without_gpu())
    use_threads(accelerator, recipe.optimization.cpu_threads)
    model, processor = load_model(options.checkpoint, options.dtype)
    with accelerator.main_process_first():  # it fills the caches that the others read
        load = load_stream_split if recipe.data.streaming else load_split
        images, class_names = load(recipe.data, model.config, processor, options.split)
    names = [model.config.id2label[label] for label in range(model.config.num_labels)]
    images.labels = match_labels(class_names, names, options.match_by_number)[images.labels]

    # Batches are cut among processes, the last one filled up; what fills it up is not counted.
    loader = accelerator.prepare(DataLoader(images, options.batch_size, collate_fn=default_convert))
    hidden = None if accelerator.is_main_process else True  # None hides it when output is not a terminal
    bar = tqdm(loader, desc=f"evaluating {options.split}", unit="batch", disable=hidden, leave=False)
    normalize = Normalization(processor, accelerator.device)
    plain, *flipped = predict(accelerator, model.to(accelerator.device).eval(), bar, normalize, options.flip)

    if accelerator.is_main_process:
        folder = Path(options.output or default_output(options))
        results = {
            "checkpoint": options.checkpoint,
            "data": recipe.data.called,
            "split": options.split,
            "data_settings": asdict(recipe.data),
            "images": len(plain.labels),
            **all_scores(plain),
            "dtype": str(model.dtype).removeprefix("torch."),
            "parameters": model.num_parameters(),
            **describe_run(accelerator),
        }
        predicted = plain.top[:, 0]
        write_report(
            folder,
            results,
            class_table(plain.labels, predicted, names),
            confusions(plain.labels, predicted, len(names)),
            calibrate(plain.confidence, predicted == plain.labels),
            all_scores(flipped[0]) if flipped else None,
        )
        print((folder / "evaluation.md").read_text().partition("\n\nCalibration error")[0])
        print(f"\nmore in {folder}")
    finish(accelerator)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a checkpoint on labelled images.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder that train.py wrote, or a name on the Hub")
    parser.add_argument("--config", metavar="PATH", help="recipe whose data to use (default: CHECKPOINT/recipe.yaml)")
    parser.add_argument("--data", metavar="DATA", help="a folder, a name on the Hub or digits, instead of the recipe's")
    parser.add_argument(
        "--split", default="test", help="train, validation or test as the recipe has them, or any other"
    )
    parser.add_argument("--flip", action="store_true", help="also score the mean over images and their mirror images")
    parser.add_argument("--dtype", choices=_DTYPES, default="auto", help="of the model (default: as it is stored)")
    parser.add_argument("--batch_size", type=int, default=64, help="images per process at a time (default: 64)")
    parser.add_argument("--match_by_number", action="store_true", help="match classes by number, whatever their names")
    parser.add_argument("--output", metavar="FOLDER", help="where to write (default: CHECKPOINT/evaluation/SPLIT)")
    parser.add_argument("overrides", nargs="*", metavar="data.key=value", help="such as data.test_split=validation")
    options = parser.parse_intermixed_args(arguments)
    if options.batch_size < 1:
        raise UserError(f"--batch_size {options.batch_size}: expected at least 1")
    return options


def find_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that says which data: that of `--config`, or of the checkpoint, with what the command line changes."""
    for text in options.overrides:
        if not text.startswith(("data.", "optimization.cpu_threads=")):
            raise UserError(f"{text}: only keys of section data: can be changed here, such as data.path=FOLDER")
    stored = Path(options.checkpoint) / "recipe.yaml"
    path = options.config or (stored if stored.exists() else None)
    data = []
    if options.data is not None:
        folder = Path(options.data).is_dir()
        if not folder and (options.data.count("/") > 1 or options.data.startswith((".", "/", "~"))):
            raise UserError(f"--data {options.data}: no such folder")
        # JSON is YAML in which nothing has a second meaning.
        data = [f"data.path={json.dumps(options.data if folder else None)}"]
        data += [] if folder else [f"data.name={json.dumps(options.data)}"]
    if (
        path is None
        and not data
        and not any(text.startswith(("data.path=", "data.name=")) for text in options.overrides)
    ):
        raise UserError(f"{options.checkpoint} has no recipe.yaml that names its data: add --data FOLDER_OR_NAME")
    # A checkpoint may be a stranger's: its recipe names the data, but no folder to write to.
    own = ["data.cache_dir=null"] if path == stored else []
    return load_recipe(path, [*own, *data, *options.overrides])


def load_model(
    checkpoint: str, dtype: str
) -> tuple[PerceiverStudyForImageClassification, PerceiverStudyImageProcessor]:
    """The model, from safetensors alone, and its image processor.

    Raises:
        UserError: they cannot be loaded, are of another kind, or some weights are missing.
    """
    try:
        kind = PerceiverStudyConfig.get_config_dict(checkpoint)[0].get("model_type")
        if kind != PerceiverStudyConfig.model_type:
            raise UserError(f"{checkpoint} holds a {kind} model; expected {PerceiverStudyConfig.model_type}")
        processor = PerceiverStudyImageProcessor.from_pretrained(checkpoint)
        model, found = PerceiverStudyForImageClassification.from_pretrained(
            checkpoint, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{checkpoint} cannot be loaded: {one_line(error)}") from None
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise UserError(
            f"{checkpoint} is no whole classifier: {len(found['missing_keys'])} weights are missing ({missing})"
        )
    return model, processor


def match_labels(of_data: list[str], of_model: list[str], by_number: bool) -> np.ndarray:
    """`(len(of_data),)` int64: the model's number for each class of the data, found by name where both have names.

    Raises:
        UserError: the data has a class that the model has not.
    """
    numbered = [str(number) for number in range(len(of_data))]
    unnamed = [f"LABEL_{number}" for number in range(len(of_model))]
    if by_number or of_data in (of_model, numbered) or of_model == unnamed:
        if len(of_data) > len(of_model):
            raise UserError(f"the data has {len(of_data)} classes, but the model knows {len(of_model)}")
        return np.arange(len(of_data))
    times = Counter(of_model)
    known = {name: number for number, name in enumerate(of_model) if times[name] == 1}
    unknown = [name for name in of_data if name not in known]
    if unknown:
        raise UserError(
            f"{unknown[0]!r} and {len(unknown) - 1} more classes of the data are not among those of the model "
            f"({', '.join(of_model[:3])}, ...): choose other --data, or --match_by_number if only the names differ"
        )
    return np.array([known[name] for name in of_data])


def all_scores(predictions: Predictions) -> dict[str, float]:
    """Accuracy, top-k accuracy, cross-entropy and calibration error.

    Raises:
        UserError: the model gave what is no number.
    """
    broken = ~np.isfinite(predictions.loss)
    if broken.any():
        raise UserError(
            f"{broken.sum()} of {len(broken)} images have logits that are no finite numbers: try another --dtype, "
            "such as bfloat16 or float32"
        )
    right = predictions.top[:, 0] == predictions.labels
    error = calibrate(predictions.confidence, right).error
    return {**predictions.scores(), "expected_calibration_error": error}


def default_output(options: argparse.Namespace) -> Path:
    """Beside the weights, or in output/ for a name on the Hub."""
    folder = Path(options.checkpoint)
    return (folder if folder.is_dir() else "output" / folder) / "evaluation" / options.split
