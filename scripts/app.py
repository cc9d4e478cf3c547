"""A page to try a checkpoint in the browser: drop an image, see its classes and where the latents look.

    python scripts/app.py output/digits
    CHECKPOINT=org/perceiver-cifar10 python scripts/app.py      # as a Space on the Hub runs it

Gradio asks for an older Pillow than the tests run on, so it goes into an environment of its own (docs/hub.md).
"""

import argparse
import os
import time
from pathlib import Path

import lab.waiting  # noqa: F401, before torch

import gradio as gr
import numpy as np
from huggingface_hub import snapshot_download
from matplotlib import colormaps
from PIL import Image

from lab.data.images import open_image, seen_pixels
from lab.errors import UserError, run_command
from lab.judging.checkpoints import load_classifier
from lab.looking.maps import cross_attention_maps

_SHOWN_SIZE = 384  # pixels of the shorter side of a map
_MEAN = "mean of all"
# Images of a few pixels are shown large.
_STYLE = "#image img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated }"

# Image inputs hand over the uploaded file itself, so that other files get a message of ours. Not a subclass, since
# Gradio writes a stub file beside the source of each; not one component, since Gradio makes it anew for every visitor.
gr.Image.preprocess = lambda self, upload: upload and upload.path


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Try a checkpoint in the browser.")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", default=os.environ.get("CHECKPOINT"))
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    options = parser.parse_args(arguments)
    if not options.checkpoint:
        raise UserError("no checkpoint: give a folder that train.py wrote or a name on the Hub, or set CHECKPOINT")
    page(load_classifier(options.checkpoint), options.checkpoint).launch(server_port=options.port, css=_STYLE)


def page(classify, checkpoint: str) -> gr.Blocks:
    """The page for a pipeline that `load_classifier` gave."""
    config = classify.model.config
    with gr.Blocks(title=Path(checkpoint).name, analytics_enabled=False) as blocks:
        gr.Markdown(f"# {Path(checkpoint).name}\n{config.num_labels} classes. Drop an image, or take an example.")
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label="image", sources=["upload", "clipboard"], height=240, elem_id="image")
                examples = find_examples(checkpoint)
                if examples:
                    gr.Examples(examples, picture, cache_examples=False)
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
        picture.change(lambda path: name_classes(classify, path), picture, [labels, seconds])
        gr.on(
            [picture.change, *(choice.change for choice in choices)],
            lambda path, *chosen: show_map(classify, path, *chosen),
            [picture, *choices],
            shown,
            show_progress="minimal",
        )
    return blocks


def name_classes(classify, path: str | None) -> tuple[dict[str, float] | None, str]:
    """Probabilities by class, and the time that they took."""
    if path is None:
        return None, ""
    image = _open(path)
    start = time.perf_counter()
    predictions = classify(image, top_k=classify.model.config.num_labels)
    seconds = time.perf_counter() - start
    return {entry["label"]: entry["score"] for entry in predictions}, f"{1000 * seconds:.0f} ms"


def show_map(classify, path: str | None, cross_attend: int, head: int | str, latent: int | str) -> Image.Image | None:
    """The attention weights of one cross-attend, head and latent over the image as the model sees it."""
    if path is None:
        return None
    image, processor = _open(path), classify.image_processor
    inputs = processor(image, return_tensors="pt").to(classify.model.device)
    weights = cross_attention_maps(classify.model, **inputs)[cross_attend - 1][0]
    weights = weights.mean(dim=0) if head == _MEAN else weights[head - 1]
    weights = weights.mean(dim=0) if latent == _MEAN else weights[latent - 1]
    return overlay(seen_pixels(processor, image), weights.numpy())


def overlay(pixels: np.ndarray, weights: np.ndarray) -> Image.Image:
    """`(C, H, W)` uint8, `(H', W')` from 0 up: the weights in colour over the image in grey."""
    grey = Image.fromarray(pixels.transpose(1, 2, 0)).convert("L") if len(pixels) == 3 else Image.fromarray(pixels[0])
    scale = max(1, _SHOWN_SIZE // min(grey.size))
    size = (scale * grey.width, scale * grey.height)
    colours = Image.fromarray(colormaps["viridis"](weights / weights.max(), bytes=True)).convert("RGB")
    nearest = Image.Resampling.NEAREST
    return Image.blend(grey.convert("RGB").resize(size, nearest), colours.resize(size, nearest), 0.6)


def find_examples(checkpoint: str) -> list[str]:
    """The example images that publish.py put beside the weights, if it did."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = Path(snapshot_download(checkpoint, allow_patterns="examples/*"))
    return [str(path) for path in sorted(folder.glob("examples/*.png"))]


def _open(path: str) -> Image.Image:
    try:
        return open_image(Path(path))
    except UserError:
        raise gr.Error("That file is not an image that can be read. Try a PNG or JPEG file.") from None


if __name__ == "__main__":
    run_command(main)
