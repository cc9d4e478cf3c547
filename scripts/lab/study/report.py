"""The report of a study, made from nothing but the JSON files of its experiments."""

import json
import os
from pathlib import Path
from types import ModuleType

from lab.layers import CONFIGURATION_FOLDER
from lab.study.comparison import RULE, conclude
from modeling_perceiver_study import PerceiverStudyConfig

REPORT = "README.md"
_INTRODUCTION = """\
# The study

Claims about the Perceiver, tested at a scale that a laptop can run. `python scripts/study.py` makes this page, its
figures and the JSON files beside it; `python scripts/study.py NAME` makes one section, and `--config` takes another
recipe, such as [`cifar10-study.yaml`]({root}/configuration/cifar10-study.yaml). Models here have no local start,
whatever a recipe says. What is true of large models may not be true of small ones, so each verdict is on the claim
*here*. A claim is a list of statements, and the verdict on each is computed from the measurements. Accuracies are
means and standard deviations over seeds, on validation images after the last epoch; test images are not read.
{rule}

"""


def report(folder: Path, experiments: dict[str, ModuleType]) -> str:
    """Return Markdown with a table of verdicts and a section for each experiment that has a JSON file in `folder`."""
    found = {
        name: (module, json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
        for name, module in experiments.items()
        if (folder / f"{name}.json").exists()
    }
    root = Path(os.path.relpath(CONFIGURATION_FOLDER.parent, folder)).as_posix()  # from the page
    rows, sections = ["| experiment | claim | verdict here |", "|---|---|---|"], []
    for name, (module, measured) in found.items():
        number = list(experiments).index(name) + 1
        verdict, reason = conclude(module.judge(measured["result"]))
        rows.append(f"| [{number}. {module.TITLE}](#{name}) | {module.CLAIM} | **{verdict}** |")
        sections.append(_section(number, name, module, measured, verdict, reason, root))
    introduction = _INTRODUCTION.format(root=root, rule=RULE)
    return "\n".join([introduction + "\n".join(rows) + "\n", *sections])


def _section(number: int, name: str, module: ModuleType, measured: dict, verdict: str, reason: str, root: str) -> str:
    versions = ", ".join(f"{library} {version}" for library, version in measured["versions"].items())
    return f"""\
<a id="{name}"></a>

## {number}. {module.TITLE}

**Claim.** {module.CLAIM}

**Source.** {module.SOURCE}

**Setting.** {describe(measured["settings"])}

{module.tabulate(measured["result"])}
![{module.TITLE}]({name}.png)

**Verdict: {verdict}.** {reason}

```
{measured["command"]}
```

{measured["hardware"]}, {duration(measured)}; {versions}; commit {measured["git_commit"]}. Measurements:
[{name}.json]({name}.json), code: [{name}.py]({root}/scripts/lab/study/{name}.py).
"""


def duration(measured: dict) -> str:
    """Return how long an experiment took: the time of its trainings, since finished ones are not repeated."""
    runs = [run["seconds"] for run in measured["result"].get("runs", []) if "seconds" in run]
    return f"{sum(runs):.0f} s of training in {len(runs)} runs" if runs else f"{measured['seconds']:.0f} s"


def describe(settings: dict) -> str:
    """Return the settings of an experiment in words."""
    if "recipe" in settings:
        return _describe_training(settings["recipe"], settings["seeds"])
    if "checkpoint" in settings:
        data = settings["data"]
        return (
            f"Nothing is trained: the checkpoint {settings['checkpoint']}, on {data['data.path'] or data['data.name']}."
        )
    facts = [
        f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in settings.items()
    ]
    text = "; ".join(facts)
    return f"Nothing is trained. {text[:1].upper()}{text[1:]}."


def _describe_training(recipe: dict, seeds: list[int]) -> str:
    model = {key.removeprefix("model."): value for key, value in recipe.items() if key.startswith("model.")}
    config = PerceiverStudyConfig(**model)
    depth = config.num_blocks * config.num_self_attends_per_block
    parts = [
        f"{config.num_latents} latents of {config.d_latents} channels",
        f"{_count(config.num_cross_attends, 'cross-attend')} and {_count(depth, 'self-attend')}",
        f"{recipe['data.path'] or recipe['data.name']}, {' × '.join(map(str, config.grid))} pixels",
        f"{recipe['data.train_samples'] or 'all other'} images to train on, {recipe['data.validation_samples']} to "
        "validate",
        f"{_count(recipe['optimization.epochs'], 'epoch')} in batches of {recipe['optimization.batch_size']}",
        f"seeds {', '.join(map(str, seeds))}",
    ]
    return f"Unless said otherwise: {'; '.join(parts)}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
