"""Attention, MLP and the layer they form."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import maybe_autocast

from .configuration_perceiver_study import PerceiverStudyConfig
from .paths import is_transformed, takes_separable_path
from .separable import GridInputs, byte_array, is_separable, joint_mask, separable_attention

_HALVES = (torch.bfloat16, torch.float16)
_MOST_IN_A_SMALL_MAP = 2**20


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, h, N, E), (B, h, M, E), (B, h, M, V) -> (B, N, h, V), (B, h, N, M)`: transformers' attention interface."""
    logits = (query * scaling) @ key.transpose(-1, -2)
    if attention_mask is not None and attention_mask.ndim == 2:  # as made for flash attention, which has no weights
        attention_mask = attention_mask[:, None, None]
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attention_mask, torch.finfo(logits.dtype).min)
    elif attention_mask is not None:
        logits = logits + attention_mask
    weights = nn.functional.dropout(logits.softmax(dim=-1), dropout)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def pad_heads(*heads: torch.Tensor) -> list[torch.Tensor]:
    """`(.., E), (.., E), (.., V) -> (.., F)` each, with zeros at the end of a head, which change no result.

    Fused kernels want queries, keys and values of one width, and on CUDA of a multiple of 8: 261 channels, which
    ImageNet's pixels and positions have, would end in a stored map of weights.
    """
    width = max(part.shape[-1] for part in heads)
    if heads[0].device.type == "cuda":
        width = -(-width // 8) * 8
    # Also with nothing to pad `pad` copies.
    return [part if part.shape[-1] == width else nn.functional.pad(part, (0, width - part.shape[-1])) for part in heads]


def is_better_in_float32(query: torch.Tensor) -> bool:
    """Whether to attend in float32 though the layers around are in 16 bits, as on a CPU.

    There torch's fused attention is faster in float32, several times so where the CPU has no units for the 16 bits;
    only wide heads lose, by a quarter, where it has. Products in 16 bits would round logits (docs/performance.md).
    """
    return query.device.type == "cpu" and query.dtype in _HALVES


def products_are_faster(query: torch.Tensor, num_inputs: int) -> bool:
    """Whether two products and a softmax beat torch's fused attention (docs/performance.md).

    So they do on a CPU where float32 products go through oneDNN, which fused attention does not use: if
    `torch.set_float32_matmul_precision` is at "medium", or what torch 2.9 has for it at "bf16". The map that they store
    must be small, as that of latents to latents is.
    """
    if query.device.type != "cpu" or query.shape[-2] * num_inputs > _MOST_IN_A_SMALL_MAP:
        return False
    return query.dtype == torch.float32 and _float32_products_go_through_onednn()


@torch.compiler.assume_constant_result  # the compiler cannot look inside
def _float32_products_are_rounded() -> bool:
    """Whether those of this CPU are of bfloat16, as "medium" allows and x86 CPUs with units for it do."""
    has_units = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return has_units and _float32_products_go_through_onednn()


@torch.compiler.assume_constant_result  # the compiler cannot look inside
def _float32_products_go_through_onednn() -> bool:
    """On a CPU; "high" asks for TF32, which few CPUs have."""
    if hasattr(torch.backends.mkldnn, "matmul"):  # from torch 2.9 on; its getter for all fails once this was set
        return torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    return torch.get_float32_matmul_precision() == "medium"


def cast_once(array: torch.Tensor) -> torch.Tensor:
    """Under autocast in the dtype of its products: otherwise each projection of the array makes its own copy.

    Like autocast itself this leaves float64 alone.
    """
    kind = array.device.type
    autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return array.to(torch.get_autocast_dtype(kind)) if autocast and array.dtype != torch.float64 else array


def open_empty_rows(attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Show everything to the queries that a mask shows nothing to; and say which those are.

    Attention over nothing is 0 / 0, of which each implementation makes something else: a mean, zeros or NaN, forward or
    backward. Over everything it is finite, and can be replaced.

    Args:
        attention_mask: as `CrossAttention.forward` takes it.

    Returns:
        The mask, and `(1 or B, 1 or h, 1 or N, 1)`, True where it showed nothing.
    """
    if attention_mask.is_floating_point():
        empty = (attention_mask <= torch.finfo(attention_mask.dtype).min).all(dim=-1, keepdim=True)
        attention_mask = attention_mask.masked_fill(empty, 0.0)
    else:
        attention_mask = attention_mask.bool()
        empty = ~attention_mask.any(dim=-1, keepdim=True)
        attention_mask = attention_mask | empty
    return attention_mask, empty if empty.ndim == 4 else empty[:, None, None]


class MultiHeadAttention(nn.Module):
    """Projections around transformers' attention interface; cross- and self-attention build on it.

    Args:
        config: dropout, epsilon of the norms, and the attention implementation, read at each call.
        q_dim: channels of the queries, and of the result.
        kv_dim: channels of the array attended to.
        qk_channels: width of queries and keys over all heads.
        v_channels: width of values over all heads.
        num_heads: `h`, divides both widths.
    """

    is_causal = False

    def __init__(
        self, config: PerceiverStudyConfig, q_dim: int, kv_dim: int, qk_channels: int, v_channels: int, num_heads: int
    ):
        super().__init__()
        self.config = config
        self.num_heads = num_heads
        self.scaling = (qk_channels // num_heads) ** -0.5
        self.layernorm = nn.LayerNorm(q_dim, eps=config.layer_norm_eps)
        self.q_proj = nn.Linear(q_dim, qk_channels)
        self.k_proj = nn.Linear(kv_dim, qk_channels)
        self.v_proj = nn.Linear(kv_dim, v_channels)
        self.o_proj = nn.Linear(v_channels, q_dim)
        self.freeze_key_bias()

    def freeze_key_bias(self):
        """Keep it from optimisers: it adds the same to all logits of a query, so the softmax cancels it.

        Its gradient is 0 in exact arithmetic and noise in floats. It is there since DeepMind's weights have it.
        """
        bias = getattr(self.k_proj, "bias", None)
        if isinstance(bias, torch.Tensor):  # of a quantized layer it is a method
            bias.requires_grad_(False)

    @property
    def dropout(self) -> float:
        return self.config.attention_probs_dropout_prob if self.training else 0.0

    def split_heads(self, projected: torch.Tensor) -> torch.Tensor:
        """`(B, N, h * E) -> (B, h, N, E)`"""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def attend(
        self,
        query: torch.Tensor,
        inputs: torch.Tensor,
        attention_mask: torch.Tensor | None,
        output_attentions: bool,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(1 or B, h, N, E), (B, M, K) -> (B, N, h, V), (B, h, N, M) or None`: values before `o_proj`, and weights."""
        implementation, inputs, dtype = self.config._attn_implementation, cast_once(inputs), query.dtype
        key, value = self.split_heads(self.k_proj(inputs)), self.split_heads(self.v_proj(inputs))
        no_autocast, rounded = nullcontext(), False
        if output_attentions or is_transformed():
            implementation = "eager"
        if implementation in ("eager", "sdpa") and is_better_in_float32(query):
            rounded = _float32_products_are_rounded()
            wide = torch.float64 if rounded else torch.float32
            query, key, value = query.to(wide), key.to(wide), value.to(wide)
            if attention_mask is not None and attention_mask.is_floating_point():
                attention_mask = attention_mask.to(wide)
            no_autocast = maybe_autocast(query.device.type, enabled=False)  # which would cast them back
        if implementation == "sdpa" and products_are_faster(query, inputs.shape[1]):
            implementation = "eager"
        interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        value_width = value.shape[-1]
        if interface is not eager_attention_forward:
            query, key, value = pad_heads(query, key, value)
        with no_autocast:
            attended, weights = interface(
                self,
                query.expand(inputs.shape[0], -1, -1, -1),
                key,
                value,
                attention_mask,
                dropout=self.dropout,
                scaling=self.scaling,
                **kwargs,
            )
        if attended.shape[-1] != value_width:  # also the gradient of a slice of everything is a copy
            attended = attended[..., :value_width]
        return attended.to(dtype), weights.float() if weights is not None and rounded else weights


class SelfAttention(MultiHeadAttention):
    """`(B, N, D) -> (B, N, D), (B, h, N, N) or None`: latents attend to latents."""

    def __init__(self, config: PerceiverStudyConfig, dim: int, qk_channels: int, v_channels: int, num_heads: int):
        super().__init__(config, dim, dim, qk_channels, v_channels, num_heads)

    def forward(
        self, latents: torch.Tensor, output_attentions: bool = False, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        latents = cast_once(self.layernorm(latents))
        query = self.split_heads(self.q_proj(latents))
        attended, weights = self.attend(query, latents, None, output_attentions, **kwargs)
        return self.o_proj(attended.flatten(2)), weights


class CrossAttention(MultiHeadAttention):
    """`(1 or B, N, D), (B, M, K) or GridInputs -> (B, N, D), (B, h, N, M) or None`: latents attend to inputs.

    An array goes through transformers' attention interface: the general path. Inputs with positions in separable form
    take the separable path, which gives the same numbers, wherever weights can be read; others beside them go with
    them. Latents of batch 1 are the same for all samples, as the first cross-attend's are.

    A query from which masks hide everything has weights of 0 and a sum of values of 0, so `o_proj` makes its bias of
    it, on either path and with every attention implementation of transformers.
    """

    def __init__(
        self, config: PerceiverStudyConfig, q_dim: int, kv_dim: int, qk_channels: int, v_channels: int, num_heads: int
    ):
        super().__init__(config, q_dim, kv_dim, qk_channels, v_channels, num_heads)
        self.layernorm_inputs = nn.LayerNorm(kv_dim, eps=config.layer_norm_eps)

    def forward(
        self,
        latents: torch.Tensor,
        inputs: torch.Tensor | GridInputs | Sequence[GridInputs],
        attention_mask: torch.Tensor | None = None,
        output_attentions: bool = False,
        path: str = "auto",
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            inputs: a byte array, or one or several inputs whose points are attended to under one softmax.
            attention_mask: for a byte array `(B, M)`, True where attended, or `(1 or B, 1 or h, 1 or N, M)`, which may
                be numbers to add to logits, the lowest or -inf to hide; None attends everywhere. For one input on a
                grid `(B, M)`, instead of its own.
            path: one of `paths.PATHS`, for inputs on a grid.
        """
        query, empty = self.split_heads(self.q_proj(self.layernorm(latents))), None
        if isinstance(inputs, GridInputs):
            inputs = (inputs if attention_mask is None else inputs._replace(attention_mask=attention_mask.bool()),)
        if not isinstance(inputs, torch.Tensor):
            attention_mask = joint_mask(inputs)
        if attention_mask is not None:
            attention_mask, empty = open_empty_rows(attention_mask)
        if self._takes_separable_path(inputs, path):
            attended, weights = separable_attention(
                query, inputs, self.layernorm_inputs, self.k_proj, self.v_proj, self.dropout, output_attentions
            )
        else:
            if not isinstance(inputs, torch.Tensor):
                arrays = [byte_array(part).to(self.layernorm.weight.dtype) for part in inputs]
                inputs = torch.cat(arrays, dim=1) if len(arrays) > 1 else arrays[0]
            if attention_mask is not None and self._takes_made_masks(attention_mask):
                attention_mask = create_bidirectional_mask(
                    config=self.config,
                    inputs_embeds=latents,
                    attention_mask=attention_mask,
                    encoder_hidden_states=inputs,
                )
            elif attention_mask is not None and attention_mask.ndim == 2:
                attention_mask = attention_mask[:, None, None]
            attended, weights = self.attend(
                query, self.layernorm_inputs(inputs), attention_mask, output_attentions, **kwargs
            )
        weights = weights if output_attentions else None
        if empty is not None:
            attended = attended.masked_fill(empty.transpose(1, 2), 0.0)
            weights = None if weights is None else weights.masked_fill(empty, 0.0)
        return self.o_proj(attended.flatten(2).to(query.dtype)), weights

    def _takes_made_masks(self, attention_mask: torch.Tensor) -> bool:
        """Whether transformers makes the mask that an implementation takes.

        It drops one where none is chosen, as in a module of no model, and asks for its values, of which a transform and
        the meta device have none.
        """
        return self.config._attn_implementation is not None and not (is_transformed() or attention_mask.is_meta)

    def _takes_separable_path(self, inputs: torch.Tensor | Sequence[GridInputs], path: str) -> bool:
        if not isinstance(inputs, torch.Tensor) and any(is_separable(part) for part in inputs):
            layers = {"layernorm_inputs": self.layernorm_inputs, "k_proj": self.k_proj, "v_proj": self.v_proj}
            return takes_separable_path(path, **layers)
        if path == "separable":
            raise ValueError(
                "cross_attend_path='separable' is for positions in separable form: expected 'auto' or 'general' for a "
                "byte array, which all inputs but grids with Fourier positions end in."
            )
        return False


class PerceiverStudyMLP(nn.Module):
    """`(B, N, D) -> (B, N, D)`, each latent by itself."""

    def __init__(self, dim: int, widening_factor: int, hidden_act: str):
        super().__init__()
        self.fc1 = nn.Linear(dim, widening_factor * dim)
        self.activation = ACT2FN[hidden_act]
        self.fc2 = nn.Linear(widening_factor * dim, dim)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(latents)))


class PerceiverStudyLayer(GradientCheckpointingLayer):
    """`(B, N, D), what the attention takes -> (B, N, D)`: attention, then MLP, each after a LayerNorm (as in GPT-2).

    Gradient checkpointing sees only tensors that are arguments. So what the attention takes beside latents comes as
    arguments one by one, and `join` makes of them what it takes: nothing, an array, or inputs on grids.

    Args:
        attention: a `SelfAttention` or `CrossAttention` whose result has `dim` channels.
        use_query_residual: add the latents to what the attention returns; the MLP always has its residual.
    """

    def __init__(
        self,
        config: PerceiverStudyConfig,
        attention: MultiHeadAttention,
        dim: int,
        widening_factor: int,
        use_query_residual: bool = True,
    ):
        super().__init__()
        self.attention = attention
        self.use_query_residual = use_query_residual
        self.layernorm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.mlp = PerceiverStudyMLP(dim, widening_factor, config.hidden_act)

    def forward(self, latents: torch.Tensor, *inputs, join: Callable | None = None, **kwargs) -> torch.Tensor:
        inputs = inputs if join is None else (join(*inputs),)
        attended, _ = self.attention(latents, *inputs, **kwargs)
        latents = latents + attended if self.use_query_residual else attended
        return latents + self.mlp(self.layernorm(latents))
