"""The number of cross-attends, with an equal number of self-attends."""

from itertools import pairwise

from matplotlib.figure import Figure

from lab.study.comparison import Finding, accuracy_table, gather, is_larger
from lab.study.pictures import ACCURACY, draw_accuracies, new_figure
from lab.study.setting import Setting
from lab.study.training import Job, run_all

TITLE = "Number of cross-attends"
CLAIM = (
    "More cross-attends, interleaved with the self-attends, lead to better performance (ImageNet: 76.7, 76.5, 76.5 and "
    "78.0 % with 1, 2, 4 and 8), at a cost that grows with their number."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 3.1 and table 6"

COUNTS = (1, 2, 4, 8)
DEPTH = max(COUNTS)  # self-attends, one after each of the first cross-attends
SHAPE = (
    f"model.num_blocks={DEPTH}",
    "model.num_self_attends_per_block=1",
    "model.share_block_weights=true",
    "model.share_cross_attend_weights=true",
)


def settings(setting: Setting) -> dict:
    return setting.for_training(*SHAPE)


def run(setting: Setting) -> dict:
    jobs = [
        Job(
            {"cross_attends": count, "seed": seed},
            setting.recipe(*SHAPE, f"model.num_cross_attends={count}", seed=seed),
        )
        for count in COUNTS
        for seed in setting.seeds
    ]
    return {"runs": run_all(jobs, setting, TITLE)}


def draw(result: dict) -> Figure:
    figure, (panel,) = new_figure(1)
    draw_accuracies(panel, gather(result["runs"], "cross_attends", "validation_accuracy"))
    panel.set(xlabel=f"cross-attends, with {DEPTH} self-attends", ylabel=ACCURACY)
    return figure


def tabulate(result: dict) -> str:
    table = accuracy_table(result["runs"], "cross_attends", "cross-attends")
    return (
        f"{DEPTH} self-attends share their weights. A cross-attend comes before each of the first self-attends, and "
        f"all cross-attends but the first share their weights, as in the paper's table.\n\n{table}"
    )


def judge(result: dict) -> list[Finding]:
    accuracies, seconds = (
        gather(result["runs"], "cross_attends", measure) for measure in ("validation_accuracy", "seconds")
    )
    fewest, *others = accuracies
    return [
        *(is_larger(f"accuracy of {count} over {fewest}", accuracies[count], accuracies[fewest]) for count in others),
        *(
            is_larger(f"training time of {more} over {fewer}", seconds[more], seconds[fewer], unit="seconds", scale=1)
            for fewer, more in pairwise(seconds)
        ),
    ]
