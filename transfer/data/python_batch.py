"""The Python version of CIFAR-10: pickles, read without letting them run anything."""

import codecs
import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

# All that a pickled array of bytes needs; numpy has moved the first of them.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what arrays are made of: a pickle can call only what it finds."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it wants to use {module}.{name}")
        return _ALLOWED[module, name]


def read_batch(content: bytes, where: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images, (rows, 3072), and classes, (rows,), of one pickled batch.

    Args:
        content: The file.
        where: Its name, for errors.

    Raises:
        ValueError: no batch, damaged, or anything else than bytes, texts, lists and arrays.
    """
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
        images, classes = batch[b"data"], batch[b"labels"]
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise pickle.UnpicklingError("its data are no array of bytes")
        return images, np.array(classes, dtype=np.uint8)
    except Exception as error:  # a damaged pickle raises whatever its instructions lead to
        raise ValueError(f"{where} is no batch of CIFAR-10: {error}") from None
