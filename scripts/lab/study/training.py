"""Small trainings in memory, side by side, with a cache of their results."""

import dataclasses
import hashlib
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

import torch
from accelerate.utils import set_seed
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from lab.data.splits import Splits, require_validation
from lab.errors import UserError
from lab.judging.predictions import evaluate
from lab.machine import available_cores
from lab.recipe import Recipe, chosen, effective
from lab.study.setting import Setting
from lab.tasks import build_task
from lab.tasks.pretrained import settings_of
from lab.tasks.task import Arguments, Batch, Scores, Task
from lab.training.checkpoint import Progress
from lab.training.learner import Learner
from lab.training.loop import build_accelerator, judging_loader, training_loader
from lab.writing import write_atomically

# Part of the key of a cached run. Raise it when training or a default changes, so that runs are trained again.
VERSION = 1
_WATCHED = 8  # calls of `watch` after the one before training

Alter = Callable[[Arguments], Arguments]
Watch = Callable[[int, nn.Module], None]
Build = Callable[[Task], nn.Module]


@dataclass
class Run:
    """A trained model and its scores at the end of training.

    Attributes:
        model: in evaluation mode, on the device it was trained on; a moving average if the recipe has one.
        best: the name of the deciding score, such as `accuracy`.
        validation: scores on validation samples.
        train: the deciding score on training samples without random changes.
        parameters: their number.
        seconds: of training, without evaluation.
    """

    model: nn.Module
    best: str
    validation: Scores
    train: float
    parameters: int
    seconds: float

    def scores(self) -> dict[str, float]:
        """Return what goes into JSON."""
        return {
            f"validation_{self.best}": self.validation[self.best],
            "validation_loss": self.validation["loss"],
            f"train_{self.best}": self.train,
            "parameters": self.parameters,
            "seconds": self.seconds,
        }


class Altered:
    """A task whose samples are changed before the model sees them, both in training and in evaluation."""

    def __init__(self, task: Task, alter: Alter):
        self._task, self._alter = task, alter

    def __getattr__(self, name: str):
        return getattr(self._task, name)

    def training_inputs(self, batch: Batch, step: int, first: int):
        """Do as `Task.training_inputs`, then change the arguments."""
        arguments, targets = self._task.training_inputs(batch, step, first)
        return self._alter(arguments), targets

    def inputs(self, batch: Batch):
        """Do as `Task.inputs`, then change the arguments."""
        arguments, targets = self._task.inputs(batch)
        return self._alter(arguments), targets


def train_small(
    recipe: Recipe, alter: Alter | None = None, watch: Watch | None = None, build: Build | None = None
) -> Run:
    """Train as scripts/train.py does, without files. Evaluate the last weights, and never read test samples.

    Args:
        alter: changes the model's arguments, after random changes in training, and in evaluation.
        watch: called with the number of steps done and the model in evaluation mode, before the first step and then 8
            times at even distances up to the last.
        build: makes the model of a task; None builds the task's own model.

    Raises:
        UserError: fewer training samples than a batch has, a stream, other labels than the data has, or a loss that is
            not a finite number.
    """
    return train_on(load_samples(recipe), alter, watch, build)


def train_on(
    samples: "Samples", alter: Alter | None = None, watch: Watch | None = None, build: Build | None = None
) -> Run:
    """Do as `train_small` with some samples, by the recipe of their task."""
    task = samples.task if alter is None else Altered(samples.task, alter)
    settings = task.recipe.optimization
    accelerator = build_accelerator(task)
    loader = training_loader(accelerator, task.recipe, samples.train)
    total = settings.epochs * loader.steps_left(0)
    watched = {round(total * part / _WATCHED) for part in range(_WATCHED + 1)} if watch else set()
    set_seed(task.recipe.seed)
    model = task.build_model() if build is None else build(task)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    learner, progress = Learner(accelerator, task, model), Progress()
    watching, begin = 0.0, time.perf_counter()
    if watched:
        watching += _call(watch, 0, learner.raw_judged)
    while progress.epoch < settings.epochs:
        for _ in learner.steps(loader, progress):
            if progress.step in watched:
                watching += _call(watch, progress.step, learner.raw_judged)
        progress.epoch, progress.samples = progress.epoch + 1, 0
    seconds = time.perf_counter() - begin - watching
    validation, train = (
        evaluate(accelerator, task, learner.judged, judging_loader(accelerator, task.recipe, part))
        for part in (samples.validation, samples.train)
    )
    return Run(learner.raw_judged.eval(), task.best, validation, train[task.best], parameters, round(seconds, 2))


@dataclass(frozen=True)
class Samples:
    """The samples of a study's trainings, and their task."""

    train: Dataset
    validation: Dataset
    task: Task


def load_samples(recipe: Recipe) -> Samples:
    """Return training and validation samples of a recipe; the process keeps the last ones that it loaded.

    Raises:
        UserError: a stream, other labels than the model has, or what `Task.load_splits` raises.
    """
    if recipe.data.streaming:
        raise UserError("data.streaming=true: a study compares trainings on the same samples; set it to false")
    data = dataclasses.replace(recipe.data, test_split=None)
    task = build_task(dataclasses.replace(recipe, data=data))
    # Some random changes happen while samples are read, and a tokenizer's section says more than the tokenizer.
    reading = [task.recipe.augmentation, task.recipe.tokenizer, settings_of(task.processor)]
    key = json.dumps([recipe.task, dataclasses.asdict(data), *reading])
    if key not in _LOADED:
        _LOADED.clear()
        _LOADED[key] = task.load_splits()
    splits = _LOADED[key]
    task.fit(splits)
    return Samples(splits.train, require_validation(splits.validation), task)


_LOADED: dict[str, Splits] = {}


def _call(watch: Watch, step: int, model: nn.Module) -> float:
    begin = time.perf_counter()
    model.eval()
    watch(step, model)
    return time.perf_counter() - begin


def train_and_score(recipe: Recipe) -> dict[str, float]:
    """Train by a recipe, and return the scores."""
    return train_small(recipe).scores()


@dataclass(frozen=True)
class Job:
    """A training run among others.

    Attributes:
        names: what distinguishes this run in its experiment, such as `{"bands": 4, "seed": 0}`.
        recipe: of the run.
        work: a function at the top level of a module. It is called with the recipe and `arguments`, and returns JSON.
        arguments: further arguments of `work`, as JSON.
    """

    names: dict
    recipe: Recipe
    work: Callable[..., dict] = train_and_score
    arguments: dict = field(default_factory=dict)

    def identity(self) -> str:
        """Return what decides the result, as JSON."""
        work = f"{self.work.__module__}.{self.work.__qualname__}"
        return json.dumps([VERSION, work, self.arguments, chosen(effective(self.recipe))], sort_keys=True)

    def __call__(self) -> dict:
        return self.work(self.recipe, **self.arguments)


def run_all(jobs: list[Job], setting: Setting, title: str) -> list[dict]:
    """Do all jobs, apart from those that the cache holds; return the `names` and the result of each, in order.

    On a CPU as many jobs as `setting.processes` run side by side, each with one thread. With a GPU they run one after
    the other in this process.

    Args:
        title: what the progress bar says.
    """
    setting.cache.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict] = {}
    todo: dict[str, Job] = {}
    for job in jobs:
        key = job.identity()
        found = None if setting.again else _recall(setting, key)
        if found is None:
            todo[key] = job
        else:
            results[key] = found
    with tqdm(total=len(results) + len(todo), initial=len(results), desc=title, unit="run") as bar:
        for key, result in _work(todo, setting):
            _remember(setting, key, result)
            results[key] = result
            bar.update()
    return [{**job.names, **results[job.identity()]} for job in jobs]


def _work(jobs: dict[str, Job], setting: Setting) -> Iterator[tuple[str, dict]]:
    """Yield the key and the result of each job as soon as it is done."""
    count = min(setting.processes or available_cores(), len(jobs))
    if count <= 1 or torch.accelerator.is_available():
        for key, job in jobs.items():
            yield key, job()
        return
    # Torch's threads do not survive a fork. A fork server has none, and it imports once for all processes, which then
    # share that memory. (joblib's pool imports in each process, and after an error it warns of leaked semaphores.)
    there = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if there else "spawn")
    if there:
        context.set_forkserver_preload(["lab.study.training"])
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        try:
            futures = {pool.submit(_on_one_thread, job): key for key, job in jobs.items()}
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _on_one_thread(job: Job) -> dict:
    optimization = dataclasses.replace(job.recipe.optimization, cpu_threads=1)
    return dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, optimization=optimization))()


def _path(setting: Setting, key: str):
    return setting.cache / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _recall(setting: Setting, key: str) -> dict | None:
    path = _path(setting, key)
    return json.loads(path.read_text(encoding="utf-8"))["result"] if path.exists() else None


def _remember(setting: Setting, key: str, result: dict):
    content = {"run": json.loads(key), "result": result}
    write_atomically(_path(setting, key), json.dumps(content, indent=2, allow_nan=False) + "\n")
