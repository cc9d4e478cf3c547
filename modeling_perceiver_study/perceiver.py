"""From inputs to latents: cross-attends and self-attends in blocks.

inputs (B, M, C + P), or pixels (B, C, H, W) with positions per axis
   |  cross-attend          num_cross_attends times, each at the start of a block
latents (B, N, D)
   |  self-attends          num_self_attends_per_block in a block, num_blocks blocks
latents (B, N, D)
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.output_capturing import capture_outputs

from .attention import CrossAttention, PerceiverStudyLayer, SelfAttention
from .base import PerceiverStudyPreTrainedModel
from .byte_start import start_bytes_locally
from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyLatents
from .elastic import chosen_count, chosen_rows
from .inputs import check_tensor, input_adapter, without_hidden_end
from .local_start import start_locally
from .paths import PATHS
from .separable import GridInputs, byte_array, join_parts

# Of names of arguments: a misspelt mask of a modality would otherwise be taken for one of transformers, and forgotten.
_ENDINGS_OF_INPUTS = ("mask", "_values", "_inputs", "_features", "_points")


class Perceiver(PerceiverStudyPreTrainedModel):
    """What `forward` takes `-> (B, N, D)`; its class for users is `PerceiverStudyModel`."""

    # The heads of a classifier; its folder loads as a bare model too.
    _keys_to_ignore_on_load_unexpected = [r"^classifier\.", r"^decoder\."]

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__(config)
        self.inputs = input_adapter(config)
        self.main_input_name = self.inputs.arguments[0]
        self.latents = PerceiverStudyLatents(config.num_latents, config.d_latents)
        # The first cross-attend sees untouched latents and keeps its own weights (paper, section 3.1 and appendix).
        num_cross_attends = min(config.num_cross_attends, 2 if config.share_cross_attend_weights else config.num_blocks)
        self.cross_attends = nn.ModuleList([_cross_attend(config) for _ in range(num_cross_attends)])
        num_blocks = 1 if config.share_block_weights else config.num_blocks
        self.blocks = nn.ModuleList(
            [
                nn.ModuleList([_self_attend(config) for _ in range(config.num_self_attends_per_block)])
                for _ in range(num_blocks)
            ]
        )
        if config.local_start_width is not None:
            paddings = dict(self.inputs.padding) if config.modalities else {}
            start_locally(config, self.latents, self.cross_attends, self.blocks, paddings)
            if config.input_type == "bytes":
                start_bytes_locally(config, *self.inputs.tables)
        self.post_init()

    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        position_features: torch.Tensor | None = None,
        inputs: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        input_values: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        point_features: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        num_latents: int | None = None,
        num_blocks: int | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithCrossAttentions:
        """What the config's input or inputs are, `-> (B, N, D)`

        Args:
            pixel_values: `(B, C, S_1, .., S_A)`, normalised pixels, or whatever lies on a grid of the config's
                `num_axes` axes.
            position_features: `(1 or B, S_1 + .. + S_A, F)`, features of each axis in turn, as the image processor's
                Fourier encoding gives them. Left out, the model makes the same ones for the grid it sees.
                Other features are used as they are, with two exceptions. Numbers in 16 bits that may be the model's
                own, rounded by a pipeline, are taken for those, unless they require a gradient. Fourier features of
                the whole grid with another highest band than the model's are an error, unless it is compiled or traced.
            inputs: `(B, M, K)`, the byte array itself, positions included; for a grid instead of `pixel_values`.
            attention_mask: `(B, M)`, 1 where latents may attend, points of a grid in row-major order, and before
                they become patches; with a convolutional stem of either the pixels or the grid that it leaves. Of
                several axes also `(B, S_1)`, such as one entry for each frame.
            cross_attend_path: instead of the config's, see there.
            input_values: `(B, L)` or `(B, C, L)`, waveforms; `(B, T, F)` or `(B, C, T, F)`, spectrograms.
            points: `(B, M, A)`, coordinates.
            point_features: `(B, M, C)`, what is known of the points beside where they are.
            input_ids: `(B, M)`, bytes.
            num_latents: compute the first so many latents alone; None is all, or in training what `training_latents`
                of the config says.
            num_blocks: stop after so many blocks; None is all, or in training what `training_blocks` says.
            kwargs: other arguments of input adapters, such as `sound_attention_mask`, the mask of the modality `sound`
                where there are several (docs/inputs.md); and those of transformers.

        Raises:
            ValueError: an argument is missing, is one that the model does not take, or does not fit the config; there
                are not as many latents or blocks; or the path cannot be taken.
        """
        output_attentions = kwargs.pop("output_attentions", None)
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        given = {
            "pixel_values": pixel_values,
            "position_features": position_features,
            "inputs": inputs,
            "input_values": input_values,
            "points": points,
            "point_features": point_features,
            "input_ids": input_ids,
            **{name: kwargs.pop(name) for name in list(kwargs) if self._is_input(name)},
        }
        parts = self.parts_of(attention_mask, keep_hidden_end=output_attentions, **given)
        latents = self.first_latents(num_latents)
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):
            latents = latents.repeat(len(parts[0].pixels), 1, 1)  # the first of them; otherwise one for all is enough
        drawn_from = self.config.training_blocks if self.training else None
        for index in range(chosen_count("num_blocks", num_blocks, self.config.num_blocks, drawn_from)):
            latents = self.block(index, latents, parts, cross_attend_path, output_attentions, **kwargs)
        return BaseModelOutputWithCrossAttentions(last_hidden_state=latents)

    def parts_of(
        self, attention_mask: torch.Tensor | None = None, keep_hidden_end: bool = False, **given: torch.Tensor | None
    ) -> list[GridInputs]:
        """What `forward` takes, as the elements that latents attend to.

        Args:
            keep_hidden_end: also of what masks hide of all samples; maps are as wide as the input.
        """
        parts = self.inputs.parts(self._taken(given, attention_mask), attention_mask, self._dtype)
        return list(parts) if keep_hidden_end else [without_hidden_end(part) for part in parts]

    def first_latents(self, num_latents: int | None = None) -> torch.Tensor:
        """`-> (1, N, D)`: latents before they have seen anything; `num_latents` as in `forward`."""
        most = self.config.num_latents
        drawn_from = self.config.training_latents if self.training else None
        count = chosen_count("num_latents", num_latents, most, drawn_from)
        by_chance = drawn_from is not None and num_latents is None
        device = self.latents.weight.device
        if device.type == "meta":  # offloaded; hooks bring the numbers to where the weights are then
            device = torch.device("cpu")
        return self.latents(chosen_rows(count, most, by_chance, device))

    def block(
        self,
        index: int,
        latents: torch.Tensor,
        parts: Sequence[GridInputs],
        cross_attend_path: str | None = None,
        output_attentions: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        """`(B, N, D) -> (B, N, D)`: latents after this block, which begins with a cross-attend where it has one."""
        path = self.config.cross_attend_path if cross_attend_path is None else cross_attend_path
        if path not in PATHS:
            raise ValueError(f"cross_attend_path={path!r}: expected one of {', '.join(map(repr, PATHS))}.")
        if index < self.config.num_cross_attends:
            cross_attend = self.cross_attends[min(index, len(self.cross_attends) - 1)]
            fields = [field for part in parts for field in part]
            latents = cross_attend(
                latents, *fields, join=join_parts, output_attentions=output_attentions, path=path, **kwargs
            )
        for self_attend in self.blocks[min(index, len(self.blocks) - 1)]:
            latents = self_attend(latents, output_attentions=output_attentions, **kwargs)
        return latents

    def split_cross_attentions(
        self, cross_attentions: Sequence[torch.Tensor], **given: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        """`[(B, h, N, M)] -> {name of the input: ((B, h, N, M of the input), ..)}`, maps split by modality.

        Args:
            cross_attentions: what `forward` returned with `output_attentions=True`.
            given: what `forward` was called with.

        Raises:
            ValueError: there are no maps, or they are of other inputs.
        """
        if cross_attentions is None:
            raise ValueError("cross_attentions are None: call the model with output_attentions=True.")
        lengths = self.inputs.lengths({name: value for name, value in given.items() if value is not None})
        found = sorted({weights.shape[-1] for weights in cross_attentions})
        if found != [sum(lengths.values())]:
            raise ValueError(
                f"cross_attentions are of {found} elements, and the inputs given have {lengths}: expected all inputs "
                "that the model was called with, under the same names."
            )
        pieces = [weights.split(list(lengths.values()), dim=-1) for weights in cross_attentions]
        return {name: tuple(piece[index] for piece in pieces) for index, name in enumerate(lengths)}

    def elements(self, attention_mask: torch.Tensor | None = None, **given: torch.Tensor) -> torch.Tensor:
        """What `forward` takes `-> (B, M, K)`: the byte array of all inputs, for output queries that are made of it."""
        parts = self.inputs.parts(self._taken(given, attention_mask), attention_mask, self._dtype)
        return torch.cat([byte_array(part).to(self._dtype) for part in parts], dim=1)

    @property
    def _dtype(self) -> torch.dtype:
        return self.latents.weight.dtype  # copies of a model on several devices have no parameters to ask

    def _is_input(self, name: str) -> bool:
        """Whether this is an argument of the inputs, or would be one if there were such a modality."""
        known = TransformersKwargs.__annotations__
        return name in self.inputs.arguments or (name.endswith(_ENDINGS_OF_INPUTS) and name not in known)

    def _taken(
        self, given: dict[str, torch.Tensor | None], attention_mask: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Without those that are None; a ValueError if the model takes no such argument, or one is no tensor."""
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in self.inputs.arguments:
                taken = ", ".join(self.inputs.arguments)
                raise ValueError(f"{name} are given to a model that does not take them: expected some of {taken}.")
        masks = {} if attention_mask is None else {"attention_mask": attention_mask}
        for name, value in (given | masks).items():
            check_tensor(name, value)
        return given


def _cross_attend(config: PerceiverStudyConfig) -> PerceiverStudyLayer:
    attention = CrossAttention(
        config,
        config.d_latents,
        config.num_input_channels,
        *config.cross_attend_widths,
        config.num_cross_attention_heads,
    )
    widening_factor = config.cross_attention_widening_factor
    return PerceiverStudyLayer(config, attention, config.d_latents, widening_factor, config.use_query_residual)


def _self_attend(config: PerceiverStudyConfig) -> PerceiverStudyLayer:
    attention = SelfAttention(config, config.d_latents, *config.self_attend_widths, config.num_self_attention_heads)
    return PerceiverStudyLayer(config, attention, config.d_latents, config.self_attention_widening_factor)
