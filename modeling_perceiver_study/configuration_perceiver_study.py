"""Configuration of the Perceiver study models."""

import math
from collections.abc import Sequence

import transformers
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .auto_classes import AUTO_MAP, AUTO_MAP_OF_INPUTS, AUTO_MAP_OF_MODELS, PIPELINES, VIDEO
from .grid import CONV_STEM_STEP, is_clip
from .input_fields import (
    INPUT_FIELDS,
    check_input,
    check_modalities,
    fits_range,
    require,
    require_choices,
    require_counts,
    require_widths,
)
from .inputs import adapter_class
from .paths import PATHS
from .position import count_axis_features, resolve_max_frequencies
from .scalars import is_count, is_number, plain
from .several_tasks import check_rest, in_order, names_of


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
        classifier_dropout: dropout of what models for classification map to classes, in [0, 1).
        initializer_range: standard deviation of initial weights and latents, above 0.
        local_start_width: standard deviation of the spot at a random place that each head of each latent looks at
            before training, above 0 and below 1, in coordinates, which span 2 along each axis; None starts from random
            weights, with nearly uniform attention. For the first cross-attend, of grids and points with Fourier
            positions, each of which has heads of its own, in turn, and of bytes that are the only input. It holds for
            inputs of unit variance, and for `d_latents` several times the two channels per axis and head that it takes
            (per axis and input with `local_start_spread`).
        local_start_reach: in the same range and units, standard deviation of the offset from one of these spots to the
            place where each head of a self-attend looks for latents before training, and the most that this look is
            wide: as much narrower as the deviation of the latents is below 1. With `local_start_width`; None starts
            from random weights.
        local_start_spread: in the same range and units, standard deviation of the offsets from the place of a latent at
            which heads of the first cross-attend have their spots. The offsets are the same for all latents. With
            `local_start_width`; None gives each head of each latent a random place.
        layer_norm_eps: added to variances before the square root, above 0.
        input_type: kind of the only input: `"grid"`, `"points"`, `"bytes"`, `"array"` (elements as they are given), or
            a name that `inputs.register_input_adapter` was called with. The fields from here to `ngram_vocab_size`
            describe an input; those that a kind does not read must be left alone.
        input_name: what the argument of `forward` with the input is called; None is `pixel_values`, `points`,
            `input_ids` or `inputs`. `input_values` is for waveforms.
        image_size: points along each axis of the grid the model is made for: a number for all axes or one per axis
            (`[H, W]`). Other sizes are accepted at run time and span the same coordinates, unless positions are
            absolute. For points in space, how many a range of 2 in each coordinate should tell apart.
        num_channels: `C`, numbers at each grid point; of points in space, beside coordinates, where it may be 0; of an
            array, all.
        channel_axis: where the channels are in what is given for a grid: 1 before all axes, 2 behind the first, as in
            transformers' video models.
        patch_size: grid points along each axis that become one element together, a number or one per axis; None is 1.
            The last patch of an axis is filled with zeros.
        stem_type: what points go through before they get positions. Of a grid `"none"`; `"linear"`, the same linear
            map at each (a 1x1 convolution); or `"conv"`, for up to 3 axes of at least 5 points: a convolution of size 7
            and stride 2, batch norm, ReLU and max-pooling of size 3 and stride 2, which leave `(S - 1) // 4` points of
            `S` (Perceiver IO's "2D conv + maxpool"). Latents and positions know only the grid after the stem; shorter
            inputs are filled up with zeros. Of points in space `"none"` or `"neighbors"`: layers, each of which takes
            what a point's neighbors are and where they are from it through a linear map of each, of that the largest,
            and a norm over the cloud; then a linear map of what all layers made, and a norm.
        stem_channels: what a stem makes of `C`.
        num_neighbors: with `stem_type="neighbors"`, how many points each looks at: itself and its nearest. All
            distances are computed, so time grows with the square of the number of points.
        neighbor_channels: with `stem_type="neighbors"`, channels of each layer, such as `[64, 128]`; None is one layer
            of `stem_channels`.
        neighbor_points: with `stem_type="neighbors"`, the number of points that `num_neighbors` is meant for: of a
            cloud with `n` times as many, each `n`-th of the `n * num_neighbors` nearest are looked at, which lie in as
            large a part of it. None looks at the nearest of any cloud.
        num_axes: `A`, axes of the grid: 2 for images, 1 for waveforms, 3 for video; coordinates of a point in space.
        num_frequency_bands: `K`, Fourier bands per axis.
        max_frequencies: highest band, a number or one per axis, above 0; None becomes the Nyquist frequencies of
            `image_size`, or of the grid that a stem leaves of it, so that a later change of size leaves them as they
            were trained. Bands are equally spaced from 1 to it.
        concat_positions: give the coordinates themselves beside sines and cosines.
        absolute_positions: count the points of a grid from its start in the units of `image_size`, so that padding at
            the end changes nothing, and learned positions are cut rather than resampled; None is True for inputs of
            the name `input_values` and for video. Otherwise every grid spans the same coordinates.
        position_encoding_type: `"fourier"`; `"learned"`, a table with a row per point (resampled for other grids); or
            `"none"`.
        learned_position_channels: width of that table; None is as many channels as the Fourier features have.
        project_learned_positions: pass its rows through a linear map of the same width.
        vocab_size: ids that bytes may have.
        max_position_embeddings: bytes that an input may have at most.
        d_model: width of the embedding of a byte.
        ngram_sizes: lengths, of at least 2, of runs of bytes that have embeddings too, such as `[2, 3, 4]`: that of the
            run that ends with a byte is added to the byte's own, and with a negative length that of the run that begins
            with it. None has no such embeddings, as Perceiver IO.
        ngram_vocab_size: rows of the table that runs of all lengths are hashed into.
        modalities: several inputs instead of the only one: a dict of names, each with a dict of the fields that
            describe an input. Names have the form of Python's identifiers, and `input_name` differs between them.
        modality_channels: learned channels that the widest modality gets, at least 1, to say which it is; the others
            are brought to the same width by as many as that takes (transformers' `min_padding_size`).
        modality_dropout: probability in [0, 1] with which a modality of a sample is hidden in training, though never
            all that it has; a number for each, or a dict by name, in which those left out are not hidden.
        training_latents: how many of the latents a training step computes, drawn by chance: a number, or the lowest and
            the highest of an even draw at each step, from 1 to `num_latents`; None is all.
        training_blocks: how many of the blocks a training step runs, counted from the first: likewise, up to
            `num_blocks`. A call of `forward` says `num_latents` and `num_blocks` itself (`elastic.py`).
        decoder_type: `"mean"` classifies the mean of the latents (Perceiver); `"query"` lets a learned output query
            attend to them (Perceiver IO).
        tasks: several tasks that a classifier answers at once, with a query of its own for each: a dict of names, each
            with the number of its classes. Kept in alphabetical order; `num_labels` is all classes of all tasks. With
            `decoder_type="query"`; None is a single task.
        masked_lm_queries: what asks for a masked byte: `"positions"`, a learned query for each position (Perceiver IO),
            or `"inputs"`, the element of the byte itself, which is added to the answer too: with `ngram_sizes` it knows
            the bytes beside it.
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
    classifier_dropout: float = 0.0
    initializer_range: float = 0.02
    local_start_width: float | None = None
    local_start_reach: float | None = None
    local_start_spread: float | None = None
    layer_norm_eps: float = 1e-5
    input_type: str = "grid"
    input_name: str | None = None
    image_size: int | list[int] | tuple[int, ...] = 32
    num_channels: int = 3
    channel_axis: int = 1
    num_axes: int = 2
    patch_size: int | list[int] | tuple[int, ...] | None = None
    stem_type: str = "none"
    stem_channels: int = 64
    num_neighbors: int = 16
    neighbor_channels: list[int] | tuple[int, ...] | None = None
    neighbor_points: int | None = None
    num_frequency_bands: int = 16
    max_frequencies: float | int | list[float] | tuple[float, ...] | None = None
    concat_positions: bool = True
    absolute_positions: bool | None = None
    position_encoding_type: str = "fourier"
    learned_position_channels: int | None = None
    project_learned_positions: bool = False
    vocab_size: int = 262
    max_position_embeddings: int = 2048
    d_model: int = 768
    ngram_sizes: list[int] | tuple[int, ...] | None = None
    ngram_vocab_size: int = 4096
    modalities: dict[str, dict] | None = None
    modality_channels: int = 4
    modality_dropout: float | int | dict[str, float] = 0.0
    training_latents: int | list[int] | tuple[int, ...] | None = None
    training_blocks: int | list[int] | tuple[int, ...] | None = None
    decoder_type: str = "mean"
    tasks: dict[str, int] | None = None
    masked_lm_queries: str = "positions"
    cross_attend_path: str = "auto"

    def __post_init__(self, **kwargs):
        if (layers := kwargs.pop("num_hidden_layers", None)) not in (None, self.num_hidden_layers):
            raise ValueError(
                f"num_hidden_layers={layers!r}: num_cross_attends, num_blocks and num_self_attends_per_block make it, "
                f"now {self.num_hidden_layers}: give these."
            )
        for name in PerceiverStudyConfig.__annotations__:
            setattr(self, name, plain(getattr(self, name)))
        if self.tasks is not None:
            self.tasks = in_order(self.tasks)
            if self.id2label is None:
                self.id2label = names_of(self.tasks)
                self.label2id = {name: label for label, name in self.id2label.items()}
            kwargs["num_labels"] = given = kwargs.get("num_labels", len(self.id2label))
            if given != sum(self.tasks.values()):
                raise ValueError(f"num_labels={given}: expected {sum(self.tasks.values())}, the classes of all tasks.")
        given = kwargs.get("num_labels")
        if given is not None and not is_count(given, 0):
            raise ValueError(f"num_labels={given!r}: expected a whole number of at least 0.")
        super().__post_init__(**kwargs)
        require_counts(self, _COUNTS)
        require_counts(self, ("num_self_attends_per_block",), minimum=0)
        require_widths(self, ("qk_channels", "v_channels"))
        require_choices(self, _SWITCHES, _CHOICES)
        require(self, "hidden_act", self.hidden_act in ACT2FN, "a name in transformers.activations.ACT2FN")
        for name in ("initializer_range", "layer_norm_eps"):
            require(self, name, is_number(getattr(self, name)) and getattr(self, name) > 0, "a number above 0")
        for name in ("attention_probs_dropout_prob", "classifier_dropout"):
            fits = is_number(getattr(self, name)) and 0 <= getattr(self, name) < 1
            require(self, name, fits, "a number in [0, 1)")
        if self.modalities is None:
            check_input(self)
        else:
            check_modalities(self)
        require(
            self,
            "num_cross_attends",
            self.num_cross_attends <= self.num_blocks,
            f"at most num_blocks={self.num_blocks}, since each cross-attend begins a block",
        )
        for name, most in (("training_latents", self.num_latents), ("training_blocks", self.num_blocks)):
            require(self, name, fits_range(getattr(self, name), most), f"None, or one or two numbers from 1 to {most}")
        if self.tasks is not None:
            check_rest(self)
        self._validate_heads()
        self._validate_start()
        # Saved from any of the models, a folder loads as all that take its input; the code is always saved beside.
        self.auto_map = AUTO_MAP | self._heads_of_input
        for architecture in self.architectures or ():
            self.auto_map |= AUTO_MAP_OF_MODELS.get(architecture, {})

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        """As transformers', but other `tasks` are those from the beginning, with names of their own classes."""
        kwargs = plain(kwargs)
        if "tasks" in kwargs and kwargs["tasks"] != config_dict.get("tasks"):
            kept = {name: value for name, value in config_dict.items() if name not in ("id2label", "label2id")}
            given = {name: kwargs.pop(name) for name in ("tasks", "decoder_type") if name in kwargs}
            config_dict = kept | given
        return super().from_dict(config_dict, **kwargs)

    def modality_config(self, name: str) -> "PerceiverStudyConfig":
        """A config of the only input that `modalities[name]` describes."""
        fields = self.modalities[name]
        try:
            known = {*INPUT_FIELDS, *adapter_class(fields.get("input_type", "grid")).config_fields}
            unknown = sorted(fields.keys() - known)
            if unknown:
                raise ValueError(f"{unknown[0]!r} describes no input: expected some of {', '.join(sorted(known))}.")
            shared = {name: getattr(self, name) for name in ("initializer_range", "layer_norm_eps")}
            return type(self)(**shared, **fields)
        except ValueError as error:
            raise ValueError(f"modalities[{name!r}]: {error}") from error

    def _validate_heads(self):
        for kind, heads_name, widths in (
            ("cross-attends", "num_cross_attention_heads", self.cross_attend_widths),
            ("self-attends", "num_self_attention_heads", self.self_attend_widths),
        ):
            heads = getattr(self, heads_name)
            for what, width in zip(("queries and keys", "values"), widths, strict=True):
                require(self, heads_name, width % heads == 0, f"a divisor of {width}, the width of {what} in {kind}")

    def _validate_start(self):
        located = self.located_inputs
        fourier = 0 < len(located) <= self.num_cross_attention_heads
        spots_last = self.local_start_width is not None and self.use_query_residual
        for name, fits, needed in (
            (
                "local_start_width",
                fourier,
                "position_encoding_type='fourier' of a grid or of points, or bytes alone, with a head for each",
            ),
            ("local_start_reach", spots_last, "there is a local_start_width and a query residual"),
            ("local_start_spread", self.local_start_width is not None, "there is a local_start_width"),
        ):
            value = getattr(self, name)
            proper = value is None or (is_number(value) and 0 < value < 1)
            require(self, name, proper, "None or a number between 0 and 1")
            require(self, name, value is None or fits, f"None unless {needed}")
        several = self.modalities is not None and self.local_start_width is not None
        told_apart = not several or len(self.modalities) <= self.modality_channels
        require(self, "modality_channels", told_apart, "at least one for each modality with local_start_width")
        gates = int(len(self.modalities or ()) > 1)  # a channel that tells modalities apart
        angles = max((2 * own.num_local_axes for _, own in located), default=0)
        for name, heads, width, taken in (
            ("local_start_width", "num_cross_attention_heads", self.cross_attend_widths[0], angles + gates),
            ("local_start_reach", "num_self_attention_heads", self.self_attend_widths[0], angles),
        ):
            if getattr(self, name) is None:
                continue
            room = getattr(self, heads) <= width // taken
            most = f"at most {width // taken} with {name}, which takes {taken} channels of each head"
            require(self, heads, room, most)
        if self.local_start_width is not None:
            # Layers leave places alone at first where latents look around by them, and need channels to write to.
            needed = self.num_place_channels + (self.local_start_reach is not None)
            least = (
                f"at least {needed} with a local start, which writes places into {self.num_place_channels} channels of "
                "a latent"
            )
            require(self, "d_latents", needed <= self.d_latents, least)

    def to_dict(self) -> dict:
        """As in transformers; `auto_map` without names that no Auto class has, under which models save their code.

        And without those of models that the weights were before they became these.
        """
        fields = super().to_dict()
        others = {name for model, names in AUTO_MAP_OF_MODELS.items() for name in names if not self._holds(model)}
        others -= self._heads_of_input.keys()
        names = {
            name: code
            for name, code in fields.get("auto_map", {}).items()  # none yet in a message of what does not fit
            if hasattr(transformers, name) and name not in others
        }
        return fields | {"auto_map": names}

    @property
    def _heads_of_input(self) -> dict[str, str]:
        """Auto classes that any folder with this only input loads as."""
        if self.modalities is not None:
            return {}
        argument = adapter_class(self.input_type).arguments_of(self)[0]
        is_video = argument == "pixel_values" and is_clip(self)
        return AUTO_MAP_OF_INPUTS.get(VIDEO if is_video else argument, {})

    def _holds(self, model: str) -> bool:
        return model in (self.architectures or ())

    @property
    def custom_pipelines(self) -> dict[str, dict]:
        """The pipelines that transformers takes for this folder in place of its own, which read pictures otherwise.

        Anew at each call, as transformers writes into it; so it does not stand in config.json either.
        """
        return {
            task: {"impl": name, "pt": model, "type": kind}
            for architecture in self.architectures or ()
            for task, (name, model, kind) in PIPELINES.get(architecture, {}).items()
        }

    @property
    def located_inputs(self) -> list[tuple[str | None, "PerceiverStudyConfig"]]:
        """Names and configs of inputs whose elements have Fourier positions; None is the name of the only input."""
        if self.modalities is None:
            found = [(None, self)]
        else:
            found = [(name, self.modality_config(name)) for name in sorted(self.modalities)]
        return [
            (name, own)
            for name, own in found
            if adapter_class(own.input_type).supports_local_start
            and own.position_encoding_type == "fourier"
            and (name is None or adapter_class(own.input_type).starts_locally_beside_others)
        ]

    @property
    def located_inputs_of_heads(self) -> list[tuple[str | None, "PerceiverStudyConfig"]]:
        """Name and config of the input that each head of the first cross-attend looks at, where it starts locally."""
        inputs = self.located_inputs
        return [inputs[head % len(inputs)] for head in range(self.num_cross_attention_heads)]

    @property
    def places_in_latents(self) -> list[tuple[str | None, "PerceiverStudyConfig"]]:
        """Inputs with a place in each latent that starts locally: one for each head, or one for all of its heads."""
        return self.located_inputs_of_heads if self.local_start_spread is None else self.located_inputs

    @property
    def num_place_channels(self) -> int:
        """Channels of the latents that hold their places: a sine and a cosine for each axis."""
        return sum(2 * own.num_local_axes for _, own in self.places_in_latents)

    @property
    def num_local_axes(self) -> int:
        """Axes along which heads can start locally on this input."""
        return adapter_class(self.input_type).num_local_axes(self)

    @property
    def grid(self) -> list[int]:
        """Points along each axis of the grid the model is made for, one number per axis."""
        size = self.image_size
        return list(size) if isinstance(size, (list, tuple)) else [size] * self.num_axes

    @property
    def patch(self) -> list[int]:
        """Points of a patch along each axis."""
        size = self.patch_size
        return list(size) if isinstance(size, (list, tuple)) else [size or 1] * self.num_axes

    @property
    def attended_grid(self) -> list[int]:
        """Points along each axis of what the latents attend to: `grid`, or what patches or a stem leave of it."""
        return self.attended_sizes(self.grid)

    def attended_sizes(self, grid: Sequence[int]) -> list[int]:
        """Points along each axis of what the latents attend to, if this grid is given."""
        if self.stem_type == "conv":
            return [max(1, (points - 1) // CONV_STEM_STEP) for points in grid]
        return [-(-points // step) for points, step in zip(grid, self.patch, strict=True)]

    @property
    def attended_steps(self) -> list[int]:
        """Points of what is given from one that latents attend to to the next, along each axis."""
        return [CONV_STEM_STEP] * self.num_axes if self.stem_type == "conv" else self.patch

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
        """Channels of each element without its position: `C` for each point of a patch, or what a stem makes of it."""
        return self.num_channels * math.prod(self.patch) if self.stem_type == "none" else self.stem_channels

    @property
    def num_input_channels(self) -> int:
        """`K`, the width of the byte array: `C + P` of a grid, and of several inputs what they are brought to."""
        if self.modalities is None:
            return adapter_class(self.input_type).width_of(self)
        configs = [self.modality_config(name) for name in self.modalities]
        return max(own.num_input_channels for own in configs) + self.modality_channels

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


_COUNTS = (
    "num_latents",
    "d_latents",
    "num_cross_attends",
    "num_blocks",
    "num_cross_attention_heads",
    "num_self_attention_heads",
    "self_attention_widening_factor",
    "cross_attention_widening_factor",
    "modality_channels",
)
_SWITCHES = (
    "share_cross_attend_weights",
    "share_block_weights",
    "use_query_residual",
)
_CHOICES = {
    "cross_attention_shape_for_attention": ("kv", "q"),
    "decoder_type": ("mean", "query"),
    "masked_lm_queries": ("positions", "inputs"),
    "cross_attend_path": PATHS,
}


PerceiverStudyConfig.register_for_auto_class()

__all__ = ["PerceiverStudyConfig"]
