"""The model card of a run, rendered from its recipe and its metrics."""

import re
import statistics
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from lab.errors import UserError, one_line
from lab.recipe import Recipe
from lab.release.figures import Classified
from modeling_perceiver_study import PerceiverStudyConfig

TEMPLATE = Path(__file__).resolve().parents[3] / "model_cards" / "template.md"

# Nominal power in watts of one accelerator, by what its name contains; the makers' data sheets.
_WATTS = {"H100": 700, "H200": 700, "A100": 400, "L40S": 350, "V100": 300, "L4": 72, "T4": 70}
_WATTS_OF_OTHER_GPU = 300
_WATTS_PER_THREAD = 10
_GRAMS_PER_KWH = 475  # CO2 equivalent, the world's average as the International Energy Agency gave it for 2018
_SCORES = {
    "test_accuracy": "test accuracy",
    "test_top_5_accuracy": "test top-5 accuracy",
    "test_loss": "test loss (nats)",
    "validation_accuracy": "validation accuracy, best epoch",
}
_MOST_NAMES = 20


def render_card(
    repo_id: str,
    licence: str,
    recipe: Recipe,
    config: PerceiverStudyConfig,
    runs: list[dict],
    predictions: Classified,
    examples: dict[str, str],
) -> ModelCard:
    """The card of a published run, its metadata checked.

    Args:
        recipe: of a local path in it no more is told than that there was one.
        runs: `metrics.json` of this run first, then those of other seeds.
        examples: titles of images for the Hub's widget, by path in the repository; empty where none may be shown.

    Raises:
        UserError: the metadata would not survive the Hub.
    """
    metrics = runs[0]
    cost = energy(metrics["train_seconds"], metrics["hardware"])
    data = _card_data(repo_id, licence, recipe, runs, cost, examples)
    confusions = predictions.confusions()
    names = list(predictions.names)
    card = ModelCard.from_template(
        data,
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        repo_id=repo_id,
        recipe=recipe,
        model=config,
        grid=" × ".join(map(str, config.grid)),
        class_count=len(names),
        class_names=", ".join(names[:_MOST_NAMES]) + (", …" if len(names) > _MOST_NAMES else ""),
        self_attends=config.num_blocks * config.num_self_attends_per_block,
        metrics=metrics,
        data=_data_name(recipe),
        local_data=recipe.data.path is not None,
        augmentation=describe_augmentation(recipe),
        optimizer={"adamw": "AdamW", "muon": "Muon (AdamW for all but matrices between layers)"}[
            recipe.optimization.optimizer
        ],
        results=_results(runs),
        seeds=len(runs),
        seed_list="seed " + ", ".join(str(run["seed"]) for run in runs),
        with_images=bool(examples),
        worst=_worst(confusions, names),
        confused=_most_confused(confusions, names),
        cost=cost,
    )
    check_card(card)
    return card


def check_card(card: ModelCard):
    """Raises a `UserError` for metadata that would not come back as it went, or that the Hub would refuse."""
    text = str(card)
    try:
        header = yaml.safe_load(text.split("---\n")[1])  # safe: no pickled numpy numbers
        again = ModelCard(text).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"the model card's metadata cannot be read back: {one_line(error)}") from None
    missing = [name for name in ("library_name", "pipeline_tag", "license", "model-index") if not header.get(name)]
    if missing or again != card.data.to_dict():
        raise UserError(f"the model card's metadata lacks {', '.join(missing) or 'something on the way back'}")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", header["license"]):
        raise UserError(f"--license {header['license']}: expected an identifier of the Hub's, such as apache-2.0")
    for name in header.get("datasets", []):
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(f"data.name={name} is no name on the Hub: {error}") from None


def energy(seconds: float, hardware: str) -> dict:
    """What a run of that many seconds costs, on hardware as `provenance.describe_hardware` writes it."""
    gpus, threads = re.match(r"(\d+) x (.*)", hardware), re.search(r"(\d+) threads?$", hardware)
    if gpus:
        each = next((watts for name, watts in _WATTS.items() if name in gpus[2]), _WATTS_OF_OTHER_GPU)
        watts, basis = int(gpus[1]) * each, f"{each} W for each GPU, an upper bound"
    else:
        watts = _WATTS_PER_THREAD * int(threads[1] if threads else 1)
        basis = f"a guess of {_WATTS_PER_THREAD} W for each CPU thread"
    watt_hours = watts * seconds / 3600
    grams = watt_hours / 1000 * _GRAMS_PER_KWH
    return {
        "seconds": f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.1f} hours",
        "watts": watts,
        "basis": basis,
        "energy": f"{watt_hours:.2g} Wh" if watt_hours < 1000 else f"{watt_hours / 1000:.1f} kWh",
        "grams": float(f"{grams:.2g}"),
        "emissions": f"{grams:.2g} g" if grams < 1000 else f"{grams / 1000:.1f} kg",
        "intensity": _GRAMS_PER_KWH,
    }


def _card_data(
    repo_id: str, licence: str, recipe: Recipe, runs: list[dict], cost: dict, examples: dict[str, str]
) -> ModelCardData:
    on_hub = recipe.data.path is None and "/" in recipe.data.name
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=recipe.data.name if recipe.data.path is None else "local",
            dataset_name=_data_name(recipe),
            dataset_split=recipe.data.test_split,
            metric_type="accuracy" if name.endswith("accuracy") else "loss",
            metric_name=_SCORES[name],
            metric_value=float(runs[0][name]),
        )
        for name in ("test_accuracy", "test_top_5_accuracy", "test_loss")
        if name in runs[0]
    ]
    return ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["perceiver", "vision", "custom_code", "arxiv:2103.03206"],
        datasets=[recipe.data.name] if on_hub else None,
        metrics=["accuracy"],
        model_name=repo_id.split("/")[-1],
        eval_results=results,
        widget=[{"src": path, "example_title": title} for path, title in examples.items()] or None,
        co2_eq_emissions={
            "emissions": cost["grams"],
            "source": f"measured time, {cost['basis']}, {cost['intensity']} g/kWh",
            "training_type": "from scratch",
            "hardware_used": runs[0]["hardware"],
        },
    )


def _data_name(recipe: Recipe) -> str:
    if recipe.data.title is not None:
        return recipe.data.title
    if recipe.data.path is not None:
        return "a local folder of images" + (f", in place of {recipe.data.name}" if recipe.data.name else "")
    return "scikit-learn's handwritten digits" if recipe.data.name == "digits" else recipe.data.name


def describe_augmentation(recipe: Recipe) -> str:
    """What happens to each training image, to end a list with; nothing where nothing does."""
    settings = recipe.augmentation
    kinds = {
        f"random crops of images padded by {settings.crop_padding}": settings.crop_padding,
        "mirrored images": settings.horizontal_flip,
        "TrivialAugment": settings.trivial_augment,
        f"random erasing ({settings.random_erasing})": settings.random_erasing,
        f"mixup ({settings.mixup_alpha})": settings.mixup_alpha,
        f"CutMix ({settings.cutmix_alpha})": settings.cutmix_alpha,
    }
    found = [kind for kind, on in kinds.items() if on]
    return f"; {', '.join(found)}" if found else ""


def _results(runs: list[dict]) -> list[dict]:
    rows = []
    for name, title in _SCORES.items():
        values = [run[name] for run in runs if name in run]
        if len(values) < len(runs):
            continue
        scale, unit = (1, "") if name.endswith("loss") else (100, " %")
        values = [scale * value for value in values]
        spread = f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}{unit}" if len(runs) > 1 else ""
        rows.append({"name": title, "value": f"{values[0]:.2f}{unit}", "spread": spread})
    return rows


def _worst(confusions, names: list[str]) -> dict:
    recalls = confusions.diagonal() / confusions.sum(axis=1).clip(min=1)
    recalls[confusions.sum(axis=1) == 0] = 1  # a class without test images is not missed
    return {"name": names[recalls.argmin()], "recall": f"{100 * recalls.min():.1f}"}


def _most_confused(confusions, names: list[str]) -> str:
    wrong = confusions.copy()
    wrong[range(len(names)), range(len(names))] = 0
    if not wrong.any():
        return ""
    row, column = divmod(int(wrong.argmax()), len(names))
    return f", and the most frequent mistake is {names[row]} taken for {names[column]}"
