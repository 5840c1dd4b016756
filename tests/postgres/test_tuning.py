"""Optuna's trials on a real PostgreSQL server: the same tuning, whatever happens to the server."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeps.database import Database
from sweeps.errors import DatabaseError
from sweeps.table import StoredRun
from tests.helpers import fabricate, tiny_dict, toml_of
from tests.postgres.conftest import PASSWORD, Server
from tests.tuning import Cluster, Interrupted, Table, bowl, tune
from transfer.config import RunConfig

pytestmark = pytest.mark.postgres


def told(server: Server, statement: str, **values: Any) -> list[Any]:
    """Return what the server says to a statement of SQL."""
    import psycopg

    with psycopg.connect(server.url(), autocommit=True) as connection:
        cursor = connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def names(server: Server, folder: Path) -> list[str]:
    """Return the names of one folder's studies."""
    mark = (folder / "storage-id").read_text().strip()
    rows = told(server, "SELECT study_name FROM studies WHERE study_name LIKE %(n)s", n=f"%{mark}")
    return [row[0] for row in rows]


def other(config: RunConfig) -> StoredRun:
    """Another landscape than `bowl`."""
    return fabricate(config, 3.0 - (bowl(config).val_loss or 0.0))


@pytest.mark.parametrize("kind", [Table, Cluster])
def test_the_trials_are_those_of_the_journal(
    tmp_path: Path, server: Server, kind: Callable[[], Table]
) -> None:
    database = Database(server.url())
    there, notes = tune(tmp_path / "there", kind(), database=database)
    assert there == tune(tmp_path / "here", kind())[0] and notes.notes == []
    assert not list((tmp_path / "there").glob("*.journal*"))
    (name,) = names(server, tmp_path / "there")
    assert name.startswith("lmo-transfer/tiny/scion/"), name
    statement = "SELECT count(*) FROM trials JOIN studies USING (study_id) WHERE study_name = %(n)s"
    assert told(server, statement, n=name) == [(16,)]


def test_two_folders_of_one_experiment_do_not_mix(tmp_path: Path, server: Server) -> None:
    database, tables = Database(server.url()), (Table(), Table(other))
    results = [tune(tmp_path / n, t, database=database) for n, t in zip("ab", tables, strict=True)]
    for name, table, (tuned, notes) in zip("ab", tables, results, strict=True):
        assert notes.notes == [] and len(names(server, tmp_path / name)) == 1
        again, notes = tune(tmp_path / name, table, database=database)
        assert again == tuned and notes.notes == []
    assert names(server, tmp_path / "a") != names(server, tmp_path / "b")


@pytest.mark.parametrize("call", [0, 2])
def test_interrupted_at_a_batch(tmp_path: Path, server: Server, call: int) -> None:
    database, table = Database(server.url()), Table(calls=call)
    with pytest.raises(Interrupted):
        tune(tmp_path / "a", table, database=database)
    table.left = 10**9
    tuned, notes = tune(tmp_path / "a", table, database=database)
    assert tuned == tune(tmp_path / "b", Table())[0] and notes.notes == []


def test_interrupted_while_runs_are_under_way(tmp_path: Path, server: Server) -> None:
    database, cluster = Database(server.url()), Cluster(calls=9)
    with pytest.raises(Interrupted):
        tune(tmp_path, cluster, database=database)
    after = cluster.killed()
    tuned, notes = tune(tmp_path, after, database=database)
    assert notes.notes == [] and tune(tmp_path, after, replay=True)[0] == tuned


def test_what_contradicts_the_table_is_built_again(tmp_path: Path, server: Server) -> None:
    """Our own study only: that of the other folder stays as it is."""
    database, beside = Database(server.url()), Table()
    tune(tmp_path / "a", Table(), database=database)
    bystander, _ = tune(tmp_path / "b", beside, database=database)
    got, notes = tune(tmp_path / "a", Table(other), database=database)
    assert got == tune(tmp_path / "c", Table(other))[0]
    assert len(notes.notes) == 1 and "run table" in notes.notes[0]
    assert "lmo:***@127.0.0.1" in notes.notes[0] and "s3cret" not in notes.notes[0]
    again, notes = tune(tmp_path / "b", beside, database=database)
    assert again == bystander and notes.notes == []


DAMAGE = {
    "a parameter gone": "DELETE FROM trial_params WHERE param_name = 'hidden'",
    "another value": "UPDATE trial_values SET value = value + 1",
    "no values": "DELETE FROM trial_values",
    "no plan": "DELETE FROM study_user_attributes",
    "a distribution that is none": "UPDATE trial_params SET distribution_json = '{\"x\": 1'",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_study_is_built_again(tmp_path: Path, server: Server, kind: str) -> None:
    database, table = Database(server.url()), Table()
    tuned, _ = tune(tmp_path, table, database=database)
    told(server, DAMAGE[kind])
    trained = table.trained
    again, notes = tune(tmp_path, table, database=database)
    assert again == tuned and table.trained == trained and len(notes.notes) == 1
    assert tune(tmp_path, table, database=database)[1].notes == []


# --- a server that is not there ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [Table, Cluster])
def test_server_stops_in_the_middle(
    tmp_path: Path, server: Server, kind: Callable[..., Table]
) -> None:
    def make(config: RunConfig) -> StoredRun:
        if table.trained >= 8 and server.runs():
            server.stop()
        return bowl(config)

    database, table = Database(server.url()), kind(make)
    with pytest.raises(DatabaseError, match="does not serve: .*refused") as caught:
        tune(tmp_path / "a", table, database=database)
    message = str(caught.value)
    assert "\n" not in message and PASSWORD not in message and "***@127.0.0.1" in message
    server.start()
    before, after = table.trained, table.killed()
    after.make = bowl
    tuned, notes = tune(tmp_path / "a", after, database=database)
    assert notes.notes == [] and tune(tmp_path / "a", after, replay=True)[0] == tuned
    assert before + after.trained == len({config.run_id for config in tuned.tried}), "twice"
    if kind is Table:
        assert tuned == tune(tmp_path / "b", Table())[0]


def test_a_server_that_never_answers_is_not_waited_for(tmp_path: Path, server: Server) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        url = f"postgresql://lmo:s3cret@127.0.0.1:{deaf.getsockname()[1]}/x"
        started = time.monotonic()
        with pytest.raises(DatabaseError, match="timeout"):
            tune(tmp_path, Table(), database=Database(url))
        assert time.monotonic() - started < 20


# --- the command ------------------------------------------------------------------------------


def command(folder: Path, url: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with this database, as a user would."""
    (folder / "tiny.toml").write_text(toml_of(tiny_dict()), "utf-8")
    environment = {**os.environ, "LMO_TRANSFER_STORAGE": url, "LMO_TRANSFER_DEBUG": ""}
    return subprocess.run(
        [sys.executable, "-m", "lmo_transfer", *words, "--workers", "1"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_password_is_nowhere(tmp_path: Path, server: Server) -> None:
    done = command(tmp_path, server.url(), "tune", "tiny.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    study = tmp_path / "studies" / "tiny"
    assert len(names(server, study / "tuning")) == 1 and not list(study.rglob("*.journal"))
    wrong = command(tmp_path, server.url("other-s3cret"), "resume", "studies/tiny")
    server.stop()
    gone = command(tmp_path, server.url(), "resume", "studies/tiny")
    for failed, words in ((wrong, "password authentication failed"), (gone, "refused")):
        assert failed.returncode == 2 and words in failed.stderr, failed.stderr
        assert failed.stderr.count("\n") == 1, failed.stderr
        assert "go on with" in failed.stderr.lower()
    server.start()
    assert command(tmp_path, server.url(), "resume", "studies/tiny").returncode == 0
    texts = [p.read_bytes() for p in study.rglob("*") if p.is_file()]
    texts += [(run.stdout + run.stderr).encode() for run in (done, wrong, gone)]
    assert len(texts) > 10
    for secret in (PASSWORD, "s3cret", server.url().split(":")[2].split("@")[0]):
        assert not any(secret.encode() in text for text in texts), secret
