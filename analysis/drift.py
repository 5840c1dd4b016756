"""How the optimum moves with the size: a line on the axis's scale over log2 of the size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.axes import Array
from analysis.landscapes import Landscape
from analysis.optimum import COVERAGE
from analysis.rule import t_quantile


@dataclass(frozen=True, slots=True)
class Drift:
    """Line through the uncensored optima.

    On a logarithmic scale a power law, x* = 2 ** intercept * size ** slope; on a linear one
    x* = intercept + slope * log2(size).
    """

    slope: float
    """Change of x* per doubling of the size: octaves, or units where the scale is linear."""
    intercept: float
    """Place of x* on its scale at size 1."""
    low: float | None
    """95 % t-interval from the scatter about the line; None below three sizes."""
    high: float | None
    num_sizes: int
    num_censored: int
    left_out_low: float | None = None
    """Smallest and largest slope with any one size left out; None below three sizes."""
    left_out_high: float | None = None

    @property
    def excludes_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def place_at(self, size: float) -> float:
        """Return where the line is, on the axis's scale."""
        return self.intercept + self.slope * math.log2(size)


def fit_drift(landscapes: Sequence[Landscape], axis: int = 0) -> Drift | None:
    """Fit the optima of one hyperparameter over the sizes of one group.

    Those that lie on the grid's edge, of whatever hyperparameter, or that the cells cannot tell,
    are left out. The interval comes
    from the scatter about the line (sizes - 2 degrees of freedom): it covers both seed noise and
    bends of the true relation, which slopes fitted seed by seed would not. None with fewer than
    two sizes.
    """
    usable = [c for c in landscapes if not c.censored and c.optimum.told and c.best is not None]
    num = len({c.size for c in usable})
    if num < 2:
        return None
    sizes = np.log2([c.size for c in usable])
    optima = np.array([c.optimum.at[axis] for c in usable])
    slope, intercept, spread = _line(sizes, optima)
    low = high = None
    others: list[float] = []
    if num >= 3:
        rest = optima - intercept - slope * sizes
        df = len(usable) - 2
        half = t_quantile(df, 0.5 + COVERAGE / 2) * math.sqrt(float(rest @ rest) / df / spread)
        low, high = slope - half, slope + half
        kept = [sizes != left_out for left_out in np.unique(sizes)]
        others = [_line(sizes[k], optima[k])[0] for k in kept]
    return Drift(
        slope, intercept, low, high, num, len(landscapes) - len(usable),
        min(others, default=None), max(others, default=None),
    )  # fmt: skip


def _line(x: Array, y: Array) -> tuple[float, float, float]:
    """Return slope, intercept, and the sum of squares of x about its mean."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    slope = float(centred @ y) / spread
    return slope, float(y.mean() - slope * x.mean()), spread
