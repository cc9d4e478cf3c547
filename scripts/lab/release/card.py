"""The model card of a run, rendered from its recipe and its metrics."""

import re
import statistics
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id

from lab.errors import UserError, counted, one_line
from lab.recipe import Recipe
from lab.scoring.measures import Measure, is_score, measure_of
from lab.tasks.task import CARD_PARTS, Judged, Task

TEMPLATE = Path(__file__).resolve().parents[3] / "model_cards" / "template.md"

# Nominal power in watts of one accelerator, by a word of its name, from the makers' data sheets.
_WATTS = {"H100": 700, "H200": 700, "A100": 400, "L40S": 350, "V100": 300, "L4": 72, "T4": 70}
_WATTS_OF_OTHER_GPU = 300
_WATTS_PER_THREAD = 10
_GRAMS_PER_KWH = 475  # CO2 equivalent, the world's average in 2018 by the International Energy Agency


def render_card(
    repo_id: str,
    licence: str,
    recipe: Recipe,
    task: Task,
    runs: list[dict],
    judged: Judged,
    pictures: list[tuple[str, str]],
    examples: dict[str, str],
) -> ModelCard:
    """Return the card of a published run, with checked metadata.

    Args:
        recipe: if it has a local path, the card says that there was one, but not which.
        runs: `metrics.json` of this run first, then those of other seeds.
        judged: the model's answers to the test samples.
        pictures: captions and files of what `task.illustrate` drew.
        examples: titles of samples for the Hub's widget, by path in the repository; empty if none may be shown.

    Raises:
        UserError: the Hub would change or refuse the metadata.
    """
    metrics, config = runs[0], task.config
    cost = energy(metrics["train_seconds"], metrics["hardware"])
    parts = CARD_PARTS | {"metric": measure_of(task.best).hub_name} | task.card(judged)
    parts["usage"] = [program.replace("{repo_id}", repo_id) for program in parts["usage"]]
    card = ModelCard.from_template(
        _card_data(repo_id, licence, recipe, task, parts, runs, cost, examples),
        template_str=TEMPLATE.read_text(encoding="utf-8"),
        repo_id=repo_id,
        recipe=recipe,
        model=config,
        task=parts,
        samples=task.samples,
        counted=counted,
        self_attends=config.num_blocks * config.num_self_attends_per_block,
        metrics=metrics,
        data=_data_name(recipe, task),
        local_data=recipe.data.path is not None,
        optimizer={"adamw": "AdamW", "muon": "Muon (AdamW for all but matrices between layers)"}[
            recipe.optimization.optimizer
        ],
        pretrained=metrics.get("pretrained"),
        best=measure_of(task.best),
        results=_results(runs, task),
        seeds=len(runs),
        seed_list="seed " + ", ".join(str(run["seed"]) for run in runs),
        pictures=pictures,
        cost=cost,
    )
    check_card(card)
    return card


def check_card(card: ModelCard):
    """Check the metadata of a card.

    Raises:
        UserError: it cannot be read back unchanged, or the Hub would refuse it.
    """
    text = str(card)
    try:
        header = yaml.safe_load(text.split("---\n")[1])  # safe: no pickled numpy numbers
        again = ModelCard(text).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"the model card's metadata cannot be read back: {one_line(error)}") from None
    missing = [name for name in ("library_name", "pipeline_tag", "license", "model-index") if not header.get(name)]
    if missing or again != card.data.to_dict():
        raise UserError(f"the model card's metadata lacks {', '.join(missing) or 'something on the way back'}")
    require_licence(header["license"])
    for name in header.get("datasets", []):
        try:
            validate_repo_id(name)
        except HFValidationError as error:
            raise UserError(f"data.name={name} is not a name on the Hub: {error}") from None


def require_licence(name: str):
    """Raise a `UserError` unless a licence has the form of the Hub's identifiers."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", name):
        raise UserError(f"--license {name}: expected an identifier of the Hub's, such as apache-2.0")


def _rounded(value: float) -> float:
    """To two digits that count."""
    return float(f"{value:.2g}")


def energy(seconds: float, hardware: str) -> dict:
    """Estimate the energy and emissions of a run from its seconds and its hardware.

    Args:
        hardware: as `provenance.describe_hardware` writes it.
    """
    gpus, threads = re.match(r"(\d+) x (.*)", hardware), re.search(r"(\d+) threads?$", hardware)
    if gpus:
        words = re.split(r"[ -]", gpus[2])
        known = next((watts for name, watts in _WATTS.items() if name in words), None)
        each = known or _WATTS_OF_OTHER_GPU
        basis = f"{each} W for each GPU, an upper bound" if known else f"a guess of {each} W for each GPU"
        watts = int(gpus[1]) * each
    else:
        watts = _WATTS_PER_THREAD * int(threads[1] if threads else 1)
        basis = f"a guess of {_WATTS_PER_THREAD} W for each CPU thread"
    watt_hours = watts * seconds / 3600
    grams = watt_hours / 1000 * _GRAMS_PER_KWH
    return {
        "seconds": f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 3600:.1f} hours",
        "watts": watts,
        "basis": basis,
        "energy": f"{_rounded(watt_hours):g} Wh" if watt_hours < 1000 else f"{watt_hours / 1000:.1f} kWh",
        "grams": _rounded(grams),
        "emissions": f"{_rounded(grams):g} g" if grams < 1000 else f"{grams / 1000:.1f} kg",
        "intensity": _GRAMS_PER_KWH,
    }


def _card_data(
    repo_id: str,
    licence: str,
    recipe: Recipe,
    task: Task,
    parts: dict,
    runs: list[dict],
    cost: dict,
    examples: dict[str, str],
) -> ModelCardData:
    on_hub = recipe.data.path is None and "/" in recipe.data.name
    pretrained = runs[0].get("pretrained")
    results = [
        EvalResult(
            task_type=task.name,
            task_name=task.name.replace("-", " ").capitalize(),
            dataset_type=recipe.data.name if recipe.data.path is None else "local",
            dataset_name=_data_name(recipe, task),
            dataset_split=recipe.data.test_split,
            metric_type=measure.hub_name,
            metric_name=f"test {measure.title}",
            metric_value=float(runs[0][f"test_{name}"]),
        )
        for name, measure in _measures(runs[0], "test_").items()
    ]
    return ModelCardData(
        license=licence,
        library_name="transformers",
        pipeline_tag=task.name,
        tags=parts["tags"],
        datasets=[recipe.data.name] if on_hub else None,
        metrics=[parts["metric"]] if parts["metric"] else None,
        base_model=pretrained["name"] if pretrained and pretrained["revision"] else None,
        model_name=repo_id.split("/")[-1],
        eval_results=results,
        widget=[{"src": path, "example_title": title} for path, title in examples.items()] or None,
        co2_eq_emissions={
            "emissions": cost["grams"],
            "source": f"measured time, {cost['basis']}, {cost['intensity']} g/kWh",
            "training_type": "fine-tuning" if pretrained else "from scratch",
            "hardware_used": runs[0]["hardware"],
        },
    )


def _measures(metrics: dict, kind: str) -> dict[str, Measure]:
    """Return the scores of a run whose names begin with a prefix such as `test_`."""
    names = [key.removeprefix(kind) for key in metrics if key.startswith(kind)]
    return {name: measure_of(name) for name in names if is_score(name)}


def _data_name(recipe: Recipe, task: Task) -> str:
    if recipe.data.title is not None:
        return one_line(recipe.data.title)
    if recipe.data.path is not None:
        place = f", in place of {recipe.data.name}" if recipe.data.name else ""
        return f"a local folder of {task.samples}{place}"
    return "scikit-learn's handwritten digits" if recipe.data.name == "digits" else recipe.data.name


def _results(runs: list[dict], task: Task) -> list[dict]:
    rows = []
    measures = {f"test_{name}": measure for name, measure in _measures(runs[0], "test_").items()}
    measures[f"validation_{task.best}"] = measure_of(task.best)
    for key, measure in measures.items():
        values = [run[key] for run in runs if key in run]
        if len(values) < len(runs):
            continue
        kind, best_epoch = key.partition("_")[0], ", best epoch" if key.startswith("validation") else ""
        row = {"name": f"{kind} {measure.title}{best_epoch}", "value": measure.write(values[0]), "spread": ""}
        if len(runs) > 1:
            row["spread"] = measure.write_spread(statistics.mean(values), statistics.stdev(values))
        rows.append(row)
    return rows
