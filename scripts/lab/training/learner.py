"""One optimiser step after another: what training and the small trainings of a study share."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from lab.augment.images import fold_seed
from lab.recipe import Recipe
from lab.training.optimization import build_optimizers, moving_average

# What the model sees, and classes or probabilities, from the pixels and labels of a part of a batch, the number of the
# step and the part's first place in the batch.
Inputs = Callable[[torch.Tensor, torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor]]


class Learner:
    """A model with its optimisers, their schedules and its moving average.

    Attributes:
        model: as accelerate prepared it.
        average: a moving average of its weights, or None where the recipe has none.
        learning_rate: of the last step.
    """

    def __init__(self, accelerator: Accelerator, recipe: Recipe, model: nn.Module, inputs: Inputs, total_steps: int):
        self.accelerator = accelerator
        self.settings = recipe.optimization
        self.seed = recipe.seed
        self.inputs = inputs
        torch.set_float32_matmul_precision(self.settings.matmul_precision)
        self.average = moving_average(model, self.settings.ema_decay, accelerator.device)
        optimizers, schedules = build_optimizers(model, self.settings, total_steps)
        self.model, *prepared = accelerator.prepare(model, *optimizers, *schedules)
        self.optimizers, self.schedules = prepared[: len(optimizers)], prepared[len(optimizers) :]
        self.learning_rate = 0.0

    @property
    def judged(self) -> nn.Module:
        """What is evaluated: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    @property
    def raw_judged(self) -> nn.Module:
        """The same without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.judged, keep_torch_compile=False)

    def learn(self, batch: dict[str, torch.Tensor], step: int, part: int) -> torch.Tensor:
        """Learn from a part of the batch of `step`, and take the step if that is its last part; returns the loss.

        Args:
            batch: `pixels` `(b, C, H, W)` uint8 and `labels` `(b,)`, this process's share of the part.
        """
        accelerator, labels = self.accelerator, batch["labels"]
        first = (part * accelerator.num_processes + accelerator.process_index) * len(labels)
        torch.manual_seed(fold_seed(self.seed, step, first))  # dropout, too, is the same after a resume
        with accelerator.accumulate(self.model):
            pixels, targets = self.inputs(batch["pixels"], labels, step, first)
            logits = self.model(pixel_values=pixels).logits
            loss = F.cross_entropy(logits, targets, label_smoothing=self.settings.label_smoothing)
            accelerator.backward(loss)
            if accelerator.sync_gradients and self.settings.max_gradient_norm is not None:
                accelerator.clip_grad_norm_(self.model.parameters(), self.settings.max_gradient_norm)
            self.learning_rate = self.schedules[0].get_last_lr()[0]
            for part_of_step in (*self.optimizers, *self.schedules):
                part_of_step.step()
            for optimizer in self.optimizers:
                optimizer.zero_grad()
        if accelerator.sync_gradients and self.average is not None:
            self.average.update_parameters(self.accelerator.unwrap_model(self.model, keep_torch_compile=False))
        return loss.detach()
