"""Fewer latents and fewer blocks than a model has: by chance in training, and as asked at a call.

A model that trains with other numbers of latents and of blocks at each step answers with any of them, so one checkpoint
serves many budgets. A fixed number of latents, drawn anew at each step, is a cheaper step and a regulariser.
"""

from typing import TYPE_CHECKING

import torch

from .scalars import is_count, is_number
from .separable import GridInputs

if TYPE_CHECKING:
    from .modeling_perceiver_study import PerceiverStudyClassifier


def chosen_count(name: str, asked: int | None, most: int, drawn_from: int | list[int] | None) -> int:
    """How many latents or blocks to compute: as many as asked, or as drawn evenly, and otherwise all.

    Args:
        name: of the argument of `forward`.
        asked: what it was given.
        most: how many the model has.
        drawn_from: a number, or the lowest and the highest, in training; None in evaluation.

    Raises:
        ValueError: the model does not have as many, or less than one is asked for.
    """
    if asked is not None:
        if not is_count(asked) or asked > most:
            raise ValueError(f"{name}={asked!r}: expected None for all, or a whole number from 1 to {most}.")
        return int(asked)
    if drawn_from is None:
        return most
    if isinstance(drawn_from, int):
        return drawn_from
    lowest, highest = drawn_from
    return int(torch.randint(lowest, highest + 1, ()))


def chosen_rows(count: int, most: int, by_chance: bool, device: torch.device) -> torch.Tensor | None:
    """`-> (count,)`, which latents to compute: the first ones, or in training any; None is all."""
    if count == most:
        return None
    if by_chance:
        return torch.randperm(most, device=device)[:count]
    return torch.arange(count, device=device)


@torch.no_grad()
def classify_early(
    model: "PerceiverStudyClassifier", confidence: float, num_latents: int | None = None, **given: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(B, num_labels)` of the model's inputs and masks, and how many blocks each sample took, `(B,)`.

    After each block, samples whose likeliest class has a probability of at least `confidence` are done; the others go
    on. It is for models in evaluation mode that trained with fewer blocks at times (`training_blocks`).

    Args:
        confidence: a number of at least 0; above 1 all samples take all blocks.
        num_latents: as in `forward`.

    Raises:
        ValueError: the model does not answer with one class, or is in training mode; or `confidence` is no such number.
    """
    one_class = model.config.problem_type in (None, "single_label_classification") and model.config.tasks is None
    if not hasattr(model, "logits_of") or not one_class or model.config.num_labels < 2:
        raise ValueError(
            f"problem_type={model.config.problem_type!r} and num_labels={model.config.num_labels} of "
            f"{type(model).__name__}: expected a model that answers with one class of several."
        )
    if not is_number(confidence) or not confidence >= 0:
        raise ValueError(f"confidence={confidence!r}: expected a probability, or more than 1 to have all blocks.")
    if model.training:
        raise ValueError("The model is in training mode, in which answers may be random: call its eval() first.")
    perceiver = model.perceiver
    parts = perceiver.parts_of(**given)
    count, device = parts[0].pixels.shape[0], parts[0].pixels.device
    logits = torch.empty(count, model.config.num_labels, dtype=parts[0].pixels.dtype, device=device)
    blocks = torch.zeros(count, dtype=torch.long, device=device)
    latents, left = perceiver.first_latents(num_latents).expand(count, -1, -1), torch.arange(count, device=device)
    for index in range(model.config.num_blocks):
        latents = perceiver.block(index, latents, parts)
        answers = model.logits_of(latents)
        logits[left], blocks[left] = answers.to(logits.dtype), index + 1
        unsure = answers.float().softmax(dim=-1).amax(dim=-1) < confidence
        if not unsure.any():
            break
        if not unsure.all():
            left, latents = left[unsure], latents[unsure]
            parts = [_samples(part, unsure) for part in parts]
    return logits, blocks


def _samples(inputs: GridInputs, kept: torch.Tensor) -> GridInputs:
    """Some samples of a batch; what is one for all stays."""

    def some(field: torch.Tensor | None) -> torch.Tensor | None:
        return field if field is None or field.shape[0] != len(kept) else field[kept]

    return inputs._replace(
        pixels=inputs.pixels[kept],
        rows=some(inputs.rows),
        columns=some(inputs.columns),
        variance=some(inputs.variance),
        attention_mask=some(inputs.attention_mask),
    )
