"""Linear layers whose products, and rounding of weights, are one operator on a GPU.

Shapes: R runs, B batch, T positions.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.models.operators import Dims, first, like, operator
from transfer.models.passes import takes

_ALIGNED = 8
"""Entries of bfloat16 that GPUs load at once: products with other sizes are many times slower."""


class Linear(nn.Linear):
    """A linear layer without bias.

    Under autocast to bfloat16 on a GPU, the gradient of its float32 weight is not rounded to
    bfloat16, and lies in memory as the weight does, where torch's is transposed.
    """

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        if takes(x) and self.weight.dtype == torch.float32:
            out: Tensor = _linear(x, self.weight)[0]
            return out
        return super().forward(x)


def _compute(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return x W^T, and W in bfloat16 with rows of zeros up to a multiple of eight."""
    rounded = weight.to(torch.bfloat16)
    if weight.shape[-2] % _ALIGNED:
        rounded = F.pad(rounded, (0, 0, 0, -weight.shape[-2] % _ALIGNED))
    flat = x.reshape(*weight.shape[:-2], -1, weight.shape[-1])
    out = (flat @ rounded.mT)[..., : weight.shape[-2]].contiguous()
    return out.reshape(*x.shape[:-1], -1), rounded


def _compute_backward(gradient: Tensor, x: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    d_out, runs = gradient.shape[-1], rounded.shape[:-2]
    if d_out % _ALIGNED:
        gradient = F.pad(gradient, (0, -d_out % _ALIGNED))
    gradient = gradient.reshape(*runs, -1, rounded.shape[-2])
    flat = x.reshape(*runs, -1, x.shape[-1])
    of_weight = in_float32(gradient.mT, flat)[..., :d_out, :].contiguous()
    return (gradient @ rounded).reshape(x.shape), of_weight


def in_float32(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of bfloat16 matrices, rounded to float32 alone."""
    if not a.is_cuda:
        return a.float() @ b.float()
    product = torch.bmm if a.ndim == 3 else torch.mm
    return product(a, b, out_dtype=torch.float32)


def _fake(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    *runs, d_out, d_in = weight.shape
    rows = d_out + -d_out % _ALIGNED
    rounded = weight.new_empty((*runs, rows, d_in), dtype=torch.bfloat16)
    return x.new_empty((*x.shape[:-1], d_out)), rounded


def _fake_backward(gradient: Tensor, x: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*rounded.shape[:-2], gradient.shape[-1], rounded.shape[-1])
    return like(x), rounded.new_empty(shape, dtype=torch.float32)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # no zeros for the rounded weight
    ctx.save_for_backward(inputs[0], output[1])


def _back(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return None, None
    of_x, of_weight = _linear_backward(gradient, *ctx.saved_tensors)
    return of_x, of_weight


def _over_runs(
    info: Any, in_dims: Dims, x: Tensor, weight: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    x, weight = first(info, in_dims[0], x), first(info, in_dims[1], weight)
    return _linear(x, weight), (0, 0)


_linear_backward = operator(
    "linear_backward(Tensor gradient, Tensor x, Tensor rounded) -> (Tensor, Tensor)",
    _compute_backward,
    fake=_fake_backward,
)
_linear = operator(
    "linear(Tensor x, Tensor weight) -> (Tensor, Tensor)",
    _compute,
    fake=_fake,
    backward=_back,
    remember=_remember,
    over_runs=_over_runs,
)
