"""`lmo-transfer coordcheck`: do sizes inside the network depend on its width?"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.console import Console
from rich.table import Table

from launch.commands import UsageError
from launch.console import ConsoleReporter, make_console
from launch.printing import print_files
from sweeps.experiment import Experiment
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.study import write_json
from transfer.config import ComputeConfig, RunConfig, require, unknown
from transfer.data import load, require_fits, resolve
from transfer.files import replace_file

if TYPE_CHECKING:
    from analysis import CoordinateCheck, LayerCheck, Slope

_DEFAULT_STEPS = 10


def check_experiment(options: argparse.Namespace, experiment: Experiment) -> int:
    """Check every arm, or the named one, with the settings given; nothing is tuned.

    Returns the exit code: 0; or if the outcome is to be told by it, that of the first arm.
    """
    from analysis import check_coordinates

    plan, steps = planned_runs(options, experiment), _num_steps(options, experiment)
    folder = _folder(options, experiment)
    folder.mkdir(parents=True, exist_ok=True)  # before minutes are spent
    console = make_console()
    with ConsoleReporter(console) as reporter:
        for note in load(next(iter(plan.values()))[0].data).notes:
            reporter.note(note)
        table = measured(plan, steps, reporter, experiment.compute)
    checks = {arm: check_coordinates(table[table["arm"] == arm]) for arm in plan}
    _print_checks(console, experiment, checks)
    print_files(console, _write(folder, experiment, table, checks))
    if not options.exit_code:
        return 0
    return {"passes": 0, "fails": 3}.get(next(iter(checks.values())).status, 4)


def planned_runs(options: argparse.Namespace, experiment: Experiment) -> dict[str, list[RunConfig]]:
    """Return the runs of every arm to be checked.

    Raises:
        ValueError: no such arm, seeds that are not different numbers, fewer than two widths, or a
            batch larger than the data.
    """
    experiment = replace(experiment, data=resolve(experiment.data))
    require_fits(load(experiment.data), experiment.data, experiment.train.batch_size)
    arms = dict(experiment.arms)
    if options.arm is not None:
        if options.arm not in arms:
            raise ValueError(unknown("arm", options.arm, arms))
        arms = {options.arm: arms[options.arm]}
    seeds = options.seeds or list(experiment.sweep.seeds)
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds must be different numbers, each at least 0, got {seeds}")
    widths = experiment.sweep.widths
    require(len(widths) >= 2, "sweep.widths", "at least two widths to compare", list(widths))
    return {
        name: [
            run_config(experiment, name, arm.optimizer, size=width, seed=seed)
            for width in widths
            for seed in seeds
        ]
        for name, arm in arms.items()
    }


def measured(
    plan: Mapping[str, list[RunConfig]],
    steps: int,
    reporter: Reporter,
    compute: ComputeConfig | None = None,
) -> pd.DataFrame:
    """Train the first steps of all runs in this process and return what was measured."""
    import torch

    from transfer.coordcheck import measure

    torch.set_num_threads(1)  # as every run of a sweep
    rows: list[dict[str, object]] = []
    for arm, configs in plan.items():
        reporter.stage(f"{steps} steps of {arm}", len(configs), 0)
        for config in configs:
            rows += [{"arm": arm, **row} for row in measure(config, steps, compute)]
            reporter.advance(1)
    return pd.DataFrame(rows)


def _num_steps(options: argparse.Namespace, experiment: Experiment) -> int:
    of_run = experiment.train.steps
    if options.steps is None:
        return min(_DEFAULT_STEPS, of_run)
    allowed = f"between 1 and train.steps = {of_run}"
    require(1 <= options.steps <= of_run, "--steps", allowed, options.steps)
    return int(options.steps)


def _folder(options: argparse.Namespace, experiment: Experiment) -> Path:
    if options.output:
        return Path(options.output)
    if options.source and Path(options.source).is_dir():
        return Path(options.source) / "results"
    return Path("coordcheck") / experiment.name


# --- files -----------------------------------------------------------------------------------


def _write(
    folder: Path,
    experiment: Experiment,
    table: pd.DataFrame,
    checks: Mapping[str, "CoordinateCheck"],
) -> list[Path]:
    """Write the measurements, the outcome and one figure an arm."""
    from analysis import plot_coordinates, save

    csv = replace_file(folder / "coordcheck.csv", lambda path: table.to_csv(path, index=False))
    told = {
        "experiment": experiment.name,
        "arms": {
            arm: {"stepsize": experiment.arms[arm].optimizer.stepsize, **check.to_dict()}
            for arm, check in checks.items()
        },
    }
    files = [csv, write_json(folder / "coordcheck.json", told)]
    for arm, check in checks.items():
        name = "coordcheck" if len(checks) == 1 else f"coordcheck_{arm}"
        figure = plot_coordinates(table[table["arm"] == arm], check, arm)
        files += save(figure, folder / name)
    return files


# --- what is printed -------------------------------------------------------------------------


def _print_checks(
    console: Console, experiment: Experiment, checks: Mapping[str, "CoordinateCheck"]
) -> None:
    for arm, check in checks.items():
        console.print()
        console.print(_check_table(arm, experiment, check))
        console.print(f"{arm}: {check.status}. {check.reason}", markup=False)
    rule = next(iter(checks.values())).rule
    console.print(
        "\nExponents of width (0: does not depend on it) with 95 % intervals, @ the step that "
        "decides; largest 2: the change's over the two largest widths alone. Weights and updates, "
        "after the last step and in the layer's own norm, are described only.\n"
        f"Rule: {rule}; else undecided.",
        markup=False,
    )


def _check_table(arm: str, experiment: Experiment, check: "CoordinateCheck") -> Table:
    widths = ", ".join(map(str, check.widths))
    table = Table(
        title=f"{arm}, stepsize {experiment.arms[arm].optimizer.stepsize:g}: widths {widths}, "
        f"{check.num_seeds} seed{'s' if check.num_seeds > 1 else ''}, {check.num_steps} steps",
        title_justify="left",
    )
    table.add_column("layer", overflow="fold")
    for head in ("role", "outcome"):
        table.add_column(head, no_wrap=True)
    for head in ("activation", "change of it", "largest 2", "weight", "update"):
        table.add_column(head, justify="right", no_wrap=True)
    for layer in check.layers:
        change = layer.worst("change")
        table.add_row(
            layer.layer,
            layer.role,
            layer.status,
            _judged(layer.worst("activation")),
            _judged(change),
            _exponent(change.last if change else None),
            _exponent(_end(layer, "weight")),
            _exponent(_end(layer, "update")),
        )
    return table


def _judged(s: "Slope | None") -> str:
    if s is None:
        return "-"
    if s.slope is None:
        return s.problem
    text = _exponent(s.slope)
    if s.low is not None and s.high is not None:
        text += f" ± {(s.high - s.low) / 2:.2f}"
    return f"{text} @{s.step}"


def _end(layer: "LayerCheck", quantity: str) -> float | None:
    """Return the exponent after the last step."""
    slopes = [s for s in layer.slopes if s.quantity == quantity]
    return slopes[-1].slope if slopes else None


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{round(value, 2) + 0.0:+.2f}"
