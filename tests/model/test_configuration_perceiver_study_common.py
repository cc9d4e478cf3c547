"""transformers' common tests of configs."""

import unittest

from modeling_perceiver_study import PerceiverStudyConfig
from tests.transformers_mixins import load

common = load("test_configuration_common")


class PerceiverStudyConfigTest(unittest.TestCase):
    def setUp(self):
        self.config_tester = common.ConfigTester(
            self,
            config_class=PerceiverStudyConfig,
            has_text_modality=False,
            # Every field of a model of a grid but those of the local start, none at its default.
            num_latents=6,
            d_latents=16,
            num_cross_attends=2,
            num_blocks=3,
            num_self_attends_per_block=2,
            num_cross_attention_heads=2,
            num_self_attention_heads=4,
            qk_channels=8,
            v_channels=24,
            cross_attention_shape_for_attention="q",
            self_attention_widening_factor=2,
            cross_attention_widening_factor=3,
            share_cross_attend_weights=False,
            share_block_weights=False,
            use_query_residual=False,
            hidden_act="relu",
            attention_probs_dropout_prob=0.1,
            classifier_dropout=0.2,
            initializer_range=0.1,
            layer_norm_eps=1e-6,
            input_name="volume",
            image_size=[4, 5, 6],
            num_channels=5,
            channel_axis=2,
            patch_size=[2, 1, 3],
            absolute_positions=True,
            num_axes=3,
            stem_type="linear",
            stem_channels=9,
            num_frequency_bands=7,
            max_frequencies=[2.0, 2.5, 3.0],
            concat_positions=False,
            position_encoding_type="learned",
            learned_position_channels=11,
            project_learned_positions=True,
            training_latents=[1, 2],
            training_blocks=2,
            decoder_type="query",
            tasks={"entailment": 3, "mood": 2},
            cross_attend_path="general",
        )
        # It goes with Fourier positions and query residuals, which are the defaults.
        self.local_start_tester = common.ConfigTester(
            self,
            config_class=PerceiverStudyConfig,
            has_text_modality=False,
            local_start_width=0.1,
            local_start_reach=0.4,
            local_start_spread=0.1,
        )

        self.bytes_tester = common.ConfigTester(
            self,
            config_class=PerceiverStudyConfig,
            has_text_modality=False,
            input_type="bytes",
            vocab_size=99,
            max_position_embeddings=50,
            d_model=12,
            ngram_sizes=[-2, 3],
            ngram_vocab_size=40,
            masked_lm_queries="inputs",
        )
        self.points_tester = common.ConfigTester(
            self,
            config_class=PerceiverStudyConfig,
            has_text_modality=False,
            input_type="points",
            num_channels=0,
            num_axes=3,
            stem_type="neighbors",
            stem_channels=7,
            num_neighbors=5,
            neighbor_channels=[6, 8],
            neighbor_points=30,
        )
        places = {"input_type": "points", "num_axes": 2, "num_channels": 0, "max_frequencies": [2.0, 4.0]}
        lines = {"input_type": "bytes", "d_model": 12}
        self.several_tester = common.ConfigTester(
            self,
            config_class=PerceiverStudyConfig,
            has_text_modality=False,
            modalities={"places": places, "lines": lines},
            modality_channels=3,
            modality_dropout={"lines": 0.5},
        )
        self.testers = (
            self.config_tester,
            self.local_start_tester,
            self.bytes_tester,
            self.points_tester,
            self.several_tester,
        )

    def test_every_field_is_tested(self):
        testers = self.testers
        fields = set(PerceiverStudyConfig.__annotations__) - {"model_type", "attribute_map"}
        assert fields == {name for tester in testers for name in tester.inputs_dict}
        defaults = PerceiverStudyConfig()
        for tester in testers:
            changed = PerceiverStudyConfig(**tester.inputs_dict)
            assert not [name for name in tester.inputs_dict if getattr(defaults, name) == getattr(changed, name)]

    def test_config(self):
        for tester in self.testers:
            tester.run_common_tests()
