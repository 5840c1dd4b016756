"""Token shards: exact bytes, cut where asked, never half written, and clear errors."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from launch import corpus, shards
from launch import tokenize as module
from launch.cli import main

EOT = 50256
# GPT-2's pattern, with Python's letters; words become ids by their length and first letter.
PATTERN = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+(?!\S)|\s+")


def ids_of(text: str) -> list[int]:
    return [100 * len(word) + ord(word[-1]) % 100 for word in PATTERN.findall(text)]


def encoding(num_ids: int = 50257) -> SimpleNamespace:
    def batch(texts: list[str]) -> list[list[int]]:
        return [ids_of(text) for text in texts]

    return SimpleNamespace(n_vocab=num_ids, eot_token=EOT, encode_ordinary_batch=batch)


@pytest.fixture(autouse=True)
def tiktoken(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("tiktoken")
    made = {"gpt2": encoding(), "large": encoding(2**16 + 1)}
    fake.list_encoding_names = lambda: [*made, "far"]
    fake.get_encoding = made.__getitem__  # a KeyError stands for what the network raises
    monkeypatch.setitem(sys.modules, "tiktoken", fake)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return the calls of a data set of four rows, two of them without text."""
    calls: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool) -> Any:
        calls.append((name, config, split, streaming))
        rows = ["one two", "", None, "three"]
        return iter([{"id": n, "text": row, "title": "t"} for n, row in enumerate(rows)])

    fake = ModuleType("datasets")
    fake.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", fake)
    return calls


def shard(path: Path) -> list[int]:
    """Check the header of a shard and return its tokens."""
    header = np.fromfile(path, "<i4", count=256)
    ids = np.fromfile(path, "<u2", offset=1024)
    assert header[:3].tolist() == [20240520, 1, len(ids)] and not header[3:].any()
    return [int(token) for token in ids]


def text_file(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def run(folder: Path, *arguments: str, val: int = 2, size: int = 3) -> int:
    sizes = ("--val-tokens", str(val), "--shard-tokens", str(size))
    return main(["tokenize", "--output", str(folder / "out"), *sizes, *arguments])


def fails(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> None:
    """Check that the command ended with one line and exit code 2."""
    assert code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize("batch", [1, 64])
def test_shards_hold_every_token_in_order(
    batch: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_BATCH", batch)
    files = [text_file(tmp_path, "1", "a bb c"), text_file(tmp_path, "2", "d e")]
    assert run(tmp_path, "--text", *files) == 0
    names = ["tokens_train_000000.bin", "tokens_train_000001.bin", "tokens_val_000000.bin"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    first, second, val = (shard(tmp_path / "out" / name) for name in names)
    assert val + first + second == [EOT, *ids_of("a bb c"), EOT, *ids_of("d e")]
    assert (len(val), len(first), len(second)) == (2, 3, 2)
    assert capsys.readouterr().out.splitlines()[0].endswith("tokens_val_000000.bin  2 tokens")


@pytest.mark.parametrize(("size", "count"), [(3, 1), (1, 3), (2, 2), (100, 1)])
def test_no_shard_is_empty(size: int, count: int, tmp_path: Path) -> None:
    """5 tokens, 2 of them to validate on: also where the last shard is just full."""
    file = text_file(tmp_path, "text", "a b c d")
    assert run(tmp_path, "--text", file, size=size) == 0
    train = sorted((tmp_path / "out").glob("*train*"))
    assert len(train) == count
    assert sum(map(shard, train), []) == [EOT, *ids_of("a b c d")][2:]


def test_the_data_set_tokens_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transfer.config import TokensConfig
    from transfer.data import load

    monkeypatch.setenv("LMO_TRANSFER_CACHE", str(tmp_path / "cache"))
    file = text_file(tmp_path, "text", "a b c d e f g h")
    assert run(tmp_path, "--text", file, val=3, size=6) == 0
    config = TokensConfig(path=str(tmp_path / "out"), sequence_length=2, vocab_size=50304)
    x, y = load(config).val_rows(slice(0, 1))
    assert x.tolist() == [[EOT, ids_of("a")[0]]] and y.tolist() == [ids_of("a b")]


@pytest.mark.parametrize("piece", [1, 2, 7, 30])
def test_reading_in_pieces_changes_no_token(
    piece: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "\n\nA b.\n\n\nIt's  two\n x\n\t y \n\nend of\nlines\n \n" * 3
    monkeypatch.setattr(corpus, "_PIECE", piece)
    pieces = list(corpus.pieces_of_file(Path(text_file(tmp_path, "text", text))))
    assert len(pieces) > 5 and "".join(pieces) == text
    assert sum(map(ids_of, pieces), []) == ids_of(text)
    assert run(tmp_path, "--text", str(tmp_path / "text"), size=1000) == 0
    tokens = sum(map(shard, sorted((tmp_path / "out").glob("*"), reverse=True)), [])
    assert tokens == [EOT, *ids_of(text)], "the end of text stands before documents only"


def test_rows_of_a_data_set(
    tmp_path: Path, asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--dataset", "some/name", "--dataset-config", "part", size=9) == 0
    assert asked == [("some/name", "part", "train", True)]
    tokens = shard(tmp_path / "out" / "tokens_val_000000.bin")
    tokens += shard(tmp_path / "out" / "tokens_train_000000.bin")
    assert tokens == [EOT, *ids_of("one two"), EOT, *ids_of("three")]
    assert "note: 2 rows without text are left out" in capsys.readouterr().out


def test_column(
    tmp_path: Path, asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--dataset", "name", "--column", "title", size=9) == 0
    train = shard(tmp_path / "out" / "tokens_train_000000.bin")
    assert train == [EOT, *ids_of("t")] * 3
    capsys.readouterr()
    for column in ("id", "absent"):
        again = run(tmp_path / "other", "--dataset", "name", "--column", column)
        fails(capsys, again, "--column", "(text, title)", f"got '{column}'")


def test_what_the_package_raises_is_one_line(
    tmp_path: Path,
    asked: list[tuple[Any, ...]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever it is, and also in the middle: the shards that are there are no whole text."""
    real = sys.modules["datasets"].load_dataset

    def breaks(*given: Any, **more: Any) -> Any:
        yield from real(*given, **more)
        raise RuntimeError("the connection\nis gone")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", breaks)
    monkeypatch.setattr(module, "_BATCH", 1)
    assert run(tmp_path, "--dataset", "name") == 2
    told = capsys.readouterr()
    assert told.err == "lmo-transfer: --dataset name: the connection is gone\n"
    assert told.out.endswith(f"note: the shards in {tmp_path / 'out'} hold only the beginning of "
                             "the text\n")  # fmt: skip


def test_an_empty_file_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [text_file(tmp_path, name, text) for name, text in (("1", "a b c"), ("2", ""))]
    assert run(tmp_path, "--text", *files) == 0
    assert f"note: {files[1]} is empty and left out" in capsys.readouterr().out


def test_existing_shards_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = text_file(tmp_path, "text", "a b c d")
    old = tmp_path / "out" / "tokens_train_000007.bin"
    old.parent.mkdir()
    old.write_bytes(b"old")
    fails(capsys, run(tmp_path, "--text", file), "--output", "without shards", str(old))
    assert list(old.parent.iterdir()) == [old] and old.read_bytes() == b"old"


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int) -> None:
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        shards.write_shard(tmp_path / "tokens_val_000000.bin", np.arange(3, dtype=np.uint16))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text", "FILE", "--encoding", "far"], ["tiktoken cannot get", "TIKTOKEN_CACHE_DIR"]),
        (["--text", "FILE", "--encoding", "gtp2"], ["far, gpt2, large", "did you mean 'gpt2'"]),
        (["--dataset", "FILE"], ["--dataset must be a name or a folder, got the file 'FILE'"]),
        (["--dataset", "./absent"], ["there is no folder './absent'"]),
        (["--text", "FILE", "--encoding", "large"], ["--encoding", "65536", "large: 65537"]),
        (["--text", "FILE", "--val-tokens", "0"], ["--val-tokens must be from 1", "got 0"]),
        (["--text", "FILE", "--shard-tokens", "-1"], ["--shard-tokens must be", "got -1"]),
        (["--text", "FILE", "--val-tokens", "5"], ["below the 5 tokens", "got 5"]),
        (["--text", "FILE", "--val-tokens", "6"], ["below the 5 tokens", "got 6"]),
        (["--text", "EMPTY"], ["the text must have tokens, got none"]),
        (["--text", "BINARY"], ["BINARY must be UTF-8"]),
        (["--text", "none.txt"], ["--text must be files, got 'none.txt'"]),
        (["--text", "FILE", "--column", "text"], ["--column must be left out with --text"]),
        (["--text", "FILE", "--dataset", "name"], ["--dataset", "not allowed with", "--text"]),
        ([], ["one of the arguments --text --dataset is required"]),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    text_file(tmp_path, "FILE", "a b c d")
    text_file(tmp_path, "EMPTY", "")
    (tmp_path / "BINARY").write_bytes(b"\xff\xfe")
    fails(capsys, run(tmp_path, *arguments), *words)
    assert not (tmp_path / "out").exists(), "something was written"


@pytest.mark.parametrize("package", ["tiktoken", "datasets"])
def test_a_missing_package_is_one_line(
    package: str,
    asked: list[tuple[Any, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    fails(capsys, run(tmp_path, "--dataset", "name"), f"pip install {package}")
