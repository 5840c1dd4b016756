"""Passes over the activations of transformer blocks: GELU, rotary positions, sum and norm.

Activations are bfloat16 and sums of branches float32; everything is computed in float32 and
rounded once.
"""

from contextlib import nullcontext
from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 2048
_ROWS = 64
EPSILON = torch.finfo(torch.float32).eps
"""Added to the mean square, as torch's rms_norm does."""


@triton.jit
@no_type_check
def _normal(x):
    """Return the normal distribution function at x, and exp(-x^2 / 2).

    Abramowitz and Stegun 1964, 26.2.17, wrong by less than 7.5e-8: a third of the instructions of
    the library's erf, which take longer than the memory.
    """
    size = tl.abs(x)
    bell = tl.exp2(-0.7213475204444817 * size * size)
    t = 1.0 / (1.0 + 0.2316419 * size)
    tail = 0.5307027145 * t - 0.7265760135
    tail = tail * t + 0.7107068705
    tail = tail * t - 0.142248368
    tail = tail * t + 0.127414796
    tail = tail * t * bell
    return tl.where(x >= 0.0, 1.0 - tail, tail), bell


@triton.jit
@no_type_check
def _gelu(x_ptr, out_ptr, numel, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < numel, other=0.0).to(tl.float32)
    below, _ = _normal(x)
    out = 1.4142135623730951 * x * below
    tl.store(out_ptr + i, out.to(out_ptr.dtype.element_ty), mask=i < numel)


@triton.jit
@no_type_check
def _gelu_backward(gradient_ptr, x_ptr, out_ptr, numel, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + i, mask=i < numel, other=0.0).to(tl.float32)
    g = tl.load(gradient_ptr + i, mask=i < numel, other=0.0).to(tl.float32)
    below, bell = _normal(x)
    # sqrt(2) times the density, which is bell / sqrt(2 pi).
    out = g * (1.4142135623730951 * below + 0.5641895835477563 * x * bell)
    tl.store(out_ptr + i, out.to(out_ptr.dtype.element_ty), mask=i < numel)


@triton.jit
@no_type_check
def _angles(turns_ptr, row, run_stride, per_run, length, HEADS, HALF: tl.constexpr):
    """Return cosines and sines for rows of heads, each (rows, HALF)."""
    position = (row // HEADS) % length
    place = turns_ptr + (row // per_run) * run_stride + position * HALF
    place = place[:, None] + tl.arange(0, HALF)[None, :]
    return tl.load(place).to(tl.float32), tl.load(place + length * HALF).to(tl.float32)


@triton.jit
@no_type_check
def _rotary(
    x_ptr,
    turns_ptr,
    out_ptr,
    inverse_ptr,
    num,
    run_stride,
    per_run,
    length,
    HEADS,
    epsilon,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < num
    row = tl.where(there, row, 0)
    place = row[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    first = tl.load(x_ptr + place).to(tl.float32)
    second = tl.load(x_ptr + place + HALF).to(tl.float32)
    square = tl.sum(first * first, 1) + tl.sum(second * second, 1)
    inverse = tl.rsqrt(square / (2 * HALF) + epsilon)
    cos, sin = _angles(turns_ptr, row, run_stride, per_run, length, HEADS, HALF)
    first, second = first * inverse[:, None], second * inverse[:, None]
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + place, (first * cos - second * sin).to(kind), mask=there[:, None])
    tl.store(out_ptr + place + HALF, (second * cos + first * sin).to(kind), mask=there[:, None])
    tl.store(inverse_ptr + row, inverse, mask=there)


@triton.jit
@no_type_check
def _rotary_backward(
    gradient_ptr,
    made_ptr,
    inverse_ptr,
    turns_ptr,
    out_ptr,
    num,
    run_stride,
    per_run,
    length,
    HEADS,
    HALF: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = row < num
    row = tl.where(there, row, 0)
    place = row[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    first = tl.load(gradient_ptr + place).to(tl.float32)
    second = tl.load(gradient_ptr + place + HALF).to(tl.float32)
    one = tl.load(made_ptr + place).to(tl.float32)
    two = tl.load(made_ptr + place + HALF).to(tl.float32)
    # Turning keeps lengths and angles: the part along the head is taken away before turning back.
    along = (tl.sum(first * one, 1) + tl.sum(second * two, 1)) / (2 * HALF)
    first, second = first - along[:, None] * one, second - along[:, None] * two
    cos, sin = _angles(turns_ptr, row, run_stride, per_run, length, HEADS, HALF)
    inverse = tl.load(inverse_ptr + row)[:, None]
    one = inverse * (first * cos + second * sin)
    two = inverse * (second * cos - first * sin)
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + place, one.to(kind), mask=there[:, None])
    tl.store(out_ptr + place + HALF, two.to(kind), mask=there[:, None])


@triton.jit
@no_type_check
def _normed_sum(
    x_ptr,
    branch_ptr,
    sum_ptr,
    out_ptr,
    inverse_ptr,
    num,
    multiplier,
    epsilon,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    BRANCH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    there = (row[:, None] < num) & (column[None, :] < WIDTH)
    place = row[:, None] * WIDTH + column[None, :]
    x = tl.load(x_ptr + place, mask=there, other=0.0).to(tl.float32)
    if BRANCH:
        x += multiplier * tl.load(branch_ptr + place, mask=there, other=0.0).to(tl.float32)
        tl.store(sum_ptr + place, x, mask=there)
    inverse = tl.rsqrt(tl.sum(x * x, 1) / WIDTH + epsilon)
    tl.store(out_ptr + place, (x * inverse[:, None]).to(out_ptr.dtype.element_ty), mask=there)
    tl.store(inverse_ptr + row, inverse, mask=row < num)


@triton.jit
@no_type_check
def _normed_sum_backward(
    gradient_ptr,
    sum_gradient_ptr,
    made_ptr,
    inverse_ptr,
    out_ptr,
    branch_ptr,
    num,
    multiplier,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
    SUM: tl.constexpr,
    BRANCH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    there = (row[:, None] < num) & (column[None, :] < WIDTH)
    place = row[:, None] * WIDTH + column[None, :]
    g = tl.load(gradient_ptr + place, mask=there, other=0.0).to(tl.float32)
    made = tl.load(made_ptr + place, mask=there, other=0.0).to(tl.float32)
    inverse = tl.load(inverse_ptr + row, mask=row < num, other=0.0)
    g = inverse[:, None] * (g - made * (tl.sum(g * made, 1) / WIDTH)[:, None])
    if SUM:
        g += tl.load(sum_gradient_ptr + place, mask=there, other=0.0)
    tl.store(out_ptr + place, g, mask=there)
    if BRANCH:
        tl.store(branch_ptr + place, (multiplier * g).to(branch_ptr.dtype.element_ty), mask=there)


# --- calls ---


def gelu(x: Tensor) -> Tensor:
    """Return sqrt(2) GELU(x), contiguous."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _launch(_gelu, (triton.cdiv(x.numel(), _BLOCK),), x, out, x.numel(), BLOCK=_BLOCK)
    return out


def gelu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Return the gradient of `gelu` at x, contiguous."""
    gradient, x = gradient.contiguous(), x.contiguous()
    out = torch.empty_like(x)
    grid = (triton.cdiv(x.numel(), _BLOCK),)
    _launch(_gelu_backward, grid, gradient, x, out, x.numel(), BLOCK=_BLOCK)
    return out


def rotary(x: Tensor, turns: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Normalise every head and turn its halves against each other.

    Args:
        x: (*runs, B, T, D) with runs () or (R,); D is divided into heads.
        turns: Cosines and sines, (2, T, head_dim / 2), or (R, 2, T, head_dim / 2); float32.
        head_dim: A power of two.

    Returns:
        The result, like x but contiguous, and what each head was multiplied by to have a root mean
        square of 1, (*runs, B, T, heads), float32.
    """
    x = x.contiguous()
    out = torch.empty_like(x)
    inverse = x.new_empty((*x.shape[:-1], x.shape[-1] // head_dim), dtype=torch.float32)
    _over_heads(_rotary, (x,), turns, (out, inverse), head_dim, EPSILON)
    return out, inverse


def rotary_backward(gradient: Tensor, out: Tensor, inverse: Tensor, turns: Tensor) -> Tensor:
    """Return the gradient of `rotary`'s x from that of its result, contiguous.

    Args:
        gradient: Like x.
        out: The result itself; x is not needed.
        inverse: The other result.
        turns: As there.
    """
    gradient, found = gradient.contiguous(), torch.empty_like(out)
    head_dim = out.shape[-1] // inverse.shape[-1]
    _over_heads(_rotary_backward, (gradient, out, inverse), turns, (found,), head_dim)
    return found


def normed_sum(x: Tensor, branch: Tensor | None, multiplier: float) -> tuple[Tensor, ...]:
    """Return x + multiplier * branch, it normalised, and what it was multiplied by for that.

    Args:
        x: (..., D), float32.
        branch: Like x, bfloat16; without it, x is only normalised.
        multiplier: Of the branch.

    Returns:
        The sum, only with a branch, float32; normalised rows, bfloat16; factors (...), float32.
    """
    x = x.contiguous()
    branch = None if branch is None else branch.contiguous()
    out = torch.empty_like(x, dtype=torch.bfloat16)
    inverse = x.new_empty(x.shape[:-1])
    total = None if branch is None else torch.empty_like(x)
    tensors = (x, x if branch is None else branch, x if total is None else total, out, inverse)
    _over_rows(_normed_sum, tensors, (multiplier, EPSILON), BRANCH=branch is not None)
    return (out, inverse) if total is None else (total, out, inverse)


def normed_sum_backward(
    gradient: Tensor,
    sum_gradient: Tensor | None,
    out: Tensor,
    inverse: Tensor,
    multiplier: float,
    branch: bool,
) -> tuple[Tensor, ...]:
    """Return the gradients of `normed_sum`'s x, float32, and branch, bfloat16, if there is one.

    Args:
        gradient: Of the normalised rows.
        sum_gradient: Of the sum; None is zeros.
        out: The normalised rows; neither x nor the sum is needed.
        inverse: The factors.
        multiplier: Of the branch.
        branch: Whether there is one.
    """
    gradient = gradient.contiguous()
    own = None if sum_gradient is None else sum_gradient.contiguous()
    found = torch.empty_like(out, dtype=torch.float32)
    of_branch = torch.empty_like(out) if branch else None
    given = (gradient, inverse if own is None else own, out, inverse)
    tensors = (*given, found, out if of_branch is None else of_branch)
    _over_rows(_normed_sum_backward, tensors, (multiplier,), SUM=own is not None, BRANCH=branch)
    return (found,) if of_branch is None else (found, of_branch)


def _over_rows(
    kernel: Any, tensors: tuple[Tensor, ...], numbers: tuple[float, ...], **options: Any
) -> None:
    """Launch a kernel over all rows of the first tensor; small ones several at a time."""
    width = tensors[0].shape[-1]
    num, columns = tensors[0].numel() // width, triton.next_power_of_2(width)
    rows = max(1, _BLOCK // columns)
    sizes = {"WIDTH": width, "COLUMNS": columns, "ROWS": rows}
    _launch(kernel, (triton.cdiv(num, rows),), *tensors, num, *numbers, **sizes, **options)


def _over_heads(
    kernel: Any,
    given: tuple[Tensor, ...],
    turns: Tensor,
    made: tuple[Tensor, ...],
    head_dim: int,
    *more: float,
) -> None:
    """Launch a kernel over all heads at all positions."""
    like, turns = given[0], turns.contiguous()
    heads, num = like.shape[-1] // head_dim, like.numel() // head_dim
    runs = like.shape[0] if like.ndim == 4 else 1
    stride = turns.stride(0) if turns.ndim == 4 else 0
    sizes = (num, stride, num // runs, like.shape[-2], heads)
    grid = (triton.cdiv(num, _ROWS),)
    _launch(kernel, grid, *given, turns, *made, *sizes, *more, HALF=head_dim // 2, ROWS=_ROWS)


def _launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device(args[0].device) if args[0].is_cuda else nullcontext():
        kernel[grid](*args, **options)
