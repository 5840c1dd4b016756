"""Draw norms of layers over training."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.load import require_columns
from analysis.medium import medium
from analysis.style import Color, clean, legend, new_figure, short, size_colors

COLUMNS = ("group", "size", "step", "layer", "role", "value")


def plot_norms(table: pd.DataFrame, size_name: str = "width") -> Figure:
    """Norms of the weights over the steps: a row for each group, a panel for each role.

    Lines are medians over the layers of a role, bands span them, one colour for each size.

    Args:
        table: One row per reading: group, size, step, layer, role, and the layer's norm as value.
        size_name: What the sizes are.

    Raises:
        ValueError: a column is missing, or no value is finite.
    """
    require_columns(table, COLUMNS)
    table = table[np.isfinite(table["value"])]
    if table.empty:
        raise ValueError("a figure of norms needs a finite value, got none")
    groups, roles = list(dict.fromkeys(table["group"])), list(dict.fromkeys(table["role"]))
    fig = new_figure(len(roles), num_rows=len(groups), column_width=3.4, height=3.4)
    grid = fig.subplots(len(groups), len(roles), squeeze=False)
    colors = size_colors(table["size"].unique().tolist())
    for axes, group in zip(grid, groups, strict=True):
        for ax, role in zip(axes, roles, strict=True):
            rows = table[(table["group"] == group) & (table["role"] == role)]
            if rows.empty:
                ax.set_visible(False)
                continue
            _draw(ax, rows, colors)
            ax.set_title(f"{short(str(group))}: {role}".removeprefix(": "),
                         fontsize=medium().title)  # fmt: skip
            ax.set_xlabel("step")
        axes[0].set_ylabel("norm of the weights")
    handles = [
        Line2D([], [], color=color, label=f"{size_name} {size:.12g}")
        for size, color in colors.items()
    ]
    legend(fig, handles)
    return fig


def _draw(ax: Axes, rows: pd.DataFrame, colors: dict[float, Color]) -> None:
    clean(ax)
    for size in sorted(rows["size"].unique().tolist()):
        ours = rows[rows["size"] == size]
        by_step = ours.groupby("step")["value"]
        steps, color = sorted(set(ours["step"])), colors[size]
        low, high = by_step.min().to_numpy(), by_step.max().to_numpy()
        ax.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
        ax.plot(steps, by_step.median().to_numpy(), color=color, linewidth=1.4)
    ax.set_ylim(bottom=0.0)
