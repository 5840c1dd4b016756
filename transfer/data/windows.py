"""Sequences cut from long texts of tokens: shuffled windows to train, consecutive ones to validate.

Shapes: B rows, T sequence length.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.config import CharactersConfig, DataShape, TokensConfig
from transfer.data.base import Batch, Dataset, on_device, part_notes, positions
from transfer.seeds import derived_seed

Text = NDArray[np.uint16]


class Texts(ABC):
    """Texts of tokens by number; how long they are is known without opening one."""

    @property
    @abstractmethod
    def sizes(self) -> NDArray[np.int64]:
        """Tokens in each of them."""

    @abstractmethod
    def open(self, number: int) -> Text:
        """Return a text; it may be gone from memory once others have been opened."""


@dataclass(frozen=True)
class HeldTexts(Texts):
    """Texts that are held in memory."""

    texts: tuple[Text, ...]

    @property
    def sizes(self) -> NDArray[np.int64]:
        return np.array([len(text) for text in self.texts], np.int64)

    def open(self, number: int) -> Text:
        return self.texts[number]


@dataclass(frozen=True)
class WindowData(Dataset):
    """Token sequences; no sequence crosses the border of two texts.

    A training example is T + 1 tokens in a row: T inputs, and for each of them the next token. The
    windows of a pass over the data lie side by side, from a random start in [0, T) that changes
    with every pass, and are visited in random order.

    Args:
        train: Training texts.
        val: Validation texts.
        shape: What a model sees.
        fingerprint: SHA-256 of the data.
        val_examples: Validation sequences, the first ones; 0: all of them.
        notes: What the user should know about the data, a line each.
        device: Where batches are made.
    """

    train: Texts
    val: Texts
    shape: DataShape
    fingerprint: str
    val_examples: int = 0
    notes: tuple[str, ...] = ()
    device: torch.device = torch.device("cpu")

    @cached_property
    def _train_ends(self) -> NDArray[np.int64]:
        """Number of windows up to the end of each training text."""
        return np.cumsum(_num_windows(self.train.sizes, self.shape.inputs[0], spare=True))

    @cached_property
    def _val_ends(self) -> NDArray[np.int64]:
        return np.cumsum(_num_windows(self.val.sizes, self.shape.inputs[0], spare=False))

    @property
    def num_train(self) -> int:
        return int(self._train_ends[-1])

    @property
    def num_val(self) -> int:
        return min(self.val_examples or self.num_val_windows, self.num_val_windows)

    @property
    def num_val_windows(self) -> int:
        """Validation sequences that there are."""
        return int(self._val_ends[-1])

    def train_rows(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        walked = positions(seed, step, batch_size, self.num_train, rows)
        shifts = np.zeros_like(walked.indices)
        for epoch in np.unique(walked.epochs):
            shift = derived_seed("shift", seed, int(epoch)) % self.shape.inputs[0]
            shifts[walked.epochs == epoch] = shift
        return self._cut(self.train, self._train_ends, walked.indices, shifts)

    def val_rows(self, rows: slice) -> Batch:
        indices = np.arange(rows.start, rows.stop)
        return self._cut(self.val, self._val_ends, indices, np.zeros_like(indices))

    def _cut(
        self,
        texts: Texts,
        ends: NDArray[np.int64],
        indices: NDArray[np.int64],
        shifts: NDArray[np.int64],
    ) -> Batch:
        """Return windows by their number in all texts, each moved on by its shift."""
        length = self.shape.inputs[0]
        which = np.searchsorted(ends, indices, side="right")
        firsts = np.concatenate([[0], ends])[which]
        starts = ((indices - firsts) * length + shifts).tolist()
        windows = np.empty((len(indices), length + 1), dtype=np.uint16)
        # Text by text: each is opened once a batch at most.
        for row in np.argsort(which, kind="stable").tolist():
            text = texts.open(int(which[row]))
            windows[row] = text[starts[row] : starts[row] + length + 1]
        tokens = torch.from_numpy(windows)
        x, y = tokens[:, :-1].long(), tokens[:, 1:].long()
        return Batch(on_device(x, self.device), on_device(y, self.device))

    def to(self, device: torch.device, dtype: torch.dtype) -> "WindowData":
        return replace(self, device=device)


def window_data(
    config: CharactersConfig | TokensConfig,
    train: Texts,
    val: Texts,
    fingerprint: str,
    notes: Sequence[str] = (),
) -> WindowData:
    """Return the sequences that a configuration asks for, with a note if there are fewer."""
    made = WindowData(train, val, config.shape, fingerprint, config.val_examples)
    asked = (config.val_examples, made.num_val_windows)
    return replace(made, notes=(*notes, *part_notes(val_examples=asked)))


def _num_windows(sizes: NDArray[np.int64], length: int, *, spare: bool) -> NDArray[np.int64]:
    """Count windows of length + 1 that overlap by a token; a spare one makes room for a shift."""
    return np.maximum(0, (sizes - (length if spare else 1)) // length)


def least_tokens(length: int, *, spare: bool) -> int:
    """Return the number of tokens of the shortest text with a window."""
    return 2 * length if spare else length + 1


def require_windows(what: str, size: int, length: int, *, spare: bool, hint: str = "") -> None:
    """Raise ValueError naming a text too short for a single window."""
    least = least_tokens(length, spare=spare)
    if size < least:
        raise ValueError(
            f"{what} must have at least {least} tokens, for sequences of {length}, got {size}{hint}"
        )
