"""The run table: append-only files of finished runs that survive kills, NFS and bit rot.

Runs that ended together form one file, `records/<2 hex>/<name>.jsonl`, a line of JSON with a
checksum each, and their loss curves `<name>.npz` beside it. A file is written under another name,
flushed, and published by a hard link: it is there whole or not at all, nothing is overwritten,
and no lock is needed. What is published never changes.

Only the driver removes files, when it merges many into one: first the new file is published, then
its name written to `records/merged`, then the old ones go. A reader that finds the same name there
before and after it listed the folders has missed nothing.
"""

import contextlib
import errno
import hashlib
import io
import json
import os
import socket
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transfer.config import canonical_json
from transfer.files import replace_file

if TYPE_CHECKING:
    from transfer.train import RunRecord

_MERGED = "merged"
MERGE_ABOVE = 2000
"""Files above which the driver merges them into one."""
_READERS = 64
# What may differ between two records of one run without being a contradiction.
_CIRCUMSTANCES = ("wall_s", "host", "finished", "versions", "stack_size", "compile_s")


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """One line of the table; see `transfer.train.RunRecord` for units."""

    run_id: str
    config: dict[str, Any]
    status: str
    stopped_step: int
    val_loss: float | None
    val_accuracy: float | None
    initial_loss: float | None
    train_loss: float | None
    error: str | None
    wall_s: float
    host: str
    finished: str
    versions: dict[str, str]
    stack_size: int = 1
    """Added after the first tables were written: their runs were trained one by one."""
    compile_s: float = 0.0


def store(record: "RunRecord", versions: dict[str, str]) -> StoredRun:
    """Turn a record into a line of the table, with where and when it was made."""
    return StoredRun(
        run_id=record.config.run_id,
        config=asdict(record.config),
        status=record.status,
        stopped_step=record.stopped_step,
        val_loss=record.val_loss,
        val_accuracy=record.val_accuracy,
        initial_loss=record.initial_loss,
        train_loss=record.train_loss,
        error=record.error,
        wall_s=round(record.wall_s, 4),
        stack_size=record.stack_size,
        compile_s=round(record.compile_s, 4),
        host=socket.gethostname(),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        versions=versions,
    )


def encode_line(run: StoredRun) -> str:
    """Serialise a run with a checksum over everything else in the line."""
    body = asdict(run)
    return canonical_json({**body, "checksum": _checksum(body)})


def decode_line(line: str) -> StoredRun:
    """Parse a line.

    Raises:
        ValueError: the line is damaged.
    """
    try:
        body = json.loads(line)
        checksum = body.pop("checksum")
        if checksum != _checksum(body):
            raise ValueError("checksum does not match")
        return StoredRun(**body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from None


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(body).encode()).hexdigest()[:16]


def _content(run: StoredRun) -> dict[str, Any]:
    return {k: v for k, v in asdict(run).items() if k not in _CIRCUMSTANCES}


@dataclass(slots=True)
class _File:
    runs: list[StoredRun]
    damage: list[str]


class RunTable:
    """Reader and writer of the table under `folder`/records."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "records"
        self._files: dict[str, _File] = {}
        self._rows: dict[str, StoredRun] = {}
        self.problems: list[str] = []
        """Damaged lines and contradictions found by the last `read`."""

    # --- writing ---

    def publish(
        self, runs: Sequence[StoredRun], curves: dict[str, NDArray[np.float32]] | None = None
    ) -> Path:
        """Add runs as one file.

        Args:
            runs: What ended together; at least one.
            curves: Training losses by run id, one number a step.

        Raises:
            OSError: the disk is full, or the folder cannot be written; nothing is left behind.
        """
        name = f"{time.time_ns():020d}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        return self._publish(name, runs, curves or {})

    def _publish(
        self, name: str, runs: Sequence[StoredRun], curves: dict[str, NDArray[np.float32]]
    ) -> Path:
        target = self._path(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        if curves:
            # The curves first: a record that is there has its curve.
            buffer = io.BytesIO()
            # The stubs would have the run ids clash with the keyword allow_pickle.
            np.savez_compressed(buffer, **curves)  # type: ignore[arg-type]
            _publish_bytes(target.with_suffix(".npz"), buffer.getvalue())
        text = "".join(encode_line(run) + "\n" for run in runs)
        try:
            _publish_bytes(target, text.encode())
        except OSError:
            if curves and not target.exists():
                target.with_suffix(".npz").unlink(missing_ok=True)
            raise
        return target

    def _path(self, name: str) -> Path:
        return self.folder / hashlib.sha256(name.encode()).hexdigest()[:2] / f"{name}.jsonl"

    # --- reading ---

    def read(self) -> dict[str, StoredRun]:
        """Return all runs by id, sorted by id; only files not seen before are opened.

        Of several records of one run the first by file name counts, but a failed one gives way
        to a later one. Damaged lines are left out and reported in `problems`.
        """
        names = self._settled(self._load)
        self._rows, self.problems = self._combine(names)
        return self._rows

    def _settled(self, look: Callable[[list[str]], None]) -> list[str]:
        """List and look at all files until no merge came in between; return their names.

        A listing of many folders is no snapshot: while the driver merges, it can miss both the old
        files and the new one. If the last merge is the same before and after, nothing was removed
        but what that merge's file holds, and that one is looked at by its name: so what is missing
        from the listing, or listed and gone (NFS shows old listings), is in it.
        """
        while True:
            merged = self._last_merged()
            names = sorted({*self._list(), *merged})
            look(names)
            if merged == self._last_merged():
                return names

    def _last_merged(self) -> list[str]:
        """Return the name of the file that the last merge made, if there was one."""
        while True:
            try:
                return [(self.folder / _MERGED).read_text("utf-8")]
            except FileNotFoundError:
                return []
            except OSError as error:
                if error.errno != errno.ESTALE:  # replaced while it was read over NFS
                    raise

    def _list(self) -> list[str]:
        try:
            folders = [part.path for part in os.scandir(self.folder) if part.is_dir()]
        except FileNotFoundError:
            return []
        if not folders:
            return []
        with ThreadPoolExecutor(min(_READERS, len(folders))) as pool:
            return sorted(name for part in pool.map(_record_names, folders) for name in part)

    def _load(self, names: list[str]) -> None:
        """Read the files not known yet, those that are there."""
        fresh = [name for name in names if name not in self._files]
        if not fresh:
            return
        with ThreadPoolExecutor(min(_READERS, len(fresh))) as pool:
            read = list(pool.map(self._read_file, fresh))
        self._files.update({n: f for n, f in zip(fresh, read, strict=True) if f is not None})

    def _read_file(self, name: str) -> _File | None:
        try:
            data = self._path(name).read_bytes()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):  # merged since it was listed
                raise
            return None
        file = _File([], [])
        if not data:
            file.damage.append(f"{name}.jsonl is empty")
        for number, line in enumerate(data.splitlines(), start=1):
            try:
                file.runs.append(decode_line(line.decode("utf-8")))
            except ValueError as error:
                file.damage.append(f"{name}.jsonl line {number} is damaged ({error})")
        return file

    def _combine(self, names: Iterable[str]) -> tuple[dict[str, StoredRun], list[str]]:
        rows: dict[str, StoredRun] = {}
        problems: list[str] = []
        for name in names:
            file = self._files.get(name)
            if file is None:
                continue
            problems += file.damage
            for run in file.runs:
                first = rows.get(run.run_id)
                if first is None or first.status == "failed":
                    rows[run.run_id] = run
                elif run.status != "failed" and _content(first) != _content(run):
                    problems.append(f"run {run.run_id} has two different records; the first counts")
        return dict(sorted(rows.items())), problems

    def curves(self) -> dict[str, NDArray[np.float32]]:
        """Return the training loss curves of all runs, by run id."""
        found: dict[str, NDArray[np.float32]] = {}

        def look(names: list[str]) -> None:
            found.clear()
            for name in names:
                found.update({**(self._curves_of(name) or {}), **found})

        self._settled(look)
        return found

    def _curves_of(self, name: str) -> dict[str, NDArray[np.float32]] | None:
        """Return the curves beside one file; None if they are damaged."""
        path = self._path(name).with_suffix(".npz")
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except FileNotFoundError:
            return {}
        # What numpy and zipfile raise for bytes that are no archive, or a damaged one.
        except (ValueError, OSError, EOFError, KeyError, RuntimeError):
            return None
        except (zipfile.BadZipFile, zlib.error):
            return None

    # --- upkeep, by the driver alone ---

    def merge(self, above: int = MERGE_ABOVE) -> int:
        """If there are more files than `above`, replace the undamaged ones by one; return how many.

        The new file is there, and named, before the old ones go: a reader misses no run.
        """
        names = self._list()
        if len(names) <= above:
            return 0
        self._load(names)
        curves: dict[str, NDArray[np.float32]] = {}
        whole = []
        for name in names:
            beside = self._curves_of(name)
            if name in self._files and not self._files[name].damage and beside is not None:
                whole.append(name)
                curves = {**beside, **curves}
        if not whole:
            return 0
        rows, _ = self._combine(names)
        # Sorts right after the oldest merged file: what was first by name stays first.
        merged = f"{whole[0].split('-merged-')[0]}-merged-{uuid.uuid4().hex[:8]}"
        self._publish(merged, list(rows.values()), curves)
        replace_file(self.folder / _MERGED, lambda path: path.write_text(merged, "utf-8"))
        for name in whole:
            for path in (self._path(name), self._path(name).with_suffix(".npz")):
                path.unlink(missing_ok=True)
            del self._files[name]
        return len(whole)


def _record_names(folder: str) -> list[str]:
    """Return the names of the record files in one folder, not those still being written."""
    try:
        found = os.listdir(folder)
    except FileNotFoundError:
        return []
    return [n.removesuffix(".jsonl") for n in found if n.endswith(".jsonl") and n[0] != "."]


def _publish_bytes(target: Path, data: bytes) -> None:
    """Make `target` appear with exactly `data`, or not at all; never overwrite."""
    temporary = target.parent / f".tmp-{target.name}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _link(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _link(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)
    except FileExistsError:
        # NFS repeats a request whose answer was lost: our own link may be there already.
        if not os.path.samefile(temporary, target):
            raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        os.rename(temporary, target)  # file systems without hard links


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # not every file system can
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
