"""Token shards as the public FineWeb scripts write them.

A shard is 256 int32 numbers (20240520, version 1, number of tokens, zeros), then the tokens as
uint16; little-endian throughout.
"""

import hashlib
from functools import lru_cache
from pathlib import Path

import numpy as np

from transfer.config import TokensConfig
from transfer.data.cache import place, recall, remember
from transfer.data.windows import Text, WindowData, require_windows

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
_BLOCK = 1 << 22
_ADVICE = "; `lmo-transfer tokenize --output DIR` makes such shards, --data.path DIR says where"


@lru_cache(maxsize=2)
def load(config: TokensConfig) -> WindowData:
    """Map all shards into memory; see `TokensConfig`.

    Every shard is read through once, for its hash and its largest id; the cache remembers both.

    Raises:
        ValueError: no folder or shards; a shard that is damaged, empty, too short for a sequence,
            or has token ids beyond the vocabulary.
    """
    folder = place(config.path, "tokens")
    digest = hashlib.sha256()
    parts: dict[str, tuple[Text, ...]] = {}
    for split, pattern in (("train", config.train_files), ("val", config.val_files)):
        paths = _paths(folder, split, pattern)
        parts[split] = tuple(map(_mapped, paths))
        spare = split == "train"
        for path, shard in zip(paths, parts[split], strict=True):
            require_windows(
                f"{split} shard {path.name}", [shard], config.sequence_length, spare=spare
            )
            sha256, largest = _scanned(path, shard)
            if largest >= config.vocab_size:
                raise ValueError(
                    f"shard {path} has token id {largest}, but data.vocab_size is "
                    f"{config.vocab_size}: ids must be below it"
                )
            digest.update(f"{split} {sha256}\n".encode())
    return WindowData(
        train=parts["train"],
        val=parts["val"],
        shape=config.shape,
        fingerprint=digest.hexdigest(),
        val_examples=config.val_examples,
    )


def _paths(folder: Path, split: str, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"data 'tokens': no folder {folder}{_ADVICE}")
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise ValueError(f"data 'tokens': no {split} shard {pattern} in {folder}{_ADVICE}")
    return paths


def _mapped(path: Path) -> Text:
    """Return the tokens of a shard whose header and size are right."""
    size = path.stat().st_size
    header = np.fromfile(path, dtype="<i4", count=256)
    if len(header) < 256 or header[0] != MAGIC:
        found = header[0] if len(header) else "nothing"
        raise ValueError(f"{path} is no token shard: it must begin with {MAGIC}, got {found}")
    if header[1] != VERSION:
        raise ValueError(f"{path} must have version {VERSION}, got {header[1]}")
    count = int(header[2])
    if count < 1 or size != HEADER_BYTES + 2 * count:
        raise ValueError(
            f"{path} must have {HEADER_BYTES + 2 * max(count, 1)} bytes for the {count} tokens of "
            f"its header, got {size}: truncated or damaged"
        )
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def _scanned(path: Path, shard: Text) -> tuple[str, int]:
    """Return SHA-256 and largest id of a shard."""
    known = recall(path)
    if known is not None and isinstance(known.get("largest"), int):
        return str(known["sha256"]), int(known["largest"])
    digest, largest = hashlib.sha256(), 0
    for start in range(0, len(shard), _BLOCK):
        block = np.ascontiguousarray(shard[start : start + _BLOCK])
        digest.update(block.tobytes())
        largest = max(largest, int(block.max()))
    remember(path, {"sha256": digest.hexdigest(), "largest": largest})
    return digest.hexdigest(), largest
