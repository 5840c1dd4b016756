"""What the figures of a judged table show."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from analysis.curves import build_curves
from analysis.groups import parts
from analysis.load import SEED, STATUS, tidy
from analysis.plots import Panel
from analysis.result import Verdict


def panels_of(
    df: pd.DataFrame,
    judged: Mapping[str, Verdict],
    *,
    group: str | None = None,
    seed: str | None = SEED,
    status: str | None = STATUS,
    x_limit: float | None = None,
) -> list[Panel]:
    """Return what `plot_curves` and `plot_scaling` draw of a judged table.

    Args:
        df: The table that was judged.
        judged: What `verdicts` made of it; the other columns' names are in there.
        group, seed, status, x_limit: As given to `verdicts`.
    """
    found = []
    for name, rows in parts(df, group):
        v = judged[name]
        x = v.hyperparameter
        columns: dict[str, Any] = {"x": x, "y": v.metric, "size": v.size_name}
        columns |= {"seed": seed, "status": status, "group": group, "maximise": v.maximise}
        table = tidy(rows, **columns)
        curves = build_curves(table, epsilon=v.epsilon, x_limit=x_limit, prefer=v.transferred[x])
        found.append(Panel(name, curves, v))
    return found
