"""New classes from few images: tune the output query and the head, everything, or nothing but a linear probe.

A Perceiver IO learns the first half of the classes. Then it gets a few images of each of the others, in three ways: the
output query and a new head learn, and all other weights stay; all weights learn; or a logistic regression reads the
mean of the latents. Each seed has a pretraining and a draw of images of its own.

Each way has several learning rates, or strengths of its penalty. The one that is best on one half of the validation
images is judged on the other half, and the other way round, so no image is judged with a rate that was chosen on it.
"""

import copy
import dataclasses

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Dataset, default_convert
from transformers import PreTrainedModel

from lab.looking.style import COLOURS, MARKERS
from lab.recipe import Recipe
from lab.study.comparison import Finding, is_larger, percent
from lab.study.pictures import ACCURACY, draw_accuracies, new_figure
from lab.study.setting import Setting
from lab.study.training import Job, Samples, load_samples, run_all, train_on
from lab.tasks.task import Task

TITLE = "Few examples by query tuning"
CLAIM = (
    "With few images of new classes, tuning only the output query and the head does no worse than fine-tuning all "
    "weights (to 2 points), and better than a linear probe of the mean latents; with many images, fine-tuning all "
    "weights is better."
)
SOURCE = (
    "the guide that this repository follows, few-shot learning by tuning queries; Perceiver IO (arXiv 2107.14795), "
    "section 3.2, output queries"
)

SHAPE = ("model.decoder_type=query",)
SHOTS = (1, 5, 20, 100)  # images of each new class, or all that there are
FEW = SHOTS[:2]
STEPS = 100
NO_WORSE = 0.02
QUERY, ALL, PROBE = "output query and head", "all weights", "linear probe of the mean latents"
FROZEN = {QUERY: ["perceiver.*", "decoder.layer.*"], ALL: []}  # of `optimization.freeze`
RATES = {QUERY: (1e-2, 3e-2, 1e-1, 3e-1, 1.0), ALL: (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)}
STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # `C` of the logistic regression


def settings(setting: Setting) -> dict:
    return setting.for_training(*SHAPE)


def run(setting: Setting) -> dict:
    jobs = [Job({"seed": seed}, setting.recipe(*SHAPE, seed=seed), train_and_tune) for seed in setting.seeds]
    return {"runs": run_all(jobs, setting, TITLE)}


class OfClasses(Dataset):
    """The samples of a dataset at some rows, whose labels are counted from a class on."""

    def __init__(self, dataset: Dataset, rows: np.ndarray, first: int):
        self.dataset, self.rows = dataset, rows
        self.labels = dataset.labels[rows] - first
        self.in_memory = getattr(dataset, "in_memory", False)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: list[int]) -> dict[str, torch.Tensor]:
        batch = self.dataset.__getitems__(self.rows[indices].tolist())
        return batch | {"labels": torch.from_numpy(self.labels[indices])}


def train_and_tune(recipe: Recipe) -> dict:
    """Return how many validation images of each half every way gets right, by images a class and rate."""
    samples = load_samples(recipe)
    first_new = samples.task.config.num_labels // 2
    classes = samples.task.config.num_labels - first_new
    old = [OfClasses(part, np.flatnonzero(part.labels < first_new), 0) for part in (samples.train, samples.validation)]
    task = load_samples(in_batches(recipe, len(old[0]))).task
    pretrained = train_on(Samples(*old, task), build=lambda task: with_head(task, first_new))
    train, validation = (
        OfClasses(part, np.flatnonzero(part.labels >= first_new), first_new)
        for part in (samples.train, samples.validation)
    )
    most = int(np.bincount(train.labels).min())
    tried, seconds, trained = [], pretrained.seconds, {}
    for shots in dict.fromkeys(min(shots, most) for shots in SHOTS):
        some = OfClasses(samples.train, train.rows[drawn_evenly(train.labels, shots, recipe.seed)], first_new)
        for way, rates in RATES.items():
            for rate in rates:
                task = load_samples(few_shot_recipe(recipe, way, rate, len(some))).task
                tuned = train_on(
                    Samples(some, validation, task), build=lambda task: with_head(task, classes, pretrained.model)
                )
                seconds += tuned.seconds
                trained[way] = sum(weight.numel() for weight in tuned.model.parameters() if weight.requires_grad)
                right = is_right(tuned.model, task, validation)
                tried.append({"way": way, "shots": shots, "rate": rate, "right": in_halves(right)})
        latents, to_judge = (mean_latents(pretrained.model, samples.task, part) for part in (some, validation))
        trained[PROBE] = classes * (latents.shape[1] + 1)
        for strength in STRENGTHS:
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
            right = probe.fit(latents, some.labels).predict(to_judge) == validation.labels
            tried.append({"way": PROBE, "shots": shots, "rate": strength, "right": in_halves(right)})
    return {
        "pretraining_accuracy": pretrained.validation["accuracy"],
        "images": [len(half) for half in halves(np.arange(len(validation)))],
        "tried": tried,
        "trained": trained,
        "parameters": pretrained.parameters,
        "seconds": round(seconds, 2),
    }


def few_shot_recipe(recipe: Recipe, way: str, rate: float, images: int) -> Recipe:
    """The recipe of a way to learn from few images: about as many steps, however many there are."""
    steps = images // min(recipe.optimization.batch_size, images)  # of an epoch
    return in_batches(recipe, images, epochs=max(1, STEPS // steps), learning_rate=rate, freeze=FROZEN[way])


def in_batches(recipe: Recipe, images: int, **changes) -> Recipe:
    """The recipe with changes in `optimization`, and with batches that are not larger than all images together."""
    size = min(recipe.optimization.batch_size, images)
    optimization = dataclasses.replace(recipe.optimization, batch_size=size, gradient_accumulation_steps=1, **changes)
    return dataclasses.replace(recipe, optimization=optimization)


def with_head(task: Task, classes: int, pretrained: PreTrainedModel | None = None) -> PreTrainedModel:
    """A new model of so many classes, with the weights of a pretrained one but for those of the head."""
    config = copy.deepcopy(task.config)
    config.num_labels = classes
    model = task.model_class(config)
    if pretrained is not None:
        head = model.get_submodule(task.head).state_dict()
        own = {f"{task.head}.{name}": value for name, value in head.items()}
        model.load_state_dict(pretrained.state_dict() | own)
    return model


def drawn_evenly(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """`(n,) -> (classes * shots,)`: places of as many of each class, by chance; more of them include the fewer."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)])


def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every other one, and the rest."""
    return values[::2], values[1::2]


def in_halves(right: np.ndarray) -> list[int]:
    """How many are right, in each half."""
    return [int(half.sum()) for half in halves(right)]


@torch.no_grad()
def is_right(model: PreTrainedModel, task: Task, images: Dataset) -> np.ndarray:
    """`-> (n,)` bool: whether the likeliest class is that of the image."""
    found = []
    for batch in DataLoader(images, 100, collate_fn=default_convert):
        arguments, labels = task.inputs({name: tensor.to(model.device) for name, tensor in batch.items()})
        found.append((model(**arguments).logits.argmax(dim=-1) == labels).cpu())
    return torch.cat(found).numpy()


@torch.no_grad()
def mean_latents(model: PreTrainedModel, task: Task, images: Dataset) -> np.ndarray:
    """`-> (n, D)`: the mean over the latents of each image, after the last layer."""
    found = []
    for batch in DataLoader(images, 100, collate_fn=default_convert):
        arguments, _ = task.inputs({name: tensor.to(model.device) for name, tensor in batch.items()})
        found.append(model.perceiver(**arguments).last_hidden_state.mean(dim=1).float().cpu())
    return torch.cat(found).numpy()


def accuracies(result: dict) -> dict[str, dict[int, list[float]]]:
    """Return accuracies of all seeds, by way and then by images a class; each image judged with the other half's rate.

    The rate of a half is the one with most right answers in that half, over all seeds.
    """
    runs, found = result["runs"], {}
    for way in (QUERY, ALL, PROBE):
        found[way] = {}
        for shots in dict.fromkeys(one["shots"] for one in runs[0]["tried"]):
            right = np.array(
                [[one["right"] for one in run["tried"] if (one["way"], one["shots"]) == (way, shots)] for run in runs]
            )  # (seeds, rates, halves)
            first, second = right.sum(axis=0).argmax(axis=0)
            crossed = right[:, second, 0] + right[:, first, 1]
            found[way][shots] = (crossed / sum(runs[0]["images"])).tolist()
    return found


def draw(result: dict) -> Figure:
    figure, (panel,) = new_figure(1, width=6.0, height=3.8)
    for (way, groups), colour, marker in zip(accuracies(result).items(), COLOURS, MARKERS, strict=False):
        draw_accuracies(panel, groups, colour, marker, way)
    panel.set(xlabel="images of each new class", ylabel=ACCURACY)
    panel.legend(frameon=False, loc="lower right")
    return figure


def tabulate(result: dict) -> str:
    runs, found = result["runs"], accuracies(result)
    shots = list(found[QUERY])
    lines = [
        f"| what learns | weights that learn | {' | '.join(f'{count} a class' for count in shots)} |",
        "|---|---:|" + "---:|" * len(shots),
    ]
    for way, groups in found.items():
        cells = " | ".join(percent(groups[count]) for count in shots)
        lines.append(f"| {way} | {runs[0]['trained'][way]:,} of {runs[0]['parameters']:,} | {cells} |")
    pretraining = percent([run["pretraining_accuracy"] for run in runs])
    fewer = f" Of {SHOTS[-1]} images a class the data to train on has {shots[-1]}." if shots[-1] < SHOTS[-1] else ""
    return (
        "\n".join(lines)
        + f"\n\nAccuracy in percent on the {sum(runs[0]['images'])} validation images of the second half of the "
        "classes, of which pretraining has seen no image. Pretraining reaches "
        f"{pretraining} % on those of the first half. Each seed has its own pretraining and its own draw of images."
        f"{fewer} Learning rates, and the strength of the probe's penalty, are chosen on one half of the images and "
        "judged on the other. Both kinds of tuning take "
        f"about {STEPS} steps, with the recipe's random changes of images, which the probe does not see.\n"
    )


def judge(result: dict) -> list[Finding]:
    found = accuracies(result)
    query, everything, probe = (found[way] for way in (QUERY, ALL, PROBE))
    findings, most = [], max(query)
    for shots in (count for count in query if count in FEW):
        images = f"{shots} image{'s' if shots > 1 else ''} a class"
        allowed = [accuracy + NO_WORSE for accuracy in query[shots]]
        findings += [
            is_larger(f"{QUERY}, with 2 points added, over {ALL} with {images}", allowed, everything[shots]),
            is_larger(f"{QUERY} over a linear probe with {images}", query[shots], probe[shots]),
        ]
    return [*findings, is_larger(f"{ALL} over {QUERY} with {most} images a class", everything[most], query[most])]
