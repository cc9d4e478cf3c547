"""Points with coordinates of their own: clouds in space, events in time, pixels that have been moved."""

from typing import TYPE_CHECKING

import torch

from .inputs import InputAdapter, check_floating, check_given, check_needed_mask, register_input_adapter
from .neighbors import NeighborStem
from .paths import has_values
from .position import fourier_features
from .separable import GridInputs, array_inputs

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig


class PointsAdapter(InputAdapter):
    """`(B, M, A), (B, M, C) or None -> (B, M, C + P)`: features of points, then Fourier features of coordinates.

    `num_axes` is `A`, `num_channels` is `C`, 0 for points that are nothing but a place. With a stem, what it makes of a
    point's features and neighbors stands in place of its features. Bands are those of a grid: a frequency `f` makes `f`
    waves between the coordinates -1 and 1, which are not bounds. The mask is `(B, M)`; what it hides may be anything,
    NaN too.
    """

    input_name = "points"
    more_arguments = ("point_features",)
    config_fields = (
        "image_size",
        "num_channels",
        "num_axes",
        "num_frequency_bands",
        "max_frequencies",
        "concat_positions",
        "stem_type",
        "stem_channels",
        "num_neighbors",
        "neighbor_channels",
        "neighbor_points",
    )
    fewest_channels = 0
    stem_types = ("none", "neighbors")
    supports_local_start = True
    starts_locally_beside_others = True
    masks_elements = True

    def __init__(self, config: "PerceiverStudyConfig"):
        super().__init__(config)
        self.stem = None
        if config.stem_type == "neighbors":
            self.stem = NeighborStem(
                config.num_axes,
                config.num_channels,
                config.neighbor_channels or [config.stem_channels],
                config.stem_channels,
                config.num_neighbors,
                config.layer_norm_eps,
                config.neighbor_points,
            )

    @classmethod
    def width_of(cls, config: "PerceiverStudyConfig") -> int:
        return config.num_attended_channels + config.num_position_channels

    def length(self, points: torch.Tensor, point_features: torch.Tensor | None = None) -> int:
        return points.shape[1]

    def forward(
        self,
        points: torch.Tensor | None,
        point_features: torch.Tensor | None,
        dtype: torch.dtype,
        attention_mask: torch.Tensor | None = None,
    ) -> GridInputs:
        config, name = self.config, self.arguments[0]
        check_given(name, points)
        if points.ndim != 3 or points.shape[-1] != config.num_axes or points.shape[1] == 0:
            raise ValueError(
                f"{name} have shape {tuple(points.shape)}: expected (batch, points, {config.num_axes}) with at least "
                f"one point and num_axes={config.num_axes} coordinates."
            )
        check_floating(name, points)
        if (point_features is not None) != (config.num_channels > 0):
            got = "none" if point_features is None else f"shape {tuple(point_features.shape)}"
            wanted = f"(batch, points, {config.num_channels})" if config.num_channels else "none"
            raise ValueError(f"point_features: got {got}, expected {wanted} with num_channels={config.num_channels}.")
        mask = check_needed_mask(attention_mask, points.shape[:2], "point")
        points = _shown("coordinates", name, points, mask)
        array = fourier_features(
            points.to(torch.promote_types(points.dtype, dtype)),
            config.num_frequency_bands,
            config.axis_max_frequencies,
            config.concat_positions,
        ).to(dtype)
        if point_features is not None:
            if point_features.shape != (*points.shape[:2], config.num_channels):
                raise ValueError(
                    f"point_features have shape {tuple(point_features.shape)}: expected "
                    f"{(*points.shape[:2], config.num_channels)}, num_channels={config.num_channels} for each point."
                )
            check_floating("point_features", point_features)
            point_features = _shown("numbers", "point_features", point_features, mask)
        if self.stem is not None:
            point_features = self.stem(points, point_features, dtype, mask)
        if point_features is not None:
            array = torch.cat([point_features.to(dtype), array], dim=-1)
        return array_inputs(array, mask)


def _shown(what: str, name: str, values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Zeros where hidden; a ValueError if the rest is not finite."""
    values = values if mask is None else values.masked_fill(~mask[..., None], 0.0)
    if has_values(values) and not values.isfinite().all():
        raise ValueError(
            f"{name} hold {what} that are NaN or infinite: expected finite ones, but where attention_mask hides them."
        )
    return values


register_input_adapter("points", PointsAdapter)
