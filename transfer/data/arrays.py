"""Data held in memory as one tensor."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transfer.config import DataShape
from transfer.data.base import Batch, Dataset, on_device, positions


@dataclass(frozen=True)
class ArrayData(Dataset):
    """A classification data set in memory, with a fixed split.

    Args:
        train_x: Inputs, (num_train, *shape.inputs), of a floating-point type.
        train_y: Classes, (num_train,), int64.
        val_x: Validation inputs, likewise.
        val_y: Validation classes, likewise.
        shape: What a model sees.
        fingerprint: SHA-256 of the raw data and the split.
        notes: What the user should know about the data, a line each.
    """

    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor
    shape: DataShape
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def num_train(self) -> int:
        return len(self.train_y)

    @property
    def num_val(self) -> int:
        return len(self.val_y)

    def train_rows(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        walked = positions(seed, step, batch_size, self.num_train, rows)
        chosen = on_device(torch.from_numpy(walked.indices), self.train_y.device)
        return Batch(self.train_x[chosen], self.train_y[chosen])

    def val_rows(self, rows: slice) -> Batch:
        return Batch(self.val_x[rows], self.val_y[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> "ArrayData":
        return replace(
            self,
            train_x=self.train_x.to(device, dtype),
            train_y=self.train_y.to(device),
            val_x=self.val_x.to(device, dtype),
            val_y=self.val_y.to(device),
        )
