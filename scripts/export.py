"""Write a checkpoint as torch.export and ONNX programs, and check them, and torch.compile, against the model itself.

    python scripts/export.py output/digits                       # into output/digits/export/
    python scripts/export.py org/perceiver-cifar10 --output perceiver --formats onnx

    python scripts/export.py model_cards/perceiver-udhr --length 256 --output languages

Programs take what the model takes, such as `pixel_values` `(batch, C, H, W)`, as its processor makes it of samples of
the size that the model is made for, in any batch size; they give `logits` `(batch, classes)`. Positions are inside.
Texts and clouds have one length, to which they are padded: the most that the model takes, or --length.
Whatever differs from the model by more than 1e-4 is an error.
"""

import argparse
import io
import logging
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedConfig

from lab.arguments import at_least_one
from lab.checkpoint_names import check_checkpoint, checkpoint_name
from lab.errors import UserError, run_command
from lab.judging.checkpoints import load_classifier
from lab.looking.view import View
from lab.looking.views import VIEWS
from lab.places import file_to_write, folder_to_write, place
from lab.writing import new_file

FORMATS = ("torch", "onnx", "compile")
TOLERANCE = 1e-4
_BATCHES = (1, 2, 5)  # to check with; programs are traced with 2, as 1 would be taken for a constant


class Logits(nn.Module):
    """`(*arguments) -> (B, classes)`: the classifier without names and options, which no exported program has.

    Args:
        length: bytes of a text or points of a cloud; None is the most that the model takes, and 1,024 points.
        view: of a sample; None is what `VIEWS` has for the model.

    Attributes:
        names: of the arguments, in the order in which they come.
    """

    def __init__(self, model: nn.Module, length: int | None = None, view: type[View] | None = None):
        super().__init__()
        self.view = view or VIEWS[type(model).__name__]
        self.model, self.length = model, length
        self.names = tuple(self.example(1))
        self._program = None

    def example(self, count: int) -> dict[str, torch.Tensor]:
        """Random arguments for `count` samples by name, always the same."""
        return self.view.example(self.model.config, count, self.length)

    def forward(self, *arguments: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, arguments, strict=True))).logits

    def program(self) -> torch.export.ExportedProgram:
        """The traced program, for any batch size, of which the files of all formats are made."""
        if self._program is None:
            batch = torch.export.Dim("batch")
            shapes = (tuple({0: batch} for _ in self.names),)
            arguments = tuple(self.example(2).values())
            self._program = torch.export.export(self, arguments, dynamic_shapes=shapes, strict=False)
        return self._program


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Export a checkpoint, and check what was written.")
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_name,
        help="folder of a run, or a name on the Hub",
    )
    parser.add_argument("--output", type=place, metavar="FOLDER", help="default: CHECKPOINT/export")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="default: all")
    parser.add_argument(
        "--length",
        type=at_least_one,
        help="bytes of a text (default: the most that the model takes) or points (default: 1024)",
    )
    options = parser.parse_args(arguments)
    check_checkpoint(options.checkpoint)
    if options.output is None and not Path(options.checkpoint).is_dir():
        raise UserError(f"{options.checkpoint} is not a folder: say with --output where to write")
    classifier = load_classifier(options.checkpoint)
    model = classifier.model.float().cpu().eval()
    if options.length is not None:
        require_length(model.config, options.length)
    logits = Logits(model, options.length, classifier.view).eval()
    output = folder_to_write(options.output or Path(options.checkpoint) / "export")
    for name in options.formats:
        print(EXPORTERS[name](logits, output))


def require_length(config: PreTrainedConfig, length: int):
    """Raise a `UserError` where nothing that the model takes has so many bytes or points."""
    inputs = [config.modality_config(name) for name in config.modalities or ()] or [config]
    kinds = {own.input_type for own in inputs}
    if kinds <= {"array", "grid"}:
        raise UserError(f"--length {length}: it is for texts and clouds; leave it out for inputs of one size")
    most = min((own.max_position_embeddings for own in inputs if own.input_type == "bytes"), default=length)
    if length > most:
        raise UserError(f"--length {length}: the model takes {most} at most")


@torch.no_grad()
def export_torch(logits: Logits, output: Path) -> str:
    """Write `model.pt2`, read it back and check it."""
    path, content = file_to_write(output / "model.pt2"), io.BytesIO()
    torch.export.save(logits.program(), content)  # into memory, as torch ends the process where the disk is full
    with new_file(path) as unfinished:
        unfinished.write_bytes(content.getbuffer())
        told = check(torch.export.load(unfinished).module(), logits)
    return f"{path}: {told}"


@torch.no_grad()
def export_onnx(logits: Logits, output: Path) -> str:
    """Write `model.onnx`, and check it in ONNX Runtime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 - what torch.onnx writes with
    except ImportError as error:
        raise UserError(f'{error.name} is not installed: pip install -e ".[export]", or leave onnx out') from None
    for name in ("onnxscript", "torch.onnx"):  # what they do not fold or register changes no result
        logging.getLogger(name).setLevel(logging.ERROR)
    path = file_to_write(output / "model.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own internals
        program = torch.onnx.export(
            logits.program(), input_names=list(logits.names), output_names=["logits"], dynamo=True, verbose=False
        )

    def run(*arguments: torch.Tensor) -> torch.Tensor:
        given = {name: argument.numpy() for name, argument in zip(logits.names, arguments, strict=True)}
        return torch.from_numpy(session.run(["logits"], given)[0])

    with new_file(path) as unfinished:
        program.save(unfinished, external_data=False)
        session = onnxruntime.InferenceSession(unfinished, providers=["CPUExecutionProvider"])
        told = check(run, logits)
    return f"{path}: {told}"


@torch.no_grad()
def compile_model(logits: Logits, output: Path) -> str:
    """Nothing is written: compiled code belongs to the machine it was compiled on."""
    torch.compiler.reset()
    return f"torch.compile: {check(torch.compile(logits, fullgraph=True, dynamic=True), logits)}"


EXPORTERS = {"torch": export_torch, "onnx": export_onnx, "compile": compile_model}


def check(program, logits: Logits) -> str:
    """Compare with the model's on batches of several sizes; a difference beyond `TOLERANCE` is a `UserError`."""
    differences = []
    for batch in _BATCHES:
        arguments = logits.example(batch).values()
        expected, found = logits(*arguments), program(*arguments)
        if found.shape != expected.shape:
            raise UserError(
                f"logits of the exported program are {tuple(found.shape)}, expected {tuple(expected.shape)}"
            )
        differences.append((found - expected).abs().max())
    largest = torch.stack(differences).max().item()  # NaN if one is
    if not largest <= TOLERANCE:
        raise UserError(
            f"logits of the exported program differ by {largest:.1e} from the model's; at most 1e-4 is right"
        )
    return f"logits differ by at most {largest:.1e} for batches of {', '.join(map(str, _BATCHES))}"


if __name__ == "__main__":
    run_command(main)
