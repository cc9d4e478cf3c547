"""How often the latents look at the inputs, at an equal number of self-attends."""

from matplotlib.figure import Figure

from lab.study.comparison import accuracy_table, conclude, gather, is_larger
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
        f"{DEPTH} self-attends that share their weights; before each of the first ones stands a cross-attend. All of "
        f"these but the first share their weights, as in the paper's table.\n\n{table}"
    )


def judge(result: dict) -> tuple[str, str]:
    accuracies = gather(result["runs"], "cross_attends", "validation_accuracy")
    fewest, *others = accuracies
    return conclude([is_larger(f"{count} over {fewest}", accuracies[count], accuracies[fewest]) for count in others])
