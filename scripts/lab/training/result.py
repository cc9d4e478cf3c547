"""What a run leaves at its end, and what remains of it where the disk is full."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedModel

from lab.checkpoint_names import RESULTS, weight_files
from lab.errors import UserError, is_full_disk, one_line
from lab.training.checkpoint import checkpoints
from lab.writing import beside, write_atomically


def save_result(
    output_dir: Path, model: PreTrainedModel, weights: dict[str, torch.Tensor], processor: Any, results: dict[str, Any]
):
    """Write what `from_pretrained` loads and, last, the results.

    First come the weights, as all else can be had again, and what they need to be loaded with this package.

    Raises:
        UserError: the disk is full; says which files there are.
    """
    for old in weight_files(output_dir):  # no result any more, and its room may be needed
        old.unlink()
    with beside(output_dir) as unfinished:
        save_torch_state_dict(weights, unfinished, max_shard_size="50GB", metadata={"format": "pt"})
        model.config.to_json_file(unfinished / "config.json")
    loads = f"the trained weights, which {type(model).__name__}.from_pretrained loads"
    with explain_full_disk(output_dir, f"{loads} from that folder"):
        with beside(output_dir) as unfinished:
            model.save_pretrained(unfinished, state_dict={})  # the code, and the configuration that names it
            processor.save_pretrained(unfinished)
        write_atomically(output_dir / RESULTS, json.dumps(results, indent=2) + "\n")


@contextmanager
def explain_full_disk(output_dir: Path, *kept: str) -> Iterator[None]:
    """A disk that is full ends a run with a `UserError` that says what is kept, and how to go on.

    Args:
        kept: what there is beside checkpoints.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error):
            raise
        found = checkpoints(output_dir)
        there = ", ".join([*(path.name for path in found), *kept]) or "nothing"
        again = f"add --resume to go on from {found[0].name}" if found else "run it again, from the start"
        raise UserError(
            f"output_dir={output_dir} cannot be written to: the disk is full ({one_line(error)}). "
            f"Kept: {there}. Make room, then {again}"
        ) from error
