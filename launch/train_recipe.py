"""`lmo-transfer train --recipe`: use a recipe at any size."""

import argparse
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from launch.commands import PROG, UsageError
from launch.console import ConsoleReporter, make_console
from launch.fields import override
from launch.printing import number, print_files
from sweeps.runner import LocalRunner
from sweeps.sizes import SIZE_FIELDS, Axis
from sweeps.table import RunTable, StoredRun
from transfer.config import NUMERICS, ComputeConfig, RunConfig
from transfer.data import load, require_fits
from transfer.recipe import Recipe


def train_recipe(options: argparse.Namespace) -> int:
    """Train the recipe's run, with the fields that were replaced, once a seed."""
    recipe = Recipe.load(options.recipe)
    run: RunConfig = recipe.run
    if options.fields:
        override(RunConfig, run, ["--help"], "train")
    if options.fields_given:
        run = override(RunConfig, run, options.fields_given, "train")
    seeds = options.seeds or [run.seed]
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds must be different numbers, each at least 0, got {seeds}")
    run = replace(run, numerics=NUMERICS)
    compute = ComputeConfig(
        device=options.device or "cpu", micro_batch_size=options.micro_batch_size or 0
    )
    data = load(run.data)
    require_fits(data, run.data, run.batch_size)
    configs = [replace(run, seed=seed) for seed in seeds]
    console, axis = make_console(), swept_axis(recipe)
    for note in data.notes:
        console.print(f"note: {note}", markup=False)
    for change in changed_axes(recipe, run):
        console.print(f"note: outside the verdict: {change}", markup=False)
    folder = _folder(options)
    table = RunTable(folder)
    reporter = ConsoleReporter(console, axis)
    known = {run_id for run_id, row in table.read().items() if row.status != "failed"}
    missing = [c for c in configs if c.run_id not in known]
    try:
        with reporter, LocalRunner(options.workers, compute) as runner:
            title = f"train {recipe.name} at {axis.replace('_', ' ')} {getattr(run, axis)}"
            reporter.stage(title, len(configs), len(configs) - len(missing))
            if missing:
                runner.run(table, missing, reporter)
    except KeyboardInterrupt:
        console.print("\ninterrupted; the same command goes on from the last checkpoint")
        return 130
    rows = table.read()
    return _report(console, recipe, [rows[c.run_id] for c in configs], folder)


def _folder(options: argparse.Namespace) -> Path:
    """By default the study that the recipe lies in, else the folder of the recipe."""
    if options.study:
        return Path(options.study)
    parents = Path(options.recipe).resolve().parents
    for parent in parents[:2]:
        if (parent / "experiment.json").is_file():
            return parent
    return parents[0]


def swept_axis(recipe: Recipe) -> Axis:
    """Return the axis that the recipe's sweep went along; width, if the recipe does not say."""
    swept = (axis for axis, field in SIZE_FIELDS.items() if f"swept_{field}" in recipe.provenance)
    return next(swept, "width")


def changed_axes(recipe: Recipe, run: RunConfig) -> list[str]:
    """Name what differs from the recipe's run, the seed and what was swept aside."""
    before, after = _axes(recipe.run), _axes(run)
    may_differ = {swept_axis(recipe), "seed", "examples"}
    fixed = recipe.verdict.get("stepsize", {}).get("fixed")
    if isinstance(fixed, dict) and "examples" in fixed:  # steps go down as batches grow
        may_differ = may_differ - {"examples"} | {"steps"}
    return [
        f"{key} {before[key]} -> {after[key]}"
        for key in before
        if key not in may_differ and before[key] != after[key]
    ]


def _axes(run: RunConfig) -> dict[str, Any]:
    return asdict(run) | {"examples": run.batch_size * run.steps}


def _report(console: Any, recipe: Recipe, rows: list[StoredRun], folder: Path) -> int:
    status = recipe.verdict.get("stepsize", {}).get("status", "none")
    console.print(f"verdict in the recipe: {status}", markup=False)
    axis = swept_axis(recipe)
    words, flag = axis.replace("_", " "), axis.replace("_", "-")
    for row in rows:
        where = f"{words} {row.config[axis]} seed {row.config['seed']}"
        loss = f"validation loss {number(row.val_loss)}, accuracy {number(row.val_accuracy)}"
        told = {"done": loss, "diverged": f"diverged at step {row.stopped_step}"}
        console.print(
            f"{where}: {told.get(row.status, f'failed: {row.error}')} ({row.wall_s:.1f} s)",
            markup=False,
        )
    swept = _swept(recipe)
    if swept:
        sizes = SIZE_FIELDS[axis].replace("_", " ")
        console.print(f"at the swept {sizes}: {swept}", markup=False)
    print_files(console, [folder / "records"])
    console.print(f"\nnext: {PROG} train --recipe FILE --{flag} N, or build it in Python: "
                  "Recipe.load(FILE).build_optimizer(model)", markup=False)  # fmt: skip
    return 5 if any(row.status == "failed" for row in rows) else 0


def _swept(recipe: Recipe) -> str:
    """The losses that the verdict saw at the swept sizes, for comparison."""
    try:
        rows = recipe.verdict["stepsize"]["rows"]
        return ", ".join(f"{row['size']:g}: {number(row['loss_at_transferred'])}" for row in rows)
    except (KeyError, TypeError, ValueError):
        return ""  # a recipe without a verdict, or with one of another tool, trains all the same
