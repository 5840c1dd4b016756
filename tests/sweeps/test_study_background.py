"""A study tuned by a runner that trains in the background."""

import random
from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from sweeps.errors import FailedTrialError
from sweeps.loop import complete
from sweeps.progress import Reporter, Together
from sweeps.runner import BackgroundRunner, LocalRunner
from sweeps.study import Study
from sweeps.table import RunTable, StoredRun
from tests.helpers import (
    FakeRunner,
    NoRunner,
    Notes,
    fabricate,
    study_frame,
    tiny_dict,
    tiny_experiment,
)
from transfer.config import RunConfig

CHANGES = {"tune.trials": 12, "tune.batch": 3, "tune.seeds": [101, 102]}


def made(config: RunConfig) -> StoredRun:
    return fabricate(config, 1.0 + abs(config.optimizer.stepsize - 0.1) + config.seed / 1e4)


def failed(config: RunConfig) -> StoredRun:
    return fabricate(config, None, "failed", error="ValueError: no")


class FakeCluster(FakeRunner):
    """Publishes a record at each wait, of any run that was submitted."""

    def __init__(self) -> None:
        super().__init__(made)
        self.chance, self.queue = random.Random(3), dict[str, RunConfig]()
        self.stop = 10**9
        self.submissions = 0

    def submit(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        known = table.read()
        assert not [c for c in configs if c.run_id in known or c.run_id in self.queue]
        self.queue |= {config.run_id: config for config in configs}
        self.submissions += 1

    def wait(self, table: RunTable, run_ids: Collection[str], reporter: Reporter) -> None:
        if len(self.trained) >= self.stop:
            raise KeyboardInterrupt
        config = self.queue.pop(self.chance.choice(sorted(run_ids)))
        self.run(table, [config], reporter)


def test_it_is_told_from_other_runners() -> None:
    assert isinstance(FakeCluster(), BackgroundRunner)
    assert not isinstance(LocalRunner(1), BackgroundRunner)
    assert not isinstance(FakeRunner(made), BackgroundRunner)


@pytest.mark.parametrize("stop", [1, 7, 16])
def test_a_study_interrupted_and_completed_is_read_by_anybody(tmp_path: Path, stop: int) -> None:
    study = Study.create(tmp_path, tiny_experiment(CHANGES))
    first = FakeCluster()
    first.stop = stop
    with pytest.raises(KeyboardInterrupt):
        study.tune(first, Reporter())
    with pytest.raises(LookupError, match="runs are missing"):
        Study.open(tmp_path).tune(None, Reporter())
    second, notes = FakeCluster(), Notes()
    tuned = complete(study, second, notes)
    assert notes.notes == [] and second.submissions > 1
    trained = [config.run_id for config in first.trained + second.trained]
    assert len(trained) == len(set(trained)), "trained twice"
    total, known = (sum(stage[i] for stage in notes.stages) for i in (1, 2))
    assert notes.done + known == total, notes.stages
    reader = Study.open(tmp_path)
    assert reader.tune(None, Reporter()) == tuned
    assert complete(reader, NoRunner(), Reporter()) == tuned, "and by a runner here"
    assert len(study_frame(reader)) > 0


def test_failed_runs_are_retried_on_request(tmp_path: Path) -> None:
    def broken(config: RunConfig) -> StoredRun:
        return failed(config) if len(cluster.trained) in (4, 5) else made(config)

    study, cluster = Study.create(tmp_path, tiny_experiment(CHANGES)), FakeCluster()
    cluster.make = broken
    with pytest.raises(FailedTrialError, match="ValueError: no"):
        study.tune(cluster, Reporter())
    assert cluster.queue == {}, "left running"
    with pytest.raises(FailedTrialError, match="ValueError: no"):
        study.tune(FakeCluster(), Reporter())
    again, notes = FakeCluster(), Notes()
    tuned = study.tune(again, notes, retry_failed=True)
    assert notes.notes == [] and tuned == Study.open(tmp_path).tune(None, Reporter())


def arm_of(config: RunConfig) -> str:
    return config.optimizer.name


def test_arms_are_tuned_side_by_side(tmp_path: Path) -> None:
    """One submission begins all of them; each goes on when its own runs have ended."""

    class Slow(FakeCluster):
        """Ends the runs of one arm while there are any."""

        def submit(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
            super().submit(table, configs, reporter)
            submitted.append({arm_of(config) for config in configs})

        def wait(self, table: RunTable, run_ids: Collection[str], reporter: Reporter) -> None:
            under_way.append({arm_of(config) for config in self.queue.values()})
            first = {r for r in run_ids if arm_of(self.queue[r]) == "scion"}
            super().wait(table, first or run_ids, reporter)

    submitted, under_way = list[set[str]](), list[set[str]]()
    study, notes = Study.create(tmp_path / "a", tiny_experiment(CHANGES)), Notes()
    tuned = study.tune(Slow(), notes)
    assert submitted[0] == {"scion", "adamw"} and under_way[0] == submitted[0]
    assert {"adamw"} not in under_way[:12], "the other arm is not waited for"
    assert [title for title, *_ in notes.stages] == ["tune scion, adamw"]
    assert list(tuned) == ["scion", "adamw"]
    apart = Study.create(tmp_path / "b", tiny_experiment(CHANGES)).tune(FakeRunner(made), Notes())
    assert tuned["adamw"] == apart["adamw"]


def test_an_arm_that_fails_ends_the_command_when_the_others_are_tuned(tmp_path: Path) -> None:
    def broken(config: RunConfig) -> StoredRun:
        return failed(config) if arm_of(config) == "adamw" else made(config)

    study, cluster = Study.create(tmp_path, tiny_experiment(CHANGES)), FakeCluster()
    cluster.make = broken
    with pytest.raises(FailedTrialError, match="ValueError: no"):
        study.tune(cluster, Reporter())
    assert cluster.queue == {} and study.tuned("scion").num_trials == 12
    tuned = study.tune(FakeCluster(), Reporter(), retry_failed=True)
    assert tuned["scion"] == study.tuned("scion") and tuned["adamw"].value is not None


@pytest.mark.parametrize("stop", [0, 9])
def test_two_sampled_arms_in_one_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    """Their trials are asked in turns, also after an interruption, and read back alike."""
    monkeypatch.setenv("LMO_TRANSFER_STORAGE", f"sqlite:///{tmp_path / 'trials.db'}")
    arms = tiny_dict(CHANGES)["arms"]
    second = {**arms["scion"], "optimizer": {**arms["scion"]["optimizer"], "constrained": True}}
    changes = CHANGES | {"arms": {"first": arms["scion"], "second": second}}
    study = Study.create(tmp_path / "s", tiny_experiment(changes))
    first = FakeCluster()
    first.stop = stop
    with pytest.raises(KeyboardInterrupt):
        study.tune(first, Reporter())
    cluster, notes = FakeCluster(), Notes()
    tuned = study.tune(cluster, notes)
    assert {t.num_trials for t in tuned.values()} == {12} and notes.notes == []
    trained = [config.run_id for config in first.trained + cluster.trained]
    assert len(trained) == len(set(trained)), "trained twice"
    assert study.tune(None, Reporter()) == tuned


def test_an_arm_that_begins_late_counts_with_the_others() -> None:
    notes = Notes()
    together = Together(notes)
    together.stage("tune a: 10 trials", 10, 2)
    together.advance(1)
    together.begin()
    together.advance(2)
    together.stage("tune b: 5 stepsizes", 5, 0)
    together.advance(1)
    together.begin()
    together.begin()
    assert notes.stages == [("tune a: 10 trials", 10, 3), ("tune a, b", 15, 6)]
    assert notes.done == 2
