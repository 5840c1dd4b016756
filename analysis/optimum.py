"""The optimum of a landscape between its grid points: the vertex of a quadratic about the argmin.

It describes; no decision hangs on it (see rule.py for that). Intervals and regions are parametric
bootstraps: every redrawing of the means has its own argmin and so its own window and vertex.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.axes import Array
from analysis.grids import Grid, Point, quadratic
from analysis.rule import Noise

_NUM_DRAWS = 400
COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Region:
    """An ellipse about the optimum of two hyperparameters, on the axes' scales.

    Points u with (u - center)' inverse(shape) (u - center) <= 1.
    """

    center: tuple[float, float]
    shape: tuple[tuple[float, float], tuple[float, float]]

    def outline(self, num: int = 200) -> Array:
        """Return points (num, 2) around it."""
        angles = np.linspace(0, 2 * math.pi, num)
        values, vectors = np.linalg.eigh(np.array(self.shape))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return np.asarray(np.array(self.center) + circle @ root.T)

    def holds(self, point: Point) -> bool:
        """Tell whether a point on the scales lies in it."""
        off = np.array(point) - np.array(self.center)
        return float(off @ np.linalg.pinv(np.array(self.shape)) @ off) <= 1.0


@dataclass(frozen=True, slots=True)
class Tilt:
    """How the best value of the first of two hyperparameters follows the second.

    Steps on the first one's scale (octaves, or units where it is linear) for one on the second's.
    """

    slope: float
    low: float
    """95 % bootstrap interval."""
    high: float


@dataclass(frozen=True, slots=True)
class Optimum:
    """Where it is on the axes' scales."""

    at: Point
    low: Point
    """95 % bootstrap interval of each hyperparameter; infinite ends lie beyond the grid, or are
    not known."""
    high: Point
    region: Region | None = None
    """Of both together, where there are two and the cells can tell."""
    tilt: Tilt | None = None
    told: bool = True
    """Whether the cells are enough for a quadratic; else it is the best of them."""

    @classmethod
    def unknown(cls, at: Point) -> "Optimum":
        """The best cell, of which nothing more is known."""
        far = (math.inf,) * len(at)
        return cls(at, tuple(-v for v in far), far, told=False)


def optimum(g: Grid, noise: Noise, seed: int) -> Optimum:
    """Find the vertex, clipped to the neighbours of the argmin, and what it may be.

    Without a noise it has no interval. With an argmin on the grid's edge it may lie beyond it.
    """
    if not _determined(g, g.argmin):
        return Optimum.unknown(tuple(g.t[g.argmin].tolist()))
    found, slope = _vertices(g, g.argmin, g.mean[None])
    at = tuple(found[0].tolist())
    if not noise.df:
        return replace(Optimum.unknown(at), told=True)
    rng = np.random.default_rng(seed)
    # The noise is an estimate: as in Student's t, each redrawing has another one.
    sd = np.sqrt(noise.variance / g.num_seeds)
    sd = sd * np.sqrt(noise.df / rng.chisquare(noise.df, (_NUM_DRAWS, 1)))
    drawn = g.mean + sd * rng.standard_normal((_NUM_DRAWS, len(g.mean)))
    lowest = np.nanargmin(drawn, axis=1)
    vertices = np.empty((_NUM_DRAWS, len(g.axes)))
    slopes, ends = np.full(_NUM_DRAWS, np.nan), np.zeros((2, *vertices.shape), dtype=bool)
    for cell in np.unique(lowest).tolist():
        rows = lowest == cell
        vertices[rows], slopes[rows] = _vertices(g, cell, drawn[rows])
        for axis, side in g.sides(cell).items():
            ends[0][rows, axis] = side != "above"
            ends[1][rows, axis] = side == "above"
    region = _region(found[0], vertices) if len(g.axes) == 2 else None
    vertices[ends[0]], vertices[ends[1]] = -math.inf, math.inf
    # Of two infinite draws there is no mean.
    low = np.quantile(vertices, 0.5 - COVERAGE / 2, axis=0, method="lower")
    high = np.quantile(vertices, 0.5 + COVERAGE / 2, axis=0, method="higher")
    return Optimum(
        at,
        tuple(np.minimum(low, found[0]).tolist()),
        tuple(np.maximum(high, found[0]).tolist()),
        region,
        _tilt(float(slope[0]), slopes),
    )


def _determined(g: Grid, cell: int) -> bool:
    """Whether the cells about one are enough for a quadratic."""
    design = _design(g, cell)[0]
    few = len(design) < design.shape[1] or not g.is_grid_at(cell)
    return not few and int(np.linalg.matrix_rank(design)) == design.shape[1]


def _design(g: Grid, cell: int) -> tuple[Array, Any, Array]:
    """Return the quadratic's columns over the cells of a window, which they are, and the unit of
    each axis."""
    window = g.window_at(cell)
    off = g.t[window] - g.t[cell]
    unit = np.abs(off).max(axis=0)
    unit[unit == 0] = 1.0
    return quadratic(off / unit), window, unit


def _vertices(g: Grid, cell: int, means: Array) -> tuple[Array, Array]:
    """Vertex of the quadratic about a cell, for every row of means (rows, cells), and its tilt.

    Where it has no minimum, the vertex is the cell, and the tilt NaN.
    """
    design, window, unit = _design(g, cell)
    y, root = means[:, window], np.sqrt(g.weight[window])
    found = np.linalg.lstsq(design * root[:, None], (y * root).T, rcond=None)[0].T
    num = len(g.axes)
    hessian = np.zeros((len(y), num, num))
    pairs = [(j, k) for j in range(num) for k in range(j + 1, num)]
    for k in range(num):
        hessian[:, k, k] = 2 * found[:, k]
    for i, (j, k) in enumerate(pairs):
        hessian[:, j, k] = hessian[:, k, j] = found[:, num + i]
    bent = np.linalg.eigvalsh(hessian)[:, 0] > 0
    slope = np.full(len(y), np.nan)
    vertex = np.zeros((len(y), num))
    if bent.any():
        gradient = found[bent, -1 - num : -1]
        vertex[bent] = -np.linalg.solve(hessian[bent], gradient[..., None])[..., 0] * unit
        if num == 2:
            slope[bent] = -hessian[bent, 0, 1] / hessian[bent, 0, 0] * unit[0] / unit[1]
    low, high = np.array(g.beside(cell, 1)).T
    # Clipping keeps a flat draw in bounds.
    return np.clip(vertex + g.t[cell], low, high), slope


def _region(center: Array, vertices: Array) -> Region | None:
    """The ellipse about the optimum, of the draws' shape, that holds 95 % of them."""
    off = vertices - center
    shape = off.T @ off / len(off)
    far = np.einsum("ni,ij,nj->n", off, np.linalg.pinv(shape), off)
    shape = shape * float(np.quantile(far, COVERAGE))
    rows = [(float(a), float(b)) for a, b in shape]
    return Region((float(center[0]), float(center[1])), (rows[0], rows[1]))


def _tilt(slope: float, slopes: Array) -> Tilt | None:
    """None where the quadratic has no minimum, or too often has none."""
    known = slopes[np.isfinite(slopes)]
    if not math.isfinite(slope) or known.size < COVERAGE * slopes.size:
        return None
    tail = 0.5 - COVERAGE / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return Tilt(slope, float(min(low, slope)), float(max(high, slope)))
