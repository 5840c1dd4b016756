"""Atomic checkpoints of one run: a killed process leaves the old one or the new one."""

from pathlib import Path
from typing import Any

import torch

from transfer.files import replace_file


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
