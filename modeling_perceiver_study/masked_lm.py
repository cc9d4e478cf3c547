"""From latents to the bytes that stand at positions of a text, as in Perceiver IO's masked language model."""

import torch
from torch import nn

from .byte_start import start_queries_locally
from .configuration_perceiver_study import PerceiverStudyConfig
from .decoder import PerceiverStudyDecoder, PerceiverStudyLatents
from .labels import NO_LABEL
from .paths import has_values

# As in transformers' PerceiverForMaskedLM, whatever the size of the model.
_HEADS, _QK_CHANNELS = 8, 256


class MaskedLMDecoder(nn.Module):
    """`(B, N, D) -> (B, M, vocab_size)`: a query for each position, and embeddings of bytes to compare answers with.

    Queries have the width of an element. Those of positions are learned, and not added to what the attention returns;
    elements of the input, where they are the queries, are.
    """

    def __init__(self, config: PerceiverStudyConfig):
        super().__init__()
        if config.d_model % _HEADS:
            raise ValueError(f"d_model={config.d_model}: expected a multiple of {_HEADS}, the heads of the decoder.")
        self.asks_positions = config.masked_lm_queries == "positions"
        query = PerceiverStudyLatents(config.max_position_embeddings, config.d_model) if self.asks_positions else None
        self.positions = PerceiverStudyDecoder(
            config,
            query,
            query_width=config.d_model,
            num_heads=_HEADS,
            use_query_residual=not self.asks_positions,
            qk_channels=_QK_CHANNELS,
            v_channels=config.d_model,
        )
        if config.local_start_reach is not None and self.asks_positions:
            start_queries_locally(config, query, self.positions.layer.attention, _HEADS)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(
        self,
        latents: torch.Tensor,
        embeddings: torch.Tensor,
        elements: torch.Tensor | None,
        length: int,
        output_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            embeddings: `(vocab_size, d_model)`, of ids, as the input has them.
            elements: `(B, M, d_model)`, of the input, where they are the queries.
            length: `M`, how many positions there are.
            output_positions: `(B, O)`, which of them to answer for each sample; None is all.
        """
        if output_positions is not None:
            self._check(output_positions, latents.shape[0], length)
        if elements is not None:
            queries = elements
            if output_positions is not None:
                queries = elements.gather(1, output_positions[..., None].expand(-1, -1, elements.shape[-1]))
            answers = self.positions(latents, output_queries=queries)
        elif output_positions is None:
            answers = self.positions(latents, output_query_indices=torch.arange(length, device=latents.device))
        else:
            queries = self.positions.query(output_positions.flatten())[0].unflatten(0, output_positions.shape)
            answers = self.positions(latents, output_queries=queries)
        return answers @ embeddings.T + self.bias

    def _check(self, output_positions: torch.Tensor, batch: int, length: int):
        shape = tuple(output_positions.shape)
        if len(shape) != 2 or shape[0] != batch or shape[1] == 0 or output_positions.dtype != torch.int64:
            raise ValueError(
                f"output_positions have shape {shape} and dtype {output_positions.dtype}: expected ({batch}, "
                "positions) with at least one, and torch.int64."
            )
        if has_values(output_positions):
            lowest, highest = (int(bound) for bound in output_positions.aminmax())
            if lowest < 0 or highest >= length:
                raise ValueError(
                    f"output_positions hold numbers from {lowest} to {highest}: expected 0 to {length - 1}, as the "
                    f"text has {length} bytes."
                )

    def resize(self, count: int):
        """Answer with `count` ids; of new ones nothing is known."""
        if count == len(self.bias):  # an optimiser has it perhaps
            return
        old = self.bias.detach()
        bias = old.new_zeros(count)
        bias[: len(old)] = old[:count]
        self.bias = nn.Parameter(bias, requires_grad=self.bias.requires_grad)


def labelled_positions(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`(B, M) -> (B, O), (B, O)`: positions that have a label, in order, and their labels.

    `O` is how many the sample with most of them has, at least 1; others are filled up with positions without a label.
    """
    shown = labels.long() != NO_LABEL  # as torch takes 156 in uint8 for -100
    most = max(1, int(shown.sum(dim=1).max()))
    positions = shown.long().argsort(dim=1, descending=True, stable=True)[:, :most].sort(dim=1).values
    return positions, labels.gather(1, positions)
