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
from .base import PerceiverStudyClassifierOutput, PerceiverStudyPreTrainedModel, PerceiverStudyTokenOutput
from .byte_start import start_bytes_locally
from .bytes import BytesAdapter  # noqa: F401 - see below
from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyDecoder, PerceiverStudyLatents
from .elastic import chosen_count, chosen_rows
from .feature_extraction_perceiver_study import PerceiverStudyFeatureExtractor  # noqa: F401 - see below
from .grid import GridAdapter  # noqa: F401 - see below
from .image_reading import open_image  # noqa: F401 - see below
from .input_fields import INPUT_FIELDS  # noqa: F401 - see below
from .inputs import input_adapter, without_hidden_end
from .local_start import start_locally
from .masked_lm import MaskedLMDecoder, labelled_positions
from .paths import PATHS, has_values
from .pipeline_audio_perceiver_study import PerceiverStudyAudioClassificationPipeline  # noqa: F401 - see below
from .pipeline_multimodal_perceiver_study import (  # noqa: F401 - see below
    PerceiverStudyMultimodalClassificationPipeline,
)
from .pipeline_perceiver_study import PerceiverStudyImageClassificationPipeline  # noqa: F401 - see below
from .pipeline_point_cloud_perceiver_study import (  # noqa: F401 - see below
    PerceiverStudyPointCloudClassificationPipeline,
)
from .pipeline_video_perceiver_study import (  # noqa: F401 - see below
    PerceiverStudyVideoClassificationPipeline,
)
from .point_cloud_processing_perceiver_study import PerceiverStudyPointCloudProcessor  # noqa: F401 - see below
from .point_reading import open_points  # noqa: F401 - see below
from .points import PointsAdapter  # noqa: F401 - see below
from .position import fourier_features  # noqa: F401 - see below
from .processing_perceiver_study import PerceiverStudyProcessor  # noqa: F401 - see below
from .separable import GridInputs, byte_array, join_parts
from .streaming import GridAttention  # noqa: F401 - see below
from .tokenization_perceiver_study import PerceiverStudyTokenizer  # noqa: F401 - see below
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
            attention_mask: `(B, M)`, 1 where latents may attend, points of a grid in row-major order; of the grid that
                a convolutional stem leaves, where there is one, and of the points before they become patches.
            cross_attend_path: instead of the config's, see there.
            input_values: `(B, L)` or `(B, C, L)`, waveforms.
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
            **{name: kwargs.pop(name) for name in self.inputs.arguments if name in kwargs},
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
        parts = self.inputs.parts(self._taken(given), attention_mask, self.dtype)
        return list(parts) if keep_hidden_end else [without_hidden_end(part) for part in parts]

    def first_latents(self, num_latents: int | None = None) -> torch.Tensor:
        """`-> (1, N, D)`: latents before they have seen anything; `num_latents` as in `forward`."""
        most = self.config.num_latents
        drawn_from = self.config.training_latents if self.training else None
        count = chosen_count("num_latents", num_latents, most, drawn_from)
        by_chance = drawn_from is not None and num_latents is None
        return self.latents(chosen_rows(count, most, by_chance, self.latents.weight.device))

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
        logits = self.logits_of(outputs.last_hidden_state)
        loss = None if labels is None else self.loss_function(labels, logits, self.config, **given)
        return PerceiverStudyClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def logits_of(self, latents: torch.Tensor) -> torch.Tensor:
        """`(B, N, D) -> (B, num_labels)`"""
        pooled = latents.mean(dim=1) if self.decoder is None else self.decoder(latents).squeeze(1)
        return self.classifier(pooled)


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


class PerceiverStudyForSequenceClassification(PerceiverStudyClassifier):
    """Classes of texts, as bytes."""

    main_input_name = "input_ids"
    input_modalities = ("text",)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyClassifierOutput:
        """`(B, M) -> (B, num_labels)`

        Args:
            input_ids: bytes, as the tokenizer makes them.
            attention_mask: `(B, M)`, 1 for bytes and 0 for padding.
            labels: see `classify`.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        return self.classify(
            labels, input_ids=input_ids, attention_mask=attention_mask, cross_attend_path=cross_attend_path, **kwargs
        )


class PerceiverStudyForTokenClassification(PerceiverStudyPreTrainedModel):
    """A class for each byte of a text: the byte's own element, as an output query, asks the latents around it."""

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__(config)
        self.perceiver = PerceiverStudyModel(config)
        self.decoder = PerceiverStudyDecoder(config, query_width=config.num_input_channels)
        self.classifier = nn.Linear(config.num_input_channels, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyTokenOutput:
        """`(B, M) -> (B, M, num_labels)`

        Args:
            input_ids: bytes, as the tokenizer makes them.
            attention_mask: `(B, M)`, 1 for bytes and 0 for padding.
            labels: `(B, M)`, a class for each byte, or -100 for those that the loss leaves out.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        given = {"input_ids": input_ids, "attention_mask": attention_mask}
        outputs = self.perceiver(**given, cross_attend_path=cross_attend_path, **kwargs, return_dict=True)
        _check_labels(labels, input_ids.shape, self.config.num_labels)
        queries = self.perceiver.elements(**given)
        logits = self.decoder(outputs.last_hidden_state, output_queries=queries, head=self.classifier)
        loss = None if labels is None else self.loss_function(logits, labels, self.config, **kwargs)
        return PerceiverStudyTokenOutput(loss, logits, *_recorded(outputs))


class PerceiverStudyForMaskedLM(PerceiverStudyPreTrainedModel):
    """Bytes that are masked in a text: each position has an output query, and answers are ids by their embeddings."""

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__(config)
        self.perceiver = PerceiverStudyModel(config)
        self.decoder = MaskedLMDecoder(config)
        self.post_init()

    def resize_token_embeddings(self, *arguments, **kwargs) -> nn.Embedding:
        embeddings = super().resize_token_embeddings(*arguments, **kwargs)
        self.decoder.resize(embeddings.num_embeddings)
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_positions: torch.Tensor | None = None,
        cross_attend_path: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> PerceiverStudyTokenOutput:
        """`(B, M) -> (B, M, vocab_size)`, or of some positions `(B, O) -> (B, O, vocab_size)`

        In training with labels only positions that have one are answered, which are `O` for the sample with most of
        them: the loss is the same, and most of the decoder's work is saved.

        Args:
            input_ids: bytes, as the tokenizer makes them, some of them masked.
            attention_mask: `(B, M)`, 1 for bytes and 0 for padding.
            labels: `(B, M)`, what the bytes were, or -100 for those that the loss leaves out. With `output_positions`
                `(B, O)`, of those.
            output_positions: `(B, O)`, which positions of each text to answer; None is all.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        outputs = self.perceiver(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
            return_dict=True,
        )
        asked = input_ids.shape if output_positions is None else output_positions.shape
        _check_labels(labels, asked, self.config.vocab_size)
        if labels is not None and output_positions is None and self.training and has_values(labels):
            output_positions, labels = labelled_positions(labels)
        elements = None
        if not self.decoder.asks_positions:
            elements = self.perceiver.elements(input_ids=input_ids, attention_mask=attention_mask)
        embeddings, latents = self.perceiver.inputs.embeddings, outputs.last_hidden_state
        logits = self.decoder(latents, embeddings, elements, input_ids.shape[1], output_positions)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return PerceiverStudyTokenOutput(loss, logits, *_recorded(outputs))


def _check_labels(labels: torch.Tensor | None, shape: tuple[int, ...], count: int):
    """Raise a ValueError unless labels are a class below `count`, or -100, for each of the bytes that are asked for."""
    if labels is None:
        return
    if labels.shape != shape or labels.is_floating_point():
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and dtype {labels.dtype}: expected {tuple(shape)}, a class for "
            "each byte, and an integer dtype."
        )
    if has_values(labels) and labels.numel():
        wrong = labels[(labels != -100) & ((labels < 0) | (labels >= count))]
        if len(wrong):
            raise ValueError(f"labels hold {int(wrong[0])}: expected 0 to {count - 1}, or -100 where there is none.")


def _recorded(outputs: BaseModelOutputWithCrossAttentions) -> tuple:
    return outputs.hidden_states, outputs.attentions, outputs.cross_attentions


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
PerceiverStudyForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")
PerceiverStudyForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")
PerceiverStudyForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")

__all__ = [
    "PerceiverStudyForAudioClassification",
    "PerceiverStudyForImageClassification",
    "PerceiverStudyForMaskedLM",
    "PerceiverStudyForMultimodalClassification",
    "PerceiverStudyForPointCloudClassification",
    "PerceiverStudyForSequenceClassification",
    "PerceiverStudyForTokenClassification",
    "PerceiverStudyForVideoClassification",
    "PerceiverStudyModel",
    "PerceiverStudyPreTrainedModel",
]
