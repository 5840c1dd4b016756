"""Draw what the transferred setting gives away at every size."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.medium import medium
from analysis.panels import Panel, foot
from analysis.result import SizeRow, Verdict
from analysis.scaling_plot import Look
from analysis.style import GREY, caption, clean, legend, new_figure, size_axis


def plot_regret(panels: Sequence[Panel]) -> Figure:
    """Regret of the transferred setting over the sizes, in units of epsilon.

    Bars span the bounds of the verdict: what lies above 1 for certain does not transfer, what lies
    below it for certain does. Crosses at the top: diverged. The axis is linear up to 1 and
    logarithmic above.

    Raises:
        ValueError: no panel was judged.
    """
    judged = [(p.title, p.verdict) for p in panels if p.verdict is not None]
    if not judged:
        raise ValueError("a figure of regrets needs a verdict, got panels without one")
    fig = new_figure(1)
    ax = fig.subplots()
    clean(ax)
    ax.axhspan(0.0, 1.0, color="0.93", linewidth=0, zorder=0)
    ax.axhline(1.0, color=GREY, linestyle="--", linewidth=1.1)
    top = _top([v for _, v in judged])
    for i, (title, verdict) in enumerate(judged):
        _draw(ax, title, verdict, Look.of(i, len(judged)), top)
    ax.set_yscale("symlog", linthresh=1.0)
    ax.set_ylim(-0.08, top * 1.15)
    ticks = [0.0, 0.5, 1.0, *(10.0**k for k in range(1, 9) if 10.0**k <= top)]
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    size_axis(ax, [row.size for _, v in judged for row in v.rows], judged[0][1].size_name)
    ax.set_ylabel("regret / ε")
    ax.set_title("what the transferred setting gives away", fontsize=medium().title)
    handles, labels = ax.get_legend_handles_labels()
    if any(row.transferred == "diverged" for _, v in judged for row in v.rows):
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle="none"))
        labels.append("diverged")
    if any(labels):
        legend(fig, handles, labels)
    caption(fig, foot(panels))
    return fig


def _top(verdicts: Sequence[Verdict]) -> float:
    """A little above the largest regret, and 3 at least; bounds may leave through the top."""
    regrets = [r.regret / v.epsilon for v in verdicts for r in v.rows if r.regret is not None]
    return max(3.0, 1.5 * max(regrets, default=0.0))


def _draw(ax: Axes, title: str, verdict: Verdict, look: Look, top: float) -> None:
    known = [row for row in verdict.rows if row.regret is not None]
    sizes = np.array([row.size for row in known]) * look.shift
    middle = np.array([row.regret or 0.0 for row in known]) / verdict.epsilon
    low, high = np.array([_ends(row, verdict.epsilon, top) for row in known]).reshape(-1, 2).T
    ax.errorbar(
        sizes,
        middle,
        yerr=[middle - np.minimum(low, middle), np.maximum(high, middle) - middle],
        color=look.color,
        marker=look.marker,
        markersize=6,
        capsize=3,
        linewidth=1.2,
        label=title,
    )
    gone = [row.size * look.shift for row in verdict.rows if row.transferred == "diverged"]
    ax.plot(gone, [0.97] * len(gone), transform=ax.get_xaxis_transform(), color=look.color,
            marker="x", linestyle="none")  # fmt: skip


def _ends(row: SizeRow, epsilon: float, top: float) -> tuple[float, float]:
    """The bounds in units of epsilon; none is as good as an endless one."""
    low = 0.0 if row.regret_lower is None else max(0.0, row.regret_lower / epsilon)
    high = math.inf if row.regret_upper is None else row.regret_upper / epsilon
    return low, min(high, 2 * top)
