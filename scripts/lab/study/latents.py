"""What the latents hold: how similar they are, where they look, and how well a linear probe of each layer does."""

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Dataset, default_convert
from transformers import PreTrainedModel

from lab.looking.maps import cross_attention_maps
from lab.looking.style import COLOURS, MARKERS, tidy
from lab.recipe import Recipe
from lab.study.comparison import Finding, is_above, is_larger, percent
from lab.study.pictures import draw_accuracies
from lab.study.setting import Setting
from lab.study.training import Job, load_samples, run_all, train_small
from lab.tasks.task import Task
from modeling_perceiver_study import PerceiverStudyConfig

TITLE = "What the latents hold"
CLAIM = (
    "Latents look at different parts of the input and hold different things; each further cross-attend and "
    "self-attend refines what they hold, so that it becomes easier with depth to read the class."
)
SOURCE = "Perceiver (arXiv 2103.03206), sections 1 and 3.1: iterative attention, latents as the input's centroids"

NUM_CROSS_ATTENDS = 3
SHAPE = (f"model.num_blocks={NUM_CROSS_ATTENDS}", f"model.num_cross_attends={NUM_CROSS_ATTENDS}")
_IMAGES = 2000  # to fit a probe on, at most
_APART = 0.1  # of the image: fields whose centres are further from the common centre look at different parts


def settings(setting: Setting) -> dict:
    return setting.for_training(*SHAPE)


def run(setting: Setting) -> dict:
    jobs = [Job({"seed": seed}, setting.recipe(*SHAPE, seed=seed), train_and_probe) for seed in setting.seeds]
    return {"runs": run_all(jobs, setting, TITLE)}


def train_and_probe(recipe: Recipe) -> dict:
    """Return scores; for each layer cosine, rank and probe; for each head of each latent its field in the first map."""
    trained = train_small(recipe)
    images, model = load_samples(recipe), trained.model
    parts = (images.train, images.validation)
    train_states, validation_states = (hidden_states(model, part, images.task) for part in parts)
    train_labels, validation_labels = (part.labels[:_IMAGES] for part in parts)
    layers = [
        {
            "layer": name,
            "cosine": round(mean_cosine(latents).item(), 4),
            "rank": round(effective_rank(latents).item() / min(latents.shape[1:]), 4),
            "probe": round(probe(fit, train_labels, latents, validation_labels), 4),
        }
        for name, fit, latents in zip(layer_names(model.config), train_states, validation_states, strict=True)
    ]
    pixels = images.validation.__getitems__(range(min(_IMAGES, len(images.validation))))["pixels"]
    maps = cross_attention_maps(model, images.task.normalize(pixels.to(model.device)))[0].mean(dim=0).flatten(0, 1)
    even = fields(torch.ones_like(maps[:1]))[0]["width"]
    return {**trained.scores(), "layers": layers, "fields": fields(maps), "even_width": even}


def layer_names(config: PerceiverStudyConfig) -> list[str]:
    """Return the names of the layers that give the `hidden_states`, such as `cross 1`."""
    names, depth = [], 0
    for block in range(config.num_blocks):
        names += [f"cross {block + 1}"] if block < config.num_cross_attends else []
        names += [f"self {depth + place + 1}" for place in range(config.num_self_attends_per_block)]
        depth += config.num_self_attends_per_block
    return names


@torch.no_grad()
def hidden_states(model: PreTrainedModel, images: Dataset, task: Task) -> list[torch.Tensor]:
    """Return the latents of the first `n` images after each layer, `[(n, N, D)]`, in float32 on the CPU."""
    some = torch.utils.data.Subset(images, range(min(_IMAGES, len(images))))
    batches = []
    for batch in DataLoader(some, 100, collate_fn=default_convert):
        inputs = task.normalize(batch["pixels"].to(model.device))
        states = model(pixel_values=inputs, output_hidden_states=True).hidden_states[-model.config.num_hidden_layers :]
        batches.append([state.float().cpu() for state in states])
    return [torch.cat(states) for states in zip(*batches, strict=True)]


def mean_cosine(latents: torch.Tensor) -> torch.Tensor:
    """`(n, N, D) -> ()`: return the mean cosine between two latents of an image, over all pairs and images."""
    unit = torch.nn.functional.normalize(latents, dim=-1)
    count = latents.shape[1]
    cosines = unit @ unit.mT
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / (count * (count - 1))


def effective_rank(latents: torch.Tensor) -> torch.Tensor:
    """`(n, N, D) -> ()`: return the exponential of the entropy of an image's singular values, mean over images.

    It is 1 if all latents are multiples of one, and at most the smaller of `N` and `D` (Roy and Vetterli, 2007).
    """
    values = torch.linalg.svdvals(latents)
    shares = values / values.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp().mean()


def probe(train: torch.Tensor, train_labels: np.ndarray, validation: torch.Tensor, labels: np.ndarray) -> float:
    """Fit a linear classifier of the mean latent on training images, and return its accuracy on validation images.

    Args:
        train: `(n, N, D)`, latents of training images.
        train_labels: `(n,)`.
        validation: `(m, N, D)`, latents of validation images.
        labels: `(m,)`.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(train.mean(dim=1).numpy(), train_labels)
    return float(classifier.score(validation.mean(dim=1).numpy(), labels))


def fields(maps: torch.Tensor) -> list[dict[str, float]]:
    """Return the centre of each map (`row`, `column`) and its `width`.

    Coordinates go from 0 to 1 across the image. The width is the root of the mean squared distance from the centre.

    Args:
        maps: `(n, H, W)`, weights of at least 0; they are scaled to sum to 1.
    """
    weights = maps / maps.sum(dim=(-2, -1), keepdim=True)
    rows, columns = ((torch.arange(size) + 0.5) / size for size in maps.shape[-2:])
    down, across = weights.sum(dim=-1), weights.sum(dim=-2)
    row, column = down @ rows, across @ columns
    variance = down @ rows.square() - row.square() + across @ columns.square() - column.square()
    return [
        {"row": round(r, 4), "column": round(c, 4), "width": round(w, 4)}
        for r, c, w in zip(row.tolist(), column.tolist(), variance.clamp_min(0).sqrt().tolist(), strict=True)
    ]


def draw(result: dict) -> Figure:
    runs = result["runs"]
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    tidy(left, middle)
    draw_accuracies(left, _by_layer(runs, "probe"))
    left.set(ylabel="accuracy of a linear probe (%)", title="linear probe of the mean latent")
    for name, label, colour, marker in zip(
        ("cosine", "rank"), ("mean cosine of two latents", "effective rank / largest"), COLOURS, MARKERS, strict=False
    ):
        draw_accuracies(middle, _by_layer(runs, name), colour, marker, label)
    middle.set(ylabel="%", title="similarity of latents", ylim=(-15, 100))
    middle.legend(frameon=False)
    for panel in (left, middle):
        panel.tick_params(axis="x", rotation=45)
    for run, colour, marker in zip(runs, COLOURS, MARKERS, strict=False):
        column, row, width = ([field[name] for field in run["fields"]] for name in ("column", "row", "width"))
        size = 200 * np.square(width)  # of a marker in square points, so its side goes with the width
        right.scatter(column, row, size, color=colour, marker=marker, alpha=0.6, label=f"seed {run['seed']}")
    right.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=[], yticks=[], title="where heads of latents look first")
    right.set_xlabel("centres on the image; larger: a wider field")
    right.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def tabulate(result: dict) -> str:
    runs = result["runs"]
    lines = ["| layer | probe accuracy % | mean cosine % | effective rank, % of the largest |", "|---|---:|---:|---:|"]
    columns = [_by_layer(runs, name) for name in ("probe", "cosine", "rank")]
    lines += [f"| {name} | {' | '.join(percent(column[name]) for column in columns)} |" for name in columns[0]]
    widths, even = _widths(runs)
    return (
        "\n".join(lines) + "\n\nFields of heads and latents in the first cross-attend, in percent of the image's side: "
        f"{percent(widths)} wide (a map that is equal everywhere: {percent(even)}), their centres "
        f"{percent(_distances(runs))} from the common centre.\n"
    )


def judge(result: dict) -> list[Finding]:
    runs = result["runs"]
    probes, cosines = (_by_layer(runs, name) for name in ("probe", "cosine"))
    first, *_, last = probes
    block = next(name for name in probes if name.startswith("self"))
    widths, even = _widths(runs)
    return [
        is_larger("fields narrower than those of a map that is equal everywhere", even, widths),
        is_above(
            f"their centres over {100 * _APART:.0f} % of the side from the common centre", _distances(runs), _APART
        ),
        is_larger(f"latents less similar after {last} than after {first}", cosines[first], cosines[last]),
        is_larger(f"a probe better after {last} than after {first}", probes[last], probes[first]),
        is_larger(f"a probe better after {last} than after {block}", probes[last], probes[block]),
    ]


def _by_layer(runs: list[dict], name: str) -> dict[str, list[float]]:
    """Return a measure of each layer, with all seeds."""
    return {
        layer["layer"]: [run["layers"][place][name] for run in runs] for place, layer in enumerate(runs[0]["layers"])
    }


def _widths(runs: list[dict]) -> tuple[list[float], list[float]]:
    """Return for each seed the mean width of fields, and the width of a map that is equal everywhere."""
    widths = [float(np.mean([field["width"] for field in run["fields"]])) for run in runs]
    return widths, [run["even_width"] for run in runs]


def _distances(runs: list[dict]) -> list[float]:
    """Return for each seed the root mean square distance of the centres from their mean."""
    centres = [np.array([[field["row"], field["column"]] for field in run["fields"]]) for run in runs]
    return [float(np.sqrt(of_run.var(axis=0).sum())) for of_run in centres]
