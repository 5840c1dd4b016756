"""`lmo-transfer norms`: how large the weights of the tuned setting become, at every size."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from launch.commands import DONE, PROG
from launch.console import ConsoleReporter, make_console
from launch.pipeline import Finished, finished
from launch.printing import print_files, print_next
from launch.sources import existing_study, quoted
from sweeps.plan import run_config
from sweeps.progress import Reporter
from transfer.config import unknown
from transfer.files import replace_file

if TYPE_CHECKING:
    import pandas as pd

FILE = "norms.csv"


def norms(options: argparse.Namespace) -> int:
    """Train the tuned setting of every arm once more at every size, reading norms on the way."""
    from analysis import plot_norms, save

    done = finished(existing_study(options))
    experiment = done.study.experiment
    if options.arm is not None and options.arm not in done.tuned:
        raise ValueError(unknown("arm", options.arm, done.tuned))
    arms = [options.arm] if options.arm is not None else list(done.tuned)
    console = make_console()
    with ConsoleReporter(console) as reporter:
        table = measured(done, arms, options.readings, reporter)
    csv = replace_file(done.results / FILE, lambda path: table.to_csv(path, index=False))
    figure = plot_norms(table, experiment.sweep.axis)
    print_files(console, [csv, *save(figure, done.results / "figures" / "norms")])
    print_next(console, f"{PROG} report {quoted(done.study.folder)}")
    return DONE


def measured(done: Finished, arms: list[str], readings: int, reporter: Reporter) -> "pd.DataFrame":
    """Return the readings, one row each, of the sweep's first seed."""
    import pandas as pd
    import torch

    from transfer.coordcheck import measure_weights

    torch.set_num_threads(1)  # as every run of a sweep
    experiment = done.study.experiment
    sweep, rows = experiment.sweep, []
    for arm in arms:
        reporter.stage(f"norms of {arm}", len(sweep.sizes), 0)
        for size in sweep.sizes:
            optimizer = done.tuned[arm].optimizer
            run = run_config(experiment, arm, optimizer, size=size, seed=sweep.seeds[0])
            read = measure_weights(run, readings, experiment.compute)
            rows += [
                {"group": arm, "size": size, "seed": row["seed"], "step": row["step"],
                 "layer": row["layer"], "role": row["role"], "value": row["value"]}
                for row in read
            ]  # fmt: skip
            reporter.advance(1)
    return pd.DataFrame(rows)


def read(folder: Path) -> "pd.DataFrame | None":
    """Return what an earlier call measured; None if there was none."""
    import pandas as pd

    path = folder / FILE
    return pd.read_csv(path) if path.is_file() else None
