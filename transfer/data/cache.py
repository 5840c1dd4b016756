"""Where data sets lie when nobody says where."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transfer.files import replace_file

_BLOCK = 1 << 22


def cache_folder() -> Path:
    """Return $LMO_TRANSFER_CACHE, by default ~/.cache/lmo-transfer; it need not exist."""
    named = os.environ.get("LMO_TRANSFER_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "lmo-transfer"


def place(path: str, default: str) -> Path:
    """Return where to look: as configured, or under a name in the cache."""
    return Path(path).expanduser() if path else cache_folder() / default


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def recall(path: Path) -> dict[str, Any] | None:
    """Return what was remembered about a file, if it has the size and time of change it had."""
    try:
        notes = json.loads(_notes(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return notes if isinstance(notes, dict) and notes.get("state") == _state(path) else None


def remember(path: Path, facts: dict[str, Any]) -> None:
    """Keep what a long look at a file gave, if the cache can be written."""
    text = json.dumps({**facts, "state": _state(path)})
    notes = _notes(path)
    try:
        notes.parent.mkdir(parents=True, exist_ok=True)
        replace_file(notes, lambda temporary: temporary.write_text(text, "utf-8"))
    except OSError:
        return


def _notes(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:24]
    return cache_folder() / "known" / f"{name}.json"


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
