"""A folder of token shards, checked before anything is trained."""

import hashlib
from functools import lru_cache
from pathlib import Path

from transfer.config import TokensConfig
from transfer.data.cache import place
from transfer.data.shards import MappedShards, num_tokens, scan
from transfer.data.windows import WindowData, least_tokens, require_windows, window_data

_ADVICE = "; `lmo-transfer tokenize --output DIR` makes such shards, --data.path DIR says where"


@lru_cache(maxsize=2)
def load(config: TokensConfig) -> WindowData:
    """Find and check all shards; see `TokensConfig`.

    Every shard is read through once, for its hash and its largest id; the cache remembers both.

    Raises:
        ValueError: no folder or shards; a shard that is damaged, empty, has token ids beyond the
            vocabulary, or is too short for a sequence without being the last of several.
    """
    folder = place(config.path, "tokens")
    digest = hashlib.sha256()
    parts: dict[str, MappedShards] = {}
    notes: list[str] = []
    for split, paths in _splits(folder, config).items():
        sizes = [num_tokens(path) for path in paths]
        notes += _require_sequences(split, paths, sizes, config.sequence_length)
        for path in paths:
            digest.update(f"{split} {_hash(path, config.vocab_size)}\n".encode())
        parts[split] = MappedShards(paths, sizes)
    return window_data(config, parts["train"], parts["val"], digest.hexdigest(), notes)


def _splits(folder: Path, config: TokensConfig) -> dict[str, list[Path]]:
    """Return the files of both parts, in the order of their names."""
    if not folder.is_dir():
        raise ValueError(f"data 'tokens': no folder {folder}{_ADVICE}")
    patterns = {"train": config.train_files, "val": config.val_files}
    found = {split: _paths(folder, split, pattern) for split, pattern in patterns.items()}
    for path in found["val"]:
        if path in found["train"]:
            raise ValueError(
                f"{path} must be in one part of the data, but its name fits data.train_files "
                f"{config.train_files!r} and data.val_files {config.val_files!r}"
            )
    return found


def _paths(folder: Path, split: str, pattern: str) -> list[Path]:
    try:
        paths = sorted(folder.glob(pattern))
    except (NotImplementedError, ValueError):
        wanted = "a pattern of names in the folder"
        raise ValueError(f"data.{split}_files must be {wanted}, got {pattern!r}") from None
    if not paths:
        raise ValueError(f"data 'tokens': no {split} shard {pattern} in {folder}{_ADVICE}")
    return paths


def _require_sequences(split: str, paths: list[Path], sizes: list[int], length: int) -> list[str]:
    """Check that every shard has a sequence; the last of several holds what was left over.

    Returns:
        A note that says so if the last one is too short to be used.
    """
    spare = split == "train"
    others = "; only the last of several shards may be shorter"
    *fulls, (last, rest) = zip(paths, sizes, strict=True)
    for path, size in fulls or [(last, rest)]:
        require_windows(f"{split} shard {path}", size, length, spare=spare, hint=others)
    if rest >= least_tokens(length, spare=spare):
        return []
    return [
        f"{split} shard {last.name}, the last one, is too short for a sequence of {length}: its "
        f"{rest} tokens are not used"
    ]


def _hash(path: Path, vocab_size: int) -> str:
    """Return a shard's SHA-256; ValueError if the model does not know its ids."""
    sha256, largest = scan(path)
    if largest >= vocab_size:
        raise ValueError(
            f"shard {path} has token id {largest}, but data.vocab_size is {vocab_size}: ids must "
            "be below it"
        )
    return sha256
