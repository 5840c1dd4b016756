"""A runner on SLURM, through submitit: packs runs into job arrays and waits for the run table.

Results come from the run table alone. Of SLURM it asks which jobs are still known to it, in one
call for all; a job that it has forgotten, and whose runs are not there, has died.
"""

import shutil
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from launch.cluster import ClusterConfig
from launch.jobs import Job
from sweeps.packing import pack
from sweeps.progress import Reporter
from sweeps.table import RunTable, store
from transfer.config import ComputeConfig, RunConfig, canonical_json

_LOOK_S = 2.0
"""Between readings of the run table."""
_ASK_S = 10.0
"""Between questions to SLURM."""
_ARRAY = 1000
"""Most tasks of an array: SLURM's own default of MaxArraySize is 1001."""
_PATIENCE = 3
"""So many answers in which a job is missing make it dead: results may take a while to be seen."""
_TIMEOUT_S = 60
_CLEAN = ("export PYTHONSAFEPATH=1", "export OMP_NUM_THREADS=1", "export MKL_NUM_THREADS=1")


class SlurmRunner:
    """Trains runs as jobs of a cluster.

    Args:
        cluster: What each job asks for.
        compute: How runs are computed.

    Raises:
        ValueError: there is no SLURM here.
    """

    def __init__(self, cluster: ClusterConfig, compute: ComputeConfig | None = None) -> None:
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise ValueError("--on slurm needs SLURM: there is no sbatch on PATH")
        self.cluster, self.compute = cluster, compute or ComputeConfig()
        self._open: dict[str, list[RunConfig]] = {}
        """Runs of every job that may still work, by the job's id."""

    def __enter__(self) -> "SlurmRunner":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is still in the queue; `resume` submits it again."""
        jobs, self._open = sorted(self._open), {}
        if jobs:
            arrays = sorted({job.partition("_")[0] for job in jobs})
            _told(["scancel", *arrays])

    def run(self, table: RunTable, configs: Sequence[RunConfig], reporter: Reporter) -> None:
        """Train the runs; see `Runner`.

        Raises:
            ValueError: SLURM refuses the jobs, in its own words; none is left in the queue.
        """
        folder = table.folder.parent / "jobs" / f"{time.strftime('%Y%m%d-%H%M%S')}-{_unique()}"
        folder.mkdir(parents=True)
        specs = self._specs(folder, configs)
        self._submit(folder, table, specs)
        reporter.note(f"{len(specs)} jobs are in SLURM's queue, their files in {folder}")
        try:
            self._wait(table, {config.run_id: config for config in configs}, reporter, folder)
        except BaseException:
            self.close()
            raise

    def _specs(
        self, folder: Path, configs: Sequence[RunConfig]
    ) -> list[tuple[Path, list[RunConfig]]]:
        """Write a file for every job, the largest models first."""
        from transfer.stacksize import most_runs

        def most(config: RunConfig) -> int:
            # Of a GPU on another machine nothing is known here: a job halves what does not fit.
            limit = self.cluster.runs_per_job
            fits = most_runs(config, self.compute) if self.compute.device == "cpu" else len(configs)
            return min(fits, limit) if limit else fits

        specs = []
        for number, runs in enumerate(pack(configs, self.cluster.parallelism, most)):
            path = folder / f"{number}.json"
            given = {"compute": asdict(self.compute), "runs": [asdict(run) for run in runs]}
            path.write_text(canonical_json(given), "utf-8")
            specs.append((path, runs))
        return specs

    def _submit(
        self, folder: Path, table: RunTable, specs: list[tuple[Path, list[RunConfig]]]
    ) -> None:
        import submitit
        from submitit.core.utils import FailedJobError

        home = table.folder.parent.resolve()
        with submitit.helpers.clean_env():
            executor = submitit.SlurmExecutor(
                folder / "submitit", max_num_timeout=self.cluster.requeues
            )
            executor.update_parameters(**self._parameters(home.name))
            try:
                for start in range(0, len(specs), _ARRAY):
                    part = specs[start : start + _ARRAY]
                    with executor.batch():  # one array; each Job itself is called, and hands on
                        jobs = [
                            executor.submit(Job(str(home), str(path.resolve()))) for path, _ in part
                        ]
                    self._open |= {
                        job.job_id: runs for job, (_, runs) in zip(jobs, part, strict=True)
                    }
            except FailedJobError as error:
                self.close()
                raise ValueError(f"SLURM refuses the jobs: {_words(str(error))}") from None

    def _parameters(self, name: str) -> dict[str, Any]:
        c = self.cluster
        named = {"partition": c.partition, "account": c.account, "qos": c.qos, "gres": c.gres,
                 "constraint": c.constraint, "exclude": c.exclude}  # fmt: skip
        return {
            **{key: value for key, value in named.items() if value},
            "job_name": f"lmo-{name}"[:40],
            "cpus_per_task": c.cpus,
            "mem": f"{c.mem_gb}GB",
            "time": c.time_min,
            "array_parallelism": c.parallelism,
            "signal_delay_s": c.signal_delay_s,
            "stderr_to_stdout": True,
            "setup": [*_CLEAN, *c.setup],
            "additional_parameters": dict(c.extra),
        }

    def _wait(
        self, table: RunTable, wanted: dict[str, RunConfig], reporter: Reporter, folder: Path
    ) -> None:
        """Return when every run has a record; jobs that died leave failed ones."""
        left, missing, asked = set(wanted), dict[str, int](), time.monotonic()
        while left:
            found = left & table.read().keys()
            if found:
                left -= found
                reporter.advance(len(found))
            self._open = {
                job: runs for job, runs in self._open.items() if any(r.run_id in left for r in runs)
            }
            if left and time.monotonic() - asked >= _ASK_S:
                asked = time.monotonic()
                self._bury(table, left, missing, folder)
            if left:
                time.sleep(_LOOK_S)

    def _bury(self, table: RunTable, left: set[str], missing: dict[str, int], folder: Path) -> None:
        """Record the runs of jobs that SLURM has not known for some time."""
        known = _in_queue()
        if known is None:
            return  # SLURM does not answer now: nothing can be said of any job
        for job, runs in list(self._open.items()):
            missing[job] = 0 if job in known else missing.get(job, 0) + 1
            if missing[job] < _PATIENCE:
                continue
            there = table.read()
            gone = [run for run in runs if run.run_id in left and run.run_id not in there]
            why = f"SLURM's job {job} ended without a result: {_last_words(folder, job)}"
            if gone:
                table.publish([_failed(run, why) for run in gone])
            del self._open[job]


def _unique() -> str:
    return uuid.uuid4().hex[:6]


def _failed(config: RunConfig, why: str) -> Any:
    from sweeps.worker import failed, versions

    return store(failed(config, why, 0.0), versions())


def _in_queue() -> set[str] | None:
    """Return the ids of all jobs that have not ended, arrays task by task; None without answer."""
    told = _told(["squeue", "-h", "-r", "-t", "pending,running,completing,configuring,suspended",
                  "-o", "%i"])  # fmt: skip
    return None if told is None else set(told.split())


def _told(command: list[str]) -> str | None:
    """Return what a command of SLURM's says; None if it fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _words(text: str) -> str:
    """Return SLURM's own line out of submitit's error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("sbatch:", "slurm"))]
    return (said or lines or ["no reason given"])[0]


def _last_words(folder: Path, job: str) -> str:
    """Return what a job said last, its exception if it raised one."""
    logs = sorted((folder / "submitit").glob(f"{job}_*_log.out"))
    if not logs:
        return "it wrote nothing"
    lines = [line for line in logs[-1].read_text("utf-8", "replace").splitlines() if line.strip()]
    # What srun adds is only that a task ended.
    said = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return (said or lines or ["it wrote nothing"])[-1][:200]
