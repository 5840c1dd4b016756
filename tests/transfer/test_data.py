"""Digits: a fixed split, scaled inputs, and batches that follow from seed and step."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.helpers import check_batches
from transfer.config import DigitsConfig
from transfer.data import load
from transfer.data.arrays import ArrayData
from transfer.data.base import positions
from transfer.seeds import derived_seed

IntArray = NDArray[np.int64]

# Changes only with the data or their split: records of other data are not comparable.
FINGERPRINT = "fd462afef08eccd206ed57945b2207657fdd7795e5bf123a72c6a39374caad1c"

# Other machines, other versions of numpy: the same stream.
FIRST_BATCH = [953, 1301, 626, 1267, 534]
INIT_SEED = 2899823366


class Arrays:
    """The digits as numpy arrays."""

    def __init__(self, loaded: ArrayData) -> None:
        self.loaded, self.fingerprint = loaded, loaded.fingerprint
        self.train_x, self.train_y = loaded.train_x.numpy(), loaded.train_y.numpy()
        self.val_x, self.val_y = loaded.val_x.numpy(), loaded.val_y.numpy()


@pytest.fixture(scope="module")
def digits() -> Arrays:
    loaded = load(DigitsConfig())
    assert isinstance(loaded, ArrayData)
    return Arrays(loaded)


def batch_indices(seed: int, step: int, batch_size: int, size: int = 1437) -> IntArray:
    return positions(seed, step, batch_size, size, slice(0, batch_size)).indices


def test_split(digits: Arrays) -> None:
    assert digits.train_x.shape == (1437, 64) and digits.val_x.shape == (360, 64)
    assert digits.train_y.shape == (1437,) and digits.val_y.shape == (360,)
    assert digits.train_x.dtype == np.float64 and digits.train_y.dtype == np.int64
    assert digits.loaded.shape.outputs == 10
    for y in (digits.train_y, digits.val_y):
        counts = np.bincount(y)
        assert len(counts) == 10 and counts.min() > 0.05 * len(y)


def test_split_is_a_partition(digits: Arrays) -> None:
    from sklearn.datasets import load_digits

    raw = load_digits()
    pixels = np.concatenate([digits.train_x, digits.val_x])
    y = np.concatenate([digits.train_y, digits.val_y])
    # Undo centring and scaling: from any two different values of a pixel.
    step = (raw.data.max(0) - raw.data.min(0)).max() / np.ptp(pixels, axis=0).max()
    back = np.rint((pixels - pixels.min(0)) * step + raw.data.min(0)).astype(int)
    rows = sorted(map(tuple, np.column_stack([back, y]).tolist()))
    wanted = np.column_stack([raw.data, raw.target]).astype(int)
    assert rows == sorted(map(tuple, wanted.tolist()))


def test_centred_and_scaled_by_training_examples_only(digits: Arrays) -> None:
    assert np.abs(digits.train_x.mean(axis=0)).max() < 1e-12
    assert np.mean(digits.train_x**2) == pytest.approx(1.0, rel=1e-12)
    assert np.abs(digits.val_x.mean(axis=0)).max() > 1e-3
    # One divisor for all pixels: a pixel's step between grey values is the same everywhere.
    steps = [np.diff(np.unique(x.round(9))) for x in digits.train_x.T if np.ptp(x) > 0.5]
    assert min(s.min() for s in steps) == pytest.approx(max(s.min() for s in steps), rel=1e-6)


def test_fingerprint(digits: Arrays) -> None:
    assert digits.fingerprint == FINGERPRINT
    assert load(DigitsConfig(fingerprint=FINGERPRINT)) is digits.loaded


def test_other_fingerprint_raises() -> None:
    with pytest.raises(ValueError, match=f"{FINGERPRINT[:16]}.*planned for 0000.*data changed"):
        load(DigitsConfig(fingerprint="0" * 64))


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (10, 10), (7, 1), (12, 4), (5, 12)])
def test_every_epoch_is_a_permutation(size: int, batch_size: int) -> None:
    steps = 6 * size
    batches = [batch_indices(3, step, batch_size, size) for step in range(steps)]
    assert all(batch.shape == (batch_size,) and batch.dtype == np.int64 for batch in batches)
    stream = np.concatenate(batches)
    epochs = stream[: len(stream) // size * size].reshape(-1, size)
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (len(epochs), 1)))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1, "every epoch has the same order"


def test_batches_follow_from_seed_and_step() -> None:
    forward = [batch_indices(0, step, 100) for step in range(40)]
    backward = [batch_indices(0, step, 100) for step in reversed(range(40))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forward, backward, strict=True))
    other = batch_indices(1, 0, 100)
    assert not np.array_equal(forward[0], other)


def test_batches_are_the_same_on_every_machine() -> None:
    assert batch_indices(0, 0, 5).tolist() == FIRST_BATCH


def test_changing_a_batch_changes_no_other() -> None:
    first = batch_indices(0, 0, 8)
    kept = first.copy()
    first[:] = -1
    assert np.array_equal(batch_indices(0, 0, 8), kept)


def test_derived_seed() -> None:
    assert derived_seed("init", 0) == INIT_SEED
    seeds = {derived_seed(*parts) for parts in [("a", 1), ("a", 2), ("b", 1), ("a1",), ("a", 1, 0)]}
    assert len(seeds) == 5 and all(0 <= seed < 2**32 for seed in seeds)


def test_reading_the_file_equals_asking_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    from transfer.data import digits as module

    read = module._read_table()
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    asked = module._read_table()
    assert read.dtype == asked.dtype and np.array_equal(read, asked)


def test_rows_are_those_of_the_batch(digits: Arrays) -> None:
    batch = digits.loaded.train_rows(0, 0, 5, slice(0, 5))
    assert np.array_equal(batch.x.numpy(), digits.train_x[FIRST_BATCH])
    part = digits.loaded.train_rows(0, 0, 5, slice(2, 4))
    assert np.array_equal(part.y.numpy(), digits.train_y[FIRST_BATCH[2:4]])
    check_batches(digits.loaded, 100)
