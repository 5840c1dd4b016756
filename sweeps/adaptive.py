"""Successive narrowing: at larger sizes first the stepsizes that matter for the verdict.

The smallest size is swept whole. A larger one begins with the stepsizes within two octaves of the
tuned one and is extended until those within two octaves of its own best are there too, which is
as far as the estimate of an optimum looks. If that part decides the verdict, or the rest could not,
it is the sweep; else the whole grid is. So a curve with a second, better basin farther away may go
unseen.

What is needed follows from the run table alone: an interrupted sweep goes on where it was, and
commands that train nothing judge the same runs.
"""

import math
from collections.abc import Callable, Mapping, Sequence

from sweeps.experiment import Experiment
from sweeps.plan import PlannedRun
from sweeps.study import Study
from sweeps.table import StoredRun
from sweeps.tune import Tuned

REACH = 2
"""Grid points on either side of the tuned stepsize, and of a size's best one."""

Settled = Callable[[Study, str, Tuned, Sequence[PlannedRun]], bool]
"""Whether more stepsizes than these of an arm, whose runs the table has, leave its verdict."""
_Rows = Mapping[str, StoredRun]


def needed(
    study: Study, tuned: Mapping[str, Tuned], settled: Settled | None = None
) -> list[PlannedRun]:
    """Return the planned runs that are needed, as far as the run table tells by now.

    With those trained it may be more; once none of them is missing, that is all. Whatever else of
    the plan the table has, for example because the study has grown, is needed too.

    Args:
        study: Without `sweep.adaptive` everything that it plans is needed.
        tuned: Result of the tuning of every arm.
        settled: Asked about the part of an arm's sweep that was begun with, when it is there, and
            about all that is there if that is more.

    Raises:
        ValueError: as `require_judge`.
    """
    planned = study.planned(dict(tuned))
    judge = require_judge(study.experiment, settled)
    if not study.experiment.sweep.adaptive:
        return planned
    rows, kept = study.table.read(), set[tuple[str, str]]()
    for arm, result in tuned.items():
        whole = [run for run in planned if run.arm == arm and run.purpose == "sweep"]
        part = _part(study, result.optimizer.stepsize, whole, rows)
        chosen = {run.config.run_id for run in part}
        known = [r for r in whole if r.config.run_id in chosen or r.config.run_id in rows]
        if _complete(part, rows) and len(known) < len(whole):
            asked = [part] if len(known) == len(part) else [part, known]
            if not all(judge(study, arm, result, runs) for runs in asked):
                known = whole
        kept |= {(arm, run.config.run_id) for run in known}
    return [r for r in planned if r.purpose != "sweep" or (r.arm, r.config.run_id) in kept]


def require_judge(experiment: Experiment, settled: Settled | None) -> Settled:
    """Return `settled`; ValueError if the sweep is adaptive and it is missing."""
    if settled is not None or not experiment.sweep.adaptive:
        return settled or (lambda *_: True)
    raise ValueError(
        "sweep.adaptive must be false where nothing judges the runs, got true: give `settled`, "
        "such as launch.pipeline.settled"
    )


def around(num: int, tuned: int, loss: Callable[[int], float | None]) -> list[int]:
    """Return which points of a size's grid are begun with, increasing.

    Args:
        num: Number of grid points.
        tuned: Index of the tuned stepsize.
        loss: Mean loss at a point, infinite if a run diverged; None if it is not known yet, and
            what is returned is then to be found out first.
    """
    chosen = _near(num, tuned)
    while True:
        losses = {point: loss(point) for point in chosen}
        known = {point: value for point, value in losses.items() if value is not None}
        if len(known) < len(chosen):
            return chosen
        best = min(chosen, key=lambda point: (known[point], abs(point - tuned)))
        if not math.isfinite(known[best]):
            best = chosen[0]  # every run diverged, and smaller stepsizes may not
        more = sorted({*chosen, *_near(num, best)})
        if more == chosen:
            return chosen
        chosen = more


def _near(num: int, middle: int) -> list[int]:
    return list(range(max(0, middle - REACH), min(num, middle + REACH + 1)))


def _part(
    study: Study, stepsize: float, whole: Sequence[PlannedRun], rows: _Rows
) -> list[PlannedRun]:
    """Return what an arm's sweep is begun with."""
    sweep, part = study.experiment.sweep, list[PlannedRun]()
    for size in sweep.sizes:
        runs = [run for run in whole if getattr(run.config, sweep.axis) == size]
        part += runs if size == sweep.sizes[0] else _begun(runs, stepsize, rows)
    return part


def _begun(runs: Sequence[PlannedRun], stepsize: float, rows: _Rows) -> list[PlannedRun]:
    """Return what a larger size is begun with."""
    cells: dict[float, list[PlannedRun]] = {}
    for run in runs:
        cells.setdefault(run.config.optimizer.stepsize, []).append(run)
    grid = sorted(cells)

    def loss(point: int) -> float | None:
        return _loss(cells[grid[point]], rows)

    chosen = around(len(grid), grid.index(stepsize), loss)
    return [run for point in chosen for run in cells[grid[point]]]


def _complete(runs: Sequence[PlannedRun], rows: _Rows) -> bool:
    """Whether the table has these runs; what failed may be tried again and does not count."""
    stored = [rows.get(run.config.run_id) for run in runs]
    return all(row is not None and row.status != "failed" for row in stored)


def _loss(runs: Sequence[PlannedRun], rows: _Rows) -> float | None:
    """Return the mean loss of a cell; infinite if a run diverged, None if one is missing."""
    if not _complete(runs, rows):
        return None
    stored = [rows[run.config.run_id] for run in runs]
    losses = [row.val_loss if row.status == "done" else None for row in stored]
    return sum(math.inf if loss is None else loss for loss in losses) / len(losses)
