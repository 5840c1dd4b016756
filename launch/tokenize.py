"""`lmo-transfer tokenize`: text from files or a data set of Hugging Face, as token shards."""

import argparse
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.corpus import Piece, needed, pieces_of
from launch.shards import ShardWriter
from transfer.config import require, unknown

_MOST_IDS = 2**16
_MOST_TOKENS = 2**31 - 1
_BATCH = 64
"""Pieces that are encoded at once."""


def tokenize(options: argparse.Namespace) -> int:
    """Write the shards of `lmo-transfer tokenize` and return exit code 0.

    Every document begins with the end-of-text token, as in llm.c.

    Raises:
        ValueError: a package or file is missing, an option is out of range, the folder has shards
            already, or the text is too short.
    """
    for name in ("shard_tokens", "val_tokens"):
        value = getattr(options, name)
        in_range = 1 <= value <= _MOST_TOKENS
        require(in_range, f"--{name.replace('_', '-')}", f"from 1 to {_MOST_TOKENS}", value)
    folder = Path(options.output)
    old = sorted(folder.glob("tokens_*.bin"))
    if old:
        raise ValueError(f"--output must be a folder without shards, but there is {old[0]}")
    pieces = pieces_of(options)
    encoding = _encoding(options.encoding)
    writer = ShardWriter(folder, options.val_tokens, options.shard_tokens)
    try:
        while batch := list(islice(pieces, _BATCH)):
            writer.add(_encoded(encoding, batch))
        writer.finish()
    except BaseException:
        if writer.num_written:
            print(f"note: the shards in {folder} hold only the beginning of the text")
        raise
    return 0


def _encoding(name: str) -> Any:
    tiktoken = needed("tiktoken")
    names = tiktoken.list_encoding_names()
    if name not in names:
        raise ValueError(unknown("--encoding", name, names))
    try:
        encoding = tiktoken.get_encoding(name)
    except Exception as error:  # of the network, or of files that are others
        raise ValueError(
            f"--encoding {name}: tiktoken cannot get its files ({type(error).__name__}); without "
            "a network, it reads them from the folder that TIKTOKEN_CACHE_DIR names"
        ) from error
    wanted = f"an encoding of at most {_MOST_IDS} ids, as shards hold 16 bits a token"
    require(encoding.n_vocab <= _MOST_IDS, "--encoding", wanted, f"{name}: {encoding.n_vocab}")
    return encoding


def _encoded(encoding: Any, batch: Sequence[Piece]) -> NDArray[np.uint16]:
    rows = encoding.encode_ordinary_batch([text for _, text in batch])
    parts = [
        np.array([encoding.eot_token, *row] if begins else row, np.uint16)
        for (begins, _), row in zip(batch, rows, strict=True)
    ]
    return np.concatenate(parts)
