"""Tuning on fabricated losses: the best is found, and no interruption changes the trials."""

import math
import random
from pathlib import Path

import pytest

from sweeps.errors import FailedTrialError
from sweeps.table import StoredRun
from sweeps.tune import Tuned
from tests.helpers import fabricate
from tests.tuning import BEST, SEARCH, Interrupted, Table, bowl, experiment, tune
from transfer.config import RunConfig, ScionConfig


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tuned, bytes, Table]:
    folder, table = tmp_path_factory.mktemp("tuning"), Table()
    tuned, notes = tune(folder, table)
    assert notes.notes == []
    return tuned, (folder / "scion.journal").read_bytes(), table


# --- what is found ---------------------------------------------------------------------------


def test_finds_the_bowl(tmp_path: Path) -> None:
    tuned, notes = tune(tmp_path, Table(), experiment(**{"tune.trials": 48, "tune.batch": 8}))
    for name, value in tuned.settings.items():
        assert abs(math.log2(value) - math.log2(BEST[name])) <= 1, name
    assert tuned.settings.keys() == BEST.keys()
    assert tuned.optimizer.stepsize == tuned.settings["stepsize"]
    assert isinstance(tuned.optimizer, ScionConfig)
    assert tuned.optimizer.roles["hidden"].radius == tuned.settings["hidden"]
    assert (tuned.method, tuned.num_trials, len(tuned.run_ids)) == ("tpe", 48, 2)
    assert len(tuned.tried) == 96 and notes.stages == [("tune scion: 48 trials", 96, 0)]


def test_value_is_the_mean_of_the_seeds_and_the_least(
    undisturbed: tuple[Tuned, bytes, Table],
) -> None:
    tuned, _, table = undisturbed
    losses = [table.rows[key].val_loss or math.nan for key in tuned.run_ids]
    assert tuned.value == math.fsum(losses) / 2
    pairs = zip(tuned.tried[::2], tuned.tried[1::2], strict=True)
    means = [sum(table.rows[c.run_id].val_loss or math.nan for c in p) / 2 for p in pairs]
    assert tuned.value == pytest.approx(min(means), abs=1e-15)


def test_settings_lie_on_their_grids_and_in_their_ranges(
    undisturbed: tuple[Tuned, bytes, Table],
) -> None:
    tuned, _, _ = undisturbed
    for config in tuned.tried:
        assert isinstance(config.optimizer, ScionConfig)
        assert math.log2(config.optimizer.stepsize) in range(-7, 2)
        for role in ("hidden", "output"):
            low, high = SEARCH[role]
            octave = math.log2(config.optimizer.roles[role].radius)
            assert low <= octave <= high and math.isclose(2 * octave, round(2 * octave))
        assert config.optimizer.roles["input"].radius == 1.0 and config.width == 4


def test_one_stepsize_is_enumerated(tmp_path: Path) -> None:
    table = Table()
    tuned, notes = tune(tmp_path, table, arm="adamw")
    assert [c.optimizer.stepsize for c in tuned.tried[::2]] == [2.0**-7, 2.0**-6]
    assert tuned.settings == {"stepsize": 2.0**-6} and tuned.method == "grid"
    assert tuned.on_edge == ("stepsize",) and table.trained == 4
    assert list(tmp_path.iterdir()) == [], "a grid needs no journal"
    wide = experiment(**{"arms.adamw.search": {"stepsize": [-6, 0]}})
    tuned, notes = tune(tmp_path, table, wide, "adamw")
    assert tuned.settings == {"stepsize": 2.0**-3} and tuned.on_edge == ()
    assert notes.stages == [("tune adamw: 7 stepsizes", 14, 2)]


def test_nothing_to_search(tmp_path: Path) -> None:
    table = Table()
    tuned, _ = tune(tmp_path, table, experiment(**{"arms.adamw.search": {}}), "adamw")
    assert (tuned.method, tuned.value, tuned.settings) == ("as given", None, {})
    assert table.trained == 0


# --- diverged and failed ---------------------------------------------------------------------


def cliff(config: RunConfig) -> StoredRun:
    """Large stepsizes diverge, with one of the two seeds only."""
    if config.optimizer.stepsize > 2.0**-4 and config.seed == 102:
        return fabricate(config, None, "diverged")
    return bowl(config)


def test_diverged_trials_are_told_infinity(tmp_path: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    tuned, _ = tune(tmp_path, Table(cliff))
    assert tuned.settings["stepsize"] <= 2.0**-4 and math.isfinite(tuned.value or math.inf)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "scion.journal")))
    trials = optuna.load_study(study_name="scion", storage=storage).trials
    assert {t.state.name for t in trials} == {"COMPLETE"}
    diverged = [t for t in trials if t.params["stepsize"] > -4]
    assert diverged and all(t.value == math.inf for t in diverged)
    again, notes = tune(tmp_path, Table(cliff))
    assert again == tuned
    assert notes.notes, "an empty table contradicts the journal"


@pytest.mark.parametrize("arm", ["scion", "adamw"])
def test_all_diverged(tmp_path: Path, arm: str) -> None:
    table = Table(lambda config: fabricate(config, None, "diverged"))
    with pytest.raises(FailedTrialError, match=f"{arm}.*diverged"):
        tune(tmp_path, table, arm=arm)


@pytest.mark.parametrize("arm", ["scion", "adamw"])
def test_failed_run_stops_the_tuning_until_it_is_retried(tmp_path: Path, arm: str) -> None:
    def broken(config: RunConfig) -> StoredRun:
        if table.trained > 5 or arm == "adamw":
            return fabricate(config, None, "failed", error="ValueError: no")
        return bowl(config)

    table = Table(broken)
    with pytest.raises(FailedTrialError, match="ValueError: no"):
        tune(tmp_path, table, arm=arm)
    with pytest.raises(FailedTrialError, match="ValueError: no"):
        tune(tmp_path, table, arm=arm)
    table.make = bowl
    table.rows = {k: r for k, r in table.rows.items() if r.status == "done"}
    tuned, notes = tune(tmp_path, table, arm=arm)
    (tmp_path / "other").mkdir()
    assert tuned == tune(tmp_path / "other", Table(), arm=arm)[0] and notes.notes == []


# --- growing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_growing_keeps_the_first_trials(tmp_path: Path, sampler: str) -> None:
    small = experiment(**{"tune.sampler": sampler, "tune.trials": 8})
    large = experiment(**{"tune.sampler": sampler})
    table = Table()
    first, _ = tune(tmp_path / "a", table, small)
    grown, notes = tune(tmp_path / "a", table, large)
    assert grown.tried[: len(first.tried)] == first.tried and notes.notes == []
    assert grown.method == sampler
    fresh, _ = tune(tmp_path / "b", Table(), large)
    assert grown == fresh
    shrunk, _ = tune(tmp_path / "a", table, small)
    assert shrunk == first, "more trials than wanted are not looked at"


def test_sampler_seed_matters(tmp_path: Path) -> None:
    one, _ = tune(tmp_path / "a", Table())
    two, _ = tune(tmp_path / "b", Table(), experiment(**{"tune.sampler_seed": 1}))
    assert one.tried != two.tried


# --- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "random"])
@pytest.mark.parametrize("call", range(4))
def test_interrupted_at_a_batch(tmp_path: Path, sampler: str, call: int) -> None:
    what = experiment(**{"tune.sampler": sampler})
    table = Table(calls=call)
    with pytest.raises(Interrupted):
        tune(tmp_path / "a", table, what)
    table.left = 10**9
    tuned, notes = tune(tmp_path / "a", table, what)
    assert tuned == tune(tmp_path / "b", Table(), what)[0] and notes.notes == []


def cuts(journal: bytes, first: int) -> list[int]:
    """Ends of every 16th line from the first and beside them, and random bytes between."""
    ends = [i + 1 for i, byte in enumerate(journal) if byte == 10]
    chosen = {0, 1, *(end + d for end in ends[first::16] for d in (-2, -1, 0, 1))}
    chosen |= set(random.Random(first).sample(range(len(journal)), 6))
    return sorted(c for c in chosen if c <= len(journal))


@pytest.mark.slow
@pytest.mark.parametrize(("known", "first"), [("all", 0), ("half", 8)])
def test_journal_torn_at_any_byte(
    tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table], known: str, first: int
) -> None:
    tuned, journal, full = undisturbed
    half = {c.run_id for c in tuned.tried[: len(tuned.tried) // 2]}
    for cut in cuts(journal, first):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "scion.journal").write_bytes(journal[:cut])
        table = Table()
        table.rows = {k: r for k, r in full.rows.items() if known == "all" or k in half}
        assert tune(folder, table)[0] == tuned, f"cut at byte {cut}"
        again, notes = tune(folder, table)
        assert again == tuned and notes.notes == [], f"cut at byte {cut}: not healed"


@pytest.mark.slow
def test_journal_with_flipped_bits(tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table]) -> None:
    tuned, journal, full = undisturbed
    chance = random.Random(1)
    for number in range(20):
        damaged = bytearray(journal)
        damaged[chance.randrange(len(journal))] ^= 1 << chance.randrange(8)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "scion.journal").write_bytes(damaged)
        table = Table()
        table.rows = dict(full.rows)
        assert tune(folder, table)[0] == tuned, f"flip {number}"


def replaced(journal: bytes) -> dict[str, bytes]:
    lines = journal.splitlines(keepends=True)
    asked = next((i for i, line in enumerate(lines) if b'"op_code":4' in line), 0)
    return {
        "garbage": b"\x00\xff{not json\n" * 3,
        "empty lines": b"\n" * 5,
        "json of another kind": b'[1]\n{"a":1}\n',
        "a line missing": b"".join(lines[:asked] + lines[asked + 1 :]),
        "a line twice": b"".join(lines[: asked + 1] + lines[asked:]),
    }


@pytest.mark.parametrize("kind", replaced(b""))
def test_damaged_journal(
    tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table], kind: str
) -> None:
    tuned, journal, full = undisturbed
    table = Table()
    table.rows = dict(full.rows)
    (tmp_path / "scion.journal").write_bytes(replaced(journal)[kind])
    got, notes = tune(tmp_path, table)
    assert got == tuned and table.trained == 0
    (note,) = notes.notes
    assert "set aside" in note and list(tmp_path.glob("scion.journal.set-aside-*"))
    assert tune(tmp_path, table)[1].notes == []


def test_journal_deleted(tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table]) -> None:
    tuned, _, full = undisturbed
    table = Table()
    table.rows = dict(full.rows)
    assert tune(tmp_path, table)[0] == tuned and table.trained == 0


@pytest.mark.parametrize("journal_there", [True, False])
def test_lock_left_behind(
    tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table], journal_there: bool
) -> None:
    """Optuna's lock is a symbolic link; it would be waited for 30 s."""
    import time

    tuned, journal, full = undisturbed
    path = tmp_path / "scion.journal"
    if journal_there:
        path.write_bytes(journal[: len(journal) // 2])
    (tmp_path / "scion.journal.lock").symlink_to(path)
    (tmp_path / "scion.journal.lock0-1.rename").symlink_to(path)
    table = Table()
    table.rows = dict(full.rows)
    started = time.monotonic()
    assert tune(tmp_path, table)[0] == tuned
    assert time.monotonic() - started < 25
    assert not [p for p in tmp_path.iterdir() if ".lock" in p.name]


def test_journal_of_another_search(tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table]) -> None:
    tuned, _, _ = undisturbed
    table = Table()
    tune(tmp_path, table, experiment(**{"tune.sampler_seed": 5}))
    got, notes = tune(tmp_path, table)
    assert got == tuned and "another search" in notes.notes[0]


def test_table_contradicts_the_journal(
    tmp_path: Path, undisturbed: tuple[Tuned, bytes, Table]
) -> None:
    """The table wins: as if it had never been otherwise."""

    def other(config: RunConfig) -> StoredRun:
        return fabricate(config, 3.0 - (bowl(config).val_loss or 0.0))

    _, journal, _ = undisturbed
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "scion.journal").write_bytes(journal)
    got, notes = tune(tmp_path / "a", Table(other))
    assert got == tune(tmp_path / "b", Table(other))[0]
    assert "run table" in notes.notes[0]


def test_given_settings_are_tried_first(tmp_path: Path) -> None:
    """Otherwise a flag that sets the stepsize of a tuned arm would do nothing."""
    roles = "arms.scion.optimizer.roles"
    given = experiment(**{"arms.scion.optimizer.stepsize": 0.25, f"{roles}.hidden.radius": 0.5})
    tuned, _ = tune(tmp_path / "a", Table(), given)
    first = tuned.tried[0].optimizer
    assert isinstance(first, ScionConfig)
    assert (first.stepsize, first.roles["hidden"].radius) == (0.25, 0.5)


def test_given_settings_off_the_search_are_named(tmp_path: Path) -> None:
    _, notes = tune(tmp_path / "a", Table(), experiment(**{"arms.scion.optimizer.stepsize": 0.3}))
    assert any("outside its search" in note for note in notes.notes)
