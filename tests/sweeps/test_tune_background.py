"""Tuning with results that arrive in any order: replayed exactly, whatever was interrupted."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sweeps.errors import FailedTrialError
from sweeps.table import StoredRun
from sweeps.tune import Tuned
from tests.cases import rest_slow
from tests.helpers import fabricate
from tests.tuning import Cluster, Interrupted, Table, bowl, experiment, tune
from transfer.config import RunConfig

FILE = "scion.asked.jsonl"
LONG = {"tune.trials": 30, "tune.batch": 5}
"""Long enough that TPE, which begins with 10 random trials, asks half of them."""


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


def copied(table: Table) -> Table:
    """Return a table with the same records, which trains while one waits."""
    plain = Table(table.make)
    plain.rows = dict(table.rows)
    return plain


def forget(folder: Path) -> None:
    (folder / "scion.journal").unlink(missing_ok=True)


def asked(tuned: Tuned) -> list[str]:
    return [config.run_id for config in tuned.tried]


# --- what is asked, and when -----------------------------------------------------------------


def test_a_batch_is_always_under_way_and_nothing_is_submitted_twice(tmp_path: Path) -> None:
    cluster, what = Cluster(), experiment(**LONG)
    tuned, notes = tune(tmp_path, cluster, what)
    assert tuned.num_trials == 30 and notes.notes == []
    assert sum(cluster.submitted) == cluster.trained == len(set(asked(tuned)))
    assert cluster.submitted[0] <= 10 and cluster.most <= 10, "five trials of two seeds"
    assert len(cluster.submitted) > 10, "asked as results arrive, not in batches"
    assert notes.stages == [("tune scion: 30 trials", 60, 0)]


def test_as_many_are_asked_as_have_ended(tmp_path: Path) -> None:
    tune(tmp_path, Cluster(), experiment(**LONG))
    told = {line["trial"]: set(line["told"]) for line in lines(tmp_path)}
    assert sorted(told) == list(range(30))
    for number, known in told.items():
        assert number - len(known) < 5, "more than a batch is under way"
    uneven = [n for n, known in told.items() if known != set(range(n // 5 * 5))]
    assert len(uneven) > 15, "the order of arrival made no difference"


def test_progress_counts_every_run_once(tmp_path: Path) -> None:
    for seed in range(2):
        folder, cluster = tmp_path / str(seed), Cluster(seed=seed)
        tuned, notes = tune(folder, cluster, experiment(**LONG))
        assert notes.done + cluster.trained == 60, "repeated runs, and those that were trained"
        forget(folder)
        again, notes = tune(folder, copied(cluster), experiment(**LONG))
        assert again == tuned and notes.done == 60


def test_a_grid_is_trained_in_one_go(tmp_path: Path) -> None:
    cluster = Cluster()
    tuned, _ = tune(tmp_path, cluster, arm="adamw")
    assert tuned == tune(tmp_path, Table(), arm="adamw")[0]
    assert len(cluster.submitted) == 1 and not (tmp_path / "adamw.asked.jsonl").exists()


# --- replay ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "seed"),
    rest_slow(
        [("tpe", 0), ("tpe", 1), ("random", 0)],
        [(sampler, seed) for sampler in ("tpe", "random") for seed in range(6)],
    ),
)
def test_replay_meets_the_same_trials(tmp_path: Path, seed: int, sampler: str) -> None:
    """From the table and the file alone: by a reader, a new journal, and another runner."""
    what, cluster = experiment(**LONG, **{"tune.sampler": sampler}), Cluster(seed=seed)
    tuned, _ = tune(tmp_path, cluster, what)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert tune(tmp_path, copied(cluster), what, replay=True)[0] == tuned
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before, "wrote"
    for reader in (copied(cluster), cluster):
        forget(tmp_path)
        again, notes = tune(tmp_path, reader, what)
        assert again == tuned and notes.notes == []
    assert cluster.trained == len(set(asked(tuned))) and before[FILE] == _bytes(tmp_path)


def _bytes(folder: Path) -> bytes:
    return (folder / FILE).read_bytes()


def test_order_of_arrival_matters_and_the_file_is_needed(tmp_path: Path) -> None:
    """Otherwise the tests above would show nothing."""
    what = experiment(**LONG)
    orders = [asked(tune(tmp_path / str(n), Cluster(seed=n), what)[0]) for n in range(3)]
    assert len({tuple(order) for order in orders}) == 3
    cluster = Cluster()
    tuned, _ = tune(tmp_path / "a", cluster, what)
    (tmp_path / "a" / FILE).unlink()
    forget(tmp_path / "a")
    assert asked(tune(tmp_path / "a", copied(cluster), what)[0]) != asked(tuned)


def test_reading_an_unfinished_tuning_writes_nothing(tmp_path: Path) -> None:
    cluster = Cluster(calls=12)
    with pytest.raises(Interrupted):
        tune(tmp_path, cluster, experiment(**LONG))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(Interrupted):
        reader = copied(cluster)
        reader.left = 0
        tune(tmp_path, reader, experiment(**LONG), replay=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("journal", ["kept", "deleted"])
@pytest.mark.parametrize("call", [0, 2, 7, 20])
def test_a_driver_that_died_goes_on(tmp_path: Path, call: int, journal: str) -> None:
    what, cluster = experiment(**LONG), Cluster(calls=call)
    with pytest.raises(Interrupted):
        tune(tmp_path, cluster, what)
    if journal == "deleted":
        forget(tmp_path)
    written = _bytes(tmp_path)
    after = cluster.killed()
    tuned, notes = tune(tmp_path, after, what)
    assert notes.notes == [] and _bytes(tmp_path).startswith(written)
    assert tune(tmp_path, copied(after), what, replay=True)[0] == tuned
    assert cluster.trained + after.trained == len(set(asked(tuned))), "trained twice, or never"


@pytest.mark.parametrize("calls", [1, 9, 20])
def test_begun_on_a_cluster_and_ended_here_and_the_other_way_around(
    tmp_path: Path, calls: int
) -> None:
    what, cluster = experiment(**LONG), Cluster(calls=calls)
    with pytest.raises(Interrupted):
        tune(tmp_path, cluster, what)
    here = copied(cluster)
    here.left = 2
    with pytest.raises(Interrupted):
        tune(tmp_path, here, what)
    back = cluster.killed()
    back.rows = dict(here.rows)
    back.left = 5
    with pytest.raises(Interrupted):
        tune(tmp_path, back, what)
    last = copied(back)
    tuned, notes = tune(tmp_path, last, what)
    assert notes.notes == []
    assert tune(tmp_path, copied(last), what, replay=True)[0] == tuned
    forget(tmp_path)
    again, notes = tune(tmp_path, copied(last), what)
    assert again == tuned and notes.notes == []


@pytest.mark.slow
def test_killed_before_any_change_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two of: a line written, a trial told, a trial asked, its attribute set."""
    import optuna

    from sweeps.asked import AskedFile

    count = last = 0

    def counted(call: Any) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == last:
                raise Interrupted
            return call(*args, **kwargs)

        return wrapped

    for owner, name in [
        (optuna.Study, "tell"),
        (optuna.Study, "ask"),
        (optuna.Trial, "set_user_attr"),
        (AskedFile, "append"),
    ]:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    what = experiment(**{"tune.trials": 20, "tune.batch": 5})
    tune(tmp_path / "whole", Cluster(), what)
    total = count
    assert total > 60
    for moment in range(1, total + 1):
        folder, cluster = tmp_path / str(moment), Cluster()
        count, last = 0, moment
        with pytest.raises(Interrupted):
            tune(folder, cluster, what)
        last = 0
        after = cluster.killed() if moment % 2 else copied(cluster)
        tuned, notes = tune(folder, after, what)
        # An ask is several lines of the journal; those of the first one are two steps here.
        assert all("cut off while it was asked" in note for note in notes.notes), moment
        again = tune(folder, copied(after), what, replay=True)[0]
        assert again == tuned, f"moment {moment}"


# --- a damaged file --------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [1, 5, 30])
def test_a_last_line_cut_off_is_a_trial_not_asked(tmp_path: Path, torn: int) -> None:
    what, cluster = experiment(**LONG), Cluster(calls=20)
    with pytest.raises(Interrupted):
        tune(tmp_path, cluster, what)
    whole = _bytes(tmp_path)
    line = b'{"told":[0,1,2,3],"trial":29}\n'
    (tmp_path / FILE).write_bytes(whole + line[: min(torn, len(line) - 1)])
    after = cluster.killed()
    tuned, notes = tune(tmp_path, after, what)
    assert notes.notes == [] and _bytes(tmp_path).startswith(whole)
    assert tune(tmp_path, copied(after), what, replay=True)[0] == tuned


DAMAGE = {
    "garbage": lambda text: text[:200] + b"\x00\xff{no\n" + text[220:],
    "empty": lambda text: b"\n\n",
    "a line missing a number": lambda text: text.replace(b'"trial":12', b'"trial":"x"'),
    "order": lambda text: b"".join(reversed(text.splitlines(keepends=True))),
    "of the future": lambda text: text.replace(b"[0", b"[77,0"),
    "gone": lambda text: None,
    "one line left": lambda text: text.split(b"\n")[0] + b"\n",
}


@pytest.mark.parametrize(
    ("kind", "calls"),
    rest_slow(
        [("garbage", 20), ("order", 20), ("gone", 20), ("of the future", 10**9)],
        [(kind, calls) for kind in DAMAGE for calls in (20, 10**9)],
    ),
)
def test_a_damaged_file_costs_a_note(tmp_path: Path, kind: str, calls: int) -> None:
    what, cluster = experiment(**LONG), Cluster(calls=calls)
    try:
        tune(tmp_path, cluster, what)
    except Interrupted:
        assert calls == 20
    text = DAMAGE[kind](_bytes(tmp_path))
    if text is None:
        (tmp_path / FILE).unlink()
    else:
        (tmp_path / FILE).write_bytes(text)
    # A reader does not crash, and writes nothing.
    tune(tmp_path, copied(cluster), what, replay=True)
    assert (tmp_path / FILE).exists() == (text is not None)
    after = cluster.killed()
    tuned, notes = tune(tmp_path, after, what)
    assert len(notes.notes) == 1, notes.notes
    assert tune(tmp_path, copied(after), what, replay=True)[0] == tuned
    again, notes = tune(tmp_path, copied(after), what)
    assert again == tuned and notes.notes == [], "not healed"


def test_a_line_changed_in_a_believable_way_is_noticed(tmp_path: Path) -> None:
    """The journal knows better, so it is built again to agree with what a reader will see."""
    what, cluster = experiment(**LONG), Cluster()
    tune(tmp_path, cluster, what)
    changed = lines(tmp_path)
    index = next(i for i, line in enumerate(changed) if len(line["told"]) == 14)
    changed[index]["told"] = changed[index - 1]["told"]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in changed)
    (tmp_path / FILE).write_text(text)
    after = cluster.killed()
    tuned, notes = tune(tmp_path, after, what)
    assert len(notes.notes) == 1 and FILE in notes.notes[0]
    assert tune(tmp_path, copied(after), what, replay=True)[0] == tuned


# --- failed and diverged ---------------------------------------------------------------------


def test_a_failed_run_ends_the_tuning_when_the_others_have_ended(tmp_path: Path) -> None:
    def broken(config: RunConfig) -> StoredRun:
        if cluster.trained == 20:
            return fabricate(config, None, "failed", error="ValueError: no")
        return bowl(config)

    cluster = Cluster(broken)
    what = experiment(**LONG)
    for _ in range(2):
        with pytest.raises(FailedTrialError, match="ValueError: no"):
            tune(tmp_path, cluster, what)
        assert cluster.under_way == {}
    after = cluster.killed()
    after.make = bowl
    after.rows = {key: run for key, run in cluster.rows.items() if run.status == "done"}
    tuned, notes = tune(tmp_path, after, what)
    assert notes.notes == []
    assert tune(tmp_path, copied(after), what, replay=True)[0] == tuned


def test_diverged_trials_are_told_infinity(tmp_path: Path) -> None:
    def cliff(config: RunConfig) -> StoredRun:
        if config.optimizer.stepsize > 2.0**-4 and config.seed == 102:
            return fabricate(config, None, "diverged")
        return bowl(config)

    cluster = Cluster(cliff)
    tuned, _ = tune(tmp_path, cluster)
    assert tuned.settings["stepsize"] <= 2.0**-4 and math.isfinite(tuned.value or math.inf)
    assert tune(tmp_path, copied(cluster), replay=True)[0] == tuned


def test_growing_goes_on(tmp_path: Path) -> None:
    cluster = Cluster()
    first, _ = tune(tmp_path, cluster, experiment(**{"tune.trials": 20, "tune.batch": 5}))
    grown, notes = tune(tmp_path, cluster, experiment(**LONG))
    assert grown.tried[: len(first.tried)] == first.tried and notes.notes == []
    assert tune(tmp_path, copied(cluster), experiment(**LONG), replay=True)[0] == grown
