"""Atomic checkpoints of one run: a killed process leaves the old one or the new one."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from transfer.files import replace_file

_EVERY_S = 60.0
_SHARE = 0.05
"""Most of the time that may go into checkpoints, where no interval is asked for."""
_BYTES_PER_S = 5e8
"""Presumed of a disk before the first checkpoint is written."""


class Interval:
    """When to write the next checkpoints of a stack.

    Args:
        every_s: Seconds between them; None: a minute, or longer where writing takes long: twelve
            runs of 100M weights are 10 GB, which took a fifth of the time at every minute.
        num_bytes: What is to be written each time.
    """

    def __init__(self, every_s: float | None, num_bytes: int) -> None:
        self._asked = every_s
        self._since = time.monotonic()
        self._every_s = self._fitting(num_bytes / _BYTES_PER_S)

    def is_over(self) -> bool:
        """Tell whether it is time to write."""
        return time.monotonic() - self._since >= self._every_s

    def restart(self, wrote_s: float) -> None:
        """Begin the next one, after a writing that took so long."""
        self._since, self._every_s = time.monotonic(), self._fitting(wrote_s)

    def _fitting(self, writing_s: float) -> float:
        return max(_EVERY_S, writing_s / _SHARE) if self._asked is None else self._asked


_then: list[Callable[[], None]] = []
"""What to do once the checkpoints are written that a signal asked for; one at most."""


def save_soon(then: Callable[[], None]) -> None:
    """Have training write its checkpoints after the step it is in, and then call `then`.

    For handlers of signals: between the steps alone do weights and averages belong together.
    """
    _then[:] = [then]


def is_asked_for() -> bool:
    """Whether checkpoints were asked for and are not written yet."""
    return bool(_then)


def saved() -> None:
    """Do what was asked for, if anything was: the checkpoints are written, or none is needed."""
    while _then:
        _then.pop()()


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, whole or not at all."""
    replace_file(path, lambda temporary: torch.save(state, temporary))


def load_checkpoint(
    path: Path, run_id: str, device: torch.device | None = None
) -> dict[str, Any] | None:
    """Return the state saved for this run, or None if there is none that can be used.

    A damaged file, or one of another run, is no reason to fail: the run starts again.
    Nothing is unpickled but tensors and plain containers.
    """
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
    except FileNotFoundError:
        return None
    except Exception:  # torch raises many types for damaged files
        return None
    ours = isinstance(state, dict) and state.get("run_id") == run_id
    return state if ours else None
