"""Softmax-weighted sums over a grid, block by block: no map of latents against points is ever stored.

The points form `R` rows of `W` columns, and point `(r, w)` has channels `z = [x_rw, f_r, g_w] / s_rw`: its pixel, the
features of its row and of its column, over a standard deviation. With `u` what a latent asks of each channel, this is

    a_rw = softmax over all points of u . z_rw          sums = sum over all points of a_rw z_rw

Forward keeps a running maximum and a running total, as in online softmax (Milakov and Gimelshein, 2018). Backward
computes the weights again from their logarithmic total: with `g` the gradient of the sums, the gradient of a logit is
`a_rw (g . z_rw - g . sums)`, and `g . z_rw` has the same form as the logit itself.
"""

from collections.abc import Iterator

import torch
from torch.autograd.function import once_differentiable

# Elements of a map to work on at a time: what the caches of a CPU hold; elsewhere enough to keep a device busy.
_BLOCK_ELEMENTS = {"cpu": 2**19}
_BLOCK_ELEMENTS_ELSEWHERE = 2**26
# A compiled loop is unrolled: few blocks, whatever their size.
_MOST_COMPILED_BLOCKS = 16


class GridAttention(torch.autograd.Function):
    """Sums of pixels, row features and column features over the grid, weighted by attention.

    Shapes, where a leading 1 stands for "the same for all samples":
        asked_pixels `(1 or B, h, N, C)`, asked_rows `(1 or B, h, N, F_r)`, asked_columns `(1 or B, h, N, F_w)`,
        pixels `(B, C, R, W)`, rows `(1 or B, R, F_r)`, columns `(1 or B, W, F_w)`, inverse_deviation `(B, R, W)`,
        attention_mask `(B, R, W)`, True where attended, or None
        -> `(B, h, N, C)`, `(B, h, N, F_r)`, `(B, h, N, F_w)`
    """

    @staticmethod
    def forward(ctx, asked_pixels, asked_rows, asked_columns, pixels, rows, columns, inverse_deviation, attention_mask):
        asked, grid = (asked_pixels, asked_rows, asked_columns), (pixels, rows, columns, inverse_deviation)
        lead = (pixels.shape[0], *asked_pixels.shape[1:3])
        sums = tuple(part.new_zeros(*lead, part.shape[-1]) for part in asked)
        log_total = pixels.new_empty(*lead, 1)
        for samples, row_blocks in _blocks(asked_pixels, pixels):
            question = _Question(asked, columns, samples)
            maximum = log_total.new_full((), float("-inf"))
            total = of_pixels = of_rows = of_columns = 0.0
            for block in row_blocks:
                some = _Block(grid, samples, block)
                weights = some.score(question)
                if attention_mask is not None:
                    weights.masked_fill_(_hidden(attention_mask, samples, block), torch.finfo(weights.dtype).min)
                new_maximum = torch.maximum(maximum, weights.amax(dim=-1, keepdim=True))
                kept = (maximum - new_maximum).exp()
                maximum = new_maximum
                weights.sub_(maximum).exp_()
                total = total * kept + weights.sum(dim=-1, keepdim=True)
                added = some.sum(weights.mul_(some.inverse_deviation))
                of_pixels, of_rows, of_columns = (
                    old * kept + new for old, new in zip((of_pixels, of_rows, of_columns), added, strict=True)
                )
            sums[0][samples] = of_pixels / total
            sums[1][samples] = of_rows / total
            sums[2][samples] = of_columns / total @ question.columns
            log_total[samples] = maximum + total.log()
        ctx.save_for_backward(*asked, *grid, attention_mask, log_total, *sums)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_sums):
        saved = ctx.saved_tensors
        asked, grid, attention_mask, log_total, sums = saved[:3], saved[3:7], saved[7], saved[8], saved[9:]
        mean_grad = sum((grad * part).sum(dim=-1, keepdim=True) for grad, part in zip(grad_sums, sums, strict=True))
        grad_asked = [torch.zeros_like(part) for part in asked]
        grad_grid = [torch.zeros_like(part) if any(ctx.needs_input_grad[3:7]) else None for part in grid]
        for samples, row_blocks in _blocks(asked[0], grid[0]):
            question = _Question(asked, grid[2], samples, -log_total)
            pull = _Question(grad_sums, grid[2], samples, -mean_grad)
            of_columns = 0.0
            for block in row_blocks:
                some = _Block(grid, samples, block)
                weights = some.score(question).exp_()
                if attention_mask is not None:
                    weights.masked_fill_(_hidden(attention_mask, samples, block), 0.0)
                grad_logits = some.score(pull).mul_(weights)
                if grad_grid[0] is not None:
                    some.add_grid_grads(grad_grid, (grad_logits, question), (weights, pull))
                of_pixels, of_rows, of_more_columns = some.sum(grad_logits.mul_(some.inverse_deviation))
                _add(grad_asked[0], samples, of_pixels)
                _add(grad_asked[1], samples, of_rows)
                of_columns = of_columns + of_more_columns
            _add(grad_asked[2], samples, of_columns @ question.columns)
        return *grad_asked, *grad_grid, None


class _Question:
    """What some samples' latents ask of pixels, rows and columns, with an offset `(b, h, N, 1)` for all points."""

    def __init__(self, asked, columns: torch.Tensor, samples: slice, offset: torch.Tensor | None = None):
        self.of_pixels, self.of_rows, self.of_columns = (_of(part, samples) for part in asked)
        self.columns = _of(columns, samples)[:, None]
        self.column_scores = (self.of_columns @ self.columns.mT)[..., None, :]
        self.offset = None if offset is None else offset[samples]


class _Block:
    """Some rows of the grid for some samples."""

    def __init__(self, grid, samples: slice, block: slice):
        pixels, rows, _, inverse_deviation = grid
        pixels, self.rows = pixels[samples, :, block], _of(rows, samples)[:, None, block]
        self.samples, self.block, self.shape = samples, block, pixels.shape[-2:]
        self.pixels = pixels.flatten(2)[:, None]
        self.inverse_deviation = inverse_deviation[samples, block].flatten(1)[:, None, None]

    def score(self, question: _Question) -> torch.Tensor:
        """`-> (b, h, N, r W)`: `u . [x, f, g] / s + offset`"""
        asked, scaled = question.of_pixels, self.pixels * self.inverse_deviation
        if question.offset is not None:  # as one more channel, rather than in one more pass over the map
            batch = question.offset.shape[0]
            asked = torch.cat([asked.expand(batch, -1, -1, -1), question.offset], dim=-1)
            scaled = torch.cat([scaled, torch.ones_like(scaled[:, :, :1])], dim=2)
        positions = ((question.of_rows @ self.rows.mT)[..., None] + question.column_scores).flatten(-2)
        return (asked @ scaled).addcmul_(positions, self.inverse_deviation)

    def sum(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`(b, h, N, r W) -> (b, h, N, C), (b, h, N, F_r), (b, h, N, W)`: sums of `x` and `f`, and along columns."""
        of_pixels = (self.pixels @ weights.mT).mT  # this way round: few rows times many columns is fast
        weights = weights.unflatten(-1, self.shape)
        return of_pixels, weights.sum(dim=-1) @ self.rows, weights.sum(dim=-2)

    def add_grid_grads(self, grads, *terms):
        """Add to the gradients of pixels, rows, columns and inverse deviation, for `(weights, question)` terms."""
        grad_pixels, grad_rows, grad_columns, grad_inverse_deviation = grads
        for weights, question in terms:
            scaled = weights * self.inverse_deviation
            on_grid = scaled.unflatten(-1, self.shape)
            of_pixels = (question.of_pixels.mT @ scaled).sum(dim=1).unflatten(-1, self.shape)
            _add(grad_pixels[:, :, self.block], self.samples, of_pixels)
            _add(grad_rows[:, self.block], self.samples, (on_grid.sum(dim=-1).mT @ question.of_rows).sum(dim=1))
            _add(grad_columns, self.samples, (on_grid.sum(dim=-2).mT @ question.of_columns).sum(dim=1))
            positions = ((question.of_rows @ self.rows.mT)[..., None] + question.column_scores).flatten(-2)
            of_deviation = (weights * (question.of_pixels @ self.pixels + positions)).sum(dim=(1, 2))
            _add(grad_inverse_deviation[:, self.block], self.samples, of_deviation.unflatten(-1, self.shape))


def _blocks(asked_pixels: torch.Tensor, pixels: torch.Tensor) -> Iterator[tuple[slice, list[slice]]]:
    """Samples to take at a time, each with the blocks of rows to go through."""
    batch, _, num_rows, num_columns = pixels.shape
    per_row = asked_pixels.shape[1] * asked_pixels.shape[2] * num_columns
    elements = _BLOCK_ELEMENTS.get(pixels.device.type, _BLOCK_ELEMENTS_ELSEWHERE)
    rows = max(1, elements // per_row)
    if torch.compiler.is_compiling():
        rows, samples = max(rows, -(-num_rows // _MOST_COMPILED_BLOCKS)), batch
    else:
        samples = max(1, elements // (per_row * num_rows))
    row_blocks = [slice(row, min(row + rows, num_rows)) for row in range(0, num_rows, rows)]
    for sample in range(0, batch, samples):
        yield slice(sample, min(sample + samples, batch)), row_blocks


def _of(part: torch.Tensor, samples: slice) -> torch.Tensor:
    return part if part.shape[0] == 1 else part[samples]


def _add(total: torch.Tensor, samples: slice, more: torch.Tensor):
    """Add what comes from some samples to a total per sample, or to the only one that `total` has for all."""
    if total.shape[0] == 1:
        total.add_(more.sum(dim=0, keepdim=True))
    else:
        total[samples].add_(more)


def _hidden(attention_mask: torch.Tensor, samples: slice, block: slice) -> torch.Tensor:
    return ~attention_mask[samples, block].flatten(1)[:, None, None]
