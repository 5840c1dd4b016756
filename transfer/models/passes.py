"""Passes over activations that a GPU does by kernels of our own, for single models and stacks.

Shapes: R runs, B batch, T positions, D width, K head dimension.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from transfer import kernels
from transfer.models.operators import Dims, first, like, operator


def takes(x: Tensor) -> bool:
    """Whether the kernels compute with a tensor: of bfloat16, on a GPU that has Triton."""
    return x.is_cuda and x.dtype == torch.bfloat16 and kernels.THERE


def joins(x: Tensor) -> bool:
    """Whether the kernels sum and normalise: float32 where autocast is to bfloat16."""
    if not (x.is_cuda and x.dtype == torch.float32 and kernels.THERE):
        return False
    return torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda") == torch.bfloat16


# --- sqrt(2) GELU ---


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return sqrt(2) GELU(x), whose result is kept for the backward pass, not computed again."""
    out: Tensor = _gelu(x)
    return out


def _gelu_kernel(x: Tensor) -> Tensor:
    from transfer.kernels import blocks

    return blocks.gelu(x)


def _gelu_backward_kernel(gradient: Tensor, x: Tensor) -> Tensor:
    from transfer.kernels import blocks

    return blocks.gelu_backward(gradient, x)


_gelu_backward = operator(
    "gelu_backward(Tensor gradient, Tensor x) -> Tensor", _gelu_backward_kernel, fake=like
)
_gelu: Callable[..., Any] = operator(
    "gelu(Tensor x) -> Tensor",
    _gelu_kernel,
    fake=like,
    backward=lambda ctx, gradient: _gelu_backward(gradient, *ctx.saved_tensors),
    remember=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
    over_runs=lambda info, in_dims, x: (_gelu(first(info, in_dims[0], x)), 0),
)


# --- rotary positions ---


def rotary(
    x: Float[Tensor, "B T D"], turns: Float[Tensor, "2 T half"], head_dim: int
) -> Float[Tensor, "B T D"]:
    """Divide every head by its root mean square, and turn it by the angles of its position."""
    out: Tensor = _rotary(x, turns, head_dim)[0]
    return out


def _rotary_kernel(x: Tensor, turns: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    from transfer.kernels import blocks

    return blocks.rotary(x, turns, head_dim)


def _rotary_backward_kernel(
    gradient: Tensor, out: Tensor, inverse: Tensor, turns: Tensor
) -> Tensor:
    from transfer.kernels import blocks

    return blocks.rotary_backward(gradient, out, inverse, turns)


def _rotary_fake(x: Tensor, turns: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    heads = (*x.shape[:-1], x.shape[-1] // head_dim)
    return like(x), x.new_empty(heads, dtype=torch.float32)


def _rotary_remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # no zeros for the factors
    ctx.save_for_backward(*output, inputs[1])


def _rotary_back(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return None, None, None
    return _rotary_backward(gradient, *ctx.saved_tensors), None, None


def _rotary_over_runs(
    info: Any, in_dims: Dims, x: Tensor, turns: Tensor, head_dim: int
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    turns = turns if in_dims[1] is None else turns.movedim(in_dims[1], 0)
    return _rotary(first(info, in_dims[0], x), turns, head_dim), (0, 0)


_rotary_backward = operator(
    "rotary_backward(Tensor gradient, Tensor out, Tensor inverse, Tensor turns) -> Tensor",
    _rotary_backward_kernel,
    fake=like,
)
_rotary = operator(
    "rotary(Tensor x, Tensor turns, int head_dim) -> (Tensor, Tensor)",
    _rotary_kernel,
    fake=_rotary_fake,
    backward=_rotary_back,
    remember=_rotary_remember,
    over_runs=_rotary_over_runs,
)


# --- sums and norms ---


def normed(x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
    """Return every position's numbers over their root mean square, in bfloat16."""
    out: Tensor = _norm(x)[0]
    return out


def normed_sum(
    x: Float[Tensor, "B T D"], branch: Float[Tensor, "B T D"], multiplier: float
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
    """Return x + multiplier * branch, in float32, and the same `normed`."""
    total, out, _ = _normed_sum(x, branch, multiplier)
    return total, out


def _norm_kernel(x: Tensor) -> tuple[Tensor, ...]:
    from transfer.kernels import blocks

    return blocks.normed_sum(x, None, 0.0)


def _norm_backward_kernel(gradient: Tensor, out: Tensor, inverse: Tensor) -> Tensor:
    from transfer.kernels import blocks

    return blocks.normed_sum_backward(gradient, None, out, inverse, 0.0, False)[0]


def _normed_sum_kernel(x: Tensor, branch: Tensor, multiplier: float) -> tuple[Tensor, ...]:
    from transfer.kernels import blocks

    return blocks.normed_sum(x, branch, multiplier)


def _normed_sum_backward_kernel(
    gradient: Tensor, sum_gradient: Tensor | None, out: Tensor, inverse: Tensor, multiplier: float
) -> tuple[Tensor, ...]:
    from transfer.kernels import blocks

    return blocks.normed_sum_backward(gradient, sum_gradient, out, inverse, multiplier, True)


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def _norm_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return _as(x, torch.bfloat16), x.new_empty(x.shape[:-1])


def _normed_sum_fake(x: Tensor, branch: Tensor, multiplier: float) -> tuple[Tensor, ...]:
    return like(x), *_norm_fake(x)


def _norm_remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Nobody may ask for the gradient of the last sum: it is not to be made of zeros.
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[-2:])
    ctx.multiplier = inputs[-1]


def _norm_back(ctx: Any, gradient: Tensor | None, _: Any) -> Tensor | None:
    return None if gradient is None else _norm_backward(gradient, *ctx.saved_tensors)


def _normed_sum_back(
    ctx: Any, sum_gradient: Tensor | None, gradient: Tensor | None, _: Any
) -> tuple[Tensor | None, ...]:
    out, inverse = ctx.saved_tensors
    gradient = torch.zeros_like(out) if gradient is None else gradient
    return *_normed_sum_backward(gradient, sum_gradient, out, inverse, ctx.multiplier), None


def _normed_sum_over_runs(
    info: Any, in_dims: Dims, x: Tensor, branch: Tensor, multiplier: float
) -> tuple[tuple[Tensor, ...], tuple[int, int, int]]:
    x, branch = first(info, in_dims[0], x), first(info, in_dims[1], branch)
    return _normed_sum(x, branch, multiplier), (0, 0, 0)


_norm_backward = operator(
    "norm_backward(Tensor gradient, Tensor out, Tensor inverse) -> Tensor",
    _norm_backward_kernel,
    fake=lambda gradient, out, inverse: _as(out, torch.float32),
)
_norm: Callable[..., Any] = operator(
    "norm(Tensor x) -> (Tensor, Tensor)",
    _norm_kernel,
    fake=_norm_fake,
    backward=_norm_back,
    remember=_norm_remember,
    over_runs=lambda info, in_dims, x: (_norm(first(info, in_dims[0], x)), (0, 0)),
)
_normed_sum_backward = operator(
    "normed_sum_backward(Tensor gradient, Tensor? sum_gradient, Tensor out, Tensor inverse,"
    " float multiplier) -> (Tensor, Tensor)",
    _normed_sum_backward_kernel,
    fake=lambda gradient, sum_gradient, out, *_: (_as(out, torch.float32), like(out)),
)
_normed_sum = operator(
    "normed_sum(Tensor x, Tensor branch, float multiplier) -> (Tensor, Tensor, Tensor)",
    _normed_sum_kernel,
    fake=_normed_sum_fake,
    backward=_normed_sum_back,
    remember=_norm_remember,
    over_runs=_normed_sum_over_runs,
)
