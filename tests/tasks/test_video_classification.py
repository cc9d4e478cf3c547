"""What only a task of clips has."""

import torch

from lab.recipe import load_recipe
from lab.tasks import build_task
from tests.task_kinds import KINDS


def test_a_mirrored_clip_is_that_of_mirrored_frames():
    task = build_task(load_recipe(None, [*KINDS["video"].recipe, "data.name=made-up"]))
    frames = torch.randint(256, (2, 5, 3, 6, 8), dtype=torch.uint8)
    rest = {"lengths": torch.tensor([5, 3]), "labels": torch.tensor([0, 1])}
    plain, flipped = (task.inputs({"values": values, **rest})[0] for values in (frames, frames.flip(-1)))
    found = task.mirrored(plain)
    torch.testing.assert_close(found["pixel_values"], flipped["pixel_values"])
    assert torch.equal(found["attention_mask"], plain["attention_mask"])
