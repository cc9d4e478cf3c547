import importlib.util

import pytest
import torch

import export
from lab.errors import UserError
from modeling_perceiver_study import PerceiverStudyConfig
from tests.checkpoints import save_checkpoint
from tests.kinds import KINDS, fields_of
from tests.models import needs_compiler

pytestmark = pytest.mark.slow

HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="onnx, onnxscript and onnxruntime are not all installed")
# One or several cross-attends, and every kind of position, stem and decoder.
VARIANTS = {
    "plain": [],
    "deep": ["model.num_blocks=2", "model.num_cross_attends=2", "model.num_cross_attention_heads=3"],
    "stem": ["model.image_size=13", "model.stem_type=conv", "model.stem_channels=6"],
    "query": ["model.decoder_type=query", "model.position_encoding_type=learned"],
}
VARIANTS["deep"] += ["model.cross_attention_shape_for_attention=kv", "model.qk_channels=12", "model.v_channels=12"]


@pytest.fixture(params=VARIANTS)
def checkpoint(request, tmp_path):
    save_checkpoint(tmp_path / "checkpoint", *VARIANTS[request.param])
    return tmp_path / "checkpoint"


def test_torch_export(checkpoint, capsys):
    export.main([str(checkpoint), "--formats", "torch"])
    assert (checkpoint / "export" / "model.pt2").is_file()
    assert "for batches of 1, 2, 5" in capsys.readouterr().out


@needs_onnx
def test_onnx(checkpoint, tmp_path, capsys):
    import onnx

    export.main([str(checkpoint), "--formats", "onnx", "--output", str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{tmp_path / 'out' / 'model.onnx'}: logits differ by")
    program = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(program)
    (pixels,) = program.graph.input
    assert pixels.type.tensor_type.shape.dim[0].dim_param  # a name, not a number
    assert [tensor.name for tensor in program.graph.output] == ["logits"]


@needs_compiler
@pytest.mark.filterwarnings("default")  # the compiler has deprecation warnings of its own
def test_compile(tmp_path, capsys):
    save_checkpoint(tmp_path / "checkpoint")
    export.main([str(tmp_path / "checkpoint"), "--formats", "compile"])
    assert capsys.readouterr().out.startswith("torch.compile: logits differ by at most")


def test_a_wrong_program_is_refused(tmp_path):
    model = save_checkpoint(tmp_path)
    right = export.Logits(model)
    with torch.no_grad():
        assert export.check(right, right)
        with pytest.raises(UserError, match=r"differ by 2.0e-04"):
            export.check(lambda pixels: right(pixels) + 2e-4, right)
        with pytest.raises(UserError, match=r"differ by nan"):
            export.check(lambda pixels: right(pixels) * float("nan"), right)
        with pytest.raises(UserError, match=r"program are \(1, 2\), expected \(1, 3\)"):
            export.check(lambda pixels: right(pixels)[:, :2], right)


def test_a_mistyped_folder_is_said_to_be_one(tmp_path):
    with pytest.raises(UserError, match=r"nope: no such folder, and no OWNER/NAME of a model on the Hub"):
        export.main([str(tmp_path / "nope")])


@pytest.mark.parametrize(
    ("name", "kind"), [("model.pt2", "torch"), pytest.param("model.onnx", "onnx", marks=needs_onnx)]
)
def test_a_folder_is_no_file_to_write(tmp_path, name, kind):
    save_checkpoint(tmp_path / "checkpoint")
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} cannot be written: it is a folder"):
        export.main([str(tmp_path / "checkpoint"), "--output", str(tmp_path), "--formats", kind])


def test_a_name_on_the_hub_needs_an_output():
    with pytest.raises(UserError, match=r"org/name is not a folder: say with --output where to write"):
        export.main(["org/name"])


@pytest.mark.parametrize(
    ("fields", "length", "message"),
    [
        ({}, 5, "--length 5: it is for texts and clouds"),
        (KINDS["bytes"], 12, "--length 12: the model takes 11 at most"),
        (fields_of("waveform", "bytes"), 12, "--length 12: the model takes 11 at most"),
        (fields_of("waveform", "image"), 12, "--length 12: it is for texts and clouds"),
    ],
)
def test_lengths_that_change_nothing_or_too_much(fields, length, message):
    with pytest.raises(UserError, match=message):
        export.require_length(PerceiverStudyConfig(**fields), length)


def test_lengths_of_texts_and_clouds():
    for kinds in (["points"], ["bytes"], ["waveform", "bytes"], ["waveform", "points"]):
        export.require_length(PerceiverStudyConfig(**fields_of(*kinds)), 11)


def test_a_file_is_no_folder_to_write_to(tmp_path):
    save_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"--output .*config.json cannot be made a folder .*: name another"):
        export.main([str(tmp_path), "--output", str(tmp_path / "config.json")])
