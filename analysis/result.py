"""The verdict as data: what was claimed, at which sizes, with which numbers.

Knows JSON and nothing else; claims.py fills it in, plots draw it, recipes
carry it.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis.axes import Axis
from analysis.drift import Drift
from analysis.grids import Side
from analysis.optimum import Region, Tilt

VERDICT_SCHEMA = 2

Status = Literal["transfers", "does not transfer", "undecided", "not tested"]
STATUSES: tuple[Status, ...] = ("transfers", "does not transfer", "undecided", "not tested")


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeRow:
    """The verdict's numbers at one size. None: not known, or not finite."""

    size: float
    best: dict[str, float] | None
    """The best grid point, by hyperparameter, as are all settings here."""
    best_loss: float | None
    loss_at_transferred: float | None
    regret: float | None
    """Mean loss at the transferred setting minus that of the best cell."""
    regret_lower: float | None
    regret_upper: float | None
    binding: dict[str, float] | None
    """The comparator that decides at this size."""
    optimum: dict[str, float] | None
    """Between the grid points; on the grid's edge where it is censored."""
    optimum_low: dict[str, float | None]
    """95 % interval; None: it may lie beyond the grid."""
    optimum_high: dict[str, float | None]
    censored: dict[str, Side]
    """Hyperparameters whose optimum may lie outside the grid, and on which side."""
    near_optimal: tuple[dict[str, float], ...]
    num_diverged: int
    num_runs: int
    regret_share: float | None = None
    """Regret and its bounds as shares of the best metric's magnitude."""
    regret_share_lower: float | None = None
    regret_share_upper: float | None = None
    region: Region | None = None
    """Of two hyperparameters: where the optimum lies with 95 % confidence."""
    tilt: Tilt | None = None
    """And how the best value of the first follows the second."""
    transferred: Literal["done", "diverged", "not run"] = "done"
    """What became of the transferred setting here."""
    flat: bool = False
    """Whether more values of one hyperparameter, next to each other, are near-optimal than an
    optimum is told from: then those are what there is to say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One comparator against the transferred setting at one size."""

    size: float
    comparator: dict[str, float]
    difference: float | None
    """loss(comparator) - loss(transferred), paired by seed; > 0: comparator is worse."""
    low: float | None
    """One-sided bounds on the difference, each at the verdict's level."""
    high: float | None
    num_pairs: int
    num_diverged: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NextRun:
    """Runs that may decide an undecided case."""

    size: float
    comparator: dict[str, float]
    more_seeds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """May a setting tuned on the smallest model be used on the larger ones?"""

    status: Status
    reason: str
    """One plain sentence."""
    group: str
    hyperparameter: str
    """What was varied: "stepsize", or several names joined by ", "."""
    axes: tuple[Axis, ...]
    """What a setting consists of."""
    transferred: dict[str, float]
    epsilon: float
    metric: str
    size_name: str
    maximise: bool = False
    """Whether more of the metric is better: regrets and differences are then of its negative."""
    num_seeds: int
    """Fewest paired seeds of any cell that was compared."""
    level: float
    rows: tuple[SizeRow, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    drifts: dict[str, Drift] = dataclasses.field(default_factory=dict)
    """How the optimum moves with the size, of each hyperparameter where it can be told."""
    near_optimal: tuple[dict[str, float], ...] = ()
    """Grid points near-optimal at every size."""
    next_runs: tuple[NextRun, ...] = ()
    fixed: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What did not vary; the verdict holds for these values only."""
    notes: tuple[str, ...] = ()

    @property
    def drift(self) -> Drift | None:
        """Of the first hyperparameter."""
        return self.drifts.get(self.axes[0].name)

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {STATUSES}, got {self.status!r}")

    def _repr_html_(self) -> str:
        """Show the verdict in a notebook."""
        from analysis.report import fragment  # which imports this

        return fragment(self)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready data: no NaN or inf, lists instead of tuples."""
        return {"schema": VERDICT_SCHEMA, **plain(dataclasses.asdict(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Verdict":
        """Read back what `to_dict` wrote.

        Raises:
            ValueError: another schema, or missing or unknown fields.
        """
        values = dict(data)
        schema = values.pop("schema", None)
        if schema != VERDICT_SCHEMA:
            raise ValueError(f"a verdict must have schema {VERDICT_SCHEMA}, got {schema!r}")
        try:
            values["axes"] = tuple(Axis(**a) for a in values["axes"])
            values["rows"] = tuple(_row(r) for r in values["rows"])
            values["comparisons"] = tuple(Comparison(**c) for c in values["comparisons"])
            values["next_runs"] = tuple(NextRun(**n) for n in values["next_runs"])
            values["drifts"] = {k: Drift(**d) for k, d in values["drifts"].items()}
            values["near_optimal"] = tuple(values["near_optimal"])
            values["notes"] = tuple(values["notes"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a verdict of schema {VERDICT_SCHEMA}: {error}") from error


def _row(data: Mapping[str, Any]) -> SizeRow:
    row = {**data, "near_optimal": tuple(data["near_optimal"])}
    if row["region"] is not None:
        center, (first, second) = row["region"]["center"], row["region"]["shape"]
        row["region"] = Region(tuple(center), (tuple(first), tuple(second)))
    row["tilt"] = None if row["tilt"] is None else Tilt(**row["tilt"])
    return SizeRow(**row)


def finite(value: float | None) -> float | None:
    """None for a number that is missing or not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def plain(value: Any) -> Any:
    """JSON-ready data: None for NaN and inf, lists instead of tuples."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    # Numpy scalars arrive through `fixed`; JSON knows Python's own types only.
    return value.item() if hasattr(value, "item") else value
