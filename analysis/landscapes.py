"""One landscape per (group, size): a curve over one hyperparameter, a surface over two.

Its cells, its best one, and its optimum. Everything here describes; no decision hangs on it (see
rule.py for that).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.axes import Array, Axis
from analysis.grids import Grid, Ints, Point, Side, find, pooled, scatter
from analysis.optimum import Optimum, optimum
from analysis.rule import BASIN, Noise


@dataclass(frozen=True, slots=True, eq=False)
class Landscape:
    """Loss against the hyperparameters at one size; arrays run over the cells."""

    group: str
    size: float
    axes: tuple[Axis, ...]
    points: Array
    """(cells, axes) grid points, in increasing order."""
    mean: Array
    """Mean loss over seeds; NaN where a seed diverged."""
    low: Array
    """Smallest loss over seeds: with two or three seeds a range hides nothing."""
    high: Array
    """Largest loss over seeds."""
    num_seeds: Ints
    num_diverged: Ints
    best: Point | None
    """Grid argmin; None if every cell diverged."""
    best_loss: float
    """NaN if every cell diverged."""
    optimum: Optimum
    """Interpolated, on the axes' scales; where it is censored, on the grid's edge. NaN if every
    cell diverged."""
    censored: Mapping[int, Side]
    """The axes along which the optimum may lie outside the grid, and on which side."""
    near_optimal: tuple[Point, ...]
    """Grid points not worse than the best by more than epsilon."""

    @property
    def t(self) -> Array:
        """(cells, axes) grid points on the axes' scales."""
        return _places(self.points, self.axes)

    def loss_at(self, point: Point) -> float:
        """Mean loss at a grid point; NaN if it diverged or is no grid point."""
        hit = find(self.points, point, self.axes)
        return float(self.mean[hit][0]) if hit.any() else math.nan


def build_landscapes(
    table: pd.DataFrame,
    axes: Sequence[Axis],
    *,
    epsilon: float,
    seed: int = 0,
    prefer: Point | None = None,
) -> list[Landscape]:
    """Build one landscape per (group, size) of a canonical table (see load.tidy).

    Of cells with equal means the argmin is the one at `prefer`, else the
    middle one of those inside the grid, else of all.

    Args:
        table: Columns group, size, x (and x2), seed, loss.
        axes: What x (and x2) are.
        epsilon: Loss difference that matters: defines the near-optimal set and
            how far from the best a cell still informs the optimum.
        seed: Of the bootstrap; the same seed gives the same intervals.
        prefer: Grid point that wins ties.

    Raises:
        ValueError: a grid point lies beyond an axis's bounds.
    """
    for axis, column in zip(axes, ("x", "x2"), strict=False):
        axis.check(table[column].unique())
    found = []
    for _, rows in table.groupby("group", sort=True):
        parts = [part for _, part in rows.groupby("size", sort=True)]
        grids = [Grid(part, axes, epsilon, prefer) for part in parts]
        noise = pooled([g.noise() for g in grids])
        found += [_landscape(g, epsilon, noise, seed) for g in grids]
    return found


def smooth_noise(landscapes: Sequence[Landscape], epsilon: float) -> Noise:
    """Variance of one run from the scatter about a quadratic over each basin, for tables with one
    seed."""
    parts = []
    for c in landscapes:
        basin = np.flatnonzero(c.mean <= c.best_loss + BASIN * epsilon)
        parts.append(scatter(_places(c.points[basin], c.axes), c.mean[basin]))
    return pooled(parts)


def _places(points: Array, axes: Sequence[Axis]) -> Array:
    return np.stack([a.forward(points[:, k]) for k, a in enumerate(axes)], axis=1)


def _landscape(g: Grid, epsilon: float, noise: Noise, seed: int) -> Landscape:
    cells = (g.group, g.size, g.axes, g.points, g.mean, g.low, g.high, g.num_seeds, g.num_diverged)
    if not g.finite.size:
        nothing = (math.nan,) * len(g.axes)
        return Landscape(*cells, None, math.nan, Optimum(nothing, nothing, nothing), {}, ())
    best, censored = float(g.mean[g.argmin]), g.sides(g.argmin)
    found = _held(optimum(g, noise, seed), g.t[g.argmin], censored)
    near = tuple(tuple(p) for p in g.points[g.mean <= best + epsilon].tolist())
    at = tuple(g.points[g.argmin].tolist())
    return Landscape(*cells, at, best, found, censored, near)


def _held(found: Optimum, edge: Array, censored: Mapping[int, Side]) -> Optimum:
    """Put an optimum that may lie beyond the grid on its edge, and leave its interval open."""
    at, low, high = list(found.at), list(found.low), list(found.high)
    for k, side in censored.items():
        at[k] = float(edge[k])
        low[k] = at[k] if side == "above" else -math.inf
        high[k] = at[k] if side == "below" else math.inf
    if not censored:
        return found
    return Optimum(tuple(at), tuple(low), tuple(high), None, found.tilt, found.told)
