"""Time to read, judge and draw a table of 100,000 runs, as the command does it.

    python benchmarks/table.py --json cpu-table

Five groups, 40 sizes, 25 stepsizes and 20 seeds as CSV; the interpreter's start is in the time.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from machine import facts, keep

GROUPS = ("scion", "almond", "muon", "adamw", "sgd")


def table() -> pd.DataFrame:
    """Return the runs; the optimum drifts faster from group to group."""
    rng = np.random.default_rng(0)
    shape = (len(GROUPS), 40, 25, 20)
    group, size, x, seed = (axis.ravel() for axis in np.indices(shape))
    octave = -12 + 0.4 * x
    optimum = -7 + 0.01 * group * size
    loss = 3 - 0.01 * size + 0.01 * (octave - optimum) ** 2 + rng.normal(0, 0.004, group.size)
    return pd.DataFrame(
        {
            "optimizer": np.array(GROUPS)[group],
            "width": (64 * 1.2**size).astype(int),
            "lr": 2.0**octave,
            "seed": seed,
            "val_loss": loss,
        }
    )


def main() -> None:
    """Time the command and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    runs = table()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.csv"
        runs.to_csv(path, index=False)
        command = [sys.executable, "-m", "lmo_transfer", "verdict", str(path), "--x", "lr"]
        command += ["--group", "optimizer", "--figures", folder]
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - began
        drawn = len(list(Path(folder).glob("*.[ps][nv]g")))
    found = {**facts(), "runs": len(runs), "figures": drawn, "seconds": round(took, 2)}
    print(found)
    if options.json:
        keep(options.json, found)


if __name__ == "__main__":
    main()
