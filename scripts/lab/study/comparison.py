"""When a difference between two settings counts: the one place that decides it for all experiments."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

HOLDS, FAILS, IN_PART, OPEN = "holds", "does not hold", "in part", "not decided"
CONFIDENCE = 0.95
RULE = (
    f"A difference counts if the {100 * CONFIDENCE:.0f} % interval of Welch's t-test over seeds leaves out zero; "
    "otherwise it is not decided. Intervals are not corrected for the number of comparisons, and all runs of an "
    "experiment are judged on the same validation images."
)


@dataclass(frozen=True)
class Difference:
    """Between the means of two samples, with a margin on both sides that makes a confidence interval."""

    mean: float
    margin: float

    @property
    def verdict(self) -> str:
        """Of the claim that the first is larger."""
        if self.mean - self.margin > 0:
            return HOLDS
        return FAILS if self.mean + self.margin < 0 else OPEN


@dataclass(frozen=True)
class Finding:
    """One of the statements that a claim is made of, with its numbers, and whether it holds."""

    text: str
    verdict: str


def difference(first: list[float], second: list[float]) -> Difference:
    """Mean of `first` minus mean of `second`; the margin is infinite where one has a single value."""
    mean = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return Difference(mean, math.inf)
    shares = [float(np.var(sample, ddof=1)) / len(sample) for sample in (first, second)]
    if sum(shares) == 0:
        return Difference(mean, 0.0)
    # Degrees of freedom after Welch and Satterthwaite.
    weights = [share**2 / (len(sample) - 1) for share, sample in zip(shares, (first, second), strict=True)]
    freedom = sum(shares) ** 2 / sum(weights)
    return Difference(mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom)) * math.sqrt(sum(shares)))


def is_larger(statement: str, first: list[float], second: list[float]) -> Finding:
    """The statement that accuracies (from 0 to 1) in `first` are larger than those in `second`."""
    found = difference(first, second)
    margin = "unknown, for want of seeds" if math.isinf(found.margin) else f"{100 * found.margin:.1f}"
    return Finding(f"{statement}: {100 * found.mean:+.1f} ± {margin} points ({found.verdict})", found.verdict)


def conclude(findings: list[Finding]) -> tuple[str, str]:
    """The verdict on a claim that makes several statements, and a sentence with all their numbers."""
    verdicts = {finding.verdict for finding in findings}
    if len(verdicts) == 1:
        verdict = verdicts.pop()
    elif verdicts & {HOLDS, IN_PART}:
        verdict = IN_PART
    else:
        verdict = FAILS  # some statements fail, the others are open
    text = "; ".join(finding.text for finding in findings)
    return verdict, f"{text[0].upper()}{text[1:]}."


def gather(runs: list[dict], name: str, measure: str) -> dict:
    """For each value of `name` among the runs, in their order, the list of what was measured with all seeds."""
    groups: dict = {}
    for run in runs:
        groups.setdefault(run[name], []).append(run[measure])
    return groups


def spread(values: list[float]) -> float:
    """Standard deviation over seeds, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def percent(values: list[float]) -> str:
    """`97.2 ± 0.4` for shares from 0 to 1: mean and standard deviation in percent."""
    return f"{100 * np.mean(values):.1f} ± {100 * spread(values):.1f}"


def accuracy_table(runs: list[dict], name: str, title: str) -> str:
    """Markdown with a row for each value of `name`: parameters, accuracies and seconds."""
    lines = [
        f"| {title} | parameters | validation accuracy % | training accuracy % | seconds |",
        "|---|---:|---:|---:|---:|",
    ]
    columns = {
        measure: gather(runs, name, measure)
        for measure in ("parameters", "validation_accuracy", "train_accuracy", "seconds")
    }
    for value, accuracies in columns["validation_accuracy"].items():
        lines.append(
            f"| {value} | {columns['parameters'][value][0]:,} | {percent(accuracies)} | "
            f"{percent(columns['train_accuracy'][value])} | {np.mean(columns['seconds'][value]):.1f} |"
        )
    return "\n".join(lines) + "\n"
