"""Sequences cut from long texts of tokens: shuffled windows to train, consecutive ones to validate.

Shapes: B rows, T sequence length.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.config import DataShape, require
from transfer.data.base import Batch, Dataset, derived_seed, positions

Text = NDArray[np.uint16]


@dataclass(frozen=True)
class WindowData(Dataset):
    """Token sequences; no sequence crosses the border of two shards.

    A training example is T + 1 tokens in a row: T inputs, and for each of them the next token. The
    windows of a pass over the data lie side by side, from a random start in [0, T) that changes
    with every pass, and are visited in random order.

    Args:
        train: Training shards, one array of token ids each.
        val: Validation shards, likewise.
        shape: What a model sees.
        fingerprint: SHA-256 of the data.
        val_examples: Validation sequences, the first ones; 0: all of them.
        device: Where batches are made.
    """

    train: tuple[Text, ...]
    val: tuple[Text, ...]
    shape: DataShape
    fingerprint: str
    val_examples: int = 0
    device: torch.device = torch.device("cpu")

    @property
    def num_train(self) -> int:
        return sum(
            _num_windows(len(shard), self.shape.inputs[0], spare=True) for shard in self.train
        )

    @property
    def num_val(self) -> int:
        whole = sum(_num_windows(len(shard), self.shape.inputs[0]) for shard in self.val)
        return min(self.val_examples or whole, whole)

    def train_rows(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        walked = positions(seed, step, batch_size, self.num_train, rows)
        length = self.shape.inputs[0]
        shifts = {e: derived_seed("shift", seed, e) % length for e in map(int, set(walked.epochs))}
        starts = [shifts[int(epoch)] for epoch in walked.epochs]
        return self._cut(self.train, walked.indices, starts, spare=True)

    def val_rows(self, rows: slice) -> Batch:
        indices = np.arange(rows.start, rows.stop)
        return self._cut(self.val, indices, [0] * len(indices), spare=False)

    def _cut(
        self, shards: Sequence[Text], indices: NDArray[np.int64], shifts: list[int], *, spare: bool
    ) -> Batch:
        length = self.shape.inputs[0]
        ends = np.cumsum([_num_windows(len(shard), length, spare=spare) for shard in shards])
        which = np.searchsorted(ends, indices, side="right")
        firsts = np.concatenate([[0], ends])[which]
        windows = np.empty((len(indices), length + 1), dtype=np.int64)
        for row, (shard, index, shift) in enumerate(
            zip(which, indices - firsts, shifts, strict=True)
        ):
            start = int(index) * length + shift
            windows[row] = shards[shard][start : start + length + 1]
        tokens = torch.from_numpy(windows).to(self.device)
        return Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())

    def to(self, device: torch.device, dtype: torch.dtype) -> "WindowData":
        return replace(self, device=device)


def _num_windows(size: int, length: int, *, spare: bool = False) -> int:
    """Count windows of length + 1 that overlap by a token; a spare one makes room for a shift."""
    return max(0, (size - (length if spare else 1)) // length)


def require_windows(what: str, shards: Sequence[Text], length: int, *, spare: bool) -> None:
    """Raise ValueError naming a shard too short for a single window."""
    least = 2 * length if spare else length + 1
    for shard in shards:
        wanted = f"{what} of at least {least} tokens, for sequences of {length}"
        require(len(shard) >= least, "data", wanted, f"{len(shard)} tokens")
