"""Attention for single models and for stacked runs, by the fastest kernel that there is.

Shapes: B batch, H heads, T positions, K head dimension.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from transfer.models.operators import operator

_ATEN = torch.ops.aten
_CUDNN = 91_000
"""From cuDNN 9.10 on."""


def attend(
    q: Float[Tensor, "B H T K"],
    k: Float[Tensor, "B H T K"],
    v: Float[Tensor, "B H T K"],
    *,
    causal: bool,
) -> Float[Tensor, "B H T K"]:
    """Return softmax(q k^T / sqrt(K)) v; causal: no position sees a later one."""
    if _has_cudnn(q):
        out: Tensor = _cudnn_attention(q, k, v, causal)[0]
        return out
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal)


def _has_cudnn(q: Tensor) -> bool:
    """Whether cuDNN's attention, of which torch.vmap knows nothing, is there and fast."""
    half = q.dtype in (torch.bfloat16, torch.float16)
    # cuDNN refuses sequences of one position.
    fits = q.shape[-1] in (64, 128) and q.shape[-2] > 1
    return q.is_cuda and half and fits and _fast()


def _fast() -> bool:
    version = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    return version >= _CUDNN and torch.cuda.get_device_capability() >= (9, 0)


# What torch.compiler.assume_constant_result does after importing the compiler, which takes as long
# as torch itself.
vars(_fast)["_dynamo_marked_constant"] = True


def _forward(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Return the result and the logarithms of the softmax's sums, for the way back."""
    made = _ATEN._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, causal, False)
    return made[0], made[1]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.set_materialize_grads(False)  # no zeros for the logarithms
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.causal = inputs[3]


def _backward(ctx: Any, gradient: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if gradient is None:
        return None, None, None, None
    q, k, v, out, sums = ctx.saved_tensors
    seed = torch.zeros((), dtype=torch.int64, device=q.device)  # of a dropout that is none
    length = q.shape[-2]
    made = _ATEN._scaled_dot_product_cudnn_attention_backward(
        gradient, q, k, v, out, sums, seed, seed, None, None, None, length, length, 0.0, ctx.causal
    )
    return *made, None


def _over_runs(
    info: Any, in_dims: tuple[int | None, ...], q: Tensor, k: Tensor, v: Tensor, causal: bool
) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    """Make of the runs, which are the dimension that vmap takes, a part of the batch."""
    flat = [
        (x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)
        for x, dim in zip((q, k, v), in_dims, strict=False)
    ]
    made = _cudnn_attention(*flat, causal)
    return tuple(x.unflatten(0, (info.batch_size, -1)) for x in made), (0, 0)


_cudnn_attention = operator(
    "attention(Tensor q, Tensor k, Tensor v, bool causal) -> (Tensor, Tensor)",
    _forward,
    fake=_forward,
    backward=_backward,
    remember=_remember,
    over_runs=_over_runs,
)
