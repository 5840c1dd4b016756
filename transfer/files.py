"""Replacing a file in one step."""

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(target: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary file, flush it to disk, then put it in place of `target`.

    A process killed at any instant leaves the old file or the new one.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target
