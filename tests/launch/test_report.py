"""`report`: one page about a study, several studies, or a table."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from tests.analysis.test_groups import two_groups
from tests.launch.conftest import Command, one_line


def _page(path: Path) -> str:
    text = path.read_text("utf-8")
    assert text.startswith("<!doctype html>") and text.rstrip().endswith("</html>")
    # Nothing is asked of a network: what is not in the page is not there.
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert addresses and all(re.match("data:|#s[0-9]+$", address) for address in addresses)
    return text


def test_a_study(study: Path, command: Command) -> None:
    done = command("report", str(study), cwd=study.parent)
    assert done.returncode == 0, done.stderr
    text = _page(study / "results" / "report.html")
    verdicts = json.loads((study / "results" / "verdict.json").read_text())["arms"]
    for arm, claims in verdicts.items():
        for claim, verdict in claims.items():
            assert f'<span class="who">{arm}: {claim}</span>' in text
            assert f'<span class="badge">{verdict["status"]}</span>' in text
    for title in ("Figures", "By size", "Every setting", "In time", "Recipe of scion",
                  "How to reproduce it", "At width 16, which was not swept"):  # fmt: skip
        assert re.search(rf'<h2 id="s\d+">{title}</h2>', text), title
    assert text.count("<figure") == 6 and "data:image/svg+xml;base64," in text
    assert "&#34;steps&#34;: 4" in text, "the recipe is there, escaped"
    assert "widths = [" in text and "torch" in text and "<h3>Training loss</h3>" in text


def test_studies_beside_each_other(study: Path, command: Command, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(study, other)
    file = other / "experiment.json"
    file.write_text(file.read_text().replace('"small"', '"second"'))
    done = command(
        "report", str(study), "--with", str(other), "--output", "both.html", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    text = _page(tmp_path / "both.html")
    assert "<h1>small, second</h1>" in text
    for who in ("small: scion: stepsize", "second: adamw: stepsize", "second: scion: radii"):
        assert f'<span class="who">{who}</span>' in text
    assert "The groups side by side" in text and text.count("<th scope=row>second: adamw</th>") == 1
    beside = command("report", str(study), "--with", str(other), cwd=tmp_path)
    assert beside.returncode == 0 and "report-with-second.html" in beside.stdout
    twice = command("report", str(study), "--with", str(study), cwd=tmp_path)
    assert "got 'small' twice" in one_line(twice)


def test_a_table(tmp_path: Path, command: Command) -> None:
    two_groups().to_csv(tmp_path / "sweep.csv", index=False)
    done = command(
        "report", "sweep.csv", "--group", "optimizer", "--epsilon", "0.005", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    text = _page(tmp_path / "sweep.report.html")
    assert "<h1>sweep.csv</h1>" in text and "192 runs from sweep.csv" in text
    assert "Holds for: depth 3" in text and "radii: not tested" in text
    assert "lmo-transfer report sweep.csv --group optimizer --epsilon 0.005" in text
    assert hashlib.sha256((tmp_path / "sweep.csv").read_bytes()).hexdigest() in text


def test_two_hyperparameters_of_a_table(tmp_path: Path, command: Command) -> None:
    df = pd.concat(
        [two_groups().assign(batch=b, val_loss=lambda d, b=b: d["val_loss"] + 0.01 * (b - 2) ** 2)
         for b in (1, 2, 3)]
    )  # fmt: skip
    df[df["optimizer"] == "scion"].to_csv(tmp_path / "two.csv", index=False)
    named = ("--x", "stepsize", "--x", "batch", "--linear", "batch", "--epsilon", "0.005")
    done = command("report", "two.csv", *named, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = _page(tmp_path / "two.report.html")
    assert "optimum of batch" in text and "Heat maps of val loss over stepsize and batch" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep.csv", "--with", "x"), "--with is for studies: name the groups of a table"),
        (("sweep.csv", "--output", "."), "--output must be a file, got the folder ."),
        (("missing.csv",), "must be an existing file, got 'missing.csv'"),
        (("nowhere",), "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, command: Command, arguments: tuple[str, ...], message: str
) -> None:
    two_groups().to_csv(tmp_path / "sweep.csv", index=False)
    done = command("report", *arguments, cwd=tmp_path)
    assert message in one_line(done)


def test_a_long_table_is_summed_up(tmp_path: Path, command: Command) -> None:
    """3,200 cells: the page has the best of each size and says so."""
    df = pd.concat([two_groups().assign(stepsize=lambda d, k=k: d["stepsize"] * 1.001**k)
                    for k in range(50)])  # fmt: skip
    df.to_csv(tmp_path / "long.csv", index=False)
    done = command("report", "long.csv", "--group", "optimizer", "--epsilon", "0.005", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = _page(tmp_path / "long.report.html")
    assert text.count("300 of 1600 settings: the best of every size.") == 2


def test_plot_for_a_paper(study: Path, command: Command) -> None:
    done = command("plot", str(study), "--paper", cwd=study.parent)
    assert done.returncode == 0, done.stderr
    files = sorted((study / "results" / "figures" / "paper").iterdir())
    assert [f.name for f in files] == [
        "loss_against_stepsize.pdf", "radii_scion.pdf", "regret.pdf", "scaling.pdf",
        "training.pdf", "tuning.pdf",
    ]  # fmt: skip
    for path in files:
        box = re.search(rb"/MediaBox \[ ?0 0 ([0-9.]+) ([0-9.]+) ?\]", path.read_bytes())
        assert box and float(box[1]) in (3.25 * 72, 6.75 * 72), path.name


def test_norms_are_measured_and_shown(study: Path, command: Command) -> None:
    done = command("norms", str(study), "--readings", "2", cwd=study.parent)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(study / "results" / "norms.csv")
    assert set(table["step"]) == {0, 2, 4} and set(table["size"]) == {4, 8}
    assert set(table["group"]) == {"scion", "adamw"} and table["value"].gt(0).all()
    assert (study / "results" / "figures" / "norms.png").is_file()
    assert command("report", str(study), cwd=study.parent).returncode == 0
    assert "<h3>Norms of the weights</h3>" in _page(study / "results" / "report.html")
    assert "arm must be one of" in one_line(command("norms", str(study), "--arm", "x", cwd=study))


def test_a_coordinate_check_is_shown_where_it_was_made(study: Path, command: Command) -> None:
    (study / "results" / "coordcheck_scion.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" width="90pt" height="60pt"></svg>'
    )
    assert command("report", str(study), cwd=study.parent).returncode == 0
    text = _page(study / "results" / "report.html")
    assert "<h3>coordcheck scion</h3>" in text and 'width="120" height="80"' in text
