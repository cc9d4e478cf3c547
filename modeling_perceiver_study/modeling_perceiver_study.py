"""The Perceiver (arXiv 2103.03206) and Perceiver IO (arXiv 2107.14795) for classification.

inputs (B, M, C + P), or pixels (B, C, H, W) with positions per axis
   |  cross-attend          num_cross_attends times, each at the start of a block
latents (B, N, D)
   |  self-attends          num_self_attends_per_block in a block, num_blocks blocks
latents (B, N, D)  ->  mean, or a learned output query  ->  logits
"""

import torch
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithCrossAttentions
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple

# transformers' loader of remote code fetches what this file imports, then what that imports. A download that breaks off
# at the second stage leaves a cache that never mends, so this file imports every sibling, used here or not.
from .attention import CrossAttention  # noqa: F401
from .audio_reading import read_audio  # noqa: F401
from .auto_classes import AUTO_MAP  # noqa: F401
from .base import PerceiverStudyClassifierOutput, PerceiverStudyPreTrainedModel, PerceiverStudyTokenOutput
from .byte_start import start_bytes_locally  # noqa: F401
from .bytes import BytesAdapter
from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyDecoder, PerceiverStudyLatents
from .elastic import chosen_count  # noqa: F401
from .feature_extraction_perceiver_study import PerceiverStudyFeatureExtractor  # noqa: F401
from .fetching import fetched  # noqa: F401
from .grid import GridAdapter  # noqa: F401
from .image_reading import open_image  # noqa: F401
from .input_fields import require
from .inputs import check_given, check_tensor
from .labels import check_byte_labels, check_class_labels, share_of_loss
from .local_start import start_locally  # noqa: F401
from .masked_lm import MaskedLMDecoder, labelled_positions
from .neighbors import NeighborStem  # noqa: F401
from .paths import has_values
from .perceiver import Perceiver
from .pipeline_audio_perceiver_study import PerceiverStudyAudioClassificationPipeline  # noqa: F401
from .pipeline_multimodal_perceiver_study import PerceiverStudyMultimodalClassificationPipeline  # noqa: F401
from .pipeline_perceiver_study import PerceiverStudyImageClassificationPipeline  # noqa: F401
from .pipeline_point_cloud_perceiver_study import PerceiverStudyPointCloudClassificationPipeline  # noqa: F401
from .pipeline_video_perceiver_study import PerceiverStudyVideoClassificationPipeline  # noqa: F401
from .point_cloud_processing_perceiver_study import PerceiverStudyPointCloudProcessor  # noqa: F401
from .point_reading import open_points  # noqa: F401
from .points import PointsAdapter  # noqa: F401
from .position import fourier_features  # noqa: F401
from .processing_perceiver_study import PerceiverStudyProcessor  # noqa: F401
from .scalars import is_count  # noqa: F401
from .separable import byte_array  # noqa: F401
from .several_tasks import by_task, check_rest, loss_of_tasks, model_of_task, own_answers
from .streaming import GridAttention  # noqa: F401
from .tokenization_perceiver_study import PerceiverStudyTokenizer  # noqa: F401
from .video_processing_perceiver_study import PerceiverStudyVideoProcessor  # noqa: F401
from .video_reading import read_frames  # noqa: F401


class PerceiverStudyModel(Perceiver):
    """The latents of a Perceiver after all its layers."""


class PerceiverStudyClassifier(PerceiverStudyPreTrainedModel):
    """A Perceiver with a linear classifier on the mean of its latents, or on a learned query's look at them.

    With `config.tasks` each task has a query of its own, and logits are those of all tasks, one after the other. This
    is the base of the models for each kind of input, which only name what their `forward` takes.
    """

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__(config)
        if config.tasks is not None:
            check_rest(config)  # fields may have been set since the config was made
        self.loss_type = "ForSequenceClassification"  # which transformers does not guess from every name
        self.perceiver = PerceiverStudyModel(config)
        self.main_input_name = self.perceiver.main_input_name
        num_queries = len(config.tasks or ("the only one",))
        query = PerceiverStudyLatents(num_queries, config.d_latents) if config.decoder_type == "query" else None
        self.decoder = None if query is None else PerceiverStudyDecoder(config, query)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_latents, config.num_labels) if config.num_labels > 0 else nn.Identity()
        self.post_init()

    def classify(self, labels: torch.Tensor | None, **given) -> PerceiverStudyClassifierOutput:
        """What `PerceiverStudyModel.forward` takes `-> (B, num_labels)`

        Args:
            labels: `(B,)` class indices for cross-entropy; `(B, num_labels)` floats in [0, 1] for independent classes;
                `(B,)` or `(B, num_labels)` numbers for regression. `config.problem_type` decides where set. With
                `config.tasks` `(B, tasks)`, a class for each or -100, or `(B, num_labels)` shares of classes, all 0 for
                a task without a label. Anything that it takes, where `loss_function` was set to another.
        """
        outputs = self.perceiver(**given, return_dict=True)
        logits = self.logits_of(outputs.last_hidden_state)
        if labels is None:
            loss = None
        elif self.config.tasks is not None and not self.has_own_loss:
            loss = loss_of_tasks(logits, labels, self.config.tasks, given.get("num_items_in_batch"))
        else:
            if not self.has_own_loss:
                check_class_labels(labels, logits, self.config)
            loss = self.loss_function(labels, logits, self.config, **given)
            if not self.has_own_loss:
                loss = share_of_loss(loss, labels, self.config.problem_type, given.get("num_items_in_batch"))
        return PerceiverStudyClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            cross_attentions=outputs.cross_attentions,
        )

    def logits_of(self, latents: torch.Tensor) -> torch.Tensor:
        """`(B, N, D) -> (B, num_labels)`"""
        if self.config.tasks is not None:
            return own_answers(self.classifier(self.dropout(self.decoder(latents))), self.config.tasks)
        pooled = latents.mean(dim=1) if self.decoder is None else self.decoder(latents).squeeze(1)
        return self.classifier(self.dropout(pooled))

    def by_task(self, logits: torch.Tensor) -> dict[str, torch.Tensor]:
        """`(B, num_labels) -> {task: (B, classes of the task)}`, with `config.tasks`; otherwise a ValueError."""
        return by_task(logits, self.config.tasks)

    def for_task(self, task: str) -> "PerceiverStudyClassifier":
        """A model that answers one of `config.tasks` alone, such as a pipeline takes.

        It shares this one's memory until one of the two is moved or cast.

        Raises:
            ValueError: there is no such task, or weights are offloaded.
        """
        return model_of_task(self, task)


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
            kwargs: what else the modalities take, such as `video_attention_mask` (docs/inputs.md), which `Trainer`
                passes on with `remove_unused_columns=False` alone. A modality whose mask hides all of a sample is
                missing there.
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
        require(config, "tasks", config.tasks is None, f"None in {type(self).__name__}, which answers one question")
        super().__init__(config)
        self.loss_type = "ForTokenClassification"  # also of a subclass of another name
        self.perceiver = PerceiverStudyModel(config)
        dropout = config.classifier_dropout
        self.decoder = PerceiverStudyDecoder(config, query_width=config.num_input_channels, dropout=dropout)
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
            attention_mask: `(B, M)`, 1 for bytes and 0 for padding; of several inputs for the elements of all.
            labels: `(B, M)`, a class for each byte, or -100 for those that the loss leaves out.
            cross_attend_path: see `PerceiverStudyModel.forward`.
        """
        check_given("input_ids", input_ids)
        outputs = self.perceiver(
            input_ids=input_ids,
            attention_mask=attention_mask,
            cross_attend_path=cross_attend_path,
            **kwargs,
            return_dict=True,
        )
        if not self.has_own_loss:
            check_byte_labels(labels, input_ids.shape, self.config.num_labels)
        inputs = self.perceiver.inputs
        given = {"input_ids": input_ids} | {name: kwargs[name] for name in inputs.arguments if name in kwargs}
        queries = self.perceiver.elements(**inputs.alone("input_ids", given, attention_mask))
        logits = self.decoder(outputs.last_hidden_state, output_queries=queries, head=self.classifier)
        loss = None if labels is None else self.loss_function(logits, labels, self.config, **kwargs)
        return PerceiverStudyTokenOutput(loss, logits, *_recorded(outputs))


class PerceiverStudyForMaskedLM(PerceiverStudyPreTrainedModel):
    """Bytes that are masked in a text: each position has an output query, and answers are ids by their embeddings."""

    main_input_name = "input_ids"
    input_modalities = ("text",)

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__(config)
        self.loss_type = "ForMaskedLM"  # also of a subclass of another name
        self.perceiver = PerceiverStudyModel(config)
        expected = f"in {type(self).__name__}, which answers with the bytes of its only input"
        require(config, "modalities", config.modalities is None, f"None {expected}")
        require(config, "input_type", isinstance(self.perceiver.inputs, BytesAdapter), f"'bytes' {expected}")
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
        if output_positions is not None:
            check_tensor("output_positions", output_positions)
        asked = input_ids.shape if output_positions is None else output_positions.shape
        if not self.has_own_loss:
            check_byte_labels(labels, asked, self.config.vocab_size)
        of_all = output_positions is None and not self.has_own_loss
        one_of_several = getattr(self, "_is_replica", False)  # `DataParallel` joins answers, which must be as many
        if labels is not None and of_all and self.training and not one_of_several and has_values(labels):
            output_positions, labels = labelled_positions(labels)
        elements = None
        if not self.decoder.asks_positions:
            elements = self.perceiver.elements(input_ids=input_ids, attention_mask=attention_mask)
        embeddings, latents = self.perceiver.inputs.embeddings, outputs.last_hidden_state
        # By a call, for which hooks fetch weights that are offloaded.
        embeddings = embeddings(torch.arange(embeddings.num_embeddings, device=latents.device))
        logits = self.decoder(latents, embeddings, elements, input_ids.shape[1], output_positions)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return PerceiverStudyTokenOutput(loss, logits, *_recorded(outputs))


def _recorded(outputs: BaseModelOutputWithCrossAttentions) -> tuple:
    return outputs.hidden_states, outputs.attentions, outputs.cross_attentions


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
