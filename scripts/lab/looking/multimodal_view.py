"""How samples of several modalities, and attention on them, are drawn: one below the other."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import PreTrainedConfig

from lab.errors import UserError, one_line, require_file
from lab.looking.image_view import ImageView
from lab.looking.points_view import PointsView
from lab.looking.sound_view import SoundView
from lab.looking.text_view import TextView
from lab.looking.video_view import VideoView
from lab.looking.view import View, answers_of

_WIDTH, _TITLE = 700, 32  # pixels of the picture on the page, and of a line of text in it
_GAP = 0.06  # between pictures, as a share of the height


class MultimodalView(View):
    """A sample as the model sees it: those of its modalities that are there, in the order of their names.

    Args:
        views: of each.

    Attributes:
        kinds: the views that a modality may have.
    """

    task, sample, processor, examples = "multimodal-classification", "sample", "processor", "*.npz"
    models, processors = ("PerceiverStudyForMultimodalClassification",), ("PerceiverStudyProcessor",)
    kinds: ClassVar[tuple[type[View], ...]] = (ImageView, SoundView, PointsView, VideoView, TextView)

    def __init__(self, views: dict[str, View]):
        self.views = views

    @classmethod
    def read(cls, path: Path, processor: Any) -> dict[str, Any]:
        """What each modality reads of a file that has several, such as a video with sound; or arrays of a .npz file."""
        require_file(path)
        names = processor.modalities
        if path.suffix != ".npz":
            return cls._of_file(path, names)
        try:
            with np.load(path) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # readers of archives let out nearly anything that Python raises
            raise UserError(f"{path} is not a readable sample: {one_line(error)}") from None
        unknown = sorted(found.keys() - names.keys())
        if unknown or not found:
            raise UserError(f"{path} has arrays {', '.join(found) or '(none)'}: expected some of {', '.join(names)}")
        texts = [name for name in found if cls.view_of(names[name]) is TextView]
        for name, value in found.items():
            if name in texts:
                fits, expected = value.dtype.kind == "U" and value.ndim == 0, "a single text"
            else:  # processors take a text for a path or an address, which a visitor of a page must not name
                fits, expected = value.dtype.kind in "biuf", "numbers"
            if not fits:
                raise UserError(f"{path} has {name} of shape {value.shape} and {value.dtype}: expected {expected}")
        return {name: str(value) if name in texts else value for name, value in found.items()}

    @classmethod
    def files(cls, processor: Any) -> str:
        """A file of one kind holds all modalities only if it is a video with sound, or if there is one modality."""
        views = {cls.view_of(part) for part in processor.modalities.values()}
        in_one = views <= {VideoView, SoundView} or (len(processor.modalities) == 1 and TextView not in views)
        return "FILE" if in_one else "SAMPLE.npz"

    @classmethod
    def _of_file(cls, path: Path, parts: dict[str, Any]) -> dict[str, Any]:
        """As the pipeline reads it: texts are in no file, and a stream that is not there is a missing modality."""
        npz = f"give a .npz file with some of {', '.join(parts)} by these names (docs/modalities.md)"
        found, lacking = {}, UserError(f"{path} cannot hold a text: {npz}")
        for name, part in parts.items():
            if cls.view_of(part) is TextView:
                continue
            try:
                found[name] = cls.view_of(part).read(path, part)
            except UserError as error:
                # The processor comes with the checkpoint, and so does the class of what it raises.
                if type(error.__context__).__name__ != "MissingStream":
                    raise UserError(f"{error}: {name} would be read of this file, too; {npz}") from None
                lacking = UserError(f"{error}; {npz}")
        if not found:
            raise lacking
        return found

    @classmethod
    def view_of(cls, processor: Any) -> type[View]:
        """The view of what the processor of a modality is for."""
        name = type(processor).__name__
        return next(view for view in cls.kinds if name in view.processors)

    @classmethod
    def purpose(cls, config: PreTrainedConfig) -> str:
        names = ", ".join(config.modalities)
        return f"Give one file that holds {names}, or any of them by itself, and see {answers_of(config)}."

    @classmethod
    def parts(cls, processor: Any) -> dict[str, type[View]]:
        """A file that holds all modalities, or each by itself."""
        views = {cls.sample: cls}
        for name, part in processor.modalities.items():
            (views[name],) = cls.view_of(part).parts(part).values()
        return views

    @classmethod
    def take(cls, given: dict[str, str], processor: Any) -> dict[str, Any]:
        """What is given by itself is taken in place of what the file of all has."""
        found = cls.read(Path(given[cls.sample]), processor) if cls.sample in given else {}
        for name, part in processor.modalities.items():
            if name in given:
                view = cls.view_of(part)
                found[name] = view.take({view.sample: given[name]}, part)
        return found

    @classmethod
    def of(cls, processor: Any, config: PreTrainedConfig, sample: dict[str, Any]) -> "MultimodalView":
        parts = processor.modalities
        return cls(
            {
                name: cls.view_of(parts[name]).of(parts[name], config.modality_config(name), sample[name])
                for name in sorted(sample)
            }
        )

    @classmethod
    def example(cls, config: PreTrainedConfig, count: int, length: int | None = None) -> dict[str, torch.Tensor]:
        arguments = {}
        for name in config.modalities:
            own = config.modality_config(name)
            view = next(view for view in cls.kinds if view.fits(own))
            (first, values), *others = view.example(own, count, length).items()
            arguments[own.input_name or first] = values
            arguments |= {f"{name}_{key}": value for key, value in others}
        return arguments

    @property
    def count(self) -> int:
        return sum(view.count for view in self.views.values())

    def draw(self, axes: Any):
        for inner, view in zip(self._below(axes), self.views.values(), strict=True):
            view.draw(inner)

    def paint(self, axes: Any, weights: np.ndarray, lowest: float | None = 0.0):
        """Each modality in colours of its own scale, with its share of the weights where these are weights."""
        pieces = self._split(weights)
        for inner, view, own in zip(self._below(axes), self.views.values(), pieces, strict=True):
            view.paint(inner, own, lowest)
            if lowest is not None and len(pieces) > 1:
                inner.set_title(f"{100 * own.sum() / max(weights.sum(), 1e-12):.0f} %", fontsize=6, pad=1)

    def overlay(self, weights: np.ndarray) -> Image.Image:
        """The picture of each modality below its name and its share of the weights."""
        pictures = []
        for (name, view), own in zip(self.views.items(), self._split(weights), strict=True):
            picture = view.overlay(own)
            size = (_WIDTH, round(_WIDTH * picture.height / picture.width))
            title = Image.new("RGB", (_WIDTH, _TITLE), "white")
            share = 100 * own.sum() / max(weights.sum(), 1e-12)
            ImageDraw.Draw(title).text(
                (_TITLE // 4, _TITLE // 8), f"{name}: {share:.0f} %", "black", font_size=_TITLE // 2
            )
            pictures += [title, picture.resize(size)]
        whole = Image.new("RGB", (_WIDTH, sum(picture.height for picture in pictures)))
        place = 0
        for picture in pictures:
            whole.paste(picture, (0, place))
            place += picture.height
        return whole

    def _split(self, weights: np.ndarray) -> list[np.ndarray]:
        """The weights of each modality."""
        ends = np.cumsum([view.count for view in self.views.values()])
        return np.split(weights, ends[:-1])

    def _below(self, axes: Any) -> list[Any]:
        """Axes for each modality, from the top down, in these."""
        axes.set_axis_off()
        share = 1 / len(self.views)
        places = [(0, 1 - (number + 1) * share + _GAP / 2, 1, share - _GAP) for number in range(len(self.views))]
        inner = [axes.inset_axes(place) for place in places]
        for one in inner:
            one.set(xticks=[], yticks=[])
        return inner
