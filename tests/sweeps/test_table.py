"""The run table: what is published is read back, and nothing else ever is."""

import errno
import hashlib
import os
import random
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sweeps.table import RunTable, decode_line, encode_line
from tests.helpers import content, fabricate, stored, tiny_experiment

CURVE = np.array([2.5, 2.0, 1.0 / 3], dtype=np.float32)


@pytest.fixture
def table(tmp_path: Path) -> RunTable:
    return RunTable(tmp_path)


def name_file(table: RunTable, path: Path, name: str) -> Path:
    """Rename a published file as if its writer had chosen that name."""
    target = table.folder / hashlib.sha256(name.encode()).hexdigest()[:2] / f"{name}.jsonl"
    target.parent.mkdir(exist_ok=True)
    return path.rename(target)


def files(table: RunTable) -> list[str]:
    return sorted(p.name for p in table.folder.rglob("*") if p.is_file())


# --- round trip ------------------------------------------------------------------------------


def test_empty_table(table: RunTable) -> None:
    assert table.read() == {} and table.curves() == {} and table.problems == []
    assert not table.folder.exists(), "reading must not create anything"


def test_round_trip(table: RunTable) -> None:
    runs = [
        stored("b", val_loss=0.1 + 0.2, config={"a": [1, 2.0], "ü": None}),
        stored("a", status="diverged", val_loss=None, stopped_step=7),
        stored(
            "c", status="failed", error='line one\nline "two"\u2028\x85 ü \ud800', val_loss=5e-324
        ),
    ]
    path = table.publish(runs, {"b": CURVE})
    assert path.parent.parent == table.folder
    for reader in (table, RunTable(table.folder.parent)):
        rows = reader.read()
        assert list(rows) == ["a", "b", "c"], "sorted by id"
        assert sorted(rows.values(), key=lambda r: r.run_id) == sorted(runs, key=lambda r: r.run_id)
        assert reader.problems == []
        curves = reader.curves()
        assert list(curves) == ["b"] and curves["b"].dtype == np.float32
        assert curves["b"].tobytes() == CURVE.tobytes()


def test_real_configuration_keeps_its_id(table: RunTable) -> None:
    from sweeps.plan import run_config
    from transfer.config import run_config_from_dict

    experiment = tiny_experiment()
    optimizer = experiment.arms["scion"].optimizer
    config = run_config(experiment, "scion", optimizer, size=4, seed=1)
    table.publish([fabricate(config, 1.0)])
    (row,) = RunTable(table.folder.parent).read().values()
    assert run_config_from_dict(row.config) == config
    assert run_config_from_dict(row.config).run_id == row.run_id == config.run_id


def test_what_is_not_a_number_is_refused(table: RunTable) -> None:
    with pytest.raises(ValueError):
        table.publish([stored("a", val_loss=float("nan"))])
    assert files(table) == []


# --- damage ----------------------------------------------------------------------------------


def test_every_flipped_bit_is_caught() -> None:
    run = stored("a1", val_loss=1e-05, wall_s=0.5)
    line = encode_line(run).encode()
    assert decode_line(line.decode()) == run
    unnoticed = 0
    for position in range(len(line)):
        for bit in range(8):
            flipped = bytearray(line)
            flipped[position] ^= 1 << bit
            try:
                got = decode_line(bytes(flipped).decode("utf-8"))
            except ValueError:
                continue
            unnoticed += 1
            assert got == run, f"bit {bit} of byte {position} gave another record"
    assert unnoticed <= 2, "only the case of an exponent's letter may go unnoticed"


def test_every_flipped_bit_in_a_file_leaves_the_other_lines(
    table: RunTable, tmp_path: Path
) -> None:
    """Through the reader, where a flip may also make or remove a line break."""
    runs = {r.run_id: r for r in (stored("aa"), stored("bb"), stored("cc"))}
    path = table.publish(list(runs.values()))
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    end = whole.index(b"\n", start) + 1
    for position in range(start, end):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        reader = RunTable(tmp_path)
        rows = reader.read()
        assert all(runs[key] == row for key, row in rows.items())
        assert "aa" in rows
        if rows != runs:
            assert reader.problems, f"byte {position}: a run is gone and nobody says so"


@pytest.mark.parametrize("keep", [1, 10, 100, -30, -2])
def test_truncated_line(keep: int) -> None:
    line = encode_line(stored("a"))
    with pytest.raises(ValueError):
        decode_line(line[:keep])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{}",
        "[]",
        "null",
        "3",
        '"text"',
        "NaN",
        "[" * 100_000,
        '{"checksum":"44136fa355b3678a"}',
        "9" * 5000,
        '{"checksum":1,"val_loss":NaN}',
        "\x00\x00",
    ],
)
def test_garbage_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError):
        decode_line(line)


def test_damage_is_reported_and_kept(table: RunTable) -> None:
    good = table.publish([stored("a"), stored("b")])
    torn = table.publish([stored("c"), stored("d")])
    torn.write_bytes(torn.read_bytes()[:-20])
    empty = table.publish([stored("e")])
    empty.write_bytes(b"")
    garbage = table.publish([stored("f")])
    garbage.write_bytes(bytes(random.Random(0).randrange(256) for _ in range(500)))
    reader = RunTable(table.folder.parent)
    assert list(reader.read()) == ["a", "b", "c"]
    for path in (torn, empty, garbage):
        assert any(path.name in problem for problem in reader.problems), path.name
        assert path.exists()
    assert any("line 2" in p and torn.name in p for p in reader.problems)
    assert not any(good.name in p for p in reader.problems)
    assert list(reader.read()) == ["a", "b", "c"] and reader.problems, "said at every read"


@pytest.mark.parametrize("keep", [0, 1, 30, -1, -30])
def test_damaged_curves_do_not_stop_the_others(table: RunTable, keep: int) -> None:
    path = table.publish([stored("a")], {"a": CURVE}).with_suffix(".npz")
    path.write_bytes(path.read_bytes()[:keep])
    table.publish([stored("b")], {"b": CURVE})
    assert "b" in table.curves()


def test_flipped_bits_in_curves_never_give_others(table: RunTable) -> None:
    path = table.publish([stored("a")], {"a": CURVE}).with_suffix(".npz")
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        got = table.curves().get("a", CURVE)
        assert got.tobytes() == CURVE.tobytes(), f"byte {position}"


# --- precedence ------------------------------------------------------------------------------


def test_first_by_name_counts_whatever_came_first(table: RunTable) -> None:
    late = table.publish([stored("a", val_loss=1.0)])
    early = table.publish([stored("a", val_loss=2.0)])
    name_file(table, late, "2")
    name_file(table, early, "1")
    assert table.read()["a"].val_loss == 2.0
    (problem,) = table.problems
    assert "a" in problem and "two different records" in problem


@pytest.mark.parametrize(
    "change", [{"wall_s": 9.0}, {"host": "x"}, {"finished": "x"}, {"versions": {"torch": "9"}}]
)
def test_circumstances_are_no_contradiction(table: RunTable, change: dict[str, object]) -> None:
    table.publish([stored("a")])
    table.publish([stored("a", **change)])
    assert content(table.read()["a"]) == content(stored("a")) and table.problems == []


@pytest.mark.parametrize(
    "change", [{"val_loss": 1.25}, {"stopped_step": 2}, {"status": "diverged"}]
)
def test_other_differences_are(table: RunTable, change: dict[str, object]) -> None:
    table.publish([stored("a")])
    table.publish([stored("a", **change)])
    table.read()
    assert len(table.problems) == 1


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
def test_failed_gives_way(table: RunTable, order: tuple[str, str]) -> None:
    failed = table.publish([stored("a", status="failed", val_loss=None, error="x")])
    done = table.publish([stored("a")])
    name_file(table, failed, order[0])
    name_file(table, done, order[1])
    assert table.read()["a"].status == "done" and table.problems == []


def test_failed_twice_tells_the_last_reason(table: RunTable) -> None:
    for error in ("first", "second"):
        table.publish([stored("a", status="failed", val_loss=None, error=error)])
    assert table.read()["a"].error == "second" and table.problems == []


# --- writing ---------------------------------------------------------------------------------


def test_never_overwrites(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writers that choose the same name: the second is told, the first's runs stay."""
    monkeypatch.setattr("sweeps.table.time.time_ns", lambda: 1)
    monkeypatch.setattr("sweeps.table.uuid.uuid4", lambda: type("U", (), {"hex": "0" * 32}))
    path = table.publish([stored("a")], {"a": CURVE})
    before = {p: p.read_bytes() for p in (path, path.with_suffix(".npz"))}
    for curves in ({}, {"b": CURVE}):
        with pytest.raises(FileExistsError):
            table.publish([stored("b")], curves)
    assert {p: p.read_bytes() for p in before} == before
    assert len(files(table)) == 2


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("call", ["fsync", "link"])
def test_full_disk_leaves_nothing(
    table: RunTable, monkeypatch: pytest.MonkeyPatch, call: str, failing: int
) -> None:
    """The first file that is written holds the curves, the second the records."""
    table.publish([stored("old")])
    before = files(table)
    real, count = getattr(os, call), 0

    def full(*args: int) -> None:
        nonlocal count
        if call == "link" or not stat.S_ISDIR(os.fstat(args[0]).st_mode):
            count += 1
            if count == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OSError, match="No space left"):
            table.publish([stored("a")], {"a": CURVE})
    assert files(table) == before
    assert list(table.read()) == ["old"] and table.problems == []
    table.publish([stored("a")], {"a": CURVE})
    assert list(table.read()) == ["a", "old"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.ENOSYS])
def test_file_system_without_links(
    table: RunTable, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", link)
    path = table.publish([stored("a")], {"a": CURVE})
    assert files(table) == sorted([path.name, path.with_suffix(".npz").name])
    assert list(table.read()) == ["a"] and list(table.curves()) == ["a"]


def test_repeated_link_is_ours(table: RunTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS: the link was made, its answer got lost, and the repeated request finds it there."""
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    path = table.publish([stored("a")])
    assert files(table) == [path.name] and list(table.read()) == ["a"]


def test_two_processes_at_once(table: RunTable) -> None:
    """Each publishes its own runs and the same shared ones, as fast as it can."""
    program = """
import sys, time
from pathlib import Path
from sweeps.table import RunTable
from tests.helpers import stored
table, me = RunTable(Path(sys.argv[1])), sys.argv[2]
while not (Path(sys.argv[1]) / "go").exists():
    time.sleep(0.001)
for i in range(60):
    table.publish([stored(f"{me}{i}"), stored(f"both{i}", host=me)])
"""
    root = Path(__file__).resolve().parents[2]
    workers = [
        subprocess.Popen([sys.executable, "-c", program, table.folder.parent, me], cwd=root)
        for me in "xy"
    ]
    time.sleep(0.5)
    (table.folder.parent / "go").touch()
    while any(worker.poll() is None for worker in workers):
        table.read()
        assert table.problems == []
    assert [worker.returncode for worker in workers] == [0, 0]
    wanted = {f"{kind}{i}" for kind in ("x", "y", "both") for i in range(60)}
    assert table.read().keys() == wanted and table.problems == []
    assert len(files(table)) == 120
