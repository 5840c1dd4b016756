"""How jobs are handed to SLURM: sbatch by way of submitit, and the script that it gets."""

import io
import os
import shutil
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch import queue
from launch.jobs import Job
from launch.ledger import Spec, Submission, prepare, task_file
from launch.team import SRUN_ARGS
from sweeps.cluster import ClusterConfig
from sweeps.database import VARIABLE
from sweeps.packing import Bundle

_CLEAN = ("export PYTHONSAFEPATH=1", "export OMP_NUM_THREADS=1", "export MKL_NUM_THREADS=1")
_SBATCH_S = 300.0
"""So long sbatch may take; it gives up by itself where the controller is down."""
_KEPT = ("SLURM_CONF",)
_LIMITS = ("violates accounting", "submit limit", "SubmitJobLimit", "MaxSubmit")
"""How SLURM says that a user has too many jobs, among other things."""
_AWAY = ("Unable to contact", "timed out", "Connection refused", "communication", "not responding")
"""How it says that nobody answers."""


class TooManyError(ValueError):
    """SLURM refuses the jobs, perhaps because there are too many."""


class AwayError(ValueError):
    """SLURM's controller cannot be reached now."""


def submit(
    study: Path, bundles: Sequence[Bundle], spec: Spec, cluster: ClusterConfig
) -> Submission:
    """Submit one array, a task for each bundle.

    Raises:
        TooManyError: a limit on the user's jobs is reached, or another one that SLURM calls alike.
        AwayError: nobody answers.
        ValueError: SLURM refuses the jobs, in its own words; or the folder's name will not do.
            Nothing is left of them.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    if "%" in str(study.resolve()):
        where = "a folder without % in its path, which SLURM takes for a pattern"
        raise ValueError(f"--study must be {where}, got {study.resolve()}")
    made = prepare(study.resolve(), bundles, spec, cluster.gpus)
    try:
        # submitit passes on what sbatch says besides raising it.
        with _outside_of_jobs(), redirect_stderr(io.StringIO()), _limited(_SBATCH_S):
            executor = submitit.SlurmExecutor(
                made.folder / "submitit", max_num_timeout=cluster.requeues
            )
            executor.update_parameters(**parameters(made.name, cluster))
            with executor.batch():  # one array; each Job itself is called, and hands on
                jobs = [
                    executor.submit(Job(str(study.resolve()), str(task_file(made.folder, task))))
                    for task in range(len(bundles))
                ]
    except (FailedJobError, FailedSubmissionError) as error:
        queue.cancel([made.name])  # sbatch may fail after SLURM took them
        shutil.rmtree(made.folder, ignore_errors=True)
        words = _words(str(error))
        if isinstance(error.__cause__, TimeoutError):
            words = str(error.__cause__)
        kind = TooManyError if any(limit in words for limit in _LIMITS) else ValueError
        kind = AwayError if any(word in words for word in _AWAY) else kind
        raise kind(f"SLURM refuses the jobs: {words}") from None
    except BaseException:
        queue.cancel([made.name])  # interrupted: nobody would follow what SLURM may have taken
        raise
    made = replace(made, array=jobs[0].job_id.partition("_")[0])
    made.save()
    return made


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide from sbatch, which hands the environment on, what jobs must not or need not have.

    That the driver is a job itself, if it is one; but not where the cluster is. And where Optuna
    keeps its trials, which may hold a password: jobs never touch Optuna.
    """
    from submitit.helpers import clean_env

    before = dict(os.environ)
    with clean_env() if "SLURM_JOB_ID" in os.environ else nullcontext():
        os.environ.update({name: before[name] for name in _KEPT if name in before})
        stored = os.environ.pop(VARIABLE, None)
        try:
            yield
        finally:
            if stored is not None:
                os.environ[VARIABLE] = stored


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what is done, if it takes longer; in the main thread alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_timeout(number: int, frame: object) -> None:
        raise TimeoutError(f"sbatch timed out: no answer within {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, raise_timeout)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def script(folder: Path, name: str, tasks: int, cluster: ClusterConfig) -> str:
    """Return the text that sbatch gets for an array; needs no SLURM."""
    executor = _anywhere(folder / "submitit", cluster.requeues)
    executor.update_parameters(**parameters(name, cluster))
    if tasks > 1:
        executor.parameters["map_count"] = tasks
    return str(executor._make_submission_file_text(executor._submitit_command_str, ""))


def _anywhere(folder: Path, requeues: int) -> Any:
    import submitit

    class Anywhere(submitit.SlurmExecutor):
        @classmethod
        def affinity(cls) -> int:
            return 2

    return Anywhere(folder, max_num_timeout=requeues)


def parameters(name: str, cluster: ClusterConfig) -> dict[str, Any]:
    """Return what submitit is told about an array."""
    c = cluster
    named = {"partition": c.partition, "account": c.account, "qos": c.qos, "gres": c.gres,
             "constraint": c.constraint, "exclude": c.exclude}  # fmt: skip
    return {
        **{key: value for key, value in named.items() if value},
        "job_name": name,
        "cpus_per_task": c.cpus,
        "mem": f"{c.mem_gb}GB",
        "time": c.time_min,
        "array_parallelism": c.parallelism,
        "signal_delay_s": c.signal_delay_s,
        "stderr_to_stdout": True,
        **_several(c),
        "setup": [*_CLEAN, *c.setup],
        "additional_parameters": {name: value or True for name, value in c.extra.items()},
    }


def _several(cluster: ClusterConfig) -> dict[str, Any]:
    """Return what a job of several processes needs."""
    number = cluster.tasks_per_node
    if number == 1:
        return {}
    return {"nodes": 1, "ntasks_per_node": number, "srun_args": list(SRUN_ARGS)}


def _words(text: str) -> str:
    """Return SLURM's own line out of submitit's error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith(("sbatch:", "slurm"))]
    return (said or lines or ["no reason given"])[0]
