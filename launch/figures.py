"""The figures of a study: analysis draws, this hands it the right rows."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from launch.pipeline import Finished

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from analysis import Panel, Verdict


def draw(
    done: Finished,
    verdicts: Mapping[str, Mapping[str, "Verdict"]],
    formats: Sequence[str] = ("png", "svg"),
    folder: str = "figures",
) -> list[Path]:
    """Draw every figure of the study into a folder of its results and return the files."""
    from analysis import save

    return [
        path
        for name, figure in figures_of(done, verdicts).items()
        for path in save(figure(), done.results / folder / name, formats)
    ]


def draw_for_paper(done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]]) -> list[Path]:
    """Draw every figure as PDF, in the widths and letters of a two-column paper."""
    from analysis import PAPER, drawn_for

    with drawn_for(PAPER):
        return draw(done, verdicts, ("pdf",), "figures/paper")


def figures_of(
    done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]]
) -> "dict[str, Callable[[], Figure]]":
    """Return what draws each figure, by the name of its file."""
    from analysis import plot_curves, plot_radii, plot_regret, plot_scaling
    from analysis.history_plot import plot_training, plot_tuning

    panels = panels_of_study(done, verdicts)
    found: dict[str, Callable[[], Figure]] = {
        "loss_against_stepsize": partial(plot_curves, panels),
        "scaling": partial(plot_scaling, panels),
        "regret": partial(plot_regret, panels),
    }
    for arm, claims in verdicts.items():
        radii = claims.get("radii")
        if radii is not None and radii.comparisons:
            found[f"radii_{arm}"] = partial(plot_radii, radii)
    if curves := training_curves(done):
        found["training"] = partial(plot_training, curves, done.study.experiment.sweep.axis)
    if trials := tuning_trials(done):
        found["tuning"] = partial(plot_tuning, trials)
    return found


def panels_of_study(
    done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]], prefix: str = ""
) -> "list[Panel]":
    """Return the landscapes of every arm, named by the arm with something before it."""
    from analysis import panels_of

    panels = []
    for arm, claims in verdicts.items():
        name = prefix + arm
        runs = done.runs(arm, "sweep").assign(arm=name)
        panels += panels_of(runs, {name: claims["stepsize"]}, group="arm")
    return panels


def training_curves(done: Finished) -> "dict[str, dict[float, list[np.ndarray]]]":
    """Return training losses at the transferred setting, by arm and size; {} without any."""
    import numpy as np

    axis, known = done.study.experiment.sweep.axis, done.study.table.curves()
    found: dict[str, dict[float, list[np.ndarray]]] = {}
    for arm in done.tuned:
        main = done.at_transferred(arm)
        for size, run_id in zip(main[axis].tolist(), main["run_id"].tolist(), strict=True):
            if len(known.get(run_id, ())):
                curve = np.asarray(known[run_id], dtype=float)
                found.setdefault(arm, {}).setdefault(size, []).append(curve)
    return found


def tuning_trials(done: Finished) -> dict[str, list[float]]:
    """Return mean validation losses of the tuning's trials in their order, inf where a run
    diverged; {} where no trial has one."""
    seeds = len(done.study.experiment.tune.seeds)
    found: dict[str, list[float]] = {}
    for arm, tuned in done.tuned.items():
        for i in range(0, len(tuned.tried), seeds):
            losses = [done.rows[c.run_id].val_loss for c in tuned.tried[i : i + seeds]]
            known = [v for v in losses if v is not None]
            mean = sum(known) / len(known) if len(known) == len(losses) else math.inf
            found.setdefault(arm, []).append(mean)
    return found if any(math.isfinite(v) for vs in found.values() for v in vs) else {}
