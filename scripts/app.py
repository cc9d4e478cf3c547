"""A page to try a checkpoint in the browser: drop an image or a recording, see its classes and where latents look.

    python scripts/app.py output/digits
    CHECKPOINT=org/perceiver-cifar10 python scripts/app.py      # as a Space on the Hub runs it

Gradio asks for an older Pillow than the tests run on, so it goes into an environment of its own (docs/hub.md).
"""

import argparse
import os
import time
from pathlib import Path
from typing import Any

import lab.waiting  # noqa: F401, before torch

import gradio as gr
from huggingface_hub import snapshot_download
from PIL import Image

from lab.checkpoint_names import checkpoint_name
from lab.errors import UserError, run_command
from lab.judging.checkpoints import Classifier, load_classifier
from lab.looking.maps import arguments_of, attention_maps
from lab.looking.view import View

_MEAN = "mean of all"
# Images of a few pixels are shown large.
_STYLE = "#image img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated }"

# Image inputs hand over the uploaded file itself, so that other files get a message of ours. Not a subclass, since
# Gradio writes a stub file beside the source of each; not one component, since Gradio makes it anew for every visitor.
gr.Image.preprocess = lambda self, upload: upload and upload.path


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Try a checkpoint in the browser.")
    checkpoint = os.environ.get("CHECKPOINT")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", type=checkpoint_name, nargs="?", default=checkpoint)
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    options = parser.parse_args(arguments)
    if not options.checkpoint:
        raise UserError("no checkpoint: give a folder that train.py wrote or a name on the Hub, or set CHECKPOINT")
    page(load_classifier(options.checkpoint), options.checkpoint).launch(server_port=options.port, css=_STYLE)


def page(classifier: Classifier, checkpoint: str) -> gr.Blocks:
    """The page for what `load_classifier` gave."""
    config, view = classifier.model.config, classifier.view
    with gr.Blocks(title=Path(checkpoint).name, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {Path(checkpoint).name}\n{config.num_labels} classes. Give a file, or take an example.")
        with gr.Row():
            with gr.Column():
                given = _INPUTS.get(view.sample, _any_file)()
                examples = find_examples(checkpoint, view)
                if examples:
                    gr.Examples(examples, given, cache_examples=False)
                labels = gr.Label(label="likeliest classes", num_top_classes=5, elem_id="labels")
                seconds = gr.Markdown(elem_id="seconds")
            with gr.Column():
                gr.Markdown("Where the latents look: dark is nowhere, yellow most of all.")
                shown = gr.Image(show_label=False, interactive=False, format="png", elem_id="map")
                cross_attend = gr.Dropdown(
                    list(range(1, config.num_cross_attends + 1)), value=config.num_cross_attends, label="cross-attend"
                )
                head = gr.Dropdown([_MEAN, *range(1, config.num_cross_attention_heads + 1)], value=_MEAN, label="head")
                latent = gr.Dropdown(
                    [_MEAN, *range(1, config.num_latents + 1)], value=_MEAN, label="latent", elem_id="latent"
                )
        choices = [cross_attend, head, latent]
        given.change(lambda path: name_classes(classifier, path), given, [labels, seconds])
        gr.on(
            [given.change, *(choice.change for choice in choices)],
            lambda path, *chosen: show_map(classifier, path, *chosen),
            [given, *choices],
            shown,
            show_progress="minimal",
        )
    return blocks


def _image() -> gr.components.Component:
    return gr.Image(label="image", sources=["upload", "clipboard"], height=240, elem_id="image")


def _recording() -> gr.components.Component:
    return gr.Audio(label="recording", sources=["upload", "microphone"], type="filepath", elem_id="recording")


def _any_file() -> gr.components.Component:
    return gr.File(label="file", type="filepath", elem_id="file")


_INPUTS = {"image": _image, "recording": _recording}


def name_classes(classifier: Classifier, path: str | None) -> tuple[dict[str, float] | None, str]:
    """Probabilities by class, and the time that they took."""
    if path is None:
        return None, ""
    sample = _open(classifier, path)
    start = time.perf_counter()
    predictions = classifier.pipeline(sample, top_k=classifier.model.config.num_labels)
    seconds = time.perf_counter() - start
    return {entry["label"]: entry["score"] for entry in predictions}, f"{1000 * seconds:.0f} ms"


def show_map(
    classifier: Classifier, path: str | None, cross_attend: int, head: int | str, latent: int | str
) -> Image.Image | None:
    """The attention weights of one cross-attend, head and latent over the sample as the model sees it."""
    if path is None:
        return None
    sample, model = _open(classifier, path), classifier.model
    weights = attention_maps(model, **arguments_of(classifier.processor, sample, model.device))[cross_attend - 1][0]
    weights = weights.mean(dim=0) if head == _MEAN else weights[head - 1]
    weights = weights.mean(dim=0) if latent == _MEAN else weights[latent - 1]
    return classifier.view.of(classifier.processor, model.config, sample).overlay(weights.numpy())


def find_examples(checkpoint: str, view: type[View]) -> list[str]:
    """The example files that publish.py put beside the weights, if it did."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = Path(snapshot_download(checkpoint, allow_patterns="examples/*"))
    return [str(path) for path in sorted(folder.glob(f"examples/{view.examples}"))]


def _open(classifier: Classifier, path: str) -> Any:
    view = classifier.view
    try:
        return view.read(Path(path), classifier.processor)
    except UserError:
        ending = view.examples.removeprefix("*")
        raise gr.Error(f"That file is not a readable {view.sample}. Try a {ending} file.") from None


if __name__ == "__main__":
    run_command(main)
