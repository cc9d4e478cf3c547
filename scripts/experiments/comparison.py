"""When a difference between two settings counts: the one place that decides it for all experiments."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

HOLDS, FAILS, IN_PART, OPEN = "holds", "does not hold", "in part", "not decided"
CONFIDENCE = 0.95
RULE = (
    f"A difference counts if the {100 * CONFIDENCE:.0f} % interval of Welch's t-test over seeds leaves out 0; "
    "otherwise it is not decided."
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


def difference(first: list[float], second: list[float]) -> Difference:
    """Mean of `first` minus mean of `second`; with a single value in either, nothing can be decided."""
    mean = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2:
        return Difference(mean, math.inf)
    shares = [np.var(sample, ddof=1) / len(sample) for sample in (first, second)]
    if sum(shares) == 0:
        return Difference(mean, 0.0)
    # Welch and Satterthwaite's degrees of freedom.
    freedom = sum(shares) ** 2 / sum(
        share**2 / (len(sample) - 1) for share, sample in zip(shares, (first, second), strict=True)
    )
    return Difference(mean, float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * math.sqrt(sum(shares))))


def spread(values: list[float]) -> float:
    """Standard deviation over seeds, 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def percent(values: list[float]) -> str:
    """`97.2 ± 0.4` for shares from 0 to 1: mean and standard deviation in percent."""
    return f"{100 * np.mean(values):.1f} ± {100 * spread(values):.1f}"
