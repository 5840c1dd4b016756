"""Kernels for blocks compute what PyTorch does: on a GPU, or interpreted by Triton on the CPU."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer import kernels
from transfer.arithmetic import Arithmetic
from transfer.config import DataShape, GptConfig
from transfer.data.base import Batch
from transfer.models import linear, lookup, passes
from transfer.models.blocks import rms_norm, rotary, turns
from transfer.models.gpt import Gpt
from transfer.program import Judged, Program

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
TRITON = importlib.util.find_spec("triton") is not None
# Half a unit in the last place of bfloat16; Triton's interpreter cuts bits off.
ROUNDING = 2**-7 if kernels.INTERPRETED else 2**-8
RUNS, BATCH, LENGTH, HEADS = 3, 2, 5, 4
runs_kernels = pytest.mark.skipif(
    not (TRITON and (CUDA or kernels.INTERPRETED)),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1 set before Python starts",
)


@pytest.mark.skipif(not TRITON, reason="Triton is not installed (it has no wheels for this torch)")
@pytest.mark.skipif(kernels.INTERPRETED or CUDA, reason="the kernels run here already")
def test_interpreted() -> None:
    """Run this file once more, the kernels interpreted by Triton on the CPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    top = Path(__file__).parents[2]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=top, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Return Gaussian numbers on the tested device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def assert_rounded(found: Tensor, exact: Tensor, atol: float = 1e-6) -> None:
    """Check that numbers are exact ones, rounded to their type."""
    rounding = ROUNDING if found.dtype == torch.bfloat16 else 2e-6
    torch.testing.assert_close(found.double(), exact, rtol=rounding, atol=atol)


def moved_back(x: Tensor, dim: int | None) -> tuple[Tensor, int | None]:
    """Return runs of x where vmap is told to look for them; without a place, those of run 0."""
    return (x[0], None) if dim is None else (x.movedim(0, dim), dim)


@runs_kernels
def test_gelu() -> None:
    x, gradient = 3 * drawn(37, 129), drawn(37, 129, seed=1)
    wide = x.double().requires_grad_()
    exact = math.sqrt(2) * F.gelu(wide)
    exact.backward(gradient.double())
    given = x.clone().requires_grad_()
    out = passes.gelu(given)
    out.backward(gradient)
    # The distribution function is wrong by 7.5e-8, its tails are not in proportion.
    assert_rounded(out.detach(), exact.detach(), atol=1e-6)
    assert given.grad is not None and wide.grad is not None
    assert_rounded(given.grad, wide.grad, atol=4e-6)


@runs_kernels
@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("shared", [False, True])
def test_rotary(head_dim: int, shared: bool) -> None:
    """Each run has angles of its own, or all share them."""
    x = drawn(RUNS, BATCH, LENGTH, HEADS * head_dim)
    gradient = drawn(*x.shape, seed=1)
    angles = torch.stack([turns(LENGTH + r, head_dim)[:, r:] for r in range(RUNS)]).to(DEVICE)
    angles = angles[:1].expand_as(angles) if shared else angles
    wide = x.double().requires_grad_()
    heads = rms_norm(wide.unflatten(-1, (HEADS, head_dim)).transpose(2, 3))
    exact = torch.stack([rotary(h, t) for h, t in zip(heads, angles, strict=True)])
    exact = exact.transpose(2, 3).flatten(3)
    exact.backward(gradient.double())
    given = x.clone().requires_grad_()
    times, dim = moved_back(angles.float(), None if shared else 1)
    over_runs = torch.vmap(lambda x, t: passes.rotary(x, t, head_dim), in_dims=(0, dim))
    out = over_runs(given, times)
    out.backward(gradient)
    assert_rounded(out.detach(), exact.detach())
    assert given.grad is not None and wide.grad is not None
    # The result that the backward pass starts from is rounded.
    assert_rounded(given.grad, wide.grad, atol=0.05)


@runs_kernels
@pytest.mark.parametrize("width", [48, 256])
@pytest.mark.parametrize("last", [False, True])
def test_normed_sum(width: int, last: bool) -> None:
    """Of the last sum nobody wants the gradient."""
    x, branch = drawn(RUNS, BATCH, LENGTH, width, dtype=torch.float32), drawn(BATCH, LENGTH, width)
    wide = x.double().requires_grad_(), branch.double().requires_grad_()
    exact = wide[0] + 0.5 * wide[1]
    given = x.clone().requires_grad_(), branch.clone().requires_grad_()
    over_runs = torch.vmap(lambda x, b: passes.normed_sum(x, b, 0.5), in_dims=(0, None))
    total, out = over_runs(*given)
    one, two = drawn(*x.shape, seed=1), drawn(*x.shape, seed=2, dtype=torch.float32)
    loss = (rms_norm(exact) * one.double()).sum()
    (loss if last else loss + (exact * two.double()).sum()).backward()
    loss = (out * one).float().sum()
    (loss if last else loss + (total * two).sum()).backward()
    assert_rounded(total.detach(), exact.detach())
    assert_rounded(out.detach(), rms_norm(exact.detach()))
    for found, right in zip(given, wide, strict=True):
        assert found.grad is not None and right.grad is not None
        torch.testing.assert_close(found.grad.double(), right.grad, rtol=0.02, atol=0.05)


@runs_kernels
def test_normed() -> None:
    x, gradient = drawn(BATCH, LENGTH, 48, dtype=torch.float32), drawn(BATCH, LENGTH, 48, seed=1)
    wide, given = x.double().requires_grad_(), x.clone().requires_grad_()
    exact, out = rms_norm(wide), passes.normed(given)
    exact.backward(gradient.double())
    out.backward(gradient)
    assert_rounded(out.detach(), exact.detach())
    assert given.grad is not None and wide.grad is not None
    torch.testing.assert_close(given.grad.double(), wide.grad, rtol=0.02, atol=0.02)


@runs_kernels
@pytest.mark.parametrize("few", [False, True])
def test_stacked_models(few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradients of stacked models are those of the plain ones, to bfloat16's rounding.

    Where few rows are looked up for many tokens, too.
    """
    monkeypatch.setattr(lookup, "_LEAST_REPEATS", 1 if few else 1000)
    torch.manual_seed(0)
    shape = DataShape(kind="tokens", inputs=(8,), outputs=13)
    model = Gpt(GptConfig(head_dim=64 if CUDA else 16), shape, 64, 2).to(DEVICE)
    for p in model.parameters():
        nn.init.orthogonal_(p)
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {
        name: torch.stack([w.detach() * (1 + 0.1 * r) for r in range(RUNS)]).requires_grad_(
            isinstance(w, nn.Parameter)
        )
        for name, w in named.items()
    }
    tokens = torch.randint(0, 13, (2, RUNS, BATCH, 8)).to(DEVICE)

    def computed(own: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        for module in (passes, linear):
            monkeypatch.setattr(module, "takes", lambda x: own and x.dtype == torch.bfloat16)
        monkeypatch.setattr(passes, "joins", lambda x: own)
        program = Program(Judged(model, 0.0), Arithmetic("bf16", DEVICE), together=True)
        losses = program.losses(weights, Batch(*tokens))
        trained = [w for w in weights.values() if w.requires_grad]
        return losses.detach(), torch.autograd.grad(losses.sum(), trained)

    (plain, expected), (losses, found) = computed(False), computed(True)
    torch.testing.assert_close(losses, plain, rtol=0, atol=0.02)
    for one, other in zip(found, expected, strict=True):
        assert one.is_contiguous() and one.dtype == torch.float32
        # Those of queries and keys are small differences of large numbers.
        assert (one - other).norm() < 16 * ROUNDING * other.norm()
