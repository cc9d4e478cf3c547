"""From latents to the bytes that stand at positions of a text, as in Perceiver IO's masked language model."""

import torch
from torch import nn

from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyDecoder, PerceiverStudyLatents
from .local_start import start_queries_locally
from .paths import has_values

# As in transformers' PerceiverForMaskedLM, whatever the size of the model.
_HEADS, _QK_CHANNELS = 8, 256
_NO_LABEL = -100


class MaskedLMDecoder(nn.Module):
    """`(B, N, D) -> (B, M, vocab_size)`: a learned query for each position, and embeddings of bytes to compare with.

    Queries have the width of an element and are not added to what the attention returns.
    """

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__()
        if config.d_model % _HEADS:
            raise ValueError(f"d_model={config.d_model}: expected a multiple of {_HEADS}, the heads of the decoder.")
        query = PerceiverStudyLatents(config.max_position_embeddings, config.d_model)
        self.positions = PerceiverStudyDecoder(
            config,
            query,
            num_heads=_HEADS,
            use_query_residual=False,
            qk_channels=_QK_CHANNELS,
            v_channels=config.d_model,
        )
        if config.local_start_reach is not None:
            start_queries_locally(config, query, self.positions.layer.attention, _HEADS)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        latents: torch.Tensor,
        embeddings: nn.Embedding,
        length: int,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            embeddings: of ids, as the input has them.
            length: `M`, how many positions there are.
            output_positions: `(B, O)`, which of them to answer for each sample; None is all.
        """

        def compare(answers: torch.Tensor) -> torch.Tensor:
            return answers @ embeddings.weight.T + self.bias

        if output_positions is None:
            indices = torch.arange(length, device=latents.device)
            return compare(self.positions(latents, output_query_indices=indices))
        shape = tuple(output_positions.shape)
        if len(shape) != 2 or shape[0] != latents.shape[0] or shape[1] == 0 or output_positions.is_floating_point():
            raise ValueError(
                f"output_positions have shape {shape} and dtype {output_positions.dtype}: expected "
                f"({latents.shape[0]}, positions) with at least one and an integer dtype."
            )
        if has_values(output_positions):
            lowest, highest = (int(bound) for bound in output_positions.aminmax())
            if lowest < 0 or highest >= length:
                raise ValueError(
                    f"output_positions hold numbers from {lowest} to {highest}: expected 0 to {length - 1}, as the "
                    f"text has {length} bytes."
                )
        queries = self.positions.query(output_positions.flatten())[0].unflatten(0, shape)
        return compare(self.positions(latents, output_queries=queries))

    def resize(self, count: int):
        """Answer with `count` ids; of new ones nothing is known."""
        old = self.bias.detach()
        bias = old.new_zeros(count)
        bias[: len(old)] = old[:count]
        if config.local_start_reach is not None:
            start_queries_locally(config, query, self.positions.layer.attention, _HEADS)
        self.bias = nn.Parameter(bias, requires_grad=self.bias.requires_grad)


def labelled_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, M) -> (B, O), (B, O)`: positions that have a label, and their labels.

    `O` is how many the sample with most of them has, at least 1; others are filled up with positions without a label.
    """
    shown = labels != _NO_LABEL
    most = max(1, int(shown.sum(dim=1).max()))
    positions = shown.long().argsort(dim=1, descending=True, stable=True)[:, :most]
    return positions, labels.gather(1, positions)
