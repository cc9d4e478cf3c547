"""The report of a study, from the JSON files of its experiments alone."""

import json
from pathlib import Path
from types import ModuleType

from lab.study.comparison import RULE
from modeling_perceiver_study import PerceiverStudyConfig

REPORT = "README.md"
_INTRODUCTION = f"""\
# The study

What is claimed of the Perceiver, tested at a scale that a laptop can run. `python scripts/study.py` makes this page,
its figures and the JSON files beside it; `python scripts/study.py NAME` makes one section, and `--config` takes another
recipe, such as [`cifar10-study.yaml`](../../configuration/cifar10-study.yaml). Small models on small images can
contradict what holds for large ones: a verdict is on the claim *here*. Accuracies are means and standard deviations
over seeds, of validation images after the last epoch; test images are not read. {RULE}

"""


def report(folder: Path, experiments: dict[str, ModuleType]) -> str:
    """Markdown with a table of verdicts and a section for each experiment that has a JSON file in `folder`."""
    found = {
        name: (module, json.loads((folder / f"{name}.json").read_text()))
        for name, module in experiments.items()
        if (folder / f"{name}.json").exists()
    }
    rows, sections = ["| experiment | claim | verdict here |", "|---|---|---|"], []
    for name, (module, measured) in found.items():
        number = list(experiments).index(name) + 1
        verdict, reason = module.judge(measured["result"])
        rows.append(f"| [{number}. {module.TITLE}](#{name}) | {module.CLAIM} | **{verdict}** |")
        sections.append(_section(number, name, module, measured, verdict, reason))
    return "\n".join([_INTRODUCTION + "\n".join(rows) + "\n", *sections])


def _section(number: int, name: str, module: ModuleType, measured: dict, verdict: str, reason: str) -> str:
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

{measured["hardware"]}, {measured["seconds"]:.0f} s; {versions}; commit {measured["git_commit"]}. Measurements:
[{name}.json]({name}.json), code: [{name}.py](../../scripts/lab/study/{name}.py).
"""


def describe(settings: dict) -> str:
    """The recipe that the experiment varies, in words."""
    recipe = settings["recipe"]
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
        f"seeds {', '.join(map(str, settings['seeds']))}",
    ]
    return f"Where not said otherwise: {'; '.join(parts)}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
