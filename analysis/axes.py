"""What a hyperparameter's axis is: its name, its scale, and where its values may lie at all."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Bounds = Mapping[str, tuple[float | None, float | None]]

_SAME = 1e-9
"""1e-3 written as 10 ** -3 or read back from text is one grid point."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One hyperparameter. Curves, optima and drifts are fitted on its scale.

    Raises:
        ValueError: no number lies within the limits.
    """

    name: str
    linear: bool = False
    """Whether differences count, as for a momentum; else ratios do, and values are positive."""
    low: float | None = None
    """Least value that is allowed at all: an optimum there is at no grid's edge."""
    high: float | None = None

    def __post_init__(self) -> None:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        # One that is infinite is none.
        object.__setattr__(self, "low", None if low == -math.inf else low)
        object.__setattr__(self, "high", None if high == math.inf else high)
        if not low < high or not (self.linear or high > 0):
            what = "" if self.linear else "positive "
            raise ValueError(
                f"the bounds of {self.name} must leave room for {what}numbers, got {low:g} to "
                f"{high:g}"
            )

    def forward(self, values: npt.ArrayLike) -> Array:
        """Return values on the scale: their log2, or as they are."""
        x = np.asarray(values, dtype=float)
        return x if self.linear else np.log2(x)

    def back(self, place: float) -> float:
        """Return the value at a place on the scale."""
        return float(place) if self.linear else float(2.0**place)

    def same(self, values: npt.ArrayLike, value: float) -> Mask:
        """Tell which values are one grid point with another, apart from rounding."""
        x = np.asarray(values, dtype=float)
        # On a linear scale 0 is a number like others, and so is what rounding makes of it.
        room = _SAME * float(np.abs(x).max(initial=abs(value))) if self.linear else 0.0
        return np.asarray(np.isclose(x, value, rtol=_SAME, atol=room))

    def snap(self, values: npt.ArrayLike) -> Array:
        """Give numbers that differ by rounding only the smallest of their values."""
        given = np.asarray(values, dtype=float)
        unique = np.unique(given)
        if unique.size == 0:
            return given
        room = _SAME * (np.abs(unique).max() if self.linear else np.abs(unique[1:]))
        first = unique[np.concatenate([[True], np.diff(unique) > room])]
        kept = first[np.searchsorted(first, given, side="right") - 1]
        # What rounding makes of 0 is 0.
        return np.where(np.abs(kept) <= room, 0.0, kept) if self.linear else np.asarray(kept)

    def at_bound(self, value: float) -> bool:
        """Tell whether nothing is allowed beyond a value on one side or the other."""
        return any(b is not None and bool(self.same([b], value)[0]) for b in (self.low, self.high))

    def clip(self, value: float) -> float:
        """Return the nearest value that is allowed."""
        low = value if self.low is None else max(value, self.low)
        return low if self.high is None else min(low, self.high)

    def check(self, values: npt.ArrayLike) -> None:
        """Raise ValueError for values that lie beyond what is allowed."""
        for value in np.asarray(values, dtype=float).tolist():
            if self.clip(value) != value and not self.at_bound(value):
                low, high = self.low, self.high
                raise ValueError(
                    f"{self.name} must lie within its bounds, "
                    f"{'-inf' if low is None else f'{low:g}'} to "
                    f"{'inf' if high is None else f'{high:g}'}, got {value:g}"
                )

    def text(self, value: float) -> str:
        """Write powers of two below 1 as 2^-k, other numbers with four digits."""
        if not self.linear and 0 < value < 1:
            exponent = math.log2(value)
            if abs(exponent - round(exponent)) < _SAME:
                return f"2^{round(exponent)}"
        return f"{value:.4g}"


def axes_of(
    x: str | Sequence[str], linear: Collection[str] = (), bounds: Bounds | None = None
) -> tuple[Axis, ...]:
    """Return the axes that columns of a table span.

    Args:
        x: One column, or several.
        linear: Those of them whose scale is linear.
        bounds: Least and largest values that are allowed at all, None where there are none.

    Raises:
        ValueError: a column is named twice, or `linear` or `bounds` name another one.
    """
    names = (x,) if isinstance(x, str) else tuple(map(str, x))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"x must name columns, each once, got {names!r}")
    linear, bounds = (linear,) if isinstance(linear, str) else linear, bounds or {}
    for field, given in (("linear", linear), ("bounds", bounds)):
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"{field} must be of the columns {names!r} of x, got {unknown[0]!r}")
    for name, pair in bounds.items():
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(f"bounds of {name} must be two numbers, got {pair!r}")
    return tuple(Axis(n, n in linear, *map(_bound, bounds.get(n, (None, None)))) for n in names)


def _bound(value: float | None) -> float | None:
    return None if value is None else float(value)
