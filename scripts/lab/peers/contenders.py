"""The models that the benchmark compares: the same work, by this repository and by others."""

import dataclasses
from collections.abc import Callable
from types import ModuleType

import torch
from torch import nn
from transformers import PerceiverConfig
from transformers.models.perceiver import modeling_perceiver as theirs

from lab.errors import UserError
from lab.peers.deepmind import their_name
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyForImageClassification
from modeling_perceiver_study.inputs import input_adapter
from modeling_perceiver_study.position import byte_array

OURS, GENERAL = "this repository", "its general path"


@dataclasses.dataclass(frozen=True)
class Case:
    """One size of a Perceiver and of its input.

    Attributes:
        part: `"model"` from pixels to logits, or `"cross-attend"` from pixels to latents, without an MLP.
    """

    name: str
    part: str
    image_size: int
    batch: int
    num_latents: int
    d_latents: int
    num_cross_attends: int = 1
    num_blocks: int = 1
    num_self_attends_per_block: int = 4
    widening_factor: int = 1
    num_frequency_bands: int = 64
    num_labels: int = 10

    def config(self) -> PerceiverStudyConfig:
        """Return a configuration with an output query as in transformers' Perceiver, so that all its weights fit."""
        return PerceiverStudyConfig(
            image_size=self.image_size,
            num_latents=self.num_latents,
            d_latents=self.d_latents,
            num_cross_attends=self.num_cross_attends,
            num_blocks=self.num_blocks,
            num_self_attends_per_block=self.num_self_attends_per_block,
            self_attention_widening_factor=self.widening_factor,
            cross_attention_widening_factor=self.widening_factor,
            num_frequency_bands=self.num_frequency_bands,
            num_labels=self.num_labels,
            decoder_type="query",
        )


class Ours(nn.Module):
    """`(B, 3, S, S) -> logits or latents`, on the separable path or, given the byte array, on the general path."""

    def __init__(self, case: Case, general_path: bool = False):
        super().__init__()
        self.case, self.general_path = case, general_path
        model = PerceiverStudyForImageClassification(case.config())
        if case.part == "model":
            self.model = model
        else:
            self.inputs, self.latents = input_adapter(model.config), model.perceiver.latents
            self.attention = model.perceiver.cross_attends[0].attention
        self.fourier_features = model.perceiver.inputs.fourier_features

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        inputs = {"pixel_values": pixels, "cross_attend_path": "separable"}
        if self.general_path:
            features = self.fourier_features(list(pixels.shape[2:]), torch.float32, pixels.device)
            inputs = {"inputs": byte_array(pixels, features)}
        if self.case.part == "model":
            return self.model(**inputs).logits
        if self.general_path:
            return self.attention(self.latents(), inputs["inputs"])[0]
        return self.attention(self.latents(), self.inputs(pixels, None, None, torch.float32), path="separable")[0]


class Transformers(nn.Module):
    """The modules of `PerceiverForImageClassificationFourier`, which has 224 × 224 built in, for any size of images."""

    def __init__(self, case: Case):
        super().__init__()
        self.case = case
        config = PerceiverConfig(
            num_latents=case.num_latents,
            d_latents=case.d_latents,
            num_blocks=case.num_blocks,
            num_self_attends_per_block=case.num_self_attends_per_block,
            num_self_attention_heads=8,
            num_cross_attention_heads=1,
            self_attention_widening_factor=case.widening_factor,
            cross_attention_widening_factor=case.widening_factor,
            attention_probs_dropout_prob=0.0,
            num_labels=case.num_labels,
        )
        fourier = {
            "concat_pos": True,
            "max_resolution": (case.image_size, case.image_size),
            "num_bands": case.num_frequency_bands,
            "sine_only": False,
        }
        self.perceiver = theirs.PerceiverModel(
            config,
            input_preprocessor=theirs.PerceiverImagePreprocessor(
                config, prep_type="pixels", spatial_downsample=1, fourier_position_encoding_kwargs=fourier
            ),
            decoder=theirs.PerceiverClassificationDecoder(
                config,
                num_channels=case.d_latents,
                trainable_position_encoding_kwargs={"num_channels": case.d_latents, "index_dims": 1},
                use_query_residual=True,
            ),
        )

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if self.case.part == "model":
            return self.perceiver(pixels).logits
        inputs, _, _ = self.perceiver.input_preprocessor(pixels)
        latents = self.perceiver.embeddings(batch_size=len(pixels))
        return self.perceiver.encoder.cross_attention.attention(latents, inputs=inputs)[0]


def perceiver_pytorch() -> ModuleType:
    """The module of perceiver-pytorch, which only comparisons need.

    Raises:
        UserError: it is not installed.
    """
    try:
        import perceiver_pytorch.perceiver_pytorch as found
    except ModuleNotFoundError as error:
        raise UserError(f"{error}: pip install perceiver-pytorch, or name other contenders") from None
    return found


def widen_mlps(model: nn.Module, of_cross_attends: int, of_self_attends: int) -> nn.Module:
    """Give a Perceiver of perceiver-pytorch MLPs of other widening factors than 4, which it has for all.

    They are gated, with half as many weights again as those of the same factor here.
    """
    mlp = perceiver_pytorch().FeedForward
    for block in {*model.layers}:  # which may be shared
        block.cross_ff.fn = mlp(block.cross_ff.norm.normalized_shape[0], mult=of_cross_attends)
        for _, layer in block.self_attns:
            layer.fn = mlp(layer.norm.normalized_shape[0], mult=of_self_attends)
    return model


class PerceiverPytorch(nn.Module):
    """perceiver-pytorch with layers of the same widths; its MLPs are gated, so weights cannot be copied."""

    def __init__(self, case: Case):
        super().__init__()
        model = perceiver_pytorch().Perceiver(
            num_freq_bands=case.num_frequency_bands,
            depth=case.num_blocks,
            max_freq=case.image_size,
            num_latents=case.num_latents,
            latent_dim=case.d_latents,
            cross_heads=1,
            latent_heads=8,
            cross_dim_head=case.config().num_input_channels,
            latent_dim_head=case.d_latents // 8,
            num_classes=case.num_labels,
            weight_tie_layers=True,
            self_per_cross_attn=case.num_self_attends_per_block,
        )
        self.model = widen_mlps(model, case.widening_factor, case.widening_factor)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model(pixels.permute(0, 2, 3, 1))


def contenders(case: Case) -> dict[str, Callable[[], nn.Module]]:
    """Return functions that build the contenders for a case, by name, ours first."""
    found = {OURS: lambda: Ours(case), GENERAL: lambda: Ours(case, general_path=True)}
    if case.num_cross_attends == 1:  # transformers has no other number
        found["transformers"] = lambda: Transformers(case)
    if case.part == "model" and case.num_cross_attends == case.num_blocks:  # perceiver-pytorch has no other number
        found["perceiver-pytorch"] = lambda: PerceiverPytorch(case)
    return found


def copy_weights(ours: Ours, transformers: Transformers):
    """Copy the weights of transformers' contender into ours."""
    state, own = transformers.state_dict(), ours.model.state_dict()
    ours.model.load_state_dict({name: state[their_name(name)].view_as(tensor) for name, tensor in own.items()})
