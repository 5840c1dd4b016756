"""CIFAR-10's Python archive as its authors wrote it, in Python 2, and pickles that would run code.

The official files are pickles of protocol 2 by cPickle of Python 2: its texts are the opcodes
SHORT_BINSTRING and BINSTRING, which Python 3 no longer writes, so they are written here by hand.
"""

import io
import pickle
import pickletools
import re
import struct
import tarfile
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from transfer import data
from transfer.config import Cifar10Config
from transfer.data import cifar10
from transfer.data.python_batch import read_batch

NAMES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
LABELS = ("training batch 1 of 5", "training batch 2 of 5", "training batch 3 of 5",
          "training batch 4 of 5", "training batch 5 of 5", "testing batch 1 of 1")  # fmt: skip
_APPENDED_AT_ONCE = 1000
Bytes = NDArray[np.uint8]


# --- a pickle as Python 2 writes it ------------------------------------------------------------


class Writer:
    """Puts opcodes together; everything that cPickle remembers is remembered, from 1 on."""

    def __init__(self) -> None:
        self.num_remembered = 0

    def put(self) -> bytes:
        self.num_remembered += 1
        n = self.num_remembered
        return b"q" + bytes([n]) if n < 256 else b"r" + struct.pack("<I", n)

    def text(self, text: bytes) -> bytes:
        size = len(text)
        head = b"U" + bytes([size]) if size < 256 else b"T" + struct.pack("<i", size)
        return head + text + self.put()

    def number(self, value: int) -> bytes:
        if 0 <= value < 2**16:
            return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)
        return b"J" + struct.pack("<i", value)

    def a_list(self, items: Iterable[bytes]) -> bytes:
        made, held = b"]" + self.put(), list(items)
        for start in range(0, len(held), _APPENDED_AT_ONCE):
            made += b"(" + b"".join(held[start : start + _APPENDED_AT_ONCE]) + b"e"
        return made

    def name(self, module: str, name: str) -> bytes:
        return f"c{module}\n{name}\n".encode() + self.put()

    def array(self, array: Bytes) -> bytes:
        """What ndarray.__reduce__ and dtype.__reduce__ of numpy 1.x gave in Python 2."""
        made = self.name("numpy.core.multiarray", "_reconstruct") + self.name("numpy", "ndarray")
        made += self.number(0) + b"\x85" + self.put() + self.text(b"b") + b"\x87" + self.put()
        made += b"R" + self.put() + b"(" + self.number(1)
        made += b"".join(map(self.number, array.shape)) + b"\x86" + self.put()
        made += self.name("numpy", "dtype") + self.text(b"u1") + self.number(0) + self.number(1)
        made += b"\x87" + self.put() + b"R" + self.put()
        made += b"(" + self.number(3) + self.text(b"|") + b"NNN" + 2 * self.number(-1)
        made += self.number(0) + b"t" + self.put() + b"b\x89"
        return made + self.text(array.tobytes()) + b"t" + self.put() + b"b"


def batch(label: str, images: Bytes, classes: list[int]) -> bytes:
    """Return the bytes of one official file."""
    write = Writer()
    files = [f"leptodactylus_pentadactylus_s_{k:06d}.png".encode() for k in range(len(classes))]
    made = b"\x80\x02}" + write.put() + b"("
    made += write.text(b"batch_label") + write.text(label.encode())
    made += write.text(b"labels") + write.a_list(map(write.number, classes))
    made += write.text(b"data") + write.array(images)
    made += write.text(b"filenames") + write.a_list([write.text(file) for file in files])
    return made + b"u."


def invented(name: str, count: int) -> tuple[Bytes, list[int]]:
    random = np.random.RandomState(NAMES.index(name))
    images = random.randint(0, 256, (count, 3072)).astype(np.uint8)
    return images, [int(k) for k in random.randint(0, 10, count)]


def official_archive(path: Path, count: int) -> Path:
    """Write cifar-10-python.tar.gz with all that is in it, meta data and page included."""
    meta = b"(dp1\nS'num_cases_per_batch'\np2\nI10000\nsS'num_vis'\np3\nI3072\ns."
    files = {"batches.meta": meta, "readme.html": b'<meta HTTP-EQUIV="REFRESH">'}
    for name, label in zip(NAMES, LABELS, strict=True):
        files[name] = batch(label, *invented(name, count))
    with tarfile.open(path, "w:gz") as archive:
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in sorted(files):
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return path


# --- reading it --------------------------------------------------------------------------------


def test_the_pickle_is_one_of_python_2() -> None:
    """Python 3's own reader, which trusts it, finds what was put in."""
    images, classes = invented("data_batch_1", 1500)
    content = batch(LABELS[0], images, classes)
    used = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert {"PROTO", "SHORT_BINSTRING", "BINSTRING", "GLOBAL", "REDUCE", "BUILD"} <= used
    assert not any("UNICODE" in name or "FRAME" in name for name in used)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy has moved what the pickle names
        trusted = pickle.loads(content, encoding="bytes")
    assert list(trusted) == [b"batch_label", b"labels", b"data", b"filenames"]
    assert trusted[b"labels"] == classes and np.array_equal(trusted[b"data"], images)
    assert trusted[b"batch_label"] == b"training batch 1 of 5"
    found = read_batch(content, "data_batch_1")
    assert np.array_equal(found[0], images) and found[1].tolist() == classes


def test_the_official_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "_PER_FILE", 30)
    cifar10.load.cache_clear()
    path = official_archive(tmp_path / "cifar-10-python.tar.gz", 30)
    loaded = data.load(Cifar10Config(path=str(path)))
    assert (loaded.num_train, loaded.num_val) == (150, 30)
    val = loaded.val_rows(slice(0, 30))
    images, classes = invented("test_batch", 30)
    mean, std = np.array([0.4914, 0.4822, 0.4465]), np.array([0.2470, 0.2435, 0.2616])
    pixels = images.reshape(-1, 3, 32, 32) / 255
    wanted = (pixels - mean[:, None, None]) / std[:, None, None]
    assert np.allclose(val.x.numpy(), wanted, atol=1e-6) and val.y.tolist() == classes


# --- pickles that would run something ----------------------------------------------------------

RUN = b"S'touch executed'\n"
EVIL = {
    "os.system": b"cos\nsystem\n(" + RUN + b"tR.",
    "posix.system": b"cposix\nsystem\n(" + RUN + b"tR.",
    "__builtin__.eval": b'c__builtin__\neval\n(S\'open("executed", "w")\'\ntR.',
    "__builtin__.exec": b"\x80\x02c__builtin__\nexec\nU\x01a\x85R.",
    "subprocess.Popen": b"(" + RUN + b"isubprocess\nPopen\n.",  # INST finds and calls at once
    "os.popen": b"(cos\npopen\n" + RUN + b"o.",
    "numpy.load": b"\x80\x02cnumpy\nload\nU\x01a\x85R.",
    "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
    "numpy.core.multiarray.scalar": b"\x80\x02cnumpy.core.multiarray\nscalar\n)R.",
    "__builtin__.getattr": b"\x80\x02}(U\x04datac__builtin__\ngetattr\nU\x06labels]u.",
}


@pytest.mark.parametrize("name", EVIL)
def test_what_would_run_code_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(EVIL[name])
    with pytest.raises(ValueError, match="no batch of CIFAR-10") as caught:
        data.load(Cifar10Config(path=str(tmp_path)))
    told = str(caught.value)
    assert f"it wants to use '{name}'," in told and "nothing of it was run" in told
    assert "\n" not in told and not (tmp_path / "executed").exists()


def test_code_behind_good_data_is_refused_too(tmp_path: Path) -> None:
    """Also where nobody looks: in the names of the files, or after the end of a good batch."""
    good = batch(LABELS[0], *invented("data_batch_1", 3))
    assert good.endswith(b"eu.")
    evil = good[:-3] + b"cos\nsystem\n" + b"eu."
    with pytest.raises(ValueError, match=r"it wants to use 'os.system'"):
        read_batch(evil, "data_batch_1")
    images, _ = read_batch(good + EVIL["os.system"], "data_batch_1")
    assert len(images) == 3, "what follows the end is not looked at"


def without(key: bytes) -> bytes:
    return batch(LABELS[0], *invented("data_batch_1", 3)).replace(key, key[:-1] + b"X")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Ran out of input"),
        (without(b"labels"), "it has no labels"),
        (without(b"data"), "it has no data"),
        (without(b"u1")[:-1], "truncated|ran out|Ran out"),
        (without(b"u1"), "its data are no array of bytes"),
        (batch("", *invented("data_batch_1", 3))[:5000], "truncated"),
        (b"\x80\x02]U\x04dataa.", "it is no table of data and labels"),
        (b"\x80\x02}(U\x06labels](K\x01eU\x04dataK\x01u.", "its data are no array"),
        (pickle.dumps({b"labels": [1.5], b"data": 0}, 3), "its labels are no whole numbers"),
        (pickle.dumps({b"labels": [300], b"data": 0}, 3), "its labels are no whole numbers"),
        (b"\x80\x02}(U\x04dataP1\nu.", "persistent|persid"),
        (b"\x80\x02\x82\x01.", "extension code"),
    ],
)
def test_damaged_pickles(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match="^data_batch_1 is no batch of CIFAR-10: ") as caught:
        read_batch(content, "data_batch_1")
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_beyond_the_file_takes_no_memory() -> None:
    """4 GB are asked for, and there are 3 bytes."""
    content = b"\x80\x03}C" + b"\x03abc" + b"B\xff\xff\xff\xffabc"
    with pytest.raises(ValueError, match="truncated"):
        read_batch(content, "data_batch_1")
