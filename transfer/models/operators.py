"""Operators of our own, which torch differentiates, maps over runs and compiles.

What `torch.library.custom_op` makes, but for its checks of every call, which take 0.2 ms.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Dims = tuple[int | None, ...]

_NAMESPACE = "lmo_transfer"
_LIBRARY = torch.library.Library(_NAMESPACE, "FRAGMENT")  # type: ignore[no-untyped-call]


def operator(
    schema: str,
    compute: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    remember: Callable[..., None] | None = None,
    over_runs: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Register an operator and return it.

    Args:
        schema: Name, arguments and results, as torch writes them.
        compute: Returns new tensors: neither arguments nor parts of them, nor one twice.
        fake: Returns empty tensors of the same shapes, types and strides.
        backward: As `torch.library.register_autograd` takes it.
        remember: Its `setup_context`.
        over_runs: As `torch.library.register_vmap` takes it.
    """
    name = schema.split("(")[0]
    _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))  # type: ignore[no-untyped-call]
    _LIBRARY.impl(name, compute, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
    whole = f"{_NAMESPACE}::{name}"
    torch.library.register_fake(whole, fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(whole, backward, setup_context=remember, lib=_LIBRARY)
    if over_runs is not None:
        torch.library.register_vmap(whole, over_runs, lib=_LIBRARY)
    made: Callable[..., Any] = getattr(getattr(torch.ops, _NAMESPACE), name).default
    return made


def like(x: Tensor, *_: Any) -> Tensor:
    """Return an empty contiguous tensor of the same shape and type."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def first(info: Any, dim: int | None, x: Tensor) -> Tensor:
    """Return a tensor whose first dimension is the one that vmap takes."""
    return x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
