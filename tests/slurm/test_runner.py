"""Runs as jobs of a real SLURM: the same table, and what goes wrong on a cluster."""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.ledger import mark_cancelled, submissions
from launch.slurm import SlurmRunner
from launch.submitting import script
from launch.where import StoppedError
from sweeps.inprocess import InProcessRunner
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.reading import load_experiment
from sweeps.runner import LocalRunner
from sweeps.table import RunTable
from tests.helpers import contents, wait_until
from tests.slurm.conftest import CLUSTER, configs, in_queue
from transfer.config import ComputeConfig, RunConfig

pytestmark = pytest.mark.slurm


class Notes(Reporter):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)


def _fake(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a command of SLURM's own first on PATH."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    if not os.environ["PATH"].startswith(f"{folder}:"):
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _train(table: RunTable, runs: Sequence[RunConfig], **changes: Any) -> list[str]:
    notes = Notes()
    with SlurmRunner(replace(CLUSTER, **changes)) as cluster:
        cluster.run(table, runs, notes)
    return notes.lines


def test_the_table_is_that_of_this_machine(home: Path, tmp_path: Path) -> None:
    """Two runs a job; without accounting, which a failing sacct stands for."""
    runs = configs(12)
    here, there = RunTable(tmp_path / "here"), RunTable(home)
    with LocalRunner(1) as local:
        local.run(here, runs, Reporter())
    with pytest.MonkeyPatch.context() as patch:
        _fake(tmp_path / "bin", "sacct", "exit 1", patch)
        _train(there, runs, runs_per_job=2)
    assert contents(there) == contents(here)
    (made,) = submissions(home)
    assert [len(task) for task in made.runs] == [2] * 6 and made.name.startswith(
        f"lmo-{home.name}-"
    )
    written = made.folder / "submitit" / f"{made.array}_submission.sh"
    expected = script(made.folder, made.name, 6, replace(CLUSTER, runs_per_job=2))
    assert written.read_text() == expected, "what a dry run shows"
    wait_until(lambda: in_queue(home) == [], 20, "an empty queue")


def test_two_hundred_runs_of_digits(home: Path, tmp_path: Path) -> None:
    """Five to a job, four jobs at a time, one submission; the same bits as in this process."""
    experiment = load_experiment("digits-mlp")
    arm = experiment.arms["scion"].optimizer
    runs = [
        run_config(experiment, "scion", replace(arm, stepsize=2.0**-k), size=32, seed=seed)
        for k in range(10)
        for seed in range(20)
    ]
    here, there = RunTable(tmp_path / "here"), RunTable(home)
    InProcessRunner().run(here, runs, Reporter())
    _train(there, runs, runs_per_job=5)
    assert len(there.read()) == 200 and contents(there) == contents(here)
    (made,) = submissions(home)
    assert [len(task) for task in made.runs] == [5] * 40


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"partition": "nowhere"}, "invalid partition specified"),
        ({"gres": "gpu:h100:1"}, "Requested node configuration is not available"),
        ({"constraint": "moon"}, "Invalid feature specification"),
        ({"account": "nobody"}, "Invalid account or account/partition combination"),
        ({"partition": "v100", "gres": "", "time_min": 120}, "Requested time limit is invalid"),
    ],
)
def test_what_slurm_refuses_is_said_in_its_words(
    home: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    table = RunTable(home)
    with pytest.raises(ValueError, match=f"SLURM refuses the jobs: .*{words}"):
        _train(table, configs(4), **changes)
    assert in_queue(home) == [] and table.read() == {}
    assert list((home / "jobs").iterdir()) == []


def test_a_controller_that_is_down_is_said_in_one_line(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same commands then work when it is back."""
    table, runs = RunTable(home), configs(2)
    conf = Path(os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf")).read_text()
    away = conf.replace("SlurmctldPort=16817", "SlurmctldPort=16999\nMessageTimeout=2")
    assert away != conf
    (tmp_path / "slurm.conf").write_text(away)
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
        with pytest.raises(ValueError, match="SLURM refuses the jobs: .*[Uu]nable to contact"):
            _train(table, runs)
    assert in_queue(home) == [] and table.read() == {}
    _train(table, runs)
    assert len(table.read()) == 2


def test_a_killed_job_leaves_failed_runs_and_they_are_tried_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    monkeypatch.setattr("launch.slurm._PATIENCE_S", 3.0)
    table, runs = RunTable(home), configs(2, steps=2000)

    class Killer(Reporter):
        def note(self, text: str) -> None:
            if "in SLURM's queue" in text:
                wait_until(lambda: len(in_queue(home)) > 0, 20, "a job in the queue")
                subprocess.run(["scancel", *in_queue(home)], check=True)

    with SlurmRunner(CLUSTER) as cluster:
        cluster.run(table, runs, Killer())
    rows = table.read().values()
    assert len(rows) == 2 and {row.status for row in rows} == {"failed"}
    assert all("ended (CANCELLED) without a result" in str(row.error) for row in rows)
    _train(table, runs)  # as resume --retry-failed does
    assert {row.status for row in table.read().values()} == {"done"}


def test_jobs_of_a_driver_that_died_are_waited_for(home: Path, tmp_path: Path) -> None:
    """A second driver submits only what is in no job of the queue."""
    table, runs = RunTable(home), configs(4, steps=1500)
    dead = SlurmRunner(replace(CLUSTER, runs_per_job=2))
    dead.submit(table, runs[:2], Reporter())
    notes = _train(table, runs, runs_per_job=2)
    assert any("2 runs are in SLURM's queue already" in note for note in notes)
    assert len(table.read()) == 4 and table.problems == []
    assert [sum(map(len, s.runs)) for s in submissions(home)] == [2, 2]
    records = (home / "records").glob("*/*.jsonl")
    assert sum(len(path.read_text().splitlines()) for path in records) == 4, "each run once"


def test_a_run_that_ended_meanwhile_is_not_trained_again(home: Path) -> None:
    """Another job published it after the driver had looked."""
    table, runs = RunTable(home), configs(2)
    InProcessRunner().run(table, runs[:1], Reporter())
    _train(table, runs)
    records = home.glob("records/*/*.jsonl")
    assert sum(len(path.read_text().splitlines()) for path in records) == 2
    _train(table, runs)  # nothing to do, nothing to wait for


def test_what_sbatch_took_before_it_failed_is_cancelled(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    refusal = "sbatch: error: Batch job submission failed: Zero Bytes were transmitted"
    _fake(tmp_path / "bin", "sbatch", f'{real} "$@"; echo "{refusal}" >&2; exit 1', monkeypatch)
    with pytest.raises(ValueError, match="Zero Bytes"):
        _train(RunTable(home), configs(4, steps=100_000))
    wait_until(lambda: in_queue(home) == [], 40, "an empty queue")


def test_an_outage_between_two_submissions_is_waited_out(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    table, runs, notes = RunTable(home), configs(4), Notes()
    with SlurmRunner(CLUSTER) as cluster:
        cluster.run(table, runs[:2], notes)
        with monkeypatch.context() as patch:
            away = "sbatch: error: Batch job submission failed: Unable to contact slurm controller"
            _fake(tmp_path / "bin", "sbatch", f'echo "{away}" >&2; exit 1', patch)
            _fake(tmp_path / "bin", "squeue", "exit 1", patch)
            cluster.submit(table, runs[2:], notes)
        left = {run.run_id for run in runs[2:]}
        assert not left & table.read().keys(), "nothing was submitted"
        while left:
            left -= cluster.wait(table, left, notes)
    assert len(table.read()) == 4


def test_cancel_between_two_arrays_stops_the_driver(home: Path) -> None:
    """Nothing is in the queue at that moment, and nothing comes into it any more."""
    table, runs = RunTable(home), configs(4)
    with SlurmRunner(CLUSTER) as cluster:
        cluster.run(table, runs[:2], Reporter())
        mark_cancelled(home)
        with pytest.raises(StoppedError, match="its jobs were cancelled"):
            cluster.run(table, runs[2:], Reporter())
    assert len(table.read()) == 2 and len(submissions(home)) == 1
    _train(table, runs)  # another command goes on
    assert len(table.read()) == 4


def test_a_percent_in_the_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--study must be a folder without % in its path"):
        _train(RunTable(tmp_path / "50%j"), configs(2))


def test_arrays_are_cut_to_what_the_cluster_takes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most 3 tasks an array, as the cluster says, and 4 jobs in the queue, as it refuses."""
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True).stdout.strip()
    _fake(tmp_path / "bin", "scontrol", "echo 'MaxArraySize            = 3'", monkeypatch)
    refusal = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    _fake(
        tmp_path / "bin", "sbatch",
        f'wanted=$(grep -oP "array=0-\\K[0-9]+" "$1" || echo 0)\n'
        f'there=$(squeue -h -r -o %j -t pending,running | grep -c "^lmo-{home.name}-")\n'
        f'if [ $((there + wanted + 1)) -gt 4 ]; then echo "{refusal}" >&2; exit 1; fi\n'
        f'echo $wanted >> {tmp_path}/sizes; exec {real} "$@"',
        monkeypatch,
    )  # fmt: skip
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    table = RunTable(home)
    _train(table, configs(8), runs_per_job=1)
    assert len(table.read()) == 8
    sizes = [int(text) + 1 for text in (tmp_path / "sizes").read_text().split()]
    assert sum(sizes) == 8 and max(sizes) <= 3 and sizes[0] == 3


def test_a_deaf_slurm_is_no_dead_job(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nothing is recorded as failed, and the results are waited for."""
    _fake(tmp_path / "bin", "squeue", "exit 1", monkeypatch)
    _fake(tmp_path / "bin", "sacct", "exit 1", monkeypatch)
    monkeypatch.setattr("launch.slurm._ASK_S", 0.1)
    table = RunTable(home)
    notes = _train(table, configs(2))
    assert {row.status for row in table.read().values()} == {"done"}
    assert sum("SLURM does not answer now" in note for note in notes) == 1


@pytest.mark.parametrize("knows", [True, False])
def test_where_squeue_fails_accounting_tells_of_the_dead(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows: bool
) -> None:
    """Tasks that were cancelled while they waited have one line for all; where it knows nothing
    of the jobs, the command gives up as if nobody answered."""
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    monkeypatch.setattr("launch.slurm._PATIENCE_S", 3.0)
    monkeypatch.setattr("launch.slurm._DEAF_S", 8.0)
    line = '"9|$(basename $f)|CANCELLED by 0"' if knows else "ignored > /dev/null"
    _fake(tmp_path / "bin", "squeue", "exit 1", monkeypatch)
    _fake(tmp_path / "bin", "sacct", f"for f in {home}/jobs/lmo-*; do echo {line}; done",
          monkeypatch)  # fmt: skip
    table, runs = RunTable(home), configs(2)

    class Slow(Reporter):
        """Has the first look come later than the silence that ends the command."""

        def note(self, text: str) -> None:
            if "in SLURM's queue" in text:
                time.sleep(9)

    if knows:
        with SlurmRunner(replace(CLUSTER, runs_per_job=1, extra={"hold": ""})) as cluster:
            cluster.run(table, runs, Slow())
        rows = table.read().values()
        assert len(rows) == 2
        assert all("ended without a result" in str(row.error) for row in rows)
    else:
        with pytest.raises(ValueError, match="SLURM has not answered for"):
            _train(table, runs, runs_per_job=1, extra={"hold": ""})
    subprocess.run(["scancel", "-n", submissions(home)[0].name], check=True)


def test_an_sbatch_that_hangs_is_given_up(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.submitting._SBATCH_S", 2.0)
    _fake(tmp_path / "bin", "sbatch", "exec sleep 1000", monkeypatch)
    began = time.monotonic()
    with pytest.raises(ValueError, match="refuses the jobs: sbatch timed out: no answer within 2"):
        _train(RunTable(home), configs(2))
    assert time.monotonic() - began < 120, "far less than it sleeps"


def test_a_silence_ends(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither SLURM answers nor a result comes: the command gives up, its jobs are cancelled."""
    monkeypatch.setattr("launch.slurm._ASK_S", 0.1)
    monkeypatch.setattr("launch.slurm._DEAF_S", 3.0)
    table, began = RunTable(home), time.monotonic()
    with monkeypatch.context() as patch:
        _fake(tmp_path / "bin", "squeue", "exit 1", patch)
        _fake(tmp_path / "bin", "sacct", "exit 1", patch)
        with pytest.raises(ValueError, match="SLURM has not answered for"):
            _train(table, configs(2, steps=100_000))
    assert time.monotonic() - began < 60
    wait_until(lambda: in_queue(home) == [], 40, "an empty queue")


def test_a_job_that_cannot_start_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """SLURM takes it and holds it: its reason is said, once, and the command can be stopped."""
    monkeypatch.setattr("launch.slurm._ASK_S", 0.5)
    table = RunTable(home)

    class Stop(Notes):
        def note(self, text: str) -> None:
            super().note(text)
            if "JobHeldUser" in text:
                raise KeyboardInterrupt

    notes = Stop()
    with (
        pytest.raises(KeyboardInterrupt),
        SlurmRunner(replace(CLUSTER, extra={"hold": ""})) as cluster,
    ):
        cluster.run(table, configs(2), notes)
    assert any("waits for a reason of its own: JobHeldUser" in line for line in notes.lines)
    wait_until(lambda: in_queue(home) == [], 40, "an empty queue")


def test_a_job_that_raises_says_why(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes have no GPU that torch finds: the reason is in the failed runs."""
    monkeypatch.setattr("launch.slurm._ASK_S", 1.0)
    monkeypatch.setattr("launch.slurm._PATIENCE_S", 3.0)
    table = RunTable(home)
    with SlurmRunner(CLUSTER, ComputeConfig(device="cuda")) as cluster:
        cluster.run(table, configs(2), Reporter())
    rows = table.read().values()
    assert rows and all(
        "ValueError: device must be one that torch finds" in str(r.error) for r in rows
    )
