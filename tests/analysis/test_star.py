"""The star of radii: other radii at every size, judged by the same rule."""

import json

import numpy as np
import pandas as pd
import pytest

from analysis.claims import radii_verdict
from analysis.result import Verdict
from tests.analysis.test_claims import EPSILON, WIDTHS, at, sweep


def star(
    gain: float = -0.004, *, sigma: float = 0.0005, widths: int = 4
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A sweep at radii 1 and 8 and a star around it; `gain` is hidden radius 2's at width 256."""
    main = sweep((-3.0,) * 4, sigma=sigma).assign(radius_hidden=1.0, radius_output=8.0)
    rng = np.random.default_rng(9)
    parts = []
    for hidden, output in ((0.5, 8.0), (2.0, 8.0), (1.0, 2.0), (1.0, 32.0)):
        part = main[main["stepsize"].isin([2**-4, 2**-3, 2**-2])].copy()
        part["radius_hidden"], part["radius_output"] = hidden, output
        part["val_loss"] += 0.004 + rng.normal(0, sigma, len(part))
        part.loc[(part["width"] == 256) & (hidden == 2.0), "val_loss"] -= 0.004 + gain
        parts.append(part)
    df = pd.concat(parts, ignore_index=True)
    return main, df[df["width"].isin(WIDTHS[:widths])]


def _radii(main: pd.DataFrame, df: pd.DataFrame | None) -> Verdict:
    names = ("radius_hidden", "radius_output")
    return radii_verdict(main, df, transferred=0.125, epsilon=EPSILON, comparators=names)


def test_radii_need_the_transferred_setting_at_every_size() -> None:
    main, df = star()
    with pytest.raises(ValueError, match="missing at width 128;"):
        _radii(main[~at(main, 128, 2**-3)], df)


def test_radii_transfer() -> None:
    v = _radii(*star())
    assert v.status == "transfers" and v.hyperparameter == "radius_hidden, radius_output"
    assert v.transferred == {"radius_hidden": 1.0, "radius_output": 8.0, "stepsize": 0.125}
    assert len(v.comparisons) == 4 * 4 * 3
    one = next(
        c for c in v.comparisons
        if c.size == 64
        and c.comparator == {"radius_hidden": 0.5, "radius_output": 8.0, "stepsize": 0.125}
    )  # fmt: skip
    assert one.difference == pytest.approx(0.004, abs=0.001)
    assert one.low is not None and one.high is not None and one.difference is not None
    assert one.low < one.difference < one.high
    assert Verdict.from_dict(json.loads(json.dumps(v.to_dict()))) == v


def test_radii_do_not_transfer() -> None:
    v = _radii(*star(gain=0.02))
    assert v.status == "does not transfer"
    assert v.rows[-1].binding is not None and v.rows[-1].binding["radius_hidden"] == 2.0
    assert v.rows[-1].regret == pytest.approx(0.02, abs=0.002)
    assert "clearest against radius_hidden 2" in v.reason


def test_radii_not_tested() -> None:
    main, df = star()
    for nothing in (None, df.iloc[:0], main):
        v = _radii(main, nothing)
        assert v.status == "not tested" and v.rows == ()
        assert Verdict.from_dict(v.to_dict()) == v


def test_radii_not_tested_asks_nothing_of_the_radii() -> None:
    main, df = star()
    bare = main.assign(radius_hidden=None)
    for nothing in (None, df.iloc[:0]):
        assert _radii(bare, nothing).status == "not tested"
        assert _radii(main.drop(columns="radius_hidden"), nothing).status == "not tested"
    with pytest.raises(ValueError, match="one value of 'radius_hidden', got an empty column"):
        _radii(bare, df)
    with pytest.raises(ValueError, match="'radius_hidden' must hold finite numbers, got 'big'"):
        _radii(main.assign(radius_hidden="big"), df)


def test_tied_radii_keep_the_reference() -> None:
    main, df = star()
    v = _radii(main.assign(val_loss=0.5), df.assign(val_loss=0.5))
    assert v.status == "transfers" and all(row.best == v.transferred for row in v.rows)


def test_radii_at_some_sizes_only() -> None:
    v = _radii(*star(widths=2))
    assert v.status == "transfers" and "radii not tested at width 128, 256" in v.notes
    assert _radii(*star(widths=1)).status == "undecided"
    main, df = star()
    with pytest.raises(ValueError, match=r"width \[256\], which the main sweep lacks"):
        _radii(main[main["width"] < 256], df)


def test_main_sweep_with_several_radii_is_refused() -> None:
    main, df = star()
    with pytest.raises(ValueError, match="must have one value of 'radius_hidden'"):
        _radii(pd.concat([main, df]), df)


def test_a_star_needs_no_status_column() -> None:
    main, other = (part.drop(columns=["status"]) for part in star())
    assert _radii(main, other).status == "transfers"
