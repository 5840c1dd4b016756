"""The 1,797 handwritten digits of 8 x 8 pixels that scikit-learn ships (UCI, NIST)."""

import hashlib
from functools import lru_cache

import numpy as np

from transfer.data.arrays import ArrayData, derived_seed

NUM_VALIDATION = 360


@lru_cache(maxsize=1)
def load_digits() -> ArrayData:
    """Load the digits with a fixed split: 1,437 to train, 360 to validate.

    Pixels are centred by the training mean of each pixel and divided by one number, so that the
    training inputs have root mean square 1.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    raw = sklearn_digits()
    pixels, classes = np.asarray(raw.data), np.asarray(raw.target, dtype=np.int64)
    order = np.random.RandomState(derived_seed("digits split")).permutation(len(classes))
    val, train = order[:NUM_VALIDATION], order[NUM_VALIDATION:]
    digest = hashlib.sha256()
    for part in (pixels.astype(np.uint8), classes.astype(np.uint8), order.astype(np.uint16)):
        digest.update(part.tobytes())
    centred = pixels - pixels[train].mean(axis=0)
    scaled = centred / np.sqrt(np.mean(centred[train] ** 2))
    return ArrayData(
        train_x=scaled[train],
        train_y=classes[train],
        val_x=scaled[val],
        val_y=classes[val],
        num_classes=10,
        fingerprint=digest.hexdigest(),
    )
