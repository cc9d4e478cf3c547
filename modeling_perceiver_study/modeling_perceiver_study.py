"""The Perceiver (arXiv 2103.03206) and Perceiver IO (arXiv 2107.14795) for classification.

inputs (B, M, C + P), or pixels (B, C, H, W) with positions per axis
   |  cross-attend          num_cross_attends times, each at the start of a block
latents (B, N, D)
   |  self-attends          num_self_attends_per_block in a block, num_blocks blocks
latents (B, N, D)  ->  mean, or a learned output query  ->  logits
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .attention import CrossAttention, PerceiverStudyLayer, SelfAttention
from .audio_reading import read_audio  # noqa: F401 - see below
from .auto_classes import AUTO_MAP  # noqa: F401 - see below
from .base import PerceiverStudyClassifierOutput, PerceiverStudyPreTrainedModel
from .bytes import BytesAdapter  # noqa: F401 - see below
from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyDecoder, PerceiverStudyLatents
from .feature_extraction_perceiver_study import PerceiverStudyFeatureExtractor  # noqa: F401 - see below
from .grid import GridAdapter  # noqa: F401 - see below
from .image_reading import open_image  # noqa: F401 - see below
from .input_fields import INPUT_FIELDS  # noqa: F401 - see below
from .inputs import input_adapter, without_hidden_end
from .local_start import start_locally
from .paths import PATHS
from .pipeline_audio_perceiver_study import PerceiverStudyAudioClassificationPipeline  # noqa: F401 - see below
from .pipeline_multimodal_perceiver_study import (  # noqa: F401 - see below
    PerceiverStudyMultimodalClassificationPipeline,
)
from .pipeline_perceiver_study import PerceiverStudyImageClassificationPipeline  # noqa: F401 - see below
from .pipeline_point_cloud_perceiver_study import (  # noqa: F401 - see below
    PerceiverStudyPointCloudClassificationPipeline,
)
from .pipeline_video_perceiver_study import PerceiverStudyVideoClassificationPipeline  # noqa: F401 - see below
from .point_cloud_processing_perceiver_study import PerceiverStudyPointCloudProcessor  # noqa: F401 - see below
from .point_reading import open_points  # noqa: F401 - see below
from .points import PointsAdapter  # noqa: F401 - see below
from .position import fourier_features  # noqa: F401 - see below
from .processing_perceiver_study import PerceiverStudyProcessor  # noqa: F401 - see below
from .separable import byte_array, join_parts
from .streaming import GridAttention  # noqa: F401 - see below
from .video_processing_perceiver_study import PerceiverStudyVideoProcessor  # noqa: F401 - see below
from .video_reading import read_frames  # noqa: F401 - see below

# transformers' loader of remote code fetches what this file imports, then what that imports. A download that breaks off
# at the second stage leaves a cache that never mends, so this file imports every sibling, used here or not.


class PerceiverStudyModel(PerceiverStudyPreTrainedModel):
    """The latents of a Perceiver after all its layers."""

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
            attention_mask: `(B, M)`, 1 where latents may attend, points of a grid in row-major order; of the grid that
                a convolutional stem leaves, where there is one, and of the points before they become patches.
            cross_attend_path: instead of the config's, see there.
            input_values: `(B, L)` or `(B, C, L)`, waveforms.
            points: `(B, M, A)`, coordinates.
            point_features: `(B, M, C)`, what is known of the points beside where they are.
            input_ids: `(B, M)`, bytes.
            kwargs: other arguments of input adapters, such as `sound_attention_mask`, the mask of the modality `sound`
                where there are several (docs/inputs.md); and those of transformers.

        Raises:
            ValueError: an argument is missing, is one that the model does not take, or does not fit the config; or the
                path cannot be taken.
        """
        path = self.config.cross_attend_path if cross_attend_path is None else cross_attend_path
        if path not in PATHS:
            raise ValueError(f"cross_attend_path={path!r}: expected one of {', '.join(map(repr, PATHS))}.")
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
            **{name: kwargs.pop(name) for name in self.inputs.arguments if name in kwargs},
        }
        parts = self.inputs.parts(self._taken(given), attention_mask, self.dtype)
        if not output_attentions:  # maps are as wide as the input
            parts = [without_hidden_end(part) for part in parts]
        fields = [field for part in parts for field in part]
        latents = self.latents()
        if kwargs.get("output_hidden_states", self.config.output_hidden_states):
            latents = latents.repeat(len(parts[0].pixels), 1, 1)  # the first of them; otherwise one for all is enough
        for index in range(self.config.num_blocks):
            if index < self.config.num_cross_attends:
                cross_attend = self.cross_attends[min(index, len(self.cross_attends) - 1)]
                latents = cross_attend(
                    latents, *fields, join=join_parts, output_attentions=output_attentions, path=path, **kwargs
                )
            for self_attend in self.blocks[min(index, len(self.blocks) - 1)]:
                latents = self_attend(latents, output_attentions=output_attentions, **kwargs)
        return BaseModelOutputWithCrossAttentions(last_hidden_state=latents)

    def split_cross_attentions(
        self, cross_attentions: Sequence[torch.Tensor], **given: torch.Tensor
    ) -> dict[str, tuple[torch.Tensor, ...]]:
        """`[(B, h, N, M)] -> {name of the input: ((B, h, N, M of the input), ..)}`, maps split by modality.

        Args:
            cross_attentions: what `forward` returned with `output_attentions=True`.
            given: what `forward` was called with.
        """
        lengths = self.inputs.lengths({name: value for name, value in given.items() if value is not None})
        pieces = [weights.split(list(lengths.values()), dim=-1) for weights in cross_attentions]
        return {name: tuple(piece[index] for piece in pieces) for index, name in enumerate(lengths)}

    def elements(self, attention_mask: torch.Tensor | None = None, **given: torch.Tensor) -> torch.Tensor:
        """What `forward` takes `-> (B, M, K)`: the byte array of all inputs, for output queries that are made of it."""
        parts = self.inputs.parts(self._taken(given), attention_mask, self.dtype)
        return torch.cat([byte_array(part).to(self.dtype) for part in parts], dim=1)

    def _taken(self, given: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
        """Without those that are None; a ValueError if the model takes no such argument."""
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in self.inputs.arguments:
                taken = ", ".join(self.inputs.arguments)
                raise ValueError(f"{name} are given to a model that does not take them: expected some of {taken}.")
        return given


class PerceiverStudyClassifier(PerceiverStudyPreTrainedModel):
    """A Perceiver with a linear classifier on the mean of its latents, or on a learned query's look at them.

    The base of the models for each kind of input, which only name what their `forward` takes.
    """

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__(config)
        self.loss_type = "ForSequenceClassification"  # which transformers does not guess from every name
        self.perceiver = PerceiverStudyModel(config)
        self.main_input_name = self.perceiver.main_input_name
        query = PerceiverStudyLatents(1, config.d_latents) if config.decoder_type == "query" else None
        self.decoder = None if query is None else PerceiverStudyDecoder(config, query)
        self.classifier = nn.Linear(config.d_latents, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    def classify(self, labels: torch.Tensor | None, **given) -> PerceiverStudyClassifierOutput:
        """What `PerceiverStudyModel.forward` takes `-> (B, num_labels)`

        Args:
            labels: `(B,)` class indices for cross-entropy; `(B, num_labels)` floats in [0, 1] for independent classes;
                `(B,)` or `(B, num_labels)` floats for regression. `config.problem_type` decides where set.
        """
        outputs = self.perceiver(**given, return_dict=True)
        latents = outputs.last_hidden_state
        pooled = latents.mean(dim=1) if self.decoder is None else self.decoder(latents).squeeze(1)
        logits = self.classifier(pooled)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **given)
        return PerceiverStudyClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )


class PerceiverStudyForImageClassification(PerceiverStudyClassifier):
    """Classes of images, or of whatever lies on a grid."""

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        position_features: torch.Tensor | None = None,
        inputs: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyClassifierOutput:
        """`(B, C, S_1, .., S_A)` or `(B, M, C + P) -> (B, num_labels)`

        Args:
            pixel_values: see `PerceiverStudyModel.forward`, as for the next three.
            position_features: see there.
            inputs: see there.
            attention_mask: see there.
            labels: see `classify`.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        return self.classify(
            labels,
            pixel_values=pixel_values,
            position_features=position_features,
            inputs=inputs,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
        )


class PerceiverStudyForAudioClassification(PerceiverStudyClassifier):
    """Classes of recordings, or of series of numbers from sensors."""

    main_input_name = "input_values"
    input_modalities = ("audio",)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyClassifierOutput:
        """`(B, L)`, `(B, C, L)`, or spectrograms `(B, T, F)`, `(B, C, T, F) -> (B, num_labels)`

        Args:
            input_values: waveforms, or spectrograms of `num_axes=2`, as the feature extractor makes them.
            attention_mask: 1 where there is sound, `(B, L)` or `(B, T)`, and 0 where padding.
            labels: see `classify`.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        return self.classify(
            labels,
            input_values=input_values,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
        )


class PerceiverStudyForPointCloudClassification(PerceiverStudyClassifier):
    """Classes of sets of points in space."""

    main_input_name = "points"
    input_modalities = ("points",)
    # transformers has no such class, but with a name here it saves the code beside the weights.
    _auto_class = "AutoModelForPointCloudClassification"

    @can_return_tuple
    def forward(
        self,
        points: torch.Tensor | None = None,
        point_features: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyClassifierOutput:
        """`(B, M, A), (B, M, C) -> (B, num_labels)`

        Args:
            points: coordinates.
            point_features: what is known of the points beside where they are, such as normals or colours.
            attention_mask: `(B, M)`, 1 for points and 0 for padding, which may hold anything.
            labels: see `classify`.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        return self.classify(
            labels,
            points=points,
            point_features=point_features,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
        )


class PerceiverStudyForVideoClassification(PerceiverStudyClassifier):
    """Classes of clips."""

    input_modalities = ("video",)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyClassifierOutput:
        """`(B, T, C, H, W) -> (B, num_labels)`, with the config's `num_axes=3` and `channel_axis=2`

        Args:
            pixel_values: frames, as the video processor makes them.
            attention_mask: `(B, T)`, 1 for frames and 0 for padding; or `(B, T * H * W)`, one entry per pixel.
            labels: see `classify`.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        return self.classify(
            labels,
            pixel_values=pixel_values,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
        )


class PerceiverStudyForMultimodalClassification(PerceiverStudyClassifier):
    """Classes of samples of several inputs at once, the config's `modalities`, each of which may be missing."""

    input_modalities = ("multimodal",)
    _auto_class = "AutoModelForMultimodalClassification"  # see above

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        points: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyClassifierOutput:
        """What each modality takes `-> (B, num_labels)`

        Args:
            pixel_values: of images or clips.
            input_values: of recordings.
            points: of clouds.
            input_ids: of bytes.
            attention_mask: `(B, M)`, of the elements of all; or leave it out, and give a mask of each by its name.
            labels: see `classify`.
            cross_attend_path: see `PerceiverStudyModel.forward`.
            kwargs: what else the modalities take, such as `video_attention_mask` (docs/inputs.md). A modality whose
                mask hides all of a sample is missing there.
        """
        return self.classify(
            labels,
            pixel_values=pixel_values,
            input_values=input_values,
            points=points,
            input_ids=input_ids,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
        )


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


PerceiverStudyModel.register_for_auto_class("AutoModel")
PerceiverStudyForImageClassification.register_for_auto_class("AutoModelForImageClassification")
PerceiverStudyForAudioClassification.register_for_auto_class("AutoModelForAudioClassification")
PerceiverStudyForVideoClassification.register_for_auto_class("AutoModelForVideoClassification")

__all__ = [
    "PerceiverStudyForAudioClassification",
    "PerceiverStudyForImageClassification",
    "PerceiverStudyForMultimodalClassification",
    "PerceiverStudyForPointCloudClassification",
    "PerceiverStudyForVideoClassification",
    "PerceiverStudyModel",
    "PerceiverStudyPreTrainedModel",
]
