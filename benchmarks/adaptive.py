"""What sweep.adaptive would have done on studies whose whole grid was swept.

    python benchmarks/adaptive.py studies/digits-mlp studies/airbench-cpu

Replays each study from its run table: for every arm the verdict of the whole grid, that of the
adaptive sweep, and which share of the sweep's runs and of their seconds the latter takes.
"""

import argparse
import copy
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from launch.pipeline import finished, judge, settled  # noqa: E402
from sweeps import Study  # noqa: E402
from sweeps.adaptive import needed  # noqa: E402
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


def main() -> None:
    """Print a row for every arm of every study."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("studies", nargs="+", type=Path)
    print(
        "| study | arm | whole grid | adaptive | runs, % | seconds, % |\n|---|---|---|---|---|---|"
    )
    for folder in parser.parse_args().studies:
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
