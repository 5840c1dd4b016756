"""Whether image files are whole, told by their first and last bytes: nothing is decoded."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from transfer.data.cache import recall, remember

_JPEG, _JPEG_SCAN, _JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_TAIL = 4096
"""Bytes in which the end mark stands, but for a file with much behind it."""
_READERS, _AT_ONCE = 32, 256


def require_whole(folder: Path, fingerprint: str, paths: Callable[[], Sequence[str]]) -> None:
    """Look at the ends of all files once; the cache remembers that they were whole.

    Args:
        folder: Where they are.
        fingerprint: Hash of their names and sizes; if it changes, they are looked at again.
        paths: Lists the files; a million paths take their time, so they are asked for if needed.

    Raises:
        ValueError: one is empty, no JPEG or PNG file, or truncated; the message names it.
    """
    notes = recall(folder)
    if notes is not None and notes.get("whole") == fingerprint:
        return
    with ThreadPoolExecutor(_READERS) as pool:
        for problem in pool.map(_first_problem, _chunks(paths())):
            if problem:
                pool.shutdown(wait=False, cancel_futures=True)
                raise ValueError(problem)
    remember(folder, {"whole": fingerprint})


def _chunks(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    return (paths[start : start + _AT_ONCE] for start in range(0, len(paths), _AT_ONCE))


def _first_problem(paths: Sequence[str]) -> str:
    for path in paths:
        problem = _problem(path)
        if problem:
            return f"image {path} must be a whole JPEG or PNG file, but it {problem}"
    return ""


def _problem(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(len(_PNG))
        if not head:
            return "is empty"
        if not head.startswith((_JPEG, _PNG)):
            return f"begins with {head[:4]!r}"
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        end = _PNG_END if head == _PNG else _JPEG_END
        if end in file.read():
            return ""
        file.seek(0)
        content = file.read()
    # Anything may follow the end; a thumbnail in a JPEG's head has an end of its own.
    begun = content.rfind(_JPEG_SCAN) if end is _JPEG_END else 0
    return "" if content.rfind(end) > begun else "is truncated: its end is missing"
