"""transformers' common tests of models."""

import copy
import math
import unittest
from unittest import mock

import pytest
import torch
from torch import nn

from modeling_perceiver_study import (
    PerceiverStudyConfig,
    PerceiverStudyForAudioClassification,
    PerceiverStudyForImageClassification,
    PerceiverStudyForMaskedLM,
    PerceiverStudyForMultimodalClassification,
    PerceiverStudyForPointCloudClassification,
    PerceiverStudyForSequenceClassification,
    PerceiverStudyForTokenClassification,
    PerceiverStudyForVideoClassification,
    PerceiverStudyModel,
)
from tests.kinds import arguments_of, fields_of, joint_array
from tests.transformers_mixins import load

pytestmark = pytest.mark.slow

common = load("test_modeling_common")


class PerceiverStudyModelTester:
    """A small model, and what transformers' tests ask about it.

    As they see it, inputs have `seq_length`, and what attends to itself, latents here, has `encoder_seq_length`; layers
    are those that give `attentions`.
    """

    is_training = True
    batch_size = 3
    num_channels = 3
    image_size = 12
    encoder_seq_length = 6
    hidden_size = 16
    num_attention_heads = 4
    num_hidden_layers = 2
    expected_num_hidden_layers = 5

    def __init__(self, parent, **variant):
        self.parent = parent
        self.variant = variant
        self.seq_length = math.prod(self.get_config().attended_grid)

    def get_config(self):
        return PerceiverStudyConfig(
            num_latents=self.encoder_seq_length,
            d_latents=self.hidden_size,
            num_cross_attends=2,
            num_blocks=2,
            num_self_attends_per_block=1,
            num_self_attention_heads=self.num_attention_heads,
            image_size=self.image_size,
            num_channels=self.num_channels,
            num_frequency_bands=3,
            num_labels=4,
            **self.variant,
        )

    def prepare_config_and_inputs_for_common(self):
        pixel_values = torch.randn(self.batch_size, self.num_channels, self.image_size, self.image_size)
        return self.get_config(), {"pixel_values": pixel_values}


class PerceiverStudyModelTest(common.ModelTesterMixin, unittest.TestCase):
    """The paper's model: Fourier features the separable way, shared weights, mean of the latents."""

    all_model_classes = (PerceiverStudyModel, PerceiverStudyForImageClassification)
    test_resize_embeddings = False  # there is no vocabulary
    test_can_init_all_missing_weights_before_2023 = True  # theirs looks for a year in a copyright line
    variant = {}

    def setUp(self):
        self.model_tester = PerceiverStudyModelTester(self, **self.variant)
        # They look up by name which models are bare and which take labels.
        for mapping, model_class in (
            (common.MODEL_MAPPING_NAMES, PerceiverStudyModel),
            (common.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, PerceiverStudyForImageClassification),
        ):
            patch = mock.patch.dict(mapping, {PerceiverStudyConfig.model_type: model_class.__name__})
            patch.start()
            self.addCleanup(patch.stop)

    def test_model_get_set_embeddings(self):
        """As theirs, but what embeds are the latents, and no `nn.Embedding`."""
        config, _ = self.model_tester.prepare_config_and_inputs_for_common()
        for model_class in self.all_model_classes:
            model = model_class(copy.deepcopy(config))
            latents = model.get_input_embeddings()
            self.assertEqual(latents().shape, (1, config.num_latents, config.d_latents))
            replacement = copy.deepcopy(latents)
            model.set_input_embeddings(replacement)
            self.assertIs(model.get_input_embeddings(), replacement)
            self.assertTrue(
                model.get_output_embeddings() is None or isinstance(model.get_output_embeddings(), nn.Linear)
            )


class PerceiverStudyByteArrayModelTest(PerceiverStudyModelTest):
    """Perceiver IO's: a stem, learned positions in a byte array for the attention interface, no sharing, a query."""

    variant = {
        "stem_type": "conv",
        "stem_channels": 8,
        "position_encoding_type": "learned",
        "project_learned_positions": True,
        "share_cross_attend_weights": False,
        "share_block_weights": False,
        "decoder_type": "query",
    }


class PerceiverStudyKindTester(PerceiverStudyModelTester):
    """A bare model of other inputs than an image, with masks."""

    def __init__(self, parent, *kinds):
        self.parent, self.kinds = parent, kinds
        self.seq_length = joint_array(PerceiverStudyModel(self.get_config()), kinds, self.arguments())[0].shape[1]

    def get_config(self):
        return PerceiverStudyConfig(
            num_latents=self.encoder_seq_length,
            d_latents=self.hidden_size,
            num_cross_attends=2,
            num_blocks=2,
            num_self_attends_per_block=1,
            num_self_attention_heads=self.num_attention_heads,
            num_labels=4,
            **fields_of(*self.kinds),
        )

    def arguments(self):
        given = arguments_of(self.get_config(), self.kinds, batch=self.batch_size)
        return {name: value.float() if value.is_floating_point() else value for name, value in given.items()}

    def prepare_config_and_inputs_for_common(self):
        given = self.arguments()
        # One entry for each sample of a waveform, before they become patches, and for each frame; of others one for
        # each element.
        before_patches = {("waveform",): ("input_values", -1), ("video",): ("pixel_values", 1)}
        argument, axis = before_patches.get(self.kinds, (None, 0))
        length = given[argument].shape[axis] if argument else self.seq_length
        mask = torch.ones(self.batch_size, length, dtype=torch.int64)
        return self.get_config(), {**given, "attention_mask": mask}


class PerceiverStudyPointModelTest(PerceiverStudyModelTest):
    all_model_classes = (PerceiverStudyModel, PerceiverStudyForPointCloudClassification)
    kinds = ("points",)
    maker = PerceiverStudyKindTester

    def setUp(self):
        super().setUp()
        self.model_tester = self.maker(self, *self.kinds)
        self.additional_model_inputs = list(self.model_tester.arguments())[1:]
        for model_class in self.all_model_classes[1:]:
            # They look up by name which models take labels, and have no such list for clouds of points.
            names = {PerceiverStudyConfig.model_type: model_class.__name__}
            patch = mock.patch.dict(common.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, names)
            patch.start()
            self.addCleanup(patch.stop)
        # They ask the class; a model says by itself what it takes.
        main = PerceiverStudyModel(self.model_tester.get_config()).main_input_name
        patch = mock.patch.object(PerceiverStudyModel, "main_input_name", main)
        patch.start()
        self.addCleanup(patch.stop)

    def test_model_main_input_name(self):
        """As theirs, but of many kinds one is the first argument; a model knows which is its own."""
        model = PerceiverStudyModel(self.model_tester.get_config())
        self.assertEqual(model.main_input_name, next(iter(self.model_tester.arguments())))
        self.assertIn(model.main_input_name, model.inputs.arguments)


class PerceiverStudyWaveformModelTest(PerceiverStudyPointModelTest):
    all_model_classes = (PerceiverStudyModel, PerceiverStudyForAudioClassification)
    kinds = ("waveform",)


class PerceiverStudyVideoModelTest(PerceiverStudyPointModelTest):
    all_model_classes = (PerceiverStudyModel, PerceiverStudyForVideoClassification)
    kinds = ("video",)


class PerceiverStudyByteTester(PerceiverStudyKindTester):
    """With runs of bytes, and as many channels as the heads of the decoder divide."""

    def get_config(self):
        config = super().get_config()
        fields = {"d_model": 16, "ngram_sizes": [-2, 3], "ngram_vocab_size": 30}
        return PerceiverStudyConfig(**config.to_dict() | fields)


class PerceiverStudyByteModelTest(PerceiverStudyPointModelTest):
    all_model_classes = (PerceiverStudyModel,)
    kinds = ("bytes",)
    maker = PerceiverStudyByteTester


class PerceiverStudyForSequenceClassificationTest(PerceiverStudyByteModelTest):
    all_model_classes = (PerceiverStudyModel, PerceiverStudyForSequenceClassification)


class PerceiverStudyByteHeadTest(PerceiverStudyByteModelTest):
    """Heads that answer for each byte take a label for each."""

    all_model_classes = (PerceiverStudyForTokenClassification, PerceiverStudyForMaskedLM)

    def setUp(self):
        super().setUp()
        common.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.pop(PerceiverStudyConfig.model_type, None)
        for mapping, model_class in (
            (common.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES, PerceiverStudyForTokenClassification),
            (common.MODEL_FOR_MASKED_LM_MAPPING_NAMES, PerceiverStudyForMaskedLM),
        ):
            patch = mock.patch.dict(mapping, {PerceiverStudyConfig.model_type: model_class.__name__})
            patch.start()
            self.addCleanup(patch.stop)


class PerceiverStudyMultimodalModelTest(PerceiverStudyPointModelTest):
    """Two grids that stay separable, in patches, and an array."""

    all_model_classes = (PerceiverStudyModel, PerceiverStudyForMultimodalClassification)
    kinds = ("video", "waveform", "points")
