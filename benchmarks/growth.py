"""How the time of a sweep grows with the number of runs and with the width, stacked and not.

    python benchmarks/growth.py --json cpu-growth
    python benchmarks/growth.py --preset shallow-gpt-sign --arm unconstrained --data FILE \\
        --device cuda --widths 256 512 1024 2048 --width-runs 6 --most-alone 12 --json h200-growth
    python benchmarks/growth.py --draw cpu-growth h200-growth --figure docs/figures/growth.png

Runs of one width differ in stepsize and seed. The local runner trains them, its start included:
stacked as it chooses, and alone, a stack for each run. Alone, more runs than `--most-alone` are
not trained; the figure goes on with dots, in proportion.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import RESULTS, facts, keep  # noqa: E402
from sweep import stacked  # noqa: E402

from analysis.style import GROUP_COLORS, GROUP_MARKERS, clean  # noqa: E402
from sweeps import load_experiment  # noqa: E402
from sweeps.plan import run_config, with_settings  # noqa: E402
from transfer.config import RunConfig  # noqa: E402

WAYS = ("stacked", "alone")


def runs(options: argparse.Namespace, width: int, number: int) -> list[RunConfig]:
    """Return runs of one width; stepsizes a sixth of an octave apart, each with three seeds."""
    experiment = load_experiment(options.preset)
    if options.data:
        experiment = replace(experiment, data=replace(experiment.data, path=options.data))
    given = experiment.arms[options.arm].optimizer
    found = []
    for index in range(number):
        tried = with_settings(given, {"stepsize": given.stepsize * 2 ** -(index // 3 / 6)})
        found.append(run_config(experiment, options.arm, tried, size=width, seed=1 + index % 3))
    return found


def measure(options: argparse.Namespace) -> None:
    """Measure and keep a row for each width, number of runs and way."""
    compute = replace(load_experiment(options.preset).compute, device=options.device)
    cells = [(options.widths[0], number) for number in options.runs]
    cells += [(width, options.width_runs) for width in options.widths]
    rows: list[dict[str, Any]] = []
    for width, number in dict.fromkeys(cells):
        for way in WAYS:
            if way == "alone" and number > options.most_alone:
                continue
            limit = 1 if way == "alone" else compute.stack_size
            seconds = stacked(runs(options, width, number), replace(compute, stack_size=limit))
            rows.append({"width": width, "runs": number, "way": way, "seconds": seconds})
            print(rows[-1], file=sys.stderr, flush=True)
            store(options, rows)


def store(options: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Keep the rows so far: what takes an hour may be stopped before its end."""
    if options.json:
        chosen = ("preset", "arm", "runs", "widths", "width_runs")
        settings = {name: getattr(options, name) for name in chosen}
        keep(options.json, {**facts(options.device), **settings, "rows": rows})


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw a row of two panels for each device."""
    figure = Figure(figsize=(9, 3.4 * len(found)), layout="constrained")
    for axes, one in zip(figure.subplots(len(found), 2, squeeze=False), found, strict=True):
        rows, width, number = one["rows"], one["widths"][0], one["width_runs"]
        title = f"{one['preset']} on {one['device']}, {one['cores']} cores"
        by_runs = [row for row in rows if row["width"] == width]
        by_width = [row for row in rows if row["runs"] == number]
        panel(axes[0], by_runs, "runs", f"{title}\nwidth {width}", max(one["runs"]))
        panel(axes[1], by_width, "width", f"{number} runs")
    figure.savefig(path, dpi=150)


def panel(ax: Axes, rows: list[dict[str, Any]], x: str, title: str, end: int | None = None) -> None:
    """Draw seconds against one of the columns."""
    for way, color, marker in zip(WAYS, GROUP_COLORS, GROUP_MARKERS, strict=False):
        points = sorted((row[x], row["seconds"]) for row in rows if row["way"] == way)
        if not points:
            continue
        ax.plot(*zip(*points, strict=True), color=color, marker=marker, label=way)
        last, seconds = points[-1]
        if end is not None and last < end:
            ax.plot([last, end], [seconds, seconds * end / last], ":", color=color)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())
    ticks = sorted({row[x] for row in rows})
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xlabel(x)
    ax.set_ylabel("seconds")
    ax.set_title(title, fontsize=10, loc="left")
    ax.legend(frameon=False)
    clean(ax)


def main() -> None:
    """Measure and keep the rows, or draw what was kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="digits-mlp")
    parser.add_argument("--arm", default="scion")
    parser.add_argument("--data", default="", help="where the data lie")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 4, 12, 36, 144])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256, 512])
    parser.add_argument("--width-runs", type=int, default=36, help="at each width")
    parser.add_argument("--most-alone", type=int, default=144)
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--draw", metavar="NAME", nargs="+", help="draw these results instead")
    parser.add_argument("--figure", type=Path, default=Path("growth.png"))
    options = parser.parse_args()
    if options.draw:
        found = [json.loads((RESULTS / f"{name}.json").read_text("utf-8")) for name in options.draw]
        draw(found, options.figure)
        return
    measure(options)


if __name__ == "__main__":
    main()
