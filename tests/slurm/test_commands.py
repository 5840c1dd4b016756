"""The commands around jobs, each in a process of its own: status, logs, cancel, resume."""

import json
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from sweeps.table import RunTable
from tests.helpers import wait_until
from tests.slurm.conftest import Lmo, in_queue

pytestmark = pytest.mark.slurm
SLURM = ("--on", "slurm", "--cluster", "a100.toml")


def _out(lmo: Lmo, *words: str, code: int = 0, **environment: str) -> str:
    done = lmo(*words, **environment)
    out, _ = done.communicate(timeout=280)
    assert done.returncode == code, out
    return out


def _counts(lmo: Lmo, study: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_out(lmo, "status", str(study), "--json"))
    return found


def test_ctrl_c_leaves_no_job_and_the_study_goes_on(lmo: Lmo, study: Path) -> None:
    """The same command then trains what is missing, where the study was trained last."""
    first = lmo("sweep", "tiny.toml", *SLURM)
    wait_until(lambda: len(in_queue(study)) > 0, 60, "a job in the queue")
    time.sleep(2)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=60)
    assert first.returncode == 130 and "interrupted" in out
    wait_until(lambda: in_queue(study) == [], 30, "an empty queue")
    assert "resume" in _out(lmo, "status", str(study))
    _out(lmo, "sweep", str(study))
    assert list((study / "jobs").iterdir()), "on SLURM again"
    wait_until(lambda: in_queue(study) == [], 20, "an empty queue")


def test_a_killed_driver_and_a_new_shell(lmo: Lmo, study: Path) -> None:
    """kill -9 leaves the jobs; status shows them, logs their output, resume waits for them."""
    driver = lmo("sweep", "tiny.toml", "--train.steps", "4000", *SLURM)
    wait_until(lambda: len(in_queue(study)) > 0, 60, "a job in the queue")
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    jobs = in_queue(study)
    assert jobs, "the jobs go on"
    told = _counts(lmo, study)
    tuning = next(row for row in told["stages"] if row["stage"] == "tune")
    assert tuning["running"] + tuning["queued"] + tuning["done"] > 0
    assert {job["job"] for job in told["jobs"]} <= set(jobs)
    out = _out(lmo, "resume", str(study))
    assert "in SLURM's queue already and are waited for" in out
    run = next(iter(RunTable(study).read()))
    assert "== " in _out(lmo, "logs", str(study), run)
    assert "has a run 'nosuch'" in _out(lmo, "logs", str(study), "nosuch", code=2)
    done = _counts(lmo, study)
    left = sum(row[k] for row in done["stages"] for k in ("to do", "running", "queued", "failed"))
    checks = next(row for row in done["stages"] if row["stage"] == "check")
    assert left == 0, done["stages"]
    assert checks["done"] + checks["diverged"] > 0


def test_cancel_empties_the_queue_and_stops_the_driver(lmo: Lmo, study: Path) -> None:
    driver = lmo("run", "tiny.toml", "--train.steps", "20000", *SLURM)
    wait_until(lambda: len(in_queue(study)) > 0, 60, "a job in the queue")
    assert "cancelled" in _out(lmo, "cancel", str(study))
    assert in_queue(study) == []
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130 and "stopped: its jobs were cancelled" in out
    assert not any(row.status == "failed" for row in RunTable(study).read().values())
    assert "0 jobs cancelled" in _out(lmo, "cancel", str(study))


def test_jobs_that_cannot_start_are_shown_cancelled_and_made_up_for(
    lmo: Lmo, study: Path, tmp_path: Path
) -> None:
    """The reason is SLURM's; resume then trains what is missing, with another profile."""
    profile = (tmp_path / "a100.toml").read_text()
    (tmp_path / "held.toml").write_text(profile + 'extra = { hold = "" }\n')
    driver = lmo("sweep", "tiny.toml", "--on", "slurm", "--cluster", "held.toml")
    wait_until(lambda: len(in_queue(study)) > 0, 60, "a job in the queue")
    jobs = _counts(lmo, study)["jobs"]
    assert {(job["state"], job["reason"]) for job in jobs} == {("PENDING", "JobHeldUser")}
    assert "JobHeldUser" in _out(lmo, "status", str(study))
    _out(lmo, "cancel", str(study))
    driver.communicate(timeout=60)
    assert in_queue(study) == [] and driver.returncode == 130
    _out(lmo, "resume", str(study), *SLURM)
    rows = RunTable(study).read()
    assert rows and {row.status for row in rows.values()} == {"done"}
    told = _counts(lmo, study)["stages"]
    assert not any(row["to do"] + row["queued"] + row["failed"] for row in told), told


def test_failed_runs_are_tried_again_by_the_command(lmo: Lmo, study: Path, tmp_path: Path) -> None:
    """Their jobs died before they could train; a line of the profile's set-up was to blame."""
    profile = (tmp_path / "a100.toml").read_text()
    (tmp_path / "bad.toml").write_text(profile + 'setup = ["exit 3"]\n')
    out = _out(lmo, "tune", "tiny.toml", "--on", "slurm", "--cluster", "bad.toml", code=5)
    rows = RunTable(study).read()
    assert rows and {row.status for row in rows.values()} == {"failed"}, out
    out = _out(lmo, "resume", str(study), "--retry-failed", *SLURM)
    assert {row.status for row in RunTable(study).read().values()} == {"done"}, out


def test_a_job_saves_before_it_hands_itself_on(lmo: Lmo, study: Path) -> None:
    """The limit's signal comes long before the first checkpoint would be due."""
    driver = lmo("tune", "tiny.toml", "--train.steps", "30000", *SLURM)
    wait_until(lambda: list((study / "jobs").glob("*/submitit/*_log.out")) != [], 60, "a log")
    log = next((study / "jobs").glob("*/submitit/*_log.out"))
    wait_until(lambda: "'step':" in log.read_text(), 60, "some steps")
    assert not list(study.glob("checkpoints/*.pt"))
    subprocess.run(["scancel", "--signal", "USR2", *in_queue(study)], check=True)
    wait_until(lambda: len(list(study.glob("checkpoints/*.pt"))) > 0, 20, "checkpoints")
    wait_until(lambda: "Requeued job" in log.read_text(), 20, "a requeue")
    begun = re.findall(r"'step': (\d+)", log.read_text())

    def went_on() -> bool:
        steps = re.findall(r"'step': (\d+)", log.read_text())
        return len(steps) > len(begun) and int(steps[len(begun)]) >= int(begun[-1])

    wait_until(went_on, 90, "the job goes on at its checkpoint")
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)


def test_where_a_study_is_trained(lmo: Lmo, study: Path) -> None:
    """Not here while its jobs are in the queue; a command that is refused changes nothing."""
    driver = lmo("tune", "tiny.toml", "--train.steps", "20000", *SLURM)
    wait_until(lambda: len(in_queue(study)) > 0, 60, "a job in the queue")
    assert "another command" in _out(lmo, "resume", str(study), code=2)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    here = _out(lmo, "resume", str(study), "--on", "local", code=2)
    assert "jobs of" in here and "are in SLURM's queue: wait for them with --on slurm" in here
    assert json.loads((study / "cluster.json").read_text())["runs_per_job"] == 4
    _out(lmo, "cancel", str(study))
    assert in_queue(study) == []


def test_a_whole_run_in_which_no_trial_is_trained_twice(lmo: Lmo, study: Path) -> None:
    """With a secret in the environment, which no file of the study has."""
    out = _out(lmo, "run", "both.toml", *SLURM, MY_TOKEN="s3cr3t-of-mine")
    assert "report.html" in out
    lines = [
        json.loads(line)
        for path in (study / "records").glob("*/*.jsonl")
        for line in path.read_text().splitlines()
    ]
    ids = [line["run_id"] for line in lines]
    assert len(ids) == len(set(ids)) and "failed" not in {line["status"] for line in lines}
    told = _counts(lmo, study)
    assert not told["jobs"] and told["slurm_answers"] and told["hours_used"] > 0
    for path in study.rglob("*"):
        assert path.is_dir() or b"s3cr3t-of-mine" not in path.read_bytes(), path


def test_a_refusal_is_one_line(lmo: Lmo, study: Path) -> None:
    out = _out(lmo, "sweep", "tiny.toml", *SLURM[:2], "--cluster.partition", "moon", code=2)
    said = [line for line in out.splitlines() if "moon" in line]
    assert len(said) == 1 and said[0].startswith("lmo-transfer: SLURM refuses the jobs: sbatch:")
    assert in_queue(study) == []


def test_without_slurm_it_is_said(lmo: Lmo, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    out = _out(lmo, "sweep", "tiny.toml", *SLURM, code=2, PATH=str(tmp_path / "bin"))
    assert "--on slurm needs SLURM: there is no sbatch on PATH" in out
