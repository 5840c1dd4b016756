"""CIFAR-10 (Krizhevsky 2009), from the official archives or the folders in them.

Shapes: B rows; images are 3 x 32 x 32.
"""

import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from transfer.config import Cifar10Config, Views
from transfer.data.arrays import ArrayData
from transfer.data.base import Batch, on_device, part_notes, positions
from transfer.data.cache import place
from transfer.data.python_batch import read_batch
from transfer.seeds import derived_seed

_BLOCK = 1 << 20
_PER_FILE = 10_000
_RECORD = 1 + 3 * 32 * 32
_MEAN = (0.4914, 0.4822, 0.4465)
_STD = (0.2470, 0.2435, 0.2616)
_SHIFTS = {-1: 0.25, 0: 0.5, 1: 0.25}
"""Pixels down and right of the views of one image, with their weights (arXiv:2404.00498)."""
_TRAIN = tuple(f"data_batch_{k}" for k in range(1, 6))
_ADVICE = (
    "; get cifar-10-binary.tar.gz or cifar-10-python.tar.gz from "
    "https://www.cs.toronto.edu/~kriz/cifar.html and give --data.path FILE_OR_FOLDER"
)
Bytes = NDArray[np.uint8]
Read = Callable[[str], bytes | None]


@dataclass(frozen=True)
class AugmentedData(ArrayData):
    """Images with random flips and translations, made on their device.

    An image is mirrored at random in its first pass, then in every other one; it is shifted by up
    to `translate` pixels each way, filled in by reflection (airbench94, Jordan 2024,
    arXiv:2404.00498). Both follow from seed, pass and image. Layers are set from the first
    training images as they lie.
    """

    flip: bool = False
    translate: int = 0
    val_views: Views = "plain"

    def rows_to_fit(self, seed: int, count: int) -> Tensor:
        return self.train_x[:count]

    def views(self, x: Tensor) -> list[tuple[float, Tensor]]:
        if self.val_views == "plain":
            return [(1.0, x)]
        shifts = _SHIFTS if self.val_views == "mirror-translate" else {0: 1.0}
        side, padded = x.shape[-1], F.pad(x, (1,) * 4, mode="reflect")
        seen = [(share, padded[..., 1 + k :, 1 + k :]) for k, share in shifts.items()]
        cut = [(share / 2, y[..., :side, :side]) for share, y in seen]
        return [(share, way) for share, y in cut for way in (y, y.flip(-1))]

    def train_rows(self, seed: int, step: int, batch_size: int, rows: slice) -> Batch:
        batch = super().train_rows(seed, step, batch_size, rows)
        walked = positions(seed, step, batch_size, self.num_train, rows)
        x = batch.x
        if self.flip:
            first = _chances(seed, "flip", self.num_train, 2)[walked.indices]
            mirrored = on_device(torch.from_numpy((first + walked.epochs) % 2 == 1), x.device)
            x = torch.where(mirrored.view(-1, 1, 1, 1), x.flip(-1), x)
        if self.translate:
            x = self._shifted(x, seed, walked.epochs, walked.indices)
        return Batch(x, batch.y)

    def _shifted(
        self, x: Tensor, seed: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]
    ) -> Tensor:
        reach, side = self.translate, x.shape[-1]
        choices = (2 * reach + 1) ** 2
        drawn = np.empty_like(indices)
        for epoch in np.unique(epochs):
            chances = _chances(seed, f"shift {epoch}", self.num_train, choices)
            drawn[epochs == epoch] = chances[indices[epochs == epoch]]
        down, right = (
            on_device(torch.from_numpy(part), x.device) for part in np.divmod(drawn, 2 * reach + 1)
        )
        pixel = torch.arange(side, device=x.device)
        rows = (down[:, None] + pixel)[:, None, :, None]
        columns = (right[:, None] + pixel)[:, None, None, :]
        padded = F.pad(x, (reach,) * 4, mode="reflect")
        image = torch.arange(len(x), device=x.device)[:, None, None, None]
        channel = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        return padded[image, channel, rows, columns]


@lru_cache(maxsize=16)
def _chances(seed: int, what: str, size: int, choices: int) -> NDArray[np.int64]:
    """Return a number below `choices` for every training image."""
    random = np.random.RandomState(derived_seed(what, seed))
    return random.randint(0, choices, size=size).astype(np.int64)


@lru_cache(maxsize=2)
def load(config: Cifar10Config) -> AugmentedData:
    """Load all images as one tensor, centred and scaled by channel; see `Cifar10Config`.

    Raises:
        ValueError: no such folder or archive, files missing, damaged or of another kind.
    """
    train_x, train_y, val_x, val_y, fingerprint = _read(place(config.path, "cifar10"))
    train, val = config.train_examples or len(train_y), config.val_examples or len(val_y)
    return AugmentedData(
        train_x=_normalised(train_x[:train]),
        train_y=train_y[:train],
        val_x=_normalised(val_x[:val]),
        val_y=val_y[:val],
        shape=config.shape,
        fingerprint=fingerprint,
        flip=config.flip,
        translate=config.translate,
        val_views=config.val_views,
        notes=part_notes(
            train_examples=(config.train_examples, len(train_y)),
            val_examples=(config.val_examples, len(val_y)),
        ),
    )


def _normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (_MEAN, _STD))
    return (pixels / 255 - mean) / std


def _read(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor, str]:
    """Return training images and classes, validation images and classes, and their hash."""
    read = _reader(path)
    parts = [_batch(path, name, read) for name in (*_TRAIN, "test_batch")]
    digest = hashlib.sha256()
    for images, classes in parts:
        digest.update(classes.tobytes() + images.tobytes())
    pixels = torch.from_numpy(np.concatenate([x for x, _ in parts]).reshape(-1, 3, 32, 32))
    labels = torch.from_numpy(np.concatenate([y for _, y in parts]).astype(np.int64))
    cut = len(_TRAIN) * _PER_FILE
    return pixels[:cut], labels[:cut], pixels[cut:], labels[cut:], digest.hexdigest()


def _reader(path: Path) -> Read:
    """Return a function from a file's bare name to its bytes, in a folder or an archive."""
    if path.is_dir():
        inner = [path, path / "cifar-10-batches-bin", path / "cifar-10-batches-py"]

        def in_folder(name: str) -> bytes | None:
            return next((p.read_bytes() for f in inner if (p := f / name).is_file()), None)

        return in_folder
    if not path.is_file():
        raise ValueError(f"data 'cifar10': no folder or archive {path}{_ADVICE}")
    try:
        return _members(path).get
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")  # then tarfile says what it tried
        raise ValueError(f"{path} cannot be read as a tar archive: {reason}{_ADVICE}") from None


def _members(path: Path) -> dict[str, bytes]:
    """Return the files of an archive by their bare names."""
    content = {}
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            if file is not None:
                content[Path(member.name).name] = file.read()
        # The checksum of what was compressed stands behind the end of the archive.
        assert archive.fileobj is not None
        while archive.fileobj.read(_BLOCK):
            pass
    return content


def _batch(path: Path, name: str, read: Read) -> tuple[Bytes, Bytes]:
    """Return 10,000 images, (10000, 3072), and their classes."""
    binary = read(f"{name}.bin")
    if binary is not None:
        if len(binary) != _PER_FILE * _RECORD:
            raise ValueError(
                f"{name}.bin in {path} must have {_PER_FILE * _RECORD} bytes, got {len(binary)}: "
                "truncated or damaged"
            )
        records = np.frombuffer(binary, dtype=np.uint8).reshape(_PER_FILE, _RECORD)
        images, classes = records[:, 1:], records[:, 0]
    else:
        pickled = read(name)
        if pickled is None:
            raise ValueError(f"data 'cifar10': neither {name}.bin nor {name} in {path}{_ADVICE}")
        images, classes = read_batch(pickled, f"{name} in {path}")
    good = images.shape == (_PER_FILE, _RECORD - 1) and classes.shape == (_PER_FILE,)
    if not good:
        raise ValueError(f"{name} in {path} must have {_PER_FILE} images, got {images.shape}")
    if classes.max() > 9:
        raise ValueError(f"{name} in {path} must have classes 0 to 9, got {classes.max()}")
    return np.ascontiguousarray(images), np.ascontiguousarray(classes)
