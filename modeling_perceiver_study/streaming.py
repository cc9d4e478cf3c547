"""Softmax-weighted sums over a grid, some latents at a time: no map of all latents against all points is ever stored.

The points form `R` rows of `W` columns, and point `(r, w)` has channels `z = [x_rw, f_r, g_w] / s_rw`: its pixel, the
features of its row and of its column, over a standard deviation. With `u` what a latent asks of each channel, this is

    a_rw = softmax over all points of u . z_rw          sums = sum over all points of a_rw z_rw

A block holds all points for a few latents, so that an ordinary softmax sees whole rows of the map and one block, which
fits the caches, is all that exists of it. Backward computes the weights again: with `g` the gradient of the sums, the
gradient of a logit is `a_rw (g . z_rw - g . sums)`, and `g . z_rw` has the same form as the logit itself.

Several inputs under one softmax are attended to one by one: with `l` the logarithm of the sum of the exponentials of
the logits of an input, its share in the whole is the softmax of `l` over the inputs. To the gradient of a logit comes
`a_rw` times the gradient of `l`.
"""

import math
from collections.abc import Iterator

import torch
from transformers.utils.generic import maybe_autocast

from .paths import is_batched

# Elements of a map to work on at a time: what the caches of a CPU hold; elsewhere enough to keep a device busy.
_BLOCK_ELEMENTS = {"cpu": 3 * 2**18}
_BLOCK_ELEMENTS_ELSEWHERE = 2**26
# Rows of the map that a block has at least, whatever their length: threads of a CPU share a softmax out by rows.
_FEWEST_ROWS = 4
# A compiled loop is unrolled: few blocks, whatever their size.
_MOST_COMPILED_BLOCKS = 16

_Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class GridAttention(torch.autograd.Function):
    """Sums of pixels, row features and column features over the grid, weighted by attention.

    `Q` is the number of queries: latents, or heads times latents. A leading 1 stands for "the same for all samples":
        query_pixels `(1 or B, Q, C)`, query_rows `(1 or B, Q, F_r)`, query_columns `(1 or B, Q, F_w)`,
        pixels `(B, C, R, W)`, rows `(1 or B, R, F_r)`, columns `(1 or B, W, F_w)`, inverse_deviation `(B, R, W)`,
        attention_mask `(B, R, W)`, True where attended, or None; of a sample that shows nothing this is a mean
        returns_log_sum: whether to return also the logarithm of the sum of exponentials of logits, the lowest number
            where nothing is shown
        -> `(B, Q, C)`, `(B, Q, F_r)`, `(B, Q, F_w)`, and where `returns_log_sum` says so `(B, Q)`
    """

    @staticmethod
    def forward(
        ctx,
        query_pixels,
        query_rows,
        query_columns,
        pixels,
        rows,
        columns,
        inverse_deviation,
        attention_mask,
        returns_log_sum=False,
    ):
        queries, grid = (query_pixels, query_rows, query_columns), (pixels, rows, columns, inverse_deviation)
        sums = tuple(part.new_empty(pixels.shape[0], *part.shape[1:]) for part in queries)
        log_sums = (query_pixels.new_empty(sums[0].shape[:2]),) if returns_log_sum else ()
        memory = {}
        for samples, blocks in _blocks(query_pixels, pixels):
            points = _Points(grid, attention_mask, samples, memory)
            for block in blocks:
                weights = points.attend(_some(queries, samples, block))
                for of_all in log_sums:
                    of_all[samples, block] = points.log_sum(weights)
                for of_all, part in zip(sums, points.sum(weights), strict=True):
                    of_all[samples, block] = part
        ctx.save_for_backward(*queries, *grid, attention_mask, *sums)
        return sums + log_sums

    @staticmethod
    def backward(ctx, *grads):
        # As forward was computed, also where autocast is on around `backward()`.
        with maybe_autocast(grads[0].device.type, enabled=False):
            return GridAttention._grads(ctx, *grads)

    @staticmethod
    def _grads(ctx, *grads):
        if not torch.compiler.is_compiling() and (torch.is_grad_enabled() or any(map(is_batched, grads))):
            return *_grads_with_a_graph(ctx, grads), None, None  # create_graph=True, or many gradients at once
        saved = ctx.saved_tensors
        queries, grid, attention_mask, sums = saved[:3], saved[3:7], saved[7], saved[8:]
        grad_sums, grad_log_sums = grads[:3], grads[3:]
        offset = -sum((grad * part).sum(dim=-1, keepdim=True) for grad, part in zip(grad_sums, sums, strict=True))
        for grad in grad_log_sums:
            offset = offset + grad[..., None]
        grad_queries = [torch.zeros_like(part) for part in queries]
        grad_grid = [torch.zeros_like(part) for part in grid] if any(ctx.needs_input_grad[3:7]) else None
        memory = {}
        for samples, blocks in _blocks(queries[0], grid[0]):
            points = _Points(grid, attention_mask, samples, memory)
            for block in blocks:
                query, grad_output = _some(queries, samples, block), _some(grad_sums, samples, block)
                weights = points.attend(query)
                grad_logits = points.score(grad_output, offset[samples, block]).mul_(weights)
                if points.hidden is not None:
                    grad_logits.masked_fill_(points.hidden, 0.0)
                if grad_grid is not None:
                    points.add_grid_grads(grad_grid, (grad_logits, query), (weights, grad_output))
                for of_all, part in zip(grad_queries, points.sum(grad_logits), strict=True):
                    _add(of_all[:, block], samples, part)
        return *grad_queries, *(grad_grid or [None] * 4), None, None


class _Points:
    """The grid of `b` samples, and the memory that all of them share for their blocks of a map."""

    def __init__(self, grid, attention_mask: torch.Tensor | None, samples: slice, memory: dict[str, torch.Tensor]):
        pixels, rows, columns, inverse_deviation = grid
        self.samples, self.shape = samples, pixels.shape[-2:]
        self.pixels, self.rows, self.columns = pixels[samples].flatten(2), _of(rows, samples), _of(columns, samples)
        self.inverse_deviation = inverse_deviation[samples].flatten(1)[:, None]
        self.scaled_pixels = self.pixels * self.inverse_deviation
        self.hidden = None if attention_mask is None else ~attention_mask[samples].flatten(1)[:, None]
        self.memory = memory

    def score(self, queries: _Parts, offset: torch.Tensor | None = None) -> torch.Tensor:
        """`-> (b, q, M)`: `u . [x, f, g] / s + offset`, with an offset `(b, q, 1)` for all points.

        The result lives until the next call, as that of `attend` does.
        """
        batch, of_pixels, scaled = self.pixels.shape[0], queries[0], self.scaled_pixels
        if offset is not None:  # as one more channel, rather than in one more pass over the map
            of_pixels = torch.cat([of_pixels.expand(batch, -1, -1), offset], dim=-1)
            scaled = torch.cat([scaled, torch.ones_like(scaled[:, :1])], dim=1)
        of_pixels = of_pixels.expand(batch, -1, -1)
        memory = self._memory("scores", *of_pixels.shape[:2], scaled.shape[2])
        scores = torch.bmm(of_pixels, scaled, out=memory)
        return scores.addcmul_(self._of_positions(queries), self.inverse_deviation)

    def attend(self, queries: _Parts) -> torch.Tensor:
        """`-> (b, q, M)`: attention weights."""
        logits = self.score(queries)
        if self.hidden is not None:
            logits.masked_fill_(self.hidden, torch.finfo(logits.dtype).min)
        self.logits = logits
        return torch.softmax(logits, dim=-1, out=self._memory("weights", *logits.shape))

    def log_sum(self, weights: torch.Tensor) -> torch.Tensor:
        """`(b, q, M) -> (b, q)`: logarithm of the sum of exponentials of the logits that these weights were made of.

        The highest weight is the exponential of the highest logit over that sum: no further exponentials.
        """
        return self.logits.amax(dim=-1) - weights.amax(dim=-1).log()

    def sum(self, weights: torch.Tensor) -> _Parts:
        """`(b, q, M) -> (b, q, C), (b, q, F_r), (b, q, F_w)`: sums of `[x, f, g] / s`; spoils the weights."""
        weights = weights.mul_(self.inverse_deviation)
        of_pixels = (self.pixels @ weights.mT).mT  # this way round: few rows times many columns is fast
        weights = weights.unflatten(-1, self.shape)
        return of_pixels, weights.sum(dim=-1) @ self.rows, weights.sum(dim=-2) @ self.columns

    def add_grid_grads(self, grads, *terms):
        """Add to the gradients of pixels, rows, columns and inverse deviation, for `(weights, queries)` terms."""
        grad_pixels, grad_rows, grad_columns, grad_inverse_deviation = grads
        for weights, queries in terms:
            scaled = weights * self.inverse_deviation
            on_grid = scaled.unflatten(-1, self.shape)
            _add(grad_pixels, self.samples, (queries[0].mT @ scaled).unflatten(-1, self.shape))
            _add(grad_rows, self.samples, on_grid.sum(dim=-1).mT @ queries[1])
            _add(grad_columns, self.samples, on_grid.sum(dim=-2).mT @ queries[2])
            of_deviation = weights * (queries[0] @ self.pixels + self._of_positions(queries))
            _add(grad_inverse_deviation, self.samples, of_deviation.sum(dim=1).unflatten(-1, self.shape))

    def _of_positions(self, queries: _Parts) -> torch.Tensor:
        """`-> (1 or b, q, M)`: `u . [f, g]`"""
        of_rows, of_columns = (queries[1] @ self.rows.mT)[..., None], (queries[2] @ self.columns.mT)[..., None, :]
        memory = self._memory("positions", *of_rows.shape[:2], *self.shape)
        return torch.add(of_rows, of_columns, out=memory).flatten(-2)

    def _memory(self, name: str, *shape: int) -> torch.Tensor | None:
        """The same for all blocks, since fresh memory costs a page fault for every few kilobytes; None has it made."""
        if torch.compiler.is_compiling():  # the compiler plans memory itself
            return None
        size = math.prod(shape)
        if name not in self.memory or self.memory[name].numel() < size:
            self.memory[name] = self.pixels.new_empty(size)
        return self.memory[name][:size].view(shape)


def _blocks(query_pixels: torch.Tensor, pixels: torch.Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Samples to take at a time, each with the blocks of what asks to go through."""
    batch, points, num_queries = pixels.shape[0], pixels.shape[2] * pixels.shape[3], query_pixels.shape[1]
    elements = _BLOCK_ELEMENTS.get(pixels.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    size, compiling = max(_FEWEST_ROWS, elements // points), torch.compiler.is_compiling()
    if compiling:
        size = max(size, -(-num_queries // _MOST_COMPILED_BLOCKS))
    blocks = [slice(first, min(first + size, num_queries)) for first in range(0, num_queries, size)]
    if compiling:  # all samples in one go: a loop over them would fix their number, also in an exported program
        yield slice(None), blocks
        return
    samples = max(1, elements // (points * num_queries))
    for sample in range(0, batch, samples):
        yield slice(sample, min(sample + samples, batch)), blocks


def _some(parts, samples: slice, block: slice) -> _Parts:
    return tuple(_of(part, samples)[:, block] for part in parts)


def _of(part: torch.Tensor, samples: slice) -> torch.Tensor:
    return part if part.shape[0] == 1 else part[samples]


def _add(total: torch.Tensor, samples: slice, more: torch.Tensor):
    """Add what comes from some samples to a total per sample, or to the only one that `total` has for all."""
    if total.shape[0] == 1:
        total.add_(more.sum(dim=0, keepdim=True))
    else:
        total[samples].add_(more)


def logits_with_map(
    queries: _Parts, grid: tuple[torch.Tensor, ...], attention_mask: torch.Tensor | None
) -> torch.Tensor:
    """`-> (B, h, N, M)`: the logits of `GridAttention`, with `h, N` for its `Q`; the lowest number where hidden."""
    pixels, rows, columns, inverse_deviation = grid
    positions = (queries[1] @ rows[:, None].mT)[..., None] + (queries[2] @ columns[:, None].mT)[..., None, :]
    logits = queries[0] @ pixels.flatten(2)[:, None] + positions.flatten(-2)
    logits = logits * inverse_deviation.flatten(1)[:, None, None]
    if attention_mask is not None:
        logits = logits.masked_fill(~attention_mask.flatten(1)[:, None, None], torch.finfo(logits.dtype).min)
    return logits


def sums_with_map(weights: torch.Tensor, grid: tuple[torch.Tensor, ...]) -> _Parts:
    """`(B, h, N, M) -> (B, h, N, C), (B, h, N, F_r), (B, h, N, F_w)`"""
    pixels, rows, columns, inverse_deviation = grid
    scaled = weights * inverse_deviation.flatten(1)[:, None, None]
    on_grid = scaled.unflatten(-1, pixels.shape[2:])
    of_pixels = scaled @ pixels.flatten(2)[:, None].mT
    return of_pixels, on_grid.sum(dim=-1) @ rows[:, None], on_grid.sum(dim=-2) @ columns[:, None]


def _grads_with_a_graph(ctx, grad_results: tuple[torch.Tensor, ...]) -> list[torch.Tensor | None]:
    """Of all arguments but the mask: through a stored map, so that the gradients have gradients themselves.

    It takes operations that know batches of gradients (`is_grads_batched=True`), as those on shared memory do not.
    """
    create_graph = torch.is_grad_enabled()
    *arguments, attention_mask = ctx.saved_tensors[:8]
    with torch.enable_grad():
        arguments = [argument.view_as(argument) for argument in arguments]  # apart, even if one was given twice
        queries, grid = tuple(part[:, None] for part in arguments[:3]), tuple(arguments[3:])
        logits = logits_with_map(queries, grid, attention_mask)
        results = [*sums_with_map(logits.softmax(dim=-1), grid), logits.logsumexp(dim=-1)][: len(grad_results)]
        results = [part.squeeze(1) for part in results]
    needed = [argument for argument, need in zip(arguments, ctx.needs_input_grad, strict=False) if need]
    grads = iter(torch.autograd.grad(results, needed, grad_results, create_graph=create_graph))
    return [next(grads) if need else None for need in ctx.needs_input_grad[:7]]
