"""Scales, bounds and grid points of hyperparameters."""

import math

import numpy as np
import pytest

from analysis.axes import Axis, axes_of


def test_a_logarithmic_axis() -> None:
    axis = Axis("lr")
    np.testing.assert_array_equal(axis.forward([0.25, 4.0]), [-2.0, 2.0])
    assert axis.back(-2.0) == 0.25
    assert axis.text(0.25) == "2^-2" and axis.text(0.3) == "0.3" and axis.text(4.0) == "4"


def test_a_linear_axis() -> None:
    axis = Axis("momentum", linear=True)
    np.testing.assert_array_equal(axis.forward([-0.25, 0.0]), [-0.25, 0.0])
    assert axis.back(-0.25) == -0.25
    assert axis.text(0.25) == "0.25"


def test_numbers_that_rounding_moved_are_one_grid_point() -> None:
    grid = np.arange(-0.3, 0.35, 0.1)  # its 0 is 5.6e-17
    linear = Axis("momentum", linear=True)
    assert linear.same(grid, 0.0).tolist() == [False] * 3 + [True] + [False] * 3
    snapped = linear.snap(np.concatenate([grid, [0.0, 0.1]]))
    assert len(set(snapped.tolist())) == 7
    # On a logarithmic scale small numbers are as far apart as large ones.
    assert Axis("lr").same([1e-12, 1e-12 * (1 + 1e-12)], 1e-12).all()
    assert len(set(Axis("lr").snap([1e-12, 2e-12, 1.0]).tolist())) == 3


def test_bounds() -> None:
    axis = Axis("alpha", low=0.1, high=1.0)
    assert axis.at_bound(1.0) and axis.at_bound(0.1) and not axis.at_bound(0.5)
    assert axis.clip(2.0) == 1.0 and axis.clip(0.01) == 0.1 and axis.clip(0.3) == 0.3
    axis.check([0.1, 1.0 + 1e-12])
    with pytest.raises(ValueError, match=r"alpha must lie within its bounds, 0\.1 to 1, got 2"):
        axis.check([0.5, 2.0])
    with pytest.raises(ValueError, match="bounds of beta must leave room for numbers, got 1 to 0"):
        Axis("beta", linear=True, low=1.0, high=0.0)


def test_columns_make_axes() -> None:
    assert axes_of("lr") == (Axis("lr"),)
    first, second = axes_of(("lr", "beta"), ["beta"], {"beta": (0.0, math.inf)})
    assert first == Axis("lr") and second == Axis("beta", linear=True, low=0.0)
    with pytest.raises(ValueError, match=r"x must name columns, each once, got \('lr', 'lr'\)"):
        axes_of(("lr", "lr"))
    with pytest.raises(ValueError, match=r"linear must be of the columns \('lr',\) of x, got 'b'"):
        axes_of("lr", ["b"])
    with pytest.raises(ValueError, match=r"bounds must be of the columns \('lr',\) of x, got 'b'"):
        axes_of("lr", bounds={"b": (0, 1)})
