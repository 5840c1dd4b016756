"""Which databases may keep Optuna's trials; SQLite does; what is said never holds a password."""

import sqlite3
import sys
from pathlib import Path

import pytest

from sweeps import mounts
from sweeps.database import VARIABLE, Database, requested_database
from sweeps.errors import DatabaseError
from sweeps.progress import Reporter
from sweeps.study import Study
from tests.helpers import FakeRunner, fabricate, tiny_experiment
from tests.tuning import Cluster, Interrupted, Table, tune

SECRET = "s3cret"


@pytest.fixture(autouse=True)
def _local(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests may themselves lie on a network file system, and psycopg be missing."""
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "no-such-list")
    monkeypatch.setitem(sys.modules, "psycopg", sys)


def sqlite(tmp_path: Path) -> Database:
    return Database(f"sqlite:///{tmp_path / 'tri{al}s.db'}")


# --- SQLite -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Table, Cluster])
def test_the_trials_are_those_of_the_journal(tmp_path: Path, kind: type[Table]) -> None:
    table = kind()
    there, notes = tune(tmp_path / "there", table, database=sqlite(tmp_path))
    assert there == tune(tmp_path / "here", kind())[0] and notes.notes == []
    assert {p.name for p in (tmp_path / "there").iterdir()} <= {"storage-id", "scion.asked.jsonl"}
    again, notes = tune(tmp_path / "there", table, database=sqlite(tmp_path))
    assert again == there and notes.notes == []


def test_interrupted_and_moved_to_a_journal_and_back(tmp_path: Path) -> None:
    table: Table = Cluster(calls=5)
    for database in (sqlite(tmp_path), None, sqlite(tmp_path)):
        with pytest.raises(Interrupted):
            tune(tmp_path / "a", table, database=database)
        table = table.killed()
        table.left = 6
    table.left = 10**9
    tuned, notes = tune(tmp_path / "a", table, database=sqlite(tmp_path))
    assert notes.notes == [] and tune(tmp_path / "a", table, replay=True)[0] == tuned


def test_what_contradicts_the_table_is_built_again(tmp_path: Path) -> None:
    tuned, _ = tune(tmp_path / "a", Table(), database=sqlite(tmp_path))
    again, notes = tune(tmp_path / "a", Table(), database=sqlite(tmp_path))
    assert again == tuned and "rebuilt from the run table" in notes.notes[0]
    assert len(notes.notes) == 1


@pytest.mark.parametrize("text", ["", "../../x\n"])
def test_a_damaged_mark_of_the_folder_is_made_anew(tmp_path: Path, text: str) -> None:
    table = Table()
    tuned, _ = tune(tmp_path / "a", table, database=sqlite(tmp_path))
    (tmp_path / "a" / "storage-id").write_text(text)
    assert tune(tmp_path / "a", table, database=sqlite(tmp_path))[0] == tuned
    assert len((tmp_path / "a" / "storage-id").read_text()) == 9


def test_a_file_that_is_no_database_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "trials.db"
    path.write_bytes(b"my thesis" * 1000)
    with pytest.raises(DatabaseError, match="trials.db does not serve: file is not a database"):
        tune(tmp_path / "a", Table(), database=Database(f"sqlite:///{path}"))
    assert path.read_bytes() == b"my thesis" * 1000


def test_tables_of_another_optuna_are_left_alone(tmp_path: Path) -> None:
    database = sqlite(tmp_path)
    database.storage()
    connection = sqlite3.connect(tmp_path / "tri{al}s.db")
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = 'v99'")
    connection.close()
    with pytest.raises(DatabaseError, match="no longer compatible"):
        tune(tmp_path / "a", Table(), database=database)


def test_a_study_takes_what_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path / 'trials.db'}")
    study = Study.create(tmp_path / "a", tiny_experiment())
    tuned = study.tune(FakeRunner(lambda config: fabricate(config, 1.0)), Reporter())
    assert (tmp_path / "trials.db").exists()
    assert [p.name for p in (tmp_path / "a" / "tuning").iterdir()] == ["storage-id"]
    monkeypatch.setenv(VARIABLE, "nonsense")
    assert study.tune(None, Reporter()) == tuned, "readers do not look at it"
    with pytest.raises(ValueError, match="no URL"):
        study.tune(FakeRunner(lambda config: fabricate(config, 1.0)), Reporter())


# --- network file systems ---------------------------------------------------------------------

MOUNTS = r"""/dev/sda1 / ext4 rw 0 0
filer:/home {base} nfs4 rw 0 0
/dev/sdb1 {base}/scratch\040space xfs rw 0 0
tmpfs {base}/twice tmpfs rw 0 0
gpfs0 {base}/twice gpfs rw 0 0
me@host: {base}/far fuse.sshfs rw 0 0
"""


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("", "nfs4"),
        ("deep/below", "nfs4"),
        ("scratch space", None),
        ("scratch spaces", "nfs4"),
        ("twice", "gpfs"),
        ("far", "fuse.sshfs"),
        ("link", "fuse.sshfs"),
    ],
)
def test_sqlite_is_refused_on_network_file_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, kind: str | None
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS.format(base=tmp_path))
    monkeypatch.setattr(mounts, "_MOUNTS", tmp_path / "mounts")
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far")
    folder = tmp_path / name
    folder.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{folder / 'trials.db'}"
    if kind is None:
        assert Database(url).shown.startswith("sqlite:///")
        return
    with pytest.raises(ValueError, match=rf"network file system \({kind}\)"):
        Database(url)


def test_where_nothing_is_known_of_mounts_nothing_is_refused(tmp_path: Path) -> None:
    assert mounts.network_file_system(tmp_path) is None


# --- URLs -------------------------------------------------------------------------------------


def test_without_the_variable_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert requested_database() is None
    monkeypatch.setenv(VARIABLE, "")
    assert requested_database() is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"mysql://u:{SECRET}@h/d", "names mysql; allowed: postgresql"),
        (f"postgresql+psycopg2://u:{SECRET}@h/d", "names postgresql\\+psycopg2; allowed"),
        (f"{SECRET} and no URL", "is no URL of a database; allowed"),
        (f"postgresql://u:{SECRET}@h:port/d", "is no URL of a database; allowed"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file:x.db?uri=true", "names no file"),
        ("sqlite:////no/such/folder/x.db", "there is no folder /no/such/folder"),
    ],
)
def test_other_databases_are_refused_in_a_line(url: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Database(url)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)


def test_what_is_shown_has_no_secret() -> None:
    for url in (
        f"postgresql://user:{SECRET}@host/db",
        f"postgresql+psycopg://user:{SECRET}@host/db?sslmode=require&password={SECRET}",
    ):
        assert Database(url).shown == "postgresql+psycopg://user:***@host/db"


def test_without_psycopg_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ValueError, match=r"pip install 'lmo-transfer\[postgres\]'"):
        Database("postgresql://u@h/d")
