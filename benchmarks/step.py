"""Time and memory of one optimizer step on the parameters of a GPT of 124M parameters.

    python benchmarks/step.py                # CPU: 2 layers of width 256
    python benchmarks/step.py --device cuda  # 12 layers of width 768, vocabulary 50304

Gradients come from a backward pass of a sum over each parameter, whose time is not counted. Every
ratio is taken in one process; the fastest of several rounds counts.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from transfer import Scion, ScionLight


def parameters(
    layers: int, width: int, vocabulary: int, like: dict[str, Any]
) -> list[nn.Parameter]:
    """Return the matrices of a GPT with tied embedding and head, without biases."""
    shapes = [(vocabulary, width)]
    shapes += [(width, width)] * 4 * layers
    shapes += [(4 * width, width), (width, 4 * width)] * layers
    torch.manual_seed(0)
    return [nn.Parameter(0.02 * torch.randn(shape, **like)) for shape in shapes]


def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return Scion's groups: scaled Sign for the tied matrix, Spectral for the others."""
    return [
        {"params": params[:1], "norm": "scaled-sign", "radius": 3000.0},
        {"params": params[1:], "norm": "spectral", "radius": 50.0},
    ]


def muon(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return torch's Muon on all matrices but the first, which it does not step."""
    return torch.optim.Muon(params[1:], lr=1e-4)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "Scion": lambda params: Scion(groups(params), lr=1e-4),
    "Scion, polar muon@bfloat16": lambda params: Scion(
        groups(params), lr=1e-4, polar="muon@bfloat16"
    ),
    "Scion, foreach=False": lambda params: Scion(groups(params), lr=1e-4, foreach=False),
    "Scion, foreach=False, muon@bfloat16": lambda params: Scion(
        groups(params), lr=1e-4, foreach=False, polar="muon@bfloat16"
    ),
    "ScionLight, polar muon@bfloat16": lambda params: ScionLight(
        groups(params), lr=1e-4, polar="muon@bfloat16"
    ),
    "AdamW (torch, fused=False)": lambda params: torch.optim.AdamW(params, lr=1e-4),
    "Muon (torch) on the matrices alone": muon,
}


def backward(params: list[nn.Parameter], noise: list[Tensor]) -> None:
    """Give every parameter a gradient through autograd, one after the other."""
    for p, n in zip(params, noise, strict=True):
        (p * n).sum().backward()


def measure(
    name: str, like: dict[str, Any], sizes: tuple[int, int, int], rounds: int
) -> dict[str, Any]:
    """Return seconds a step, and on a GPU the bytes held between steps."""
    cuda = like["device"] == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    params = parameters(*sizes, like)
    noise = [torch.randn_like(p) for p in params]
    optimizer = OPTIMIZERS[name](params)
    times = []
    for _ in range(rounds):
        optimizer.zero_grad()
        backward(params, noise)
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    backward(params, noise)
    weights = sum(p.numel() * p.element_size() for p in params)
    state = [t for s in optimizer.state.values() for t in s.values() if isinstance(t, Tensor)]
    grads = [p.grad for p in params if p.grad is not None and p.grad.layout == torch.strided]
    held = weights + sum(t.numel() * t.element_size() for t in (*state, *grads))
    return {"optimizer": name, "seconds": min(times[1:]), "held_over_weights": held / weights}


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sizes = (12, 768, 50304) if options.device == "cuda" else (2, 256, 2048)
    like = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    rows = [measure(name, like, sizes, options.rounds) for name in OPTIMIZERS]
    print(
        f"{options.device}, torch {torch.__version__}, {options.dtype}; (layers, width, vocabulary)"
    )
    print(f"= {sizes}\n\n| optimizer | ms a step | ÷ Scion | bytes held ÷ weights |")
    print("|---|---|---|---|")
    for row in rows:
        ratio = row["seconds"] / rows[0]["seconds"]
        print(
            f"| {row['optimizer']} | {1e3 * row['seconds']:.2f} | {ratio:.2f} | "
            f"{row['held_over_weights']:.2f} |"
        )
    if options.json:
        options.json.write_text(
            json.dumps({"sizes": sizes, **vars(options), "rows": rows}, default=str)
        )


if __name__ == "__main__":
    main()
