"""Figures: what is drawn, where the axes end, and that files are reproducible."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.axes import axes_of
from analysis.claims import radii_verdict, verdict
from analysis.groups import verdicts
from analysis.history_plot import plot_training, plot_tuning
from analysis.landscapes import build_landscapes
from analysis.load import tidy
from analysis.medium import PAPER, drawn_for
from analysis.norms_plot import plot_norms
from analysis.panels import Panel, panels_of
from analysis.plots import plot_curves
from analysis.radii import plot_radii
from analysis.regret_plot import plot_regret
from analysis.scaling_plot import plot_scaling
from analysis.style import save

EPSILON = 0.005


def _sweep(optima: Sequence[float], name: str) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "optimizer": name,
            "width": 32 * 2**i,
            "stepsize": 2.0**g,
            "seed": r,
            "status": "done",
            "depth": 3,
            "radius_hidden": 1.0,
            "val_loss": 0.6 - 0.01 * i + 0.01 * (g - o) ** 2 + 0.001 * rng.standard_normal(),
        }
        for i, o in enumerate(optima)
        for g in range(-7, 1)
        for r in range(3)
    )


def _panel(df: pd.DataFrame, title: str = "Scion") -> Panel:
    table = tidy(
        df, x="stepsize", y="val_loss", size="width", seed="seed", group="optimizer",
        status="status",
    )  # fmt: skip
    v = verdict(df, transferred=0.125, epsilon=EPSILON, group="optimizer", fixed=("depth",))
    return Panel(title, build_landscapes(table, axes_of("stepsize"), epsilon=EPSILON), v)


def _xy(line: Line2D) -> tuple[list[float], list[float]]:
    x, y = np.asarray(line.get_xydata(), dtype=float).T
    return x.tolist(), y.tolist()


@pytest.fixture(scope="module")
def panels() -> list[Panel]:
    still = _sweep((-3.0, -3.0, -3.0), "scion")
    moving = _sweep((-3.0, -4.0, -5.0), "adamw")
    moving.loc[moving["stepsize"] == 0.5, "val_loss"] = 400.0
    moving.loc[moving["stepsize"] == 1.0, "val_loss"] = np.nan
    return [_panel(still), _panel(moving, "AdamW")]


def _texts(fig: Figure) -> str:
    legend = [t.get_text() for entry in fig.legends for t in entry.get_texts()]
    return "\n".join([*(ax.get_title() for ax in fig.axes), *legend, fig.get_supxlabel()])


def test_curves_figure(panels: list[Panel]) -> None:
    fig = plot_curves(panels)
    left, right = fig.axes
    assert left.get_ylim() == right.get_ylim()
    low, high = left.get_ylim()
    assert 0.57 < low < 0.58 and 0.61 < high < 0.75, "wild cells must not set the range"
    text = _texts(fig)
    assert "Scion: transfers" in text and "AdamW: does not transfer" in text
    assert (
        "drift \N{MINUS SIGN}0.99 octaves per doubling [\N{MINUS SIGN}1.10" in text
        and "Verdict: Scion transfers; AdamW does not transfer\nFixed: depth 3" in text
    )
    assert "width 128" in text and "diverged" in text
    dashed = [ln for ln in left.get_lines() if ln.get_linestyle() == "--"]
    assert [_xy(ln)[0] for ln in dashed] == [[-3.0, -3.0]]
    crosses = [ln for ln in right.get_lines() if ln.get_marker() == "x" and _xy(ln)[0]]
    assert len(crosses) == 3 and all(_xy(c)[0] == [0.0] for c in crosses)
    fig.draw_without_rendering()
    assert left.get_xticklabels()[0].get_text() == "$2^{-7}$"


def test_more_is_better_is_drawn_upwards() -> None:
    df = _sweep((-3.0,) * 3, "scion").assign(accuracy=lambda d: 1 - d["val_loss"])
    names: dict[str, Any] = {"y": "accuracy", "group": "optimizer", "maximise": True}
    judged = verdicts(df, epsilon=0.005, **names)
    shown = panels_of(df, judged, group="optimizer")
    for ax in (plot_curves(shown).axes[0], plot_scaling(shown).axes[0]):
        bottom, top = ax.get_ylim()
        # The curves are of the negative accuracy; its best lies at the top and is written plainly.
        assert bottom > top and ax.yaxis.get_major_formatter()(-0.4, 0) == "0.4"
        ax.figure.draw_without_rendering()


def test_of_many_sizes_a_few_are_named() -> None:
    fig = plot_curves([_panel(_sweep((-3.0,) * 30, "scion"))])
    named = [text for text in _texts(fig).splitlines() if text.startswith("width ")]
    assert named[0] == "width 32" and named[-1] == "width 17179869184" and len(named) == 10
    left = plot_scaling([_panel(_sweep((-3.0,) * 30, "scion"))]).axes[0]
    ticks = left.xaxis.get_major_locator().tick_values(0, 1)
    assert ticks[0] == 32 and 6 <= len(ticks) <= 9


def test_scaling_figure(panels: list[Panel]) -> None:
    fig = plot_scaling(panels)
    left, right = fig.axes
    best = left.get_lines()[0]
    assert _xy(best)[0] == [32, 64, 128]
    assert _xy(best)[1] == [c.best_loss for c in panels[0].landscapes]
    fits = [ln for ln in right.get_lines() if len(_xy(ln)[0]) == 2 and ln.get_alpha()]
    slopes = [float(np.diff(_xy(ln)[1])[0]) / 2 for ln in fits]
    assert slopes == pytest.approx([0.0, -1.0], abs=0.1)
    assert "Scion" in _texts(fig) and "AdamW" in _texts(fig)


def test_radii_figure() -> None:
    main = _sweep((-3.0, -3.0), "scion")
    parts = [
        main[main["stepsize"] == 0.125].assign(
            radius_hidden=r, val_loss=lambda d: d.val_loss + 0.01
        )
        for r in (0.5, 2.0)
    ]
    star = pd.concat(parts, ignore_index=True)
    star.loc[(star["radius_hidden"] == 2.0) & (star["width"] == 64), "val_loss"] = np.nan
    v = radii_verdict(
        main, star, transferred=0.125, epsilon=EPSILON, comparators=("radius_hidden",)
    )
    fig = plot_radii(v)
    (ax,) = fig.axes
    assert [t.get_text().split("\n")[0] for t in ax.get_xticklabels()] == ["0.5", "2"]
    points = [ln for ln in ax.get_lines() if ln.get_marker() == "o"]
    assert [_xy(ln)[1][0] for ln in points] == pytest.approx([0.01] * 3)
    assert len([ln for ln in ax.get_lines() if ln.get_marker() == "x"]) == 1
    assert "diverged" in _texts(fig)


def test_radii_without_a_star_cannot_be_drawn() -> None:
    main = _sweep((-3.0, -3.0), "scion")
    v = radii_verdict(
        main, None, transferred=0.125, epsilon=EPSILON, comparators=("radius_hidden",)
    )
    with pytest.raises(ValueError, match="compares no radii"):
        plot_radii(v)


def test_hard_inputs_draw() -> None:
    df = _sweep((-9.0, 2.0, -3.0), "scion")
    df.loc[df["width"] == 128, "val_loss"] = np.inf
    table = tidy(df, x="stepsize", y="val_loss", size="width", seed="seed")
    panel = Panel("edges", build_landscapes(table, axes_of("stepsize"), epsilon=EPSILON))
    for fig in (plot_curves([panel]), plot_scaling([panel])):
        fig.draw_without_rendering()
    with pytest.raises(ValueError, match="at least one panel"):
        plot_curves([])


def test_files_are_reproducible_and_complete(panels: list[Panel], tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    first = save(plot_curves(panels), tmp_path / "a" / "curves.v1")
    second = save(plot_curves(panels), tmp_path / "b" / "curves.v1")
    assert [p.name for p in first] == ["curves.v1.png", "curves.v1.svg"]
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes() and one.stat().st_size > 1000
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [p.name for p in first]
    assert dict(matplotlib.rcParams) == before
    with pytest.raises(ValueError, match="formats must be of"):
        save(plot_curves(panels), tmp_path / "c", formats=("gif",))
    assert not list(tmp_path.glob("*.gif"))


def test_regrets_are_in_units_of_epsilon(panels: list[Panel]) -> None:
    fig = plot_regret(panels)
    (ax,) = fig.axes
    still, moving = (c.lines[0] for c in ax.containers)
    assert _xy(still)[1] == [0.0, 0.0, 0.0]
    assert panels[1].verdict is not None
    regrets = [row.regret for row in panels[1].verdict.rows]
    assert _xy(moving)[1] == pytest.approx([r / EPSILON for r in regrets if r is not None])
    assert ax.get_ylim()[1] > max(_xy(moving)[1])
    with pytest.raises(ValueError, match="needs a verdict"):
        plot_regret([Panel("bare", panels[0].landscapes)])


def test_training_is_drawn_by_size() -> None:
    runs = [np.linspace(3.0, 1.0, 80), np.linspace(3.0, 1.2, 80), np.linspace(3.0, 1.1, 80)[:20]]
    short = np.array([3.0, 30.0])
    fig = plot_training({"scion": {32: runs, 64: [short]}, "empty": {}}, "depth")
    (ax,) = fig.axes
    line = ax.get_lines()[0]
    assert _xy(line)[0][:2] == [1.5, 3.5] and len(_xy(line)[0]) == 40
    assert _xy(line)[1][-1] == pytest.approx(1.1, abs=0.05)
    # Windows are the same for all seeds: at every step the mean is of that step.
    alive = np.array([np.linspace(3.0, end, 80) for end in (1.0, 1.2, 1.1)])
    assert _xy(line)[1][5] == pytest.approx(alive[:, 10:12].mean())
    assert _xy(line)[1][15] == pytest.approx(alive[:2, 30:32].mean())
    assert _xy(ax.get_lines()[1])[0] == [20.0], "where a seed ended"
    assert 0.8 < ax.get_ylim()[0] < 1.0 and 3.0 < ax.get_ylim()[1] < 3.3, "30 leaves at the top"
    assert "depth 64" in _texts(fig)
    with pytest.raises(ValueError, match="needs a curve"):
        plot_training({"scion": {}})


def test_tuning_shows_the_best_so_far() -> None:
    fig = plot_tuning({"scion": [2.0, np.inf, 1.0, 1.5]})
    (ax,) = fig.axes
    points, gone, above, best = ax.get_lines()
    assert _xy(above)[0] == [1.0], "the first trial lies above what is shown"
    assert _xy(points) == ([1.0, 3.0, 4.0], [2.0, 1.0, 1.5])
    assert _xy(gone)[0] == [2.0] and _xy(best)[1] == [2.0, 2.0, 1.0, 1.0]
    assert "diverged" in _texts(fig)
    with pytest.raises(ValueError, match="a trial with a finite loss"):
        plot_tuning({"scion": [np.inf]})


def test_in_a_paper_figures_have_its_width_and_no_caption(panels: list[Panel]) -> None:
    with drawn_for(PAPER):
        two, one = plot_curves(panels), plot_regret(panels)
    assert two.get_figwidth() == 6.75 and one.get_figwidth() == 3.25
    assert two.get_supxlabel() == "" and "drift" not in _texts(two)
    assert two.axes[0].xaxis.label.get_fontsize() == 8.0
    again = plot_curves(panels)
    assert again.get_figwidth() > 9 and "Fixed: depth 3" in _texts(again)


def test_names_are_shown_as_they_are_and_cut() -> None:
    df = _sweep((-3.0,) * 2, "$x_1$ & <b>" + "long" * 20).rename(columns={"stepsize": "$lr$"})
    judged = verdicts(df, x="$lr$", group="optimizer", epsilon=EPSILON)
    shown = panels_of(df, judged, group="optimizer")
    for fig in (plot_curves(shown), plot_scaling(shown), plot_regret(shown)):
        fig.draw_without_rendering()
    ax = plot_curves(shown).axes[0]
    assert ax.get_xlabel() == "$lr$" and ax.get_title().startswith("$x_1$ & <b>longlong")
    assert "long…: transfers" in ax.get_title()


def test_norms_have_a_panel_for_each_group_and_role() -> None:
    table = pd.DataFrame(
        {"group": g, "size": w, "step": s, "layer": f"{r}{n}", "role": r, "value": w * (s + n)}
        for g in ("scion", "adamw")
        for w in (32, 64)
        for s in (0, 5, 10)
        for r, count in (("input", 1), ("hidden", 3))
        for n in range(count)
    )
    fig = plot_norms(table)
    assert [ax.get_title() for ax in fig.axes] == [
        "scion: input", "scion: hidden", "adamw: input", "adamw: hidden"
    ]  # fmt: skip
    narrow, wide = fig.axes[1].get_lines()
    assert _xy(narrow) == ([0, 5, 10], [32.0, 192.0, 352.0]), "medians of layers 0, 1 and 2"
    assert _xy(wide)[1] == [64.0, 384.0, 704.0]
    with pytest.raises(ValueError, match="needs a finite value"):
        plot_norms(table.assign(value=np.nan))
    with pytest.raises(ValueError, match="no column 'role'"):
        plot_norms(table.drop(columns="role"))
