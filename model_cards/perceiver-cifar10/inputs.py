"""From what the caller gives to what the cross-attends take: a byte array, or inputs on a grid."""

import functools
import math
from collections.abc import Sequence

import torch
from torch import nn
from transformers.utils.import_utils import is_tracing

from .configuration_perceiver_study import SMALLEST_CONV_STEM_SIZE, PerceiverStudyConfig
from .paths import is_traced, is_transformed
from .position import SAME_FEATURES, find_max_frequency, fourier_axis_features
from .separable import GridInputs, grid_inputs

_INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


class LinearStem(nn.Module):
    """`(B, C, S_1, .., S_A) -> (B, C', S_1, .., S_A)`: the same linear map at each point."""

    def __init__(self, num_channels: int, stem_channels: int):
        super().__init__()
        self.linear = nn.Linear(num_channels, stem_channels)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(pixels.movedim(1, -1)).movedim(-1, 1)


class ConvStem(nn.Module):
    """`(B, C, H, W) -> (B, C', (H - 1) // 4, (W - 1) // 4)`: as in transformers' `Conv2DDownsample`."""

    def __init__(self, num_channels: int, stem_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(num_channels, stem_channels, kernel_size=7, stride=2, padding=3, bias=False)
        self.batchnorm = nn.BatchNorm2d(stem_channels)
        self.pool = nn.MaxPool2d(kernel_size=3, stride=2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.pool(self.batchnorm(self.conv(pixels)).relu())


class LearnedPositions(nn.Module):
    """`(S_1, .., S_A) -> (1, M, P)`: a table with a row per point, resampled linearly for grids of other sizes."""

    def __init__(self, grid: list[int], num_channels: int, project: bool):
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(torch.empty(math.prod(grid), num_channels))
        self.projection = nn.Linear(num_channels, num_channels) if project else None

    def forward(self, grid: list[int]) -> torch.Tensor:
        table = self.weight[None] if grid == self.grid else self._resample(grid)
        return table if self.projection is None else self.projection(table)

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


class PerceiverStudyInputs(nn.Module):
    """`(B, C, S_1, .., S_A)` or `(B, M, C + P)` -> `GridInputs` or `(B, M, C + P)`, checked against the config."""

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__()
        self.config = config
        stem = {"none": None, "linear": LinearStem, "conv": ConvStem}[config.stem_type]
        self.stem = stem and stem(config.num_channels, config.stem_channels)
        if config.position_encoding_type == "learned":
            self.learned_positions = LearnedPositions(
                config.attended_grid, config.num_position_channels, config.project_learned_positions
            )

    def forward(
        self,
        pixel_values: torch.Tensor | None,
        position_features: torch.Tensor | None,
        inputs: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor | GridInputs:
        """A byte array in `dtype`, or `GridInputs` in float32 or better.

        Raises:
            ValueError: not exactly one of `pixel_values` and `inputs` is given, or a shape does not fit the config.
        """
        if (pixel_values is None) == (inputs is None):
            raise ValueError(
                f"Give either pixel_values or inputs: got {'neither' if inputs is None else 'both'}. pixel_values are "
                "for a grid such as an image, inputs for any array that already holds its positions."
            )
        if inputs is not None:
            self._check_inputs(inputs, position_features)
            return inputs.to(dtype)
        self._check_pixels(pixel_values)
        if self.stem is not None:
            pixel_values = self.stem(pixel_values.to(dtype))
        grid = list(pixel_values.shape[2:])
        if position_features is not None:
            self._check_position_features(position_features, pixel_values.shape[0], grid)
        if self.config.position_encoding_type == "fourier":
            exact = torch.promote_types(torch.float32, dtype)
            axis_features = self.fourier_features(grid, exact, pixel_values.device)
            if position_features is not None:
                axis_features = self._given_features(position_features, axis_features)
            return grid_inputs(pixel_values.to(exact), axis_features)
        pixels = pixel_values.flatten(2).transpose(1, 2).to(dtype)
        if self.config.position_encoding_type == "none":
            return pixels
        positions = self.learned_positions(grid).to(dtype)
        return torch.cat([pixels, positions.expand(pixels.shape[0], -1, -1)], dim=-1)

    def fourier_features(self, grid: list[int], dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, ...]:
        """`(1, S_a, F)` for each axis, of the config's bands."""
        config = self.config
        make = _fourier_features if _keeps_nothing() else _kept_fourier_features
        return make(
            tuple(int(size) for size in grid),  # of a trace they are tensors
            config.num_frequency_bands,
            tuple(config.axis_max_frequencies),
            config.concat_positions,
            dtype,
            device,
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
        if not (is_tracing(position_features) or is_transformed() or position_features.is_meta):
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

    def _check_inputs(self, inputs: torch.Tensor, position_features: torch.Tensor | None):
        config, width = self.config, self.config.num_input_channels
        if position_features is not None:
            raise ValueError("position_features go with pixel_values; inputs already hold their positions.")
        if inputs.ndim != 3 or inputs.shape[-1] != width or inputs.shape[1] == 0:
            raise ValueError(
                f"inputs have shape {tuple(inputs.shape)}: expected (batch, points, {width}), the last being "
                f"{config.num_attended_channels} channels and {config.num_position_channels} position features. "
                "Pixels, which have no positions yet, are to be given as pixel_values."
            )

    def _check_pixels(self, pixel_values: torch.Tensor):
        config = self.config
        if pixel_values.ndim != config.num_axes + 2 or pixel_values.shape[1] != config.num_channels:
            axes = {1: "length", 2: "height, width", 3: "frames, height, width"}.get(config.num_axes, "sizes of axes")
            raise ValueError(
                f"pixel_values have shape {tuple(pixel_values.shape)}: expected (batch, channels, {axes}) with "
                f"num_channels={config.num_channels} and num_axes={config.num_axes} axes."
            )
        if config.stem_type == "conv" and min(pixel_values.shape[2:]) < SMALLEST_CONV_STEM_SIZE:
            raise ValueError(
                f"pixel_values have shape {tuple(pixel_values.shape)}: stem_type='conv' needs at least "
                f"{SMALLEST_CONV_STEM_SIZE} pixels a side."
            )

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
            what, given = "pixel_values", position_features.shape[-1]
            advice = "Were they made for these pixel_values?"
            if config.stem_type == "conv":
                what = "the grid that the stem leaves"
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


def _fourier_features(*arguments) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode(False):  # an inference tensor that is kept would break a later training step
        return tuple(axis[None] for axis in fourier_axis_features(*arguments))


# Most batches have one grid. No buffers: casting the model must not round features, nor the meta device lose them.
_kept_fourier_features = functools.lru_cache(maxsize=8)(_fourier_features)


def _keeps_nothing() -> bool:
    """Whether tensors made now belong to a program that is being compiled or traced, to a transform, or are fake."""
    if torch.compiler.is_compiling() or is_traced() or is_transformed():
        return True
    return type(torch.empty(0)) is not torch.Tensor
