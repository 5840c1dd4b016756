"""Measure every polar-factor back end: overshoot, alignment and time, as a Markdown table.

    python benchmarks/polar.py [--device cuda] [--json polar]

Singular values and alignments are taken in float64 on the CPU, over float32 inputs:

* pairs: 16 x 16, two singular values (cos t, sin t), so that after the normalisation they cover
  (0, 1]: the largest outputs of an iteration come from a few narrow ranges;
* gauss: Gaussian, 256 x 256, 256 x 1024 and 1024 x 256;
* graded: 256 x 256, singular values from 1 to 1e-4 in equal ratios.

The largest singular value is over all of them, the other columns over those that they name; the
alignment is <S, O> / nuclear norm of S. Times are of one batch of the gauss
matrices of each shape, best of several rounds, over that of the SVD in float32 in the same
rounds.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import facts, keep  # noqa: E402

from transfer.coefficients import COEFFICIENTS, DTYPES, EXACT, EXACT_DTYPES  # noqa: E402
from transfer.polar import PolarFn, make_polar  # noqa: E402

SHAPES = ((256, 256), (256, 1024), (1024, 256))
BASELINE = "svd@float32"


def back_ends(device: str) -> list[str]:
    """Return all names to measure; tf32 is plain float32 on the CPU."""
    dtypes = [dtype for dtype in DTYPES if device != "cpu" or dtype != "tf32"]
    iterative = (*COEFFICIENTS, "polar-express:8")
    return [
        *(f"{base}@{dtype}" for base in EXACT for dtype in EXACT_DTYPES),
        *(f"{base}@{dtype}" for base in iterative for dtype in dtypes),
    ]


# --- inputs ---


def gaussian(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return a Gaussian float64 tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_values(sigma: Tensor, seed: int) -> Tensor:
    """Return matrices with these singular values (last dimension) and random singular vectors."""
    shape = (*sigma.shape, sigma.shape[-1])
    u, v = (torch.linalg.qr(gaussian(shape, seed + i)).Q for i in range(2))
    s: Tensor = (u * sigma.unsqueeze(-2)) @ v.mT
    return s


def pairs(num: int) -> Tensor:
    """Return 16 x 16 matrices with two singular values whose squares sum to 1."""
    smaller = torch.cat(
        [torch.linspace(0, 0.5**0.5, num // 2), torch.logspace(-4, -0.15, num // 2)]
    )
    sigma = torch.zeros(len(smaller), 16, dtype=torch.float64)
    sigma[:, 1] = smaller
    sigma[:, 0] = (1 - sigma[:, 1] ** 2).sqrt()
    return with_values(sigma, 10)


def make_inputs(num_pairs: int, batch: int) -> dict[str, Tensor]:
    """Return the batches by name, in float32."""
    found = {"pairs": pairs(num_pairs)}
    for seed, shape in enumerate(SHAPES):
        found["gauss {}x{}".format(*shape)] = gaussian((batch, *shape), seed)
    sigma = torch.logspace(0, -4, 256, dtype=torch.float64).expand(batch, -1)
    found["graded"] = with_values(sigma, 20)
    return {name: s.float() for name, s in found.items()}


# --- measurements ---


def accuracy(polar: PolarFn, inputs: dict[str, Tensor], device: str) -> dict[str, float]:
    """Return extremes of the singular values and of the alignment."""
    largest, least = 0.0, float("inf")
    aligned: dict[str, list[float]] = {"gauss": [], "graded": []}
    for name, s in inputs.items():
        o = polar(s.to(device)).cpu().double()
        values = torch.linalg.svdvals(o)
        largest = max(largest, values.max().item())
        kind = name.split()[0]
        if kind == "gauss":
            least = min(least, values.min().item())
        if kind in aligned:
            nuclear = torch.linalg.svdvals(s.double()).sum(-1)
            aligned[kind] += ((s.double() * o).sum((-2, -1)) / nuclear).tolist()
    found = {"largest_value": largest, "smallest_value_gauss": least}
    for kind, numbers in aligned.items():
        found |= {f"least_alignment_{kind}": min(numbers), f"most_alignment_{kind}": max(numbers)}
    return found


def seconds(call: Callable[[], object], device: str) -> float:
    """Time one call, to its end on the device."""
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def best_times(
    polars: dict[str, PolarFn], batches: list[Tensor], device: str, rounds: int
) -> dict[str, list[float]]:
    """Return the best seconds per matrix of each batch; every round visits all back ends."""
    best = {name: [float("inf")] * len(batches) for name in polars}
    for number in range(rounds + 1):
        for name, polar in polars.items():
            for i, s in enumerate(batches):
                spent = seconds(lambda p=polar, s=s: p(s), device) / len(s)  # type: ignore[misc]
                if number:  # the first round warms up
                    best[name][i] = min(best[name][i], spent)
    return best


# --- output ---


def measure(device: str, num_pairs: int, batch: int, rounds: int) -> list[dict[str, object]]:
    """Return one row per back end."""
    inputs = make_inputs(num_pairs, batch)
    polars = {name: make_polar(name) for name in back_ends(device)}
    shapes = [name for name in inputs if name.startswith("gauss")]
    times = best_times(polars, [inputs[name].to(device) for name in shapes], device, rounds)
    rows: list[dict[str, object]] = []
    for name, polar in polars.items():
        row: dict[str, object] = {"polar": name, **accuracy(polar, inputs, device)}
        for shape, spent, unit in zip(shapes, times[name], times[BASELINE], strict=True):
            row[f"seconds {shape}"], row[f"ratio {shape}"] = spent, spent / unit
        rows.append(row)
    return rows


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as Markdown."""
    shapes = ["{}x{}".format(*shape) for shape in SHAPES]
    head = ["polar", "largest σ", "smallest σ, gauss", "alignment, gauss", "alignment, graded"]
    lines = [head + [f"time {shape}" for shape in shapes], ["---"] * (len(head) + len(shapes))]
    for row in rows:
        cells = [
            f"`{row['polar']}`",
            f"{row['largest_value']:.4f}",
            f"{row['smallest_value_gauss']:.3f}",
            *(
                f"{row[f'least_alignment_{kind}']:.4f} … {row[f'most_alignment_{kind}']:.4f}"
                for kind in ("gauss", "graded")
            ),
            *(f"{row[f'ratio gauss {shape}']:.3g}" for shape in shapes),
        ]
        lines.append(cells)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def main() -> None:
    """Measure, print the table and write the JSON file if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    parser.add_argument("--pairs", type=int, default=4096, help="matrices of the kind pairs")
    parser.add_argument("--batch", type=int, default=4, help="matrices of each other kind")
    parser.add_argument("--rounds", type=int, default=5, help="of the timing")
    args = parser.parse_args()
    rows = measure(args.device, args.pairs, args.batch, args.rounds)
    run = facts(args.device)
    print(", ".join(f"{key} {value}" for key, value in run.items()), end="\n\n")
    print(table(rows))
    if args.json:
        keep(args.json, {**run, "rows": rows})


if __name__ == "__main__":
    main()
