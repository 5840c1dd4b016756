"""The report in a browser: at desktop and phone size, with names that would break a page."""

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis import panels_of, verdicts
from analysis.page import render
from analysis.report import page_of
from tests.analysis.test_groups import two_groups
from tests.browser.browser import CHROMIUM, DESKTOP, PHONE, REQUIRED, Seen, visit

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None and not REQUIRED, reason="no Chromium on PATH"),
]

NASTY = """<script>document.title = "broken"</script><img src=http://example.invalid/a.png>&"'"""


def _page(df: pd.DataFrame) -> str:
    judged = verdicts(df, group="optimizer", epsilon=0.005)
    panels = panels_of(df, judged, group="optimizer")
    return render(
        page_of("Two optimizers", {k: {"stepsize": v} for k, v in judged.items()}, panels)
    )


@pytest.fixture(scope="module")
def text() -> str:
    return _page(two_groups().replace({"optimizer": {"adamw": NASTY}}))


def _visit(text: str, size: tuple[int, int], folder: Path) -> Seen:
    page = folder / "report.html"
    page.write_text(text, "utf-8")
    return visit(page, size, folder)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_it_opens_without_errors_and_without_a_network(
    text: str, size: tuple[int, int], tmp_path: Path
) -> None:
    seen = _visit(text, size, tmp_path)
    assert seen.console == [] and seen.requests == []
    assert "<title>Two optimizers</title>" in seen.dom
    assert "does not transfer" in seen.dom and "transfers" in seen.dom
    assert seen.dom.count("<button") > 20, "tables sort"
    # Names are text: no element was made of one.
    assert "example.invalid" in seen.dom and '<img src="http' not in seen.dom


def test_the_page_is_as_wide_as_the_screen(text: str, tmp_path: Path) -> None:
    """Wide tables and figures scroll by themselves."""
    probe = """<script>
    document.title = `${document.documentElement.scrollWidth} ${innerWidth} ` +
      [...document.images].every(i => i.complete && i.naturalWidth > 0)</script></body>"""
    for size in (DESKTOP, PHONE):
        seen = _visit(text.replace("</body>", probe), size, tmp_path)
        found = re.search(r"<title>(\d+) (\d+) (\w+)</title>", seen.dom)
        assert found and int(found[1]) <= int(found[2]) and found[3] == "true", seen.dom[:200]


def test_tables_sort_by_a_column(text: str, tmp_path: Path) -> None:
    probe = """<script>
    const table = [...document.querySelectorAll("table")].at(-1);
    const head = [...table.tHead.rows[0].cells].findIndex(c => c.textContent === "mean");
    const column = () => [...table.tBodies[0].rows].map(r => r.cells[head].textContent);
    const press = () => table.tHead.rows[0].cells[head].querySelector("button").click();
    const sorted = list => list.every((v, i) => !i || Number(list[i - 1]) <= Number(v));
    const before = column();
    press();
    const up = column(), told = table.tHead.rows[0].cells[head].getAttribute("aria-sort");
    press();
    const down = column().reverse();
    document.title = [sorted(before), sorted(up), sorted(down), up.length, told].join(" ");
    </script></body>"""
    seen = _visit(text.replace("</body>", probe), DESKTOP, tmp_path)
    found = re.search(r"<title>(.*)</title>", seen.dom)
    assert found and found[1] == "false true true 32 ascending"


def test_what_it_would_miss_is_seen(tmp_path: Path) -> None:
    """The tests above would fail: a page that logs and asks a network is told from ours."""
    bad = (
        """<html><body><img src="http://example.invalid/x.png"><script>console.log("hi")</script>"""
    )
    seen = _visit(bad, DESKTOP, tmp_path)
    assert any("hi" in line for line in seen.console)
    assert seen.requests == ["http://example.invalid/x.png"]


def test_every_image_has_a_text(text: str) -> None:
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) >= 3
    assert all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    assert 'http-equiv="Content-Security-Policy"' in text and 'lang="en"' in text
    assert text.count("<th scope=row") > 60, "rows have heads"


def test_what_scrolls_is_reached_by_the_keyboard_and_named(text: str, tmp_path: Path) -> None:
    for size, fewest in ((DESKTOP, 2), (PHONE, 5)):
        seen = _visit(text, size, tmp_path)
        regions = re.findall(r'<(?:div|pre)[^>]*role="region"[^>]*>', seen.dom)
        assert len(regions) >= fewest
        assert all('tabindex="0"' in r and re.search(r'aria-label="[^"]+"', r) for r in regions)
