"""`lmo-transfer train` names what its recipe was swept along, whatever that is."""

import json
from pathlib import Path
from typing import Any

import pytest

from launch.console import ConsoleReporter, make_console
from launch.train_recipe import changed_axes, swept_axis
from tests.launch.conftest import Command
from transfer.config import RunConfig
from transfer.recipe import Recipe

AXES = [
    ("width", "widths", ["--width", "12"], "width 12"),
    ("depth", "depths", ["--depth", "4"], "depth 4"),
    ("batch_size", "batch_sizes", ["--batch-size", "96"], "batch size 96"),
    ("steps", "steps", ["--steps", "5"], "steps 5"),
]


def swept_along(path: Path, field: str, **fixed: int) -> Recipe:
    """Let a recipe say that its sweep went along another axis."""
    recipe: dict[str, Any] = json.loads(path.read_text())
    recipe["provenance"][f"swept_{field}"] = recipe["provenance"].pop("swept_widths")
    recipe["verdict"]["stepsize"]["fixed"] |= fixed
    path.write_text(json.dumps(recipe))
    return Recipe.load(path)


@pytest.mark.parametrize(("axis", "field", "flags", "told"), AXES, ids=[axis for axis, *_ in AXES])
def test_lines_name_the_axis(
    study: Path, command: Command, axis: str, field: str, flags: list[str], told: str
) -> None:
    path = study / "results" / "recipe.json"
    assert swept_axis(swept_along(path, field)) == axis
    done = command("train", "--recipe", str(path), *flags, "--seeds", "7", cwd=study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"train small/scion at {told}: 1 runs" in done.stdout
    assert f"\n{told} seed 7: validation loss " in done.stdout
    assert f"\nat the swept {field.replace('_', ' ')}: 4: " in done.stdout
    assert f"--recipe FILE {flags[0]} N" in done.stdout
    assert "outside the verdict" not in done.stdout, "the swept axis is what the verdict is about"


def test_other_axes_are_outside_the_verdict(study: Path) -> None:
    from dataclasses import replace

    recipe = swept_along(study / "results" / "recipe.json", "depths")
    run = replace(recipe.run, width=8, depth=5, seed=9, batch_size=32)
    assert changed_axes(recipe, run) == ["width 4 -> 8", "batch_size 64 -> 32"]


def test_batch_sizes_at_a_fixed_number_of_examples(study: Path) -> None:
    """Steps follow from the batch size there: the examples are what is fixed."""
    from dataclasses import replace

    recipe = swept_along(study / "results" / "recipe.json", "batch_sizes", examples=256)
    assert changed_axes(recipe, replace(recipe.run, batch_size=128, steps=2)) == []
    assert changed_axes(recipe, replace(recipe.run, batch_size=128)) == ["examples 256 -> 512"]


@pytest.mark.parametrize(("axis", "told"), [("width", "width 4"), ("batch_size", "batch size 64")])
def test_progress_names_the_axis(
    study: Path, axis: Any, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run: RunConfig = Recipe.load(study / "results" / "recipe.json").run
    reporter = ConsoleReporter(make_console(), axis)
    reporter._printed = -1e9  # a line now and then
    reporter.running(run, 3)
    assert f"{told}, seed 1: step 3 of 4" in capsys.readouterr().out
