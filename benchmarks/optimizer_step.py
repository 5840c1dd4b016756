"""Time and memory of one optimizer step on the parameters of a GPT.

    python benchmarks/optimizer_step.py                 # CPU: 2 layers of width 256
    python benchmarks/optimizer_step.py --device cuda   # 124M: 12 x 768, vocabulary 50304
    python benchmarks/optimizer_step.py --device cuda --layers 24 --width 2048   # 1.3B
    python benchmarks/optimizer_step.py --only scion --optimizer mine:factory

A factory, given by import path, takes a list of parameters, the tied embedding and head first and
then the matrices of the layers, and returns an optimizer. `benchmarks/others.py` has some.

Gradients are there before the clock starts. On a GPU a step is timed by events, the median of
several rounds counts, and nothing waits between rounds; on a CPU the fastest counts. Ratios are
taken within one process. Memory is what the allocator handed out at its peak: during a step,
beyond what was held before it; and during a backward pass that makes one gradient after the other
and has no activations, plus the step after it, in bytes per parameter.
"""

import argparse
import importlib
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
from machine import facts, keep  # noqa: E402

from transfer import Almond, Scion, ScionLight  # noqa: E402
from transfer.optimizers import Combined  # noqa: E402

Factory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def parameters(
    layers: int, width: int, vocabulary: int, like: dict[str, Any]
) -> list[nn.Parameter]:
    """Return the matrices of a GPT with tied embedding and head, without biases."""
    shapes = [(vocabulary, width)]
    shapes += [(width, width)] * 4 * layers
    shapes += [(4 * width, width), (width, 4 * width)] * layers
    torch.manual_seed(0)
    return [nn.Parameter(0.02 * torch.randn(shape, **like)) for shape in shapes]


# --- optimizers ---


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return Scion's groups: scaled Sign for the tied matrix, Spectral for the others."""
    return [
        {"params": params[:1], "norm": "scaled-sign", "radius": 3000.0},
        {"params": params[1:], "norm": "spectral", "radius": 50.0},
    ]


def ours(kind: Any, **settings: Any) -> Factory:
    """Return a factory of one of our optimizers."""
    return lambda params: kind(groups(params), lr=1e-4, **settings)


def adamw(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return torch's AdamW, fused."""
    return torch.optim.AdamW(params, lr=1e-4, fused=True)


def muon(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return torch's Muon on the matrices of the layers, fused AdamW on the tied one."""
    return Combined([torch.optim.Muon(params[1:], lr=1e-4), adamw(params[:1])])


def optimizers(workspace_mb: float) -> dict[str, tuple[str, Factory]]:
    """Return factories by the names that --only takes, with their titles."""
    bf16: dict[str, Any] = {"polar": "muon@bfloat16", "workspace_mb": workspace_mb}
    return {
        "scion": ("Scion, muon@bfloat16", ours(Scion, **bf16)),
        "light": ("ScionLight, muon@bfloat16", ours(ScionLight, **bf16)),
        "almond": ("Almond, muon@bfloat16", ours(Almond, **bf16)),
        "adamw": ("AdamW (torch, fused)", adamw),
        "muon": ("Muon (torch) + AdamW on the tied matrix", muon),
        "scion32": ("Scion, muon", ours(Scion, workspace_mb=workspace_mb)),
        "alone": ("Scion, muon@bfloat16, foreach=False", ours(Scion, **bf16, foreach=False)),
    }


def imported(path: str) -> Factory:
    """Return the factory called MODULE:NAME."""
    module, _, name = path.partition(":")
    found: Factory = getattr(importlib.import_module(module), name)
    return found


# --- measurements ---


class Gradient(torch.autograd.Function):
    """Zero, whose gradient is noise: a backward pass without activations."""

    @staticmethod
    def forward(ctx: Any, p: Tensor) -> Tensor:
        """Return zero."""
        ctx.like = torch.empty(0, dtype=p.dtype, device=p.device)
        ctx.shape = p.shape
        return p.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        """Return noise of the parameter's shape."""
        return torch.randn(ctx.shape, dtype=ctx.like.dtype, device=ctx.like.device)


def backward(params: list[nn.Parameter]) -> None:
    """Give every parameter a gradient through autograd, one after the other."""
    for p in params:
        Gradient.apply(p).backward()  # type: ignore[no-untyped-call]


def timed(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, rounds: int) -> float:
    """Return seconds a step with gradients of the parameters' memory format at hand."""
    cuda = params[0].is_cuda
    noise = [torch.randn_like(p) for p in params]
    clocks: list[Any] = []
    for _ in range(rounds + 2):
        for p, n in zip(params, noise, strict=True):
            p.grad = n
        clocks.append(_clock(cuda))
        optimizer.step()
        clocks.append(_clock(cuda))
    if cuda:
        torch.cuda.synchronize()
        pairs = zip(clocks[4::2], clocks[5::2], strict=True)
        return statistics.median(start.elapsed_time(end) / 1e3 for start, end in pairs)
    return min(end - start for start, end in zip(clocks[4::2], clocks[5::2], strict=True))


def _clock(cuda: bool) -> Any:
    if not cuda:
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def peaks(params: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return the step's peak, and bytes per parameter: held, and at the peak of backward and step.

    Bytes are of all that torch has handed out, so nothing else may be there.
    """
    count = sum(p.numel() for p in params)
    optimizer.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    backward(params)
    held = torch.cuda.memory_allocated()
    in_backward = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer.step()
    in_step = torch.cuda.max_memory_allocated()
    return {
        "step_beyond_held_mib": (in_step - held) / 2**20,
        "held_bytes_per_parameter": held / count,
        "backward_bytes_per_parameter": in_backward / count,
        "step_bytes_per_parameter": in_step / count,
    }


def measure(title: str, make: Factory, options: argparse.Namespace) -> dict[str, Any]:
    """Return one row: seconds a step, and on a GPU its memory."""
    like = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    params = parameters(options.layers, options.width, options.vocabulary, like)
    optimizer = make(params)
    row: dict[str, Any] = {"optimizer": title}
    row["seconds"] = timed(params, optimizer, options.rounds)
    if options.device == "cuda":
        row |= peaks(params, optimizer)
    return row


# --- output ---


def table(rows: list[dict[str, Any]], cuda: bool) -> str:
    """Return the rows as a Markdown table."""
    memory = " step's peak beyond held, MiB | held, bytes a parameter | peak of backward and step |"
    lines = ["| optimizer | ms a step | ÷ first |" + (memory if cuda else "")]
    lines.append("|---|---|---|" + ("---|---|---|" if cuda else ""))
    for row in rows:
        line = f"| {row['optimizer']} | {1e3 * row['seconds']:.2f} | "
        line += f"{row['seconds'] / rows[0]['seconds']:.2f} |"
        if cuda:
            peak = max(row["backward_bytes_per_parameter"], row["step_bytes_per_parameter"])
            line += f" {row['step_beyond_held_mib']:.0f} | {row['held_bytes_per_parameter']:.2f} |"
            line += f" {peak:.2f} |"
        lines.append(line)
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Return the options; sizes default to what the device can do."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--width", type=int)
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--workspace-mb", type=float, default=512.0)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="of " + ", ".join(optimizers(1)))
    parser.add_argument("--optimizer", action="append", default=[], metavar="MODULE:FACTORY")
    parser.add_argument("--json", metavar="NAME", help="write benchmarks/results/NAME.json")
    options = parser.parse_args()
    sizes = (12, 768, 50304) if options.device == "cuda" else (2, 256, 2048)
    for name, size in zip(("layers", "width", "vocabulary"), sizes, strict=True):
        if getattr(options, name) is None:
            setattr(options, name, size)
    return options


def main() -> None:
    """Measure, print a Markdown table and write JSON."""
    options = parse()
    known = optimizers(options.workspace_mb)
    chosen = [known[name] for name in (known if options.only is None else options.only)]
    chosen += [(path, imported(path)) for path in options.optimizer]
    rows = []
    for title, make in chosen:
        rows.append(measure(title, make, options))
        print(rows[-1], file=sys.stderr, flush=True)
        if options.device == "cuda":
            torch.cuda.empty_cache()
    about = {**facts(options.device), **vars(options)}
    print(", ".join(f"{key} {value}" for key, value in about.items()) + "\n")
    print(table(rows, options.device == "cuda"))
    if options.json:
        keep(options.json, {**about, "rows": rows})


if __name__ == "__main__":
    main()
