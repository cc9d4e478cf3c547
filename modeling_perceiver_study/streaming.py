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
        asked = (asked_pixels, asked_rows, asked_columns)
        grid = (pixels, rows, columns, inverse_deviation)
        batch, (_, num_heads, num_latents, _) = pixels.shape[0], asked_pixels.shape
        sums = tuple(part.new_zeros(batch, num_heads, num_latents, part.shape[-1]) for part in asked)
        log_total = pixels.new_empty(batch, num_heads, num_latents, 1)
        for samples, row_blocks in _blocks(asked_pixels, pixels):
            some_asked = [_of(part, samples) for part in asked]
            maximum = log_total.new_full((), float("-inf"))
            total, some_sums = 0.0, [0.0, 0.0, 0.0]
            for block in row_blocks:
                some = _Block(*(_of(part, samples) for part in grid), block)
                weights = some.dot(some_asked).mul_(some.inverse_deviation)
                if attention_mask is not None:
                    hidden = ~attention_mask[samples, block].flatten(1)[:, None, None]
                    weights.masked_fill_(hidden, torch.finfo(weights.dtype).min)
                new_maximum = torch.maximum(maximum, weights.amax(dim=-1, keepdim=True))
                kept = (maximum - new_maximum).exp()
                maximum = new_maximum
                weights.sub_(maximum).exp_()
                total = total * kept + weights.sum(dim=-1, keepdim=True)
                added = some.sum(weights.mul_(some.inverse_deviation))
                some_sums = [part * kept + more for part, more in zip(some_sums, added, strict=True)]
            for part, more in zip(sums, some_sums, strict=True):
                part[samples] = more / total
            log_total[samples] = maximum + total.log()
        ctx.save_for_backward(*asked, *grid, attention_mask, log_total, *sums)
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, *grad_sums):
        saved = ctx.saved_tensors
        asked, grid, attention_mask, log_total, sums = saved[:3], saved[3:7], saved[7], saved[8], saved[9:]
        asked_pixels, pixels = asked[0], grid[0]
        mean_grad = sum((grad * part).sum(dim=-1, keepdim=True) for grad, part in zip(grad_sums, sums, strict=True))
        grad_asked = [torch.zeros_like(part) for part in asked]
        grid_needs_grad = any(ctx.needs_input_grad[3:7])
        grad_grid = [torch.zeros_like(part) for part in grid] if grid_needs_grad else [None] * 4
        for samples, row_blocks in _blocks(asked_pixels, pixels):
            some_asked = [_of(part, samples) for part in asked]
            some_grads = [grad[samples] for grad in grad_sums]
            for block in row_blocks:
                some = _Block(*(_of(part, samples) for part in grid), block)
                scores = some.dot(some_asked)
                logits = scores * some.inverse_deviation if grid_needs_grad else scores.mul_(some.inverse_deviation)
                weights = logits.sub_(log_total[samples]).exp_()
                if attention_mask is not None:
                    weights.masked_fill_(~attention_mask[samples, block].flatten(1)[:, None, None], 0.0)
                pulls = some.dot(some_grads)
                grad_logits = (pulls * some.inverse_deviation).sub_(mean_grad[samples]).mul_(weights)
                if grid_needs_grad:
                    some.add_grid_grads(
                        [_of(grad, samples) for grad in grad_grid],
                        (grad_logits, scores, some_asked),
                        (weights, pulls, some_grads),
                    )
                added = some.sum(grad_logits.mul_(some.inverse_deviation))
                for part, more in zip(grad_asked, added, strict=True):
                    _of(part, samples).add_(more if part.shape[0] > 1 else more.sum(dim=0, keepdim=True))
        return *grad_asked, *grad_grid, None


class _Block:
    """Some rows of the grid for some samples: `(b, C, r, W)`, `(1 or b, r, F_r)`, `(1 or b, W, F_w)`, `(b, r, W)`."""

    def __init__(self, pixels, rows, columns, inverse_deviation, block: slice):
        self.block = block
        self.shape = pixels[:, :, block].shape[-2:]
        self.pixels = pixels[:, :, block].flatten(2)[:, None]
        self.rows = rows[:, block][:, None]
        self.columns = columns[:, None]
        self.inverse_deviation = inverse_deviation[:, block].flatten(1)[:, None, None]

    def dot(self, asked: list[torch.Tensor]) -> torch.Tensor:
        """`-> (b, h, N, r W)`: `u . [x, f, g]`"""
        asked_pixels, asked_rows, asked_columns = asked
        of_rows, of_columns = asked_rows @ self.rows.mT, asked_columns @ self.columns.mT
        positions = (of_rows[..., None] + of_columns[..., None, :]).flatten(-2)
        return (asked_pixels @ self.pixels).add_(positions)

    def sum(self, weights: torch.Tensor) -> list[torch.Tensor]:
        """`(b, h, N, r W) -> (b, h, N, C), (b, h, N, F_r), (b, h, N, F_w)`: weighted sums of `x`, `f` and `g`."""
        of_pixels = weights @ self.pixels.mT
        weights = weights.unflatten(-1, self.shape)
        return [of_pixels, weights.sum(dim=-1) @ self.rows, weights.sum(dim=-2) @ self.columns]

    def add_grid_grads(self, grads, *terms):
        """Add to the gradients of pixels, rows, columns and inverse deviation, for `(weights, scores, asked)` terms."""
        grad_pixels, grad_rows, grad_columns, grad_inverse_deviation = grads
        for weights, scores, asked in terms:
            scaled = weights * self.inverse_deviation
            on_grid = scaled.unflatten(-1, self.shape)
            asked_pixels, asked_rows, asked_columns = asked
            _add(grad_pixels[:, :, self.block], (asked_pixels.mT @ scaled).sum(dim=1).unflatten(-1, self.shape))
            _add(grad_rows[:, self.block], (on_grid.sum(dim=-1).mT @ asked_rows).sum(dim=1))
            _add(grad_columns, (on_grid.sum(dim=-2).mT @ asked_columns).sum(dim=1))
            _add(grad_inverse_deviation[:, self.block], (weights * scores).sum(dim=(1, 2)).unflatten(-1, self.shape))


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


def _add(total: torch.Tensor, more: torch.Tensor):
    total.add_(more if total.shape[0] == more.shape[0] else more.sum(dim=0, keepdim=True))
