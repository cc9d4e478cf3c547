import pytest
import torch
from accelerate import Accelerator

from lab.errors import UserError
from lab.recipe import DEFAULT_RECIPE, load_recipe
from lab.tasks import build_task
from lab.training.loop import build_accelerator
from lab.training.memory import explain_out_of_memory, find_parts, what_saves_memory
from tests.models import small_model
from tests.small_data import fresh_accelerate

pytestmark = pytest.mark.slow

OUT_OF_MEMORY = "[enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory: you tried to allocate"


class Limited(torch.nn.Module):
    """A model that runs out of memory beyond some images at a time."""

    def __init__(self, most: int):
        super().__init__()
        self.model, self.most, self.tried = small_model(num_channels=1, image_size=8), most, []
        self.config = self.model.config

    def forward(self, pixel_values):
        self.tried.append(len(pixel_values))
        if len(pixel_values) > self.most:
            raise RuntimeError(OUT_OF_MEMORY)
        return self.model(pixel_values=pixel_values)


@pytest.fixture
def accelerator():
    fresh_accelerate()
    return Accelerator(cpu=True)


@pytest.mark.parametrize(("most", "asked", "expected"), [(100, 1, 1), (24, 1, 1), (11, 1, 3), (11, 4, 4), (1, 1, 24)])
def test_parts_are_found(accelerator, most, asked, expected):
    recipe = load_recipe(
        DEFAULT_RECIPE, ["optimization.batch_size=24", f"optimization.gradient_accumulation_steps={asked}"]
    )
    model = Limited(most)
    assert find_parts(accelerator, build_task(recipe), model) == expected
    assert all(24 % size == 0 for size in model.tried)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parts_are_found_with_most_of_the_latents_and_blocks_that_may_be_drawn(accelerator):
    task = build_task(load_recipe(DEFAULT_RECIPE, ["model.training_latents=[1,8]", "model.training_blocks=[1,1]"]))
    model, seen = task.build_model(), []
    model.perceiver.register_forward_hook(lambda module, given, outputs: seen.append(outputs[0].shape[1]))
    for _ in range(4):
        find_parts(accelerator, task, model)
    assert seen == [8] * 4
    assert (model.config.training_latents, model.config.training_blocks) == ([1, 8], [1, 1])


def test_pairs_that_are_mixed_stay_together(accelerator):
    recipe = load_recipe(DEFAULT_RECIPE, ["optimization.batch_size=24", "augmentation.mixup_alpha=0.2"])
    model = Limited(3)
    assert find_parts(accelerator, build_task(recipe), model) == 12
    assert model.tried == [24, 12, 8, 6, 4, 2]


def test_a_single_image_that_does_not_fit(accelerator):
    recipe = load_recipe(DEFAULT_RECIPE, ["optimization.batch_size=24"])
    with pytest.raises(UserError, match="a single sample does not fit"):
        find_parts(accelerator, build_task(recipe), Limited(0))


def test_advice(accelerator):
    task = build_task(load_recipe(DEFAULT_RECIPE, ["optimization.gradient_checkpointing=true"]))
    advice = r"accumulation_steps=2, or let .*find_parts=true choose it, or set .*batch_size=32; .* --accept_changes"
    with pytest.raises(UserError, match=advice) as caught, explain_out_of_memory(accelerator, task):
        raise RuntimeError(OUT_OF_MEMORY)
    assert "gradient_checkpointing" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"), explain_out_of_memory(accelerator, task):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("size", "parts", "alpha"), [(1, 1, 0.0), (18, 1, 0.0), (50, 2, 0.0), (18, 1, 0.2), (12, 2, 0.2)]
)
def test_what_is_recommended_is_possible(size, parts, alpha):
    """Each by itself, until nothing but a smaller model is left."""
    overrides = [f"optimization.batch_size={size}", f"augmentation.mixup_alpha={alpha}"]

    def recommended(*more):
        task = build_task(load_recipe(DEFAULT_RECIPE, [*overrides, *more]))
        fresh_accelerate()
        build_accelerator(task)
        return what_saves_memory(task, processes=1)

    begin = [f"optimization.gradient_accumulation_steps={parts}"]
    pending, seen = [begin], 0
    while pending:
        for text in recommended(*(chosen := pending.pop())):
            change = text.split()[1]
            recommended(*chosen, change)
            seen += 1
            if "steps" in change:
                pending.append([*chosen, change])
    assert seen
    assert recommended(*begin, f"optimization.gradient_accumulation_steps={size // (2 if alpha else 1)}") == [
        "set optimization.gradient_checkpointing=true"
    ]
