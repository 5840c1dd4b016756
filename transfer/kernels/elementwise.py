"""Passes over many matrices at once, whose addresses lie in tables.

Every matrix of a call has the same number of entries, contiguous and aligned to 16 bytes. Numbers
of each matrix (weight of the new gradient, factor of the old weights, length of the move) lie in
tables too. One program does one tile of one matrix.
"""

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
SIDE = 64
_TYPES: dict[torch.dtype, Any] = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16}
DTYPES = tuple(_TYPES)


@triton.jit
@no_type_check
def _address(table, i, TYPE: tl.constexpr):
    pointer = tl.load(table + i).to(tl.pointer_type(TYPE))
    return tl.multiple_of(pointer, 16)


@triton.jit
@no_type_check
def _averaged(average_ptr, fresh_ptr, there, weight):
    """Average as torch's lerp does, round, store and return in float32."""
    old = tl.load(average_ptr, mask=there, other=0.0).to(tl.float32)
    new = tl.load(fresh_ptr, mask=there, other=0.0).to(tl.float32)
    small = old + weight * (new - old)
    large = new - (new - old) * (1.0 - weight)
    average = tl.where(weight < 0.5, small, large).to(average_ptr.dtype.element_ty)
    tl.store(average_ptr, average, mask=there)
    return average.to(tl.float32)


@triton.jit
@no_type_check
def _average(
    sources,
    fresh,
    weights,
    partial_ptr,
    numel,
    num_tiles,
    AVERAGE: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    tile = tl.program_id(0)
    i = tl.program_id(1)
    entries = tile * BLOCK + tl.arange(0, BLOCK)
    there = entries < numel
    source = _address(sources, i, TYPE) + entries
    if AVERAGE:
        x = _averaged(source, _address(fresh, i, TYPE) + entries, there, tl.load(weights + i))
    else:
        x = tl.load(source, mask=there, other=0.0).to(tl.float32)
    # float64: squares of float32 neither overflow nor vanish.
    wide = x.to(tl.float64)
    tl.store(partial_ptr + i * num_tiles + tile, tl.sum(wide * wide, 0))


@triton.jit
@no_type_check
def _inverse_lengths(partial_ptr, inverse_ptr, NUM: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0)
    tiles = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), dtype=tl.float64)
    for start in range(0, NUM, BLOCK):
        there = start + tiles < NUM
        total += tl.load(partial_ptr + i * NUM + start + tiles, mask=there, other=0.0)
    square = tl.sum(total, 0)
    inverse = 1.0 / tl.sqrt(tl.where(square == 0.0, 1.0, square))
    # One entry that is not finite spoils its matrix: infinity would otherwise give zeros.
    inverse = tl.where(square < float("inf"), inverse, float("nan"))
    tl.store(inverse_ptr + i, inverse)


@triton.jit
@no_type_check
def _normalise(
    sources,
    inverse_ptr,
    out_ptr,
    numel,
    columns,
    FLIP: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
):
    i = tl.program_id(1)
    source = _address(sources, i, TYPE)
    out = out_ptr + i.to(tl.int64) * numel
    inverse = tl.load(inverse_ptr + i)
    if FLIP:
        across = tl.cdiv(columns, SIDE)
        r = tl.program_id(0) // across * SIDE + tl.arange(0, SIDE)
        c = tl.program_id(0) % across * SIDE + tl.arange(0, SIDE)
        rows = numel // columns
        there = (r[:, None] < rows) & (c[None, :] < columns)
        x = tl.load(source + r[:, None] * columns + c[None, :], mask=there, other=0.0)
        unit = (x.to(tl.float64) * inverse).to(tl.float32).to(out_ptr.dtype.element_ty)
        back = (c[:, None] < columns) & (r[None, :] < rows)
        tl.store(out + c[:, None] * rows + r[None, :], tl.trans(unit), mask=back)
    else:
        entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = entries < numel
        x = tl.load(source + entries, mask=there, other=0.0)
        unit = (x.to(tl.float64) * inverse).to(tl.float32).to(out_ptr.dtype.element_ty)
        tl.store(out + entries, unit, mask=there)


@triton.jit
@no_type_check
def _move(
    targets,
    keeps,
    lengths,
    direction_ptr,
    numel,
    columns,
    FLIP: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    SIDE: tl.constexpr,
):
    i = tl.program_id(1)
    target = _address(targets, i, TYPE)
    direction = direction_ptr + i.to(tl.int64) * numel
    keep = tl.load(keeps + i)
    length = tl.load(lengths + i)
    if FLIP:
        across = tl.cdiv(columns, SIDE)
        r = tl.program_id(0) // across * SIDE + tl.arange(0, SIDE)
        c = tl.program_id(0) % across * SIDE + tl.arange(0, SIDE)
        rows = numel // columns
        there = (r[:, None] < rows) & (c[None, :] < columns)
        back = (c[:, None] < columns) & (r[None, :] < rows)
        flipped = tl.load(direction + c[:, None] * rows + r[None, :], mask=back, other=0.0)
        d = tl.trans(flipped).to(tl.float32)
        place = target + r[:, None] * columns + c[None, :]
    else:
        entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        there = entries < numel
        d = tl.load(direction + entries, mask=there, other=0.0).to(tl.float32)
        place = target + entries
    x = tl.load(place, mask=there, other=0.0).to(tl.float32)
    tl.store(place, (keep * x + length * d).to(place.dtype.element_ty), mask=there)


@triton.jit
@no_type_check
def _sign_step(
    targets,
    sources,
    fresh,
    weights,
    keeps,
    lengths,
    spoiled_ptr,
    numel,
    AVERAGE: tl.constexpr,
    TYPE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(1)
    entries = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = entries < numel
    source = _address(sources, i, TYPE) + entries
    if AVERAGE:
        s = _averaged(source, _address(fresh, i, TYPE) + entries, there, tl.load(weights + i))
    else:
        s = tl.load(source, mask=there, other=0.0).to(tl.float32)
    bad = tl.sum((tl.abs(s) < float("inf")).to(tl.int32), 0) < BLOCK
    if bad:
        tl.store(spoiled_ptr + i, 1)
    sign = tl.where(s > 0, 1.0, tl.where(s < 0, -1.0, 0.0))
    target = _address(targets, i, TYPE) + entries
    x = tl.load(target, mask=there, other=0.0).to(tl.float32)
    moved = tl.load(keeps + i) * x + tl.load(lengths + i) * sign
    tl.store(target, moved.to(target.dtype.element_ty), mask=there)


@triton.jit
@no_type_check
def _spoil(targets, spoiled_ptr, numel, TYPE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(1)
    if tl.load(spoiled_ptr + i) != 0:
        entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        nan = tl.full((BLOCK,), float("nan"), dtype=TYPE)
        tl.store(_address(targets, i, TYPE) + entries, nan, mask=entries < numel)


# --- calls ---


def inverse_lengths(
    sources: Tensor, fresh: Tensor | None, weights: Tensor, numel: int, dtype: torch.dtype
) -> Tensor:
    """Average if there is something fresh, and return 1 / Euclidean length of every source.

    Args:
        sources: Addresses (n,); they become (1 - weight) source + weight fresh.
        fresh: Addresses of new gradients, or None to leave the sources.
        weights: Of the new gradient, (n,), float32.
        numel: Entries of each matrix.
        dtype: Of the matrices.

    Returns:
        float64 (n,): 1 for zeros, NaN where an entry is not finite.
    """
    num = len(sources)
    tiles = triton.cdiv(numel, BLOCK)
    partial = torch.empty((num, tiles), dtype=torch.float64, device=sources.device)
    _launch(
        _average,
        (tiles, num),
        sources,
        sources if fresh is None else fresh,
        weights,
        partial,
        numel,
        tiles,
        AVERAGE=fresh is not None,
        TYPE=_TYPES[dtype],
        BLOCK=BLOCK,
        num_warps=8,
    )
    inverse = torch.empty(num, dtype=torch.float64, device=sources.device)
    _launch(_inverse_lengths, (num,), partial, inverse, NUM=tiles, BLOCK=1024)
    return inverse


def normalise(
    sources: Tensor, inverse: Tensor, out: Tensor, columns: int, flip: bool, dtype: torch.dtype
) -> None:
    """Write source * inverse, transposed if `flip`, into `out`.

    Args:
        sources: Addresses (n,) of matrices with that number of columns.
        inverse: Factors (n,), float64.
        out: Contiguous, (n, rows, columns), or (n, columns, rows) if `flip`.
        columns: Of the sources.
        flip: Whether to transpose.
        dtype: Of the sources.
    """
    numel = out[0].numel()
    _launch(
        _normalise,
        _grid(len(sources), numel, columns, flip),
        sources,
        inverse,
        out,
        numel,
        columns,
        FLIP=flip,
        TYPE=_TYPES[dtype],
        BLOCK=BLOCK,
        SIDE=SIDE,
        num_warps=8,
    )


def move(
    targets: Tensor,
    keeps: Tensor,
    lengths: Tensor,
    directions: Tensor,
    columns: int,
    flip: bool,
    dtype: torch.dtype,
) -> None:
    """Do target <- keep * target + length * direction, transposed if `flip`.

    Args:
        targets: Addresses (n,) of matrices with that number of columns.
        keeps: Factors (n,), float32.
        lengths: Factors (n,), float32.
        directions: As `out` of `normalise`.
        columns: Of the targets.
        flip: Whether the directions are transposed.
        dtype: Of the targets.
    """
    numel = directions[0].numel()
    _launch(
        _move,
        _grid(len(targets), numel, columns, flip),
        targets,
        keeps,
        lengths,
        directions,
        numel,
        columns,
        FLIP=flip,
        TYPE=_TYPES[dtype],
        BLOCK=BLOCK,
        SIDE=SIDE,
        num_warps=8,
    )


def sign_step(
    targets: Tensor,
    sources: Tensor,
    fresh: Tensor | None,
    numbers: Tensor,
    numel: int,
    dtype: torch.dtype,
) -> None:
    """Do target <- keep * target + length * sign(source), after averaging as `inverse_lengths`.

    A source with an entry that is not finite makes the whole target NaN.

    Args:
        targets: Addresses (n,).
        sources: Addresses (n,).
        fresh: Addresses (n,) of new gradients, or None.
        numbers: Weights, keeps and lengths, (3, n), float32.
        numel: Entries of each.
        dtype: Of all of them.
    """
    num = len(targets)
    spoiled = torch.zeros(num, dtype=torch.int32, device=targets.device)
    kind = {"TYPE": _TYPES[dtype], "BLOCK": BLOCK, "num_warps": 8}
    grid = (triton.cdiv(numel, BLOCK), num)
    _launch(
        _sign_step,
        grid,
        targets,
        sources,
        sources if fresh is None else fresh,
        numbers[0],
        numbers[1],
        numbers[2],
        spoiled,
        numel,
        AVERAGE=fresh is not None,
        **kind,
    )
    _launch(_spoil, grid, targets, spoiled, numel, **kind)


def _grid(num: int, numel: int, columns: int, flip: bool) -> tuple[int, int]:
    if not flip:
        return triton.cdiv(numel, BLOCK), num
    return triton.cdiv(columns, SIDE) * triton.cdiv(numel // columns, SIDE), num


def _launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    kernel[grid](*args, **options)
