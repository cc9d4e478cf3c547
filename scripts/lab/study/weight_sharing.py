"""Weight sharing: one set of weights for all later cross-attends and one tower for all blocks, or none shared."""

from matplotlib.figure import Figure

from lab.looking.style import BLUE, ORANGE
from lab.study.comparison import Finding, accuracy_table, gather, is_larger, is_true
from lab.study.pictures import draw_accuracies, new_figure
from lab.study.setting import Setting
from lab.study.training import Job, run_all

TITLE = "Weight sharing"
CLAIM = (
    "Sharing weights among the later cross-attends and among the blocks cuts the parameters about tenfold (326.2 to "
    "44.9 million in the ImageNet model), overfits less and validates better (72.9 to 78.0 %)."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 3.1 and table 7"

DEPTH = 8  # blocks, each with a cross-attend and a self-attend
SHAPE = (f"model.num_blocks={DEPTH}", f"model.num_cross_attends={DEPTH}", "model.num_self_attends_per_block=1")
SHARED, UNSHARED = "shared", "not shared"
_TENFOLD = (5, 20)  # factors that count as about tenfold


def settings(setting: Setting) -> dict:
    return setting.for_training(*SHAPE)


def run(setting: Setting) -> dict:
    jobs = [
        Job({"weights": weights, "seed": seed}, setting.recipe(*SHAPE, *_sharing(weights), seed=seed))
        for weights in (SHARED, UNSHARED)
        for seed in setting.seeds
    ]
    return {"runs": run_all(jobs, setting, TITLE)}


def _sharing(weights: str) -> list[str]:
    value = str(weights == SHARED).lower()
    return [f"model.share_block_weights={value}", f"model.share_cross_attend_weights={value}"]


def draw(result: dict) -> Figure:
    figure, (panel,) = new_figure(1)
    for measure, label, colour, marker in (
        ("train_accuracy", "training images", ORANGE, "s"),
        ("validation_accuracy", "validation images", BLUE, "o"),
    ):
        draw_accuracies(panel, gather(result["runs"], "weights", measure), colour, marker, label, line=False)
    panel.set(ylabel="accuracy (%)", xlabel=f"weights of {DEPTH} cross-attends and {DEPTH} self-attends")
    panel.legend(frameon=False)
    return figure


def tabulate(result: dict) -> str:
    table = accuracy_table(result["runs"], "weights", "weights")
    return f"{DEPTH} cross-attends, each before one of {DEPTH} self-attends.\n\n{table}"


def judge(result: dict) -> list[Finding]:
    runs = result["runs"]
    parameters, validation, training = (
        gather(runs, "weights", measure) for measure in ("parameters", "validation_accuracy", "train_accuracy")
    )
    factor = sum(parameters[UNSHARED]) / sum(parameters[SHARED])
    low, high = _TENFOLD
    gaps = {
        weights: [on_train - on_validation for on_train, on_validation in zip(training[weights], values, strict=True)]
        for weights, values in validation.items()
    }
    return [
        is_true(f"sharing divides the parameters by {factor:.1f}, between {low} and {high}", low <= factor <= high),
        is_larger("a larger gap from training to validation without sharing", gaps[UNSHARED], gaps[SHARED]),
        is_larger("better validation accuracy with sharing", validation[SHARED], validation[UNSHARED]),
    ]
