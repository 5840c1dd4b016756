"""Judging coordinate checks: exponents of width, their intervals, and the rule."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import CoordinateCheck, Slope, check_coordinates, plot_coordinates, save

WIDTHS = (32, 64, 128, 256)
Value = Callable[[int, int], float]


def table(
    values: dict[tuple[str, str], Value],
    *,
    noise: float = 0.0,
    seeds: int = 3,
    widths: tuple[int, ...] = WIDTHS,
    steps: int = 2,
) -> pd.DataFrame:
    """Rows of value(width, step) * 2^noise for every (layer, quantity)."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "width": width,
            "seed": seed,
            "step": step,
            "layer": layer,
            "role": "hidden",
            "quantity": quantity,
            "value": value(width, step) * 2 ** (noise * rng.standard_normal()),
        }
        for (layer, quantity), value in values.items()
        for width in widths
        for seed in range(seeds)
        for step in range(steps + 1)
        if step or quantity in ("activation", "weight")
    )


def grows(exponent: float) -> Value:
    return lambda width, step: 0.3 * width**exponent


def judged(activation: float, change: float, noise: float = 0.0) -> CoordinateCheck:
    values = {("a", "activation"): grows(activation), ("a", "change"): grows(change)}
    return check_coordinates(table(values, noise=noise))


def the(checked: CoordinateCheck, quantity: str) -> Slope:
    worst = checked.layers[0].worst(quantity)
    assert worst is not None
    return worst


# --- the rule --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "change", "status"),
    [
        (0.0, 0.0, "passes"),
        (0.24, 0.24, "passes"),
        (-0.5, 0.0, "passes"),  # first outputs of random signs / d_in
        (0.26, 0.0, "fails"),
        (0.5, 0.0, "fails"),
        (0.0, 0.5, "fails"),
        (0.0, -0.5, "fails"),
    ],
)
def test_the_bounds(activation: float, change: float, status: str) -> None:
    checked = judged(activation, change)
    assert checked.status == status
    assert the(checked, "activation").slope == pytest.approx(activation)
    assert the(checked, "change").slope == pytest.approx(change)
    assert the(checked, "change").last == pytest.approx(change)


def test_noise_makes_it_undecided_and_says_what_helps() -> None:
    checked = judged(0.0, 0.2, noise=0.3)
    assert checked.status == "undecided"
    assert "change ~ width^" in checked.reason and "More seeds" in checked.reason


def test_one_step_is_enough_to_fail() -> None:
    late = table({("a", "activation"): lambda w, t: w**0.5 if t == 2 else 1.0})
    checked = check_coordinates(late)
    assert checked.status == "fails"
    assert checked.reason == "a: activation ~ width^+0.50 at step 2 (95 %: +0.50 … +0.50)."


def test_one_layer_is_enough_to_fail() -> None:
    checked = check_coordinates(
        table({("a", "change"): grows(0), ("b", "change"): grows(1), ("c", "change"): grows(0)})
    )
    assert [layer.status for layer in checked.layers] == ["passes", "fails", "passes"]
    assert checked.status == "fails" and checked.reason.startswith("b: change ~ width^+1.00")


def test_weights_and_updates_are_described_and_not_judged() -> None:
    values = {("a", "change"): grows(0), ("a", "weight"): grows(0.5), ("b", "update"): grows(1)}
    checked = check_coordinates(table(values))
    assert checked.status == "passes"
    assert the(checked, "weight").slope == pytest.approx(0.5)
    assert checked.layers[1].status == "not judged" and checked.layers[1].reason == ""


def test_interval_is_students_from_all_points() -> None:
    rows = table({("a", "change"): grows(0.1)}, noise=0.1, steps=1)
    line = stats.linregress(np.log2(rows["width"]), np.log2(rows["value"]))
    half = stats.t.ppf(0.975, len(rows) - 2) * line.stderr
    found = the(check_coordinates(rows), "change")
    assert found.slope == pytest.approx(line.slope)
    assert (found.low, found.high) == pytest.approx((line.slope - half, line.slope + half))


def test_intervals_cover_the_slope() -> None:
    covered = 0
    for draw in range(200):
        rng = np.random.default_rng(draw)
        rows = table({("a", "change"): grows(0.1)}, steps=1)
        rows["value"] *= 2 ** (0.2 * rng.standard_normal(len(rows)))
        found = the(check_coordinates(rows), "change")
        assert found.low is not None and found.high is not None
        covered += found.low <= 0.1 <= found.high
    assert 180 <= covered <= 199


def test_a_bend_widens_the_interval_and_shows_in_the_last_slope() -> None:
    bent = the(
        check_coordinates(table({("a", "change"): lambda w, t: min(w, 64) ** -0.5})), "change"
    )
    assert bent.slope == pytest.approx(-0.15) and bent.last == pytest.approx(0.0)
    assert bent.low is not None and bent.low < -0.22


def test_too_few_points_for_an_interval_is_undecided() -> None:
    checked = check_coordinates(table({("a", "change"): grows(0)}, seeds=1, widths=(32, 64)))
    assert checked.status == "undecided" and "too few points" in checked.reason


# --- values that have no logarithm -----------------------------------------------------------


def test_nothing_has_moved_yet() -> None:
    checked = check_coordinates(table({("a", "change"): lambda w, t: 0.0 if t == 1 else 1.0}))
    assert checked.status == "passes"
    first = checked.layers[0].slopes[0]
    assert (first.status, first.problem) == ("not judged", "0 in all runs")


@pytest.mark.parametrize(
    ("value", "problem"),
    [(0.0, "0 at width 256"), (math.inf, "not finite at width 256"), (math.nan, "not finite")],
)
def test_a_value_that_vanished_or_diverged_fails(value: float, problem: str) -> None:
    checked = check_coordinates(
        table({("a", "change"): lambda w, t: value if w == 256 and t == 2 else 1.0})
    )
    assert checked.status == "fails" and problem in checked.reason
    assert the(checked, "change").step == 2
    json.dumps(checked.to_dict(), allow_nan=False)


# --- tables ----------------------------------------------------------------------------------

GOOD = table({("a", "activation"): grows(0), ("a", "change"): grows(0)})


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (GOOD.drop(columns=["layer", "value"]), "columns layer, value are missing: the table has"),
        (GOOD.assign(value="big"), "column 'value' must hold numbers"),
        (GOOD.assign(value=-1.0), "column 'value' must hold sizes, at least 0, got -1.0"),
        (GOOD.assign(width=0), "column 'width' must hold integers from 1, got 0"),
        (GOOD.assign(step=0.5), "column 'step' must hold integers from 0, got 0.5"),
        (GOOD.assign(seed=np.nan), "column 'seed' must hold integers from 0, got nan"),
        (pd.concat([GOOD, GOOD]), "measured twice: width 32, seed 0, step 0, layer a, quantity"),
        (GOOD[GOOD["width"] == 32], "at least two widths are needed, got [32]"),
        (GOOD.assign(quantity="weight", layer=GOOD.index.astype(str)), "nothing to judge"),
        (GOOD.iloc[:0], "at least two widths"),
    ],
)
def test_bad_tables(rows: pd.DataFrame, words: str) -> None:
    with pytest.raises(ValueError) as error:
        check_coordinates(rows)
    assert words in str(error.value)


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_bad_bounds(bound: float) -> None:
    with pytest.raises(ValueError, match="bound must be a finite number above 0"):
        check_coordinates(GOOD, bound=bound)


def test_as_data() -> None:
    told = check_coordinates(GOOD).to_dict()
    assert told["status"] == "passes" and told["bound"] == 0.25
    assert "within -0.25 … +0.25" in told["rule"]
    assert told["widths"] == list(WIDTHS) and told["num_seeds"] == 3 and told["num_steps"] == 2
    assert json.loads(json.dumps(told, allow_nan=False)) == told


# --- the figure ------------------------------------------------------------------------------


def test_figure_shows_every_layer_quantity_and_outcome() -> None:
    rows = table(
        {("a", "activation"): grows(0), ("a", "change"): grows(0), ("b", "change"): grows(1)}
    )
    figure = plot_coordinates(rows, check_coordinates(rows), "arm")
    assert len(figure.axes) == 4, "2 layers, 2 quantities"
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "+1.00 [+1.00, +1.00] at step 1" in texts and "none" in texts
    assert [ax.get_ylabel() for ax in figure.axes[::2]] == ["a\nhidden: passes", "b\nhidden: fails"]
    assert figure.get_suptitle() == "arm: fails"


def test_figure_of_many_layers_shows_the_worst_of_each_role() -> None:
    for exponent, outcome in ((1.0, "fails"), (-0.2, "passes")):
        values = {(f"l{i}", "change"): grows(exponent if i == 5 else 0.1) for i in range(9)}
        rows = table(values)
        figure = plot_coordinates(rows, check_coordinates(rows))
        assert [ax.get_ylabel() for ax in figure.axes] == [f"l5\nhidden: {outcome}"]


def test_figure_of_diverged_values_can_be_saved(tmp_path: Path) -> None:
    rows = table({("a", "change"): lambda w, t: math.nan, ("b", "change"): lambda w, t: 0.0})
    files = save(plot_coordinates(rows, check_coordinates(rows)), tmp_path / "figure")
    assert all(file.stat().st_size > 1000 for file in files)


def test_a_notebook_shows_a_check() -> None:
    text = judged(0.0, 1.0)._repr_html_()
    assert ">fails</span>" in text and text.count("<tr>") == 2 and "width^+1" in text
    assert ">passes</span>" in judged(0.0, 0.0)._repr_html_()
