"""The runs that would decide an undecided verdict."""

import math
from collections.abc import Mapping, Sequence

from analysis.curves import Curve, same_x
from analysis.result import NextRun
from analysis.rule import Cell, Judgement, t_quantile
from analysis.words import Point

_MOST = 32
"""More seeds than this for one cell are not proposed: ask for a larger epsilon instead."""


def beyond_the_edges(
    curves: Sequence[Curve], x: str, x_limit: float | None = None
) -> tuple[NextRun, ...]:
    """One more grid point, with as many seeds, beyond each edge that holds an argmin.

    None lies above `x_limit`: a step that would pass it ends there.
    """
    most = math.inf if x_limit is None else x_limit
    runs = []
    for c in curves:
        if c.censored is None:
            continue
        ratio = c.x[1] / c.x[0] if c.x.size > 1 else 2.0
        if c.censored == "below":
            runs.append(_run(c.size, {x: c.x[0] / ratio}, int(c.num_seeds[0])))
        if c.censored == "above" or c.x.size == 1:
            if c.x.size > 1:
                ratio = c.x[-1] / c.x[-2]
            if c.x[-1] < most and not same_x(c.x[-1], most):
                value = min(c.x[-1] * ratio, most)
                runs.append(_run(c.size, {x: value}, int(c.num_seeds[-1])))
    return tuple(runs)


def more_seeds(
    judgement: Judgement[Point],
    cells: Mapping[tuple[float, Point], Mapping[int, float]],
    columns: Sequence[str],
    reference: Point,
) -> tuple[NextRun, ...]:
    """Seeds for the cells that block, and as many for the reference beside them.

    Computed for the next look, at half the level, as if means and variances
    stayed as they are. Where the reference was not run, as many as others have.
    """
    home = dict(zip(columns, reference, strict=True))
    runs = [
        _run(j.size, home, max(len(losses) for (w, _), losses in cells.items() if w == j.size))
        for j in judgement.sizes
        if j.untested
    ]
    blocking = {(j.size, s) for j in judgement.sizes for s in j.blocking}
    open_cells = [c for c in judgement.cells if (c.size, c.comparator) in blocking]
    # A comparator that looks better by more than epsilon decides alone, against the transfer.
    ahead = [c for c in open_cells if (c.difference or 0.0) > judgement.epsilon]
    for size in sorted({c.size for c in ahead or open_cells}):
        wanted = {
            c.comparator: _missing_seeds(c, judgement, len(cells[size, reference]))
            for c in ahead or open_cells
            if c.size == size
        }
        pairs = {reference: max(wanted.values()), **wanted}
        runs += [
            _run(size, dict(zip(columns, s, strict=True)), num) for s, num in pairs.items() if num
        ]
    return tuple(runs)


def _run(size: float, comparator: Mapping[str, float], num: int) -> NextRun:
    return NextRun(
        size=size, comparator={k: float(v) for k, v in comparator.items()}, more_seeds=num
    )


def _missing_seeds(cell: Cell[Point], judgement: Judgement[Point], reference_seeds: int) -> int:
    if cell.difference is None:
        return reference_seeds
    if cell.std_error is None:
        return 2  # the noise is unknown: two more seeds measure it
    n, level = cell.num_pairs, judgement.level / 2
    gap = abs(cell.difference - judgement.epsilon)
    if cell.difference > judgement.epsilon:
        level /= len(judgement.cells)
    variance = cell.std_error**2 * n
    for extra in range(1, _MOST):
        df = cell.df * (n + extra - 1) / max(n - 1, 1) if n > 1 else extra
        if t_quantile(df, 1 - level) * math.sqrt(variance / (n + extra)) <= gap:
            return extra
    return _MOST
