"""One command at a time works on a study."""

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from transfer.files import replace_file


@contextlib.contextmanager
def sole_driver(folder: Path) -> Iterator[None]:
    """Mark a study as being worked on, and refuse to while another command of this machine does.

    The mark of a killed command does not hold: its process is gone. Commands on other machines are
    not seen; two of them waste work, as the run table takes both.

    Raises:
        ValueError: another command is at work.
    """
    require_idle(folder)
    mark = folder / "driver.json"
    pid = os.getpid()
    mine = {"host": socket.gethostname(), "pid": pid, "started": _started(pid)}
    replace_file(mark, lambda temporary: temporary.write_text(json.dumps(mine), "utf-8"))
    try:
        yield
    finally:
        if _read(mark) == mine:
            mark.unlink(missing_ok=True)


def require_idle(folder: Path) -> None:
    """Raise ValueError if another command of this machine is at work on the study."""
    other = driver_of(folder)
    if other is not None and other.startswith("process "):
        raise ValueError(f"another command ({other}) is at work on {folder}")


def driver_of(folder: Path) -> str | None:
    """Return which other command is at work on a study, None if there is none.

    "process PID" of this machine; or "a process PID of HOST", which may be dead.
    """
    other = _read(folder / "driver.json")
    if other is None:
        return None
    pid, host = other.get("pid"), other.get("host")
    if host != socket.gethostname():
        return f"a process {pid} of {host}"
    alive = isinstance(pid, int) and pid != os.getpid() and _started(pid) == other.get("started")
    return f"process {pid}" if alive else None


def _read(mark: Path) -> dict[str, object] | None:
    try:
        data = json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _started(pid: int) -> str | None:
    """Tell one life of a process number from the next; None if no such process lives."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass  # somebody else's, but alive
    try:
        # Field 22 of /proc/PID/stat; the command name before it may hold spaces and brackets.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "unknown"
