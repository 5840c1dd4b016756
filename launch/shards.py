"""Token shards, in the format that llm.c and modded-nanogpt write and data `tokens` reads."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Header of a shard: 256 int32, see llm.c's dev/data/data_common.py.
_MAGIC, _VERSION, _HEADER_NUMBERS = 20240520, 1, 256


class ShardWriter:
    """Cuts a stream of tokens into shards; holds one of them in memory.

    The first `val_tokens` make up the validation shard, the others the training shards.

    Args:
        folder: Where the shards go; made with the first of them.
        val_tokens: Tokens of the validation shard.
        shard_tokens: Tokens of a training shard; the last one may have fewer.
    """

    def __init__(self, folder: Path, val_tokens: int, shard_tokens: int) -> None:
        self._folder = folder
        self._sizes = (val_tokens, shard_tokens)
        self._buffer = np.empty(max(self._sizes), "<u2")
        self._filled = 0
        self._written = 0

    @property
    def num_written(self) -> int:
        """Shards that are in the folder."""
        return self._written

    @property
    def _size(self) -> int:
        return self._sizes[min(self._written, 1)]

    def add(self, ids: NDArray[np.uint16]) -> None:
        """Append tokens; a full shard is written when the next token comes."""
        while len(ids):
            if self._filled == self._size:
                self._write()
            part = ids[: self._size - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            ids = ids[len(part) :]

    def finish(self) -> None:
        """Write what is left.

        Raises:
            ValueError: there were no tokens, or none beyond those to validate on.
        """
        if not self._filled:
            raise ValueError("the text must have tokens, got none")
        if not self._written:
            raise ValueError(
                f"--val-tokens must be below the {self._filled} tokens of the text, got "
                f"{self._size}: none are left to train on"
            )
        self._write()

    def _write(self) -> None:
        split = f"train_{self._written - 1:06d}" if self._written else "val_000000"
        path = self._folder / f"tokens_{split}.bin"
        write_shard(path, self._buffer[: self._filled])
        print(f"{path}  {self._filled:,} tokens", flush=True)
        self._written += 1
        self._filled = 0


def write_shard(path: Path, ids: NDArray[np.uint16]) -> None:
    """Write header and tokens; the file gets its name once it is whole."""
    header = np.zeros(_HEADER_NUMBERS, "<i4")
    header[:3] = _MAGIC, _VERSION, len(ids)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending keeps what a killed process leaves behind out of *train*.bin.
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(header.tobytes())
            file.write(ids.astype("<u2", copy=False).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
