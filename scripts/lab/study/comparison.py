"""When a difference between two settings counts: the one place that decides it for all experiments."""

import math
import warnings
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
    """A difference of two numbers; its confidence interval is `mean - margin` to `mean + margin`."""

    mean: float
    margin: float

    @property
    def verdict(self) -> str:
        """The verdict on the claim that the difference is above zero."""
        if self.mean - self.margin > 0:
            return HOLDS
        return FAILS if self.mean + self.margin < 0 else OPEN


@dataclass(frozen=True)
class Finding:
    """One of the statements that a claim is made of, with its numbers and the verdict on it."""

    text: str
    verdict: str


def difference(first: list[float], second: list[float]) -> Difference:
    """Return the mean of `first` minus the mean of `second`, with the margin of Welch's t-test.

    The margin is infinite if a sample has a single value.
    """
    mean = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return Difference(mean, math.inf)
    if np.ptp(first) == np.ptp(second) == 0:  # the test divides by the variance
        return Difference(mean, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # scipy warns if one sample has no variance
        interval = stats.ttest_ind(first, second, equal_var=False).confidence_interval(CONFIDENCE)
    return Difference(mean, float(interval.high - interval.low) / 2)


def is_larger(
    statement: str, first: list[float], second: list[float], unit: str = "points", scale: float = 100
) -> Finding:
    """Judge the statement that `first` is larger than `second`, from the difference of their means.

    Args:
        unit: of the difference in the text. The default is for shares from 0 to 1.
        scale: the text has this many times the difference.
    """
    found = difference(first, second)
    margin = "unknown, with a single seed" if math.isinf(found.margin) else f"{scale * found.margin:.1f}"
    return Finding(f"{statement}: {scale * found.mean:+.1f} ± {margin} {unit} ({found.verdict})", found.verdict)


def is_above(statement: str, values: list[float], threshold: float) -> Finding:
    """Judge the statement that the mean of `values` (shares from 0 to 1) is above a threshold."""
    return is_larger(statement, values, [threshold] * len(values))


def is_true(statement: str, condition: bool) -> Finding:
    """Judge a statement about numbers that do not vary between seeds."""
    verdict = HOLDS if condition else FAILS
    return Finding(f"{statement} ({verdict})", verdict)


def conclude(findings: list[Finding]) -> tuple[str, str]:
    """Return the verdict on a claim that makes several statements, and a sentence with all their numbers."""
    verdicts = {finding.verdict for finding in findings}
    if len(verdicts) == 1:
        verdict = verdicts.pop()
    elif HOLDS in verdicts:
        verdict = IN_PART
    else:
        verdict = FAILS  # some statements do not hold, the others are not decided
    return verdict, sentence(findings)


def sentence(findings: list[Finding]) -> str:
    """Return the texts of all findings as one sentence."""
    text = "; ".join(finding.text for finding in findings)
    return f"{text[0].upper()}{text[1:]}."


def gather(runs: list[dict], name: str, measure: str) -> dict:
    """Return, for each value of `name` in the order of the runs, what was measured with all seeds."""
    groups: dict = {}
    for run in runs:
        groups.setdefault(run[name], []).append(run[measure])
    return groups


def spread(values: list[float]) -> float:
    """Return the standard deviation over seeds, 0 for a single seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def percent(values: list[float]) -> str:
    """Return mean and standard deviation of shares from 0 to 1 in percent, such as `97.2 ± 0.4`."""
    return f"{100 * np.mean(values):.1f} ± {100 * spread(values):.1f}"


def accuracy_table(runs: list[dict], name: str, title: str) -> str:
    """Return a Markdown table of parameters, accuracies and seconds, with a row for each value of `name`."""
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
