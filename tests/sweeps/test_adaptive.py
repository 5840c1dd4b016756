"""An adaptive sweep: what is needed follows from the table, and never more than the whole grid."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.adaptive import needed
from sweeps.loop import complete, run
from sweeps.plan import PlannedRun
from sweeps.progress import Reporter
from sweeps.study import Study
from sweeps.tune import Tuned
from tests.helpers import DELETE, FakeRunner, fabricate, tiny_experiment
from transfer.config import RunConfig

GRID: dict[str, Any] = {
    "arms.scion.octaves_below": 8,
    "arms.scion.octaves_above": 4,
    "arms.scion.star": {},
    "arms.scion.search": {"stepsize": [-8, -4]},
    "sweep.widths": [4, 8, 16],
    "sweep.seeds": [1, 2],
    "sweep.check_factor": 0,
}
OPTIMUM = {4: -6, 8: -6, 16: -6}


def runner(optimum: dict[int, int]) -> FakeRunner:
    """Losses are parabolas about an optimum at each width."""

    def record(config: RunConfig) -> Any:
        off = math.log2(config.optimizer.stepsize) - optimum[config.width]
        return fabricate(config, 1 + off**2 + config.seed / 10)

    return FakeRunner(record)


class Judge:
    """Answers as told, and remembers which cells it was asked about."""

    def __init__(self, answer: bool) -> None:
        self.answer, self.asked = answer, list[tuple[str, set[tuple[int, float]]]]()

    def __call__(self, study: Study, arm: str, tuned: Tuned, runs: Sequence[PlannedRun]) -> bool:
        rows = study.table.read()
        assert all(run.config.run_id in rows for run in runs)
        self.asked.append((arm, cells(runs)))
        return self.answer


def cells(runs: Sequence[PlannedRun]) -> set[tuple[int, float]]:
    """Width and log2 stepsize of runs."""
    return {(r.config.width, math.log2(r.config.optimizer.stepsize)) for r in runs}


def study_of(folder: Path, changes: dict[str, Any] | None = None) -> Study:
    alone = {"arms.adamw": DELETE, "sweep.adaptive": True}
    return Study.create(folder, tiny_experiment(GRID | alone | (changes or {})))


def swept(study: Study, judge: Judge) -> list[PlannedRun]:
    """Return what is needed, which must be in the table."""
    tuned = study.tune(None, Reporter())
    runs = needed(study, tuned, judge)
    assert all(run.config.run_id in study.table.read() for run in runs)
    return runs


def octaves(width: int, low: int, high: int) -> set[tuple[int, float]]:
    return {(width, float(k)) for k in range(low, high + 1)}


WHOLE = octaves(4, -14, -2) | octaves(8, -14, -2) | octaves(16, -14, -2)


def test_around_the_tuned_stepsize_where_the_optimum_stays(tmp_path: Path) -> None:
    study, judge = study_of(tmp_path), Judge(True)
    complete(study, runner(OPTIMUM), Reporter(), settled=judge)
    part = octaves(4, -14, -2) | octaves(8, -8, -4) | octaves(16, -8, -4)
    assert cells(swept(study, judge)) == part
    assert all(asked == ("scion", part) for asked in judge.asked)
    seeds = {(r.config.width, r.config.seed) for r in swept(study, judge)}
    assert seeds == {(w, s) for w in (4, 8, 16) for s in (1, 2)}


def test_follows_an_optimum_that_moves(tmp_path: Path) -> None:
    """Steps of two octaves downhill, the last until two lie beyond the best; up to the edge."""
    study, judge = study_of(tmp_path), Judge(True)
    complete(study, runner({4: -6, 8: -11, 16: -1}), Reporter(), settled=judge)
    part = octaves(4, -14, -2) | octaves(8, -13, -4) | octaves(16, -8, -2)
    assert cells(swept(study, judge)) == part


def test_the_whole_grid_where_the_verdict_stays_open(tmp_path: Path) -> None:
    study, judge = study_of(tmp_path), Judge(False)
    trained = runner(OPTIMUM)
    complete(study, trained, Reporter(), settled=judge)
    assert cells(swept(study, judge)) == WHOLE
    assert len(judge.asked) == 1, "of a whole grid nobody is asked whether it is enough"


def test_diverged_cells_are_no_optimum(tmp_path: Path) -> None:
    """Where every run diverged, smaller stepsizes are tried."""

    def record(config: RunConfig) -> Any:
        octave = math.log2(config.optimizer.stepsize)
        diverged = config.width == 16 and octave > -11
        # Lower than all others, as of a run that stopped on its way.
        loss = -5.0 if diverged else 1 + (octave + 6) ** 2
        return fabricate(config, loss, status="diverged" if diverged else "done")

    study, judge = study_of(tmp_path), Judge(True)
    complete(study, FakeRunner(record), Reporter(), settled=judge)
    at_16 = {octave for width, octave in cells(swept(study, judge)) if width == 16}
    assert at_16 == set(range(-13, -3)), "the best is -11, with two on each side and all between"


@pytest.mark.parametrize("after", range(1, 5))
@pytest.mark.parametrize("answer", [True, False])
def test_goes_on_where_it_was_interrupted(tmp_path: Path, after: int, answer: bool) -> None:
    """Interrupted at any call of the runner, the study ends with the same runs."""
    optimum = {4: -6, 8: -11, 16: -6}
    undisturbed, judge = study_of(tmp_path / "a"), Judge(answer)
    complete(undisturbed, runner(optimum), Reporter(), settled=judge)

    class Interrupted(Exception):
        pass

    class Fragile(FakeRunner):
        left = after

        def run(self, *arguments: Any) -> None:
            if not self.left:
                raise Interrupted
            self.left -= 1
            super().run(*arguments)

    study = study_of(tmp_path / "b")
    with pytest.raises(Interrupted):
        complete(study, Fragile(runner(optimum).make), Reporter(), settled=judge)
    complete(study, runner(optimum), Reporter(), settled=judge)
    assert set(study.table.read()) == set(undisturbed.table.read())


@pytest.mark.parametrize(
    ("grown", "more"),
    [
        (
            {"sweep.seeds": [1, 2, 3]},
            octaves(4, -14, -2) | octaves(8, -8, -4) | octaves(16, -8, -4),
        ),
        ({"sweep.widths": [4, 8, 16, 32]}, octaves(32, -8, -4)),
        ({"arms.scion.octaves_below": 9}, octaves(4, -15, -15)),
    ],
    ids=str,
)
def test_what_grew_keeps_what_is_there(
    tmp_path: Path, grown: dict[str, Any], more: set[tuple[int, float]]
) -> None:
    """An arm that was open got the whole grid; that counts when it grows and is settled."""
    complete(study_of(tmp_path), runner(OPTIMUM), Reporter(), settled=Judge(False))
    study, trained, judge = study_of(tmp_path, grown), runner(OPTIMUM | {32: -6}), Judge(True)
    complete(study, trained, Reporter(), settled=judge)
    assert cells(swept(study, judge)) == WHOLE | more
    sweep = [c for c in trained.trained if c.seed != 101]
    assert {(c.width, math.log2(c.optimizer.stepsize)) for c in sweep} == more
    assert any(asked > {*octaves(8, -14, -2)} for _, asked in judge.asked), "all that is there"


def test_what_grew_is_whole_if_all_that_is_there_leaves_it_open(tmp_path: Path) -> None:
    """The new part alone would settle it; the cells that were there before do not."""

    class Blocked(Judge):
        def __call__(self, *arguments: Any) -> bool:
            super().__call__(*arguments)
            return (8, -14.0) not in self.asked[-1][1]

    complete(study_of(tmp_path), runner(OPTIMUM), Reporter(), settled=Judge(False))
    study, trained = study_of(tmp_path, {"sweep.seeds": [1, 2, 3]}), runner(OPTIMUM)
    complete(study, trained, Reporter(), settled=Blocked(True))
    sweep = [c for c in trained.trained if c.seed == 3]
    assert {(c.width, math.log2(c.optimizer.stepsize)) for c in sweep} == WHOLE


def test_a_failed_run_waits_for_its_retry(tmp_path: Path) -> None:
    """It neither opens the rest of the grid nor moves the optimum."""

    def record(config: RunConfig) -> Any:
        good = runner(OPTIMUM).make(config)
        broken = config.width == 8 and config.optimizer.stepsize == 2**-7 and config.seed == 1
        return replace(good, status="failed", val_loss=None, error="killed") if broken else good

    study, judge = study_of(tmp_path), Judge(True)
    complete(study, FakeRunner(record), Reporter(), settled=judge)
    part = octaves(4, -14, -2) | octaves(8, -8, -4) | octaves(16, -8, -4)
    assert cells(swept(study, judge)) == part and judge.asked == []
    again = runner(OPTIMUM)
    complete(study, again, Reporter(), retry_failed=True, settled=judge)
    assert len(again.trained) == 1 and judge.asked[0] == ("scion", part)


def test_other_axes_and_a_constrained_grid(tmp_path: Path) -> None:
    """Along the depth; the grid ends at stepsize 1, near which the tuned one lies."""
    changes = {
        "sweep.widths": [4],
        "sweep.depths": [3, 4],
        "arms.scion.search": {"stepsize": [-4, -1]},
    }
    changes |= {"arms.scion.optimizer.constrained": True}

    def record(config: RunConfig) -> Any:
        return fabricate(config, 1 + (math.log2(config.optimizer.stepsize) + 1) ** 2)

    study, judge = study_of(tmp_path, changes), Judge(True)
    complete(study, FakeRunner(record), Reporter(), settled=judge)
    found = {(r.config.depth, math.log2(r.config.optimizer.stepsize)) for r in swept(study, judge)}
    assert found == octaves(3, -9, 0) | octaves(4, -3, 0)


def test_equal_losses_do_not_lead_away(tmp_path: Path) -> None:
    study, judge = study_of(tmp_path), Judge(True)
    complete(study, FakeRunner(lambda c: fabricate(c, 1.0)), Reporter(), settled=judge)
    assert len(cells(swept(study, judge))) == 13 + 5 + 5


def test_turned_on_later_it_leaves_out_nothing_that_is_there(tmp_path: Path) -> None:
    study, judge = study_of(tmp_path, {"sweep.adaptive": False}), Judge(True)
    complete(study, runner(OPTIMUM), Reporter())
    study = study_of(tmp_path)
    assert study.experiment.sweep.adaptive
    assert cells(swept(study, judge)) == WHOLE and judge.asked == []


def test_turned_off_later_it_trains_the_rest(tmp_path: Path) -> None:
    judge = Judge(True)
    complete(study_of(tmp_path), runner(OPTIMUM), Reporter(), settled=judge)
    trained = runner(OPTIMUM)
    study = study_of(tmp_path, {"sweep.adaptive": False})
    complete(study, trained, Reporter())
    assert len(trained.trained) == 2 * 2 * (13 - 5), "two widths, two seeds"
    assert cells(swept(study, judge)) == WHOLE


def test_arms_are_narrowed_apart(tmp_path: Path) -> None:
    """One arm is settled, the other not; other purposes stay whole."""

    class OneOpen(Judge):
        def __call__(self, study: Study, arm: str, *rest: Any) -> bool:
            return super().__call__(study, arm, *rest) and arm == "scion"

    adamw = {"octaves_below": 6, "octaves_above": 2, "optimizer": {"name": "adamw"}}
    changes = {"arms.adamw": adamw | {"search": {"stepsize": [-8, -4]}}}
    changes |= {"arms.scion.star": {"hidden": [2.0]}, "sweep.check_factor": 2}
    study = study_of(tmp_path, changes)
    complete(study, runner(OPTIMUM | {32: -6}), Reporter(), settled=OneOpen(True))
    runs = swept(study, OneOpen(True))
    count = {
        key: len(cells([r for r in runs if (r.arm, r.purpose) == key]))
        for key in {(r.arm, r.purpose) for r in runs}
    }
    assert count[("scion", "sweep")] == 13 + 5 + 5 and count[("adamw", "sweep")] == 3 * 9
    assert count[("scion", "radii")] == 3 * 3 and count[("adamw", "check")] == 1


def test_without_a_judge_nothing_is_trained(tmp_path: Path) -> None:
    study, trained = study_of(tmp_path / "a"), runner(OPTIMUM)
    with pytest.raises(ValueError, match=r"sweep\.adaptive must be false .*, got true"):
        complete(study, trained, Reporter())
    with pytest.raises(ValueError, match="give `settled`"):
        run(study.experiment, tmp_path / "b", runner=trained)
    assert trained.trained == [] and not (tmp_path / "b").exists()
