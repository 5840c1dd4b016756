"""Two hyperparameters at once: do Scion's best stepsize and alpha stay the same over widths?

    python docs/examples/stepsize_alpha.py studies/stepsize-alpha

Trains the whole grid of the preset digits-mlp, 8 x 5 settings at four widths with three seeds, and
judges the table as `lmo-transfer verdict` would. Runs that the folder has are not trained again.
"""

import sys
from dataclasses import replace
from pathlib import Path

from analysis import panels_of, plot_surface, save, verdicts
from sweeps import LocalRunner, RunTable, load_experiment, to_frame
from sweeps.plan import PlannedRun, run_config
from sweeps.progress import Reporter
from transfer import ScionConfig

COLUMNS = ["width", "stepsize", "alpha", "seed", "status", "val_loss"]
COLUMNS += ["data", "family", "depth", "steps", "batch_size", "schedule"]


def main(folder: Path) -> None:
    """Train, judge and draw."""
    experiment = load_experiment("digits-mlp")
    scion = experiment.arms["scion"].optimizer
    assert isinstance(scion, ScionConfig)
    planned = [
        PlannedRun(
            arm="scion",
            purpose="sweep",
            config=run_config(
                experiment,
                "scion",
                replace(scion, stepsize=2.0**stepsize, alpha=2.0**alpha),
                size=width,
                seed=seed,
            ),
        )
        for stepsize in range(-5, 3)
        for alpha in range(-4, 1)
        for width in experiment.sweep.sizes
        for seed in experiment.sweep.seeds
    ]
    table = RunTable(folder / "records")
    with LocalRunner() as runner:
        runner.run(table, [p.config for p in planned if p.config.run_id not in table.read()],
                   Reporter())  # fmt: skip
    runs = to_frame(planned, table.read())[COLUMNS]
    runs.to_csv(folder / "runs.csv", index=False)
    x = ("stepsize", "alpha")
    judged = verdicts(runs, x=x, bounds={"alpha": (None, 1.0)}, epsilon=0.005)
    print(judged[""].status, judged[""].reason)
    (panel,) = panels_of(runs, judged)
    for path in save(plot_surface(panel), folder / "surface"):
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "studies/stepsize-alpha"))
