"""What sweep.adaptive would have done on sweeps of which the whole grid is known.

    python benchmarks/adaptive.py studies/digits-mlp studies/airbench-cpu
    python benchmarks/adaptive.py --simulated 1000 --json adaptive

Replays each study from its run table: for every arm the verdict of the whole grid, that of the
adaptive sweep, and which share of the sweep's runs and of their seconds the latter takes. The
simulated sweeps are those of calibration.py.
"""

import argparse
import copy
import math
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from calibration import EPSILON, KINDS, REGRETS, Kind, optimum_for, sweep  # noqa: E402
from machine import facts, keep  # noqa: E402

from analysis import settles, verdict  # noqa: E402
from launch.pipeline import finished, judge, settled  # noqa: E402
from sweeps import Study  # noqa: E402
from sweeps.adaptive import around, needed  # noqa: E402
from sweeps.plan import PlannedRun  # noqa: E402
from sweeps.table import StoredRun  # noqa: E402


class Known:
    """A run table that has what was asked for so far."""

    def __init__(self) -> None:
        self.rows: dict[str, StoredRun] = {}

    def read(self) -> dict[str, StoredRun]:
        return self.rows


def replayed(study: Study) -> Study:
    """Return the study as an adaptive sweep would have left it."""
    whole = study.table.read()
    swept = replace(study.experiment.sweep, adaptive=True)
    found = copy.copy(study)
    found.experiment, found.table = replace(study.experiment, sweep=swept), Known()
    tuned = finished(study).tuned
    for result in tuned.values():
        found.table.rows |= {config.run_id: whole[config.run_id] for config in result.tried}
    while True:
        ids = {run.config.run_id for run in needed(found, tuned, settled)} & whole.keys()
        if ids <= found.table.rows.keys():
            return found
        found.table.rows |= {run_id: whole[run_id] for run_id in ids}


def seconds(runs: list[PlannedRun], rows: dict[str, StoredRun]) -> float:
    return sum(rows[run.config.run_id].wall_s for run in runs)


# --- simulated sweeps ------------------------------------------------------------------------

_CONTRARY = {"transfers", "does not transfer"}


def begun(df: pd.DataFrame, grid: list[float]) -> pd.DataFrame:
    """Return what an adaptive sweep begins with; 1 is transferred."""
    parts = []
    for width, runs in df.groupby("width"):
        means = runs.groupby("stepsize")["val_loss"].agg(lambda x: x.mean(skipna=False))
        losses = [float(value) if math.isfinite(value) else math.inf for value in means[grid]]
        chosen = around(len(grid), grid.index(1.0), losses.__getitem__)
        whole = width == df["width"].min()
        parts.append(runs if whole else runs[runs["stepsize"].isin([grid[i] for i in chosen])])
    return pd.concat(parts)


def looks(df: pd.DataFrame) -> tuple[str, str, float]:
    """Return the verdicts of the whole grid and of the adaptive sweep, and its share of runs."""
    cells = len(df[["width", "stepsize"]].drop_duplicates())
    rule = partial(verdict, x="stepsize", transferred=1.0, epsilon=EPSILON, num_planned=cells)
    whole, grid = rule(df).status, sorted(df["stepsize"].unique())
    part = begun(df, grid)
    first = rule(part)
    if settles(first, part, grid):
        return whole, first.status, len(part) / len(df)
    return whole, whole, 1.0


def count(kind: Kind, num_sweeps: int) -> dict[str, dict[str, float]]:
    """Return, by regret in epsilon at the largest size, how often both verdicts are the same."""
    found = {}
    for name, regret in REGRETS.items():
        rng = np.random.default_rng([1, round(100 * regret)])
        side = -1 if kind.better_above else 1
        optima = (0.0, 0.0, 0.0, side * optimum_for(kind, regret))
        both = [looks(sweep(rng, kind, optima)) for _ in range(num_sweeps)]
        found[name] = {
            "same": float(np.mean([whole == part for whole, part, _ in both])),
            "contrary": float(np.mean([{w, p} == _CONTRARY for w, p, _ in both])),
            "runs": float(np.mean([share for *_, share in both])),
        }
    return found


def simulate(options: argparse.Namespace) -> None:
    """Print a row for every kind of sweep."""
    kinds = {name: kind for name, kind in KINDS.items() if not kind.two}
    with ProcessPoolExecutor() as pool:
        counted = pool.map(partial(count, num_sweeps=options.simulated), kinds.values())
        rows = dict(zip(kinds, counted, strict=True))
    print("| sweep | same verdict, % | contrary, % | runs, % |\n|---|---|---|---|")
    for name, by_regret in rows.items():
        one = list(by_regret.values())
        same = 100 * min(cell["same"] for cell in one)
        contrary = 100 * max(cell["contrary"] for cell in one)
        low, high = (100 * f(cell["runs"] for cell in one) for f in (min, max))
        print(f"| {name} | {same:.1f} | {contrary:.1f} | {low:.0f} to {high:.0f} |")
    if options.json:
        keep(options.json, {**facts(), "sweeps": options.simulated, "rows": rows})


def main() -> None:
    """Print a row for every arm of every study, or for every kind of simulated sweep."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="*", type=Path)
    parser.add_argument("--simulated", type=int, metavar="N", help="sweeps of each kind and regret")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    if bool(options.studies) == bool(options.simulated) or (options.json and options.studies):
        parser.error("give studies, or --simulated with or without --json")
    if options.simulated:
        simulate(options)
        return
    print(
        "| study | arm | whole grid | adaptive | runs, % | seconds, % |\n|---|---|---|---|---|---|"
    )
    for folder in options.studies:
        study = Study.open(folder)
        whole, part = finished(study), finished(replayed(study))
        verdicts = judge(whole), judge(part)
        for arm in whole.tuned:
            both = [v[arm]["stepsize"].status for v in verdicts]
            ours, all_ = (
                [r for r in done.planned if (r.arm, r.purpose) == (arm, "sweep")]
                for done in (part, whole)
            )
            share = seconds(ours, whole.rows) / seconds(all_, whole.rows)
            print(
                f"| {study.experiment.name} | {arm} | {both[0]} | {both[1]} | "
                f"{100 * len(ours) / len(all_):.0f} | {100 * share:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
