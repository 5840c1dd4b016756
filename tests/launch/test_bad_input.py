"""Wrong input: one clear line and exit code 2, never a traceback, and nothing is lost."""

import json
from pathlib import Path

import pandas as pd
import pytest

from sweeps.frame import CIRCUMSTANCES
from tests.launch.conftest import SMALL, Command, one_line
from transfer.config import NUMERICS

# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["command must be one of", "did you mean 'run'"]),
        (["run", "digits-mpl"], ["preset must be one of", "did you mean 'digits-mlp'"]),
        (["run", "nothing.toml"], ["no such file: nothing.toml"]),
        (["run", "bad.toml"], ["bad.toml cannot be read"]),
        (["run", "field.toml"], ["field.toml", "train.stepz", "did you mean 'steps'"]),
        (["run", "norm.toml"], ["arms.scion.optimizer.roles.hidden.norm", "spctral"]),
        (["run", "widths.toml"], ["sweep: widths must be positive, increasing", "(8, 4)"]),
        (["run", "empty.toml"], ["sweep: widths must be at least one width"]),
        (["run", "stepsize.toml"], ["stepsize must be a finite number above 0, got -1.0"]),
        (["run", "alpha.toml"], ["alpha must be in (0, 1], got 1.5"]),
        (["run", "radius.toml"], ["radius must be a finite number above 0, got 0.0"]),
        (["run", "."], ["is a folder without experiment.json"]),
        (["verdict", "digits-mlp"], ["no study in studies/digits-mlp yet"]),
        (["verdict", "digits-mlp", "--sweep.seeds", "1"], ["verdict does not take"]),
        (["resume", "digits-mlp"], ["resume needs the folder of a study"]),
        (["run", "digits-mlp", "--workers", "0"], ["--workers must be at least 1 and", "got 0"]),
        (["run", "digits-mlp", "--workers", "9999"], ["at most the cores", "got 9999"]),
        (["train", "--recipe", "none.json"], ["no recipe at none.json"]),
        (["train"], ["--recipe"]),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], words: list[str], command: Command, tmp_path: Path
) -> None:
    changes = {
        "field": ("steps = 4", "stepz = 4"),
        "norm": ('hidden = { norm = "spectral" }', 'hidden = { norm = "spctral" }'),
        "widths": ("widths = [4, 8]", "widths = [8, 4]"),
        "empty": ("widths = [4, 8]", "widths = []"),
        "stepsize": ('name = "scion"', 'name = "scion"\nstepsize = -1.0'),
        "alpha": ('name = "scion"', 'name = "scion"\nalpha = 1.5'),
        "radius": (
            'hidden = { norm = "spectral" }',
            'hidden = { norm = "spectral", radius = 0.0 }',
        ),
    }
    for name, (old, new) in changes.items():
        (tmp_path / f"{name}.toml").write_text(SMALL.replace(old, new))
    (tmp_path / "bad.toml").write_text("name = ")
    line = one_line(command(*arguments, cwd=tmp_path))
    for word in words:
        assert word in line
    assert not (tmp_path / "studies").exists(), "nothing is begun on bad input"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep.widthz", "4"], "widthz"),
        (["--sweep.widths", "a"], "widths"),
        (["--arms.scion.optimizer.alpha", "0"], "alpha must be in (0, 1], got 0"),
        (["--arms.scion.optimizer.roles.hidden.norm", "spctral"], "spctral"),
        (["--arms.scion.optimizer.constrained", "True"], "at most 2^0 when constrained"),
    ],
)
def test_bad_fields_are_explained(
    arguments: list[str], words: str, command: Command, tmp_path: Path
) -> None:
    done = command("run", "digits-mlp", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert words in " ".join(done.stderr.replace("│", " ").split())
    assert not (tmp_path / "studies").exists()


def test_another_experiment_in_the_folder_is_refused_by_field(
    study: Path, command: Command
) -> None:
    before = sorted(study.rglob("*"))
    line = one_line(command("run", str(study), "--train.steps", "9", cwd=study.parent))
    assert "train.steps (4 there, 9 here)" in line
    fewer = one_line(command("run", str(study), "--sweep.seeds", "1", cwd=study.parent))
    assert "sweep.seeds ([1, 2] there, [1] here)" in fewer
    assert sorted(study.rglob("*")) == before


def test_unwritable_study_folder(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    line = one_line(command("run", "digits-mlp", "--study", "file", cwd=tmp_path))
    assert "file exists and is no study" in line
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    line = one_line(command("run", "digits-mlp", "--study", "other", cwd=tmp_path))
    assert "other exists and is no study" in line
    line = one_line(command("run", "digits-mlp", "--study", "/proc/no/where", cwd=tmp_path))
    assert "/proc/no" in line


def test_damaged_records_are_reported_kept_and_computed_again(
    study: Path, command: Command
) -> None:
    files = sorted((study / "records").rglob("*.jsonl"))
    files[0].write_bytes(files[0].read_bytes()[:-40])
    flipped = bytearray(files[1].read_bytes())
    flipped[len(flipped) // 2] ^= 4
    files[1].write_bytes(flipped)
    files[2].write_bytes(b"")
    damaged = {f: f.read_bytes() for f in files[:3]}
    before = pd.read_csv(study / "results" / "runs.csv").drop(columns=list(CIRCUMSTANCES))
    done = command("run", str(study), cwd=study.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is damaged") >= 2 and "is empty" in done.stdout
    assert {f: f.read_bytes() for f in files[:3]} == damaged
    after = pd.read_csv(study / "results" / "runs.csv").drop(columns=list(CIRCUMSTANCES))
    pd.testing.assert_frame_equal(before, after, check_exact=True)


def test_bad_recipes(study: Path, command: Command) -> None:
    path = study / "results" / "recipe.json"
    recipe = json.loads(path.read_text())

    def refused(change: dict[str, object]) -> str:
        path.write_text(json.dumps({**recipe, **change}))
        return one_line(command("train", "--recipe", str(path), "--width", "8", cwd=study))

    assert "has version 99, newer than" in refused({"version": 99})
    assert "field must be one of" in refused({"extra": 1})
    path.write_text("{")
    assert "cannot be read as a recipe" in one_line(
        command("train", "--recipe", str(path), cwd=study)
    )
    # For other roles: the model is given biases, for which the recipe has no rule.
    path.write_text(json.dumps(recipe))
    done = command("train", "--recipe", str(path), "--model.bias", "True", cwd=study)
    assert done.returncode == 2
    assert "role 'bias' has no rule" in done.stderr and "Traceback" not in done.stderr


# --- what an unkind user does ----------------------------------------------------------------


def test_arms_without_star_or_search_and_a_model_without_hidden_layers(
    command: Command, tmp_path: Path
) -> None:
    text = SMALL.replace("star = { output = [0.5] }\n", "").replace("depth = 3", "depth = 2")
    text = text.replace("search = { stepsize = [-7, -5] }", "")
    (tmp_path / "bare.toml").write_text(
        text.replace("[arms.adamw.optimizer]\n", "[arms.adamw.optimizer]\nstepsize = 0.03\n")
    )
    done = command("run", "bare.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "radii: not tested" in done.stdout
    runs = pd.read_csv(tmp_path / "studies" / "small" / "results" / "runs.csv")
    swept = runs[(runs["arm"] == "adamw") & (runs["purpose"] == "sweep")]
    assert set(swept["stepsize"]) == {0.015, 0.03, 0.06}, "a stepsize that is given is not rounded"


def test_judging_another_experiment_than_the_study_is_refused(
    study: Path, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "other.toml").write_text(SMALL.replace("epsilon = 0.05", "epsilon = 0.5"))
    line = one_line(command("verdict", "other.toml", "--study", str(study), cwd=tmp_path))
    assert "verdict.epsilon (0.05 there, 0.5 here)" in line
    line = one_line(command("verdict", "nonsense", "--study", str(study), cwd=tmp_path))
    assert "preset must be one of" in line


@pytest.mark.slow
def test_more_seeds_halve_the_level(study: Path, command: Command) -> None:
    done = command("run", str(study), "--sweep.seeds", "1", "2", "3", cwd=study.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    arms = json.loads((study / "results" / "verdict.json").read_text())["arms"]
    assert arms["scion"]["stepsize"]["level"] == 0.025
    assert "level 0.025" in done.stdout


def test_a_batch_larger_than_the_data_is_bad_input(
    study: Path, command: Command, tmp_path: Path
) -> None:
    large = ["--train.batch-size", "5000"]
    line = one_line(command("run", "digits-mlp", *large, cwd=tmp_path))
    assert "batch_size must be at most the 1437 training examples of digits, got 5000" in line
    assert not (tmp_path / "studies" / "digits-mlp").exists()
    recipe = str(study / "results" / "recipe.json")
    line = one_line(command("train", "--recipe", recipe, "--batch-size", "5000", cwd=tmp_path))
    assert "got 5000" in line


def test_names_that_do_not_exist_get_the_nearest(process: Command, tmp_path: Path) -> None:
    for old, new, near in (
        ('norm = "spectral" }', 'norm = "spctral" }', "spectral"),
        ('name = "scion"', 'name = "scoin"', "scion"),
    ):
        (tmp_path / "near.toml").write_text(SMALL.replace(old, new))
        assert f"did you mean '{near}'?" in one_line(process("run", "near.toml", cwd=tmp_path))


@pytest.mark.slow
def test_a_terminal_without_utf8_loses_nothing(study: Path, process: Command) -> None:
    done = process("verdict", str(study), cwd=study, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "stepsize:" in done.stdout


def test_numerics_of_another_version_are_named(study: Path, command: Command) -> None:
    path = study / "results" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["run"]["numerics"] = 0
    path.write_text(json.dumps(recipe))
    done = command("train", "--recipe", str(path), "--width", "8", cwd=study)
    assert done.returncode == 0, done.stderr
    assert f"outside the verdict: numerics 0 -> {NUMERICS}" in done.stdout
