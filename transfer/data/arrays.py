"""Data held in memory, with batches that follow from seed and step alone."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from transfer.config import DataConfig, require, unknown


def derived_seed(*parts: object) -> int:
    """Return a 32-bit seed that depends on all parts, the same on every machine."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class ArrayData:
    """A classification data set with a fixed split.

    Args:
        train_x: Inputs, (num_train, d_input), float64.
        train_y: Classes, (num_train,), int64.
        val_x: Validation inputs, likewise.
        val_y: Validation classes, likewise.
        num_classes: Number of classes.
        fingerprint: SHA-256 of the raw data and the split.
    """

    train_x: NDArray[np.float64]
    train_y: NDArray[np.int64]
    val_x: NDArray[np.float64]
    val_y: NDArray[np.int64]
    num_classes: int
    fingerprint: str

    def batch_indices(self, seed: int, step: int, batch_size: int) -> NDArray[np.int64]:
        """Return which training examples form the batch of `step`, shape (batch_size,).

        The batches walk through one shuffling of the data after the other, without gaps, so a
        run resumes from its step number. Runs of one seed see the same batches.
        """
        positions = np.arange(step * batch_size, (step + 1) * batch_size)
        epochs, offsets = np.divmod(positions, len(self.train_y))
        parts = [
            _shuffled(seed, int(epoch), len(self.train_y))[offsets[epochs == epoch]]
            for epoch in np.unique(epochs)
        ]
        return np.concatenate(parts)


@lru_cache(maxsize=8)
def _shuffled(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    # RandomState's stream is frozen by numpy's policy; default_rng's is not.
    order = np.random.RandomState(derived_seed("order", seed, epoch)).permutation(size)
    return order.astype(np.int64)


def require_fits(data: ArrayData, config: DataConfig, batch_size: int) -> None:
    """Raise ValueError unless the training set holds a batch."""
    size = len(data.train_y)
    wanted = f"at most the {size} training examples of {config.name}"
    require(batch_size <= size, "batch_size", wanted, batch_size)


def load(config: DataConfig) -> ArrayData:
    """Load a data set by name.

    Raises:
        ValueError: unknown name, or data whose hash is not the configured fingerprint.
    """
    if config.name != "digits":
        raise ValueError(unknown("data.name", config.name, ["digits"]))
    from transfer.data.digits import load_digits

    data = load_digits()
    if config.fingerprint not in ("", data.fingerprint):
        raise ValueError(
            f"data {config.name!r} has SHA-256 {data.fingerprint[:16]}…, but the run was planned "
            f"for {config.fingerprint[:16]}…: the data changed"
        )
    return data
