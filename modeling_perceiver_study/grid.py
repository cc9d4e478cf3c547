"""Inputs on a grid of any number of axes: waveforms, images, video, volumes; single points or patches of them."""

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from .inputs import (
    InputAdapter,
    check_floating,
    check_mask,
    check_needed_mask,
    fresh_weight,
    register_input_adapter,
    shown_array,
)
from .paths import has_values, keeps_nothing
from .position import SAME_FEATURES, find_max_frequency, fourier_axis_features
from .separable import GridInputs, array_inputs, grid_inputs

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig

# Of fewer points along an axis a convolutional stem would leave nothing.
SMALLEST_CONV_STEM_SIZE = 5
CONV_STEM_STEP = 4  # points from one that it leaves to the next: it has two layers of stride 2
# With fewer frames oneDNN, by which torch computes on CPUs, takes the gradient of a 3-D convolution from stray memory.
_FEWEST_FRAMES = 8
_LAYERS_OF_CONV_STEM = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.MaxPool1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
}
_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def is_clip(config: "PerceiverStudyConfig") -> bool:
    """Whether a grid is one of video: three axes, and the channels behind that of the frames."""
    return (config.num_axes, config.channel_axis) == (3, 2)


def space_to_depth(pixels: torch.Tensor, patch: list[int]) -> torch.Tensor:
    """`(B, C, S_1, .., S_A) -> (B, p_1 * .. * p_A * C, ceil(S_1 / p_1), .., ceil(S_A / p_A))`

    The channels of a patch are its points in row-major order, each with its `C`, as in transformers' function of this
    name. A last patch that is not full is filled with zeros.
    """
    sizes, axes = pixels.shape[2:], len(patch)
    padding = [amount for size, step in zip(sizes, patch, strict=True) for amount in (-size % step, 0)]
    if any(padding):
        pixels = nn.functional.pad(pixels, padding[::-1])
    shape = [number for size, step in zip(pixels.shape[2:], patch, strict=True) for number in (size // step, step)]
    split = pixels.reshape(*pixels.shape[:2], *shape)
    order = [*range(3, 3 + 2 * axes, 2), 1, *range(2, 2 + 2 * axes, 2)]
    return split.permute(0, *order).flatten(1, axes + 1)


class LinearStem(nn.Module):
    """`(B, C, S_1, .., S_A) -> (B, C', S_1, .., S_A)`: the same linear map at each point."""

    def __init__(self, num_channels: int, stem_channels: int):
        super().__init__()
        self.linear = nn.Linear(num_channels, stem_channels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(pixels.movedim(1, -1)).movedim(-1, 1)


class ConvStem(nn.Module):
    """`(B, C, S_1, .., S_A) -> (B, C', (S_1 - 1) // 4, .., (S_A - 1) // 4)`, for 1 to 3 axes.

    Of two axes it is transformers' `Conv2DDownsample`.
    """

    def __init__(self, num_channels: int, stem_channels: int, num_axes: int):
        super().__init__()
        convolution, batchnorm, pool = _LAYERS_OF_CONV_STEM[num_axes]
        self.conv = convolution(num_channels, stem_channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.batchnorm = batchnorm(stem_channels)
        self.pool = pool(kernel_size=3, stride=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        # transformers has it the other way round, to the same effect for more numbers.
        return self.pool(self.batchnorm(self._convolved(pixels))).relu()

    def _convolved(self, pixels: torch.Tensor) -> torch.Tensor:
        frames = pixels.shape[2]
        if pixels.ndim < 5 or frames >= _FEWEST_FRAMES:
            return self.conv(pixels)
        # The convolution sees zeros behind the last frame anyway. What the further ones make is cut off.
        filled = nn.functional.pad(pixels, (0, 0, 0, 0, 0, _FEWEST_FRAMES - frames))
        return self.conv(filled)[:, :, : (frames + 1) // 2]


class LearnedPositions(nn.Module):
    """`(S_1, .., S_A) -> (1, M, P)`: a table with a row per point.

    Args:
        grid: that of the table.
        resampled: whether other grids span the same table, resampled linearly; otherwise they are its beginning.
    """

    def __init__(self, grid: list[int], num_channels: int, project: bool, resampled: bool = True):
        super().__init__()
        self.grid = grid
        self.resampled = resampled
        self.weight = fresh_weight(math.prod(grid), num_channels)
        self.projection = nn.Linear(num_channels, num_channels) if project else None

    def forward(self, grid: list[int]) -> torch.Tensor:
        if grid == self.grid:
            table = self.weight[None]
        else:
            table = self._resample(grid) if self.resampled else self._begin(grid)
        return table if self.projection is None else self.projection(table)

    def _begin(self, grid: list[int]) -> torch.Tensor:
        if any(size > most for size, most in zip(grid, self.grid, strict=True)):
            raise ValueError(
                f"The input is a grid of {grid} points: expected at most {self.grid}, as image_size says, since there "
                "are learned positions for no more."
            )
        table = self.weight.unflatten(0, self.grid)
        for axis, size in enumerate(grid):
            table = table.narrow(axis, 0, size)
        return table.flatten(0, -2)[None]

    def _resample(self, grid: list[int]) -> torch.Tensor:
        table = self.weight.T.unflatten(-1, self.grid)[None]
        # Corners stay corners: positions span [-1, 1] on every grid.
        if len(grid) not in _INTERPOLATION:
            raise ValueError(
                f"Learned positions of {len(grid)} axes cannot be resampled from grid {self.grid} to {grid}: expected "
                f"{self.grid}, or at most 3 axes."
            )
        mode = _INTERPOLATION[len(grid)]
        return nn.functional.interpolate(table, size=grid, mode=mode, align_corners=True).flatten(2).transpose(1, 2)


class GridAdapter(InputAdapter):
    """`(B, C, S_1, .., S_A)` or `(B, M, C + P)` -> `GridInputs`, checked against the config.

    Fourier positions stay in separable form. Points first become patches, then go through a stem, then get positions.
    The mask is `(B, M)` in row-major order; with patches `(B, S_1 * .. * S_A)`, one entry per point of what is given:
    hidden ones count as zeros, and a patch is attended to if one of its points is. With a convolutional stem it may be
    either, of the points that the stem leaves or of what is given. Of several axes it may also be
    `(B, S_1)`, one entry for all points that are at the same place of the first axis, such as a frame.
    """

    input_name = "pixel_values"
    more_arguments = ("position_features", "inputs")
    config_fields = (
        "image_size",
        "num_channels",
        "channel_axis",
        "num_axes",
        "patch_size",
        "stem_type",
        "stem_channels",
        "num_frequency_bands",
        "max_frequencies",
        "concat_positions",
        "absolute_positions",
        "position_encoding_type",
        "learned_position_channels",
        "project_learned_positions",
    )
    stem_types = ("none", "linear", "conv")
    supports_local_start = True
    starts_locally_beside_others = True

    def __init__(self, config: "PerceiverStudyConfig"):
        super().__init__(config)
        self.stem = None
        if config.stem_type == "linear":
            self.stem = LinearStem(config.num_channels * math.prod(config.patch), config.stem_channels)
        elif config.stem_type == "conv":
            self.stem = ConvStem(config.num_channels, config.stem_channels, config.num_axes)
        if config.position_encoding_type == "learned":
            self.learned_positions = LearnedPositions(
                config.attended_grid,
                config.num_position_channels,
                config.project_learned_positions,
                not config.absolute_positions,
            )

    @classmethod
    def width_of(cls, config: "PerceiverStudyConfig") -> int:
        return config.num_attended_channels + config.num_position_channels

    @classmethod
    def is_separable(cls, config: "PerceiverStudyConfig") -> bool:
        return config.position_encoding_type == "fourier"

    def length(
        self,
        pixel_values: torch.Tensor | None,
        position_features: torch.Tensor | None = None,
        inputs: torch.Tensor | None = None,
    ) -> int:
        if inputs is not None:
            return inputs.shape[1]
        return math.prod(self.config.attended_sizes(self._channels_first(pixel_values).shape[2:]))

    def forward(
        self,
        pixel_values: torch.Tensor | None,
        position_features: torch.Tensor | None,
        inputs: torch.Tensor | None,
        dtype: torch.dtype,
        attention_mask: torch.Tensor | None = None,
    ) -> GridInputs:
        name = self.arguments[0]
        if (pixel_values is None) == (inputs is None):
            raise ValueError(
                f"Give either {name} or inputs: got {'neither' if inputs is None else 'both'}. {name} are for a grid "
                "such as an image, inputs for any array that already holds its positions."
            )
        if inputs is not None:
            self._check_inputs(inputs, position_features)
            return shown_array(inputs.to(dtype), check_needed_mask(attention_mask, inputs.shape[:2]))
        pixels = self._channels_first(pixel_values)
        self._check_pixels(pixel_values, pixels)
        attention_mask = _mask_of_points(attention_mask, pixels, self.config)
        pixels, attention_mask = self._patches(pixels, attention_mask)
        if self.config.stem_type == "conv":
            pixels, attention_mask = _before_conv_stem(pixels, attention_mask)
        if self.stem is not None:
            pixels = self.stem(pixels.to(dtype))
        grid = list(pixels.shape[2:])
        points = "input" if self.config.stem_type != "conv" else "point of the grid, or per point that the stem leaves"
        mask = check_needed_mask(attention_mask, (pixels.shape[0], math.prod(grid)), points)
        if mask is not None:
            pixels = pixels.masked_fill(~mask.view(-1, 1, *grid), 0)  # what padding holds may be NaN
        if position_features is not None:
            self._check_position_features(position_features, pixels.shape[0], grid)
        if self.config.position_encoding_type == "fourier":
            exact = torch.promote_types(torch.float32, dtype)
            axis_features = self.fourier_features(grid, exact, pixels.device)
            if position_features is not None:
                axis_features = self._given_features(position_features, axis_features)
            return grid_inputs(pixels.to(exact), axis_features)._replace(attention_mask=mask)
        array = pixels.flatten(2).transpose(1, 2).to(dtype)
        if self.config.position_encoding_type == "learned":
            positions = self.learned_positions(grid).to(dtype)
            array = torch.cat([array, positions.expand(array.shape[0], -1, -1)], dim=-1)
        return array_inputs(array, mask)

    def fourier_features(self, grid: list[int], dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
        """`(1, S_a, F)` for each axis, of the config's bands."""
        config = self.config
        make = _fourier_features if keeps_nothing() else _kept_fourier_features
        return make(
            tuple(int(size) for size in grid),  # of a trace they are tensors
            config.num_frequency_bands,
            tuple(config.axis_max_frequencies),
            config.concat_positions,
            dtype,
            device,
            tuple(config.attended_grid) if config.absolute_positions else None,
        )

    def _given_features(
        self, position_features: torch.Tensor, own_features: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """`(1 or B, S_1 + .. + S_A, F)`, the config's `(1, S_a, F)` for each axis -> `(1 or B, S_a, F)` for each axis.

        Raises:
            ValueError: these are Fourier features of other bands than the config's.
        """
        given = position_features.to(own_features[0].dtype).split([own.shape[1] for own in own_features], dim=1)
        if position_features.dtype in (torch.bfloat16, torch.float16) and not position_features.requires_grad:
            # Pipelines cast all that they pass on: numbers that may be rounded ones of the config become those again.
            unit = torch.finfo(position_features.dtype).eps
            given = tuple(
                torch.where(torch.isclose(axis, own, rtol=unit, atol=1e-4), own, axis)
                for axis, own in zip(given, own_features, strict=True)
            )
        if has_values(position_features):
            self._check_bands(given, own_features)
        return given

    def _check_bands(self, given: Sequence[torch.Tensor], own_features: Sequence[torch.Tensor]):
        differences = [(axis.detach() - own).abs() for axis, own in zip(given, own_features, strict=True)]
        largest = torch.stack([difference.amax() for difference in differences]).tolist()  # a device is waited for once
        for number, (axis, difference) in enumerate(zip(given, differences, strict=True)):
            sample = difference.flatten(1).amax(dim=1).argmax() if largest[number] > SAME_FEATURES else None
            found = None if sample is None else find_max_frequency(axis[sample])
            if found is not None:
                config = self.config
                raise ValueError(
                    f"position_features of axis {number} are Fourier features up to frequency {found:.4g}, and the "
                    f"model's go up to {config.axis_max_frequencies[number]:.4g} (max_frequencies="
                    f"{config.max_frequencies!r}, image_size={config.image_size!r}). Expected image processor and "
                    "model to have the same max_frequencies. Or call the image processor with do_fourier_encode=False: "
                    "the model then makes its own."
                )

    def _channels_first(self, pixel_values: torch.Tensor) -> torch.Tensor:
        config = self.config
        if config.num_channels == 1 and pixel_values.ndim == config.num_axes + 1:
            return pixel_values.unsqueeze(1)
        if config.channel_axis != 1 and pixel_values.ndim == config.num_axes + 2:
            return pixel_values.movedim(config.channel_axis, 1)
        return pixel_values

    def _patches(
        self, pixels: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        patch = self.config.patch
        # A linear stem must not see hidden points either: times a gradient of 0, NaN would be one of its weights'.
        if math.prod(patch) == 1 and (attention_mask is None or self.config.stem_type != "linear"):
            return pixels, attention_mask
        if attention_mask is not None:
            grid, points = pixels.shape[2:], "input" if math.prod(patch) == 1 else "point before patches"
            attention_mask = check_mask(attention_mask, (pixels.shape[0], math.prod(grid)), points)
            shown = attention_mask.unflatten(1, grid)[:, None]
            pixels = pixels.masked_fill(~shown, 0.0)
            attention_mask = space_to_depth(shown, patch).any(dim=1).flatten(1)
        return space_to_depth(pixels, patch), attention_mask

    def _check_inputs(self, inputs: torch.Tensor, position_features: torch.Tensor | None):
        config, name = self.config, self.arguments[0]
        if position_features is not None:
            raise ValueError(f"position_features go with {name}; inputs already hold their positions.")
        if inputs.ndim != 3 or inputs.shape[-1] != self.width or inputs.shape[1] == 0:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}: expected (batch, points, {self.width}), the last being "
                f"{config.num_attended_channels} channels and {config.num_position_channels} position features. "
                f"Pixels, which have no positions yet, are to be given as {name}."
            )
        check_floating("inputs", inputs)

    def _check_pixels(self, pixel_values: torch.Tensor, pixels: torch.Tensor):
        config, name = self.config, self.arguments[0]
        if pixels.ndim != config.num_axes + 2 or pixels.shape[1] != config.num_channels or 0 in pixels.shape[2:]:
            axes = {1: ["length"], 2: ["height", "width"], 3: ["frames", "height", "width"]}.get(
                config.num_axes, ["sizes of axes"]
            )
            axes.insert(config.channel_axis - 1, "channels")
            raise ValueError(
                f"{name} have shape {tuple(pixel_values.shape)}: expected (batch, {', '.join(axes)}) with "
                f"num_channels={config.num_channels} and num_axes={config.num_axes} axes of at least one point."
            )
        check_floating(name, pixel_values)

    def _check_position_features(self, position_features: torch.Tensor, batch: int, grid: list[int]):
        config = self.config
        if config.position_encoding_type != "fourier":
            raise ValueError(
                "position_features were given to a model that does not use them, with "
                f"position_encoding_type={config.position_encoding_type!r}: call the image processor with "
                "do_fourier_encode=False."
            )
        rows, width = sum(grid), config.num_axis_features
        if position_features.shape[1:] != (rows, width) or position_features.shape[0] not in (1, batch):
            what, given = self.arguments[0], position_features.shape[-1]
            advice = f"Were they made for these {what}?"
            if config.attended_grid != config.grid:
                what = "the grid that the stem leaves" if config.stem_type == "conv" else "the grid of patches"
                advice = "The image processor does not know that grid: call it with do_fourier_encode=False."
            elif given != width:
                advice = (
                    f"The model has num_frequency_bands={config.num_frequency_bands} and concat_positions="
                    f"{config.concat_positions}; an image processor makes these with num_frequency_bands={given // 2} "
                    f"and concat_positions={given % 2 == 1}."
                )
            raise ValueError(
                f"position_features have shape {tuple(position_features.shape)}: expected (1 or {batch}, {rows}, "
                f"{width}), i.e. {width} features for each of the {' + '.join(map(str, grid))} coordinates of {what}. "
                f"{advice}"
            )
        check_floating("position_features", position_features)


def _before_conv_stem(pixels: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Points that are enough for a stem, and a mask of all as one of those that the stem leaves; one of those as it is.

    Hidden points count as zeros, as padding does inside of the stem. What it leaves along an axis, point `k`, is there
    if point `4 k + 4` is, and the first if any is: so what is padded at its end keeps the points that it has alone.
    """
    sizes = pixels.shape[2:]
    if mask is not None and tuple(mask.shape) == (pixels.shape[0], math.prod(sizes)):
        shown = check_mask(mask, mask.shape).unflatten(1, sizes)
        pixels = pixels.masked_fill(~shown[:, None], 0.0)
        for axis in range(1, shown.ndim):
            along = shown.movedim(axis, 1)
            first = along[:, :SMALLEST_CONV_STEM_SIZE].any(dim=1, keepdim=True)
            shown = torch.cat([first, along[:, 2 * CONV_STEM_STEP :: CONV_STEM_STEP]], dim=1).movedim(1, axis)
        mask = shown.flatten(1)
    missing = [amount for size in sizes for amount in (max(0, SMALLEST_CONV_STEM_SIZE - size), 0)]
    return (nn.functional.pad(pixels, missing[::-1]) if any(missing) else pixels), mask


def _mask_of_points(
    mask: torch.Tensor | None, pixels: torch.Tensor, config: "PerceiverStudyConfig"
) -> torch.Tensor | None:
    """A mask `(B, S_1)` as one of all points, `(B, M)`; any other as it is.

    Raises:
        ValueError: it may as well be meant for the patches of an image.
    """
    sizes = pixels.shape[2:]
    if mask is None or len(sizes) == 1 or tuple(mask.shape) != (pixels.shape[0], sizes[0]):
        return mask
    # Where positions are absolute, as of spectrograms, rows may be padding.
    is_image = len(sizes) == 2 and max(config.patch) > 1 and not config.absolute_positions
    if is_image and math.prod(config.attended_sizes(sizes)) == sizes[0]:
        raise ValueError(
            f"attention_mask has shape {tuple(mask.shape)}, and an image {sizes[0]} rows and as many patches: expected "
            f"({pixels.shape[0]}, {math.prod(sizes)}), one entry per point."
        )
    return mask[:, :, None].expand(-1, -1, math.prod(sizes[1:])).flatten(1)


def _fourier_features(*arguments) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode(False):  # an inference tensor that is kept would break a later training step
        return tuple(axis[None] for axis in fourier_axis_features(*arguments))


# Most batches have one grid. No buffers: casting the model must not round features, nor the meta device lose them.
_kept_fourier_features = functools.lru_cache(maxsize=8)(_fourier_features)

register_input_adapter("grid", GridAdapter)
