"""Rows of a table, one for every token, where tokens are many more than rows.

What is computed of every token alone, before positions matter, is the same for all that are alike:
it is computed for each row of the vocabulary once. Shapes: R runs, B batch, T positions, D width,
V rows.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from transfer.models.linear import in_float32
from transfer.models.operators import Dims, first, operator

_LEAST_REPEATS = 8
"""Tokens for each row, from which on it pays."""


def repeats(tokens: Tensor, vocabulary: int) -> bool:
    """Whether so many tokens are alike that their rows are better computed once each."""
    return tokens.numel() >= _LEAST_REPEATS * vocabulary


def lookup(table: Float[Tensor, "V D"], tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """Return the row of every token; the gradients of rows are summed in float32."""
    out: Tensor = _lookup(table, tokens)
    return out


def _flat(table: Tensor, tokens: Tensor) -> Tensor:
    """Return the place of every token in the rows of all runs."""
    if table.ndim == 2:
        return tokens.flatten()
    first_rows = torch.arange(len(table), device=tokens.device) * table.shape[-2]
    return (tokens.flatten(1) + first_rows[:, None]).flatten()


def _lookup_compute(table: Tensor, tokens: Tensor) -> Tensor:
    rows = table.reshape(-1, table.shape[-1]).index_select(0, _flat(table, tokens))
    return rows.reshape(*tokens.shape, -1)


def _lookup_backward_compute(gradient: Tensor, tokens: Tensor, rows: int) -> Tensor:
    runs = tokens.shape[: tokens.ndim - 2]
    # As a product: adding up row by row, thousands would wait for each of a few places.
    names = torch.arange(rows + -rows % 8, device=tokens.device)
    same = (tokens.reshape(*runs, -1, 1) == names).to(gradient.dtype)
    flat = gradient.reshape(*runs, -1, gradient.shape[-1])
    return in_float32(same.mT, flat)[..., :rows, :].to(gradient.dtype)


def _lookup_remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.rows = inputs[0].shape[-2]


def _lookup_back(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return _lookup_backward(gradient, *ctx.saved_tensors, ctx.rows), None


def _lookup_over_runs(
    info: Any, in_dims: Dims, table: Tensor, tokens: Tensor
) -> tuple[Tensor, int]:
    return _lookup(first(info, in_dims[0], table), first(info, in_dims[1], tokens)), 0


_lookup_backward = operator(
    "lookup_backward(Tensor gradient, Tensor tokens, int rows) -> Tensor",
    _lookup_backward_compute,
    fake=lambda gradient, tokens, rows: gradient.new_empty(
        (*tokens.shape[:-2], rows, gradient.shape[-1])
    ),
)
_lookup: Callable[..., Any] = operator(
    "lookup(Tensor table, Tensor tokens) -> Tensor",
    _lookup_compute,
    fake=lambda table, tokens: table.new_empty((*tokens.shape, table.shape[-1])),
    backward=_lookup_back,
    remember=_lookup_remember,
    over_runs=_lookup_over_runs,
)
