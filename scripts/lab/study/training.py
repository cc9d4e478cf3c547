"""Small trainings in memory, side by side, that are remembered."""

import dataclasses
import hashlib
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field

import torch
from accelerate.utils import set_seed
from torch import nn
from tqdm.auto import tqdm

from lab.augment.images import Normalization, TrainingInputs
from lab.data.arrays import ImageDataset, Splits, load_split, name_classes
from lab.errors import UserError
from lab.judging.predictions import evaluate
from lab.machine import available_cores
from lab.recipe import Recipe, chosen, effective, image_processor, model_config
from lab.study.setting import Setting
from lab.training.learner import Learner
from lab.training.loop import build_accelerator, build_loaders
from lab.training.run_folder import write_atomically
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor

# Part of the name of a remembered run: another one forgets what was trained before training, or a default, changed.
VERSION = 1
_WATCHED = 8  # moments at which `watch` is called after the one before training

Prepare = Callable[[torch.Tensor], torch.Tensor]
Watch = Callable[[int, nn.Module], None]
Build = Callable[[Recipe], nn.Module]


@dataclass
class Run:
    """A trained model and how well it does at the end of training.

    Attributes:
        model: in evaluation mode, on the device it was trained on; a moving average where the recipe asks for one.
        validation_accuracy: from 0 to 1.
        validation_loss: cross-entropy in nats.
        train_accuracy: from 0 to 1, of training images as they are, without augmentation.
        parameters: how many.
        seconds: of training, without evaluation.
    """

    model: nn.Module
    validation_accuracy: float
    validation_loss: float
    train_accuracy: float
    parameters: int
    seconds: float

    def scores(self) -> dict[str, float]:
        """All but the model."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name != "model"}


def train_small(
    recipe: Recipe, prepare: Prepare | None = None, watch: Watch | None = None, build: Build | None = None
) -> Run:
    """Train as scripts/train.py does, without files. The last weights are judged, and test images are never read.

    Args:
        prepare: `(b, C, H, W) -> (b, C, H, W)` float32, for normalised images, after augmentation and in evaluation.
        watch: called with the number of steps done and the model in evaluation mode: before the first step, and then 8
            times evenly up to the last.
        build: makes the model from the recipe; it is called as a Perceiver is. None is a Perceiver.

    Raises:
        UserError: fewer training images than a batch has, a stream, another number of classes than the data has, or a
            loss that is no number.
    """
    settings = recipe.optimization
    accelerator = build_accelerator(recipe)
    images = load_images(recipe)
    normalize = Normalization(images.processor, accelerator.device)
    num_labels = len(images.class_names)
    inputs = TrainingInputs(recipe.augmentation, normalize, recipe.seed, settings.batch_size, num_labels)
    prepare = prepare or (lambda pixels: pixels)
    steps_per_epoch = len(images.train) // settings.batch_size
    if steps_per_epoch == 0:
        raise UserError(f"optimization.batch_size={settings.batch_size} is more than the {len(images.train)} images")
    total_steps = settings.epochs * steps_per_epoch
    watched = {round(total_steps * part / _WATCHED) for part in range(_WATCHED + 1)} if watch else set()
    set_seed(recipe.seed)
    model = (build or build_perceiver)(recipe)
    parameters = sum(parameter.numel() for parameter in model.parameters())

    def prepared_inputs(pixels: torch.Tensor, labels: torch.Tensor, step: int, first: int):
        pixels, targets = inputs(pixels, labels, step, first)
        return prepare(pixels), targets

    learner = Learner(accelerator, recipe, model, prepared_inputs, total_steps)
    # The training images a second time, in the place of test images: in order and as they are.
    splits = Splits(images.train, images.validation, images.train, images.class_names)
    train_loader, validation_loader, unaltered_loader = accelerator.prepare(
        *build_loaders(accelerator, recipe, splits, steps_per_epoch)
    )
    parts = accelerator.gradient_accumulation_steps
    step, watching, begin = 0, 0.0, time.perf_counter()
    for epoch in range(settings.epochs):
        train_loader.set_epoch(epoch)
        for number, batch in enumerate(train_loader):
            part = number % parts
            if part == 0 and step in watched:
                watching += _call(watch, step, learner.raw_judged)
            learner.model.train()
            learner.learn(batch, step, part)
            step += part == parts - 1
    seconds = time.perf_counter() - begin - watching
    if step in watched:
        _call(watch, step, learner.raw_judged)

    def normalize_and_prepare(pixels: torch.Tensor) -> torch.Tensor:
        return prepare(normalize(pixels))

    validation = evaluate(accelerator, learner.judged, validation_loader, normalize_and_prepare)
    if not math.isfinite(validation["loss"]):
        raise UserError(f"training ended with a loss of {validation['loss']}: lower optimization.learning_rate")
    train_accuracy = evaluate(accelerator, learner.judged, unaltered_loader, normalize_and_prepare)["accuracy"]
    scores = validation["accuracy"], validation["loss"], train_accuracy
    return Run(learner.raw_judged.eval(), *scores, parameters, round(seconds, 2))


def build_perceiver(recipe: Recipe) -> PerceiverStudyForImageClassification:
    """With fresh weights from torch's present seed."""
    return PerceiverStudyForImageClassification(model_config(recipe))


@dataclass(frozen=True)
class Images:
    """What trainings of a study see, and the processor that says how it is normalised."""

    train: ImageDataset
    validation: ImageDataset
    class_names: list[str]
    processor: PerceiverStudyImageProcessor


def load_images(recipe: Recipe) -> Images:
    """Training and validation images of a recipe; the process remembers the last ones that it loaded.

    Raises:
        UserError: a stream, another number of classes than the model has, or what `data.load_split` raises.
    """
    config = model_config(recipe)
    processor = image_processor(recipe, config)
    if recipe.data.streaming:
        raise UserError("data.streaming=true: a study compares trainings on the same images; set it to false")
    key = json.dumps([dataclasses.asdict(recipe.data), config.num_channels, config.grid, recipe.image_processor])
    if key not in _LOADED:
        _LOADED.clear()
        train, class_names = load_split(recipe.data, config, processor, "train")
        validation, _ = load_split(recipe.data, config, processor, "validation")
        _LOADED[key] = Images(train, validation, class_names, processor)
    name_classes(config, _LOADED[key].class_names)
    return _LOADED[key]


_LOADED: dict[str, Images] = {}


def _call(watch: Watch, step: int, model: nn.Module) -> float:
    begin = time.perf_counter()
    model.eval()
    watch(step, model)
    return time.perf_counter() - begin


def train_and_score(recipe: Recipe) -> dict[str, float]:
    """The scores of a run as the recipe says."""
    return train_small(recipe).scores()


@dataclass(frozen=True)
class Job:
    """A training run among others.

    Attributes:
        names: what tells this run from the others of its experiment, such as `{"bands": 4, "seed": 0}`.
        recipe: of the run.
        work: a function of a module, called with the recipe and `arguments`; what it returns goes into JSON.
        arguments: more of what `work` takes, for JSON as well.
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
    return json.loads(path.read_text())["result"] if path.exists() else None


def _remember(setting: Setting, key: str, result: dict):
    content = {"run": json.loads(key), "result": result}
    write_atomically(_path(setting, key), json.dumps(content, indent=2, allow_nan=False) + "\n")
