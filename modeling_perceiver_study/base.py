"""What all models of this package share, and what classifiers return."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from transformers import initialization as init
from transformers.loss.loss_utils import LOSS_MAPPING
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.output_capturing import OutputRecorder

from .attention import CrossAttention, MultiHeadAttention, PerceiverStudyLayer, SelfAttention
from .bytes import ResizableVocabulary
from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyLatents
from .grid import LearnedPositions
from .inputs import LearnedPadding
from .masked_lm import MaskedLMDecoder


@dataclass
class PerceiverStudyClassifierOutput(ModelOutput):
    """What the classifier returns.

    Attributes:
        loss: scalar, with `labels`.
        logits: `(B, num_labels)`.
        hidden_states: latents `(B, N, D)` that the first layer receives, then those that each layer returns, with
            `output_hidden_states=True`.
        attentions: `(B, h, N, N)` for each self-attend, with `output_attentions=True`.
        cross_attentions: `(B, h, N, M)` for each cross-attend, with `output_attentions=True`.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None
    cross_attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class PerceiverStudyTokenOutput(PerceiverStudyClassifierOutput):
    """What models return that answer for each byte: `logits` are `(B, M, num_labels)`, or of ids `(B, M, vocab_size)`.

    Of some bytes alone, where only those were asked for, `(B, O, ..)`.
    """


class PerceiverStudyPreTrainedModel(ResizableVocabulary, PreTrainedModel):
    """Fresh weights, loading, and what transformers has to know of every model here.

    Attributes:
        loaded_with: arguments of `from_pretrained` by which the files of this model are found again, beside its name.
    """

    loaded_with: Mapping[str, Any] = MappingProxyType({})
    config: PerceiverStudyConfig
    base_model_prefix = "perceiver"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["PerceiverStudyLayer"]
    _supports_sdpa = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _input_embed_layer = "latents"
    _can_record_outputs = {
        "hidden_states": OutputRecorder(PerceiverStudyLayer),
        "attentions": OutputRecorder(SelfAttention, index=1),
        "cross_attentions": OutputRecorder(CrossAttention, index=1),
    }

    @classmethod
    def from_pretrained(cls, *arguments, **kwargs):
        """As transformers', which makes parameters anew: those of them that are frozen are frozen again."""
        where = {name: kwargs[name] for name in ("cache_dir", "subfolder") if name in kwargs}
        loaded = super().from_pretrained(*arguments, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model._freeze_key_biases()
        model.loaded_with = where
        return loaded

    def requires_grad_(self, requires_grad: bool = True):
        super().requires_grad_(requires_grad)
        self._freeze_key_biases()
        return self

    @property
    def has_own_loss(self) -> bool:
        """Whether `loss_function` was set to one that transformers does not have, whose labels may be anything."""
        return self.loss_function is not LOSS_MAPPING.get(self.loss_type)

    def _freeze_key_biases(self):
        for module in self.modules():
            if isinstance(module, MultiHeadAttention):
                module.freeze_key_bias()

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, (PerceiverStudyLatents, LearnedPositions, LearnedPadding)):
            # The paper's appendix cuts at the values -2 and 2, a hundred standard deviations away.
            init.trunc_normal_(module.weight, std=self.config.initializer_range, a=-2.0, b=2.0)
        if isinstance(module, MaskedLMDecoder):
            init.zeros_(module.bias)
        if hasattr(module, "local_start") and not getattr(module.weight, "_is_hf_initialized", False):
            init.copy_(module.weight, module.local_start(module.weight))
        if hasattr(module, "local_start_bias") and not getattr(module.bias, "_is_hf_initialized", False):
            init.copy_(module.bias, module.local_start_bias(module.bias))
