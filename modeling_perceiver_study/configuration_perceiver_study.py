"""Configuration of the Perceiver study models."""

from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .paths import PATHS
from .position import count_axis_features, resolve_max_frequencies


class PerceiverStudyConfig(PreTrainedConfig):
    r"""Shape of a Perceiver (Jaegle et al., 2021, arXiv 2103.03206; Perceiver IO, arXiv 2107.14795).

    Where transformers' own `PerceiverConfig` has a field, name and meaning here are the same.

    Args:
        num_latents: `N`, rows of the latent array, at least 1.
        d_latents: `D`, channels of the latent array; the heads of the self-attends must divide it.
        num_cross_attends: how often the latents look at the inputs, from 1 to `num_blocks`: the first
            `num_cross_attends` blocks begin with a cross-attend (paper, figure 1).
        num_blocks: latent towers run in sequence.
        num_self_attends_per_block: self-attends in a tower; 0 leaves cross-attends alone (paper, table 5).
        num_cross_attention_heads: heads of a cross-attend; they divide `qk_channels` and `v_channels`.
        num_self_attention_heads: heads of a self-attend; likewise.
        qk_channels: width of queries and keys over all heads; None keeps the width of the queries, or in cross-attends
            what `cross_attention_shape_for_attention` says.
        v_channels: width of values over all heads; None takes that of queries and keys.
        cross_attention_shape_for_attention: width of queries and keys in a cross-attend without `qk_channels`: `"kv"`
            that of the inputs, `"q"` that of the latents.
        self_attention_widening_factor: hidden width of the MLP after a self-attend, in units of `d_latents`.
        cross_attention_widening_factor: the same after a cross-attend (both 1 in the paper's ImageNet model).
        share_cross_attend_weights: the first cross-attend has weights of its own, all later ones share one set.
        share_block_weights: one tower, used `num_blocks` times.
        use_query_residual: add the latents to what a cross-attend returns.
        hidden_act: activation of the MLPs, a name in transformers' `ACT2FN`.
        attention_probs_dropout_prob: dropout of attention weights, in [0, 1).
        initializer_range: standard deviation of initial weights and latents, above 0.
        local_start_width: standard deviation of the spot at a random place that each head of each latent looks at
            before training, above 0 and below 1, in coordinates, which span 2 along each axis; None starts from random
            weights, with nearly uniform attention. For the first cross-attend, with Fourier positions. It holds for
            inputs of unit variance, and for `d_latents` several times the two channels per axis and head that it takes.
        local_start_reach: in the same range and units, standard deviation of the offset from one of these spots to the
            place where each head of a self-attend looks for latents before training, and the most that this look is
            wide: as much narrower as the deviation of the latents is below 1. With `local_start_width`; None starts
            from random weights.
        layer_norm_eps: added to variances before the square root, above 0.
        image_size: points along each axis of the grid the model is made for: a number for all axes or one per axis
            (`[H, W]`). Other sizes are accepted at run time and span the same coordinates.
        num_channels: `C`, numbers at each grid point.
        stem_type: what the points of a grid go through before they get positions: `"none"`; `"linear"`, the same linear
            map at each (a 1x1 convolution); or `"conv"`, for images of at least 5 pixels a side: a 7x7 convolution of
            stride 2, batch norm, ReLU and 3x3 max-pooling of stride 2, which leave `(S - 1) // 4` points of `S`
            (Perceiver IO's "2D conv + maxpool"). Latents, masks and positions know only the grid after the stem.
        stem_channels: what a stem makes of `C`.
        num_axes: `A`, axes of the grid: 2 for images, 1 for waveforms, 3 for video.
        num_frequency_bands: `K`, Fourier bands per axis.
        max_frequencies: highest band, a number or one per axis, above 0; None becomes the Nyquist frequencies of
            `image_size`, or of the grid that a stem leaves of it, so that a later change of size leaves them as they
            were trained. Bands are equally spaced from 1 to it.
        concat_positions: give the coordinates themselves beside sines and cosines.
        position_encoding_type: `"fourier"`; `"learned"`, a table with a row per point (resampled for other grids); or
            `"none"`.
        learned_position_channels: width of that table; None is as many channels as the Fourier features have.
        project_learned_positions: pass its rows through a linear map of the same width.
        decoder_type: `"mean"` classifies the mean of the latents (Perceiver); `"query"` lets a learned output query
            attend to them (Perceiver IO).
        cross_attend_path: how cross-attends compute: `"separable"` reads the weights of its layers and never builds the
            array of pixels and positions, for Fourier positions; `"general"` builds it and calls the layers, with the
            same numbers; `"auto"` takes the first unless calls do more than weights tell, as with hooks, offloaded or
            sharded weights, adapters, pruning and quantization, or under `torch.jit.trace` and `torch.func`.

    Raises:
        ValueError: a field has a value outside of what is said above, or two fields do not fit; names field and value.
    """

    model_type = "perceiver_study"
    attribute_map = {"hidden_size": "d_latents", "num_attention_heads": "num_self_attention_heads"}

    num_latents: int = 128
    d_latents: int = 256
    num_cross_attends: int = 1
    num_blocks: int = 1
    num_self_attends_per_block: int = 4
    num_cross_attention_heads: int = 1
    num_self_attention_heads: int = 8
    qk_channels: int | None = None
    v_channels: int | None = None
    cross_attention_shape_for_attention: str = "kv"
    self_attention_widening_factor: int = 4
    cross_attention_widening_factor: int = 4
    share_cross_attend_weights: bool = True
    share_block_weights: bool = True
    use_query_residual: bool = True
    hidden_act: str = "gelu"
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    local_start_width: float | None = None
    local_start_reach: float | None = None
    layer_norm_eps: float = 1e-5
    image_size: int | list[int] | tuple[int, ...] = 32
    num_channels: int = 3
    num_axes: int = 2
    stem_type: str = "none"
    stem_channels: int = 64
    num_frequency_bands: int = 16
    max_frequencies: float | int | list[float] | tuple[float, ...] | None = None
    concat_positions: bool = True
    position_encoding_type: str = "fourier"
    learned_position_channels: int | None = None
    project_learned_positions: bool = False
    decoder_type: str = "mean"
    cross_attend_path: str = "auto"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # Saved from any of the models, a folder loads as all of them; the code is always saved beside the weights.
        self.auto_map = dict(_AUTO_MAP)
        for name in _COUNTS:
            self._require(name, _is_count(getattr(self, name), minimum=1), "a whole number of at least 1")
        self._require(
            "num_self_attends_per_block",
            _is_count(self.num_self_attends_per_block, minimum=0),
            "a whole number of at least 0",
        )
        for name in ("qk_channels", "v_channels", "learned_position_channels"):
            value = getattr(self, name)
            self._require(name, value is None or _is_count(value, minimum=1), "None or a whole number of at least 1")
        for name in _SWITCHES:
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        for name, choices in _CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(map(repr, choices))}")
        self._require("hidden_act", self.hidden_act in ACT2FN, "a name in transformers.activations.ACT2FN")
        for name in ("initializer_range", "layer_norm_eps"):
            self._require(name, _is_number(getattr(self, name)) and getattr(self, name) > 0, "a number above 0")
        dropout = self.attention_probs_dropout_prob
        self._require("attention_probs_dropout_prob", _is_number(dropout) and 0 <= dropout < 1, "a number in [0, 1)")
        self._validate_grid()
        self._validate_positions()
        self._require(
            "num_cross_attends",
            self.num_cross_attends <= self.num_blocks,
            f"at most num_blocks={self.num_blocks}, since each cross-attend begins a block",
        )
        self._validate_heads()
        self._validate_start()
        if self.position_encoding_type == "fourier" and self.max_frequencies is None:
            self.max_frequencies = self.axis_max_frequencies

    def _validate_grid(self):
        per_axis = f"one number per axis (num_axes={self.num_axes})"
        size = self.image_size
        sizes = size if isinstance(size, (list, tuple)) else [size] * self.num_axes
        fits = len(sizes) == self.num_axes and all(_is_count(points, minimum=1) for points in sizes)
        self._require("image_size", fits, f"a whole number of at least 1, or {per_axis}")
        convolved = self.stem_type == "conv"
        self._require("stem_type", not convolved or self.num_axes == 2, "another for other than images (num_axes=2)")
        fits = not convolved or min(sizes) >= SMALLEST_CONV_STEM_SIZE
        self._require("image_size", fits, f"at least {SMALLEST_CONV_STEM_SIZE} for each axis with stem_type='conv'")
        frequency = self.max_frequencies
        if frequency is not None:
            frequencies = frequency if isinstance(frequency, (list, tuple)) else [frequency] * self.num_axes
            fits = len(frequencies) == self.num_axes and all(_is_number(value) and value > 0 for value in frequencies)
            self._require("max_frequencies", fits, f"None, a number above 0, or {per_axis}")

    def _validate_positions(self):
        learned = self.position_encoding_type == "learned"
        for name, default in (("learned_position_channels", None), ("project_learned_positions", False)):
            fits = learned or getattr(self, name) == default
            self._require(name, fits, f"{default} unless position_encoding_type='learned'")
        fits = self.position_encoding_type == "fourier" or self.cross_attend_path != "separable"
        self._require("cross_attend_path", fits, "'auto' or 'general' unless position_encoding_type='fourier'")

    def _validate_heads(self):
        for kind, heads_name, widths in (
            ("cross-attends", "num_cross_attention_heads", self.cross_attend_widths),
            ("self-attends", "num_self_attention_heads", self.self_attend_widths),
        ):
            heads = getattr(self, heads_name)
            for what, width in zip(("queries and keys", "values"), widths, strict=True):
                self._require(heads_name, width % heads == 0, f"a divisor of {width}, the width of {what} in {kind}")

    def _validate_start(self):
        fourier = self.position_encoding_type == "fourier"
        spots_last = self.local_start_width is not None and self.use_query_residual
        for name, fits, needed in (
            ("local_start_width", fourier, "position_encoding_type='fourier'"),
            ("local_start_reach", spots_last, "there is a local_start_width and a query residual"),
        ):
            value = getattr(self, name)
            proper = value is None or (_is_number(value) and 0 < value < 1)
            self._require(name, proper, "None or a number between 0 and 1")
            self._require(name, value is None or fits, f"None unless {needed}")
        angles = 2 * self.num_axes
        for name, heads, width in (
            ("local_start_width", "num_cross_attention_heads", min(self.d_latents, self.cross_attend_widths[0])),
            ("local_start_reach", "num_self_attention_heads", self.self_attend_widths[0]),
        ):
            room = getattr(self, name) is None or getattr(self, heads) <= width // angles
            most = f"at most {width // angles} with {name}, which takes {angles} channels of each head"
            self._require(heads, room, most)

    def _require(self, field: str, holds: bool, expected: str):
        if not holds:
            raise ValueError(f"{field}={getattr(self, field)!r} in {type(self).__name__}: expected {expected}.")

    @property
    def custom_pipelines(self) -> dict[str, dict]:
        """The pipelines that transformers takes for this folder in place of its own, which read pictures otherwise.

        Anew at each call, as transformers writes into it; so it does not stand in config.json either.
        """
        if "PerceiverStudyForImageClassification" not in (self.architectures or ()):
            return {}
        return {
            task: {"impl": f"pipeline_perceiver_study.{name}", "pt": model, "type": "image"}
            for task, (name, model) in _PIPELINES.items()
        }

    @property
    def grid(self) -> list[int]:
        """Points along each axis of the grid the model is made for, one number per axis."""
        size = self.image_size
        return list(size) if isinstance(size, (list, tuple)) else [size] * self.num_axes

    @property
    def attended_grid(self) -> list[int]:
        """Points along each axis of what the latents attend to: `grid`, or what a stem leaves of it."""
        return [(points - 1) // 4 for points in self.grid] if self.stem_type == "conv" else self.grid

    @property
    def axis_max_frequencies(self) -> list[float]:
        """Highest Fourier band of each axis, with the Nyquist frequencies filled in."""
        return resolve_max_frequencies(self.max_frequencies, self.attended_grid)

    @property
    def num_axis_features(self) -> int:
        """`F`, Fourier features of one coordinate."""
        return count_axis_features(self.num_frequency_bands, self.concat_positions)

    @property
    def num_position_channels(self) -> int:
        """`P`, position channels beside each input: `A * F`, or the width that learned positions have, or 0."""
        if self.position_encoding_type == "none":
            return 0
        return self.learned_position_channels or self.num_axes * self.num_axis_features

    @property
    def num_attended_channels(self) -> int:
        """Channels of each input without its position: `C`, or what a stem makes of it."""
        return self.num_channels if self.stem_type == "none" else self.stem_channels

    @property
    def num_input_channels(self) -> int:
        """`C + P`, the width of the byte array, with a stem's channels for `C` where there is one."""
        return self.num_attended_channels + self.num_position_channels

    @property
    def cross_attend_widths(self) -> tuple[int, int]:
        """Widths of queries-and-keys and of values in a cross-attend from the inputs."""
        return self.attention_widths(self.d_latents, self.num_input_channels)

    @property
    def self_attend_widths(self) -> tuple[int, int]:
        """Widths of queries-and-keys and of values in a self-attend."""
        return self.attention_widths(self.d_latents, self.d_latents)

    def attention_widths(self, q_dim: int, kv_dim: int) -> tuple[int, int]:
        """Widths of queries-and-keys and of values for queries of `q_dim` and inputs of `kv_dim` channels."""
        natural = kv_dim if self.cross_attention_shape_for_attention == "kv" else q_dim
        qk_channels = self.qk_channels or natural
        return qk_channels, self.v_channels or qk_channels

    @property
    def num_hidden_layers(self) -> int:
        """Layers that the latents pass through, cross-attends included; a model returns one more `hidden_states`."""
        return self.num_cross_attends + self.num_blocks * self.num_self_attends_per_block


# Of fewer pixels a convolutional stem would leave nothing.
SMALLEST_CONV_STEM_SIZE = 5

_AUTO_MAP = {
    "AutoConfig": "configuration_perceiver_study.PerceiverStudyConfig",
    "AutoModel": "modeling_perceiver_study.PerceiverStudyModel",
    "AutoModelForImageClassification": "modeling_perceiver_study.PerceiverStudyForImageClassification",
}
_PIPELINES = {
    "image-classification": ("PerceiverStudyImageClassificationPipeline", "AutoModelForImageClassification"),
    "image-feature-extraction": ("PerceiverStudyImageFeatureExtractionPipeline", "AutoModel"),
}
_COUNTS = (
    "num_latents",
    "d_latents",
    "num_cross_attends",
    "num_blocks",
    "num_cross_attention_heads",
    "num_self_attention_heads",
    "self_attention_widening_factor",
    "cross_attention_widening_factor",
    "num_channels",
    "num_axes",
    "stem_channels",
    "num_frequency_bands",
)
_SWITCHES = (
    "share_cross_attend_weights",
    "share_block_weights",
    "use_query_residual",
    "concat_positions",
    "project_learned_positions",
)
_CHOICES = {
    "cross_attention_shape_for_attention": ("kv", "q"),
    "stem_type": ("none", "linear", "conv"),
    "position_encoding_type": ("fourier", "learned", "none"),
    "decoder_type": ("mean", "query"),
    "cross_attend_path": PATHS,
}


def _is_count(value, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


PerceiverStudyConfig.register_for_auto_class()

__all__ = ["PerceiverStudyConfig"]
