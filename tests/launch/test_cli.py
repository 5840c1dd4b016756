"""The command line as a user types it."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from launch.commands import COMMANDS
from tests.launch.conftest import SMALL, Command

FILES = {
    "runs.csv",
    "runs.parquet",
    "tuned.json",
    "verdict.json",
    "recipe.json",
    "figures/loss_against_stepsize.png",
    "figures/loss_against_stepsize.svg",
    "figures/scaling.png",
    "figures/scaling.svg",
    "figures/radii_scion.png",
    "figures/radii_scion.svg",
}


def one_line(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """Check that a command ended with one line on stderr and no traceback."""
    assert done.returncode == code, done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("lmo-transfer: ")
    return lines[0]


@pytest.fixture
def study(finished: tuple[Path, str], tmp_path: Path) -> Path:
    """Return a copy of the finished study that may be changed."""
    copy = tmp_path / "studies" / "small"
    shutil.copytree(finished[0], copy)
    return copy


# --- help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", *COMMANDS])
def test_help_fits_on_a_screen_and_shows_an_example(
    name: str, command: Command, tmp_path: Path
) -> None:
    done = command(*name.split(), "--help", cwd=tmp_path, COLUMNS="80")
    assert done.returncode == 0 and not done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 100
    assert "Example: lmo-transfer " in done.stdout


def test_every_example_in_the_help_is_accepted(command: Command, tmp_path: Path) -> None:
    for name, entry in COMMANDS.items():
        words = entry.example.split(">")[0].split()
        assert words[:2] == ["lmo-transfer", name]
        if name in ("presets", "show", "list"):
            assert command(*words[1:], cwd=tmp_path).returncode == 0


def test_version_and_no_arguments(command: Command, tmp_path: Path) -> None:
    assert command("--version", cwd=tmp_path).stdout.startswith("lmo-transfer 0.")
    assert "usage" in command(cwd=tmp_path).stdout


# --- the whole loop --------------------------------------------------------------------------


def test_run_writes_every_file_and_names_it(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    for name in FILES:
        assert (folder / "results" / name).stat().st_size > 100
        assert f"studies/small/results/{name}" in printed
    assert "next: lmo-transfer train --recipe" in printed
    assert "16 (new)" in printed, "the width that was not swept, beside the swept ones"
    assert "runs in the table" not in printed


def test_run_again_trains_nothing_and_changes_no_result(study: Path, command: Command) -> None:
    before = (study / "results" / "runs.csv").read_bytes()
    records = sorted((study / "records").rglob("*"))
    done = command("run", str(study), cwd=study.parent)
    assert done.returncode == 0, done.stderr
    assert "runs in the table" in done.stdout
    assert (study / "results" / "runs.csv").read_bytes() == before
    assert sorted((study / "records").rglob("*")) == records


def test_stages_one_by_one_give_the_same_as_run(
    finished: tuple[Path, str], command: Command, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    tuned = command("tune", "small.toml", cwd=tmp_path)
    assert "next: lmo-transfer sweep studies/small" in tuned.stdout
    early = one_line(command("verdict", "small.toml", cwd=tmp_path))
    assert "runs are missing: lmo-transfer sweep studies/small" in early
    for stage in ("sweep", "verdict", "plot", "export"):
        done = command(stage, "studies/small", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "next: lmo-transfer" in done.stdout
    ours, theirs = tmp_path / "studies" / "small" / "results", finished[0] / "results"
    assert {str(p.relative_to(ours)) for p in ours.rglob("*") if p.is_file()} == FILES
    for name in ("verdict.json", "tuned.json", "figures/scaling.svg"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    drop = ["wall_s", "host", "finished"]
    frames = [pd.read_parquet(f / "runs.parquet").drop(columns=drop) for f in (ours, theirs)]
    swept = frames[1][frames[1]["purpose"] != "check"].reset_index(drop=True)
    pd.testing.assert_frame_equal(frames[0], swept, check_exact=True)


def test_verdict_as_json_and_exit_code(study: Path, command: Command) -> None:
    done = command("verdict", str(study), "--json", "--exit-code", cwd=study)
    told = json.loads(done.stdout)
    status = told["arms"]["scion"]["stepsize"]["status"]
    assert done.returncode == {"transfers": 0, "does not transfer": 3, "undecided": 4}[status]
    assert set(told["arms"]) == {"scion", "adamw"}
    assert told["arms"]["scion"]["stepsize"]["fixed"]["batch_size"] == 64
    assert told["arms"]["scion"]["radii"]["status"] != "not tested"


def test_growing_reuses_runs_and_keeps_the_old_file(study: Path, command: Command) -> None:
    before = len(pd.read_csv(study / "results" / "runs.csv"))
    done = command("sweep", str(study), "--sweep.widths", "4", "8", "12", cwd=study.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    old = json.loads((study / "experiments" / "0001.json").read_text())
    assert old["sweep"]["widths"] == [4, 8]
    after = pd.read_csv(study / "results" / "runs.csv")
    assert set(after["width"]) >= {4, 8, 12} and len(after) > before


def test_train_with_a_recipe(study: Path, command: Command) -> None:
    recipe = str(study / "results" / "recipe.json")
    done = command(
        "train", "--recipe", recipe, "--width", "20", "--seeds", "7", "8", "--steps", "5", cwd=study
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "outside the verdict: steps 4 -> 5" in done.stdout
    assert done.stdout.count("width 20 seed") == 2
    again = command(
        "train", "--recipe", recipe, "--width", "20", "--seeds", "7", "8", "--steps", "5", cwd=study
    )
    assert "2 of 2 runs in the table" in again.stdout


def test_a_diverged_run_is_recorded_and_the_sweep_goes_on(command: Command, tmp_path: Path) -> None:
    text = SMALL.replace("search = { stepsize = [-7, -5] }", "").replace(
        "octaves_above = 1", "octaves_above = 12"
    )
    (tmp_path / "wild.toml").write_text(text)
    done = command("run", "wild.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = pd.read_csv(tmp_path / "studies" / "small" / "results" / "runs.csv")
    wild = runs[runs["status"] == "diverged"]
    assert len(wild) > 0 and (wild["stopped_step"] >= 0).all()
    assert (runs["status"] != "failed").all()


def test_failed_runs_give_exit_code_5_and_are_retried_on_request(
    study: Path, command: Command
) -> None:
    # A batch larger than the data makes every run of the new width fail; here the record of one
    # run is replaced by a failed one, as a crash would have left it.
    from dataclasses import replace

    from sweeps.table import RunTable

    table = RunTable(study)
    rows = table.read()
    swept = pd.read_csv(study / "results" / "runs.csv")
    victim = swept[(swept["purpose"] == "sweep") & (swept["arm"] == "adamw")]["run_id"].iloc[-1]
    shutil.rmtree(study / "records")
    kept = [row for row in rows.values() if row.run_id != victim]
    RunTable(study).publish(
        [*kept, replace(rows[victim], status="failed", val_loss=None, error="MemoryError: none")]
    )
    done = command("run", str(study), cwd=study.parent)
    assert done.returncode == 5
    assert "1 runs failed" in done.stdout and "MemoryError: none" in done.stdout
    assert "--retry-failed" in done.stdout
    retried = command("resume", str(study), "--retry-failed", cwd=study.parent)
    assert retried.returncode == 0, retried.stdout + retried.stderr


# --- lists -----------------------------------------------------------------------------------


def test_list_and_presets(finished: tuple[Path, str], command: Command, tmp_path: Path) -> None:
    assert "no studies in studies" in command("list", cwd=tmp_path).stdout
    listed = command("list", "--root", str(finished[0].parent), cwd=tmp_path).stdout
    assert "small" in listed and "scion" in listed and "runs" in listed
    assert "digits-mlp" in command("presets", cwd=tmp_path).stdout


def test_show_prints_what_run_accepts(command: Command, tmp_path: Path) -> None:
    shown = command("show", "digits-mlp", cwd=tmp_path).stdout
    (tmp_path / "mine.toml").write_text(shown)
    assert command("show", "mine.toml", cwd=tmp_path).stdout == shown
    changed = command("show", "mine.toml", "--sweep.widths", "64", "128", cwd=tmp_path)
    assert tomllib.loads(changed.stdout)["sweep"]["widths"] == [64, 128]
    fields = command("show", "digits-mlp", "--fields", cwd=tmp_path).stdout
    assert "--arms.scion.optimizer.roles.hidden.radius" in fields
    assert "Radius rho of the ball" in fields


def test_quick_commands_import_nothing_heavy(tmp_path: Path) -> None:
    import sys

    code = (
        "import sys; from launch.cli import main\n"
        "for words in (['list'], ['presets'], ['show', 'digits-mlp'], ['run', '--help']):\n"
        "    main(words)\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'optuna', 'sklearn', 'scipy', 'submitit'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


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
        (["run", "digits-mlp", "--workers", "0"], ["--workers must be at least 1, got 0"]),
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
    before = pd.read_csv(study / "results" / "runs.csv").drop(
        columns=["wall_s", "host", "finished"]
    )
    done = command("run", str(study), cwd=study.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is damaged") >= 2 and "is empty" in done.stdout
    assert {f: f.read_bytes() for f in files[:3]} == damaged
    after = pd.read_csv(study / "results" / "runs.csv").drop(columns=["wall_s", "host", "finished"])
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


def test_names_that_do_not_exist_get_the_nearest(command: Command, tmp_path: Path) -> None:
    for old, new, near in (
        ('norm = "spectral" }', 'norm = "spctral" }', "spectral"),
        ('name = "scion"', 'name = "scoin"', "scion"),
    ):
        (tmp_path / "near.toml").write_text(SMALL.replace(old, new))
        assert f"did you mean '{near}'?" in one_line(command("run", "near.toml", cwd=tmp_path))


def test_a_terminal_without_utf8_loses_nothing(study: Path, command: Command) -> None:
    done = command("verdict", str(study), cwd=study, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "stepsize:" in done.stdout


def test_numerics_of_another_version_are_named(study: Path, command: Command) -> None:
    path = study / "results" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["run"]["numerics"] = 0
    path.write_text(json.dumps(recipe))
    done = command("train", "--recipe", str(path), "--width", "8", cwd=study)
    assert done.returncode == 0, done.stderr
    assert "outside the verdict: numerics 0 -> 1" in done.stdout
