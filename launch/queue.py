"""What SLURM knows of jobs: one call of squeue for all, and one of sacct for forgotten ones."""

import os
import re
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_TIMEOUT_S = 60
_USER = str(os.getuid())  # what USER says may be somebody else
_ENDED = re.compile(
    "BOOT_FAIL|CANCELLED|COMPLETED|DEADLINE|FAILED|NODE_FAIL|OUT_OF_MEMORY|PREEMPTED|TIMEOUT"
)
_ORDINARY = ("None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency")
"""Reasons of jobs that wait for their turn."""


@dataclass(frozen=True, slots=True)
class Queued:
    """A task of an array, or a job that is none, as squeue shows it."""

    job: str
    """SLURM's id, ARRAY_TASK or JOB."""
    name: str
    """The job's name."""
    state: str
    """Such as PENDING or RUNNING."""
    reason: str
    """Why it waits, in SLURM's words."""

    @property
    def task(self) -> int:
        """Number in its array; 0 if it is in none, -1 if it stands for several."""
        number = self.job.partition("_")[2] or "0"
        return int(number) if number.isdigit() else -1

    @property
    def ended(self) -> bool:
        """Whether it will not run any more; squeue remembers such jobs for some minutes."""
        return bool(_ENDED.match(self.state))

    @property
    def works(self) -> bool:
        """Whether it will train, or does: not those that are being cancelled, or tidied up."""
        return not self.ended and self.state != "COMPLETING"

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return self.state in ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")

    @property
    def stuck(self) -> str:
        """Why it may never begin: a reason that is not that others come first; empty if none."""
        return "" if not self.waits or self.reason in _ORDINARY else self.reason


def seen() -> list[Queued] | None:
    """Return the user's jobs, arrays task by task, in one call; None without an answer."""
    told = ask(["squeue", "-h", "-r", "-u", _USER, "-t", "all", "-o", "%i|%j|%T|%r"])
    if told is None:
        return None
    parts = [line.split("|", 3) for line in told.splitlines()]
    return [Queued(*map(str.strip, four)) for four in parts if len(four) == 4]


def seen_by_accounting() -> list[Queued] | None:
    """Return the user's jobs of the last weeks as sacct has them; None without an answer.

    For when squeue fails. What is missing here is not known to have ended: accounting lags.
    """
    command = ["sacct", "-X", "-n", "-P", "-u", _USER, "-S", "now-30days"]
    told = ask([*command, "-o", "JobID,JobName,State"])
    if told is None:
        return None
    found = []
    for line in told.splitlines():
        job, name, state = [*line.split("|"), "", ""][:3]
        for one in _expanded(job):
            found.append(Queued(one, name, state.partition(" ")[0], "None"))
    return found


def _expanded(job: str) -> list[str]:
    """Return 7_1, 7_2 and 7_5 for 7_[1-2,5%4]: tasks that wait are one line of sacct's."""
    array, _, tasks = job.partition("_[")
    if not tasks:
        return [job]
    numbers: list[str] = []
    for part in tasks.partition("%")[0].rstrip("]").split(","):
        first, _, last = part.partition("-")
        numbers += map(str, range(int(first), int(last or first) + 1))
    return [f"{array}_{number}" for number in numbers]


def accounted(jobs: Sequence[str]) -> dict[str, str]:
    """Return how jobs that squeue has forgotten ended, such as TIMEOUT, by id.

    Without accounting nobody knows, and the answer is empty.
    """
    found: dict[str, str] = {}
    if jobs:
        arrays = ",".join(sorted({job.partition("_")[0] for job in jobs}))
        command = ["sacct", "-X", "-n", "-P", "-j", arrays, "-o", "JobID,State"]
        for line in (ask(command) or "").splitlines():
            job, _, state = line.partition("|")
            if job in jobs and _ENDED.match(state):
                found[job] = state.split()[0]  # CANCELLED by 0
    return found


def elapsed_s(arrays: Iterable[str]) -> dict[str, float]:
    """Return the seconds that the jobs of arrays have run, by id; empty without accounting."""
    command = ["sacct", "-X", "-n", "-P", "-D", "-j", ",".join(sorted(set(arrays)))]
    took: dict[str, float] = {}
    if not command[-1]:
        return took
    for line in (ask([*command, "-o", "JobID,ElapsedRaw"]) or "").splitlines():
        job, _, seconds = line.partition("|")
        took[job] = took.get(job, 0.0) + float(seconds or 0)  # a line for every requeue
    return took


def cancel(names: Sequence[str]) -> str | None:
    """Cancel the user's jobs of these names; return what SLURM says against it."""
    for name in names:
        done = _run(["scancel", "--user", _USER, "--name", name])
        if isinstance(done, str):
            return done
        if done.returncode:
            return " ".join(done.stderr.split()) or f"scancel ended with {done.returncode}"
    return None


def most_tasks() -> int:
    """Return how many tasks an array of this cluster may have."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", ask(["scontrol", "show", "config"]) or "", re.M)
    return max(1, int(found[1])) if found else 1001  # SLURM's own default


def ask(command: list[str]) -> str | None:
    """Return what a command of SLURM's says; None if it is not there, fails or hangs."""
    done = _run(command)
    return None if isinstance(done, str) or done.returncode else done.stdout


def _run(command: list[str]) -> "subprocess.CompletedProcess[str] | str":
    try:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            start_new_session=True,  # Ctrl-C is ours to handle, above all while jobs are cancelled
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
