"""Token shards as the public FineWeb scripts write them: read by their headers, mapped when used.

A shard is 256 int32 numbers (20240520, version 1, number of tokens, zeros), then the tokens as
uint16; little-endian throughout.
"""

import hashlib
import mmap
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transfer.data.cache import recall, remember
from transfer.data.windows import Text, Texts

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
_BLOCK = 1 << 22
_MOST_OPEN = 64
"""Shards mapped at a time: each takes a file descriptor, and its size in address space."""


class MappedShards(Texts):
    """Shards in files; those used last stay mapped.

    Args:
        paths: Their files.
        sizes: Tokens in each, as `num_tokens` gives them.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[int]) -> None:
        self._paths = tuple(paths)
        self._sizes = np.array(sizes, np.int64)
        self._mapped = lru_cache(maxsize=_MOST_OPEN)(self._map)

    @property
    def sizes(self) -> NDArray[np.int64]:
        return self._sizes

    def open(self, number: int) -> Text:
        """Return a shard's tokens.

        Raises:
            ValueError: the file is not as it was.
        """
        return self._mapped(number)

    def _map(self, number: int) -> Text:
        path, wanted = self._paths[number], HEADER_BYTES + 2 * int(self._sizes[number])
        # np.memmap takes five times as long, and slices of it are slow: each is a memmap again.
        with path.open("rb", buffering=0) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapped) != wanted:
            raise ValueError(f"{path} had {wanted} bytes, now {len(mapped)}: the data changed")
        return np.frombuffer(mapped, "<u2", offset=HEADER_BYTES)


def num_tokens(path: Path) -> int:
    """Return the number of tokens of a shard whose header and size are right.

    Raises:
        ValueError: no shard, another version, truncated, damaged or empty.
    """
    size = path.stat().st_size
    header = np.fromfile(path, dtype="<i4", count=256)
    if len(header) < 256:
        wanted = f"it must have a header of {HEADER_BYTES} bytes"
        raise ValueError(f"{path} is no token shard: {wanted}, got {size} bytes")
    if header[0] != MAGIC:
        raise ValueError(f"{path} is no token shard: it must begin with {MAGIC}, got {header[0]}")
    if header[1] != VERSION:
        raise ValueError(f"{path} must have version {VERSION}, got {header[1]}")
    count = int(header[2])
    if count < 1:
        raise ValueError(f"{path} must have at least 1 token, got {count} in its header")
    if size != HEADER_BYTES + 2 * count:
        raise ValueError(
            f"{path} must have {HEADER_BYTES + 2 * count} bytes for the {count} tokens of its "
            f"header, got {size}: truncated or damaged"
        )
    return count


def scan(path: Path) -> tuple[str, int]:
    """Return SHA-256 of a shard's tokens, and its largest id; the cache remembers both."""
    known = recall(path)
    if known is not None and isinstance(known.get("largest"), int):
        return str(known["sha256"]), int(known["largest"])
    digest, largest = hashlib.sha256(), 0
    with path.open("rb") as file:
        file.seek(HEADER_BYTES)
        while block := file.read(_BLOCK):
            digest.update(block)
            largest = max(largest, int(np.frombuffer(block, "<u2").max()))
    remember(path, {"sha256": digest.hexdigest(), "largest": largest})
    return digest.hexdigest(), largest
