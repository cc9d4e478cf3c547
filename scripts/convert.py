"""Turn a Perceiver of transformers for images or text into a checkpoint of this repository, or back.

python scripts/convert.py deepmind/vision-perceiver-fourier output/vision-perceiver-fourier
python scripts/convert.py deepmind/language-perceiver output/language-perceiver
python scripts/convert.py output/imagenet output/imagenet-transformers --reverse
"""

import argparse
import json
import pickle
from pathlib import Path

import torch
import transformers
from huggingface_hub import ModelCard, ModelCardData, snapshot_download
from huggingface_hub.errors import HFValidationError, HTTPError, StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    PerceiverConfig,
    PerceiverImageProcessorPil,
    PerceiverTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from lab.checkpoint_names import weight_files
from lab.errors import UserError, one_line, run_command
from lab.peers.deepmind import ARCHITECTURES, our_config, our_processor, their_config, their_name, their_processor
from lab.peers.deepmind_text import (
    MODELS,
    our_text_config,
    our_tokenizer,
    their_text_config,
    their_text_name,
    their_tokenizer,
)
from lab.places import place
from lab.writing import new_folder
from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForImageClassification,
    PerceiverStudyImageProcessor,
    PerceiverStudyTokenizer,
)

Weights = dict[str, torch.Tensor]

_CARD = """\
# {title}

{what} of `{source}`. {licence}

{use}

Accuracy was not measured anew; where the source's card reports one, it is the source's. The architecture is that of
Perceiver IO (Jaegle et al., 2021, arXiv 2107.14795).{note}
"""
_USE_HERE = """\
```python
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained("{title}", trust_remote_code=True)
model = AutoModelForImageClassification.from_pretrained("{title}", trust_remote_code=True)
logits = model(**processor(image)).logits
```"""
_USE_THERE = """\
```python
from transformers import AutoImageProcessor, {architecture}

processor = AutoImageProcessor.from_pretrained("{title}")
model = {architecture}.from_pretrained("{title}")
logits = model(**processor(image, return_tensors="pt")).logits
```"""

_TEXT_USE = """\
```python
from transformers import AutoTokenizer, {architecture}

tokenizer = AutoTokenizer.from_pretrained("{title}"{trust})
model = {architecture}.from_pretrained("{title}"{trust})
logits = model(**tokenizer("{sample}", return_tensors="pt"{padding})).logits
```"""
# By the class of transformers: the Auto class, the Hub's name of the pipeline, and a text.
_TEXTS = {
    "PerceiverForMaskedLM": ("AutoModelForMaskedLM", "fill-mask", "A text with a [MASK]yte to guess."),
    "PerceiverForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification", "A text."),
}
Converted = tuple[PreTrainedModel, PerceiverStudyImageProcessor | PreTrainedTokenizerBase, str | None]


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Convert a Perceiver of transformers, or convert it back.")
    parser.add_argument("source", metavar="SOURCE", help="folder with a checkpoint, or a name on the Hub")
    parser.add_argument("dest", metavar="DEST", type=place, help="folder to write: a new or an empty one")
    parser.add_argument("--reverse", action="store_true", help="from a checkpoint of this repository to transformers'")
    options = parser.parse_args(arguments)
    logging.disable_progress_bar()
    dest = options.dest.resolve()
    _require_free(dest)
    folder = fetch(options.source)
    model, processor, note = (from_here if options.reverse else from_transformers)(folder)
    with new_folder(dest) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(
            card(options.source, folder, dest.name, model.config, note), encoding="utf-8"
        )
        _require_free(dest)
    print(f"wrote {options.dest}" + (f"; {note}" if note else ""))


def from_transformers(folder: Path) -> Converted:
    """A model of ours, its processor, and nothing to note, from a folder that transformers' Perceiver can open."""
    architecture = _architecture(folder, (*ARCHITECTURES, *MODELS))
    theirs = _config(folder, PerceiverConfig)
    if architecture in MODELS:
        return _text_from_transformers(folder, architecture, theirs)
    their_images = _processor(
        folder, PerceiverImageProcessorPil, ("PerceiverImageProcessor", "PerceiverFeatureExtractor")
    )
    ours = our_config(theirs, architecture, [their_images.size.height, their_images.size.width])
    model = _empty(PerceiverStudyForImageClassification, ours)
    source = _empty(getattr(transformers, architecture), theirs)
    weights = read_weights(folder)
    require_same_shapes(weights, source.state_dict())
    fill(model, {name: weights[their_name(name)] for name in model.state_dict()})
    return model, our_processor(their_images, ours), None


def _text_from_transformers(folder: Path, architecture: str, theirs: PerceiverConfig) -> Converted:
    model = _empty(MODELS[architecture], our_text_config(theirs, architecture))
    weights = read_weights(folder)
    require_same_shapes(weights, _empty(getattr(transformers, architecture), theirs).state_dict())
    fill(model, {name: weights[their_text_name(architecture, name)] for name in model.state_dict()})
    return model, our_tokenizer(_tokenizer(folder, PerceiverTokenizer)), None


def from_here(folder: Path) -> Converted:
    """A model of transformers, its processor, and what differs in that, from a folder of this repository."""
    texts = {model.__name__: name for name, model in MODELS.items()}
    found = _architecture(folder, ("PerceiverStudyForImageClassification", *texts))
    ours = _config(folder, PerceiverStudyConfig)
    if found in texts:
        return _text_from_here(folder, texts[found], ours)
    theirs = their_config(ours)
    images, note = their_processor(_processor(folder, PerceiverStudyImageProcessor, ("PerceiverStudyImageProcessor",)))
    source = _empty(PerceiverStudyForImageClassification, ours)
    model = _empty(getattr(transformers, theirs.architectures[0]), theirs)
    weights = read_weights(folder)
    require_same_shapes(weights, source.state_dict())
    fill(model, {their_name(name): weight for name, weight in weights.items()})
    return model, images, note


def _text_from_here(folder: Path, architecture: str, ours: PerceiverStudyConfig) -> Converted:
    theirs = their_text_config(ours, architecture)
    model = _empty(getattr(transformers, architecture), theirs)
    weights = read_weights(folder)
    require_same_shapes(weights, _empty(MODELS[architecture], ours).state_dict())
    fill(model, {their_text_name(architecture, name): weight for name, weight in weights.items()})
    return model, their_tokenizer(_tokenizer(folder, PerceiverStudyTokenizer)), None


def fetch(source: str) -> Path:
    """The folder that holds the checkpoint, downloaded if `source` is a name on the Hub."""
    if Path(source).is_dir():
        return Path(source)
    try:
        files = ["*config.json", "README.md", "model*.safetensors"]
        folder = Path(snapshot_download(source, allow_patterns=files))
        if not weight_files(folder):
            folder = Path(snapshot_download(source, allow_patterns=[*files, "pytorch_model.bin"]))
    except HFValidationError:
        raise UserError(f"{source}: no such folder, and no name on the Hub either") from None
    except (OSError, HTTPError) as error:
        raise UserError(f"{source} is not a folder, and cannot be downloaded: {one_line(error)}") from None
    return folder


def read_weights(folder: Path) -> Weights:
    """All tensors of safetensors files, or else of pytorch_model.bin, without running anything that is pickled."""
    pickled = folder / "pytorch_model.bin"
    weights = {}
    try:
        for file in weight_files(folder):
            weights |= load_file(file)
        if not weights and pickled.is_file():
            file = pickled
            weights = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{file} cannot be read, is it complete? {one_line(error)}") from None
    if not weights:
        raise UserError(f"{folder} holds no weights: expected model.safetensors or pytorch_model.bin")
    return weights


def require_same_shapes(weights: Weights, expected: Weights):
    """Raises a `UserError` that lists all weights that are missing, unexpected or of another shape."""
    problems = [f"missing: {name}" for name in expected if name not in weights]
    problems += [f"unexpected: {name}" for name in weights if name not in expected]
    problems += [
        f"wrong shape: {name} is {tuple(weights[name].shape)}, expected {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if problems:
        raise UserError("\n  ".join(["the weights do not fit the configuration:", *problems]))


def fill(model: PreTrainedModel, weights: Weights):
    """Give a model on the meta device its weights, in the dtype that they have."""
    # A 1x1 convolution (C', C, 1, 1) is a linear map (C', C); all other shapes agree.
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: weight.reshape(shapes[name]) for name, weight in weights.items()}, assign=True)


def card(source: str, folder: Path, title: str, config: PreTrainedConfig, note: str | None) -> str:
    """A model card that credits the source, with the source's licence if its card names one."""
    local = Path(source).is_dir()
    name = Path(source).resolve().name if local else source
    theirs = _card_data(folder)
    licence = "Its card names no licence: ask its authors."
    if theirs.license:
        licence = f"Its licence, {theirs.license_name or theirs.license}, holds here too."
    here, architecture = isinstance(config, PerceiverStudyConfig), config.architectures[0]
    texts = _TEXTS.get(architecture.replace("PerceiverStudyFor", "PerceiverFor"))
    tag = texts[1] if texts else "image-classification"
    data = ModelCardData(
        license=theirs.license,
        license_name=theirs.license_name,
        license_link=theirs.license_link,
        base_model=None if local else name,
        library_name="transformers",
        pipeline_tag=tag,
        tags=["perceiver", "text" if texts else "vision"],
        datasets=theirs.datasets,
    )
    use = _USE_HERE if here else _USE_THERE.replace("{architecture}", architecture)
    if texts:
        use = _TEXT_USE.replace("{architecture}", texts[0] if here else architecture).replace("{sample}", texts[2])
        use = use.replace("{trust}", ", trust_remote_code=True" if here else "")
        use = use.replace("{padding}", "" if here else ', padding="max_length"')
    text = _CARD.format(
        title=title,
        what="The weights" if here else "For transformers' own classes, the weights",
        source=name,
        licence=licence,
        use=use.replace("{title}", title),
        note=f" Mind that {note}." if note else "",
    )
    return f"---\n{data.to_yaml()}\n---\n\n{text}"


def _card_data(folder: Path) -> ModelCardData:
    try:
        return ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except (OSError, ValueError):
        return ModelCardData()


def _read_json(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} holds no {path.name}: expected a folder that save_pretrained wrote") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON: {one_line(error)}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a JSON object")
    return content


def _architecture(folder: Path, expected) -> str:
    found = _read_json(folder / "config.json").get("architectures") or ["none"]
    if len(found) != 1 or found[0] not in expected:
        raise UserError(f"{folder} holds architecture {', '.join(found)}: expected {' or '.join(expected)}")
    return found[0]


def _config(folder: Path, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    try:
        return config_class.from_dict(_read_json(folder / "config.json"))
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UserError(f"{folder / 'config.json'} is not a valid {config_class.__name__}: {one_line(error)}") from None


def _processor(folder: Path, processor_class: type, names: tuple[str, ...]):
    path = folder / "preprocessor_config.json"
    fields = _read_json(path)
    name = fields.get("image_processor_type", fields.get("feature_extractor_type"))
    if name not in names:
        raise UserError(f"{path} is for {name}: expected {' or '.join(names)}")
    try:
        return processor_class.from_dict(fields)
    except (TypeError, ValueError, StrictDataclassError) as error:
        raise UserError(f"{path} is not a valid {processor_class.__name__}: {one_line(error)}") from None


def _tokenizer(folder: Path, tokenizer_class: type[PreTrainedTokenizerBase]) -> PreTrainedTokenizerBase:
    path = folder / "tokenizer_config.json"
    name = _read_json(path).get("tokenizer_class")
    if name != tokenizer_class.__name__:
        raise UserError(f"{path} is for {name}: expected {tokenizer_class.__name__}")
    try:
        return tokenizer_class.from_pretrained(folder)
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a valid {tokenizer_class.__name__}: {one_line(error)}") from None


def _empty(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    with torch.device("meta"):
        return model_class(config)


def _require_free(dest: Path):
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise UserError(f"{dest} exists and is not an empty folder: name another one")


if __name__ == "__main__":
    run_command(main)
