"""`lmo-transfer coordcheck`: what it judges, prints and writes."""

import json
from pathlib import Path

import pandas as pd
import pytest

from analysis import check_coordinates
from launch.cli import main
from sweeps.reading import experiment_from_dict, experiment_to_dict, load_experiment
from sweeps.study import Study
from tests.launch.conftest import SMALL, Command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_all_arms_are_judged_drawn_and_written(command: Command, folder: Path) -> None:
    (folder / "small.toml").write_text(SMALL)
    done = command("coordcheck", "small.toml", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    written = folder / "coordcheck" / "small"
    names = {"coordcheck.csv", "coordcheck.json"} | {
        f"coordcheck_{arm}.{kind}" for arm in ("scion", "adamw") for kind in ("png", "svg")
    }
    assert {path.name for path in written.iterdir()} == names
    for name in names:
        assert f"coordcheck/small/{name}" in done.stdout
    assert "within -0.25 … +0.25" in done.stdout, "the bounds are stated"
    rows = pd.read_csv(written / "coordcheck.csv")
    assert set(rows["width"]) == {4, 8} and set(rows["seed"]) == {1, 2}
    assert set(rows["step"]) == {0, 1, 2, 3, 4}, "the run has fewer steps than are usual"
    told = json.loads((written / "coordcheck.json").read_text())
    assert list(told["arms"]) == ["scion", "adamw"]
    for arm, data in told["arms"].items():
        again = check_coordinates(rows[rows["arm"] == arm])
        assert data["status"] == again.status
        assert f"{arm}: {again.status}. {again.reason}" in done.stdout
    assert not (folder / "studies").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arm", "outcome", "code"), [("scion", "passes", 0), ("adamw", "fails", 3)]
)
def test_outcome_by_exit_code(
    arm: str, outcome: str, code: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wide = ["--sweep.widths", "64", "128", "256", "--steps", "2", "--seeds", "4", "5", "6"]
    told = ["--arm", arm, "--exit-code", "--output", "here"]
    assert main(["coordcheck", "digits-mlp", *told, *wide]) == code
    assert f"{arm}: {outcome}." in capsys.readouterr().out
    kinds = {"csv", "json", "png", "svg"}
    assert {p.name for p in (folder / "here").iterdir()} == {f"coordcheck.{k}" for k in kinds}


@pytest.mark.slow
def test_too_little_to_tell_is_undecided(capsys: pytest.CaptureFixture[str]) -> None:
    few = ["--seeds", "1", "--sweep.widths", "8", "16", "--steps", "1", "--exit-code"]
    assert main(["coordcheck", "digits-mlp", "--arm", "scion", *few]) == 4
    out = capsys.readouterr().out
    assert "scion: undecided." in out and "too few points" in out


@pytest.mark.slow
def test_a_study_gets_it_into_its_results(folder: Path) -> None:
    data = experiment_to_dict(load_experiment("digits-mlp"))
    data["sweep"]["widths"] = [4, 8]
    study = Study.create(folder / "studies" / "mine", experiment_from_dict(data, "test"))
    assert main(["coordcheck", "studies/mine", "--arm", "scion", "--steps", "1"]) == 0
    told = json.loads((study.folder / "results" / "coordcheck.json").read_text())
    assert told["arms"]["scion"]["stepsize"] == 0.125, "as given, not as tuned"
    assert not (folder / "coordcheck").exists()
    assert not list((study.folder / "records").rglob("*.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "0"], "--steps must be between 1 and train.steps = 60, got 0"),
        (["--steps", "61"], "--steps must be between 1 and train.steps = 60, got 61"),
        (["--arm", "scoin"], "arm must be one of adamw, scion, got 'scoin'; did you mean 'scion'"),
        (["--seeds", "1", "1"], "--seeds must be different numbers, each at least 0, got [1, 1]"),
        (["--seeds", "a"], "argument --seeds: invalid int value: 'a'"),
        (["--sweep.widths", "8"], "sweep.widths must be at least two widths to compare, got [8]"),
        (["--train.batch-size", "5000"], "at most the 1437 training examples of digits, got 5000"),
        (["--output", "/proc/no/where"], "/proc/no"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], words: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["coordcheck", "digits-mlp", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lmo-transfer: ") and words in line
    assert not list(folder.iterdir()), "nothing is begun on bad input"
