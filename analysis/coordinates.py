"""Judge a coordinate check: do sizes inside a network depend on its width?

Works on anybody's table with one row for each width, seed, step, layer and quantity. For every
layer, quantity and step, log2 of the value is fitted against log2 of the width over all widths and
seeds. The slope is the exponent: 0 does not depend on the width, 1 doubles with it.

The rule. A layer **passes** if, at every step, the 95 % interval of the slope of its

- `activation` lies at or below +BOUND: it may shrink, as the first outputs of a last layer with
  random signs / d_in do by design (slope -1/2), since what training adds is judged by itself;
- `change` since the initialisation lies within -BOUND … +BOUND: it neither grows nor vanishes.

It **fails** if at some step such an interval lies wholly outside, or a value is not finite, or a
value is 0 at some widths and not at others. Otherwise it is **undecided**. A quantity that is 0 in
all runs of a step (nothing has moved yet) is passed over. The check fails if a layer fails, passes
if all pass, else it is undecided. Other quantities, and layers without activations, are described
and not judged.

BOUND is 1/4. Exponents of parametrisations are multiples of 1/2 (a sum of d terms grows like d if
they are aligned and like its root if not), so 1/4 is half way from right to the smallest mistake.

The interval is Student's, from the scatter of all points about the line. Seeds are replicates and
narrow it; a bend counts as scatter and widens it, though seeds that share the bend make it look
better known than it is. It is about these widths: `last`, the slope over the largest two alone,
says whether a bend goes on.
"""

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.result import plain
from analysis.rule import t_quantile

BOUND = 0.25
COVERAGE = 0.95
JUDGED = ("activation", "change")
COLUMNS = ("width", "seed", "step", "layer", "role", "quantity", "value")
COORDINATES_SCHEMA = 1

Array = npt.NDArray[np.float64]
Outcome = Literal["passes", "fails", "undecided", "not judged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """How one quantity of one layer depends on the width at one step."""

    quantity: str
    step: int
    status: Outcome
    slope: float | None
    """Change of log2 of the value per doubling of the width; None where a value is 0 or worse."""
    low: float | None
    """95 % interval; None with fewer than three points."""
    high: float | None
    last: float | None
    """The slope over the two largest widths alone."""
    problem: str = ""
    """Why there is no slope."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCheck:
    """One layer's slopes and what they amount to."""

    layer: str
    role: str
    status: Outcome
    reason: str
    """What decided, in words; empty where nothing was judged."""
    slopes: tuple[Slope, ...]

    @property
    def severity(self) -> tuple[int, float]:
        """Orders layers: failures last, then by the largest exponent that was judged."""
        return max((_badness(s) for s in self.slopes if s.quantity in JUDGED), default=(0, 0.0))

    def worst(self, quantity: str) -> Slope | None:
        """Return the step that decides: a failure before a doubt, then the largest exponent."""
        mine = [s for s in self.slopes if s.quantity == quantity]
        return max(mine, key=_badness) if mine else None


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinateCheck:
    """Do the sizes inside a network depend on its width?"""

    status: Outcome
    reason: str
    bound: float
    coverage: float
    widths: tuple[int, ...]
    num_seeds: int
    num_steps: int
    layers: tuple[LayerCheck, ...]

    @property
    def rule(self) -> str:
        """The bounds in one sentence."""
        b = f"{self.bound:g}"
        return (
            f"a layer passes if at every step the {100 * self.coverage:g} % interval of the "
            f"exponent of width lies at or below +{b} for its activation, and within -{b} … +{b} "
            "for the activation's change; it fails if one lies wholly outside"
        )

    def _repr_html_(self) -> str:
        """Show the check in a notebook."""
        from analysis.page import Cell, Claim, Column, Table, filled

        heads = ("layer", "role", "outcome", "what decided")
        rows = [[Cell(one.layer), Cell(one.role), Cell(one.status), Cell(one.reason)]
                for one in self.layers]  # fmt: skip
        table = Table(
            title=f"Widths {', '.join(map(str, self.widths))}",
            columns=[Column(head, numeric=False) for head in heads],
            rows=rows,
        )
        claim = Claim(who="Coordinate check", status=self.status, reason=self.reason)
        return filled("verdict.html.j2", claim=claim, table=table, holds_for="")

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: no NaN or inf, lists instead of tuples."""
        fields = plain(dataclasses.asdict(self))
        return {"schema": COORDINATES_SCHEMA, "rule": self.rule, **fields}


def check_coordinates(table: pd.DataFrame, *, bound: float = BOUND) -> CoordinateCheck:
    """Judge a table of sizes over widths, seeds and steps by the rule above.

    Args:
        table: Columns width, seed, step, layer, role, quantity and value.
        bound: Largest exponent of width that counts as none.

    Raises:
        ValueError: a column is missing or holds something else, a size was measured twice, there
            are fewer than two widths, or nothing to judge.
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"bound must be a finite number above 0, got {bound}")
    rows = _canonical(table)
    layers = tuple(
        _check_layer(str(layer), part, bound) for layer, part in rows.groupby("layer", sort=False)
    )
    judged = [layer for layer in layers if layer.status != "not judged"]
    if not judged:
        raise ValueError(f"nothing to judge: no quantity {' or '.join(JUDGED)} in the table")
    status = _total(layer.status for layer in judged)
    return CoordinateCheck(
        status=status,
        reason=_reason(status, judged),
        bound=bound,
        coverage=COVERAGE,
        widths=tuple(int(w) for w in sorted(rows["width"].unique())),
        num_seeds=int(rows["seed"].nunique()),
        num_steps=int(rows["step"].max()),
        layers=layers,
    )


def _check_layer(name: str, rows: pd.DataFrame, bound: float) -> LayerCheck:
    slopes = tuple(_slope(part, bound) for _, part in rows.groupby(["quantity", "step"], sort=True))
    judged = [s for s in slopes if s.status != "not judged"]
    status = _total(s.status for s in judged) if judged else "not judged"
    reason = _sentence(max(judged, key=_badness)) if judged else ""
    return LayerCheck(
        layer=name, role=str(rows["role"].iloc[0]), status=status, reason=reason, slopes=slopes
    )


def _slope(rows: pd.DataFrame, bound: float) -> Slope:
    quantity, step = str(rows["quantity"].iloc[0]), int(rows["step"].iloc[0])
    width, value = rows["width"].to_numpy(dtype=float), rows["value"].to_numpy(dtype=float)
    bad = ~np.isfinite(value) | (value == 0)
    if bad.any():
        return _without_slope(quantity, step, width[bad], value)
    x, y = np.log2(width), np.log2(value)
    slope, low, high = _fit(x, y)
    largest = x >= np.unique(x)[-2:].min()
    last, _, _ = _fit(x[largest], y[largest])
    status: Outcome = "not judged"
    if quantity in JUDGED:
        floor = -bound if quantity == "change" else -math.inf
        status = _place(low, high, floor, bound)
    return Slope(
        quantity=quantity, step=step, status=status, slope=slope, low=low, high=high, last=last
    )


def _without_slope(quantity: str, step: int, where: Array, value: Array) -> Slope:
    if (value == 0).all():
        status, problem = "not judged", "0 in all runs"
    else:
        what = "0" if np.isfinite(value).all() else "not finite"
        status, problem = (
            "fails",
            f"{what} at width {', '.join(f'{w:g}' for w in np.unique(where))}",
        )
    if quantity not in JUDGED:
        status = "not judged"
    return Slope(
        quantity=quantity,
        step=step,
        status=status,  # type: ignore[arg-type]
        slope=None,
        low=None,
        high=None,
        last=None,
        problem=problem,
    )


def _fit(x: Array, y: Array) -> tuple[float | None, float | None, float | None]:
    """Slope of the line through the points and its interval."""
    centred = x - x.mean()
    spread = float(centred @ centred)
    if spread == 0:
        return None, None, None
    slope = float(centred @ y) / spread
    df = x.size - 2
    if df < 1:
        return slope, None, None
    rest = y - y.mean() - slope * centred
    half = t_quantile(df, 0.5 + COVERAGE / 2) * math.sqrt(float(rest @ rest) / df / spread)
    return slope, slope - half, slope + half


def _place(low: float | None, high: float | None, floor: float, ceiling: float) -> Outcome:
    if low is None or high is None:
        return "undecided"
    if low > ceiling or high < floor:
        return "fails"
    return "passes" if floor <= low and high <= ceiling else "undecided"


def _total(statuses: Iterable[Outcome]) -> Outcome:
    found = set(statuses)
    return "fails" if "fails" in found else "undecided" if "undecided" in found else "passes"


def _badness(s: Slope) -> tuple[int, float]:
    rank = ("not judged", "passes", "undecided", "fails").index(s.status)
    if s.slope is None:
        return rank, math.inf if s.status == "fails" else -math.inf
    # An activation may shrink.
    return rank, s.slope if s.quantity == "activation" else abs(s.slope)


# --- words -----------------------------------------------------------------------------------


def _sentence(s: Slope) -> str:
    if s.slope is None:
        return f"{s.quantity} at step {s.step}: {s.problem}"
    if s.low is None or s.high is None:
        interval = "too few points for an interval"
    else:
        interval = f"{100 * COVERAGE:g} %: {s.low:+.2f} … {s.high:+.2f}"
    return f"{s.quantity} ~ width^{s.slope:+.2f} at step {s.step} ({interval})"


def _reason(status: Outcome, layers: list[LayerCheck]) -> str:
    """One sentence that names the layers that decide."""
    if status == "passes":
        return f"all {len(layers)} layers keep their sizes over these widths."
    deciding = [layer for layer in layers if layer.status == status]
    named = "; ".join(f"{layer.layer}: {layer.reason}" for layer in deciding[:3])
    more = f"; and {len(deciding) - 3} more layers" if len(deciding) > 3 else ""
    advice = ""
    if status == "undecided":
        advice = " More seeds narrow the intervals; where the points bend, take larger widths."
    return f"{named}{more}.{advice}"


# --- reading ---------------------------------------------------------------------------------


def _canonical(table: pd.DataFrame) -> pd.DataFrame:
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise ValueError(
            f"columns {', '.join(missing)} are missing: the table has "
            f"{', '.join(map(str, table.columns)) or 'none'}"
        )
    rows = table.loc[:, list(COLUMNS)].reset_index(drop=True)
    for column in ("width", "seed", "step", "value"):
        try:
            rows[column] = pd.to_numeric(rows[column])
        except (ValueError, TypeError) as error:
            raise ValueError(f"column {column!r} must hold numbers: {error}") from None
    for column, least in (("width", 1), ("seed", 0), ("step", 0)):
        whole = (rows[column] == np.floor(rows[column])) & (rows[column] >= least)
        if not whole.all():
            first = rows.loc[~whole, column].iloc[0]
            raise ValueError(f"column {column!r} must hold integers from {least}, got {first}")
        rows[column] = rows[column].astype("int64")
    negative = rows["value"] < 0
    if negative.any():
        first = rows.loc[negative, "value"].iloc[0]
        raise ValueError(f"column 'value' must hold sizes, at least 0, got {first}")
    key = ["width", "seed", "step", "layer", "quantity"]
    twice = rows[rows.duplicated(key)]
    if not twice.empty:
        named = ", ".join(f"{k} {twice[k].iloc[0]}" for k in key)
        raise ValueError(f"measured twice: {named}")
    if rows["width"].nunique() < 2:
        raise ValueError(
            f"at least two widths are needed, got {sorted(set(rows['width'].tolist()))}"
        )
    return rows
