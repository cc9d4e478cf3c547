"""Output queries and the decoder that answers them (Perceiver IO, section 3.2).

A query asks the latents for one output: a class, a pixel, a byte. Queries do not see each other, so any subset of them
may be asked, and many are asked some at a time: memory then does not grow with their number, in training neither.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from .attention import CrossAttention, PerceiverStudyLayer
from .configuration_perceiver_study import PerceiverStudyConfig
from .inputs import LearnedPadding, draw_apart, fresh_weight
from .paths import has_values, is_batched, keeps_nothing
from .position import count_axis_features, fourier_features, resolve_max_frequencies

# Queries of all samples that are decoded at a time.
_CHUNK = 2**12


class PerceiverStudyLatents(nn.Module):
    """`() -> (1, N, D)`, or of some rows `(O,) -> (1, O, D)`: a learned array, of latents or of output queries."""

    def __init__(self, num_latents: int, d_latents: int):
        super().__init__()
        self.weight = fresh_weight(num_latents, d_latents)

    @property
    def num_queries(self) -> int:
        return self.weight.shape[0]

    @property
    def width(self) -> int:
        return self.weight.shape[1]

    def forward(self, indices: torch.Tensor | None = None, dtype: torch.dtype | None = None) -> torch.Tensor:
        rows = self.weight if indices is None else self.weight[indices]
        return rows[None].to(dtype or rows.dtype)


class FourierQueries(nn.Module):
    """`() -> (1, O, P)`, or of some points `(O,) -> (1, O, P)`: Fourier features of the points of an output grid.

    They are made when asked for, in row-major order of the grid, whose coordinates span [-1, 1].

    Args:
        grid: points along each axis.
        max_frequencies: as in the config; None takes the Nyquist frequencies of `grid`.
        projected_width: width of a learned linear map of the features, or None.
    """

    def __init__(
        self,
        grid: Sequence[int],
        num_frequency_bands: int,
        max_frequencies: float | Sequence[float] | None = None,
        concat_positions: bool = True,
        projected_width: int | None = None,
    ):
        super().__init__()
        self.grid = list(grid)
        self.num_frequency_bands = num_frequency_bands
        self.max_frequencies = resolve_max_frequencies(max_frequencies, self.grid)
        self.concat_positions = concat_positions
        width = len(self.grid) * count_axis_features(num_frequency_bands, concat_positions)
        self.projection = None if projected_width is None else nn.Linear(width, projected_width)
        self.width = projected_width or width

    @property
    def num_queries(self) -> int:
        return math.prod(self.grid)

    def forward(self, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        exact = torch.promote_types(torch.float32, dtype)
        coordinates, rest = [], indices
        for size in reversed(self.grid):
            coordinates.insert(0, (rest % size).to(exact) * (2 / max(size - 1, 1)) - 1)
            rest = rest // size
        places = torch.stack(coordinates, dim=-1)
        features = fourier_features(places, self.num_frequency_bands, self.max_frequencies, self.concat_positions)
        features = features.to(dtype)
        return (features if self.projection is None else self.projection(features))[None]


class PaddedQueries(nn.Module):
    """`() -> (1, O, Q)`, or of some `(O,) -> (1, O, Q)`: queries with learned channels that bring them to a width.

    They bring several groups of queries to one width, and say which group one is of.
    """

    def __init__(self, query: nn.Module, width: int):
        super().__init__()
        self.query, self.width = query, width
        self.padding = LearnedPadding(width - query.width)

    @property
    def num_queries(self) -> int:
        return self.query.num_queries

    def forward(self, indices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        queries = self.query(indices, dtype)
        padding = self.padding().to(dtype).expand(*queries.shape[:2], -1)
        return torch.cat([queries, padding], dim=-1)


class _SomeAtATime(torch.autograd.Function):
    """`answer(indices, latents, output_queries) -> (B, O, ..)`, computed for some indices at a time, twice.

    Backward computes the answers of some queries again, and then their gradients: nothing of them is kept in between.
    `torch.utils.checkpoint` would keep small things of each chunk, between which an allocator leaves holes of the size
    of the large ones. Gradients that have gradients themselves, and many at once, take a graph of all chunks.

    Args:
        answer: draws random numbers from torch's generators alone, and learns from nothing but `weights`.
        chunks: indices, `(O,)`, in pieces.
    """

    @staticmethod
    def forward(ctx, answer, chunks, latents, output_queries, *weights):
        kind = latents.device.type
        ctx.answer, ctx.chunks, ctx.weights = answer, chunks, weights
        ctx.autocast = None
        if torch.amp.is_autocast_available(kind):
            ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.generators = _generators(latents.device)
        ctx.states = [generator.get_state() for generator in ctx.generators]
        ctx.save_for_backward(latents, output_queries)
        answers, first = None, 0
        # Before torch 2.11 weights that autocast keeps from here would have no gradient where they are used again.
        with _autocast(ctx, cache_enabled=False):
            for some in chunks:
                part = answer(some, latents, output_queries)
                if answers is None:
                    answers = part.new_empty(part.shape[0], sum(map(len, chunks)), *part.shape[2:])
                answers[:, first : first + len(some)] = part
                first += len(some)
        return answers

    @staticmethod
    def backward(ctx, grad_answers):
        now = [generator.get_state() for generator in ctx.generators]
        for generator, state in zip(ctx.generators, ctx.states, strict=True):
            generator.set_state(state)
        with_graph = torch.is_grad_enabled() or is_batched(grad_answers)
        grads = (_grads_with_a_graph if with_graph else _SomeAtATime._grads)(ctx, grad_answers)
        for generator, state in zip(ctx.generators, now, strict=True):
            generator.set_state(state)
        return None, None, *grads

    @staticmethod
    def _grads(ctx, grad_answers):
        latents, output_queries = (part if part is None else part.detach() for part in ctx.saved_tensors)
        needs_latents, needs_queries, *needs_weights = ctx.needs_input_grad[2:]
        weights = [weight for weight, need in zip(ctx.weights, needs_weights, strict=True) if need]
        shared = [latents.requires_grad_(), *weights] if needs_latents else weights
        totals = [torch.zeros_like(value) for value in shared]
        grad_queries = torch.zeros_like(output_queries) if needs_queries else None
        for some, grad in zip(ctx.chunks, grad_answers.split([len(some) for some in ctx.chunks], dim=1), strict=True):
            indices, rows = some, None
            if output_queries is not None:  # the rows alone, so that their gradient has their size
                indices, rows = torch.arange(len(some), device=some.device), output_queries[:, some]
            leaves = [*shared, rows.requires_grad_()] if needs_queries else shared
            with torch.enable_grad(), _autocast(ctx):
                part = ctx.answer(indices, latents, rows)
            found = torch.autograd.grad(part, leaves, grad, allow_unused=True)
            for total, more in zip(totals, found, strict=False):
                if more is not None:
                    total.add_(more)
            if needs_queries:
                grad_queries.index_add_(1, some, found[-1])
        totals = iter(totals)
        grad_latents = next(totals) if needs_latents else None
        return grad_latents, grad_queries, *(next(totals) if need else None for need in needs_weights)


def _grads_with_a_graph(ctx, grad_answers: torch.Tensor) -> list[torch.Tensor | None]:
    """Of latents, queries and weights, through the answers of all chunks at once."""
    create_graph, needed = torch.is_grad_enabled(), ctx.needs_input_grad[2:]
    with torch.enable_grad(), _autocast(ctx):
        latents, output_queries = (part if part is None else part.view_as(part) for part in ctx.saved_tensors)
        answers = torch.cat([ctx.answer(some, latents, output_queries) for some in ctx.chunks], dim=1)
    sources = [one for one, need in zip((latents, output_queries, *ctx.weights), needed, strict=True) if need]
    found = torch.autograd.grad(answers, sources, grad_answers, create_graph=create_graph, allow_unused=True)
    found = iter(found)
    return [next(found) if need else None for need in needed]


def _autocast(ctx, **settings):
    return nullcontext() if ctx.autocast is None else torch.autocast(*ctx.autocast, **settings)


def _weights_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """All weights; copies of a module on several devices (`DataParallel`) have tensors in place of parameters."""
    for part in module.modules():
        yield from part.parameters(recurse=False)
        yield from getattr(part, "_former_parameters", {}).values()


def _generators(device: torch.device) -> list[torch.Generator]:
    """torch's own, of the CPU and of the device."""
    if device.type != "cuda":
        return [torch.default_generator]
    return [torch.default_generator, torch.cuda.default_generators[device.index]]


class _Given:
    """A module as an argument: accelerate's hooks move all that can be moved, and it has a place of its own."""

    def __init__(self, module: nn.Module):
        self.module = module


class PerceiverStudyDecoder(nn.Module):
    """`(B, N, D) -> (B, O, Q)`, or what a head makes of it: output queries attend to the latents.

    By default one head and an MLP as wide as the queries, as in transformers' decoders.

    Args:
        query: module that makes queries: `PerceiverStudyLatents`, `FourierQueries`, `PaddedQueries`, or any with
            `num_queries`, `width` and `forward(indices, dtype) -> (1, O, Q)`. None leaves them to the call.
        query_width: `Q`, where `query` is None.
        num_heads: heads of the attention.
        widening_factor: hidden width of the MLP, in units of `Q`.
        use_query_residual: add the queries to what the attention returns.
        qk_channels: width of queries and keys over all heads; None is `D`.
        v_channels: width of values over all heads; None is that of queries and keys.
        dropout: probability with which a channel of an answer is dropped in training, in [0, 1).
    """

    def __init__(
        self,
        config: PerceiverStudyConfig,
        query: nn.Module | None = None,
        query_width: int | None = None,
        num_heads: int = 1,
        widening_factor: int = 1,
        use_query_residual: bool = True,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.query = query
        self.width = query_width if query is None else query.width
        qk_channels = qk_channels or config.d_latents
        v_channels = v_channels or qk_channels
        if qk_channels % num_heads or v_channels % num_heads:
            raise ValueError(
                f"num_heads={num_heads} of a decoder: expected a divisor of {qk_channels} and of {v_channels}, the "
                "widths of queries and keys and of values."
            )
        attention = CrossAttention(config, self.width, config.d_latents, qk_channels, v_channels, num_heads)
        self.layer = PerceiverStudyLayer(config, attention, self.width, widening_factor, use_query_residual)
        self.dropout = nn.Dropout(dropout)

    def __call__(self, *arguments, **kwargs):
        kwargs = {name: _Given(value) if isinstance(value, nn.Module) else value for name, value in kwargs.items()}
        return super().__call__(*arguments, **kwargs)

    def forward(
        self,
        latents: torch.Tensor,
        output_queries: torch.Tensor | None = None,
        output_query_indices: torch.Tensor | None = None,
        query: nn.Module | None = None,
        head: nn.Module | None = None,
        chunk_size: int = _CHUNK,
    ) -> torch.Tensor:
        """
        Args:
            output_queries: `(1 or B, O, Q)`, instead of the decoder's own.
            output_query_indices: `(O,)`, which queries to answer, in this order; None is all.
            query: makes queries instead of the decoder's own.
            head: applied to the answers, some at a time: `(B, O, Q) -> (B, O, ..)`.
            chunk_size: most queries, of all samples together, to answer at a time. Programs answer all at once.

        Raises:
            ValueError: queries or indices do not fit, or there are none.
        """
        query, head = (part.module if isinstance(part, _Given) else part for part in (query, head))
        query = query or self.query
        count = self._check(latents, query, output_queries, output_query_indices)
        answer = partial(self._answer, query, head)
        if output_query_indices is None:
            indices = torch.arange(count, device=latents.device)
        else:
            indices = output_query_indices.long()  # of bytes torch would make a mask
        size = max(1, chunk_size // max(1, latents.shape[0]))
        if keeps_nothing() or len(indices) <= size:
            return answer(indices, latents, output_queries)
        modules = [self, *(module for module in (query, head) if module is not None)]
        weights = dict.fromkeys(weight for module in modules for weight in _weights_of(module))
        answer = partial(self._answer_unchecked, answer)
        return _SomeAtATime.apply(answer, indices.split(size), latents, output_queries, *weights)

    def _answer_unchecked(self, answer: Callable[..., torch.Tensor], *arguments) -> torch.Tensor:
        """Without gradient checkpointing, as each chunk is computed again for its gradients already."""
        checkpointing, self.layer.gradient_checkpointing = self.layer.gradient_checkpointing, False
        try:
            return answer(*arguments)
        finally:
            self.layer.gradient_checkpointing = checkpointing

    def _answer(
        self,
        query: nn.Module | None,
        head: nn.Module | None,
        indices: torch.Tensor,
        latents: torch.Tensor,
        output_queries: torch.Tensor | None,
    ) -> torch.Tensor:
        if output_queries is None:
            queries = query(indices, latents.dtype)
        else:
            queries = output_queries[:, indices].to(latents.dtype)
        answers = self.dropout(self.layer(queries, latents))
        return answers if head is None else head(answers)

    def _check(
        self,
        latents: torch.Tensor,
        query: nn.Module | None,
        output_queries: torch.Tensor | None,
        indices: torch.Tensor | None,
    ) -> int:
        """How many queries there are to choose from."""
        if output_queries is None:
            if query is None:
                raise ValueError(f"output_queries are missing: expected (1 or batch, queries, {self.width}).")
            count = query.num_queries
        else:
            shape, batch = tuple(output_queries.shape), latents.shape[0]
            if len(shape) != 3 or shape[0] not in (1, batch) or shape[1] == 0 or shape[2] != self.width:
                raise ValueError(
                    f"output_queries have shape {shape}: expected (1 or {batch}, queries, {self.width}) with at least "
                    "one query."
                )
            count = shape[1]
        if indices is not None:
            if indices.ndim != 1 or len(indices) == 0 or indices.is_floating_point() or indices.dtype == torch.bool:
                raise ValueError(
                    f"output_query_indices have shape {tuple(indices.shape)} and dtype {indices.dtype}: expected "
                    "(queries,) with at least one and an integer dtype."
                )
            if has_values(indices) and (int(indices.min()) < 0 or int(indices.max()) >= count):
                raise ValueError(
                    f"output_query_indices hold numbers from {int(indices.min())} to {int(indices.max())}: expected 0 "
                    f"to {count - 1}."
                )
        return count


class PerceiverStudyOutputs(nn.Module):
    """`(B, N, D) -> {task: (B, O of the task, labels of the task)}`: several tasks at once, each with a head.

    Each task has queries of its own, brought to one width by learned padding (transformers'
    `PerceiverMultimodalDecoder`), and one layer answers all.

    Args:
        queries: by task, as `PerceiverStudyDecoder` takes them.
        num_labels: by task, channels of its answers.
        min_padding: learned channels that the widest queries get.
        decoder_arguments: see `PerceiverStudyDecoder`.
    """

    def __init__(
        self,
        config: PerceiverStudyConfig,
        queries: dict[str, nn.Module],
        num_labels: dict[str, int],
        min_padding: int = 2,
        **decoder_arguments,
    ):
        super().__init__()
        if not queries or queries.keys() != num_labels.keys():
            raise ValueError(
                f"queries of {list(queries)} and num_labels of {list(num_labels)}: expected both of the same tasks, at "
                "least one."
            )
        width = max(query.width for query in queries.values()) + min_padding
        self.queries = nn.ModuleDict({task: PaddedQueries(query, width) for task, query in sorted(queries.items())})
        self.decoder = PerceiverStudyDecoder(config, query_width=width, **decoder_arguments)
        self.heads = nn.ModuleDict({task: nn.Linear(width, num_labels[task]) for task in self.queries})
        draw_apart([query.padding for query in self.queries.values()])

    def forward(
        self,
        latents: torch.Tensor,
        tasks: Sequence[str] | None = None,
        output_query_indices: dict[str, torch.Tensor] | None = None,
        **decoder_arguments,
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            tasks: which to answer; None is all.
            output_query_indices: by task, `(O,)`, which of its queries to answer; of tasks left out, all.
            decoder_arguments: see `PerceiverStudyDecoder.forward`.
        """
        indices = output_query_indices or {}
        for task in (*(tasks or ()), *indices):
            if task not in self.queries:
                raise ValueError(f"There is no task {task!r}: expected some of {', '.join(map(repr, self.queries))}.")
        return {
            task: self.decoder(
                latents,
                query=self.queries[task],
                output_query_indices=indices.get(task),
                head=self.heads[task],
                **decoder_arguments,
            )
            for task in (self.queries if tasks is None else tasks)
        }
