"""Reading beside writers and mergers: caching, leftovers of killed writers, merging."""

import hashlib
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from sweeps.study import Study
from sweeps.table import RunTable, StoredRun, encode_line
from tests.helpers import contents, stored, tiny_experiment

CURVE = np.arange(3, dtype=np.float32)


@pytest.fixture
def table(tmp_path: Path) -> RunTable:
    return RunTable(tmp_path)


def jsonl(table: RunTable) -> list[str]:
    return sorted(p.name for p in table.folder.rglob("*.jsonl"))


def put(table: RunTable, name: str, *runs: StoredRun, curves: tuple[str, ...] = ()) -> Path:
    """Publish under a chosen name."""
    return table._publish(name, list(runs), {c: CURVE + len(name) for c in curves})


# --- reading ---------------------------------------------------------------------------------


def test_second_read_opens_new_files_only(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(path.name), real(path))[1])
    first = [table.publish([stored(f"a{i}")]).name for i in range(5)]
    table.read()
    assert sorted(opened) == sorted(first)
    opened.clear()
    table.read()
    assert opened == []
    new = table.publish([stored("b")]).name
    assert len(table.read()) == 6 and opened == [new]


def test_a_thousand_files(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for i in range(1000):
        table.publish([stored(f"{i:04d}", val_loss=float(i))])
    rows = RunTable(table.folder.parent).read()
    assert [r.val_loss for r in rows.values()] == list(range(1000))


def leftover(table: RunTable, name: str, data: bytes) -> Path:
    """Write what a killed writer leaves: a temporary file beside its target."""
    folder = table.folder / hashlib.sha256(name.encode()).hexdigest()[:2]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".tmp-{name}.jsonl"
    path.write_bytes(data)
    return path


def test_leftover_temporaries_are_neither_read_nor_waited_for(
    table: RunTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("sweeps.table.time.sleep", waits.append)
    table.publish([stored("a")])
    leftover(table, "00-host-1-x", encode_line(stored("b")).encode()[:50])
    assert list(table.read()) == ["a"] and table.problems == []
    assert waits == [], "a reader waits for a file that will never come"


def test_temporary_whose_name_points_at_its_own_folder(table: RunTable) -> None:
    """One in 256 temporary names hashes to the folder it lies in; it is no record either."""

    def part(name: str) -> str:
        return hashlib.sha256(name.encode()).hexdigest()[:2]

    name = next(n for n in map(str, range(10_000)) if part(n) == part(f".tmp-{n}"))
    path = leftover(table, name, (encode_line(stored("b")) + "\n").encode())
    assert table.read() == {}, "what was never published is no record"
    path.write_bytes(b"{")
    reader = RunTable(table.folder.parent)
    assert reader.read() == {} and reader.problems == []


def test_clean_takes_old_temporaries_only(table: RunTable) -> None:
    study = Study(table.folder.parent, tiny_experiment())
    table.publish([stored("a")], {"a": CURVE})
    old, new = leftover(table, "1", b"x"), leftover(table, "2", b"x")
    os.utime(old, (1, 1))
    study.clean()
    assert not old.exists() and new.exists()
    study.clean(older_than_s=-1)
    assert not new.exists() and list(table.read()) == ["a"] and list(table.curves()) == ["a"]


# --- merging ---------------------------------------------------------------------------------


def test_merge_keeps_rows_and_curves(table: RunTable) -> None:
    for i in range(10):
        table.publish([stored(f"a{i}", val_loss=float(i))], {f"a{i}": CURVE * i})
    before = contents(table)
    assert table.merge(above=10) == 0 and len(jsonl(table)) == 10
    assert table.merge(above=9) == 10
    assert len(jsonl(table)) == 1 and len(list(table.folder.rglob("*.npz"))) == 1
    assert contents(table) == before == contents(RunTable(table.folder.parent))
    table.publish([stored("b")])
    assert len(table.read()) == 11


def test_merge_keeps_precedence(table: RunTable) -> None:
    put(table, "1", stored("a", val_loss=1.0), stored("f", status="failed"), curves=("a",))
    put(table, "3", stored("a", val_loss=3.0), stored("b", val_loss=3.0), curves=("a", "b"))
    put(table, "5", stored("f", val_loss=5.0), stored("b", val_loss=5.0), curves=("b", "f"))
    table.read()
    before = {k: r.val_loss for k, r in table.read().items()}
    curves = {k: c.tolist() for k, c in table.curves().items()}
    assert before == {"a": 1.0, "b": 3.0, "f": 5.0}
    table.merge(above=0)
    assert {k: r.val_loss for k, r in table.read().items()} == before
    assert {k: c.tolist() for k, c in table.curves().items()} == curves
    put(table, "2", stored("a", val_loss=2.0), stored("b", val_loss=2.0))
    assert table.read()["a"].val_loss == 1.0, "what was first by name stays first"


def test_merge_leaves_damaged_files(table: RunTable) -> None:
    put(table, "1", stored("a"))
    damaged = put(table, "2", stored("b"), stored("c"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    put(table, "3", stored("d"))
    rows, problems = table.read(), table.problems
    kept = damaged.read_bytes()
    assert table.merge(above=0) == 2
    assert damaged.read_bytes() == kept
    assert table.read() == rows and table.problems == problems
    assert list(rows) == ["a", "b", "d"]


def test_merge_keeps_precedence_of_a_damaged_file(table: RunTable) -> None:
    """A readable line of a damaged file was first by name; it must stay so."""
    put(table, "1", stored("a"))
    damaged = put(table, "2", stored("b", val_loss=2.0), stored("c"))
    damaged.write_bytes(damaged.read_bytes()[:-9])
    put(table, "3", stored("b", val_loss=3.0))
    assert table.read()["b"].val_loss == 2.0
    table.merge(above=0)
    assert table.read()["b"].val_loss == 2.0


def test_merge_with_nothing_whole(table: RunTable) -> None:
    damaged = put(table, "1", stored("a"))
    damaged.write_bytes(b"{")
    assert table.merge(above=0) == 0 and damaged.exists()


def test_merge_does_not_delete_curves_it_cannot_read(table: RunTable) -> None:
    put(table, "1", stored("a"), curves=("a",))
    path = put(table, "2", stored("b"), curves=("b",)).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:40])
    table.merge(above=0)
    assert list(table.read()) == ["a", "b"] and "a" in table.curves()
    assert path.exists(), "damaged curves are evidence, like damaged records"


def test_merge_over_and_over(table: RunTable) -> None:
    for i in range(20):
        table.publish([stored(f"a{i:02d}")])
        table.merge(above=1)
    assert len(table.read()) == 20 and len(jsonl(table)) == 1


def test_merge_that_cannot_write_changes_nothing(
    table: RunTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        table.publish([stored(f"a{i}")], {f"a{i}": CURVE})
    before = contents(table)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", full)
        with pytest.raises(OSError):
            table.merge(above=0)
    assert contents(table) == before and len(jsonl(table)) == 3


@pytest.mark.parametrize("what", ["rows", "rows read before", "curves"])
@pytest.mark.parametrize("instant", range(0, 24, 3))
def test_reader_interrupted_by_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instant: int, what: str
) -> None:
    """The driver merges after the reader has listed so many folders."""
    table, reader = RunTable(tmp_path), RunTable(tmp_path)
    wanted = [f"a{i:02d}" for i in range(24)]
    for key in wanted:
        table.publish([stored(key)], {key: CURVE})
    if what == "rows read before":
        assert sorted(reader.read()) == wanted
    real, listed = os.listdir, 0

    def listdir(path: str) -> list[str]:
        nonlocal listed
        listed += 1
        if listed == instant + 1:
            table.merge(above=1)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)
    got = reader.curves() if what == "curves" else reader.read()
    assert listed > instant or instant > 15, "the merge came too late to matter"
    assert sorted(got) == wanted


@pytest.mark.parametrize("what", ["rows", "curves"])
@pytest.mark.parametrize("torn", [1, 2, 7])
def test_listings_that_merges_tore(
    table: RunTable, monkeypatch: pytest.MonkeyPatch, torn: int, what: str
) -> None:
    """Each misses both the old file and the new one, however often, and all of them are equal."""
    reader = RunTable(table.folder.parent)
    for i in range(3):
        table.publish([stored(f"a{i}")], {f"a{i}": CURVE})
    real, listed = reader._list, 0

    def listing() -> list[str]:
        nonlocal listed
        listed += 1
        if listed > torn:
            return real()
        assert table.merge(above=0) > 0
        return []

    monkeypatch.setattr(reader, "_list", listing)
    got = reader.read() if what == "rows" else reader.curves()
    assert sorted(got) == ["a0", "a1", "a2"]


def test_old_listings_and_removed_files(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS shows a listing from before the merge: what it lists is gone, what it lacks is there."""
    for i in range(3):
        table.publish([stored(f"a{i}")], {f"a{i}": CURVE})
    reader = RunTable(table.folder.parent)
    before = reader._list()
    table.merge(above=0)
    monkeypatch.setattr(reader, "_list", lambda: before)
    monkeypatch.setattr("sweeps.table.time.sleep", lambda seconds: pytest.fail("it waits"))
    assert sorted(reader.read()) == sorted(reader.curves()) == ["a0", "a1", "a2"]


def test_a_writer_faster_than_the_reader(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """No two listings are equal; what was there before is read all the same."""
    for i in range(3):
        table.publish([stored(f"a{i}")])
    reader = RunTable(table.folder.parent)
    real = reader._list

    def listing() -> list[str]:
        table.publish([stored(f"b{len(jsonl(table))}")])
        return real()

    monkeypatch.setattr(reader, "_list", listing)
    assert {"a0", "a1", "a2"} <= reader.read().keys()


@pytest.mark.parametrize("instant", [0, 1, 2, 3])
def test_a_merge_that_is_killed(
    table: RunTable, monkeypatch: pytest.MonkeyPatch, instant: int
) -> None:
    """Before it has named its file, or before it has removed so many of the old ones."""
    for i in range(3):
        table.publish([stored(f"a{i}")], {f"a{i}": CURVE})
    before, removed, real = contents(table), 0, Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        nonlocal removed
        if path.name[0] != ".":
            removed += 1
            if removed > instant:
                raise KeyboardInterrupt
        real(path, missing_ok)

    with monkeypatch.context() as patch:
        if instant == 0:
            patch.setattr("sweeps.table.replace_file", lambda *given: 1 / 0)
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
            table.merge(above=0)
    assert contents(RunTable(table.folder.parent)) == before
    table.merge(above=0)
    assert contents(RunTable(table.folder.parent)) == before and len(jsonl(table)) == 1


def test_reader_beside_a_driver_that_merges(table: RunTable) -> None:
    """A reader in a thread of its own reads all the time and never misses a run."""
    published: list[str] = []
    missed: list[str] = []
    finished = threading.Event()

    def read() -> None:
        cached = RunTable(table.folder.parent)
        while not finished.is_set():
            for reader in (cached, RunTable(table.folder.parent)):
                before = list(published)
                missed.extend(set(before) - reader.read().keys())
                missed.extend(reader.problems)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for i in range(60):
            table.publish([stored(f"a{i:02d}")])
            published.append(f"a{i:02d}")
            if i % 6 == 5:
                table.merge(above=3)
    finally:
        finished.set()
        thread.join()
    assert missed == []
