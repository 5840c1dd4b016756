"""Folders of images by class: what is in them, and what they hash to."""

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.config import require

_ENDINGS = (".jpeg", ".jpg", ".png")
_ADVICE = "; --data.path DIR says where train/<class>/<image> and val/<class>/<image> are"


@dataclass(frozen=True)
class Split:
    """Files of one part of the data, by class and name."""

    folder: Path
    names: list[str]
    """<class>/<image>."""
    classes: NDArray[np.int64]

    def paths(self, indices: NDArray[np.int64]) -> list[str]:
        """Return some of the files."""
        return [os.path.join(self.folder, self.names[index]) for index in indices]

    def all_paths(self) -> list[str]:
        """Return all files."""
        return [os.path.join(self.folder, name) for name in self.names]


@lru_cache(maxsize=2)
def scan(folder: Path, num_classes: int) -> tuple[Split, Split, str]:
    """Return training and validation files and their hash; a million files take their time.

    Raises:
        ValueError: folders or images are missing, or there are others than there should be.
    """
    parts = {split: _classes(folder / split, num_classes) for split in ("train", "val")}
    for split, other in (("train", "val"), ("val", "train")):
        missing = sorted(set(parts[split]) - set(parts[other]))
        if missing:
            raise ValueError(
                f"{folder / other} must have the class folders of {folder / split}, "
                f"but lacks {missing[0]!r}"
            )
    (train, first), (val, second) = (_files(folder / split, parts[split]) for split in parts)
    return train, val, hashlib.sha256(f"{first} {second}".encode()).hexdigest()


def _classes(folder: Path, num_classes: int) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"data 'imagenet': no folder {folder}{_ADVICE}")
    with os.scandir(folder) as entries:
        names = [e.name for e in entries if e.is_dir() and not e.name.startswith(".")]
    allowed = f"the number of class folders in {folder}, {len(names)}"
    require(len(names) == num_classes, "data.num_classes", allowed, num_classes)
    return sorted(names)


def _files(folder: Path, class_names: list[str]) -> tuple[Split, str]:
    """List the images of all classes; the hash is of their sorted names and sizes."""
    names: list[str] = []
    classes: list[int] = []
    digest = hashlib.sha256()
    for number, class_name in enumerate(class_names):
        found = sorted(_images(folder / class_name))
        for name, size in found:
            names.append(f"{class_name}/{name}")
            digest.update(f"{names[-1]} {size}\n".encode())
        classes += [number] * len(found)
    return Split(folder, names, np.array(classes, np.int64)), digest.hexdigest()


def _images(folder: Path) -> list[tuple[str, int]]:
    """Return names and sizes of a class's images."""
    with os.scandir(folder) as entries:
        found = [(e.name, e.stat().st_size) for e in entries if not e.name.startswith(".")]
    for name, _ in found:
        if not name.lower().endswith(_ENDINGS):
            raise ValueError(f"{folder / name} must be an image, {', '.join(_ENDINGS)}")
    if not found:
        raise ValueError(f"class folder {folder} must have images, got none")
    return found
