"""Bytes, or any other ids of a small vocabulary: an embedding plus learned positions, as in Perceiver IO.

A byte alone says little, and which bytes stand beside each other is hard to learn for latents that see all of them as a
set. With `ngram_sizes` each byte brings along embeddings of the runs of bytes that end or begin with it, from one table
into which runs are hashed, so that there need be no list of them.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from .inputs import InputAdapter, check_given, check_needed_mask, register_input_adapter
from .paths import has_values
from .separable import GridInputs, array_inputs

if TYPE_CHECKING:
    from .configuration_perceiver_study import PerceiverStudyConfig


# Of the hash of a run: any two large primes, whose product fits into 63 bits.
_FACTOR, _MODULUS = 1_000_003, 2_147_483_647


class BytesAdapter(InputAdapter):
    """`(B, M) -> (B, M, d_model)`: as transformers' `PerceiverTextPreprocessor`, but for runs. The mask is `(B, M)`."""

    input_name = "input_ids"
    config_fields = ("vocab_size", "max_position_embeddings", "d_model", "ngram_sizes", "ngram_vocab_size")
    supports_local_start = True
    masks_elements = True

    def __init__(self, config: "PerceiverStudyConfig"):
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.d_model)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.ngram_embeddings = nn.Embedding(config.ngram_vocab_size, config.d_model) if config.ngram_sizes else None

    @classmethod
    def num_local_axes(cls, config: "PerceiverStudyConfig") -> int:
        return 1

    @classmethod
    def width_of(cls, config: "PerceiverStudyConfig") -> int:
        return config.d_model

    @property
    def tables(self) -> tuple[nn.Embedding, list[nn.Embedding]]:
        """Embeddings of positions, and of what stands there."""
        contents = [self.embeddings, self.ngram_embeddings]
        return self.position_embeddings, [table for table in contents if table is not None]

    def length(self, input_ids: torch.Tensor) -> int:
        return input_ids.shape[1]

    def forward(
        self, input_ids: torch.Tensor | None, dtype: torch.dtype, attention_mask: torch.Tensor | None = None
    ) -> GridInputs:
        (name,) = self.arguments
        check_given(name, input_ids)
        most, vocabulary = self.position_embeddings.num_embeddings, self.embeddings.num_embeddings
        if input_ids.ndim != 2 or not 1 <= input_ids.shape[1] <= most:
            raise ValueError(
                f"{name} have shape {tuple(input_ids.shape)}: expected (batch, length) with a length of 1 to "
                f"max_position_embeddings={most}. Cut longer ones, as a tokenizer does with truncation=True."
            )
        if input_ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} have dtype {input_ids.dtype}: expected torch.int64 or torch.int32.")
        if has_values(input_ids) and input_ids.numel():
            lowest, highest = (int(bound) for bound in input_ids.aminmax())
            if lowest < 0 or highest >= vocabulary:
                raise ValueError(
                    f"{name} hold ids from {lowest} to {highest}: expected 0 to {vocabulary - 1}, as "
                    f"vocab_size={vocabulary}."
                )
        mask = check_needed_mask(attention_mask, input_ids.shape)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        array = self.embeddings(input_ids) + self.position_embeddings(positions)
        if self.ngram_embeddings is not None:
            shown = input_ids if mask is None else input_ids.masked_fill(~mask, 0)
            for size in self.config.ngram_sizes:
                array = array + self.ngram_embeddings(_rows_of_runs(shown, size, self.config.ngram_vocab_size))
        return array_inputs(array.to(dtype), mask)


def _rows_of_runs(input_ids: torch.Tensor, size: int, count: int) -> torch.Tensor:
    """`(B, M) -> (B, M)`: for each byte the row, below `count`, of the run of `size` bytes that ends with it.

    Of the run that begins with it where `size` is negative. Outside of the text there are zeros, the id of padding.
    """
    ids = input_ids.long()
    length, beside = ids.shape[1], ids.new_zeros(ids.shape[0], abs(size) - 1)
    ids = torch.cat([beside, ids] if size > 0 else [ids, beside], dim=1)
    key = torch.full_like(input_ids, size % _FACTOR, dtype=torch.long)  # so that runs of different sizes differ
    for first in range(abs(size)):
        key = (key * _FACTOR + ids[:, first : first + length] + 1) % _MODULUS
    return key % count


class ResizableVocabulary:
    """What a model of bytes has beside transformers' methods, to which the latents are the input embeddings."""

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        """Let bytes have other ids, as transformers' method of this name does: those that stay keep their embeddings.

        Returns:
            The embedding of ids, the same one where no number is given.

        Raises:
            ValueError: bytes are not among the inputs, or several times.
        """
        inputs = self.base_model.inputs
        found = {name: module for name, module in inputs.named_modules() if isinstance(module, BytesAdapter)}
        if len(found) != 1:
            raise ValueError(
                f"resize_token_embeddings with {len(found) or 'no'} vocabularies in the model: expected a single input "
                "of input_type='bytes'. Of others, say vocab_size in the config of a new model."
            )
        ((path, adapter),) = found.items()
        learns = adapter.embeddings.weight.requires_grad
        adapter.embeddings = self._get_resized_embeddings(
            adapter.embeddings, new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        adapter.embeddings.requires_grad_(learns)
        adapter.config.vocab_size = adapter.embeddings.num_embeddings
        modalities = self.config.modalities
        if modalities is not None:  # the adapter's config is made of these fields
            name = path.rpartition(".")[2]
            fields = modalities[name] | {"vocab_size": adapter.embeddings.num_embeddings}
            self.config.modalities = modalities | {name: fields}
        return adapter.embeddings


register_input_adapter("bytes", BytesAdapter)
