"""Successive narrowing: at larger sizes first the stepsizes that matter for the verdict.

The smallest size is swept whole. A larger one begins with the stepsizes within two octaves of the
tuned one and is extended until those within two octaves of its own best are there too, which is
as far as the estimate of an optimum looks. If that part decides the verdict, it is the sweep;
else the whole grid is. What is needed follows from the run table alone, so an interrupted sweep
goes on where it was, and commands that train nothing judge the same runs.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from sweeps.plan import PlannedRun
from sweeps.study import Study
from sweeps.table import StoredRun
from sweeps.tune import Tuned

REACH = 2
"""Grid points on either side of the tuned stepsize, and of a size's best one."""

Settled = Callable[[Study, str, Tuned, Sequence[PlannedRun]], bool]
"""Whether these runs of an arm, which the run table has, decide its verdict."""
_Rows = Mapping[str, StoredRun]
_Grid = dict[float, list[PlannedRun]]
"""Runs by stepsize, increasing."""


def needed(
    study: Study, tuned: Mapping[str, Tuned], settled: Settled | None = None
) -> list[PlannedRun]:
    """Return the planned runs that are needed, as far as the run table tells by now.

    With those trained it may be more; once none of them is missing, that is all.

    Args:
        study: Without `sweep.adaptive` everything that it plans is needed.
        tuned: Result of the tuning of every arm.
        settled: Asked about the part of an arm's sweep that was begun with, when it is there.

    Raises:
        ValueError: as `require_judge`.
    """
    planned = study.planned(dict(tuned))
    if not study.experiment.sweep.adaptive:
        return planned
    judge = require_judge(study, settled)
    rows, kept = study.table.read(), set[tuple[str, str]]()
    for arm, result in tuned.items():
        whole = [run for run in planned if run.arm == arm and run.purpose == "sweep"]
        part = _part(study, result.optimizer.stepsize, whole, rows)
        # Whoever trained the whole grid, for example before the sweep became adaptive, keeps it.
        if _complete(whole, rows) or (
            _complete(part, rows) and not judge(study, arm, result, part)
        ):
            part = whole
        kept |= {(arm, run.config.run_id) for run in part}
    return [r for r in planned if r.purpose != "sweep" or (r.arm, r.config.run_id) in kept]


def require_judge(study: Study, settled: Settled | None) -> Settled:
    """Return `settled`; ValueError if the sweep is adaptive and it is missing."""
    if settled is not None or not study.experiment.sweep.adaptive:
        return settled or (lambda *_: True)
    raise ValueError(
        "sweep.adaptive must be false where nothing judges the runs, got true: give `settled`, "
        "such as launch.pipeline.settled"
    )


def _part(
    study: Study, stepsize: float, whole: Sequence[PlannedRun], rows: _Rows
) -> list[PlannedRun]:
    """Return what an arm's sweep is begun with."""
    sweep = study.experiment.sweep
    by_size: dict[int, list[PlannedRun]] = {size: [] for size in sweep.sizes}
    for run in whole:
        by_size[getattr(run.config, sweep.axis)].append(run)
    first, *larger = by_size.values()
    return first + [run for runs in larger for run in _around(_grid(runs), stepsize, rows)]


def _around(grid: _Grid, stepsize: float, rows: _Rows) -> list[PlannedRun]:
    """Return the runs near the tuned stepsize and near the best one that is known by now."""
    values = list(grid)
    chosen = _near(values, values.index(stepsize))
    while True:
        runs = [run for value in chosen for run in grid[value]]
        if not _complete(runs, rows):
            return runs
        best = min(chosen, key=lambda value: _loss(grid[value], rows))
        if not math.isfinite(_loss(grid[best], rows)):
            best = chosen[0]  # every run diverged, and smaller stepsizes may not
        more = sorted({*chosen, *_near(values, values.index(best))})
        if more == chosen:
            return runs
        chosen = more


def _near(values: list[float], middle: int) -> list[float]:
    return values[max(0, middle - REACH) : middle + REACH + 1]


def _grid(runs: Sequence[PlannedRun]) -> _Grid:
    grid: _Grid = {}
    for run in sorted(runs, key=lambda run: run.config.optimizer.stepsize):
        grid.setdefault(run.config.optimizer.stepsize, []).append(run)
    return grid


def _complete(runs: Sequence[PlannedRun], rows: _Rows) -> bool:
    return all(run.config.run_id in rows for run in runs)


def _loss(runs: Sequence[PlannedRun], rows: _Rows) -> float:
    """Return the mean loss of a cell; infinite if a run diverged or failed."""
    stored = [rows[run.config.run_id] for run in runs]
    losses = [row.val_loss if row.status == "done" else None for row in stored]
    return sum(math.inf if loss is None else loss for loss in losses) / len(losses)
