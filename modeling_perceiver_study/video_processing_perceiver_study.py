"""Clips to normalised frames, padded with a mask, for the Perceiver study models."""

import math
from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import Unpack

from .fetching import is_file
from .image_processing_perceiver_study import (
    PerceiverStudyImageProcessor,
    PerceiverStudyImageProcessorKwargs,
    require_for_channels,
)
from .scalars import as_list, is_count, is_number
from .video_reading import Rate, choose_frames, is_several_clips, read_frames

_LONG_CLIPS = ("spread", "cut")
_NORMALIZATIONS = ("training", "clip", "pixel")
_SMALLEST_STD = 1e-5  # of a clip in [0, 1]; below it all pixels are taken to be the same, and become 0


class PerceiverStudyVideoProcessorKwargs(PerceiverStudyImageProcessorKwargs, total=False):
    """What the processor takes beside the arguments of the image processor.

    Attributes:
        num_frames: frames that a model looks at, at most. None takes all.
        long_clips: which of a longer clip: `"spread"`, so many from all over it, evenly spaced; or `"cut"`, the first
            ones, as longer sound is cut, so that the frames and the sound of one file are of the same time.
        do_sample_frames: take exactly `num_frames`, evenly spaced from the first frame to the last, also of shorter
            clips, whose frames are repeated. All clips are of one length then, and their speed is not seen. Otherwise
            frames count from the start of a clip, as the model's `absolute_positions` do, and shorter clips are padded.
        fps: frames that are taken of each second of a file before all that; None is those that it has. Lists and arrays
            of frames do not say how long they last, and are left as they are.
        normalize: where mean and standard deviation come from with `do_normalize`: `"training"` takes `image_mean` and
            `image_std`; with `"clip"` those of each clip, over all its pixels; with `"pixel"` each pixel of a clip
            loses its own mean over time, so that only what moves is left, and the clip is divided by its deviation.
    """

    num_frames: int | None
    long_clips: str
    do_sample_frames: bool
    fps: float | int | None
    normalize: str


class PerceiverStudyVideoProcessor(PerceiverStudyImageProcessor):
    r"""Takes frames of clips, resizes, crops, rescales and normalises them `-> pixel_values, attention_mask`

    `pixel_values` are `(B, T, C, H, W)` in float32, the order of transformers' video models, padded with zeros to the
    longest clip; the mask is `(B, T)`, 1 for frames and 0 for padding, which changes nothing. All frames of a clip get
    the same size and the same crop.

    A clip is a path, a URL, the bytes of a file or a file object; a list of frames, each whatever the image processor
    takes; or an array or a tensor `(T, H, W)`, `(T, H, W, C)` or `(T, C, H, W)`. Several are a list of these, or an
    array of five axes. In a list, PIL images, files of pictures and arrays of two axes are frames of one clip, and so
    are arrays of three axes of which the first or the last is as long as a picture has channels: 1, 3, or 4 at the end.

    It is an image processor, so that `AutoImageProcessor` loads it where torchvision is not installed, without which
    transformers has no `AutoVideoProcessor`; where it is, that name loads it too.

    Args:
        kwargs: described in `PerceiverStudyVideoProcessorKwargs` and `PerceiverStudyImageProcessor`. There are no
            `position_features`: the model makes its own.

    Raises:
        ValueError: an argument has a value outside of what is said there, or a clip cannot be read; names it.
    """

    valid_kwargs = PerceiverStudyVideoProcessorKwargs
    model_input_names = ["pixel_values", "attention_mask"]
    stream = "video"  # of a file that holds several

    do_fourier_encode = False
    num_frames = None
    long_clips = "spread"
    do_sample_frames = False
    fps = None
    normalize = "training"

    def __init__(self, **kwargs: Unpack[PerceiverStudyVideoProcessorKwargs]):
        super().__init__(**kwargs)

    def _validate_preprocess_kwargs(
        self,
        num_frames: int | None = None,
        long_clips: str = "spread",
        do_sample_frames: bool = False,
        fps: float | None = None,
        normalize: str = "training",
        do_fourier_encode: bool = False,
        **kwargs,
    ):
        super()._validate_preprocess_kwargs(**kwargs)
        _check_count(num_frames)
        if do_sample_frames and num_frames is None:
            raise ValueError("do_sample_frames=True needs num_frames, to say how many.")
        if long_clips not in _LONG_CLIPS:
            raise ValueError(f"long_clips={long_clips!r}: expected one of {', '.join(map(repr, _LONG_CLIPS))}.")
        if do_sample_frames and long_clips == "cut":
            raise ValueError("long_clips='cut' takes the first frames, and do_sample_frames=True some from all over.")
        if fps is not None and not (is_number(fps) and 0 < fps < math.inf):
            raise ValueError(f"fps={fps!r}: expected None or a number above 0.")
        if normalize not in _NORMALIZATIONS:
            raise ValueError(f"normalize={normalize!r}: expected one of {', '.join(map(repr, _NORMALIZATIONS))}.")
        if do_fourier_encode:
            raise ValueError("do_fourier_encode=True: expected False, since the model makes positions of clips itself.")

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict()
        name = fields.get("auto_map", {}).get("AutoImageProcessor")
        if name is not None:
            fields["auto_map"] = fields["auto_map"] | {"AutoVideoProcessor": name}
        return fields

    def is_several(self, value: Any) -> bool:
        """Whether it is several clips, and not one as an array or a list of frames."""
        value = as_list(value)
        return getattr(value, "ndim", 0) > 4 or is_several_clips(value)

    def read(self, video: Any, frame_indices: Any = None, **kwargs: Unpack[PerceiverStudyVideoProcessorKwargs]) -> list:
        """The frames of one clip in any form that are looked at, as they are.

        Args:
            frame_indices: numbers of the frames to take, in place of the choice that `num_frames` and others make.
        """
        num_frames, exactly, fps, long_clips = (
            kwargs.get(name, getattr(self, name)) for name in ("num_frames", "do_sample_frames", "fps", "long_clips")
        )

        _check_count(num_frames)

        def choice(count: int, rate: Rate):
            if frame_indices is not None:
                return frame_indices
            return choose_frames(count, rate, num_frames, fps, exactly, first=long_clips == "cut")

        return read_frames(video, choice)

    def process_clip(self, video: Any, frame_indices: Any = None, **kwargs) -> np.ndarray:
        """One clip in any form `-> (T, C, H, W)` float32: resized and cropped, as training keeps it, not normalised.

        Pixels have the values that they come with, 0 to 255 for files and pictures.
        """
        frames = self.read(video, frame_indices, **kwargs)
        pixels = super().preprocess(frames, **kwargs | {"return_tensors": None})["pixel_values"]
        sizes = {frame.shape for frame in pixels}
        if len(sizes) > 1:
            raise ValueError(
                f"A clip has frames of sizes {sorted(size[1:] for size in sizes)}: expected one size, which `size` "
                "with height and width makes of them."
            )
        return np.stack(pixels)

    def _preprocess(self, images: list[np.ndarray], **kwargs) -> BatchFeature:
        # How frames are rescaled says what their white is, but `features` rescales and normalises whole clips.
        return super()._preprocess(images, **kwargs | {"do_rescale": False, "do_normalize": False})

    def __call__(self, videos: Any = None, *, images: Any = None, **kwargs) -> BatchFeature:
        """As `preprocess`; clips may also be named `images`, as those of image processors are.

        Raises:
            ValueError: there are no clips, or some by either name; or see `preprocess`.
        """
        if (videos is None) == (images is None):
            raise ValueError("Clips are the first argument, or named `videos` or `images`: expected one of these.")
        return self.preprocess(images if videos is None else videos, **kwargs)

    def preprocess(self, videos: Any, frame_indices: Any = None, **kwargs) -> BatchFeature:
        """One clip or several `-> pixel_values, attention_mask`

        Args:
            frame_indices: see `read`.
            kwargs: in place of the processor's own settings. With `return_tensors=None` both are lists of arrays, one
                for each clip, as long as those of a batch.

        Raises:
            ValueError: a setting has a value outside of what the processor takes, or does not fit the clips; or one of
                these cannot be read.
        """
        self._check_settings(**kwargs)  # before files are read
        videos = as_list(videos)
        clips = [videos] if _is_clip(videos) else list(videos)
        if not clips:
            raise ValueError("There are no clips: expected at least one.")
        return_tensors = kwargs.get("return_tensors", self.return_tensors)
        made = [torch.from_numpy(self.process_clip(clip, frame_indices, **kwargs)) for clip in clips]
        shapes = {clip.shape[1:] for clip in made}
        if len(shapes) > 1:
            raise ValueError(
                f"Clips become frames of {sorted(map(tuple, shapes))}, channels first: expected one shape, which "
                "`size` with height and width makes of them."
            )
        lengths = torch.tensor([len(clip) for clip in made])
        padded = made[0].new_zeros(len(made), int(lengths.max()), *made[0].shape[1:])
        for row, clip in zip(padded, made, strict=True):
            row[: len(clip)] = clip
        settings = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "normalize")
        values, mask = self.features(padded, lengths, **{key: kwargs[key] for key in settings if key in kwargs})
        data = {"pixel_values": values.numpy(), "attention_mask": mask.numpy()}
        if return_tensors is None:
            data = {name: list(rows) for name, rows in data.items()}
        return BatchFeature(data, tensor_type=return_tensors)

    def features(self, frames: torch.Tensor, lengths: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, T, C, H, W)` and how many frames of each clip are not padding `-> pixel_values, attention_mask`

        Training calls it on whole batches, on their device, so that a model is trained on what `__call__` gives.
        """
        settings = {name: getattr(self, name) for name in ("do_rescale", "rescale_factor", "do_normalize")}
        settings |= {name: getattr(self, name) for name in ("image_mean", "image_std", "normalize")} | kwargs
        mask = torch.arange(frames.shape[1], device=frames.device) < lengths.to(frames.device)[:, None]
        shown = mask[:, :, None, None, None]
        values = frames.float()
        if settings["do_rescale"]:
            values = values * settings["rescale_factor"]
        if settings["do_normalize"] and settings["normalize"] != "training":
            values = _normalize_each(values, shown, over_time=settings["normalize"] == "pixel")
        elif settings["do_normalize"]:
            mean, std, channels = settings["image_mean"], settings["image_std"], values.shape[2]
            require_for_channels(channels, image_mean=mean, image_std=std)
            mean, std = (values.new_tensor(value).expand(channels)[:, None, None] for value in (mean, std))
            values = (values - mean) / std
        return values.masked_fill(~shown, 0.0), mask.long()


def _normalize_each(values: torch.Tensor, shown: torch.Tensor, over_time: bool) -> torch.Tensor:
    """`(B, T, C, H, W) -> (B, T, C, H, W)`: each clip, or each of its pixels over time, with a mean of 0."""
    axes = (1, 2, 3, 4)
    weights = shown / shown.sum(dim=1, keepdim=True)
    mean = (values * weights).sum(dim=1, keepdim=True)
    centred = values - (mean if over_time else mean.mean(dim=axes, keepdim=True))
    std = (centred.square() * weights).sum(dim=1, keepdim=True).mean(dim=axes, keepdim=True).sqrt()
    varies = std > _SMALLEST_STD * values.abs().masked_fill(~shown, 0.0).amax(dim=axes, keepdim=True)
    return torch.where(varies, centred / torch.where(varies, std, 1.0), 0.0)


def _check_count(num_frames: int | None):
    if num_frames is not None and not is_count(num_frames):
        raise ValueError(f"num_frames={num_frames!r}: expected None or a whole number of at least 1.")


def _is_clip(videos: Any) -> bool:
    """Whether it is one clip, and not several."""
    if isinstance(videos, dict) or is_file(videos):
        return True
    if isinstance(videos, (list, tuple)):
        return len(videos) > 0 and not is_several_clips(videos)
    return getattr(videos, "ndim", 0) <= 4


PerceiverStudyVideoProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["PerceiverStudyVideoProcessor", "PerceiverStudyVideoProcessorKwargs"]
