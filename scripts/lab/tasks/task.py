"""What a task tells the rest of the library, which knows neither what a model is given nor what it is asked for.

A batch travels as a dict of tensors with one row a sample:

    load_splits -> batch -> training_inputs or inputs -> (arguments of the model, targets)
    model(**arguments) -> loss, in training
    model(**arguments) -> judge -> scores, in evaluation
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin

from lab.data.splits import Splits
from lab.errors import UserError
from lab.looking.view import View
from lab.recipe import PROCESSOR_SECTIONS, Range, Recipe, architecture_keys, require_keys, typed
from lab.scoring.measures import measure_of
from lab.tasks.pretrained import Pretrained

TAGS = ["perceiver", "custom_code", "arxiv:2103.03206"]  # of the Hub, unless a task has others
# What a card says where its task says nothing.
CARD_PARTS = {
    "purpose": "answers what it was trained to",
    "elements": "elements of the input",
    "details": "",
    "weakness": "",
    "limits": "",
    "confident": True,
    "usage": (),
    "packages": (),
    "augmentation": "",
    "tags": TAGS,
}

Batch = dict[str, torch.Tensor]
Arguments = dict[str, Any]
Judged = dict[str, np.ndarray]
Scores = dict[str, float]


@dataclasses.dataclass
class NoAugmentation:
    """The section `augmentation:` of a task whose samples are never changed."""


class Task(ABC):
    """One kind of input with one kind of answer.

    Attributes:
        name: the value of a recipe's key `task`; also the Hub's name of the pipeline.
        samples: what its samples are called, in the plural.
        model_class: the model that learns it.
        processor_class: what turns a file into its arguments.
        processor_section: the section of the recipe that is about the processor.
        processor_files: what saving the processor writes.
        head: name of the model's last linear layer.
        augmentation_class: dataclass of the recipe's section `augmentation:`, with the values allowed beside it.
        view: what reads and draws a sample for commands that are given a file; None is what `VIEWS` has for the model.
        clean_check: Python lines that load what is in `folder` as a stranger would, and ask the model something.
        in_pairs: a batch must not be cut between its samples 0 and 1, 2 and 3, and so on.
        best: the score that decides which epoch is kept; between equal ones the lower loss decides.
        recipe: what the task was made from, with the defaults of its own section filled in.
        config: of the model.
        processor: what turns a file into the model's arguments, saved beside the model.
        pretrained: the checkpoint that training starts from, or None.
        validated: `Splits.validated` of the run that the model is of, which `load_split` compares with what it finds;
            None where nothing is known of it.
    """

    name: ClassVar[str]
    samples: ClassVar[str]
    model_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[type]
    processor_section: ClassVar[str] = "feature_extractor"
    processor_files: ClassVar[tuple[str, ...]] = ("preprocessor_config.json",)
    head: ClassVar[str] = "classifier"
    augmentation_class: ClassVar[type] = NoAugmentation
    augmentation_ranges: ClassVar[dict[str, Range]] = {}
    view: ClassVar[type[View] | None] = None
    clean_check: ClassVar[str] = ""
    in_pairs: bool = False
    best: str
    validated: str | None = None

    def __init__(
        self,
        recipe: Recipe,
        config: PreTrainedConfig | None = None,
        processor: Any = None,
        pretrained: Pretrained | None = None,
    ):
        """
        Args:
            config: of a model that is there already; None makes the one that the recipe describes.
            processor: likewise.
            pretrained: what the recipe starts from.

        Raises:
            UserError: the recipe does not fit the task.
        """
        self.pretrained = pretrained
        for section in PROCESSOR_SECTIONS:
            if section != self.processor_section and getattr(recipe, section):
                raise UserError(f"section {section}: task={recipe.task} has {self.processor_section} instead")
        if ":" in recipe.task:  # others were checked when the recipe was read
            fields = architecture_keys(self.model_class.config_class)
            require_keys("model", recipe.model, ["num_labels", "problem_type", *fields])
        if pretrained is not None:
            recipe = self.inherit(recipe)
        self.augmentation = typed(
            "augmentation", self.augmentation_class, recipe.augmentation, self.augmentation_ranges
        )
        # With all defaults, so that recipes can be compared.
        self.recipe = dataclasses.replace(recipe, augmentation=dataclasses.asdict(self.augmentation))
        self.config = self.build_config() if config is None else config
        self.processor = self.build_processor() if processor is None else processor

    @abstractmethod
    def build_config(self) -> PreTrainedConfig:
        """The model's configuration, from the recipe's section `model:`."""

    @abstractmethod
    def build_processor(self) -> ProcessorMixin:
        """The processor, from its section of the recipe and what the model needs."""

    def inherit(self, recipe: Recipe) -> Recipe:
        """The recipe, with settings of the checkpoint that it starts from where it says nothing."""
        return dataclasses.replace(recipe, model=self.pretrained.architecture | recipe.model)

    def new_model(self) -> PreTrainedModel:
        """The model with fresh weights from torch's present seed."""
        return self.model_class(self.config)

    def build_model(self) -> PreTrainedModel:
        """The model to train: a new one, or the checkpoint's with a new head where the old one does not fit.

        Raises:
            UserError: the checkpoint cannot be read, or does not fit the recipe's model.
        """
        if self.pretrained is None:
            return self.new_model()
        model = self.pretrained.load(self.model_class, self.config)
        head = model.get_submodule(self.head)
        own = {f"{self.head}.{name}" for name in head.state_dict()}
        if own & set(self.pretrained.made_anew):
            return model
        if self.keeps_head():
            model.load_state_dict(self.begin(model.state_dict()))
        else:
            head.load_state_dict(self.new_model().get_submodule(self.head).state_dict())
            self.pretrained.made_anew = sorted({*self.pretrained.made_anew, *own})
        return model

    def keeps_head(self) -> bool:
        """Whether the head of the checkpoint, where it has the right size, means what this task asks for."""
        return True

    # Data

    @abstractmethod
    def load_splits(self) -> Splits:
        """What training needs; also takes from it what `config` and losses must know, such as names of classes.

        Raises:
            UserError: the data cannot be read, or does not fit the recipe.
        """

    @abstractmethod
    def fit(self, splits: Splits):
        """Take from the data what `config` and losses must know; `load_splits` has done it."""

    @abstractmethod
    def load_split(self, split: str, by_number: bool = False) -> Dataset:
        """One set of samples, with labels as the model has them.

        Args:
            split: `train`, `validation` or `test` as `load_splits` has them, or a split of the data by its own name.
            by_number: the data's labels are the model's in the same order, whatever either calls them.

        Raises:
            UserError: as `load_splits`; also for labels that the model does not know.
        """

    # A batch

    def training_inputs(self, batch: Batch, step: int, first: int) -> tuple[Arguments, Any]:
        """The model's arguments and the targets of its answers, with random changes that a resumed run repeats.

        Args:
            batch: rows `first` to `first + n` of the batch of this step.
        """
        return self.inputs(batch)

    @abstractmethod
    def inputs(self, batch: Batch) -> tuple[Arguments, Any]:
        """The model's arguments and the targets of its answers, without random changes."""

    def mirrored(self, arguments: Arguments) -> Arguments | None:
        """Another look at the same samples for evaluation with `--flip`; None where there is none."""
        return None

    @abstractmethod
    def example(self, size: int, device: torch.device | str) -> tuple[Arguments, Any]:
        """`size` empty samples of the largest kind with their targets, to measure cost with."""

    # Answers

    @abstractmethod
    def loss(self, outputs: Any, targets: Any) -> torch.Tensor:
        """`-> ()`: what training makes small, of what the model returned."""

    @abstractmethod
    def judge(self, outputs: list[Any], targets: Any) -> dict[str, torch.Tensor]:
        """What scores are computed from, one row a sample.

        Args:
            outputs: what the model returned for each look at the samples; answers are their mean.
        """

    @abstractmethod
    def scores(self, judged: Judged) -> Scores:
        """The scores of a whole split; `best` and `loss` are among them.

        Raises:
            UserError: answers are not finite numbers.
        """

    @abstractmethod
    def all_scores(self, judged: Judged) -> Scores:
        """`scores`, and what is worth knowing once, at the end."""

    def begin(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights of a saved model as training takes them; the reverse of `finish`."""
        return weights

    def finish(self, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Trained weights as those of the model that is saved."""
        return weights

    # What people see

    @abstractmethod
    def write_report(self, folder: Path, results: dict, judged: Judged, mirrored: Judged | None):
        """Write what `score.py` says of a split into a folder that is there, `evaluation.json` last."""

    def draw_mistakes(self, folder: Path, dataset: Dataset, judged: Judged):  # noqa: B027, as some draw none
        """Draw into `mistakes.png` the samples whose answers are wrong and farthest from right, if there are any."""

    @abstractmethod
    def illustrate(
        self,
        folder: Path,
        model: PreTrainedModel,
        dataset: Dataset,
        judged: Judged,
        show_samples: bool,
    ) -> list[tuple[str, str]]:
        """Draw the pictures of a model card into `folder`; returns caption and file name of each.

        Args:
            show_samples: samples of the data may be seen.
        """

    def save_examples(self, folder: Path, dataset: Dataset) -> dict[str, str]:
        """Save samples for the Hub's widget into `folder`; returns their titles by file name."""
        return {}

    @abstractmethod
    def card(self, judged: Judged) -> dict[str, Any]:
        """What the model card says of the task.

        `purpose` ends the sentence "a Perceiver that ..."; `details`, `weakness` and `limits` are sentences;
        `elements` are what latents look at; `usage` is a list of programs, with `{repo_id}` for the name;
        `packages` are what these need beside torch, transformers and Pillow;
        `confident` says whether answers come with a confidence;
        `augmentation` ends a list, or is empty; `tags` and `metric` are the Hub's. What is left out, the card does
        without.
        """

    def summarize(self, scores: Scores) -> str:
        """The score that decides, for people."""
        measure = measure_of(self.best)
        return f"{measure.title} {measure.write(scores[self.best])}"

    def is_better(self, scores: Scores, than: Scores | None) -> bool:
        """Whether an epoch with these scores is the best so far."""
        if than is None:
            return True
        rank = measure_of(self.best).rank
        return rank(scores[self.best], scores["loss"]) > rank(than[self.best], than["loss"])


def drawn(total: int, count: int) -> np.ndarray:
    """`count` numbers below `total`, or all there are: by chance, so as not to flatter, and always the same."""
    return np.random.default_rng(0).permutation(total)[:count]


def batch_size(batch: Batch) -> int:
    """How many samples a batch has."""
    return len(next(iter(batch.values())))


def concatenate(parts: Iterable[dict[str, torch.Tensor]]) -> Judged:
    """`judge`'s results of several batches as one."""
    parts = list(parts)
    return {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
