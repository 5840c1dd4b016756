"""The loop from Python: complete once, then nothing is left to do, and it can be repeated."""

import json
from pathlib import Path

import pandas as pd

import sweeps
from sweeps.study import Study
from tests.helpers import InlineRunner, NoRunner, Notes, contents, study_frame, tiny_experiment
from transfer.config import run_config_from_dict


def test_second_run_trains_nothing_and_a_fresh_one_is_equal(tmp_path: Path) -> None:
    runner, notes = InlineRunner(), Notes()
    study = sweeps.run(tiny_experiment(), tmp_path / "a", runner=runner, reporter=notes)
    frame = study_frame(study)
    assert set(frame["purpose"]) == {"tune", "sweep", "radii", "check"}
    assert set(frame["status"]) == {"done"} and len(runner.trained) == len(frame)
    before = contents(study.table)

    again = Notes()
    same = sweeps.run(tiny_experiment(), tmp_path / "a", runner=NoRunner(), reporter=again)
    assert contents(same.table) == before and again.done == 0
    assert all(total == known for _, total, known in again.stages)
    assert study_frame(Study.open(tmp_path / "a")).equals(frame)

    other = sweeps.run(tiny_experiment(), tmp_path / "b", runner=InlineRunner())
    assert contents(other.table) == before, "not the same bits"
    pd.testing.assert_frame_equal(study_frame(other), frame, check_exact=True)


def test_every_row_can_be_trained_again_from_its_record(tmp_path: Path) -> None:
    from transfer.train import train

    changes = {"sweep.widths": [4], "arms.scion.star": {}, "tune.trials": 2}
    study = sweeps.run(tiny_experiment(changes), tmp_path, runner=InlineRunner())
    curves = study.table.curves()
    for row in study.table.read().values():
        record = train(run_config_from_dict(json.loads(json.dumps(row.config))))
        assert (record.val_loss, record.train_loss) == (row.val_loss, row.train_loss)
        assert record.curve.tobytes() == curves[row.run_id].tobytes()


def test_progress_adds_up(tmp_path: Path) -> None:
    """Two trials may ask for the same setting; the bar must reach its end all the same."""
    search = {"stepsize": [-2, -1], "hidden": [0, 1]}  # 6 settings for 8 trials
    notes, changes = Notes(), {"arms.scion.search": search, "tune.trials": 8}
    sweeps.run(tiny_experiment(changes), tmp_path, runner=InlineRunner(), reporter=notes)
    assert notes.done == sum(total - known for _, total, known in notes.stages)
