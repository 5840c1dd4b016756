"""The Python version of CIFAR-10: pickles, read without letting them make or run anything."""

import io
import pickle
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_MOST_CHARACTERS = 80


class _Stand:
    """Takes the place of numpy's own names: it keeps what it is given and does nothing.

    With numpy's types a pickle could forge an array of object pointers from bytes.
    """

    def __init__(self, *given: Any) -> None:
        self.given = given
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Array(_Stand):
    """Stands for an array."""


class _Dtype(_Stand):
    """Stands for the type of an array's items."""


class _Type(_Stand):
    """Stands for `numpy.ndarray`, which is only handed on."""


# All that a pickled array of bytes names; numpy has moved the first of them.
_STANDS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Type,
    ("numpy", "dtype"): _Dtype,
}


class _Unpickler(pickle.Unpickler):
    """Finds nothing but stand-ins: a pickle can call only what it finds."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STANDS:
            wanted = f"{module}.{name}"[:_MOST_CHARACTERS]  # whatever the file says
            raise pickle.UnpicklingError(
                f"it wants to use {wanted!r}, which no batch needs; nothing of it was run"
            )
        return _STANDS[module, name]


def read_batch(content: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images, (rows, 3072), and classes, (rows,), of one pickled batch.

    Args:
        content: The file.
        where: Its name, for errors.

    Raises:
        ValueError: no batch, damaged, or anything else than bytes, texts, lists and arrays.
    """
    try:
        # The official ones are of Python 2, whose texts are bytes.
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(batch, dict):
            raise pickle.UnpicklingError("it is no table of data and labels")
        missing = [key.decode() for key in (b"labels", b"data") if key not in batch]
        if missing:
            raise pickle.UnpicklingError(f"it has no {missing[0]}")
        classes = _classes_of(batch[b"labels"])
        return _bytes_of(batch[b"data"]), classes
    except Exception as error:  # a damaged pickle raises whatever its instructions lead to
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{where} is no batch of CIFAR-10: {reason}") from None


def _classes_of(labels: Any) -> NDArray[np.uint8]:
    """Make the array of a list of numbers; whether they are classes is looked at elsewhere."""
    if not isinstance(labels, list) or not all(type(k) is int and 0 <= k < 256 for k in labels):
        raise pickle.UnpicklingError("its labels are no whole numbers from 0 to 255")
    return np.array(labels, dtype=np.uint8)


def _bytes_of(array: Any) -> NDArray[np.uint8]:
    """Make the array that a stand-in was told about, from its own bytes."""
    if not isinstance(array, _Array):
        raise pickle.UnpicklingError("its data are no array")
    _, shape, dtype, column_major, content = array.state
    if not isinstance(dtype, _Dtype) or dtype.given[0] not in ("u1", b"u1"):
        raise pickle.UnpicklingError("its data are no array of bytes")
    order: Literal["C", "F"] = "F" if column_major else "C"
    return np.frombuffer(content, np.uint8).reshape(shape, order=order)
