"""One class for each of several tasks, of which a sample may have any, such as the language and the mood of a text."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from lab.errors import UserError, counted, listed
from lab.recipe import Recipe
from lab.scoring.measures import task_score
from lab.scoring.report import Details, in_folder
from lab.tasks.targets.single_label import SingleLabel
from lab.tasks.targets.target import Scores, Target
from modeling_perceiver_study.several_tasks import SEPARATOR, by_task, task_losses


class SeveralTasks(Target):
    """`(n, L)` floats: 1 for the class that a sample has of each task, all 0 for a task of which it has none.

    Cross-entropy of each label that there is, so that a task counts as often as it has labels; the mean of the tasks'
    accuracies decides.
    """

    best = "accuracy"
    kind = "Classes of all tasks"
    shown_answers = "3"
    answer_in_code = (
        "{task: model.for_task(task).config.id2label[part.argmax().item()] "
        "for task, part in model.by_task(logits).items()}"
    )
    parts_tasks = True

    def __init__(self, recipe: Recipe, tasks: dict[str, int] | None = None):
        super().__init__(recipe, tasks)
        self.tasks, self.labels_a_sample = tasks, 1.0
        self.one = SingleLabel(recipe)
        if self.wanted_weights is not None:
            raise UserError(f"optimization.class_weights={self.wanted_weights}: expected null with model.tasks")

    def loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Divided by the labels that so many samples have on average: a batch cut into parts trains the same."""
        shares, kept = labels.float(), 1 - self.label_smoothing
        if self.label_smoothing:
            parts = by_task(shares, self.tasks).values()
            even = [part.sum(dim=-1, keepdim=True).expand_as(part) / part.shape[-1] for part in parts]
            shares = shares * kept + torch.cat(even, dim=-1) * self.label_smoothing
        return task_losses(logits, shares, self.tasks).sum() / (len(logits) * self.labels_a_sample)

    def fit(self, labels: np.ndarray, names: list[str]):
        super().fit(labels, names)
        self.labels_a_sample = float(labels.sum(axis=1).mean())

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        return self._scores(logits, labels, everything=False)

    def all_scores(self, logits: np.ndarray, labels: np.ndarray) -> Scores:
        return self._scores(logits, labels, everything=True)

    def _scores(self, logits: np.ndarray, labels: np.ndarray, everything: bool) -> Scores:
        """Scores of a single class as means over tasks, `loss` as the mean over labels, and each task's accuracy."""
        of_tasks, counts = {}, []
        for task, _, *given in self._parts(logits, labels):
            of_tasks[task] = self.one.all_scores(*given) if everything else self.one.scores(*given)
            counts.append(len(given[1]))
        names = [name for name in next(iter(of_tasks.values())) if all(name in one for one in of_tasks.values())]
        means = {name: float(np.mean([scores[name] for scores in of_tasks.values()])) for name in names}
        means["loss"] = float(np.average([scores["loss"] for scores in of_tasks.values()], weights=counts))
        return means | {task_score("accuracy", task): scores["accuracy"] for task, scores in of_tasks.items()}

    def mean(self, logits: list[torch.Tensor]) -> torch.Tensor:
        looks = [by_task(one, self.tasks) for one in logits]
        return torch.cat([self.one.mean([look[task] for look in looks]) for task in self.tasks], dim=-1)

    def details(self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str], samples: str) -> Details:
        texts, content = [], {}
        for task, own_names, *given in self._parts(logits, labels, names):
            (folder / task).mkdir(exist_ok=True)
            details = self.one.details(folder / task, *given, own_names, samples)
            texts.append(f"## {task}\n\n{len(given[1]):,} {samples}.\n\n{in_folder(task, details.markdown)}")
            content[task] = details.content
        return Details("\n".join(texts), {"tasks": content})

    def illustrate(
        self, folder: Path, logits: np.ndarray, labels: np.ndarray, names: list[str]
    ) -> list[tuple[str, str]]:
        pictures = []
        for task, own_names, *given in self._parts(logits, labels, names):
            (folder / task).mkdir(exist_ok=True)
            drawn = self.one.illustrate(folder / task, *given, own_names)
            pictures += [(f"{caption}: {task}", f"{task}/{file}") for caption, file in drawn]
        return pictures

    def distances(self, logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The sum over the tasks that a sample has labels of."""
        found = np.zeros(len(labels))
        for _, _, there, answers, truth in self._all_parts(logits, labels, None):
            found[there] += self.one.distances(answers, truth)
        return found

    def describe(
        self, logits: np.ndarray, labels: np.ndarray, chosen: np.ndarray, names: list[str]
    ) -> list[tuple[str, bool]]:
        described = [[] for _ in chosen]
        for task, own_names, there, answers, truth in self._all_parts(logits, labels, names):
            rows = [place for place, row in enumerate(chosen) if there[row]]
            of_rows = np.array([there[: chosen[place]].sum() for place in rows], dtype=int)
            told = self.one.describe(answers, truth, of_rows, own_names) if rows else []
            for place, (text, right) in zip(rows, told, strict=True):
                described[place].append((f"{task}{SEPARATOR}{text}", right))
        return [("\n".join(text for text, _ in found), all(right for _, right in found)) for found in described]

    def purpose(self, inputs: str, num_labels: int) -> str:
        told = listed([f"{task} ({counted(count, 'class', 'classes')})" for task, count in self.tasks.items()])
        return f"answers {counted(len(self.tasks), 'task', 'tasks at once')} on {inputs}: {told}"

    def title(self, label: np.ndarray, names: list[str]) -> str:
        return ", ".join(name for name, there in zip(names, label, strict=True) if there)

    def example(self, size: int, num_labels: int, device: torch.device | str) -> torch.Tensor:
        return torch.zeros(size, num_labels, device=device)

    def weakness(self, logits: np.ndarray, labels: np.ndarray, names: list[str]) -> str:
        told = [(task, self.one.weakness(*given, own)) for task, own, *given in self._parts(logits, labels, names)]
        return " ".join(f"Of {task}: {text}" for task, text in told)

    def balance(self, labels: np.ndarray, num_labels: int) -> np.ndarray:
        raise NotImplementedError  # refused when it is asked for

    def _parts(
        self, logits: np.ndarray, labels: np.ndarray, names: list[str] | None = None
    ) -> Iterator[tuple[str, list[str], np.ndarray, np.ndarray]]:
        """Of each task that has labels its name, those of its classes, and logits and classes of samples with one.

        Raises:
            UserError: no task has any.
        """
        if not labels.any():
            raise UserError("no sample of this split has a label of any task: there is nothing to score")
        for task, own_names, _, answers, truth in self._all_parts(logits, labels, names):
            if len(truth):
                yield task, own_names, answers, truth

    def _all_parts(self, logits: np.ndarray, labels: np.ndarray, names: list[str] | None):
        first = 0
        for task, count in self.tasks.items():
            own = slice(first, first + count)
            there = labels[:, own].any(axis=1)
            own_names = [name.removeprefix(f"{task}{SEPARATOR}") for name in names[own]] if names else []
            yield task, own_names, there, np.ascontiguousarray(logits[there, own]), labels[there, own].argmax(axis=1)
            first += count
