"""Reading tables and bringing them into the canonical form."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import SEED, STATUS, read_table, tidy


def _table(**changes: list[object]) -> pd.DataFrame:
    columns: dict[str, list[object]] = {
        "width": [32, 32, 64, 64],
        "lr": [0.5, 0.25, 0.5, 0.25],
        "seed": [1, 1, 1, 1],
        "loss": [1.0, 2.0, 3.0, 4.0],
    }
    return pd.DataFrame({**columns, **changes})


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl", ".json"])
def test_formats_agree(tmp_path: Path, ending: str) -> None:
    df = _table(loss=[1.0, float("nan"), 3.0, 4.0])
    path = tmp_path / f"runs{ending}"
    if ending == ".csv":
        df.to_csv(path, index=False)
    elif ending == ".parquet":
        df.to_parquet(path)
    else:
        df.to_json(path, orient="records", lines=True)
    pd.testing.assert_frame_equal(read_table(path), df, check_dtype=False)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("runs.xlsx", "x", r"must end in one of .*\.csv.*'runs\.xlsx'"),
        ("gone.csv", None, r"existing file.*gone\.csv"),
        ("empty.csv", "", r"could not read .*empty\.csv"),
        ("header.csv", "a,b\n", "at least one row"),
        ("torn.jsonl", '{"a": 1}\n{"a"', r"could not read .*torn\.jsonl"),
    ],
)
def test_unreadable_files_are_named(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


def test_canonical_form_is_sorted_and_typed() -> None:
    out = tidy(_table(), x="lr", y="loss", size="width")
    assert out.columns.tolist() == ["group", "size", "x", "seed", "loss"]
    assert out["x"].tolist() == [0.25, 0.5, 0.25, 0.5]
    assert out["size"].tolist() == [32, 32, 64, 64]
    assert out["loss"].tolist() == [2.0, 1.0, 4.0, 3.0]
    assert out["seed"].tolist() == [0, 0, 0, 0]
    assert out["size"].dtype == "int64" and set(out["group"]) == {""}


def test_missing_column_names_the_nearest_and_all() -> None:
    with pytest.raises(
        ValueError, match=r"no column 'widht'; did you mean 'width'\? Columns: width, lr, seed"
    ):
        tidy(_table(), x="lr", y="loss", size="widht")


def test_missing_column_without_a_near_one_reads_as_two_sentences() -> None:
    with pytest.raises(ValueError, match=r"no column 'qqq'\. Columns: width"):
        tidy(_table(), x="lr", y="loss", size="qqq")


def test_default_columns_may_be_missing_and_named_ones_may_not() -> None:
    df = _table().drop(columns="seed")
    out = tidy(df, x="lr", y="loss", size="width", seed=SEED, status=STATUS)
    assert out["seed"].tolist() == [0] * 4 and out["loss"].notna().all()
    for name in ("seed", "status"):
        with pytest.raises(ValueError, match=f"no column '{name}'"):
            tidy(df, x="lr", y="loss", size="width", **{name: name})


def test_default_columns_are_used_where_they_are_there() -> None:
    df = _table(seed=[7, 7, 7, 7], status=["diverged", "done", "done", "done"])
    out = tidy(df, x="lr", y="loss", size="width", seed=SEED, status=STATUS)
    assert out["seed"].tolist() == [7] * 4 and out["loss"].isna().sum() == 1


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("lr", [0.5, -0.25, 0.5, 0.25], r"'lr' must hold positive numbers, got -0\.25 in row 1"),
        ("lr", [0.5, "fast", 0.5, 0.25], "'lr' must hold numbers"),
        ("width", [32, None, 64, 64], "'width' must hold positive numbers, got nan"),
        ("seed", [1, 1.5, 1, 1], r"'seed' must hold integers, got 1\.5"),
        ("loss", [1.0, "bad", 3.0, 4.0], "'loss' must hold numbers"),
    ],
)
def test_bad_values_are_named(column: str, values: list[object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tidy(_table(**{column: values}), x="lr", y="loss", size="width", seed="seed")


def test_divergence_is_nan_and_failures_are_only_counted() -> None:
    df = _table(loss=[1.0, float("inf"), None, 4.0], status=["diverged", "done", "done", "failed"])
    out = tidy(df, x="lr", y="loss", size="width", seed="seed", status="status")
    assert len(out) == 3 and out["loss"].isna().all()
    assert out.attrs["num_failed"] == 1


def test_unknown_status_is_refused() -> None:
    df = _table(status=["done", "done", "running", "done"])
    with pytest.raises(ValueError, match="'status' must hold one of .*'diverged'.* got 'running'"):
        tidy(df, x="lr", y="loss", size="width", status="status")


def test_copies_collapse_and_contradictions_raise() -> None:
    df = _table()
    twice = pd.concat([df, df.iloc[[2]]], ignore_index=True)
    assert len(tidy(twice, x="lr", y="loss", size="width", seed="seed")) == 4
    twice.loc[4, "loss"] = 9.0
    with pytest.raises(
        ValueError, match=r"2 different results \[3\.0, 9\.0\]: width 64, lr .*, seed"
    ):
        tidy(twice, x="lr", y="loss", size="width", seed="seed")


def test_rounding_does_not_split_a_grid_point() -> None:
    df = _table(lr=[0.1, 0.3, np.nextafter(0.1, 1), 0.1 + 0.2])
    assert tidy(df, x="lr", y="loss", size="width")["x"].nunique() == 2


def test_import_is_light() -> None:
    code = (
        "import sys, analysis; "
        "assert not {'pandas', 'matplotlib', 'scipy', 'numpy'} & set(sys.modules); "
        "assert analysis.__doc__.startswith('lmo-transfer'); "
        "[getattr(analysis, n) for n in analysis.__all__]; "
        "assert 'matplotlib.pyplot' not in sys.modules; "
        "assert not {'transfer', 'sweeps', 'launch'} & set(sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
