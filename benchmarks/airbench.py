"""Accuracies of single runs of the preset airbench, of plain images and of averaged views.

    python benchmarks/airbench.py --data FOLDER --device cuda

Options but these take several values; 0.05 is the published stepsize.
"""

import argparse
from dataclasses import replace
from itertools import product

import torch

from sweeps import load_experiment
from sweeps.plan import run_config, with_settings
from transfer.config import Cifar10Config, ComputeConfig, DeviceName
from transfer.data.cifar10 import AugmentedData
from transfer.stack import Stack


def accuracies(
    arm: str, width: int, stepsize: float, seed: int, path: str, device: DeviceName
) -> tuple[float, float]:
    """Train one run; return its accuracy on plain validation images and on their six views."""
    experiment = load_experiment("airbench")
    assert isinstance(experiment.data, Cifar10Config)
    experiment = replace(experiment, data=replace(experiment.data, path=path))
    optimizer = with_settings(experiment.arms[arm].optimizer, {"stepsize": stepsize})
    run = run_config(experiment, arm, optimizer, size=width, seed=seed)
    stack = Stack([run], ComputeConfig(device=device))
    while stack.step < run.steps:
        stack.advance()
    ((_, plain),) = stack.validate()
    assert isinstance(stack.data, AugmentedData)
    stack.data = replace(stack.data, val_views="mirror-translate")
    ((_, averaged),) = stack.validate()
    return plain, averaged


def main() -> None:
    """Train and print a Markdown table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--arms", nargs="+", default=["constrained"])
    parser.add_argument("--widths", nargs="+", type=int, default=[64])
    parser.add_argument("--stepsizes", nargs="+", type=float, default=[0.05])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    options = parser.parse_args()
    print(f"{options.device}, torch {torch.__version__}\n")
    print("| arm | width | stepsize | seed | plain | averaged views |\n|---|---|---|---|---|---|")
    for cell in product(options.arms, options.widths, options.stepsizes, options.seeds):
        plain, views = accuracies(*cell, options.data, options.device)
        print(f"| {' | '.join(map(str, cell))} | {plain:.4f} | {views:.4f} |", flush=True)


if __name__ == "__main__":
    main()
