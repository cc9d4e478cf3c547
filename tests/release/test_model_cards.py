"""The checkpoints that lie in model_cards/ are what their cards say."""

import json

import pytest
import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from lab.data.loaders import evaluation_loader
from lab.judging.evaluation import open_checkpoint
from lab.judging.predictions import evaluate
from lab.recipe import load_recipe
from lab.release.card import check_card
from lab.release.staging import check_loads
from lab.tasks import find_task
from tests.paths import ROOT
from tests.small_data import CIFAR10, fresh_accelerate

pytestmark = pytest.mark.slow

RELEASED = sorted(path for path in (ROOT / "model_cards").iterdir() if path.is_dir())


def kind_of(folder):
    return find_task(load_recipe(folder / "recipe.yaml"))


def test_there_is_one():
    assert "perceiver-cifar10" in {folder.name for folder in RELEASED}


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_a_released_folder_is_a_whole_hub_repository(folder):
    check_loads(folder, kind_of(folder))
    check_card(ModelCard((folder / "README.md").read_text()))
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 25e6  # 5.5 M weights are 22 MB
    assert not [path.name for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert f"{100 * metrics['test_accuracy']:.2f} %" in (folder / "README.md").read_text()
    assert load_recipe(folder / "recipe.yaml").data.path is None


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_its_code_is_linked_to_that_of_the_package(folder):
    """So that the shipped code exists once. Publishing and loading follow the links."""
    package = {path for path in (ROOT / "modeling_perceiver_study").glob("*.py") if path.name != "__init__.py"}
    assert {path.resolve() for path in folder.glob("*.py")} == package
    assert all(path.is_symlink() and not path.readlink().is_absolute() for path in folder.glob("*.py"))


@pytest.mark.skipif(not CIFAR10.exists(), reason=f"the images of CIFAR-10 are not at {CIFAR10}")
def test_the_accuracy_on_cifar10():
    """Within 4 standard errors of 500 test images, of 1.8 points each."""
    folder = ROOT / "model_cards" / "perceiver-cifar10"
    fresh_accelerate()
    accelerator = Accelerator(cpu=True)
    task, model = open_checkpoint(str(folder), load_recipe(folder / "recipe.yaml", [f"data.path={CIFAR10}"]))
    images = task.load_split("test")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:500].numpy()
    images.pixels, images.labels = images.pixels[chosen], images.labels[chosen]
    scores = evaluate(accelerator, task, model, evaluation_loader(accelerator, images, 50))
    stated = json.loads((folder / "metrics.json").read_text())["test_accuracy"]
    assert scores["accuracy"] == pytest.approx(stated, abs=4 * 0.018)


@pytest.mark.parametrize("folder", RELEASED, ids=lambda folder: folder.name)
def test_its_weights_are_float32(folder):
    """As it loads by default it is fast on any processor, gives what NumPy knows, and can be trained further."""
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path).values()  # BatchNorm has a number of batches, too
        assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {torch.float32}
    model = kind_of(folder).model_class.from_pretrained(folder)
    assert model.dtype == torch.float32
    before = [parameter.detach().clone() for parameter in model.parameters()]
    task, _ = open_checkpoint(str(folder), load_recipe(folder / "recipe.yaml"))
    given, _ = task.example(2, "cpu")
    given = {name: torch.randn(value.shape) if value.is_floating_point() else value for name, value in given.items()}
    outputs = model(**given, labels=torch.tensor([0, 1]))
    assert outputs.logits.detach().numpy().dtype == "float32"
    outputs.loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-4).step()
    moved = sum((new != old).sum().item() for new, old in zip(model.parameters(), before, strict=True))
    assert moved > 0.99 * model.num_parameters()
