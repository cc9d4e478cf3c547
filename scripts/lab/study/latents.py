"""What the latents hold: how alike they are, where they look, and what a linear probe reads from each layer."""

import numpy as np
import torch
from matplotlib.figure import Figure
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, Dataset, default_convert
from transformers import PreTrainedModel

from lab.looking.curves import COLOURS, MARKERS, tidy
from lab.looking.maps import cross_attention_maps
from lab.recipe import Recipe
from lab.study.comparison import conclude, is_larger, percent
from lab.study.pictures import draw_accuracies
from lab.study.setting import Setting
from lab.study.training import Job, load_samples, run_all, train_small
from lab.tasks.task import Task
from modeling_perceiver_study import PerceiverStudyConfig

TITLE = "What the latents hold"
CLAIM = (
    "Latents look at different parts of the input and hold different things; each further cross-attend and "
    "self-attend refines what they hold, so that classes are read off ever more easily with depth."
)
SOURCE = "Perceiver (arXiv 2103.03206), sections 1 and 3.1: iterative attention, latents as the input's centroids"

NUM_CROSS_ATTENDS = 3
SHAPE = (f"model.num_blocks={NUM_CROSS_ATTENDS}", f"model.num_cross_attends={NUM_CROSS_ATTENDS}")
_IMAGES = 2000  # at most, to fit a probe on


def run(setting: Setting) -> dict:
    jobs = [Job({"seed": seed}, setting.recipe(*SHAPE, seed=seed), train_and_probe) for seed in setting.seeds]
    return {"runs": run_all(jobs, setting, TITLE)}


def train_and_probe(recipe: Recipe) -> dict:
    """Scores; for each layer similarity, rank and probe; for each head of each latent where it looks first."""
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
    """Of the `hidden_states`, such as `cross 1`."""
    names, depth = [], 0
    for block in range(config.num_blocks):
        names += [f"cross {block + 1}"] if block < config.num_cross_attends else []
        names += [f"self {depth + place + 1}" for place in range(config.num_self_attends_per_block)]
        depth += config.num_self_attends_per_block
    return names


@torch.no_grad()
def hidden_states(model: PreTrainedModel, images: Dataset, task: Task) -> list[torch.Tensor]:
    """`[(n, N, D)]` after each layer, of the first `n` images, in float32 on the CPU."""
    some = torch.utils.data.Subset(images, range(min(_IMAGES, len(images))))
    batches = []
    for batch in DataLoader(some, 100, collate_fn=default_convert):
        inputs = task.normalize(batch["pixels"].to(model.device))
        states = model(pixel_values=inputs, output_hidden_states=True).hidden_states
        batches.append([state.float().cpu() for state in states])
    return [torch.cat(states) for states in zip(*batches, strict=True)]


def mean_cosine(latents: torch.Tensor) -> torch.Tensor:
    """`(n, N, D) -> ()`: cosine of the angle between two latents of an image, over all pairs and images."""
    unit = torch.nn.functional.normalize(latents, dim=-1)
    count = latents.shape[1]
    cosines = unit @ unit.mT
    return (cosines.sum(dim=(1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(dim=1)).mean() / (count * (count - 1))


def effective_rank(latents: torch.Tensor) -> torch.Tensor:
    """`(n, N, D) -> ()`: the exponential of the entropy of an image's singular values, mean over images.

    From 1, where all latents are multiples of one, to the smaller of `N` and `D` (Roy and Vetterli, 2007).
    """
    values = torch.linalg.svdvals(latents)
    shares = values / values.sum(dim=-1, keepdim=True)
    return torch.special.entr(shares).sum(dim=-1).exp().mean()


def probe(train: torch.Tensor, train_labels: np.ndarray, validation: torch.Tensor, labels: np.ndarray) -> float:
    """Accuracy on validation images of a linear classifier of the mean latent, fitted on training images."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    classifier.fit(train.mean(dim=1).numpy(), train_labels)
    return float(classifier.score(validation.mean(dim=1).numpy(), labels))


def fields(maps: torch.Tensor) -> list[dict[str, float]]:
    """`(n, H, W)`, weights that sum to 1 or not -> centre of each in rows and columns, and its width.

    Coordinates go from 0 to 1 across the image. The width is the root of the mean squared distance from the centre.
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
    left.set(ylabel="accuracy of a linear probe (%)", title="what a probe reads")
    for name, label, colour, marker in zip(
        ("cosine", "rank"), ("mean cosine of two latents", "effective rank / largest"), COLOURS, MARKERS, strict=False
    ):
        draw_accuracies(middle, _by_layer(runs, name), colour, marker, label)
    middle.set(ylabel="%", title="how alike latents are", ylim=(-15, 100))
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
        f"{percent(widths)} wide (looking everywhere alike is {percent(even)}), their centres "
        f"{percent(_distances(runs))} from the common centre.\n"
    )


def judge(result: dict) -> tuple[str, str]:
    runs = result["runs"]
    probes, cosines = (_by_layer(runs, name) for name in ("probe", "cosine"))
    first, *_, last = probes
    block = next(name for name in probes if name.startswith("self"))
    widths, even = _widths(runs)
    return conclude(
        [
            is_larger(f"a probe reads more after {last} than after {first}", probes[last], probes[first]),
            is_larger(f"a probe reads more after {last} than after {block}", probes[last], probes[block]),
            is_larger(f"latents are less alike after {last} than after {first}", cosines[first], cosines[last]),
            is_larger("fields are narrower than looking everywhere alike", even, widths),
        ]
    )


def _by_layer(runs: list[dict], name: str) -> dict[str, list[float]]:
    return {
        layer["layer"]: [run["layers"][place][name] for run in runs] for place, layer in enumerate(runs[0]["layers"])
    }


def _widths(runs: list[dict]) -> tuple[list[float], list[float]]:
    """Mean over latents, and the width of an even map, for each seed."""
    return [float(np.mean([field["width"] for field in run["fields"]])) for run in runs], [
        run["even_width"] for run in runs
    ]


def _distances(runs: list[dict]) -> list[float]:
    """Of the centres from the mean of all centres, the root of the mean square, for each seed."""
    centres = [np.array([[field["row"], field["column"]] for field in run["fields"]]) for run in runs]
    return [float(np.sqrt(of_run.var(axis=0).sum())) for of_run in centres]
