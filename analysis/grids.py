"""The cells of one size: every setting that was run there, with its losses over the seeds.

A setting is a point of as many hyperparameters as the sweep varied at once.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.axes import Array, Axis, Mask
from analysis.rule import BASIN, Noise

Ints = npt.NDArray[np.integer[Any]]
Point = tuple[float, ...]
Side = Literal["below", "above", "alone"]

_REACH = 2  # grid values on each side of the argmin that the fit about it sees
_FARTHEST = 1e6
"""Basins above the best beyond which a cell weighs nothing anyway."""
_TIE = 1e-12


class Grid:
    """The cells of one (group, size); arrays run over the cells.

    Attributes:
        points: (cells, axes) values of the hyperparameters, in increasing order.
        t: The same on the scales of the axes.
        mean, low, high: Over the seeds; NaN where one diverged.
        argmin: Index of the best cell; -1 if every cell diverged. Of cells with equal means it is
            the preferred point, else the middle one of those inside the grid, else of all.
        basin: Cells about the argmin whose means are within BASIN * epsilon of it.
        weight: What a cell counts when a parabola is fitted.
    """

    def __init__(
        self, rows: pd.DataFrame, axes: Sequence[Axis], epsilon: float, prefer: Point | None
    ) -> None:
        self.axes = tuple(axes)
        self.group, self.size = str(rows["group"].iloc[0]), rows["size"].iloc[0].item()
        self.points, at = _cells(rows, len(axes))
        self.t: Array = np.stack([a.forward(self.points[:, k]) for k, a in enumerate(axes)], axis=1)
        names, column = np.unique(rows["seed"].to_numpy(), return_inverse=True)
        # Seeds in columns: a missing run is NaN like a diverged one, so they are counted apart.
        self.losses: Array = np.full((len(self.points), names.size), np.nan)
        self.losses[at, column] = rows["loss"].to_numpy()
        self.num_seeds: Ints = np.bincount(at)
        alive = np.isfinite(self.losses)
        self.num_diverged: Ints = self.num_seeds - alive.sum(axis=1)
        ok = self.num_diverged == 0
        total = np.where(alive, self.losses, 0.0).sum(axis=1)
        self.mean: Array = np.where(ok, total / self.num_seeds, np.nan)
        self.low: Array = np.where(ok, np.fmin.reduce(self.losses, axis=1), np.nan)
        self.high: Array = np.where(ok, np.fmax.reduce(self.losses, axis=1), np.nan)
        self.finite: Ints = np.flatnonzero(ok)
        self.argmin = self._argmin(prefer)
        self.window = self.window_at(self.argmin) if self.finite.size else self.finite
        best = np.nanmin(self.mean) if self.finite.size else math.nan
        excess = np.minimum((self.mean - best) / (BASIN * epsilon), _FARTHEST)
        self.basin = self.window[excess[self.window] <= 1]
        # Inverse variance of the mean, fading where the landscape is no parabola any more.
        self.weight: Array = self.num_seeds / (1 + excess**4) ** 2

    def _argmin(self, prefer: Point | None) -> int:
        if not self.finite.size:
            return -1
        ties = np.flatnonzero(self.mean <= tied(float(np.nanmin(self.mean)))).tolist()
        home = [] if prefer is None else [i for i in ties if self.find(prefer)[i]]
        inside = [i for i in ties if not self.sides(i, bounded=False)] if len(ties) > 1 else []
        among = home or inside or ties
        return int(among[(len(among) - 1) // 2])

    def find(self, point: Point) -> Mask:
        """Tell which cells are at a point."""
        return find(self.points, point, self.axes)

    def line(self, cell: int, axis: int) -> Ints:
        """Return the cells that differ from one in this axis alone, itself included."""
        rest = np.delete(self.points, axis, axis=1)
        return np.flatnonzero((rest == rest[cell]).all(axis=1))

    def sides(self, cell: int, *, bounded: bool = True) -> dict[int, Side]:
        """Return the axes along which nothing was run beyond a cell, and on which side.

        What counts are cells that differ in that axis alone; "alone" where there are none. A cell
        that diverged is a cliff: it brackets. With `bounded` so does the end of what is allowed.
        """
        found: dict[int, Side] = {}
        for k, axis in enumerate(self.axes):
            at, values = float(self.points[cell, k]), self.points[self.line(cell, k), k]
            low, high = (axis.low, axis.high) if bounded else (None, None)
            below = at == values.min() and not (low is not None and axis.same([low], at)[0])
            above = at == values.max() and not (high is not None and axis.same([high], at)[0])
            if below or above:
                found[k] = "alone" if below and above else "below" if below else "above"
        return found

    def beside(self, cell: int, reach: int, *, finite: bool = False) -> list[tuple[float, float]]:
        """Return the places so many steps below and above a cell on its line, for each axis."""
        found = []
        for k, t in enumerate(self.t[cell].tolist()):
            line = self.line(cell, k)
            line = np.intersect1d(line, self.finite) if finite else line
            places = np.unique(self.t[line, k])
            at = int(np.searchsorted(places, t))
            low, high = places[max(at - reach, 0)], places[min(at + reach, places.size - 1)]
            found.append((float(low), float(high)))
        return found

    def is_grid_at(self, cell: int) -> bool:
        """Tell whether every combination of a cell's neighbours was run: of a star or of settings
        drawn at random they were not."""
        around = self.beside(cell, 1)
        places = [{low, t, high} for (low, high), t in zip(around, self.t[cell], strict=True)]
        ran = set(map(tuple, self.t.tolist()))
        return all(place in ran for place in itertools.product(*places))

    def window_at(self, cell: int) -> Ints:
        """Return the finite cells that the fit about a finite cell sees."""
        low, high = np.array(self.beside(cell, _REACH, finite=True)).T
        t = self.t[self.finite]
        return np.asarray(self.finite[((t >= low) & (t <= high)).all(axis=1)])

    def noise(self) -> Noise:
        """Variance of one run about cell + seed (seeds share batches), else about a parabola."""
        y = self.losses[self.basin]
        y = y[:, np.isfinite(y).all(axis=0)]
        cells, seeds = y.shape
        if seeds < 2 or cells < 2:
            return scatter(self.t[self.basin], self.mean[self.basin])
        rest = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
        df = (cells - 1) * (seeds - 1)
        return Noise(float((rest**2).sum()) / df, df)


def _cells(rows: pd.DataFrame, num_axes: int) -> tuple[Array, Ints]:
    """Return the distinct points of a table, and for each row which one it is."""
    if num_axes == 1:  # for long tables a tenth of the time
        x, at = np.unique(rows["x"].to_numpy(dtype=float), return_inverse=True)
        return x[:, None], at
    columns = rows[point_columns(num_axes)].to_numpy(dtype=float)
    points, at = np.unique(columns, axis=0, return_inverse=True)
    return points, at.reshape(-1)


def point_columns(num_axes: int) -> list[str]:
    """Return the names of the hyperparameters' columns in a canonical table: x, x2, x3."""
    return ["x", *(f"x{k + 1}" for k in range(1, num_axes))]


def find(points: Array, point: Point, axes: Sequence[Axis]) -> Mask:
    """Tell which of some points (cells, axes) are one with another, apart from rounding."""
    hits = [axis.same(points[:, k], point[k]) for k, axis in enumerate(axes)]
    return np.asarray(np.logical_and.reduce(hits))


def tied(best: float) -> float:
    """Largest mean that equals the best, apart from rounding."""
    return best + _TIE * abs(best)


def quadratic(u: Array) -> Array:
    """Return the columns of a full quadratic in (rows, axes): squares, products, linear, 1."""
    axes = range(u.shape[1])
    columns = [u[:, k] ** 2 for k in axes]
    columns += [u[:, j] * u[:, k] for j in axes for k in axes if j < k]
    return np.stack([*columns, *u.T, np.ones(len(u))], axis=1)


def scatter(t: Array, y: Array) -> Noise:
    """Variance about a quadratic, for tables with one seed.

    What it misses counts as noise, so the estimate errs on the large side.
    """
    if len(t) == 0:
        return Noise(0.0, 0)
    span = np.maximum(np.abs(t - t.mean(axis=0)).max(axis=0), np.finfo(float).tiny)
    design = quadratic((t - t.mean(axis=0)) / span)
    found, _, rank, _ = np.linalg.lstsq(design, y, rcond=None)
    df = len(y) - int(rank)
    if df < 1:
        return Noise(0.0, 0)
    return Noise(float(((y - design @ found) ** 2).sum()) / df, df)


def pooled(parts: Sequence[Noise]) -> Noise:
    """Join variances, each as much as it is worth."""
    df = sum(p.df for p in parts)
    return Noise(sum(p.df * p.variance for p in parts) / df if df else 0.0, df)
