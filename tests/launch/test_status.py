"""Where a study stands, without SLURM: the run table, and jobs that nobody answers for."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch import queue
from launch.ledger import Spec, prepare, submissions
from launch.plan import arm_plan
from launch.status import missing
from sweeps.packing import Bundle
from sweeps.reading import load_experiment
from sweeps.study import Study
from tests.launch.conftest import SMALL, Command, one_line
from transfer.config import ComputeConfig


def _status(command: Command, folder: Path) -> dict[str, Any]:
    done = command("status", str(folder), "--json", cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_finished_study(study: Path, command: Command) -> None:
    found = _status(command, study)
    by_stage = {(row["stage"], row["width"]): row for row in found["stages"]}
    # Grid of 4 and 3 stepsizes x 2 seeds, the star 1 x 2; the widths are 4 and 8, and 16 to check.
    assert {key: row["done"] + row["diverged"] for key, row in by_stage.items()} == {
        ("tune", 4): 5, ("sweep", 4): 14, ("sweep", 8): 14, ("radii", 4): 2, ("radii", 8): 2,
        ("check", 16): 4,
    }  # fmt: skip
    assert all(row["to do"] == row["failed"] == row["running"] == 0 for row in found["stages"])
    assert found["hours_used"] > 0 and found["hours_left"] == 0 and found["jobs"] == []
    text = command("status", str(study), "--watch", cwd=study.parent)
    assert text.returncode == 0 and "hours of computing: 0.00 used, about 0.00 left" in text.stdout


def test_a_study_that_grows_and_one_that_only_began(
    study: Path, tmp_path: Path, command: Command
) -> None:
    grown = Study.create(study, _with_seeds(study, (1, 2, 3)))
    found = _status(command, grown.folder)
    assert sum(row["to do"] for row in found["stages"]) == 18 and found["hours_left"] > 0
    text = command("status", str(study), cwd=study.parent).stdout
    assert "18 runs to go: lmo-transfer resume" in text
    (tmp_path / "small.toml").write_text(SMALL)
    new = Study.create(tmp_path / "new", load_experiment(str(tmp_path / "small.toml")))
    begun = _status(command, new.folder)
    assert {row["tuned"] for row in begun["stages"] if row["stage"] != "tune"} == {False}
    assert sum(row["to do"] for row in begun["stages"]) == 41 and begun["hours_left"] is None
    shown = command("status", str(new.folder), cwd=tmp_path).stdout
    assert "about 14" in shown and "is not known before runs like it were timed" in shown


def _with_seeds(folder: Path, seeds: tuple[int, ...]) -> Any:
    experiment = Study.open(folder).experiment
    return replace(experiment, sweep=replace(experiment.sweep, seeds=seeds))


def test_jobs_in_the_queue(study: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name of their array, whatever their ids; a silent SLURM is said to be one."""
    grown = Study.create(study, _with_seeds(study, (1, 2, 3)))
    plans = [arm_plan(grown, arm) for arm in grown.experiment.arms]
    runs = missing(plans, grown.table.read())
    bundles = [Bundle(runs=runs[:3], seconds=9.0), Bundle(runs=runs[3:5], seconds=6.0)]
    made = prepare(study, bundles, Spec(compute=ComputeConfig()), gpus=1)
    assert [s.name for s in submissions(study)] == [made.name]
    jobs = [
        queue.Queued("77_0", made.name, "RUNNING", "None"),
        queue.Queued("77_1", made.name, "PENDING", "QOSMaxGRESPerUser"),
        queue.Queued("78_1", "lmo-another", "PENDING", "Priority"),
    ]
    monkeypatch.setattr(queue, "seen", lambda: jobs)
    found = _status(command, study)
    assert sum(row["running"] for row in found["stages"]) == 3
    assert sum(row["queued"] for row in found["stages"]) == 2
    assert [job["job"] for job in found["jobs"]] == ["77_0", "77_1"]
    text = command("status", str(study), cwd=study.parent).stdout
    assert "job 77_1: pending, QOSMaxGRESPerUser; 2 runs to come" in text
    monkeypatch.setattr(queue, "seen", lambda: None)
    monkeypatch.setattr(queue, "seen_by_accounting", lambda: jobs[:1])
    assert _status(command, study)["slurm_answers"]
    monkeypatch.setattr(queue, "seen_by_accounting", lambda: None)
    assert not _status(command, study)["slurm_answers"]
    refused = command("cancel", str(study), cwd=study.parent)
    assert "SLURM does not answer (squeue fails): nothing was cancelled" in one_line(refused)


def test_logs_where_nothing_was_submitted(study: Path, command: Command) -> None:
    done = command("logs", str(study), "abc", cwd=study.parent)
    assert "was submitted to SLURM: there are no logs" in one_line(done)


def test_nothing_to_cancel(study: Path, command: Command) -> None:
    done = command("cancel", str(study), cwd=study.parent)
    assert "was submitted to SLURM" in one_line(done) and not (study / "jobs").exists()


def test_a_damaged_submission_is_nobodys(tmp_path: Path) -> None:
    made = prepare(tmp_path, [], Spec(compute=ComputeConfig()), gpus=0)
    (made.folder / "submission.json").write_text("{")
    assert submissions(tmp_path) == []


def test_tasks_that_wait_are_one_line_of_accounting(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "7_[1-2,5%4]|lmo-a|PENDING\n7_0|lmo-a|CANCELLED by 0\n8|lmo-b|RUNNING\n"
    monkeypatch.setattr(queue, "ask", lambda command: lines)
    found = queue.seen_by_accounting() or []
    assert [job.job for job in found] == ["7_1", "7_2", "7_5", "7_0", "8"]
    assert [job.ended for job in found] == [False, False, False, True, False]
    assert found[2].task == 5


def test_reasons_and_ends() -> None:
    held = queue.Queued("5", "n", "PENDING", "JobHeldUser")
    assert held.stuck == "JobHeldUser" and held.waits and not held.ended and held.task == 0
    assert queue.Queued("5_3", "n", "PENDING", "Priority").stuck == ""
    assert queue.Queued("5_3", "n", "CANCELLED", "None").ended
    assert not queue.Queued("5_3", "n", "COMPLETING", "None").ended
