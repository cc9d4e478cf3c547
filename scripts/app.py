"""A page to try a checkpoint in the browser: give a sample of its kind, see its classes and where latents look.

    python scripts/app.py output/digits
    CHECKPOINT=org/perceiver-cifar10 python scripts/app.py      # as a Space on the Hub runs it

Pictures, recordings, clips, clouds and samples of several modalities are files, texts are typed; what the page asks for
and how it draws that is said by the view of the model's kind (lab/looking).
Gradio asks for an older Pillow than the tests run on, so it goes into an environment of its own (docs/hub.md).
"""

import argparse
import os
import re
import time
from pathlib import Path
from typing import Any

import lab.waiting  # noqa: F401, before torch

import gradio as gr
from huggingface_hub import snapshot_download
from PIL import Image

from lab.checkpoint_names import checkpoint_name
from lab.errors import UserError, one_line, run_command
from lab.judging.checkpoints import Classifier, load_classifier
from lab.looking.maps import arguments_of, attention_maps
from lab.looking.view import View

_MEAN = "mean of all"
_ANSWERS = 5  # for each question
_LAST_PORT = 2**16 - 1
_OLD = 1800  # seconds: as often Gradio deletes what visitors gave so long ago, and what was drawn for them
# Images of a few pixels are shown large.
_STYLE = "#image img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated }"

# Image inputs hand over the uploaded file itself, so that other files get a message of ours. Not a subclass, since
# Gradio writes a stub file beside the source of each; not one component, since Gradio makes it anew for every visitor.
gr.Image.preprocess = lambda self, upload: upload and upload.path


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Try a checkpoint in the browser.")
    checkpoint = os.environ.get("CHECKPOINT")
    what = "folder of a run, or a name on the Hub"
    parser.add_argument(
        "checkpoint", metavar="CHECKPOINT", type=checkpoint_name, nargs="?", default=checkpoint, help=what
    )
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    options = parser.parse_args(arguments)
    if not options.checkpoint:
        raise UserError("no checkpoint: give a folder that train.py wrote or a name on the Hub, or set CHECKPOINT")
    if options.port is not None and not 1 <= options.port <= _LAST_PORT:
        raise UserError(f"--port {options.port}: expected a number from 1 to {_LAST_PORT}")
    blocks = page(load_classifier(options.checkpoint), options.checkpoint)
    try:
        blocks.launch(server_port=options.port, css=_STYLE)
    except OSError as error:  # the port is taken
        raise UserError(f"the page cannot be served: {one_line(error)}") from None


def page(classifier: Classifier, checkpoint: str) -> gr.Blocks:
    """The page for what `load_classifier` gave."""
    config, view = classifier.model.config, classifier.view
    parts = view.parts(classifier.processor)
    name = Path(checkpoint).resolve().name
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(_OLD, _OLD)) as blocks:
        gr.Markdown(f"# {_plain(name)}\n{view.purpose(config)}")
        with gr.Row():
            with gr.Column():
                given = [_INPUTS[part.given_as](name) for name, part in parts.items()]
                examples = find_examples(checkpoint, view)
                if examples:
                    gr.Examples(examples, given[0], cache_examples=False)
                told = gr.Markdown(elem_id="told", line_breaks=True)
                labels = gr.Label(label="likeliest", elem_id="labels")
            with gr.Column():
                legends = "; ".join(dict.fromkeys(part.legend for part in parts.values()))
                gr.Markdown(f"Where the latents look: {legends}.")
                shown = gr.Image(show_label=False, interactive=False, format="png", buttons=[], elem_id="map")
                looks = _numbers(config.num_cross_attends)
                cross_attend = gr.Dropdown(looks, value=looks[-1], label="cross-attend")
                heads, latents = ([_MEAN, *_numbers(n)] for n in (config.num_cross_attention_heads, config.num_latents))
                head = gr.Dropdown(heads, value=_MEAN, label="head")
                latent = gr.Dropdown(latents, value=_MEAN, label="latent", elem_id="latent")
        choices, changes = [cross_attend, head, latent], [one.change for one in given]
        # Of what is typed the last state is answered, not every one.
        gr.on(
            changes,
            lambda *values: answer(classifier, values),
            given,
            [told, labels],
            trigger_mode="always_last",
            api_name="answer",
        )
        gr.on(
            [*changes, *(choice.change for choice in choices)],
            lambda *values: show_map(classifier, values[: len(given)], *values[len(given) :]),
            [*given, *choices],
            shown,
            show_progress="minimal",
            trigger_mode="always_last",
            api_name="map",
        )
    return blocks


def _numbers(count: int) -> list[str]:
    """From 1, as texts, since Gradio's API says that choices are."""
    return [str(number) for number in range(1, count + 1)]


def _image(name: str) -> gr.components.Component:
    return gr.Image(label=name, sources=["upload", "clipboard"], height=240, elem_id=name)


def _recording(name: str) -> gr.components.Component:
    return gr.Audio(label=name, sources=["upload", "microphone"], type="filepath", elem_id=name)


def _text(name: str) -> gr.components.Component:
    return gr.Textbox(label=name, lines=4, elem_id=name)


def _file(name: str) -> gr.components.Component:
    return gr.File(label=name, type="filepath", height=140, elem_id=name)


_INPUTS = {"image": _image, "recording": _recording, "text": _text, "file": _file}


def answer(classifier: Classifier, values: tuple[str | None, ...]) -> tuple[str, dict[str, float] | None]:
    """What the model says in words, with the time that it took, and the likeliest answers; or what is wrong."""
    numbers = classifier.answers_numbers
    try:
        sample = _take(classifier, values)
        if sample is None:
            return "", None
        start = time.perf_counter()
        named, told = classifier.answer(sample, _ANSWERS)
    except (UserError, ValueError, OSError) as error:
        return _plain(_told(error, values)), None
    seconds = time.perf_counter() - start
    lines = [told]
    lines += [f"{name}: {number:.4g}" for name, number in named] if numbers else []
    lines.append(f"{1000 * seconds:.0f} ms")
    return _plain("\n\n".join(filter(None, lines))), None if numbers else dict(named)


def show_map(
    classifier: Classifier, values: tuple[str | None, ...], cross_attend: str, head: str, latent: str
) -> Image.Image | None:
    """The attention weights of one cross-attend, head and latent, as in the menus, over what the model sees."""
    model = classifier.model
    try:
        sample = _take(classifier, values)
        if sample is None:
            return None
        sample, _ = classifier.view.part(classifier.processor, sample)
        arguments = arguments_of(classifier.processor, sample, model.device)
        weights = attention_maps(model, **arguments)[int(cross_attend) - 1][0]
    except (UserError, ValueError, OSError):  # `answer` says what is wrong
        return None
    weights = weights.mean(dim=0) if head == _MEAN else weights[int(head) - 1]
    weights = weights.mean(dim=0) if latent == _MEAN else weights[int(latent) - 1]
    return classifier.view.of(classifier.processor, model.config, sample).overlay(weights.numpy())


def find_examples(checkpoint: str, view: type[View]) -> list[str]:
    """The examples that publish.py put beside the weights, if it did, as a visitor would give them."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        folder = Path(snapshot_download(checkpoint, allow_patterns="examples/*"))
    return [view.give(path) for path in sorted(folder.glob(f"examples/{view.examples}"))]


def _take(classifier: Classifier, values: tuple[str | None, ...]) -> Any:
    """The sample, or None where nothing is given."""
    view, processor = classifier.view, classifier.processor
    given = {name: value for name, value in zip(view.parts(processor), values, strict=True) if value}
    return view.take(given, processor) if given else None


def _told(error: Exception, values: tuple[str | None, ...]) -> str:
    """A message that calls files by their own names, not by where the page keeps them."""
    message = one_line(error)
    for path in filter(os.path.isfile, filter(None, values)):
        message = message.replace(path, Path(path).name)
    return message


def _plain(text: str) -> str:
    """A text that Markdown leaves as it is."""
    return re.sub(r"[!-/:-@\[-`{-~]", r"\\\g<0>", text)


if __name__ == "__main__":
    run_command(main)
