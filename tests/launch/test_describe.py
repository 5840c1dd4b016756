"""`lmo-transfer describe`: every size of the sweep, exact numbers, one line for what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.cli import main


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Return what the command says as JSON."""
    assert main(["describe", *arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Check that the command ended with one line and exit code 2, and return it."""
    assert main(["describe", *arguments]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("lmo-transfer: "), lines
    return lines[0]


def test_widths_of_an_mlp(capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(capsys, "digits-mlp", "--sweep.widths", "32", "64")
    assert [answer[key] for key in ("experiment", "axis", "position")] == [
        "digits-mlp",
        "width",
        "vector",
    ]
    assert [(row["width"], row["swept"]) for row in answer["sizes"]] == [
        (32, True),
        (64, True),
        (128, False),
    ]
    for row in answer["sizes"]:
        width = row["width"]
        weights = 64 * width + width**2 + 10 * width
        assert row["parameters"] == row["parameters_without_embedding"] == weights
        assert row["flops_per_position"] == 6 * weights - 2 * 64 * width
        assert row["flops_per_run"] == row["flops_per_position"] * 128 * 60
        assert row["activation_bytes"] == row["activation_bytes_per_example"] * 128
        assert row["examples_at_once"] == 128


def test_tokens_and_micro_batches(capsys: pytest.CaptureFixture[str]) -> None:
    """A run counts every token; what is computed at once is a micro-batch."""
    row = told(capsys, "nanogpt-cpu", "--compute.micro-batch-size", "4")["sizes"][0]
    hidden, table = 12 * 2 * 32**2, 65 * 32
    assert row["parameters"] == hidden + table
    assert row["parameters_without_embedding"] == hidden
    assert row["flops_per_position"] == 6 * (hidden + table) + 14 * 2 * 64 * 32
    assert row["flops_per_run"] == row["flops_per_position"] * 64 * 16 * 60
    assert row["activation_bytes"] == 4 * row["activation_bytes_per_example"]
    large = told(capsys, "nanogpt-cpu", "--compute.micro-batch-size", "99")["sizes"][0]
    assert large["examples_at_once"] == 16, "no more than a batch"


@pytest.mark.parametrize(
    ("arguments", "axis", "relative"),
    [
        (["--sweep.batch-sizes", "8", "16"], "batch_size", [1, 2]),
        (
            ["--sweep.batch-sizes", "8", "16", "--sweep.fixed-examples", "True"],
            "batch_size",
            [1] * 2,
        ),
        (["--sweep.steps", "10", "30"], "steps", [1, 3]),
    ],
)
def test_other_axes(
    arguments: list[str], axis: str, relative: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The model is one; a run takes what its examples take."""
    more = ["--sweep.check-factor", "0", "--sweep.widths", "32"]
    answer = told(capsys, "digits-mlp", *more, *arguments)
    first, rows = answer["sizes"][0], answer["sizes"]
    assert answer["axis"] == axis and len({row["parameters"] for row in rows}) == 1
    assert [row["flops_per_run"] / first["flops_per_run"] for row in rows] == relative
    assert [row["size"] for row in rows] == [row[axis] for row in rows]


def test_depths(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--sweep.depths", "3", "5", "--sweep.widths", "32", "--sweep.check-factor", "0"]
    rows = told(capsys, "digits-mlp", *arguments)["sizes"]
    assert rows[1]["parameters"] - rows[0]["parameters"] == 2 * 32**2


def test_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", "digits-mlp"]) == 0
    heading, table, notes = capsys.readouterr().out.split("\n\n")
    assert heading == "digits-mlp: mlp on digits (64), depth 3, batch size 128, steps 60"
    lines = table.splitlines()
    assert len({len(line) for line in lines}) == 1, "aligned"
    assert lines[0].split()[:2] == ["width", "parameters"] and "FLOPs a vector" in lines[0]
    assert lines[1].split()[:2] == ["32", "3,392"]
    assert lines[-1].split()[:3] == ["512", "(check)", "300,032"]
    assert "forward and backward" in notes


def test_a_study_is_described_by_its_folder(
    finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    answer = told(capsys, str(finished[0]))
    assert [row["size"] for row in answer["sizes"]] == [4, 8, 16]


def test_what_is_wrong_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'nanogpt'" in refused(capsys, "nanogtp")
    assert "no such file: none.toml" in refused(capsys, "none.toml")
    assert "is a folder without experiment.json" in refused(capsys, ".")
    (tmp_path / "valuenet.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def loss(self, x, y): return self(x).sum() * self.weight.sum().item()\n"
        "def build(width, depth): return Net(64, width)\n"
    )
    line = refused(capsys, "digits-mlp", "--family", "valuenet:build")
    assert "cannot be described without its values" in line
