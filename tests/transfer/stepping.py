"""Parameters, gradients and steps shared by the tests of the optimizers."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer.optimizers import Almond, LmoOptimizer, Scion, ScionLight

OPTIMIZERS = (Scion, ScionLight, Almond)
every_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS, ids=lambda kind: kind.__name__)


def gaussian(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a Gaussian tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_params(
    shapes: list[tuple[int, ...]], seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[nn.Parameter]:
    """Return Gaussian parameters."""
    return [nn.Parameter(gaussian(shape, seed + i, dtype)) for i, shape in enumerate(shapes)]


def copies(params: list[nn.Parameter]) -> list[nn.Parameter]:
    """Return equal parameters."""
    return [nn.Parameter(p.detach().clone()) for p in params]


def set_grads(params: list[nn.Parameter], step: int) -> None:
    """Give each parameter a gradient with a drift and noise, the same for the same step."""
    for i, p in enumerate(params):
        noise = gaussian(tuple(p.shape), 1000 * step + i, p.dtype)
        p.grad = 0.1 * p.detach() + noise * 10.0 ** (i % 5 - 2)


def loss(params: list[nn.Parameter], step: int) -> Tensor:
    """Return a loss whose gradients are each parameter plus noise, the same for the same step."""
    parts = [
        (0.5 * p.square() + p * gaussian(tuple(p.shape), 1000 * step + i, p.dtype)).sum()
        for i, p in enumerate(params)
    ]
    return torch.stack([part.double() for part in parts]).sum()


def run(params: list[nn.Parameter], optimizer: Any, start: int, stop: int) -> None:
    """Do the steps start to stop - 1, each with one backward pass."""
    for step in range(start, stop):
        optimizer.zero_grad()
        loss(params, step).backward()
        optimizer.step()


def average(optimizer: LmoOptimizer, p: Tensor) -> Tensor:
    """Return the average that the optimizer keeps for a parameter."""
    kept: Tensor = optimizer.state[p]["average"]
    return kept


def assert_bitwise(some: list[Any], others: list[Any]) -> None:
    """Fail unless all tensors are equal bit for bit."""
    for i, (a, b) in enumerate(zip(some, others, strict=True)):
        assert torch.equal(a, b), f"#{i} {tuple(a.shape)} {a.dtype}: {(a - b).abs().max()}"
