"""Attention of single and of stacked runs is the formula's, by whatever kernel."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from transfer.models import attention
from transfer.models.attention import attend

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="cuDNN's attention needs a GPU")
RUNS, BATCH, HEADS = 3, 2, 4


class OnGPU(Tensor):
    """A tensor that says it lies on a GPU, where there is none."""

    is_cuda = True


def formula(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Return softmax(q k^T / sqrt(K)) v in float64."""
    q, k, v = q.double(), k.double(), v.double()
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    if causal:
        later = torch.ones(scores.shape[-2:], device=q.device).triu(1).bool()
        scores = scores.masked_fill(later, -math.inf)
    return scores.softmax(-1) @ v


def made(length: int, dim: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """Return q, k and v of all runs, which lie in memory as a model's do."""
    generator = torch.Generator().manual_seed(length)
    shape = (RUNS, BATCH, length, HEADS, dim)
    drawn = [torch.randn(shape, generator=generator) for _ in range(3)]
    return [x.to(device, dtype).transpose(2, 3).requires_grad_() for x in drawn]


@pytest.mark.parametrize("causal", [False, True])
def test_formula(causal: bool) -> None:
    q, k, v = made(9, 8, "cpu", torch.float64)
    torch.testing.assert_close(attend(q[0], k[0], v[0], causal=causal), formula(q, k, v, causal)[0])
    over_runs = torch.vmap(lambda q, k, v: attend(q, k, v, causal=causal))
    with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for vmap
        torch.testing.assert_close(over_runs(q, k, v), formula(q, k, v, causal))


def test_runs_become_part_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule for vmap, whichever dimension holds the runs, or none."""
    asked: list[torch.Size] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
        asked.append(q.shape)
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal), q.sum(-1)

    monkeypatch.setattr(attention, "_cudnn_attention", kernel)
    q, k, v = made(5, 8, "cpu", torch.float64)
    shared = v[0]
    info: Any = SimpleNamespace(batch_size=RUNS)
    (out, sums), dims = attention._over_runs(
        info, (0, 1, None, None), q, k.movedim(0, 1), shared, True
    )
    assert asked == [torch.Size((RUNS * BATCH, HEADS, 5, 8))] and dims == (0, 0)
    torch.testing.assert_close(out, formula(q, k, shared.expand_as(q), True))
    assert sums.shape == (RUNS, BATCH, HEADS, 5)


@pytest.mark.parametrize(
    ("shape", "dtype", "cuda", "taken"),
    [
        ((2, 4, 197, 64), torch.bfloat16, True, True),
        ((2, 4, 2, 128), torch.float16, True, True),
        ((2, 4, 1, 64), torch.bfloat16, True, False),  # cuDNN raises there
        ((2, 4, 197, 32), torch.bfloat16, True, False),
        ((2, 4, 197, 64), torch.float32, True, False),
        ((2, 4, 197, 64), torch.bfloat16, False, False),
    ],
)
def test_what_cudnn_takes(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    cuda: bool,
    taken: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "_fast", lambda: True)
    q = OnGPU(torch.empty(shape, dtype=dtype)) if cuda else torch.empty(shape, dtype=dtype)
    assert attention._has_cudnn(q) == taken


def test_the_compiler_takes_the_answer_as_it_is() -> None:
    """Torch's own decorator would import the compiler; it leaves the same mark."""

    def other() -> bool:
        return True

    torch.compiler.assume_constant_result(other)
    assert vars(other) and vars(other).items() <= vars(attention._fast).items()


@on_gpu
@pytest.mark.parametrize("length", [2, 5, 64, 197, 1024])
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("causal", [False, True])
def test_kernel_on_a_gpu(length: int, dim: int, causal: bool) -> None:
    """Results and gradients as exact as bfloat16 allows; at any length, such as a ViT's 197."""
    q, k, v = made(length, dim, "cuda", torch.bfloat16)

    def alone(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attend(q, k, v, causal=causal)

    def in_turn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.stack([alone(*run) for run in zip(q, k, v, strict=True)])

    exact = formula(q, k, v, causal)
    gradient = torch.randn(exact.shape, device="cuda").bfloat16()
    wanted = [exact, *torch.autograd.grad(exact, (q, k, v), gradient.double())]
    for compute in (in_turn, torch.vmap(alone)):
        out = compute(q, k, v)
        found = [out, *torch.autograd.grad(out, (q, k, v), gradient)]
        for got, want in zip(found, wanted, strict=True):
            scale = max(1.0, want.abs().max().item())
            assert (got.double() - want.double()).abs().max().item() <= 2**-6 * scale
