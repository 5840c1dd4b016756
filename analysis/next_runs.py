"""The runs that would decide an undecided verdict."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from analysis.axes import Array, Axis
from analysis.grids import Point, Side, find
from analysis.landscapes import Landscape
from analysis.result import NextRun
from analysis.rule import Cell, Judgement, t_quantile

_MOST = 32
"""More seeds than this for one cell are not proposed: ask for a larger epsilon instead."""


def beyond_the_edges(landscapes: Sequence[Landscape]) -> tuple[NextRun, ...]:
    """One more grid point, with as many seeds, beyond each edge that holds an argmin.

    None lies beyond an axis's bounds: a step that would pass them ends there.
    """
    runs = []
    for c in landscapes:
        if c.best is None:
            continue
        seeds = int(c.num_seeds[find(c.points, c.best, c.axes)][0])
        for k, side in c.censored.items():
            levels = np.unique(c.t[:, k])
            sides: tuple[Side, ...] = ("below", "above") if side == "alone" else (side,)
            for one in sides:
                value = _beyond(c.axes[k], levels, c.best[k], one)
                if value is not None:
                    runs.append(_run(c.size, [*c.best[:k], value, *c.best[k + 1 :]], c.axes, seeds))
    return tuple(runs)


def _beyond(axis: Axis, levels: Array, edge: float, side: Side) -> float | None:
    """Return the next value of a hyperparameter, as far from the last one as that is from the one
    before it; None if it is not allowed."""
    t = float(axis.forward(edge))
    inward = levels[levels > t].min(initial=math.inf) - t
    if side == "above":
        inward = t - levels[levels < t].max(initial=-math.inf)
    step = inward if math.isfinite(inward) else 1.0
    value = axis.clip(axis.back(t - step if side == "below" else t + step))
    return None if axis.same([value], edge)[0] else value


def more_seeds(
    judgement: Judgement[Point],
    cells: Mapping[tuple[float, Point], Mapping[int, float]],
    axes: Sequence[Axis],
    reference: Point,
) -> tuple[NextRun, ...]:
    """Seeds for the cells that block, and as many for the reference beside them.

    Computed for the next look, at half the level, as if means and variances
    stayed as they are. Where the reference was not run, as many as others have.
    """
    runs = [
        _run(j.size, reference, axes, max(len(v) for (w, _), v in cells.items() if w == j.size))
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
        runs += [_run(size, s, axes, num) for s, num in pairs.items() if num]
    return tuple(runs)


def _run(size: float, point: Sequence[float], axes: Sequence[Axis], num: int) -> NextRun:
    values = {axis.name: float(v) for axis, v in zip(axes, point, strict=True)}
    return NextRun(size=size, comparator=values, more_seeds=num)


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
