"""`lmo-transfer tokenize`: text from files or a data set of Hugging Face, as token shards."""

import argparse
import re
from collections.abc import Iterator, Sequence
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.shards import ShardWriter
from transfer.config import require

_MOST_IDS = 2**16
_MOST_TOKENS = 2**31 - 1
_PIECE = 2**18
"""Characters of a file that are read at once."""
_BATCH = 64
"""Pieces that are encoded at once."""

Piece = tuple[bool, str]
"""Whether it begins a document, and text."""


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
    pieces = _pieces_of_files(options) if options.text else _pieces_of_dataset(options)
    encoding = _encoding(options.encoding)
    writer = ShardWriter(folder, options.val_tokens, options.shard_tokens)
    while batch := list(islice(pieces, _BATCH)):
        writer.add(_encoded(encoding, batch))
    writer.finish()
    return 0


def _encoding(name: str) -> Any:
    encoding = _needed("tiktoken").get_encoding(name)
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


def _needed(package: str) -> Any:
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ValueError(
            f"tokenize needs {package}, which is missing: pip install {package}"
        ) from None


def _pieces_of_files(options: argparse.Namespace) -> Iterator[Piece]:
    """Return the text of files, one document each; empty ones are left out."""
    for name in ("dataset_config", "column"):
        flag = f"--{name.replace('_', '-')}"
        require(
            getattr(options, name) is None, flag, "left out with --text", getattr(options, name)
        )
    for path in map(Path, options.text):
        require(path.is_file(), "--text", "files", str(path))
    return (
        (not number, text)
        for path in map(Path, options.text)
        for number, text in enumerate(_pieces(path))
    )


def _pieces(path: Path) -> Iterator[str]:
    """Read a file in pieces that have the tokens they would have as one.

    GPT-2's pattern gives the last white space before a word a token of its own, or to the word:
    a cut in front of a newline that other text follows parts what is apart anyway.
    """
    held = ""
    try:
        with path.open(encoding="utf-8") as file:
            while block := file.read(_PIECE):
                held += block
                cut = max((match.start() for match in re.finditer(r"\n(?=\S)", held)), default=0)
                if cut:
                    yield held[:cut]
                    held = held[cut:]
    except UnicodeDecodeError as error:
        raise ValueError(f"--text {path} must be UTF-8: {error}") from None
    if held:
        yield held


def _pieces_of_dataset(options: argparse.Namespace) -> Iterator[Piece]:
    """Return the rows of a Hugging Face data set's training split, one document each."""
    datasets, column = _needed("datasets"), options.column or "text"
    rows = datasets.load_dataset(
        options.dataset, options.dataset_config, split="train", streaming=True
    )
    return ((True, text) for row in rows if (text := _text(row, column)))


def _text(row: dict[str, Any], column: str) -> str:
    text = row.get(column)
    if not isinstance(text, str):
        columns = ", ".join(name for name, value in row.items() if isinstance(value, str))
        raise ValueError(f"--column must be a column of text ({columns}), got {column!r}")
    return text
