"""One loss curve per (group, size): its cells, its optimum, and how optima drift.

Everything here describes; no decision hangs on it (see rule.py for that). The
optimum is the vertex of a weighted parabola in log2 x over the argmin and two
cells on each side, clipped to one cell about the argmin.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.rule import BASIN, Noise, t_quantile

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Censored = Literal["below", "above"] | None

_REACH = 2  # cells on each side of the argmin that the parabola sees
_FARTHEST = 1e6
"""Basins above the best beyond which a cell weighs nothing anyway."""
_NUM_DRAWS = 400
_COVERAGE = 0.95
_TIE = 1e-12


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Loss against the hyperparameter at one size; arrays run over the cells."""

    group: str
    size: float
    x: Array
    """Grid points, increasing."""
    mean: Array
    """Mean loss over seeds; NaN where a seed diverged."""
    low: Array
    """Smallest loss over seeds: with two or three seeds a range hides nothing."""
    high: Array
    """Largest loss over seeds."""
    num_seeds: Ints
    num_diverged: Ints
    best_x: float
    """Grid argmin; NaN if every cell diverged, as are the next three."""
    best_loss: float
    optimum_log2: float
    """log2 of the interpolated optimum; on the grid's edge if censored."""
    optimum_low: float
    """95 % bootstrap interval; -inf if the optimum may lie below the grid."""
    optimum_high: float
    censored: Censored
    """Side of the grid on which the optimum may lie outside it."""
    near_optimal: tuple[float, ...]
    """Grid points not worse than the best by more than epsilon."""

    def loss_at(self, x: float) -> float:
        """Mean loss at a grid point; NaN if it diverged or is no grid point."""
        hit = np.isclose(self.x, x, rtol=1e-9, atol=0.0)
        return float(self.mean[hit][0]) if hit.any() else math.nan


@dataclass(frozen=True, slots=True)
class Drift:
    """Line through the uncensored optima: x* = coefficient * size ** exponent."""

    slope: float
    """Change of log2 x* per doubling of the size; the power law's exponent."""
    intercept: float
    """log2 x* at size 1."""
    low: float | None
    """95 % t-interval from the scatter about the line; None below three sizes."""
    high: float | None
    num_sizes: int
    num_censored: int
    left_out_low: float | None = None
    """Smallest and largest slope with any one size left out; None below three sizes."""
    left_out_high: float | None = None

    @property
    def exponent(self) -> float:
        return self.slope

    @property
    def coefficient(self) -> float:
        return float(2.0**self.intercept)

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def log2_at(self, size: float) -> float:
        return self.intercept + self.slope * math.log2(size)


def same_x(a: float, b: float) -> bool:
    """Tell whether two numbers are one grid point, apart from rounding."""
    return math.isclose(a, b, rel_tol=1e-9)


def build_curves(
    table: pd.DataFrame,
    *,
    epsilon: float,
    seed: int = 0,
    x_limit: float | None = None,
    prefer: float | None = None,
) -> list[Curve]:
    """Build one curve per (group, size) of a canonical table (see load.tidy).

    Of cells with equal means the argmin is the one at `prefer`, else the
    middle one of those inside the grid, else the first.

    Args:
        table: Columns group, size, x, seed, loss.
        epsilon: Loss difference that matters: defines the near-optimal set and
            how far from the best a cell still informs the optimum.
        seed: Of the bootstrap; the same seed gives the same intervals.
        x_limit: Largest value that is allowed at all: an argmin there is the
            optimum and no grid's edge.
        prefer: Grid point that wins ties.

    Raises:
        ValueError: `x_limit` is not positive, or a grid point lies above it.
    """
    _check_limit(table, x_limit)
    curves = []
    for _, rows in table.groupby("group", sort=True):
        parts = [part for _, part in rows.groupby("size", sort=True)]
        grids = [_Grid(part, epsilon, x_limit, prefer) for part in parts]
        noise = _pooled_noise(grids)
        curves += [_curve(g, epsilon, noise, seed) for g in grids]
    return curves


def _check_limit(table: pd.DataFrame, x_limit: float | None) -> None:
    if x_limit is None:
        return
    if not x_limit > 0:
        raise ValueError(f"x_limit must be positive, got {x_limit}")
    largest = float(table["x"].max())
    if largest > x_limit and not same_x(largest, x_limit):
        raise ValueError(f"x_limit {x_limit:g} must not lie below a grid point, got {largest:g}")


def fit_drift(curves: Sequence[Curve]) -> Drift | None:
    """Fit log2 x* against log2 size over the uncensored curves of one group.

    The interval comes from the scatter about the line (sizes - 2 degrees of
    freedom): it covers both seed noise and bends of the true relation, which
    slopes fitted seed by seed would not. None with fewer than two sizes.
    """
    usable = [c for c in curves if c.censored is None and math.isfinite(c.optimum_log2)]
    num = len({c.size for c in usable})
    if num < 2:
        return None
    sizes = np.log2([c.size for c in usable])
    optima = np.array([c.optimum_log2 for c in usable])
    slope, intercept, spread = _line(sizes, optima)
    low = high = None
    others: list[float] = []
    if num >= 3:
        rest = optima - intercept - slope * sizes
        df = len(usable) - 2
        half = t_quantile(df, 0.5 + _COVERAGE / 2) * math.sqrt(float(rest @ rest) / df / spread)
        low, high = slope - half, slope + half
        kept = [sizes != left_out for left_out in np.unique(sizes)]
        others = [_line(sizes[k], optima[k])[0] for k in kept]
    return Drift(
        slope, intercept, low, high, num, len(curves) - len(usable),
        min(others, default=None), max(others, default=None),
    )  # fmt: skip


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Return slope, intercept, and the sum of squares of x about its mean."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    return slope, float(y.mean() - slope * x.mean()), spread


def smooth_noise(curves: Sequence[Curve], epsilon: float) -> Noise:
    """Variance of one run from the scatter about a parabola over each basin.

    For tables with one seed. What the parabola misses counts as noise, so the
    estimate errs on the large side.
    """
    squares, df = 0.0, 0
    for c in curves:
        basin = np.flatnonzero(c.mean <= c.best_loss + BASIN * epsilon)
        if basin.size > 3:
            rest = _residuals(np.log2(c.x[basin]), c.mean[basin])
            squares, df = squares + float(rest @ rest), df + basin.size - 3
    return Noise(squares / df if df else 0.0, df)


class _Grid:
    """The cells of one (group, size) and the window its parabola sees."""

    def __init__(
        self, rows: pd.DataFrame, epsilon: float, x_limit: float | None, prefer: float | None
    ) -> None:
        self.group, self.size = str(rows["group"].iloc[0]), rows["size"].iloc[0].item()
        x, seeds, loss = (rows[c].to_numpy() for c in ("x", "seed", "loss"))
        self.x, at = np.unique(x.astype(float), return_inverse=True)
        names, column = np.unique(seeds, return_inverse=True)
        # Seeds in columns: a missing run is NaN like a diverged one, so they are counted apart.
        self.losses: Array = np.full((self.x.size, names.size), np.nan)
        self.losses[at, column] = loss
        self.num_seeds: Ints = np.bincount(at)
        alive = np.isfinite(self.losses)
        self.num_diverged: Ints = self.num_seeds - alive.sum(axis=1)
        ok = self.num_diverged == 0
        total = np.where(alive, self.losses, 0.0).sum(axis=1)
        self.mean: Array = np.where(ok, total / self.num_seeds, np.nan)
        self.low: Array = np.where(ok, np.fmin.reduce(self.losses, axis=1), np.nan)
        self.high: Array = np.where(ok, np.fmax.reduce(self.losses, axis=1), np.nan)
        self.finite: Ints = np.flatnonzero(ok)
        self.at_limit = x_limit is not None and same_x(self.x[-1], x_limit)
        self.argmin = self._argmin(prefer)
        self.window = self.window_at(self.argmin) if self.finite.size else self.finite
        best = np.nanmin(self.mean) if self.finite.size else math.nan
        excess = np.minimum((self.mean - best) / (BASIN * epsilon), _FARTHEST)
        self.basin = self.window[excess[self.window] <= 1]
        # Inverse variance of the mean, fading where the curve is no parabola any more.
        self.weight: Array = self.num_seeds / (1 + excess**4) ** 2

    def _argmin(self, prefer: float | None) -> int:
        """Index of the best cell, ties as build_curves says; -1 if every cell diverged."""
        if not self.finite.size:
            return -1
        ties = np.flatnonzero(self.mean <= tied(float(np.nanmin(self.mean))))
        home = [i for i in ties if prefer is not None and same_x(self.x[i], prefer)]
        inside = ties[(ties > 0) & (ties < self.x.size - 1)]
        among = home or inside.tolist() or ties.tolist()
        return int(among[(len(among) - 1) // 2])

    def window_at(self, argmin: int) -> Ints:
        """Return the finite cells that the parabola about a finite cell is fitted to."""
        at = int(np.searchsorted(self.finite, argmin))
        return self.finite[max(at - _REACH, 0) : at + _REACH + 1]

    def noise(self) -> Noise:
        """Variance of one run about cell + seed (seeds share batches), else about a parabola."""
        y = self.losses[self.basin]
        y = y[:, np.isfinite(y).all(axis=0)]
        cells, seeds = y.shape
        if seeds >= 2 and cells >= 2:
            rest = y - y.mean(axis=0) - y.mean(axis=1, keepdims=True) + y.mean()
            df = (cells - 1) * (seeds - 1)
        elif cells > 3:
            rest, df = _residuals(np.log2(self.x[self.basin]), self.mean[self.basin]), cells - 3
        else:
            return Noise(0.0, 0)
        return Noise(float((rest**2).sum()) / df, df)


def tied(best: float) -> float:
    """Largest mean that equals the best, apart from rounding."""
    return best + _TIE * abs(best)


def _residuals(t: Array, y: Array) -> Array:
    return np.asarray(y - np.polyval(np.polyfit(t - t.mean(), y, 2), t - t.mean()))


def _pooled_noise(grids: Sequence[_Grid]) -> Noise:
    parts = [g.noise() for g in grids]
    df = sum(p.df for p in parts)
    return Noise(sum(p.df * p.variance for p in parts) / df if df else 0.0, df)


def _curve(g: _Grid, epsilon: float, noise: Noise, seed: int) -> Curve:
    nan = math.nan
    found: tuple[Any, ...] = (nan, nan, nan, nan, nan, None, ())
    if g.finite.size:
        argmin, best = g.argmin, float(g.mean[g.argmin])
        censored = _censored(g)
        near = tuple(float(v) for v in g.x[g.mean <= best + epsilon])
        found = (float(g.x[argmin]), best, *_optimum(g, noise, seed), censored, near)
        if censored is not None:
            edge = float(np.log2(g.x[argmin]))
            open_end = (-math.inf, edge) if censored == "below" else (edge, math.inf)
            found = (*found[:2], edge, *open_end, censored, near)
    return Curve(g.group, g.size, g.x, g.mean, g.low, g.high, g.num_seeds, g.num_diverged, *found)


def _censored(g: _Grid) -> Censored:
    """A cell that diverged beyond the argmin is a cliff: it brackets the optimum."""
    if g.argmin == 0:
        return "below"
    return "above" if g.argmin == g.x.size - 1 and not g.at_limit else None


def _optimum(g: _Grid, noise: Noise, seed: int) -> tuple[float, float, float]:
    """Vertex of the parabola and its interval, clipped to one cell about the argmin.

    The interval is a parametric bootstrap: every redrawing of the means has its own argmin and so
    its own window. With an argmin on the grid's edge the optimum may lie beyond it.
    """
    t, argmin = np.log2(g.x), g.argmin
    if g.window.size < 3:
        left, right = t[max(argmin - 1, 0)], t[min(argmin + 1, t.size - 1)]
        return float(t[argmin]), float(left), float(right)
    rng = np.random.default_rng(seed)
    sd = np.sqrt(noise.variance / g.num_seeds)
    if noise.df:
        # The noise is an estimate: as in Student's t, each redrawing has another one.
        sd = sd * np.sqrt(noise.df / rng.chisquare(noise.df, (_NUM_DRAWS, 1)))
    drawn = g.mean + sd * rng.standard_normal((_NUM_DRAWS, t.size))
    lowest = np.nanargmin(drawn, axis=1)
    vertices = np.empty(_NUM_DRAWS)
    for at in np.unique(lowest):
        vertices[lowest == at] = _vertices(g, int(at), drawn[lowest == at])
    vertices[lowest == 0] = -math.inf
    if not g.at_limit:
        vertices[lowest == t.size - 1] = math.inf
    vertex = float(_vertices(g, argmin, g.mean[None])[0])
    # Of two infinite draws there is no mean.
    low = np.quantile(vertices, 0.5 - _COVERAGE / 2, method="lower")
    high = np.quantile(vertices, 0.5 + _COVERAGE / 2, method="higher")
    return vertex, float(min(low, vertex)), float(max(high, vertex))


def _vertices(g: _Grid, argmin: int, means: Array) -> Array:
    """Vertex of the parabola about the argmin, for every row of means (rows, cells)."""
    t, window = np.log2(g.x), g.window_at(argmin)
    left, right = t[max(argmin - 1, 0)], t[min(argmin + 1, t.size - 1)]
    u, y = t[window] - t[argmin], means[:, window]
    root = np.sqrt(g.weight[window])
    design = np.stack([u**2, u, np.ones_like(u)], axis=1) * root[:, None]
    a, b, _ = np.linalg.lstsq(design, (y * root).T, rcond=None)[0]
    bent = a > 0  # clipping keeps a flat draw in bounds
    vertex = np.where(bent, -b / np.where(bent, 2 * a, 1.0), u[np.argmin(y, axis=1)])
    return np.asarray(np.clip(vertex + t[argmin], left, right))
