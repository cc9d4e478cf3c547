"""What each score is called, how it is written, and whether more of it is better."""

from dataclasses import dataclass, replace

from lab.errors import UserError


@dataclass(frozen=True)
class Measure:
    """How people read a score.

    Attributes:
        title: its name in tables and on axes.
        percent: it is a share from 0 to 1, shown as per cent.
        higher_is_better: otherwise lower is.
        hub_name: what the Hub's cards call it.
    """

    title: str
    percent: bool = False
    higher_is_better: bool = True
    hub_name: str | None = None

    def rank(self, score: float, loss: float) -> tuple[float, float]:
        """What is larger the better: of equal scores that with the lower loss."""
        return (score if self.higher_is_better else -score), -loss

    def write(self, value: float, decimals: int = 2) -> str:
        """Such as `98.33 %`, or `0.0412` for what is not a share."""
        return f"{100 * value:.{decimals}f} %" if self.percent else f"{value:.{decimals + 2}f}"

    def write_spread(self, mean: float, deviation: float, decimals: int = 2) -> str:
        """Such as `98.33 ± 0.41 %`."""
        return f"{self.write(mean, decimals).removesuffix(' %')} ± {self.write(deviation, decimals)}"


_MEASURES = {
    "accuracy": Measure("accuracy", percent=True, hub_name="accuracy"),
    "expected_calibration_error": Measure("expected calibration error", percent=True, higher_is_better=False),
    "mean_average_precision": Measure("mean average precision", percent=True, hub_name="mean_average_precision"),
    "f1": Measure("F1, mean over classes", percent=True, hub_name="f1"),
    "mean_squared_error": Measure("mean squared error", higher_is_better=False, hub_name="mse"),
    "mean_absolute_error": Measure("mean absolute error", higher_is_better=False, hub_name="mae"),
    "bits_per_byte": Measure("bits per masked byte", higher_is_better=False, hub_name="bits_per_byte"),
    "masked_accuracy": Measure("accuracy on masked bytes", percent=True, hub_name="accuracy"),
    "r2": Measure("R²", hub_name="r_squared"),
    "loss": Measure("loss", higher_is_better=False, hub_name="loss"),
}


_OF = "_of_"


def task_score(name: str, task: str) -> str:
    """The name of a score of one of several tasks."""
    return f"{name}{_OF}{task}"


def add_measure(name: str, measure: Measure):
    """Make a score of a task from outside known, so that it may decide, and that reports and cards show it."""
    _MEASURES[name] = measure


def is_score(name: str) -> bool:
    """Whether an entry of results is a score."""
    return name in _MEASURES or _is_top_k(name) or name.partition(_OF)[0] in _MEASURES


def measure_of(name: str) -> Measure:
    """The measure of a score by its key in `metrics.json`, without `test_` or `validation_`."""
    if _is_top_k(name):
        return Measure(f"top-{name.split('_')[1]} accuracy", percent=True, hub_name=name)
    name, _, task = name.partition(_OF)
    if name not in _MEASURES:
        raise UserError(f"{name} is not a known score: lab.scoring.measures.add_measure makes one of yours known")
    measure = _MEASURES[name]
    return replace(measure, title=f"{measure.title}, {task}") if task else measure


def _is_top_k(name: str) -> bool:
    return name.startswith("top_") and name.endswith("_accuracy")
