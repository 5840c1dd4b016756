"""Symmetric products: one triangle's tiles are computed and mirrored, which halves the work."""

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl
from torch import Tensor

from transfer.kernels import INTERPRETED


class Tiles(NamedTuple):
    """Sizes of one program's work, chosen on an H200 at 512 to 2048 rows.

    On Hopper GPUs four warps in three stages leave room for a second program on a multiprocessor,
    which multiplies while the first writes. On an A100, with less shared memory, they do not; what
    is best there was not measured.
    """

    rows: int = 128
    inner: int = 64
    warps: int = 4
    stages: int = 3


TILES = Tiles()


@triton.jit
@no_type_check
def _symmetric(
    x_ptr,
    y_ptr,
    out_ptr,
    M,
    per_matrix,
    alpha,
    beta,
    diagonal,
    K: tl.constexpr,
    ADD_X: tl.constexpr,
    EVEN_K: tl.constexpr,
    WIDE: tl.constexpr,
    BM: tl.constexpr,
    BK: tl.constexpr,
):
    program = tl.program_id(0)
    batch = (program // per_matrix).to(tl.int64)
    number = program % per_matrix
    # Tiles of the lower triangle, row by row: number = row (row + 1) / 2 + column.
    row = ((tl.sqrt(8.0 * number + 1.0) - 1.0) * 0.5).to(tl.int32)
    row = tl.where(row * (row + 1) // 2 > number, row - 1, row)
    row = tl.where((row + 1) * (row + 2) // 2 <= number, row + 1, row)
    column = number - row * (row + 1) // 2
    rows = row * BM + tl.arange(0, BM)
    columns = column * BM + tl.arange(0, BM)
    inner = tl.arange(0, BK)
    x = x_ptr + batch * M * K
    # Rows beyond the last are some other rows, whose products are not stored.
    a_ptr = x + (rows % M)[:, None] * K + inner[None, :]
    b_ptr = y_ptr + batch * M * K + (columns % M)[:, None] * K + inner[None, :]
    total = tl.zeros((BM, BM), dtype=tl.float32)
    for k in range(0, K, BK):
        if EVEN_K:
            a = tl.load(a_ptr)
            b = tl.load(b_ptr)
        else:
            a = tl.load(a_ptr, mask=inner[None, :] < K - k, other=0.0)
            b = tl.load(b_ptr, mask=inner[None, :] < K - k, other=0.0)
        if WIDE:
            a, b = a.to(tl.float32), b.to(tl.float32)
        total = tl.dot(a, tl.trans(b), total)
        a_ptr += BK
        b_ptr += BK
    total *= alpha
    there = (rows[:, None] < M) & (columns[None, :] < M)
    if ADD_X:
        own = tl.load(x + rows[:, None] * K + columns[None, :], mask=there, other=0.0)
        total += beta * own.to(tl.float32)
    total = tl.where(rows[:, None] == columns[None, :], total + diagonal, total)
    tile = total.to(out_ptr.dtype.element_ty)
    out = out_ptr + batch * M * M
    tl.store(out + rows[:, None] * M + columns[None, :], tile, mask=there)
    if row != column:
        mirrored = (columns[:, None] < M) & (rows[None, :] < M)
        tl.store(out + columns[:, None] * M + rows[None, :], tl.trans(tile), mask=mirrored)


def symmetric_product(
    x: Tensor,
    out: Tensor,
    y: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    diagonal: float = 0.0,
    tiles: Tiles = TILES,
) -> Tensor:
    """Write alpha X Y^T + beta X + diagonal I into `out`, accumulated in float32.

    Args:
        x: Contiguous matrices (batch, m, k); symmetric ones if beta is not 0.
        out: Contiguous (batch, m, m), not overlapping x or y.
        y: Contiguous matrices of the same shape, with X Y^T symmetric; without them, X.
        alpha: Factor of the product.
        beta: Factor of X itself.
        diagonal: Added to the diagonal.
        tiles: Sizes of one program's work.
    """
    batch, m, k = x.shape
    side = -(-m // tiles.rows)
    per_matrix = side * (side + 1) // 2
    kernel: Any = _symmetric
    kernel[(batch * per_matrix,)](
        x,
        x if y is None else y,
        out,
        m,
        per_matrix,
        alpha,
        beta,
        diagonal,
        K=k,
        ADD_X=beta != 0,
        EVEN_K=k % tiles.inner == 0,
        # Triton's interpreter multiplies the bits of bfloat16 as whole numbers.
        WIDE=INTERPRETED,
        BM=tiles.rows,
        BK=tiles.inner,
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out
