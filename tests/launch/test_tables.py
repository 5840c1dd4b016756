"""`verdict` on a table of runs that was not made here."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.analysis.test_groups import two_groups
from tests.launch.conftest import Command, one_line

NAMED = ("--x", "lr", "--y", "loss", "--size", "params", "--seed", "rep", "--epsilon", "0.005")


@pytest.fixture
def table(tmp_path: Path) -> pd.DataFrame:
    """Return a foreign table; it is in the folder as sweep.csv too."""
    names = {"stepsize": "lr", "val_loss": "loss", "width": "params", "seed": "rep"}
    df = two_groups().rename(columns=names).drop(columns=["status"])
    df.to_csv(tmp_path / "sweep.csv", index=False)
    return df


def test_every_format_gives_the_same(table: pd.DataFrame, tmp_path: Path, command: Command) -> None:
    table.to_parquet(tmp_path / "sweep.parquet")
    table.to_json(tmp_path / "sweep.jsonl", orient="records", lines=True, double_precision=15)
    named = (*NAMED, "--group", "optimizer")
    printed = {
        ending: command("verdict", f"sweep.{ending}", *named, cwd=tmp_path)
        for ending in ("csv", "parquet", "jsonl")
    }
    assert {done.returncode for done in printed.values()} == {0}
    assert len({done.stdout for done in printed.values()}) == 1
    text = printed["csv"].stdout
    assert "lr: does not transfer." in text and "lr: transfers." in text
    assert "holds for: depth 3, batch 32" in text and "--sweep.seeds" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "sweep.csv",
        "sweep.jsonl",
        "sweep.parquet",
    ], "nothing is written"


@pytest.mark.parametrize(
    ("chosen", "extra", "code"),
    [
        ("scion", (), 0),
        ("adamw", (), 3),
        ("one size", (), 4),
        ("scion", ("--transferred", "0.25"), 3),
    ],
)
def test_exit_codes(
    table: pd.DataFrame,
    tmp_path: Path,
    command: Command,
    chosen: str,
    extra: tuple[str, ...],
    code: int,
) -> None:
    parts = {
        "scion": table["optimizer"] == "scion",
        "adamw": table["optimizer"] == "adamw",
        "one size": (table["optimizer"] == "scion") & (table["params"] == 32),
    }
    table[parts[chosen]].to_csv(tmp_path / "one.csv", index=False)
    done = command("verdict", "one.csv", *NAMED, "--exit-code", *extra, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr


def test_json_and_more_is_better(table: pd.DataFrame, tmp_path: Path, command: Command) -> None:
    table.assign(loss=1 - table["loss"]).to_csv(tmp_path / "accuracy.csv", index=False)
    options = (*NAMED, "--group", "optimizer", "--maximise", "--level", "0.01", "--json")
    done = command("verdict", "accuracy.csv", *options, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["table"] == "accuracy.csv" and [*found["groups"]] == ["adamw", "scion"]
    scion = found["groups"]["scion"]
    assert scion["status"] == "transfers" and scion["maximise"] and scion["level"] == 0.01


def test_figures_are_drawn_where_they_are_asked_for(
    table: pd.DataFrame, tmp_path: Path, command: Command
) -> None:
    options = (*NAMED, "--group", "optimizer", "--figures", "drawn")
    done = command("verdict", "sweep.csv", *options, cwd=tmp_path)
    names = ["curves.png", "curves.svg", "scaling.png", "scaling.svg"]
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == names
    assert all(f"drawn/{name}" in done.stdout for name in names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.csv",), "must be an existing file, got 'missing.csv'"),
        (("sweep.csv", "--x", "lrr"), "no column 'lrr'; did you mean 'lr'?"),
        (("sweep.csv", *NAMED), "they differ in optimizer, batch: filter the table"),
        (("sweep.csv", *NAMED, "--group", "depht"), "no column 'depht'; did you mean 'depth'?"),
        (
            ("sweep.csv", *NAMED, "--group", "optimizer", "--epsilon", "0"),
            "epsilon must be a positive",
        ),
        (("sweep.csv", *NAMED, "--epsilon", "small"), "argument --epsilon: invalid float value"),
        (("sweep.csv", *NAMED, "--study", "mine"), "--study is for studies, and sweep.csv is"),
        (("digits-mlp", "--x", "lr"), "--x is for a table of runs"),
        (("digits-mlp", "--maximise"), "--maximise is for a table of runs"),
        (("digits-mlp", "--figures", "drawn"), "--figures is for a table of runs"),
        (("digits-mlp", "--epsilon", "0"), "--epsilon is for a table of runs"),
        (("sweep.csv", *NAMED, "--train.steps", "3"), "verdict does not take '--train.steps 3'"),
    ],
)
def test_bad_input(
    table: pd.DataFrame, tmp_path: Path, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    assert message in one_line(command("verdict", *arguments, cwd=tmp_path))


def test_negative_and_infinite_numbers_are_values(tmp_path: Path, command: Command) -> None:
    df = (
        two_groups().query("optimizer == 'scion'").assign(beta=lambda d: np.log2(d["stepsize"]) / 4)
    )
    df.drop(columns="stepsize").to_csv(tmp_path / "beta.csv", index=False)
    named = ("--x", "beta", "--linear", "beta", "--epsilon", "0.005", "--bounds", "beta", "-inf")
    done = command("verdict", "beta.csv", *named, "1", "--transferred", "-7.5e-1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "beta: transfers. Beta -0.75 is within" in done.stdout
    twice = command("verdict", "beta.csv", *named, "1", "--bounds", "beta", "0", "1", cwd=tmp_path)
    assert "--bounds must be given once for a column, got beta twice" in one_line(twice)
    wrong = command("verdict", "beta.csv", "--bounds", "beta", "low", "1", cwd=tmp_path)
    assert "--bounds must be a column and two numbers, got beta low 1" in one_line(wrong)


def test_names_with_brackets_are_printed_as_they_are(tmp_path: Path, command: Command) -> None:
    df = (
        two_groups().replace({"optimizer": {"adamw": "adam[/b]"}}).rename(columns={"width": "w[i]"})
    )
    df.to_csv(tmp_path / "odd.csv", index=False)
    done = command(
        "verdict", "odd.csv", "--size", "w[i]", "--group", "optimizer", "--epsilon", "0.005",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "adam[/b], transferred" in done.stdout and "w[i]" in done.stdout
