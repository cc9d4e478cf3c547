"""What ships: a saved folder, in processes that cannot import this package."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer

import modeling_perceiver_study
from modeling_perceiver_study import PerceiverStudyForImageClassification, PerceiverStudyImageProcessor
from tests.fresh_processes import python
from tests.kinds import arguments_of, model_of
from tests.models import SMALL

pytestmark = pytest.mark.slow

CODE = {path.name for path in Path(modeling_perceiver_study.__file__).parent.glob("*.py")} - {"__init__.py"}

ASSERT_NOT_IMPORTABLE = """
import importlib, sys
sys.modules["modeling_perceiver_study"] = None  # an editable installation stays out of the way
try:
    importlib.import_module("modeling_perceiver_study")
except ImportError:
    pass
else:
    raise AssertionError("modeling_perceiver_study can be imported here")
"""

LOAD = (
    ASSERT_NOT_IMPORTABLE
    + """
import torch
from PIL import Image
from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, AutoTokenizer
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

folder, copy, results = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
base = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
extract = pipeline("image-feature-extraction", model=folder, trust_remote_code=True)
image = Image.open(f"{folder}/image.png")
inputs = processor(image, return_tensors="pt")
with torch.no_grad():
    torch.save(
        {
            "logits": model(**inputs).logits,
            "latents": base(**inputs).last_hidden_state,
            "labels": classify(image, top_k=5),
            "batch": classify([image, image], batch_size=2),
            "features": torch.tensor(extract(image)),
            "num_latents": config.num_latents,
        },
        results,
    )
model.save_pretrained(copy)
processor.save_pretrained(copy)
"""
)


def run(script: str, *arguments, cache: Path, as_a_user: bool = False) -> subprocess.CompletedProcess:
    """In a fresh process, with a fresh cache of remote code, without a network, and with warnings as errors.

    Args:
        as_a_user: Python imports all libraries anew.
    """
    environment = {**os.environ, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "error"}
    environment.pop("PYTHONPATH", None)
    words = ["-c", script, *map(str, arguments)]
    if as_a_user:
        done = subprocess.run([sys.executable, *words], cwd=cache, env=environment, capture_output=True, text=True)
    else:
        done = python(*words, folder=cache, environment=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(0)
    config = modeling_perceiver_study.PerceiverStudyConfig(
        **{
            **SMALL,
            "image_size": 32,
            "id2label": dict(enumerate("abcde")),
            "label2id": dict(zip("abcde", range(5), strict=True)),
        }
    )
    model = PerceiverStudyForImageClassification(config).eval()
    model.save_pretrained(folder)
    PerceiverStudyImageProcessor(num_frequency_bands=config.num_frequency_bands).save_pretrained(folder)
    Image.effect_noise((48, 40), 80).convert("RGB").save(folder / "image.png")
    return folder, model


def test_what_is_saved_is_the_package(saved):
    folder, _ = saved
    assert {path.name for path in folder.glob("*.py")} == CODE
    assert {path.name for path in folder.iterdir()} == CODE | {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "image.png",
    }
    config = json.loads((folder / "config.json").read_text())
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForImageClassification"}


def test_the_model_imports_every_sibling():
    """Else an interrupted download of remote code can leave a cache without the files that siblings import."""
    package = Path(modeling_perceiver_study.__file__).parent
    found = set(
        re.findall(r"^from \.(\w+) import", (package / "modeling_perceiver_study.py").read_text(), re.MULTILINE)
    )
    assert {f"{name}.py" for name in found} == CODE - {
        "modeling_perceiver_study.py",
        "image_processing_perceiver_study.py",
    }


def test_a_process_without_the_package_loads_it_and_saves_it_again(saved, tmp_path):
    folder, model = saved
    done = run(LOAD, folder, tmp_path / "copy", tmp_path / "results", cache=tmp_path, as_a_user=True)
    # Progress bars are all that loading may print.
    assert not [line for line in done.stderr.splitlines() if line.strip() and "it/s]" not in line], done.stderr
    results = torch.load(tmp_path / "results", weights_only=True)
    image = Image.open(folder / "image.png")
    inputs = PerceiverStudyImageProcessor.from_pretrained(folder)(image, return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs)
        # Not bit for bit: loaded weights lie at other addresses, and some kernels add in an order that depends on them.
        torch.testing.assert_close(results["logits"], output.logits)
        latents = model.perceiver(**inputs).last_hidden_state
        torch.testing.assert_close(results["latents"], latents)
    assert torch.equal(results["features"], results["latents"])
    scores = {entry["label"]: entry["score"] for entry in results["labels"]}
    # A softmax halves differences of logits at least, so their tolerance does for it.
    torch.testing.assert_close(torch.tensor([scores[label] for label in "abcde"]), output.logits.softmax(-1)[0])
    assert [entries[0]["label"] for entries in results["batch"]] == [results["labels"][0]["label"]] * 2
    names = {path.name for path in folder.iterdir()} - {"image.png"}
    assert {path.name for path in (tmp_path / "copy").iterdir()} == names
    # The copy is as good as the original.
    run(LOAD, _with_image(tmp_path / "copy", image), tmp_path / "again", tmp_path / "results2", cache=tmp_path)
    again = torch.load(tmp_path / "results2", weights_only=True)["logits"]
    torch.testing.assert_close(again, results["logits"])


def test_the_bare_model_saves_a_folder_that_loads(saved, tmp_path):
    _, model = saved
    model.perceiver.save_pretrained(tmp_path / "base")
    script = ASSERT_NOT_IMPORTABLE + (
        "from transformers import AutoModel\n"
        "print(AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).num_parameters())"
    )
    done = run(script, tmp_path / "base", cache=tmp_path)
    assert int(done.stdout) == model.perceiver.num_parameters()


def _with_image(folder: Path, image: Image.Image) -> Path:
    image.save(folder / "image.png")
    return folder


LOAD_KINDS = (
    ASSERT_NOT_IMPORTABLE
    + """
import torch
from transformers import AutoModel

results = {}
for folder in sys.argv[2:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float64)
    with torch.no_grad():
        results[folder] = model(**torch.load(f"{folder}/given.pt"))[0]
torch.save(results, sys.argv[1])
"""
)


def test_bare_models_of_every_kind_load_without_the_package(tmp_path):
    folders, expected = [], {}
    for kinds in (("waveform",), ("points",), ("bytes",), ("array",), ("video", "points")):
        model = model_of(*kinds)
        given = arguments_of(model.config, kinds)
        folder = tmp_path / "+".join(kinds)
        model.save_pretrained(folder)
        torch.save(given, folder / "given.pt")
        auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
        heads = {
            ("waveform",): ["AudioClassification"],
            ("bytes",): ["MaskedLM", "SequenceClassification", "TokenClassification"],
        }
        names = {f"AutoModelFor{head}" for head in heads.get(kinds, [])}
        assert auto_map.keys() == {"AutoConfig", "AutoModel"} | names
        folders.append(str(folder))
        expected[str(folder)] = model(**given)[0].detach()
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = python("-c", LOAD_KINDS, str(tmp_path / "results.pt"), *folders, folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    for folder, latents in torch.load(tmp_path / "results.pt").items():
        torch.testing.assert_close(latents, expected[folder], rtol=0, atol=1e-12)


@pytest.mark.parametrize("trust_remote_code", [True, False])
@pytest.mark.parametrize(
    ("name", "kind", "auto_class"),
    [
        ("perceiver-cifar10", PerceiverStudyImageProcessor, AutoImageProcessor),
        ("perceiver-fsdd", modeling_perceiver_study.PerceiverStudyFeatureExtractor, AutoFeatureExtractor),
        ("perceiver-udhr", modeling_perceiver_study.PerceiverStudyTokenizer, AutoTokenizer),
    ],
)
def test_auto_classes_tell_kinds_of_input_apart(name, kind, auto_class, trust_remote_code):
    """Also with the package imported, which registers a processor of each kind for one and the same type of model."""
    folder = str(Path(__file__).parents[2] / "model_cards" / name)
    for right in (AutoProcessor, auto_class):
        found = right.from_pretrained(folder, trust_remote_code=trust_remote_code)
        assert type(found).__name__ == kind.__name__
    for wrong in {AutoImageProcessor, AutoFeatureExtractor, AutoTokenizer} - {auto_class}:
        with pytest.raises(OSError, match=r"expected|does not appear to have|Can't load"):
            wrong.from_pretrained(folder, trust_remote_code=trust_remote_code)
