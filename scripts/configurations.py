"""Write the tables of recipes, benchmarks and ladders into the pages that show them.

    python scripts/configurations.py

tests/commands/test_configurations.py fails if one is stale.
"""

import json
from pathlib import Path

import torch

from lab.errors import UserError, run_command
from lab.layers import CONFIGURATION_FOLDER
from lab.looking.architecture import draw_architecture
from lab.peers.masked_lm import masked_lm_table
from lab.peers.results import decoding_table, draw_growth, inputs_table
from lab.peers.results import table as benchmark_table
from lab.recipe import load_recipe
from lab.tasks import build_task
from lab.writing import new_file, write_atomically

README = CONFIGURATION_FOLDER / "README.md"
MAIN_README = CONFIGURATION_FOLDER.parent / "README.md"
ARCHITECTURE = MAIN_README.parent / "docs" / "architecture.png"
PERFORMANCE = MAIN_README.parent / "docs" / "performance.md"
BENCHMARK = MAIN_README.parent / "docs" / "benchmark"
# Pages that show ladders and repeated runs, and where the files with their tables lie.
LADDERS = {
    MAIN_README.parent / "docs" / page: MAIN_README.parent / "docs" / folder
    for page, folder in {
        "cifar10.md": "cifar10",
        "training.md": "finetuning",
        "modalities/points.md": "modalities/points",
        "modalities/points-attempts.md": "modalities/points/attempts",
        "modalities/sound.md": "modalities/sound",
        "modalities/text.md": "modalities/text",
        "modalities/video.md": "modalities/video",
    }.items()
}
MODALITIES = MAIN_README.parent / "docs" / "modalities.md"
# Of scripts/benchmark_arrays.py.
_COSTS = {
    "a second of sound": "sound/cost",
    "a series": "sound/series-cost",
    "a cloud of points": "points/cost",
}
# Of scripts/benchmark.py.
# Those that begin with plain are of the code as it is; the others are of linear layers computed as convolutions.
_TABLES = ("plain-float32", "plain-float32-medium", "plain-bf16")
_EARLIER_TABLES = (
    "float32",
    "bf16",
    "float32-compiled",
    "bf16-compiled",
    "float32-medium",
    "float32-kept",
    "bf16-kept",
)
_HEADER_FIELDS = ("Paper", "Command", "Score", "Time")
_INTRODUCTION = """\
# Recipes

One YAML file for each recipe. Any key can be changed on the command line, as in `optimization.epochs=5`. What stands in
braces replaces all that the recipe has there, as in `"model.tasks={mood: 2}"` or `"data.columns={image: photo}"`; a
longer key changes one entry, as in `data.columns.image=photo`. Only whole sections are added to, as in
`"model={num_latents: 8}"`. Keys and their defaults are in [`scripts/lab/recipe.py`](../scripts/lab/recipe.py), those of
`model:` in [`configuration_perceiver_study.py`](../modeling_perceiver_study/configuration_perceiver_study.py), those of
`augmentation:` in [`scripts/lab/augment/`](../scripts/lab/augment), and those of a processor in its class.
`python scripts/configurations.py` makes the tables of this page from the files.

"""
_NOT_RUN = """
## Not run

The recipes in [`not-run/`](not-run) have not been run in full, so they have no score. Every recipe that has been run is
above.

"""


def presets() -> list[Path]:
    """Return the recipes whose results were run, by name."""
    return sorted(CONFIGURATION_FOLDER.glob("*.yaml"))


def not_run() -> list[Path]:
    """Return the recipes that have not been run, by name."""
    return sorted((CONFIGURATION_FOLDER / "not-run").glob("*.yaml"))


def count_parameters(preset: Path) -> int:
    """Return the number of parameters of the preset's model, without allocating them."""
    task = build_task(load_recipe(preset))
    with torch.device("meta"):
        return task.new_model().num_parameters()


def read_header(preset: Path) -> dict[str, str]:
    """Return the fields that the comment at the top of each preset must have.

    Raises:
        ValueError: one is missing.
    """
    lines = [line[1:].strip() for line in preset.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    fields = {name: text.strip() for name, colon, text in (line.partition(":") for line in lines) if colon}
    missing = [name for name in _HEADER_FIELDS if not fields.get(name)]
    if missing:
        raise ValueError(f"the header of {preset.name} lacks {', '.join(missing)}")
    return {name: fields[name] for name in _HEADER_FIELDS}


def table(recipes: list[Path], page: Path) -> str:
    """Return a Markdown row for each recipe, linked to its file from a page."""
    rows = ["| recipe | parameters | data | score | time | command |", "|---|---:|---|---|---|---|"]
    for preset in recipes:
        header = read_header(preset)
        data = load_recipe(preset).data.name
        rows.append(
            f"| {_link(preset, page)} | {count_parameters(preset):,} | {data} | {header['Score']} | {header['Time']} | "
            f"`{header['Command']}` |"
        )
    return "\n".join(rows) + "\n"


def _link(preset: Path, page: Path) -> str:
    return f"[`{preset.name}`]({preset.relative_to(page.parent).as_posix()})"


def pages() -> dict[Path, str]:
    """Return the text of all pages with tables; in those written by hand only what is between the marks changes."""
    benchmarks, earlier = ([benchmark_table(_measured(name)) for name in names] for names in (_TABLES, _EARLIER_TABLES))
    performance = _between(PERFORMANCE.read_text(encoding="utf-8"), "benchmark", "\n".join(benchmarks))
    performance = _between(performance, "inputs", inputs_table(_measured("inputs")))
    performance = _between(performance, "decoding", decoding_table(_measured("decoding")))
    performance = _between(performance, "text", masked_lm_table(_measured("text")))
    others = ", ".join(_link(preset, MAIN_README) for preset in not_run())
    results = f"{table(presets(), MAIN_README)}\nRecipes that have not been run: {others}.\n"
    readme = _between(MAIN_README.read_text(encoding="utf-8"), "results", results)
    return {
        README: _INTRODUCTION + table(presets(), README) + _NOT_RUN + table(not_run(), README),
        MAIN_README: _between(readme, "benchmark", benchmarks[0]),
        PERFORMANCE: _between(performance, "earlier", "\n".join(earlier)),
        MODALITIES: _between(MODALITIES.read_text(encoding="utf-8"), "costs", costs_table()),
        **{page: _with_ladders(page, folder) for page, folder in LADDERS.items()},
    }


def costs_table() -> str:
    """Return a Markdown row for each kind of input: what a training step costs here and in other libraries."""
    folder = MODALITIES.parent / "modalities"
    found = {kind: _measured(name, folder) for kind, name in _COSTS.items()}
    contenders = list(next(iter(found.values()))["contenders"])
    rows = [f"| training step, ms a sample | elements | {' | '.join(contenders)} |"]
    rows.append("|---|---:|" + "---:|" * len(contenders))
    for kind, cost in found.items():
        steps = " | ".join(f"{cost['contenders'][name]['step']:.2f}" for name in contenders)
        rows.append(f"| {kind} | {cost['elements']:,} | {steps} |")
    settings = sorted({f"{cost['hardware']}; float32, batches of {cost['batch_size']}" for cost in found.values()})
    return "\n".join(rows) + f"\n\n{', '.join(settings)}.\n"


def _measured(name: str, folder: Path = BENCHMARK) -> dict:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def _with_ladders(page: Path, folder: Path) -> str:
    text = page.read_text(encoding="utf-8")
    for ladder in sorted(folder.glob("*.md")):
        text = _between(text, ladder.stem, ladder.read_text(encoding="utf-8"))
    return text


def _between(page: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: python scripts/configurations.py -->\n", f"<!-- end of {name} -->\n"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise UserError(f"a page lacks the lines {begin.strip()} and {end.strip()}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main():
    for path, text in pages().items():
        write_atomically(path, text)
        print(f"wrote {path}")
    with new_file(ARCHITECTURE) as unfinished:
        draw_architecture(unfinished)
    with new_file(BENCHMARK / "float32-points.png") as unfinished:
        draw_growth(_measured("float32")["points"], unfinished)


if __name__ == "__main__":
    run_command(main)
