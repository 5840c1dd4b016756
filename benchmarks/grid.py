"""Time of the whole sweep of one arm, from the start of the command, stage by stage.

    python benchmarks/grid.py --data tinyshakespeare.txt --study DIR --json h100-grid-cold
    python benchmarks/grid.py --data tinyshakespeare.txt --study DIR2 --json h100-grid-warm
    python benchmarks/grid.py --data tinyshakespeare.txt --study DIR3 --adaptive

By default Scion, unconstrained, of shallow-gpt-sign: 4 widths x 12 stepsizes x 3 seeds, after a
tuning at the smallest width of which the time is told apart. The size not swept is left out. The
compiler's cache is warm if another study was swept before on the machine.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

_STARTED = time.monotonic()

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

from launch.pipeline import finished, judge, settled  # noqa: E402
from sweeps import load_experiment, run  # noqa: E402
from sweeps.progress import Reporter  # noqa: E402


class Clock(Reporter):
    """Prints and keeps when what ended, in seconds since the start."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []

    def stage(self, title: str, total: int, known: int) -> None:
        self.stages.append({"title": title, "runs": total - known, "begins_s": _now(), "ends": []})
        self._print(f"{title}: {total - known} runs")

    def advance(self, runs: int) -> None:
        self.stages[-1]["ends"].append([runs, _now()])
        self._print(f"{runs} runs")

    def note(self, text: str) -> None:
        self._print(text)

    def _print(self, text: str) -> None:
        print(f"{_now():7.1f} {text}", flush=True)


def _now() -> float:
    return round(time.monotonic() - _STARTED, 2)


def main() -> None:
    """Sweep, and print the times and the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="shallow-gpt-sign")
    parser.add_argument("--arm", default="unconstrained")
    parser.add_argument("--data", default="", help="path of the data, where they are a file")
    parser.add_argument("--study", type=Path, required=True)
    parser.add_argument("--adaptive", action="store_true")
    parser.add_argument("--json", default="", help="name under benchmarks/results/")
    options = parser.parse_args()
    whole = load_experiment(options.preset)
    experiment = replace(
        whole,
        arms={options.arm: whole.arms[options.arm]},
        data=replace(whole.data, path=options.data) if options.data else whole.data,
        sweep=replace(whole.sweep, adaptive=options.adaptive, check_factor=0),
    )
    clock = Clock()
    study = run(experiment, options.study, reporter=clock, settled=settled)
    total = _now()
    done = finished(study)
    swept = [done.rows[r.config.run_id] for r in done.planned if r.purpose == "sweep"]
    tunings = [s for s in clock.stages if s["title"].startswith("tune ") and s["ends"]]
    tuning = sum(s["ends"][-1][1] - s["begins_s"] for s in tunings)
    found = {
        **facts(experiment.compute.device),
        "runs": len(swept),
        "total_s": total,
        "without_tuning_s": round(total - tuning, 2),
        "training_s": round(sum(r.wall_s for r in swept), 1),
        "compiling_s": round(sum(r.compile_s for r in swept), 1),
        "verdict": judge(done)[options.arm]["stepsize"].status,
        "stages": clock.stages,
    }
    print({key: value for key, value in found.items() if key != "stages"})
    if options.json:
        keep(options.json, found)


if __name__ == "__main__":
    main()
