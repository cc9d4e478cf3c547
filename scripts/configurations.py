"""Write the tables of presets, benchmarks and ladders into the pages that show them.

    python scripts/configurations.py

tests/test_configurations.py fails when one is stale.
"""

from pathlib import Path

import torch

from lab.errors import UserError, run_command
from lab.recipe import CONFIGURATION_FOLDER, load_recipe
from lab.tasks import build_task

README = CONFIGURATION_FOLDER / "README.md"
MAIN_README = CONFIGURATION_FOLDER.parent / "README.md"
PERFORMANCE = MAIN_README.parent / "docs" / "performance.md"
BENCHMARK = MAIN_README.parent / "docs" / "benchmark"
CIFAR10 = MAIN_README.parent / "docs" / "cifar10.md"
LADDERS = MAIN_README.parent / "docs" / "cifar10"
# Of scripts/benchmark.py.
_TABLES = ("float32", "bf16", "float32-compiled", "bf16-compiled", "float32-medium", "float32-kept", "bf16-kept")
_HEADER_FIELDS = ("Paper", "Command", "Score", "Time")
_INTRODUCTION = """\
# Recipes

One YAML file a preset; any key can be changed on the command line, as in `optimization.epochs=5`. All keys and their
defaults are in [`scripts/lab/recipe.py`](../scripts/lab/recipe.py). This table is made by
`python scripts/configurations.py` from the files themselves, so change those.

"""


def presets() -> list[Path]:
    """All recipe files, by name."""
    return sorted(CONFIGURATION_FOLDER.glob("*.yaml"))


def count_parameters(preset: Path) -> int:
    """Parameters of the preset's model, without allocating them."""
    task = build_task(load_recipe(preset))
    with torch.device("meta"):
        return task.new_model().num_parameters()


def read_header(preset: Path) -> dict[str, str]:
    """The fields that the comment at the top of each preset must have.

    Raises:
        ValueError: one is missing.
    """
    lines = [line[1:].strip() for line in preset.read_text().splitlines() if line.startswith("#")]
    fields = {name: text.strip() for name, colon, text in (line.partition(":") for line in lines) if colon}
    missing = [name for name in _HEADER_FIELDS if not fields.get(name)]
    if missing:
        raise ValueError(f"the header of {preset.name} lacks {', '.join(missing)}")
    return {name: fields[name] for name in _HEADER_FIELDS}


def table(folder: str = "") -> str:
    """A Markdown row for each preset, linked to its file in `folder`."""
    rows = ["| preset | parameters | data | score | time | command |", "|---|---:|---|---|---|---|"]
    for preset in presets():
        header = read_header(preset)
        data = load_recipe(preset).data.name
        rows.append(
            f"| [`{preset.name}`]({folder}{preset.name}) | {count_parameters(preset):,} | {data} | {header['Score']} | "
            f"{header['Time']} | `{header['Command']}` |"
        )
    return "\n".join(rows) + "\n"


def pages() -> dict[Path, str]:
    """What the files with tables should hold; in those that are written by hand only what is between marks changes."""
    benchmarks = [(BENCHMARK / f"{name}.md").read_text() for name in _TABLES]
    readme = _between(MAIN_README.read_text(), "results", table(f"{CONFIGURATION_FOLDER.name}/"))
    cifar10 = CIFAR10.read_text()
    for ladder in sorted(LADDERS.glob("*.md")):
        cifar10 = _between(cifar10, ladder.stem, ladder.read_text())
    return {
        README: _INTRODUCTION + table(),
        MAIN_README: _between(readme, "benchmark", benchmarks[0]),
        PERFORMANCE: _between(PERFORMANCE.read_text(), "benchmark", "\n".join(benchmarks)),
        CIFAR10: cifar10,
    }


def _between(page: str, name: str, content: str) -> str:
    begin, end = f"<!-- {name}: python scripts/configurations.py -->\n", f"<!-- end of {name} -->\n"
    before, found_begin, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise UserError(f"a page lacks the lines {begin.strip()} and {end.strip()}")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main():
    for path, text in pages().items():
        path.write_text(text)
        print(f"wrote {path}")


if __name__ == "__main__":
    run_command(main)
