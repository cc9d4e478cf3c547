"""One optimiser step after another: what training and the small trainings of a study share."""

import math
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import nn

from lab.augment.seeds import fold_seed
from lab.data.loaders import EpochLoader
from lab.data.streams import StreamLoader
from lab.tasks.task import Batch, Task, batch_size
from lab.training.checkpoint import Progress
from lab.training.optimization import build_optimizers, freeze, frozen_norms, moving_average


class Learner:
    """A model with its optimisers and its moving average, which learns a task.

    Attributes:
        model: as accelerate prepared it.
        average: a moving average of its weights, or None where the recipe has none.
        learning_rate: the one of the last step, of parameters without a factor of their own.
    """

    def __init__(self, accelerator: Accelerator, task: Task, model: nn.Module):
        self.accelerator, self.task = accelerator, task
        self.settings, self.seed = task.recipe.optimization, task.recipe.seed
        torch.set_float32_matmul_precision(self.settings.matmul_precision)
        freeze(model, self.settings.freeze)
        self.frozen_norms = frozen_norms(model) if self.settings.freeze else []
        self.average = moving_average(model, self.settings.ema_decay, accelerator.device)
        optimizers = build_optimizers(model, self.settings, task.head)
        # A checkpoint brings its own learning rates and decays. What counts is the recipe, which may have changed.
        self.groups = [[dict(group, params=None) for group in optimizer.param_groups] for optimizer in optimizers]
        self.model, *self.optimizers = accelerator.prepare(model, *optimizers)
        self.learning_rate = 0.0

    def restore(self, average: dict[str, torch.Tensor] | None):
        """Take over the moving average of a checkpoint, whose weights the model has; None begins one with them."""
        if self.average is not None and average is not None:
            self.average.load_state_dict(average)
        elif self.average is not None:
            self.average.module.load_state_dict(self.raw_model.state_dict())

    @property
    def raw_model(self) -> nn.Module:
        """The model without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.model, keep_torch_compile=False)

    @property
    def judged(self) -> nn.Module:
        """What is evaluated: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def share_statistics(self):
        """Give all processes those of the first one's batch norms, so that all judge the model that is saved."""
        if self.accelerator.num_processes > 1:
            broadcast(list(self.raw_judged.buffers()))  # in place

    @property
    def raw_judged(self) -> nn.Module:
        """The same without what accelerate put around it."""
        return self.accelerator.unwrap_model(self.judged, keep_torch_compile=False)

    def steps(self, loader: EpochLoader | StreamLoader, progress: Progress) -> Iterator[torch.Tensor]:
        """Take the steps that the epoch of `progress` still has; gives the loss of each, and counts it in `progress`.

        The learning rate follows the share of all samples that were seen, whatever the batch size was until now.
        """
        parts = self.accelerator.gradient_accumulation_steps
        in_epoch = progress.samples + loader.steps_left(progress.samples) * loader.batch_size
        loss = torch.zeros((), device=self.accelerator.device)
        for number, batch in enumerate(loader.batches(progress.epoch, progress.samples)):
            part = number % parts
            if part == 0:
                self._begin_to_learn()
                self._set_rates((progress.epoch + progress.samples / in_epoch) / self.settings.epochs)
                loss = torch.zeros_like(loss)
            loss += self._learn(batch, progress.step, part) / parts
            if part == parts - 1:
                progress.step += 1
                progress.samples += loader.batch_size
                yield loss

    def _learn(self, batch: Batch, step: int, part: int) -> torch.Tensor:
        """Learn from a part of the batch of `step`, and take the step if that is its last part; returns the loss."""
        accelerator = self.accelerator
        first = (part * accelerator.num_processes + accelerator.process_index) * batch_size(batch)
        torch.manual_seed(fold_seed(self.seed, step, first))  # dropout, too, is the same after a resume
        with accelerator.accumulate(self.model):
            arguments, targets = self.task.training_inputs(batch, step, first)
            loss = self.task.loss(self.model(**arguments), targets)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                self._take_step()
        return loss.detach()

    def _take_step(self):
        """Take a step, and average the weights that it leads to.

        With several optimisers and a scaler of the loss, as of fp16, all of them take it or none does. By itself
        accelerate changes the scale after each of them, and the next one divides its gradients by it again.
        """
        accelerator, limit = self.accelerator, self.settings.max_gradient_norm
        together = accelerator.scaler is not None and len(self.optimizers) > 1
        if limit is not None or together:
            norm = accelerator.clip_grad_norm_(self.model.parameters(), math.inf if limit is None else limit)
        if not together:
            for optimizer in self.optimizers:
                optimizer.step()
        else:
            if norm.isfinite():
                for optimizer in self.optimizers:
                    accelerator.scaler.step(optimizer.optimizer)
            accelerator.scaler.update()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.raw_model)

    def _begin_to_learn(self):
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def _set_rates(self, share: float):
        factor = schedule(share, self.settings.warmup)
        self.learning_rate = self.settings.learning_rate * factor
        for optimizer, groups in zip(self.optimizers, self.groups, strict=True):
            for group, wanted in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = wanted["lr"] * factor
                group["weight_decay"] = wanted["weight_decay"]


def schedule(share: float, warmup: float) -> float:
    """The share of the peak learning rate after that share of training: up in a line, then down along a cosine."""
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) if share < 1 else 0.0
