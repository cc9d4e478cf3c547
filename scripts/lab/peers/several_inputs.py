"""Video beside sound, attended to by one cross-attend: by this repository, and as an array by others."""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import PerceiverConfig
from transformers.models.perceiver import modeling_perceiver as theirs

from lab.errors import UserError
from lab.peers.contenders import GENERAL, OURS, perceiver_pytorch
from lab.peers.deepmind import their_name
from modeling_perceiver_study import PerceiverStudyConfig, PerceiverStudyModel

TRANSFORMERS, PERCEIVER_PYTORCH = "transformers", "perceiver-pytorch"
CONTENDERS = (OURS, GENERAL, TRANSFORMERS, PERCEIVER_PYTORCH)
_COLOURS = 3


@dataclasses.dataclass(frozen=True)
class VideoWithSound:
    """One clip, and the cross-attend that looks at it.

    Attributes:
        patch: frames, rows and columns that become one element together.
        samples: of the sound.
        samples_per_patch: that become one element together.
        padding: learned channels of the widest modality.
    """

    frames: int
    patch: tuple[int, int, int] = (1, 1, 1)
    size: int = 224
    samples: int = 16_000
    samples_per_patch: int = 16
    num_latents: int = 512
    d_latents: int = 1024
    num_frequency_bands: int = 64
    padding: int = 4

    @property
    def name(self) -> str:
        return f"{self.frames} × {self.size} × {self.size}, patches of {' × '.join(map(str, self.patch))}"

    @property
    def grids(self) -> dict[str, list[int]]:
        """Elements along each axis, by modality."""
        shape = (self.frames, self.size, self.size)
        video = [points // step for points, step in zip(shape, self.patch, strict=True)]
        return {"sound": [self.samples // self.samples_per_patch], "video": video}

    @property
    def elements(self) -> int:
        return sum(map(math.prod, self.grids.values()))

    @property
    def array_megabytes(self) -> float:
        """Of the array of all elements, in float32."""
        return self.elements * self.config().num_input_channels * 4 / 2**20

    def config(self) -> PerceiverStudyConfig:
        sound = {"input_name": "input_values", "num_axes": 1, "num_channels": 1, "image_size": self.samples}
        video = {"num_axes": 3, "image_size": [self.frames, self.size, self.size], "channel_axis": 2}
        bands = {"num_frequency_bands": self.num_frequency_bands}
        return PerceiverStudyConfig(
            num_latents=self.num_latents,
            d_latents=self.d_latents,
            num_self_attends_per_block=0,
            modality_channels=self.padding,
            modalities={
                "sound": {**sound, "patch_size": self.samples_per_patch, **bands},
                "video": {**video, "patch_size": list(self.patch), **bands},
            },
        )

    def clip(self, device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
        """`(1, T, 3, S, S)` and `(1, L)`, random."""
        video = torch.randn(1, self.frames, _COLOURS, self.size, self.size, device=device)
        return video, torch.randn(1, self.samples, device=device)

    def tiny(self) -> "VideoWithSound":
        """A clip as small as it may be, for the same modules but for their frequencies."""
        return dataclasses.replace(self, frames=2 * self.patch[0], size=8, samples=4 * self.samples_per_patch)


class Ours(nn.Module):
    """`(1, T, 3, S, S), (1, L) -> (1, N, D)`, on the separable path or on the general one."""

    def __init__(self, case: VideoWithSound, path: str):
        super().__init__()
        self.path = path
        model = PerceiverStudyModel(case.config())
        self.inputs, self.latents, self.attention = model.inputs, model.latents, model.cross_attends[0].attention

    def forward(self, video: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        parts = self.inputs.parts({"pixel_values": video, "input_values": sound}, None, torch.float32)
        return self.attention(self.latents(), parts, path=self.path)[0]


def _their_preprocessor(case: VideoWithSound) -> theirs.PerceiverMultimodalPreprocessor:
    """What makes the array: all elements of both modalities, with positions, learned padding included."""
    fourier = {
        name: {
            "num_bands": case.num_frequency_bands,
            "max_resolution": tuple(grid),
            "concat_pos": True,
            "sine_only": False,
        }
        for name, grid in case.grids.items()
    }
    config = PerceiverConfig()
    video = theirs.PerceiverImagePreprocessor(
        config,
        prep_type="pixels" if math.prod(case.patch) == 1 else "patches",
        spatial_downsample=case.patch[-1],
        temporal_downsample=case.patch[0],
        fourier_position_encoding_kwargs=fourier["video"],
    )
    sound = theirs.PerceiverAudioPreprocessor(
        config, samples_per_patch=case.samples_per_patch, fourier_position_encoding_kwargs=fourier["sound"]
    )
    return theirs.PerceiverMultimodalPreprocessor({"sound": sound, "video": video}, min_padding_size=case.padding)


class Transformers(nn.Module):
    """transformers' cross-attend on the array that its `PerceiverMultimodalPreprocessor` makes."""

    def __init__(self, case: VideoWithSound):
        super().__init__()
        config = PerceiverConfig(
            num_latents=case.num_latents, d_latents=case.d_latents, attention_probs_dropout_prob=0.0
        )
        self.preprocessor = _their_preprocessor(case)
        self.embeddings = theirs.PerceiverEmbeddings(config)
        self.attention = theirs.PerceiverAttention(
            config,
            is_cross_attention=True,
            q_dim=case.d_latents,
            kv_dim=self.preprocessor.num_channels,
            use_query_residual=False,
        )

    def forward(self, video: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        array, _, _ = self.preprocessor({"video": video, "sound": sound[..., None]})
        return self.attention(self.embeddings(batch_size=1), inputs=array)[0]


class PerceiverPytorch(nn.Module):
    """perceiver-pytorch's cross-attend of the same widths on the same array, as it makes none of several inputs."""

    def __init__(self, case: VideoWithSound):
        super().__init__()
        self.preprocessor = _their_preprocessor(case)
        self.latents = nn.Parameter(torch.randn(case.num_latents, case.d_latents))
        width = self.preprocessor.num_channels
        attention = perceiver_pytorch().Attention(case.d_latents, width, heads=1, dim_head=width)
        self.attention = perceiver_pytorch().PreNorm(case.d_latents, attention, context_dim=width)

    def forward(self, video: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
        array, _, _ = self.preprocessor({"video": video, "sound": sound[..., None]})
        return self.attention(self.latents[None], context=array)


def build(name: str, case: VideoWithSound) -> nn.Module:
    """Return one of `CONTENDERS`."""
    builders: dict[str, Callable[[], nn.Module]] = {
        OURS: lambda: Ours(case, "separable"),
        GENERAL: lambda: Ours(case, "general"),
        TRANSFORMERS: lambda: Transformers(case),
        PERCEIVER_PYTORCH: lambda: PerceiverPytorch(case),
    }
    return builders[name]()


def agreement(case: VideoWithSound) -> float:
    """Return the largest difference of latents between ours and transformers' with the same weights, on a tiny clip.

    Raises:
        UserError: they differ by more than 1e-4, so they do not do the same work.
    """
    torch.manual_seed(0)
    case = case.tiny()
    their, clip = Transformers(case), case.clip("cpu")
    for parameter in their.parameters():
        if parameter.ndim > 1:  # with fresh weights attention is so uniform that wrong positions would go unnoticed
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    with torch.no_grad():
        expected, errors = their(*clip), []
        for path in ("separable", "general"):
            ours = Ours(case, path)
            _copy_weights(ours, their)
            errors.append((ours(*clip) - expected).abs().max().item())
    if max(errors) > 1e-4:
        raise UserError(f"with equal weights, latents differ by {max(errors):.1e} from transformers': expected 1e-4")
    return max(errors)


def _copy_weights(ours: Ours, their: Transformers):
    weights, prefix = their.attention.state_dict(), "perceiver.encoder.cross_attention.attention."
    names = {name: their_name(f"perceiver.cross_attends.0.attention.{name}") for name in ours.attention.state_dict()}
    ours.attention.load_state_dict({name: weights[other.removeprefix(prefix)] for name, other in names.items()})
    ours.latents.weight.data = their.embeddings.latents.data
    for name, padding in ours.inputs.padding.items():
        padding.weight.data = their.preprocessor.padding[name][0].data
