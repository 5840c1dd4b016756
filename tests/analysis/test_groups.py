"""Tables of several groups, and metrics of which more is better."""

import dataclasses

import pandas as pd
import pytest

from analysis import Verdict, verdicts
from tests.analysis.test_claims import judged, sweep


def two_groups() -> pd.DataFrame:
    """Return adamw, whose optimum drifts, before scion, whose optimum does not."""
    drifts = sweep((-3.0, -4.0, -5.0, -6.0)).assign(optimizer="adamw", batch=32)
    return pd.concat([drifts, sweep((-3.0,) * 4).assign(batch=64)], ignore_index=True)


def test_each_on_its_own_in_the_order_of_the_table() -> None:
    found = verdicts(two_groups(), group="optimizer", epsilon=0.005)
    assert [(name, v.status) for name, v in found.items()] == [
        ("adamw", "does not transfer"),
        ("scion", "transfers"),
    ]
    assert [v.fixed for v in found.values()] == [
        {"depth": 3, "batch": 32},
        {"depth": 3, "batch": 64},
    ]
    one = two_groups().query("optimizer == 'scion'")
    alone = verdicts(one, epsilon=0.005)[""]
    assert dataclasses.replace(alone, group="scion", fixed={}) == dataclasses.replace(
        found["scion"], fixed={}
    )
    assert alone.fixed["optimizer"] == "scion", "a column that is not named and does not vary"


def test_columns_that_no_verdict_can_hold_are_left_out() -> None:
    df = sweep((-3.0,) * 4).assign(tags=[["a"]] * 96, empty=None, missing=float("nan"))
    assert verdicts(df, epsilon=0.005)[""].fixed == {"optimizer": "scion", "depth": 3}


def test_errors_name_the_group() -> None:
    df = two_groups()
    df.loc[df["optimizer"] == "scion", "val_loss"] = None
    with pytest.raises(ValueError, match="optimizer 'scion': every run at width 32 diverged"):
        verdicts(df, group="optimizer", epsilon=0.005)
    df.loc[3, "optimizer"] = None
    with pytest.raises(ValueError, match="'optimizer' must name the group of every run"):
        verdicts(df, group="optimizer", epsilon=0.005)
    with pytest.raises(ValueError, match="no column 'optimiser'; did you mean 'optimizer'"):
        verdicts(df, group="optimiser", epsilon=0.005)


@pytest.mark.parametrize("optima", [(-3.0,) * 4, (-3.0, -4.0, -5.0, -6.0), (-3.0, -3.0, -3.0, 0.0)])
def test_more_of_the_negative_is_as_good(optima: tuple[float, ...]) -> None:
    """The same numbers of either sign, apart from the metric's own."""
    df = sweep(optima).assign(accuracy=lambda table: 1 - table["val_loss"])
    less = judged(df.assign(val_loss=df["val_loss"] - 1))
    more = judged(df.assign(val_loss=df["accuracy"]), maximise=True)

    def flipped(v: Verdict) -> Verdict:
        rows = tuple(
            dataclasses.replace(
                row,
                best_loss=None if row.best_loss is None else -row.best_loss,
                loss_at_transferred=(
                    None if row.loss_at_transferred is None else -row.loss_at_transferred
                ),
            )
            for row in v.rows
        )
        return dataclasses.replace(v, maximise=not v.maximise, rows=rows)

    assert more.maximise and flipped(more) == less
    assert more.rows[0].best_loss is not None and more.rows[0].best_loss > 0.3
    assert Verdict.from_dict(more.to_dict()) == more


def test_epsilon_of_an_accuracy_is_a_share_of_the_best() -> None:
    df = sweep((-3.0,) * 4).assign(val_loss=lambda table: 1 - table["val_loss"])
    found = verdicts(df, maximise=True)[""]
    assert found.epsilon == pytest.approx(0.005 * 0.4, rel=0.02)


def test_radii_that_were_not_varied_are_not_tested() -> None:
    df = sweep((-3.0,) * 4)
    assert "radii: not tested" in verdicts(df)[""].notes
    named = verdicts(df.rename(columns={"stepsize": "radius_hidden"}), x="radius_hidden")
    assert not any("radii" in note for note in named[""].notes)
