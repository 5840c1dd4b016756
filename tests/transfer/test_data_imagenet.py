"""Image folders: batches by seed and step, whichever process decodes them, and clear errors."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from transfer.config import ImagenetConfig
from transfer.data import load, whole
from transfer.data.base import positions
from transfer.data.decoder import Decoder
from transfer.data.folders import scan
from transfer.data.imagenet import ImageFolders
from transfer.data.imagenet import load as load_folders

SIDE, NUM_TRAIN, NUM_VAL = 8, 10, 6
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)


def paint(path: Path, seed: int, size: tuple[int, int] = (14, 11)) -> None:
    """Write an image of noise; its first channel is about 20 * seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 15, (size[1], size[0], 3))
    pixels[..., 0] = 20 * seed
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the cache of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LMO_TRANSFER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return image folders of two classes; class `b` has the seeds from 6 on."""
    root = tmp_path_factory.mktemp("images")
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for seed in range(count):
            ending = ("png", "JPEG")[seed % 2]
            paint(root / split / "ba"[seed < count // 2 + 1] / f"{seed}.{ending}", seed)
    (root / "val" / "a" / ".hidden").touch()
    return root


def config_of(folder: Path, **fields: object) -> ImagenetConfig:
    plain = ImagenetConfig(path=str(folder), resolution=SIDE, num_classes=2, workers=1)
    return replace(plain, **fields)


@pytest.fixture(scope="module")
def data(folder: Path) -> Iterator[ImageFolders]:
    """Return the data with one process, kept for all tests that change nothing."""
    loaded = load_folders(config_of(folder))
    yield loaded
    loaded.close()


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Return a copy that may be changed."""
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def rows_of(data: ImageFolders, step: int, rows: slice, seed: int = 0) -> torch.Tensor:
    return data.train_rows(seed, step, 4, rows).x


# --- batches ---------------------------------------------------------------------------------


def test_a_batch_has_the_images_of_its_positions(data: ImageFolders) -> None:
    assert (data.num_train, data.num_val) == (NUM_TRAIN, NUM_VAL)
    assert data.shape.inputs == (3, SIDE, SIDE) and data.shape.outputs == 2
    x, y = data.train_rows(0, 2, 4, slice(0, 4))  # past the end of the first epoch
    assert x.shape == (4, 3, SIDE, SIDE) and x.dtype == torch.float32 and y.dtype == torch.int64
    chosen = positions(0, 2, 4, NUM_TRAIN, slice(0, 4)).indices  # names sort as seeds do
    assert torch.equal(y, torch.from_numpy((chosen > 5).astype(np.int64)))
    red = (x * STD + MEAN)[:, 0].mean((1, 2)) * 255
    assert torch.allclose(red, torch.from_numpy(20.0 * chosen).float(), atol=4)  # JPEG's loss
    assert x.is_contiguous()


def test_any_step_any_rows_any_processes(data: ImageFolders, folder: Path) -> None:
    """Prefetched or not, in order or not, whole or in parts: the same batch."""
    whole = [rows_of(data, step, slice(0, 4)) for step in range(5)]
    other = load_folders(config_of(folder, workers=2))
    try:
        for step in (4, 1, 2):
            parts = [rows_of(other, step, slice(0, 1)), rows_of(other, step, slice(1, 4))]
            assert torch.equal(torch.cat(parts), whole[step]), f"step {step}"
    finally:
        other.close()


def test_crops_follow_from_seed_and_epoch(data: ImageFolders) -> None:
    def of_image(seed: int, epoch: int) -> torch.Tensor:
        indices = positions(seed, epoch, NUM_TRAIN, NUM_TRAIN, slice(0, NUM_TRAIN)).indices
        row = indices.tolist().index(3)
        return data.train_rows(seed, epoch, NUM_TRAIN, slice(row, row + 1)).x

    assert torch.equal(of_image(0, 0), of_image(0, 0))
    assert not torch.equal(of_image(0, 0), of_image(0, 1))
    assert not torch.equal(of_image(0, 0), of_image(1, 0))


def test_the_next_step_is_prepared_only_in_order(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    submit = Decoder._submit

    def spy(self: Decoder, wanted: object) -> object:
        asked.append([Path(path).stem for path in wanted.paths])
        return submit(self, wanted)

    monkeypatch.setattr(Decoder, "_submit", spy)
    data = load_folders(config_of(folder))

    def stems(step: int, rows: slice) -> list[str]:
        return [str(index) for index in positions(0, step, 4, NUM_TRAIN, rows).indices]

    part = slice(1, 3)
    try:
        rows_of(data, 5, part)
        assert asked == [stems(5, part)], "only the rows asked for are decoded"
        rows_of(data, 6, part)
        assert asked[1:] == [stems(6, part), stems(7, part)]
        rows_of(data, 7, part)
        assert asked[3:] == [stems(8, part)], "step 7 was decoded twice"
        rows_of(data, 2, part)
        assert asked[4:] == [stems(2, part)]
        assert not data.decoder._ahead, "what will not be asked for is kept"
    finally:
        data.close()


def test_validation_order_is_fixed_and_cut(data: ImageFolders, folder: Path) -> None:
    x, y = data.val_rows(slice(0, NUM_VAL))
    red = ((x * STD + MEAN)[:, 0].mean((1, 2)) * 255 / 20).round().int().tolist()
    assert sorted(red) == list(range(NUM_VAL)) and red != sorted(red)
    assert y.tolist() == [int(seed > 3) for seed in red]
    few = load_folders(config_of(folder, val_examples=2))
    assert few.num_val == 2 and np.array_equal(few.val_order, data.val_order[:2])
    assert torch.equal(data.val_rows(slice(2, 5)).x, x[2:5])


def test_to_keeps_the_images(data: ImageFolders) -> None:
    exact = data.to(torch.device("cpu"), torch.float64)
    half = data.to(torch.device("cpu"), torch.bfloat16)
    x = data.val_rows(slice(0, 2)).x
    assert torch.allclose(exact.val_rows(slice(0, 2)).x, x.double(), atol=1e-6)
    assert torch.equal(half.val_rows(slice(0, 2)).x, x.to(torch.bfloat16))


def test_close_ends_the_processes_and_they_start_again(folder: Path) -> None:
    data = load_folders(config_of(folder))
    first = rows_of(data, 0, slice(0, 2))
    rows_of(data, 1, slice(0, 2))
    pool = data.decoder._pool
    assert pool is not None
    (pid,) = pool._processes
    data.to(torch.device("cpu"), torch.float64).close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert torch.equal(rows_of(data, 0, slice(0, 2)), first)
    (other,) = data.decoder._pool._processes
    os.kill(other, 9)
    with pytest.raises(RuntimeError, match="decodes images died.*data.workers"):
        for step in range(1000):
            rows_of(data, step, slice(0, 2))
            time.sleep(0.01)
    assert data.decoder._pool is None and not data.decoder._ahead


# --- what is wrong with the folders ----------------------------------------------------------


def test_fingerprint_is_of_names_and_sizes(data: ImageFolders, copy: Path, tmp_path: Path) -> None:
    assert load(config_of(copy, val_examples=1)).fingerprint == data.fingerprint
    moved = copy.rename(tmp_path / "moved")
    (moved / "train" / "a" / "0.png").rename(moved / "train" / "a" / "x.png")
    renamed = load(config_of(moved)).fingerprint
    longer = moved.rename(tmp_path / "longer")
    with (longer / "val" / "a" / "0.png").open("ab") as file:
        file.write(b"0")
    assert len({data.fingerprint, renamed, load(config_of(longer)).fingerprint}) == 3
    with pytest.raises(ValueError, match="data changed"):
        load(config_of(longer, fingerprint=data.fingerprint))


def test_wrong_folders(copy: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.num_classes must be .*copy/train, 2, got 3"):
        load(config_of(copy, num_classes=3))
    (copy / "val" / "b").rename(copy / "val" / "c")
    with pytest.raises(ValueError, match="copy/val must have .*copy/train, but lacks 'b'"):
        load(config_of(copy))
    (copy / "val" / "c").rename(copy / "val" / "b")
    (copy / "val" / "b" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"val/b/notes\.txt must be an image, \.jpeg"):
        load(config_of(copy))
    shutil.rmtree(copy / "val" / "b")
    (copy / "val" / "b").mkdir()
    with pytest.raises(ValueError, match="val/b must have images, got none"):
        load(config_of(copy))


def test_missing_folder_names_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMO_TRANSFER_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{tmp_path}/imagenet/train; --data\.path"):
        load(config_of(Path(""), path=""))


def test_missing_pillow_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="pip install pillow"):
        load(config_of(folder))


def test_damaged_image_is_named(copy: Path) -> None:
    """Its ends are right: what is wrong inside shows when it is decoded."""
    broken = copy / "val" / "a" / "0.png"
    content = broken.read_bytes()
    broken.write_bytes(content[:41] + bytes(len(content) - 53) + content[-12:])
    data = load(config_of(copy))
    try:
        with pytest.raises(ValueError, match=rf"image {broken} must be a whole JPEG or PNG"):
            data.val_rows(slice(0, NUM_VAL))
    finally:
        data.close()


@pytest.mark.parametrize("name", ["val/a/1.JPEG", "val/a/0.png", "train/b/8.png"])
@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: b"", "it is empty"),
        (lambda content: b"<html>" * 99, "it begins with b'<htm'"),
        (lambda content: content[:200], "it is truncated"),
        (lambda content: content[:-1], "it is truncated"),
    ],
    ids=["empty", "page", "truncated", "last byte"],
)
def test_ends_of_images_are_looked_at_before_training(
    copy: Path, name: str, harm: Any, message: str
) -> None:
    (copy / name).write_bytes(harm((copy / name).read_bytes()))
    with pytest.raises(ValueError, match=rf"image {copy / name} must be a whole.*{message}"):
        load(config_of(copy))


@pytest.mark.parametrize("size", [1, 10_000])
@pytest.mark.parametrize("name", ["val/a/1.JPEG", "val/a/0.png"])
def test_what_follows_the_end_of_an_image_does_not_matter(copy: Path, name: str, size: int) -> None:
    with (copy / name).open("ab") as file:
        file.write(bytes(size))
    loaded = load(config_of(copy))
    try:
        assert loaded.val_rows(slice(0, NUM_VAL)).x.isfinite().all()
    finally:
        loaded.close()


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_image(copy: Path) -> None:
    """As cameras write them: a small JPEG in the head of a large one."""
    path = copy / "val" / "a" / "1.JPEG"
    paint(path, 1, (600, 500))
    content = path.read_bytes()
    thumbnail = b"\xff\xda" + b"small" + b"\xff\xd9"
    head = b"\xff\xe1" + (2 + len(thumbnail)).to_bytes(2, "big") + thumbnail
    content = content[:2] + head + content[2:]
    assert len(content) > 3 * 4096
    path.write_bytes(content)
    load(config_of(copy))
    path.write_bytes(content[:-4200])
    scan.cache_clear()
    with pytest.raises(ValueError, match="it is truncated"):
        load(config_of(copy))


def test_images_are_looked_at_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []
    real = whole._problem
    monkeypatch.setattr(whole, "_problem", lambda path: (looked.append(path), real(path))[1])
    for _ in range(2):
        load(config_of(copy))
    assert len(looked) == NUM_TRAIN + NUM_VAL
    (copy / "val" / "a" / "0.png").rename(copy / "val" / "a" / "x.png")
    scan.cache_clear()
    load(config_of(copy))
    assert len(looked) == 2 * (NUM_TRAIN + NUM_VAL), "other files, another look"


def test_more_validation_images_than_there_are(data: ImageFolders, folder: Path) -> None:
    loaded = load(config_of(folder, val_examples=7))
    assert loaded.num_val == NUM_VAL and data.notes == ()
    assert loaded.notes == ("data.val_examples is 7, but there are only 6: all of them are used",)
