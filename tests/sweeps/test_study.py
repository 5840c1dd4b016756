"""A study's folder: made, opened, grown; anything else is refused and named."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweeps.loop import complete
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.study import Study, reload
from tests.helpers import (
    DELETE,
    FakeRunner,
    NoRunner,
    Notes,
    fabricate,
    study_frame,
    tiny_dict,
    tiny_experiment,
    write_shard,
)
from transfer.config import RunConfig


def fake() -> FakeRunner:
    """Losses that depend on everything, without training."""
    return FakeRunner(lambda config: fabricate(config, 1 + int(config.run_id[:6], 16) / 2**24))


def finish(folder: Path, changes: dict[str, Any] | None = None) -> tuple[Study, FakeRunner]:
    runner, study = fake(), Study.create(folder, tiny_experiment(changes))
    complete(study, runner, Reporter())
    return study, runner


# --- create and open -------------------------------------------------------------------------


def test_create_and_open(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "study"
    study = Study.create(folder, tiny_experiment())
    assert len(study.experiment.data.fingerprint) == 64
    assert Study.open(folder).experiment == study.experiment
    assert Study.create(folder, tiny_experiment()).experiment == study.experiment
    assert Study.create(folder, study.experiment).experiment == study.experiment
    assert sorted(p.name for p in folder.iterdir()) == ["experiment.json"]


def test_open_of_no_study(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"without experiment\.json"):
        Study.open(tmp_path)


def test_existing_empty_folder_is_taken(tmp_path: Path) -> None:
    assert Study.create(tmp_path, tiny_experiment()).folder == tmp_path


def test_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is no study"):
        Study.create(tmp_path, tiny_experiment())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is no study"):
        Study.create(tmp_path / "thesis.tex", tiny_experiment())


def test_killed_while_the_study_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between writing the temporary file and putting it in place, then started again."""

    class Killed(BaseException):
        pass

    def killed(*args: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
        with pytest.raises(Killed):
            Study.create(tmp_path / "s", tiny_experiment())
    assert (tmp_path / "s").exists()
    study = Study.create(tmp_path / "s", tiny_experiment())
    assert Study.open(tmp_path / "s").experiment == study.experiment


# --- growth ----------------------------------------------------------------------------------

GROWTH: list[dict[str, Any]] = [
    {"sweep.widths": [4, 8, 16]},
    {"sweep.widths": [4, 6, 8]},
    {"sweep.seeds": [1, 2]},
    {"sweep.seeds": [2, 1]},
    {"sweep.star_neighbours": 2},
    {"arms.scion.octaves_below": 2},
    {"arms.adamw.octaves_above": 3},
    {"tune.trials": 8},
    {"arms.scion.star.hidden": [0.5, 2.0, 4.0]},
    {"arms.scion.star.output": [2.0]},
    {"arms.adam2": {"search": {"stepsize": [-7, -6]}, "optimizer": {"name": "adamw"}}},
    {"arms.a-new-scion": tiny_dict()["arms"]["scion"]},
    {"summary": "other words"},
    {"sweep.widths": [4, 8, 16], "sweep.seeds": [1, 2], "tune.trials": 6},
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FakeRunner]:
    """A finished study, not to be changed, and what trained it."""
    study, runner = finish(tmp_path_factory.mktemp("finished") / "s")
    return study.folder, runner


@pytest.mark.parametrize("changes", GROWTH, ids=str)
def test_growth_reuses_runs(
    tmp_path: Path, changes: dict[str, Any], finished: tuple[Path, FakeRunner]
) -> None:
    shutil.copytree(finished[0], tmp_path / "s")
    study, before = Study.open(tmp_path / "s"), finished[1]
    old_text = (tmp_path / "s" / "experiment.json").read_text()
    grown, after = finish(tmp_path / "s", changes)
    assert Study.open(tmp_path / "s").experiment == grown.experiment
    (kept,) = (tmp_path / "s" / "experiments").iterdir()
    assert kept.read_text() == old_text
    trained = [c.run_id for c in before.trained + after.trained]
    assert len(set(trained)) == len(trained), "a run was trained twice"
    fresh, all_at_once = finish(tmp_path / "fresh", changes)
    assert study_frame(grown).equals(study_frame(fresh))
    if "tune.trials" not in changes:  # more trials may move the grid
        assert len(after.trained) <= len(all_at_once.trained) - len(before.trained) + 2
    assert study.table.read().items() <= grown.table.read().items()


def test_growing_twice_keeps_both_files(tmp_path: Path) -> None:
    for widths in ([4, 8], [4, 8, 16], [4, 8, 16, 32]):
        Study.create(tmp_path, tiny_experiment({"sweep.widths": widths}))
    Study.create(tmp_path, tiny_experiment({"sweep.widths": [4, 8, 16, 32]}))
    kept = sorted((tmp_path / "experiments").iterdir())
    assert [p.name for p in kept] == ["0001.json", "0002.json"]
    assert [json.loads(p.read_text())["sweep"]["widths"] for p in kept] == [[4, 8], [4, 8, 16]]


def test_another_arm_may_join(tmp_path: Path) -> None:
    data = tiny_dict()
    Study.create(tmp_path / "a", tiny_experiment())
    more = {**data["arms"], "scion-wide": {**data["arms"]["scion"], "octaves_below": 2}}
    grown = Study.create(tmp_path / "a", tiny_experiment({"arms": more}))
    assert list(grown.experiment.arms) == ["scion", "adamw", "scion-wide"]
    assert Study.open(tmp_path / "a").experiment == grown.experiment


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"sweep.widths": [4]}, ["sweep.widths", "[4, 8]", "[4]"]),
    ({"sweep.widths": [2, 4, 8]}, ["sweep.widths", "[2, 4, 8]"]),
    ({"sweep.widths": [4, 16]}, ["sweep.widths"]),
    ({"sweep.seeds": [2]}, ["sweep.seeds", "[1]", "[2]"]),
    ({"sweep.star_neighbours": 0}, ["sweep.star_neighbours"]),
    ({"tune.trials": 2}, ["tune.trials", "4", "2"]),
    ({"tune.batch": 4}, ["tune.batch"]),
    ({"tune.seeds": [101, 102]}, ["tune.seeds"]),
    ({"tune.sampler": "random"}, ["tune.sampler", "tpe", "random"]),
    ({"train.steps": 4}, ["train.steps", "3", "4"]),
    ({"train.batch_size": 32}, ["train.batch_size"]),
    ({"train.schedule.name": "constant"}, ["train.schedule.name"]),
    ({"model.bias": True}, ["model.bias", "False", "True"]),
    ({"verdict.epsilon": 0.02}, ["verdict.epsilon", "0.01", "0.02"]),
    ({"data.fingerprint": "f" * 64}, ["data.fingerprint"]),
    ({"name": "other"}, ["name", "tiny", "other"]),
    ({"arms.scion.octaves_below": 3, "train.steps": 4}, ["train.steps"]),
    ({"arms.adamw": DELETE}, ["arms.adamw"]),
    ({"arms.scion.star": {}}, ["arms.scion.star"]),
    ({"arms.scion.star.hidden": [0.5, 4.0]}, ["arms.scion.star.hidden"]),
    ({"arms.scion.search.hidden": [-2, 1]}, ["arms.scion.search.hidden"]),
    ({"arms.scion.search.output": [-2, 1]}, ["arms.scion.search.output"]),
    ({"arms.scion.optimizer.alpha": 0.2}, ["arms.scion.optimizer.alpha", "0.1", "0.2"]),
    ({"arms.scion.optimizer.constrained": True}, ["arms.scion.optimizer.constrained"]),
    ({"arms.adamw": tiny_dict()["arms"]["scion"]}, ["arms.adamw.optimizer"]),
    (
        {"arms.scion.optimizer.roles.hidden.norm": "sign"},
        ["arms.scion.optimizer.roles.hidden.norm"],
    ),
]


@pytest.mark.parametrize(("changes", "named"), REFUSED, ids=lambda value: str(value)[:60])
def test_other_differences_are_named(
    tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    before = {"arms.scion.octaves_below": 2, "sweep.star_neighbours": 1}
    changed = {**before, **changes}
    Study.create(tmp_path, tiny_experiment(before))
    text = (tmp_path / "experiment.json").read_text()
    with pytest.raises(ValueError, match="holds another experiment") as caught:
        Study.create(tmp_path, tiny_experiment(changed))
    message = str(caught.value)
    assert "\n" not in message and str(tmp_path) in message
    for part in named:
        assert part in message, message
    if "octaves_below" in str(changes):
        assert "octaves_below" not in message, "growth is no difference to complain about"
    assert (tmp_path / "experiment.json").read_text() == text
    assert not (tmp_path / "experiments").exists()


# --- work ------------------------------------------------------------------------------------


def test_reading_an_unfinished_study_changes_no_trials(tmp_path: Path) -> None:
    """`verdict` on a study whose tuning is half done, then the tuning goes on."""

    class Stop(Exception):
        pass

    def make(config: RunConfig) -> Any:
        if len(runner.trained) >= 2:
            raise Stop
        return fabricate(config, 1.0)

    runner = FakeRunner(make)
    study = Study.create(tmp_path / "a", tiny_experiment())
    with pytest.raises(Stop):
        complete(study, runner, Reporter())
    with pytest.raises(LookupError, match="runs are missing"):
        Study.open(tmp_path / "a").tune(None, Reporter())
    runner.make = lambda config: fabricate(config, 1.0)
    complete(study, runner, Reporter())
    fresh = Study.create(tmp_path / "b", tiny_experiment())
    complete(fresh, FakeRunner(runner.make), Reporter())
    assert study_frame(study).equals(study_frame(fresh))


def test_ensure_trains_what_is_missing_once(tmp_path: Path) -> None:
    study, runner = finish(tmp_path)
    configs = runner.trained
    assert study.ensure(configs + configs, NoRunner(), Reporter()) == study.table.read()
    other = fake()
    new = [c for c in configs if c.width == 8][:1]
    study.table.publish([fabricate(new[0], None, "failed")])
    study.ensure(new, NoRunner(), Reporter(), retry_failed=True)
    assert other.trained == []


def test_failed_runs_are_kept_unless_retried(tmp_path: Path) -> None:
    study, _ = finish(tmp_path / "a")
    config = study.planned(study.tune(None, Reporter()))[0].config
    other = Study.create(tmp_path / "b", tiny_experiment())
    other.table.publish([fabricate(config, None, "failed", error="x")])
    assert other.ensure([config], NoRunner(), Reporter())[config.run_id].status == "failed"
    with pytest.raises(LookupError, match="1 of 1"):
        other.ensure([config], None, Reporter(), retry_failed=True)
    rows = other.ensure([config], fake(), Reporter(), retry_failed=True)
    assert rows[config.run_id].status == "done"


def test_reload_validates(tmp_path: Path) -> None:
    experiment = tiny_experiment()
    assert reload(experiment) == experiment


def test_each_growth_of_the_seeds_is_a_further_look(tmp_path: Path) -> None:
    assert Study.create(tmp_path / "a", tiny_experiment()).looks() == 1
    wider = tiny_experiment({"sweep.widths": [4, 8, 16]})
    assert Study.create(tmp_path / "a", wider).looks() == 1, "the same seeds, another question"
    for seeds, looks in ([1, 2], 2), ([1, 2, 3], 3), ([1, 2, 3], 3):
        grown = tiny_experiment({"sweep.widths": [4, 8, 16], "sweep.seeds": seeds})
        assert Study.create(tmp_path / "a", grown).looks() == looks


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="batch_size must be at most the 1437 training examples"):
        Study.create(tmp_path / "a", tiny_experiment({"train.batch_size": 5000}))
    assert not (tmp_path / "a").exists()


def test_a_note_about_the_data_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A last shard too short to be used: the user hears of it, before the first run."""
    monkeypatch.setenv("LMO_TRANSFER_CACHE", str(tmp_path / "cache"))
    for name, tokens in (("train_0", 200), ("train_1", 5), ("val_0", 50)):
        write_shard(tmp_path / f"{name}.bin", range(tokens))
    tokens = {"name": "tokens", "path": str(tmp_path), "vocab_size": 256, "sequence_length": 8}
    roles = {"embedding": {"norm": "col-norm"}, "hidden": {"norm": "spectral"}}
    roles["output"] = {"norm": "scaled-sign"}
    changes = {"model": {"family": "gpt", "head_dim": 4}, "data": tokens}
    experiment = tiny_experiment({**changes, "arms.scion.optimizer.roles": roles})
    study, notes = Study.create(tmp_path / "study", experiment), Notes()
    runner = FakeRunner(lambda config: fabricate(config, 1.0))
    for seed in (1, 2):
        optimizer = experiment.arms["scion"].optimizer
        config = run_config(study.experiment, "scion", optimizer, size=4, seed=seed)
        study.ensure([config], runner, notes)
    assert len(notes.notes) == 1 and "train_1.bin, the last one" in notes.notes[0]
