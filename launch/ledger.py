"""What was submitted to SLURM: a folder in the study for every job array, STUDY/jobs/NAME.

It holds a file for each task, with the runs and how they are computed, and submission.json: which
runs belong to which task, and how long they should take. The array carries the name of its
folder, so that the queue alone tells what is still under way, in whatever shell and whoever died.
"""

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sweeps.packing import Bundle
from sweeps.study import write_json
from transfer.config import ComputeConfig, RunConfig, canonical_json
from transfer.files import replace_file

_FILE = "submission.json"
_CANCELLED = "cancelled"


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One job array."""

    folder: Path
    runs: tuple[tuple[str, ...], ...]
    """Ids of the runs of every task."""
    seconds: tuple[float, ...]
    """Expected time of every task."""
    submitted: str
    """When, as local time."""
    gpus: int
    """Of every task."""
    array: str = ""
    """SLURM's id; empty until SLURM has told it."""

    @property
    def name(self) -> str:
        """Name of the folder and of the array."""
        return self.folder.name

    def job(self, task: int) -> str:
        """Return SLURM's id of a task; empty if it is not known."""
        return f"{self.array}_{task}" if self.array and len(self.runs) > 1 else self.array

    def save(self) -> None:
        """Write the file, whole or not at all."""
        data = asdict(self)
        del data["folder"]
        write_json(self.folder / _FILE, data)

    def retried(self, task: int) -> dict[str, str]:
        """Return which runs a task tries again, and when they had failed, by run id."""
        given = json.loads(task_file(self.folder, task).read_text("utf-8"))
        failed: dict[str, str] = given["failed"]
        return failed

    def logs(self, task: int) -> list[Path]:
        """Return the files that a task's processes write to; none before it has begun."""
        if not self.array:
            return []
        return sorted((self.folder / "submitit").glob(f"{self.job(task)}_*_log.out"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """What the jobs of a submission share."""

    compute: ComputeConfig
    failed: Mapping[str, str] = field(default_factory=dict)
    """Of runs that are tried again: when they ended, by run id."""


def prepare(study: Path, bundles: Sequence[Bundle], spec: Spec, gpus: int) -> Submission:
    """Write a submission that SLURM does not know yet, a task for each bundle."""
    folder = array_folder(study, f"{time.strftime('%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}")
    folder.mkdir(parents=True)
    for task, bundle in enumerate(bundles):
        task_file(folder, task).write_text(spec_text(bundle.runs, spec), "utf-8")
    made = Submission(
        folder=folder,
        runs=tuple(tuple(run.run_id for run in bundle.runs) for bundle in bundles),
        seconds=tuple(round(bundle.seconds, 1) for bundle in bundles),
        submitted=time.strftime("%Y-%m-%d %H:%M:%S"),
        gpus=gpus,
    )
    made.save()
    return made


def array_folder(study: Path, token: str) -> Path:
    """Return the folder of an array, whose name is also the array's: one word for SLURM."""
    plain = re.sub("[^A-Za-z0-9._-]", "-", study.name)[:24]
    return study / "jobs" / f"lmo-{plain}-{token}"


def spec_text(runs: Sequence[RunConfig], spec: Spec) -> str:
    """Return what the file of one task says."""
    failed = {run.run_id: spec.failed[run.run_id] for run in runs if run.run_id in spec.failed}
    given = {
        "compute": asdict(spec.compute), "runs": [asdict(run) for run in runs], "failed": failed,
    }  # fmt: skip
    return canonical_json(given)


def task_file(folder: Path, task: int) -> Path:
    """Return the file of one task."""
    return folder / f"{task}.json"


def submissions(study: Path) -> list[Submission]:
    """Read all submissions of a study, the oldest first.

    A folder without a whole submission.json was never submitted.
    """
    loaded = [load(path.parent) for path in (study / "jobs").glob(f"*/{_FILE}")]
    return sorted((s for s in loaded if s is not None), key=lambda s: (s.submitted, s.name))


def load(folder: Path) -> Submission | None:
    """Read one submission; None if there is none."""
    try:
        data: dict[str, Any] = json.loads((folder / _FILE).read_text("utf-8"))
        data["runs"] = tuple(tuple(task) for task in data["runs"])
        data["seconds"] = tuple(data["seconds"])
        return Submission(folder=folder, **data)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def cancel_mark(study: Path) -> str:
    """Return what `cancel` wrote last; a command that sees it change stops."""
    try:
        return (study / "jobs" / _CANCELLED).read_text("utf-8")
    except FileNotFoundError:
        return ""


def mark_cancelled(study: Path) -> None:
    """Have the command that is at work on a study stop before it submits or waits any more."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {uuid.uuid4().hex}\n"
    replace_file(study / "jobs" / _CANCELLED, lambda path: path.write_text(text, "utf-8"))
