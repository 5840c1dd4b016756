"""The command line as a user types it."""

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import pandas as pd
import pytest

from launch.commands import COMMANDS, parser, split_source
from sweeps.frame import CIRCUMSTANCES
from tests.launch.conftest import SMALL, Command, one_line

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
    "figures/regret.png",
    "figures/regret.svg",
    "figures/training.png",
    "figures/training.svg",
    "figures/tuning.png",
    "figures/tuning.svg",
    "figures/radii_scion.png",
    "figures/radii_scion.svg",
    "report.html",
}


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
        _, rest = split_source(name, words[2:])
        _, fields = parser(name).parse_known_args(rest)
        if name == "train":
            assert fields == ["--width", "1024"], "a field of the run, not of an experiment"
        elif fields:
            assert command("show", "digits-mlp", *fields, cwd=tmp_path).returncode == 0


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
    for stage in ("sweep", "verdict", "plot", "report", "export"):
        done = command(stage, "studies/small", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "next: lmo-transfer" in done.stdout or stage == "report"
    ours, theirs = tmp_path / "studies" / "small" / "results", finished[0] / "results"
    papers = {name.replace(".svg", ".pdf") for name in FILES if name.endswith(".svg")}
    assert {str(p.relative_to(ours)) for p in ours.rglob("*") if p.is_file()} == FILES | papers
    for name in ("verdict.json", "tuned.json", "figures/scaling.svg"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    drop = list(CIRCUMSTANCES)
    frames = [pd.read_parquet(f / "runs.parquet").drop(columns=drop) for f in (ours, theirs)]
    swept = frames[1][frames[1]["purpose"] != "check"].reset_index(drop=True)
    pd.testing.assert_frame_equal(frames[0], swept, check_exact=True)


@pytest.mark.slow
def test_an_adaptive_sweep_is_the_part_that_decides(command: Command, tmp_path: Path) -> None:
    """Two octaves decide with an epsilon that everything is within; with one that noise reaches the
    rest is looked at too, and with a smaller one no other stepsize could help."""
    wide = SMALL.replace(
        "octaves_below = 2\noctaves_above = 1", "octaves_below = 5\noctaves_above = 4", 1
    )
    folder = tmp_path / "studies" / "small"
    part, whole = 10 + 6, 2 * 10
    for epsilon, cells in (("9.0", part), ("0.1", whole), ("0.02", part)):
        shutil.rmtree(tmp_path / "studies", ignore_errors=True)
        (tmp_path / "wide.toml").write_text(wide.replace("epsilon = 0.05", f"epsilon = {epsilon}"))
        done = command("sweep", "wide.toml", "--sweep.adaptive", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        judged = command("verdict", str(folder), cwd=tmp_path)
        runs = pd.read_csv(folder / "results" / "runs.csv")
        swept = runs[(runs["arm"] == "scion") & (runs["purpose"] == "sweep")]
        assert len(swept) == 2 * cells, "two seeds"
        told = f"note: {cells} of 20 cells of the grid were run" in judged.stdout
        assert told == (cells == part)
        assert ("stepsize: transfers" in judged.stdout) == (epsilon == "9.0")
        for name in ("plot", "export"):
            done = command(name, str(folder), cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        provenance = json.loads((folder / "results" / "recipe.json").read_text())["provenance"]
        assert sorted(swept["run_id"]) == provenance["sweep_run_ids"]


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


@pytest.mark.slow
def test_failed_runs_give_exit_code_5_and_are_retried_on_request(
    study: Path, command: Command
) -> None:
    # The record of one run is replaced by a failed one, as a crash would have left it.
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
        "quick = ['list'], ['presets'], ['show', 'digits-mlp'], ['run', '--help']\n"
        "for words in (*quick, ['describe', '--help']):\n"
        "    main(words)\n"
        "heavy = {'torch', 'pandas', 'matplotlib', 'optuna', 'sklearn', 'scipy', 'submitit'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_an_error_on_the_way_out_of_an_interruption_is_one() -> None:
    from launch.training import interrupted

    assert interrupted(KeyboardInterrupt()) and not interrupted(OSError("full disk"))
    try:
        try:
            raise KeyboardInterrupt
        finally:
            raise FileNotFoundError("the lock's file")  # as Optuna's journal does
    except FileNotFoundError as error:
        assert interrupted(error)
