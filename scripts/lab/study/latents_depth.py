"""Number of latents, their width, depth and length of training, one at a time."""

from itertools import pairwise

from matplotlib.figure import Figure

from lab.recipe import flatten
from lab.study.comparison import Finding, accuracy_table, gather, is_larger
from lab.study.pictures import ACCURACY, draw_accuracies, new_figure
from lab.study.setting import Setting
from lab.study.training import Job, run_all
from lab.tasks import build_task

TITLE = "Latents, depth and time"
CLAIM = (
    "Accuracy is limited by the number of latents, their width, depth and training time: more of each gives more. (The "
    "paper found the same, except that the model overfits beyond a certain width.)"
)
SOURCE = (
    "the CIFAR-10 study that this repository follows (51.68 % after 10 epochs); Perceiver (arXiv 2103.03206), appendix "
    "B and figure 5"
)

FACTORS = (0.25, 0.5, 1, 2)
VARIED = {
    "model.num_latents": "latents",
    "model.d_latents": "channels of a latent",
    "model.num_self_attends_per_block": "self-attends",
    "optimization.epochs": "epochs",
}


def settings(setting: Setting) -> dict:
    return setting.for_training()


def run(setting: Setting) -> dict:
    recipe = setting.recipe()
    usual = flatten(recipe) | {f"model.{key}": value for key, value in build_task(recipe).config.to_dict().items()}
    jobs = [
        Job({"varied": key, "value": value, "seed": seed}, setting.recipe(f"{key}={value}", seed=seed))
        for key in VARIED
        for value in sorted({max(1, round(factor * usual[key])) for factor in FACTORS})
        for seed in setting.seeds
    ]
    return {"usual": {key: usual[key] for key in VARIED}, "runs": run_all(jobs, setting, TITLE)}


def _of(result: dict, key: str) -> list[dict]:
    return [run for run in result["runs"] if run["varied"] == key]


def draw(result: dict) -> Figure:
    figure, panels = new_figure(len(VARIED), width=2.8)
    for panel, (key, label) in zip(panels, VARIED.items(), strict=True):
        draw_accuracies(panel, gather(_of(result, key), "value", "validation_accuracy"))
        panel.set_xlabel(f"{label} (otherwise {result['usual'][key]})")
    panels[0].set_ylabel(ACCURACY)
    return figure


def tabulate(result: dict) -> str:
    return "\n".join(accuracy_table(_of(result, key), "value", label) for key, label in VARIED.items())


def judge(result: dict) -> list[Finding]:
    """Compare the recipe's own value of each quantity with the smallest, and the largest with the recipe's own."""
    findings = []
    for key, label in VARIED.items():
        groups = gather(_of(result, key), "value", "validation_accuracy")
        steps = dict.fromkeys([min(groups), result["usual"][key], max(groups)])
        findings += [
            is_larger(f"{more} over {less} {label}", groups[more], groups[less]) for less, more in pairwise(steps)
        ]
    return findings
