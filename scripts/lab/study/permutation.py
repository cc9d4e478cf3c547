"""One fixed permutation of the pixels for all images: of pixels with their positions, and of pixels alone.

A Perceiver's byte array is a set, so permuting pixels together with their positions cannot change a logit, whatever the
weights. A convolution depends on which pixels are neighbours, so permuted pixels are a different problem for it.
Permuting the pixels alone gives every pixel the position of another. Fourier features are affected, because they encode
which pixels are near; learned positions do not encode that. Each seed has its own permutation.
"""

import math

import torch
from matplotlib.figure import Figure
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from lab.recipe import Recipe
from lab.study.comparison import Finding, gather, is_larger, is_true, percent, sentence
from lab.study.pictures import ACCURACY, draw_accuracies, new_figure
from lab.study.setting import Setting
from lab.study.training import Job, load_samples, run_all, train_and_score, train_small
from lab.tasks import build_task
from lab.tasks.task import Arguments, Task
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification
from modeling_perceiver_study.position import byte_array, fourier_axis_features

TITLE = "Permuted pixels"
CLAIM = (
    "Under a fixed permutation of pixels with their positions a Perceiver's accuracy stays the same (ImageNet: 78.0 "
    "and 78.0 %; 70.9 and 70.9 % with learned positions), while convolutional networks lose much of theirs, although "
    "they get the positions too (ResNet-50: 73.5 and 39.4 %)."
)
SOURCE = "Perceiver (arXiv 2103.03206), section 4.1 and table 2"
EXACT = 1e-3  # the largest relative difference of logits that float32 sums in another order may make
SAME = 0.0005  # accuracies that differ by less are the same to the digits of the claim

RAW = "as they are"
WITH_POSITIONS = "permuted with positions"
ALONE = "permuted without positions"
# Muon is made for matrices between layers, which a small ConvNet does not have.
CONVOLUTIONAL_TRAINING = ("optimization.optimizer=adamw", "optimization.learning_rate=3.0e-3")
FOURIER, LEARNED, CONVOLUTIONAL = "Perceiver, Fourier", "Perceiver, learned", "ConvNet, Fourier"


def settings(setting: Setting) -> dict:
    return setting.for_training()


def run(setting: Setting) -> dict:
    jobs = []
    for seed in setting.seeds:
        fourier, learned = (
            setting.recipe(f"model.position_encoding_type={kind}", seed=seed) for kind in ("fourier", "learned")
        )
        convolutional = setting.recipe(*CONVOLUTIONAL_TRAINING, seed=seed)
        for model, pixels, recipe, work, arguments in (
            (FOURIER, RAW, fourier, train_and_permute, {}),
            (FOURIER, ALONE, fourier, train_on_permuted, {}),
            (LEARNED, RAW, learned, train_and_score, {}),
            (LEARNED, ALONE, learned, train_on_permuted, {}),
            (CONVOLUTIONAL, RAW, convolutional, train_convolutional, {"permuted": False}),
            (CONVOLUTIONAL, WITH_POSITIONS, convolutional, train_convolutional, {"permuted": True}),
        ):
            jobs.append(Job({"model": model, "pixels": pixels, "seed": seed}, recipe, work, arguments))
    return {"runs": run_all(jobs, setting, TITLE)}


def permutation(grid: list[int], seed: int) -> torch.Tensor:
    """Return `(M,)`: place `i` gets what was at place `permutation[i]`, in row-major order."""
    return torch.randperm(math.prod(grid), generator=torch.Generator().manual_seed(seed))


def train_on_permuted(recipe: Recipe) -> dict:
    """Return the scores of a model whose pixels are permuted and whose positions are not."""
    order = permutation(build_task(recipe).config.grid, recipe.seed)

    def permute(arguments: Arguments) -> Arguments:
        pixels = arguments["pixel_values"]
        return {"pixel_values": pixels.flatten(2)[..., order.to(pixels.device)].view_as(pixels)}

    return train_small(recipe, alter=permute).scores()


def train_and_permute(recipe: Recipe) -> dict:
    """Return the scores of a model, and what `compare_permuted` finds for it after training."""
    trained = train_small(recipe)
    return {**trained.scores(), **compare_permuted(trained.model, recipe)}


@torch.no_grad()
def compare_permuted(model: PerceiverStudyForImageClassification, recipe: Recipe) -> dict:
    """Compare the logits of permuted byte arrays of the validation images with those of the images themselves.

    Returns:
        `permuted_accuracy` from 0 to 1, and the largest absolute values of logits (`largest_logit`) and of differences
        between the two (`largest_difference`).
    """
    order = permutation(model.config.grid, recipe.seed).to(model.device)
    images = load_samples(recipe)
    features = _features(model.config, model.device)
    right, largest, scale = 0, 0.0, 0.0
    for start in range(0, len(images.validation), recipe.optimization.batch_size):
        rows = range(start, min(start + recipe.optimization.batch_size, len(images.validation)))
        batch = images.validation.__getitems__(list(rows))
        pixels = images.task.normalize(batch["pixels"].to(model.device))
        logits = model(pixel_values=pixels).logits
        permuted = model(inputs=byte_array(pixels, features)[:, order]).logits
        largest = max(largest, (permuted - logits).abs().max().item())
        scale = max(scale, logits.abs().max().item())
        right += (permuted.argmax(dim=-1).cpu() == batch["labels"]).sum().item()
    return {
        "permuted_accuracy": right / len(images.validation),
        "largest_logit": scale,
        "largest_difference": largest,
    }


def train_convolutional(recipe: Recipe, permuted: bool) -> dict:
    """Return the scores of a convolutional network that gets the positions as channels."""
    return train_small(recipe, build=lambda task: ConvNet(task, permuted)).scores()


class ConvNet(nn.Module):
    """`(B, C, H, W) -> (B, classes)`: pixels beside their Fourier features, permuted or not, and three convolutions."""

    def __init__(self, task: Task, permuted: bool):
        super().__init__()
        self.config = task.config
        height, width = self.config.grid
        order = permutation(self.config.grid, task.recipe.seed) if permuted else torch.arange(height * width)
        self.register_buffer("order", order)
        channels = self.config.num_input_channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, self.config.num_labels),
        )

    def forward(self, pixel_values: torch.Tensor) -> ImageClassifierOutput:
        points = byte_array(pixel_values, _features(self.config, pixel_values.device))[:, self.order]
        return ImageClassifierOutput(logits=self.layers(points.mT.unflatten(-1, self.config.grid)))


def _features(config: PerceiverStudyConfig, device: torch.device) -> list[torch.Tensor]:
    """Return the Fourier features of each axis, `(1, S_a, F)`."""
    axes = fourier_axis_features(
        config.grid, config.num_frequency_bands, config.axis_max_frequencies, config.concat_positions, device=device
    )
    return [axis[None] for axis in axes]


def _accuracies(result: dict) -> dict[str, dict[str, list[float]]]:
    """Return validation accuracies with all seeds, by model and then by kind of permutation."""
    runs = result["runs"]
    models = {
        model: gather([run for run in runs if run["model"] == model], "pixels", "validation_accuracy")
        for model in (FOURIER, LEARNED, CONVOLUTIONAL)
    }
    exact = [run["permuted_accuracy"] for run in runs if "permuted_accuracy" in run]
    models[FOURIER] = {RAW: models[FOURIER][RAW], WITH_POSITIONS: exact, ALONE: models[FOURIER][ALONE]}
    return models


def draw(result: dict) -> Figure:
    figure, panels = new_figure(3, width=3.2)
    for panel, (model, groups) in zip(panels, _accuracies(result).items(), strict=True):
        broken = {name.replace(" ", "\n"): values for name, values in groups.items()}
        draw_accuracies(panel, broken, line=False)
        panel.set_title(model, fontsize=10)
    panels[0].set_ylabel(ACCURACY)
    return figure


def tabulate(result: dict) -> str:
    columns = (RAW, WITH_POSITIONS, ALONE)
    lines = [
        f"| validation accuracy %, pixels | parameters | {' | '.join(columns)} |",
        "|---|---:|---:|---:|---:|",
    ]
    parameters = gather(result["runs"], "model", "parameters")
    for model, groups in _accuracies(result).items():
        cells = [percent(groups[name]) if name in groups else "" for name in columns]
        lines.append(f"| {model} | {parameters[model][0]:,} | {' | '.join(cells)} |")
    return (
        "\n".join(lines)
        + f"\n\nThe ConvNet is trained with `{' '.join(CONVOLUTIONAL_TRAINING)}`. Not part of the claim: "
        f"{sentence(without_positions(result))}\n"
    )


def without_positions(result: dict) -> list[Finding]:
    """Judge what pixels that are permuted without their positions cost each kind of positions."""
    return [
        is_larger(f"{model}: pixels as they are over pixels {ALONE}", groups[RAW], groups[ALONE])
        for model, groups in _accuracies(result).items()
        if ALONE in groups
    ]


def judge(result: dict) -> list[Finding]:
    accuracies = _accuracies(result)
    exact = [run for run in result["runs"] if "largest_difference" in run]
    moved = max(abs(run["permuted_accuracy"] - run["validation_accuracy"]) for run in exact)
    largest = max(run["largest_difference"] for run in exact)
    scale = max(run["largest_logit"] for run in exact)
    return [
        is_true(
            f"permuting pixels with their positions moves the Perceiver's accuracy by at most {100 * moved:.1f} points",
            moved < SAME,
        ),
        is_true(f"and its logits, of up to {scale:.1f}, by at most {largest:.1e}", largest <= EXACT * max(1.0, scale)),
        is_larger(
            "the ConvNet on images as they are over permuted ones",
            accuracies[CONVOLUTIONAL][RAW],
            accuracies[CONVOLUTIONAL][WITH_POSITIONS],
        ),
    ]
