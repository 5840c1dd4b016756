"""Token shards: the same batches whatever is mapped, thousands of shards, and bad ones."""

import hashlib
import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import check_batches, write_shard
from transfer import data
from transfer.config import TokensConfig
from transfer.data import shards
from transfer.data.base import positions
from transfer.seeds import derived_seed

SHARED = Path(__file__).parents[2].parent / "shared" / "data"

# Of steps 0 to 9 of `invented_folder`, as they were when every shard was mapped at the start.
BATCHES_SHA256 = "ef6e5386ed69fddd567b8dab7952d1bf49d6cbd96eade4d8c5c26cee0f082310"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of whoever runs the tests out of them."""
    monkeypatch.setenv("LMO_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture(params=[1, 64], ids=["one map", "64 maps"])
def num_maps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let fewer shards be mapped at a time than there are, or all."""
    monkeypatch.setattr(shards, "_MOST_OPEN", request.param)


def token_folder(folder: Path) -> TokensConfig:
    """Write two training shards and one to validate."""
    write_shard(folder / "x_train_000001.bin", range(100))
    write_shard(folder / "x_train_000002.bin", range(100, 150))
    write_shard(folder / "x_val_000000.bin", range(200, 241))
    return TokensConfig(path=str(folder), vocab_size=256, sequence_length=8)


def invented_texts() -> list[list[int]]:
    """Return texts of random tokens and lengths."""
    random = np.random.RandomState(0)
    sizes = [int(size) for size in random.randint(20, 400, 12)]
    return [[int(token) for token in random.randint(0, 65536, size)] for size in sizes]


def invented_folder(folder: Path) -> TokensConfig:
    """Write texts as training shards, and one to validate."""
    for number, text in enumerate(invented_texts()):
        write_shard(folder / f"train_{number:06d}.bin", text)
    write_shard(folder / "val_000000.bin", range(65536 - 50, 65536))
    return TokensConfig(path=str(folder), vocab_size=65536, sequence_length=8)


# --- batches ---------------------------------------------------------------------------------


def test_tokens(tmp_path: Path) -> None:
    config = data.resolve(token_folder(tmp_path))
    loaded = data.load(config)
    assert (loaded.num_train, loaded.num_val) == (11 + 5, 5) and loaded.notes == ()
    size = loaded.num_train
    batch = loaded.train_rows(1, 0, size, slice(0, size))
    assert (batch.y == batch.x + 1).all(), "no sequence crosses a border of shards"
    assert len(set(batch.x[:, 0].tolist())) == size, "every window once a pass"
    assert loaded.val_rows(slice(1, 2)).x.tolist() == [list(range(208, 216))]
    check_batches(loaded, 5)
    write_shard(tmp_path / "x_val_000000.bin", range(199, 240))
    assert data.resolve(token_folder(tmp_path / ".")).fingerprint == config.fingerprint


@pytest.mark.usefixtures("num_maps")
def test_batches_are_windows_of_the_texts(tmp_path: Path) -> None:
    """As cut from plain lists, one by one."""
    loaded, texts, length = data.load(invented_folder(tmp_path)), invented_texts(), 8
    digest = hashlib.sha256()
    for step in range(10):
        batch = loaded.train_rows(5, step, 30, slice(0, 30))
        where = positions(5, step, 30, loaded.num_train, slice(0, 30))
        for row, (epoch, index) in enumerate(zip(*where, strict=True)):
            shift = derived_seed("shift", 5, int(epoch)) % length
            windows = [
                text[shift + k * length : shift + (k + 1) * length + 1]
                for text in texts
                for k in range((len(text) - length) // length)
            ]
            assert len(windows) == loaded.num_train
            assert batch.x[row].tolist() == windows[index][:-1]
            assert batch.y[row].tolist() == windows[index][1:]
        for part in batch:
            assert part.dtype == torch.int64 and part.is_contiguous()
            digest.update(part.numpy().tobytes())
    assert loaded.val_rows(slice(0, 1)).y.tolist() == [list(range(65536 - 49, 65536 - 41))]
    assert digest.hexdigest() == BATCHES_SHA256


@pytest.mark.usefixtures("num_maps")
def test_a_batch_opens_a_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = data.load(invented_folder(tmp_path))
    real, mapped = shards.mmap.mmap, 0

    def count(*given: Any, **more: Any) -> Any:
        nonlocal mapped
        mapped += 1
        return real(*given, **more)

    monkeypatch.setattr(shards.mmap, "mmap", count)
    loaded.train_rows(0, 0, loaded.num_train, slice(0, loaded.num_train))
    assert mapped == 12


@pytest.mark.slow
def test_thousands_of_shards_and_few_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3,000 shards where 256 files may be open."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for number in range(3000):
        write_shard(tmp_path / f"train_{number:06d}.bin", range(number, number + 40))
    write_shard(tmp_path / "val_000000.bin", range(40))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        loaded = data.load(TokensConfig(path=str(tmp_path), sequence_length=8))
        size = loaded.num_train
        assert size == 3000 * 4
        batch = loaded.train_rows(0, 0, size, slice(0, size))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (batch.y == batch.x + 1).all()
    shift = derived_seed("shift", 0, 0) % 8
    firsts = [number + shift + 8 * k for number in range(3000) for k in range(4)]
    assert sorted(batch.x[:, 0].tolist()) == sorted(firsts)


# --- the last shard --------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "size"), [("train", 15), ("train", 1), ("val", 8)])
def test_a_short_last_shard_is_left_out_and_said(tmp_path: Path, split: str, size: int) -> None:
    config = token_folder(tmp_path)
    before = data.load(config)
    last = tmp_path / f"x_{split}_999999.bin"
    write_shard(last, range(size))
    data.tokens.load.cache_clear()
    loaded = data.load(config)
    assert loaded.notes == (
        f"{split} shard {last.name}, the last one, is too short for a sequence of 8: its {size} "
        "tokens are not used",
    )
    assert (loaded.num_train, loaded.num_val) == (before.num_train, before.num_val)
    assert torch.equal(
        loaded.train_rows(0, 0, 16, slice(0, 16)).x, before.train_rows(0, 0, 16, slice(0, 16)).x
    )
    assert torch.equal(loaded.val_rows(slice(0, 5)).x, before.val_rows(slice(0, 5)).x)
    assert loaded.fingerprint != before.fingerprint, "what is there and unused is data too"


@pytest.mark.parametrize(("split", "size"), [("train", 16), ("val", 9)])
def test_a_last_shard_of_one_sequence_is_used(tmp_path: Path, split: str, size: int) -> None:
    config = token_folder(tmp_path)
    write_shard(tmp_path / f"x_{split}_999999.bin", range(size))
    loaded = data.load(config)
    assert loaded.notes == ()
    assert (loaded.num_train, loaded.num_val) == ((17, 5) if split == "train" else (16, 6))


@pytest.mark.parametrize("name", ["x_train_000000.bin", "x_val_.bin"])
def test_no_other_shard_may_be_short(tmp_path: Path, name: str) -> None:
    config = token_folder(tmp_path)
    write_shard(tmp_path / name, range(8))
    with pytest.raises(ValueError, match=rf"{name} must have at least \d+ tokens.*only the last"):
        data.load(config)


def test_short_shards_only(tmp_path: Path) -> None:
    config = token_folder(tmp_path)
    for number in (1, 2):
        write_shard(tmp_path / f"x_train_00000{number}.bin", range(15))
    with pytest.raises(ValueError, match=r"000001.bin must have at least 16 tokens.*got 15"):
        data.load(config)


# --- bad shards ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda p: p.unlink(), "no val shard"),
        (lambda p: write_shard(p, [1] * 50, magic=3), "must begin with 20240520, got 3"),
        (lambda p: write_shard(p, [1] * 50, version=2), "must have version 1, got 2"),
        (lambda p: p.write_bytes(p.read_bytes()[:-3]), "truncated or damaged"),
        (lambda p: p.write_bytes(b""), "must have a header of 1024 bytes, got 0 bytes"),
        (lambda p: p.write_bytes(p.read_bytes()[:500]), "a header of 1024 bytes, got 500 bytes"),
        (lambda p: p.write_bytes(p.read_bytes() + b"ab"), "1106 bytes for the 41 .* got 1108"),
        (lambda p: write_shard(p, []), "must have at least 1 token, got 0 in its header"),
        (lambda p: write_shard(p, [1] * 8), "at least 9 tokens, for sequences of 8, got 8"),
        (lambda p: write_shard(p, [1] * 40 + [256]), "token id 256, but data.vocab_size is 256"),
    ],
)
def test_bad_shards(tmp_path: Path, harm: Any, message: str) -> None:
    config = token_folder(tmp_path)
    harm(tmp_path / "x_val_000000.bin")
    with pytest.raises(ValueError, match=message) as caught:
        data.load(config)
    assert "\n" not in str(caught.value)


def test_no_folder_of_shards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder .*absent; `lmo-transfer tokenize"):
        data.load(TokensConfig(path=str(tmp_path / "absent")))


@pytest.mark.parametrize("pattern", ["", "/data/*.bin"])
def test_patterns_are_of_names(tmp_path: Path, pattern: str) -> None:
    config = replace(token_folder(tmp_path), val_files=pattern)
    with pytest.raises(ValueError, match="data.val_files must be a pattern of names") as caught:
        data.load(config)
    assert repr(pattern) in str(caught.value)


def test_no_shard_is_trained_and_validated_on(tmp_path: Path) -> None:
    config = replace(token_folder(tmp_path), train_files="*.bin")
    with pytest.raises(
        ValueError, match=r"x_val_000000.bin must be in one part of the data.*'\*.b"
    ):
        data.load(config)


def test_more_validation_sequences_than_there_are(tmp_path: Path) -> None:
    for asked, notes in ((5, ()), (6, ("data.val_examples is 6, but there are only 5: all of "
                                       "them are used",))):  # fmt: skip
        loaded = data.load(replace(token_folder(tmp_path), val_examples=asked))
        assert (loaded.num_val, loaded.notes) == (5, notes)


@pytest.mark.parametrize("tokens", [0, 99, 101])
def test_a_shard_that_changes_before_it_is_mapped(tmp_path: Path, tokens: int) -> None:
    """It is an error, no bus error and no other text."""
    config = token_folder(tmp_path / ".")
    loaded = data.load(config)
    write_shard(tmp_path / "x_train_000001.bin", range(tokens))
    with pytest.raises(
        ValueError, match=rf"x_train_000001.bin had 1224 bytes, now {1024 + 2 * tokens}"
    ):
        loaded.train_rows(0, 0, 16, slice(0, 16))


# --- the real files --------------------------------------------------------------------------


def test_the_real_tokens() -> None:
    if not (SHARED / "english_val_000000.bin").is_file():
        pytest.skip(f"no token shards in {SHARED}")
    loaded = data.load(TokensConfig(path=str(SHARED)))
    assert loaded.num_train > 16_000 and loaded.num_val > 1_000
    check_batches(loaded, 4)
