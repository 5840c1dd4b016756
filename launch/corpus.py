"""Text to make tokens of: from files, or from a data set of Hugging Face."""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from transfer.config import require

_PIECE = 2**18
"""Characters of a file that are read at once."""
# GPT-2's pattern gives the last white space before a word a token of its own, or to the word: a
# cut in front of a newline that other text follows parts what is apart anyway.
_CUT = re.compile(r"\n(?=\S)")

Piece = tuple[bool, str]
"""Whether it begins a document, and text."""


def pieces_of(options: Namespace) -> Iterator[Piece]:
    """Return the documents that `lmo-transfer tokenize` was given, in pieces.

    Raises:
        ValueError: an option is out of place, or there is nothing of that name; while they are
            read also: no UTF-8, another column, or what the data set's package raises.
    """
    return _pieces_of_files(options) if options.text else _pieces_of_dataset(options)


def needed(package: str) -> Any:
    """Import a package that only this command needs.

    Raises:
        ValueError: it is missing.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ValueError(
            f"tokenize needs {package}, which is missing: pip install {package}"
        ) from None


def _pieces_of_files(options: Namespace) -> Iterator[Piece]:
    """Return the text of files, one document each; empty ones are left out."""
    for name in ("dataset_config", "column"):
        flag, value = f"--{name.replace('_', '-')}", getattr(options, name)
        require(value is None, flag, "left out with --text", value)
    paths = [Path(name) for name in options.text]
    for path in paths:
        require(path.is_file(), "--text", "files", str(path))
    return (
        (not number, text) for path in paths for number, text in enumerate(pieces_of_file(path))
    )


def pieces_of_file(path: Path) -> Iterator[str]:
    """Read a file in pieces that have the tokens they would have as one."""
    held, looked_at = "", 0
    try:
        with path.open(encoding="utf-8", newline="") as file:
            while block := file.read(_PIECE):
                held += block
                cut = max((match.start() for match in _CUT.finditer(held, looked_at)), default=0)
                if cut:
                    yield held[:cut]
                    held = held[cut:]
                looked_at = len(held) - 1  # what follows its last character is not known yet
    except UnicodeDecodeError as error:
        raise ValueError(f"--text {path} must be UTF-8: {error}") from None
    if held:
        yield held
    else:
        print(f"note: {path} is empty and left out")


def _pieces_of_dataset(options: Namespace) -> Iterator[Piece]:
    """Return the rows of a data set's training split, one document each."""
    name = options.dataset
    if Path(name).is_file():
        raise ValueError(f"--dataset must be a name or a folder, got the file {name!r}")
    if name.startswith(("/", ".", "~")) and not Path(name).is_dir():
        raise ValueError(f"--dataset must be a name or a folder, but there is no folder {name!r}")
    return _documents(_rows(needed("datasets"), options), options.column or "text")


def _rows(datasets: Any, options: Namespace) -> Iterator[Mapping[str, Any]]:
    try:
        yield from datasets.load_dataset(
            options.dataset, options.dataset_config, split="train", streaming=True
        )
    except Exception as error:  # of that package, of pyarrow, of the network: all are its input's
        reason = str(error) or type(error).__name__
        raise ValueError(f"--dataset {options.dataset}: {reason}") from error


def _documents(rows: Iterator[Mapping[str, Any]], column: str) -> Iterator[Piece]:
    left_out = 0
    for row in rows:
        text = row.get(column, ...)
        if not isinstance(text, str | None):
            columns = ", ".join(name for name, value in row.items() if isinstance(value, str))
            require(False, "--column", f"a column of text ({columns or 'there is none'})", column)
        if text:
            yield True, text
        else:
            left_out += 1
    if left_out:
        print(f"note: {left_out:,} rows without text are left out")
