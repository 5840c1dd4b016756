"""What a data set is to a training run: batches by seed and step, validation rows in order."""

from abc import ABC, abstractmethod
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transfer.config import DataShape
from transfer.seeds import derived_seed


class Batch(NamedTuple):
    """Examples with their targets."""

    x: Tensor
    """(rows, *shape.inputs): floating-point numbers, or int64 token ids."""
    y: Tensor
    """int64: (rows,) classes, or (rows, sequence length) next token ids."""


class Dataset(ABC):
    """Data on some device, behind one interface.

    The batch of a step follows from the seed and the step alone, so a run resumes from its step
    number, and runs of one seed see the same batches. Parts of a batch (micro-batches, the shares
    of several ranks) are rows of it: whatever is cut out, the whole batch stays the same.
    """

    shape: DataShape
    fingerprint: str
    """SHA-256 of the data and their split."""
    notes: tuple[str, ...] = ()
    """What the user should know about the data, a line each."""

    @property
    @abstractmethod
    def num_train(self) -> int:
        """Training examples."""

    @property
    @abstractmethod
    def num_val(self) -> int:
        """Validation examples."""

    @abstractmethod
    def train_rows(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        """Return some rows of the batch of a step.

        Args:
            seed: Seed of the run.
            step: Step, from 0.
            batch_size: Examples in the whole batch.
            rows: Which of them; start and stop are given, the step is 1.
        """

    def rows_to_fit(self, seed: int, count: int) -> Tensor:
        """Return up to `count` training inputs that a layer such as whitening is set from.

        They are those of the first batch, unless the data have a reason to give others.
        """
        count = min(count, self.num_train)
        return self.train_rows(seed, 0, count, slice(0, count)).x

    @abstractmethod
    def val_rows(self, rows: slice) -> Batch:
        """Return some validation examples, always in the same order."""

    def views(self, x: Tensor) -> list[tuple[float, Tensor]]:
        """Return what validation averages the logits of: weights, of sum 1, and inputs like x."""
        return [(1.0, x)]

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> "Dataset":
        """Return the data set with its batches on a device and real numbers in a format."""

    def close(self) -> None:
        """Let go of processes and files, if there are any."""
        return


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host's on a device; a CUDA device is not waited for.

    The copy is queued behind what the device still has to do; from memory that is not pinned, it
    would be waited for. Pinned memory is handed out again only when the copy is done.
    """
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def part_notes(**parts: tuple[int, int]) -> tuple[str, ...]:
    """Say which parts of the data are larger than the data: all of them are used then.

    Args:
        parts: By field, the number of examples asked for, and that of those that are there.
    """
    return tuple(
        f"data.{name} is {asked}, but there are only {there}: all of them are used"
        for name, (asked, there) in parts.items()
        if asked > there
    )


class Position(NamedTuple):
    """Where the rows of a batch stand in the passes over the data."""

    epochs: NDArray[np.int64]
    indices: NDArray[np.int64]


def positions(seed: int, step: int, batch_size: int, size: int, rows: slice) -> Position:
    """Return epoch and index of every row, each of shape (rows,), for `size` training examples.

    The batches walk through one shuffling of the data after the other, without gaps.
    """
    first = step * batch_size
    walked = np.arange(first + rows.start, first + rows.stop)
    epochs, offsets = np.divmod(walked, size)
    parts = [
        _shuffled(seed, int(epoch), size)[offsets[epochs == epoch]] for epoch in np.unique(epochs)
    ]
    return Position(epochs, np.concatenate(parts))


@lru_cache(maxsize=8)
def _shuffled(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    # RandomState's stream is frozen by numpy's policy; default_rng's is not.
    order = np.random.RandomState(derived_seed("order", seed, epoch)).permutation(size)
    return order.astype(np.int64)
