"""What the figures of a judged table show: one panel for each group."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from analysis.axes import Axis
from analysis.drift import Drift, fit_drift
from analysis.grids import Point
from analysis.groups import parts
from analysis.landscapes import Landscape, build_landscapes
from analysis.load import SEED, STATUS, tidy
from analysis.result import Verdict
from analysis.style import grid_step
from analysis.words import axes_text


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One group of a figure: its landscapes and, if it was judged, its verdict."""

    title: str
    landscapes: Sequence[Landscape]
    verdict: Verdict | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.landscapes[0].axes

    @property
    def transferred(self) -> Point | None:
        v = self.verdict
        return tuple(v.transferred[a.name] for a in self.axes) if v else None

    def drift(self, k: int = 0) -> Drift | None:
        """Of one hyperparameter."""
        return fit_drift(self.landscapes, k)

    @property
    def metric(self) -> str:
        return self.verdict.metric.replace("_", " ") if self.verdict else "loss"

    @property
    def size_name(self) -> str:
        return self.verdict.size_name if self.verdict else "size"

    @property
    def negated(self) -> bool:
        """Whether the losses are the negative metric, of which less is better."""
        return self.verdict is not None and self.verdict.maximise


def panels_of(
    df: pd.DataFrame,
    judged: Mapping[str, Verdict],
    *,
    group: str | None = None,
    seed: str | None = SEED,
    status: str | None = STATUS,
) -> list[Panel]:
    """Return what `plot_curves` and `plot_scaling` draw of a judged table.

    Args:
        df: The table that was judged.
        judged: What `verdicts` made of it; the other columns' names are in there.
        group, seed, status: As given to `verdicts`.
    """
    found = []
    for name, rows in parts(df, group):
        v = judged[name]
        columns: dict[str, Any] = {"y": v.metric, "size": v.size_name, "seed": seed}
        columns |= {"x": [a.name for a in v.axes], "linear": [a.name for a in v.axes if a.linear]}
        table = tidy(rows, group=group, status=status, maximise=v.maximise, **columns)
        at = tuple(v.transferred[a.name] for a in v.axes)
        shapes = build_landscapes(table, v.axes, epsilon=v.epsilon, prefer=at)
        found.append(Panel(name, shapes, v))
    return found


def need(panels: Sequence[Panel], num_axes: int = 0) -> None:
    """Raise ValueError if there is nothing to draw, or not so many hyperparameters."""
    if not panels or not all(p.landscapes for p in panels):
        raise ValueError("a figure needs at least one panel, and each panel at least one landscape")
    wrong = [p for p in panels if num_axes and len(p.axes) != num_axes]
    if wrong:
        got = ", ".join(a.name for a in wrong[0].axes)
        raise ValueError(f"this figure shows {num_axes} hyperparameters a panel, got {got}")


def turn(ax: Axes, panel: Panel) -> None:
    """Show a negated metric as it is, with more of it further up."""
    if panel.negated:
        ax.yaxis.set_major_formatter(lambda value, _: f"{-value:g}")
        ax.set_ylim(*sorted(ax.get_ylim(), reverse=True))


def bar(landscape: Landscape, k: int) -> list[list[float]]:
    """Lengths of an interval's two sides; an endless one goes a step beyond the grid."""
    t, at = landscape.t[:, k], landscape.optimum.at[k]
    low, high = landscape.optimum.low[k], landscape.optimum.high[k]
    if math.isinf(low) and math.isinf(high):
        return [[0.0], [0.0]]  # nothing is known of it
    low, high = max(low, t.min() - grid_step(t)), min(high, t.max() + grid_step(t))
    return [[float(at - low)], [float(high - at)]]


def foot(panels: Sequence[Panel]) -> str:
    """The verdicts, and the fixed axes: what all panels share in one line, then a panel's own."""
    told = [f"{p.title} {p.verdict.status}".strip() for p in panels if p.verdict]
    lines = [f"Verdict: {'; '.join(told)}"] if told else []
    fixed = {p.title: p.verdict.fixed for p in panels if p.verdict and p.verdict.fixed}
    first = next(iter(fixed.values()), {})
    shared = {k: v for k, v in first.items() if all(f.get(k) == v for f in fixed.values())}
    lines += ["Fixed: " + axes_text(shared)] if shared else []
    for title, axes in fixed.items():
        own = {k: v for k, v in axes.items() if k not in shared}
        lines += [f"{title}: {axes_text(own)}"] if own else []
    return "\n".join(lines)
