"""The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI, NIST)."""

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from transfer.config import DigitsConfig
from transfer.data.arrays import ArrayData
from transfer.seeds import derived_seed

NUM_VALIDATION = 360


def _read_table() -> NDArray[np.float64]:
    """Return a row per digit: 64 pixels from 0 to 16, then the class.

    Importing scikit-learn takes longer than training a small network, and every worker would: the
    file is read from its folder, and asked for properly if it is not where it used to be.
    """
    package = find_spec("sklearn")
    if package is None or package.origin is None:
        raise ValueError("data 'digits' comes with scikit-learn, which is missing: pip install it")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits as ask

    return np.column_stack(ask(return_X_y=True))


def load(config: DigitsConfig) -> ArrayData:
    """Load the digits; see `DigitsConfig`."""
    return _load()


@lru_cache(maxsize=1)
def _load() -> ArrayData:
    """Read the digits with a fixed split: 1,437 to train, 360 to validate.

    Pixels are centred by the training mean of each pixel and divided by one number, so that the
    training inputs have root mean square 1.
    """
    table = _read_table()
    pixels, classes = table[:, :-1], table[:, -1].astype(np.int64)
    order = np.random.RandomState(derived_seed("digits split")).permutation(len(classes))
    val, train = order[:NUM_VALIDATION], order[NUM_VALIDATION:]
    digest = hashlib.sha256()
    for part in (pixels.astype(np.uint8), classes.astype(np.uint8), order.astype(np.uint16)):
        digest.update(part.tobytes())
    centred = pixels - pixels[train].mean(axis=0)
    scaled = centred / np.sqrt(np.mean(centred[train] ** 2))
    return ArrayData(
        train_x=torch.from_numpy(scaled[train]),
        train_y=torch.from_numpy(classes[train]),
        val_x=torch.from_numpy(scaled[val]),
        val_y=torch.from_numpy(classes[val]),
        shape=DigitsConfig().shape,
        fingerprint=digest.hexdigest(),
    )
