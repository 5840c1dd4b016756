"""What a report says, and how a verdict looks in a notebook."""

import re

import numpy as np
import pytest

from analysis.claims import radii_verdict
from analysis.groups import verdicts
from analysis.page import Cell, Claim, Column, Page, Picture, Section, Table, Text, render
from analysis.panels import panels_of
from analysis.report import claims_of, page_of
from analysis.report_tables import comparison, size_table
from analysis.result import Verdict
from tests.analysis.test_claims import judged, sweep
from tests.analysis.test_groups import two_groups


def test_claims_have_reasons_drifts_and_what_would_decide() -> None:
    open_ = judged(sweep((-3.0, -3.3, -3.6, -3.9), sigma=0.0015, seeds=2, curvature=0.008))
    (claim,) = claims_of({"scion": {"stepsize": open_}})
    assert claim.who == "scion: stepsize" and claim.kind == "open"
    assert claim.reason == open_.reason
    text = " | ".join(claim.notes)
    assert (
        "the best stepsize drifts by -0." in text
        and "would decide it: " in text
        and "1 more seeds" not in text
    )
    assert "within epsilon of the best at every width: " in text
    more = [note for note in claim.notes if note.startswith("would decide it")]
    assert len(more) == min(6, len(open_.next_runs))


def test_rows_of_sizes_are_the_verdicts_numbers() -> None:
    v = judged(sweep((-3.0, -3.0, -5.0)))
    table = size_table("scion", v)
    names = [column.name for column in table.columns]
    for row, cells in zip(v.rows, table.rows, strict=True):
        by = dict(zip(names, cells, strict=True))
        assert by["width"].value == row.size and by["regret"].value == row.regret
        assert row.best is not None and by["best stepsize"].value == row.best["stepsize"]
        assert by["at most (95 %)"].value == row.regret_upper and by["runs"].value == row.num_runs
    assert table.title == "scion, transferred stepsize 2^-3; \u03b5 0.005"


def test_groups_that_no_figure_can_show_together_have_their_own() -> None:
    df = sweep((-3.0,) * 3)
    by_width, by_depth = df, df.assign(layers=df["width"] // 8)
    first = verdicts(by_width, epsilon=0.005)[""]
    second = verdicts(by_depth, size="layers", epsilon=0.005)[""]
    panels = panels_of(by_width, {"": first}) + panels_of(by_depth, {"": second})
    named = [type(p)(name, p.landscapes, p.verdict) for name, p in zip("ab", panels, strict=True)]
    page = page_of("both", {"a": {"lr": first}, "b": {"lr": second}}, named)
    titles = [p.title for p in page.sections[1].pictures]
    assert (
        sum(t.startswith("Regret against") for t in titles) == 2
        and "Best val loss and optimum against layers" in titles
    )


def test_a_notebook_shows_a_verdict() -> None:
    v = verdicts(two_groups(), group="optimizer", epsilon=0.005)["adamw"]
    text = v._repr_html_()
    assert "does not transfer" in text and text.count("<tr>") == 1 + len(v.rows)
    assert "Holds for: depth 3, batch 32" in text and "<script" not in text
    main = sweep((-3.0,) * 2).assign(radius_hidden=1.0)
    radii = radii_verdict(
        main, None, transferred=0.125, epsilon=0.005, comparators=("radius_hidden",)
    )
    assert "not tested" in radii._repr_html_() and "<table" not in radii._repr_html_()


def test_all_text_is_escaped() -> None:
    evil = "<script>alert('x')</script>&\""
    table = Table(title=evil, columns=[Column(evil)], rows=[[Cell(evil)]], note=evil)
    picture = Picture(svg=b"<svg></svg>", title=evil, text=evil, alt=evil)
    section = Section(
        title=evil, texts=[evil], tables=[table], pictures=[picture], facts=[(evil, evil)],
        commands=[evil], files=[Text(evil, evil)],
    )  # fmt: skip
    claim = Claim(who=evil, status=evil, reason=evil, notes=[evil])
    text = render(
        Page(title=evil, subtitle=evil, question=evil, claims=[claim], sections=[section],
             holds_for=evil, foot=evil)
    )  # fmt: skip
    assert "alert('x')" not in text and text.count("&lt;script&gt;alert") > 15
    assert len(re.findall("<script", text)) == 1, "ours alone"
    assert text.count("<img ") == 1 and text.count('alt="') == 1


def test_what_diverged_is_the_worst_and_says_so() -> None:
    gone = sweep((-3.0,) * 3)
    gone.loc[(gone["width"] == 128) & (gone["stepsize"] == 2**-3), "val_loss"] = np.nan
    lost, kept = judged(gone), judged(sweep((-3.0,) * 3))
    table = comparison({"lost": lost, "kept": kept})
    worst = [c.name for c in table.columns].index("largest regret / \u03b5")
    assert [row[worst].text for row in table.rows] == ["diverged", "0.00"]
    assert (table.rows[0][worst].value or 0) > (table.rows[1][worst].value or 0)
    last = size_table("", lost).rows[-1]
    assert [cell.text for cell in last].count("diverged") == 2, "loss and regret"
    missing = sweep((-3.0,) * 3)
    there = (missing["width"] == 128) & (missing["stepsize"] == 2**-3)
    row = size_table("", judged(missing[~there])).rows[-1]
    assert [cell.text for cell in row].count("not run") == 2


def test_small_metrics_have_digits_enough() -> None:
    v = verdicts(sweep((-3.0,) * 3).assign(val_loss=lambda d: d["val_loss"] * 1e-4))[""]
    cells = size_table("", v).rows[0]
    assert v.rows[0].best_loss is not None
    assert float(cells[2].text) == pytest.approx(v.rows[0].best_loss, rel=1e-3)


def _by_head(v: Verdict, row: int) -> dict[str, Cell]:
    table = size_table("", v)
    return dict(zip([c.name for c in table.columns], table.rows[row], strict=True))


def test_unknown_bounds_are_dashes() -> None:
    v = judged(sweep((-3.0,) * 2, seeds=1, grid=range(-4, -1)))
    by = dict(
        zip([c.name for c in size_table("", v).columns], size_table("", v).rows[0], strict=True)
    )
    assert by["at least (95 %)"].missing and by["at most (95 %)"].missing


def test_an_optimum_on_the_edge_is_a_bound() -> None:
    v = judged(sweep((-3.0, -3.0, 4.0)))
    by = dict(
        zip([c.name for c in size_table("", v).columns], size_table("", v).rows[-1], strict=True)
    )
    assert (
        by["optimum"].text == "\u2265 1" and by["its 95 % interval"].text == "1 to beyond the grid"
    )


def test_the_question_fits_what_was_asked() -> None:
    df = sweep((-3.0,) * 3)
    first = verdicts(df, epsilon=0.005)[""]
    panels = panels_of(df, {"": first})
    page = page_of("t", {"": {"stepsize": first}}, panels)
    assert page.question == "May the stepsize that is best at width 32 be used up to width 128?"
    one = df[df["width"] == 32]
    single = verdicts(one, epsilon=0.005)[""]
    page = page_of("t", {"": {"stepsize": single}}, panels_of(one, {"": single}))
    assert page.question == "May the stepsize be used at other sizes?"
