"""The Triton kernels compute what plain PyTorch does: on a GPU, or interpreted on the CPU."""

import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer import kernels, polar
from transfer.coefficients import COEFFICIENTS
from transfer.config import NORM_NAMES
from transfer.norms import NORMS
from transfer.optimizers import Almond, LmoOptimizer, Scion, ScionLight, batch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TRITON = importlib.util.find_spec("triton") is not None
# Triton's interpreter cuts bits off where GPUs round to the nearest bfloat16.
ROUNDING = 2**-7 if kernels.INTERPRETED else 2**-8
# NumPy warns of the NaN that are wanted.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
runs_kernels = pytest.mark.skipif(
    not (TRITON and (DEVICE == "cuda" or kernels.INTERPRETED)),
    reason="needs Triton, and a GPU or TRITON_INTERPRET=1 set before Python starts",
)


@pytest.mark.skipif(not TRITON, reason="Triton is not installed (it has no wheels for this torch)")
@pytest.mark.skipif(kernels.INTERPRETED or DEVICE == "cuda", reason="the kernels run here already")
def test_interpreted() -> None:
    """Run this file once more, the kernels interpreted by Triton on the CPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    top = Path(__file__).parents[2]
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=top, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def gaussian(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return a Gaussian tensor on the tested device."""
    made = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return made.to(DEVICE, dtype)


# --- products ---


@runs_kernels
@pytest.mark.parametrize("shape", [(2, 256, 320), (1, 264, 72), (3, 128, 128), (2, 40, 200)])
def test_product_with_the_transpose(shape: tuple[int, ...]) -> None:
    from transfer.kernels.symmetric import symmetric_product

    x = gaussian(shape, 0, torch.bfloat16)
    out = torch.full((shape[0], shape[1], shape[1]), math.nan, dtype=torch.bfloat16, device=DEVICE)
    symmetric_product(x, out)
    exact = x.double() @ x.double().mT
    error = (out.double() - exact).abs().max() / exact.abs().max()
    assert error <= ROUNDING, "more than rounding to bfloat16"
    torch.testing.assert_close(out, out.mT, rtol=ROUNDING, atol=0)


@runs_kernels
@pytest.mark.parametrize("size", [128, 200])
def test_product_of_matrices_that_commute(size: int) -> None:
    from transfer.kernels.symmetric import symmetric_product

    g = gaussian((2, size, size), 1)
    a = ((g + g.mT) / size).to(torch.bfloat16)
    wide = a.double()
    b = (wide @ wide).to(torch.bfloat16)
    out = symmetric_product(a, torch.full_like(a, math.nan), b, alpha=2.0)
    exact = 2.0 * wide @ b.double()
    # The rounding of b makes of the product a matrix that is not quite symmetric.
    error = (out.double() - exact).abs().max() / exact.abs().max()
    assert error <= 2 * ROUNDING, "more than rounding to bfloat16"
    torch.testing.assert_close(out, out.mT, rtol=ROUNDING, atol=1e-3)


@runs_kernels
@pytest.mark.parametrize("size", [128, 200, 264])
def test_polynomial_of_a_symmetric_matrix(size: int) -> None:
    from transfer.kernels.symmetric import symmetric_product

    g = gaussian((2, size, size), 1)
    a = ((g + g.mT) / size).to(torch.bfloat16)
    out = torch.full_like(a, math.nan)
    symmetric_product(a, out, alpha=2.0315, beta=-4.775, diagonal=3.4445)
    wide = a.double()
    identity = torch.eye(size, device=DEVICE, dtype=torch.float64)
    exact = 3.4445 * identity - 4.775 * wide + 2.0315 * wide @ wide
    torch.testing.assert_close(out.double(), exact, rtol=ROUNDING, atol=1e-3)
    torch.testing.assert_close(out, out.mT, rtol=ROUNDING, atol=1e-3)


@runs_kernels
@pytest.mark.parametrize("base", COEFFICIENTS)
@pytest.mark.parametrize("shape", [(2, 256, 256), (1, 256, 520)])
@pytest.mark.parametrize("spectrum", ["gaussian", "falling"])
def test_newton_schulz_by_half(
    base: str, shape: tuple[int, ...], spectrum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About as near to the iteration in float64 as the plain one in bfloat16 is."""
    s = gaussian(shape, 2)
    if spectrum == "falling":
        u, _, vh = torch.linalg.svd(s.double(), full_matrices=False)
        values = 1.0 / torch.arange(1, shape[1] + 1, device=DEVICE, dtype=torch.float64)
        s = ((u * values) @ vh).float()
    called = polar.make_polar(f"{base}@bfloat16")
    by_half = called(s).double()
    monkeypatch.setattr(polar, "_LEAST_ROWS", 10**9)
    plain = called(s).double()
    exact = polar.NewtonSchulz(called.coefficients, torch.float64)(s.double())  # type: ignore[attr-defined]
    errors = [((o - exact).norm() / exact.norm()).item() for o in (by_half, plain)]
    # Two steps at once on a long matrix round its Gram matrix once more.
    factor = 4 if kernels.INTERPRETED else 2 if shape[1] < shape[2] else 1.5
    assert errors[0] < min(factor * errors[1], 0.1), errors
    largest = [torch.linalg.svdvals(o).amax().item() for o in (by_half, exact)]
    assert largest[0] < largest[1] + (0.03 if kernels.INTERPRETED else 0.01)
    assert not torch.equal(by_half, plain), "the kernels were not used"


# --- steps ---

SHAPES: dict[int, list[tuple[int, ...]]] = {
    1: [(24,), (8,), (24,)],
    2: [(24, 16), (16, 24), (24, 16), (8, 8)],
    3: [(8, 4, 2), (8, 4, 2), (4, 8, 2, 2)],
}
SIGNS = ["sign", "scaled-sign", "max-norm"]
SPECTRAL = ["spectral", "plain-spectral", "spectral-max", "embedding-spectral", "conv-spectral"]
CASES: dict[str, tuple[dict[str, Any], list[tuple[int, ...]]]] = {
    **{name: ({"norm": name}, SHAPES[NORMS[name].event_ndim]) for name in [*SIGNS, *SPECTRAL]},
    "any shape": ({"norm": "max-norm"}, [(8, 4), (4, 2, 4)]),
    "split rows": ({"split_sizes": (8, 8, 4)}, [(20, 8), (20, 8)]),
    "transposed": ({"layout": "transposed"}, [(16, 8), (8, 16)]),
    "table": ({"layout": "table", "norm": "sign"}, [(40, 8)]),
    "experts": ({"layout": "batch", "split_sizes": (8, 4)}, [(3, 12, 8), (2, 2, 12, 8)]),
    "groups": ({"norm": "conv-spectral", "groups": 2}, [(8, 4, 2), (4, 8, 2, 2)]),
    "small workspace": ({"workspace_mb": 0.002}, [(16, 24)] * 3 + [(24, 16)] * 4),
}
# What the kernels leave to PyTorch.
PLAIN: dict[str, tuple[dict[str, Any], list[tuple[int, ...]]]] = {
    "split columns": ({"layout": "transposed", "split_sizes": (8, 4)}, [(8, 12)]),
    "one by one": ({"foreach": False}, [(16, 8)]),
    "scattered": ({"norm": "conv-spectral", "layout": "conv-transposed"}, [(8, 4, 2)]),
    "unaligned": ({"split_sizes": (3, 2)}, [(5, 3)]),
    "float32 iteration": ({"polar": "muon@float32"}, [(16, 8)]),
    "rows": ({"norm": "row-norm"}, [(16, 8)]),
    "joint": ({"norm": "max-norm", "joint": True}, [(16, 8), (8,)]),
}
KINDS = [
    pytest.param(Scion, False, id="Scion"),
    pytest.param(Scion, True, id="constrained Scion"),
    pytest.param(ScionLight, True, id="constrained ScionLight"),
    pytest.param(Almond, False, id="Almond"),
]


def make(
    kind: Any, shapes: list[tuple[int, ...]], dtype: torch.dtype, **settings: Any
) -> tuple[list[nn.Parameter], LmoOptimizer]:
    """Return parameters and their optimizer, which iterates in bfloat16 unless told otherwise."""
    params = [nn.Parameter(gaussian(shape, i, dtype)) for i, shape in enumerate(shapes)]
    return params, kind(params, **{"lr": 0.1, "radius": 2.0, "polar": "muon@bfloat16", **settings})


def run(
    params: list[nn.Parameter], optimizer: LmoOptimizer, steps: int = 3, size: float = 1.0
) -> None:
    """Step with the same gradients, whatever the optimizer."""
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = size * gaussian(tuple(p.shape), 100 * step + i, p.dtype)
        optimizer.step()


def fused(optimizer: LmoOptimizer) -> int:
    """Return the number of blocks that kernels stepped."""
    assert optimizer._planned is not None
    return sum(len(fused.entries) for fused in optimizer._planned[1]._fused.values())


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs in PyTorch alone."""

    def call(*args: Any, **kwargs: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(batch, "entries", lambda *args: None)
            run(*args, **kwargs)

    return call


def assert_near(got: Tensor, wanted: Tensor, start: Tensor | float, rounding: float) -> None:
    """Compare how far two tensors went from where they started, in the Euclidean norm."""
    error, way = (got - wanted).norm().item(), (wanted - start).norm().item()
    assert way > 0
    # An iteration in bfloat16 rounds by 2^-9 a step, and the two round in another order.
    allowed = (0.1 if kernels.INTERPRETED else 0.03) * way + rounding * wanted.norm().item()
    assert error <= allowed, f"{tuple(got.shape)} {got.dtype}: {error:.3g} off, {way:.3g} gone"


def assert_same(
    one: list[nn.Parameter], other: list[nn.Parameter], optimizers: list[LmoOptimizer]
) -> None:
    """Compare weights made by `make` and averages."""
    for i, (p, q) in enumerate(zip(one, other, strict=True)):
        rounding = 4 * ROUNDING if p.dtype == torch.bfloat16 else 1e-6
        assert_near(p.detach(), q.detach(), gaussian(tuple(p.shape), i, p.dtype), rounding)
        a, b = (o.state[x]["average"] for o, x in zip(optimizers, (p, q), strict=True))
        if isinstance(optimizers[0], Almond):
            assert_near(a, b, 0.0, rounding)
        else:
            torch.testing.assert_close(a, b, rtol=rounding, atol=rounding)


@runs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("kind", "constrained"), KINDS)
def test_step(kind: Any, constrained: bool, case: str, dtype: torch.dtype, plainly: Any) -> None:
    settings, shapes = CASES[case]
    settings = {"constrained": constrained, **settings}
    one, first = make(kind, shapes, dtype, **settings)
    other, second = make(kind, shapes, dtype, **settings)
    run(one, first)
    plainly(other, second)
    assert fused(first) >= len(shapes) and not fused(second)
    assert_same(one, other, [first, second])


@runs_kernels
@pytest.mark.parametrize("case", PLAIN)
def test_what_is_left_to_torch(case: str, plainly: Any) -> None:
    settings, shapes = PLAIN[case]
    one, first = make(Scion, shapes, torch.float32, **settings)
    other, second = make(Scion, shapes, torch.float32, **settings)
    run(one, first)
    plainly(other, second)
    assert not fused(first)
    assert all(torch.equal(p, q) for p, q in zip(one, other, strict=True))


@runs_kernels
@pytest.mark.parametrize("case", ["spectral", "scaled-sign", "split rows", "groups", "experts"])
@pytest.mark.parametrize(("kind", "constrained"), [(Scion, True), (Almond, False)])
def test_stacked(kind: Any, constrained: bool, case: str, plainly: Any) -> None:
    settings, shapes = CASES[case]
    numbers = {
        "lr": torch.tensor([0.1, 0.2, 0.3]),
        "radius": torch.tensor([1.0, 2.0, 0.5]),
        "alpha": torch.tensor([0.1, 1.0, 0.5]),
    }
    settings = {**settings, **numbers, "constrained": constrained, "stacked": True}
    shapes = [(3, *shape) for shape in shapes]
    one, first = make(kind, shapes, torch.float32, **settings)
    other, second = make(kind, shapes, torch.float32, **settings)
    run(one, first)
    plainly(other, second)
    assert fused(first) >= len(shapes)
    assert_same(one, other, [first, second])


@runs_kernels
@pytest.mark.parametrize("lr", [0.1, "tensor"])
def test_several_groups(lr: Any, plainly: Any) -> None:
    """Matrices of one size and its transpose are one batch, each with its own numbers."""
    both = []
    for call in (run, plainly):
        shapes = [(24, 16), (16, 24), (24, 16), (24, 16)]
        params = [nn.Parameter(gaussian(shape, i)) for i, shape in enumerate(shapes)]
        groups = [
            {"params": params[:1], "radius": 3.0},
            {"params": params[1:2], "norm": "plain-spectral", "alpha": 0.5, "maximize": True},
            {"params": params[2:3], "lr": 0.3, "constrained": True},
            {"params": params[3:], "norm": "row-norm"},
        ]
        stepsize = torch.tensor(0.1, device=DEVICE) if lr == "tensor" else lr
        optimizer = Scion(groups, lr=stepsize, polar="muon@bfloat16")
        call(params, optimizer)
        both.append((params, optimizer))
    (one, first), (other, second) = both
    assert_same(one, other, [first, second])
    assert first._planned is not None
    assert len(first._planned[1]._fused) == 1 and fused(first) == 3


@runs_kernels
@pytest.mark.parametrize("size", [1e-30, 1e30])
@pytest.mark.parametrize("norm", ["spectral", "scaled-sign"])
def test_size_of_the_gradient_does_not_matter(norm: str, size: float) -> None:
    one, first = make(Scion, [(24, 16), (16, 24)], torch.float32, norm=norm)
    other, second = make(Scion, [(24, 16), (16, 24)], torch.float32, norm=norm)
    run(one, first)
    run(other, second, size=size)
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p, q, rtol=2e-2, atol=2e-2)


@runs_kernels
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm", ["spectral", "scaled-sign"])
@pytest.mark.parametrize("kind", [Scion, Almond])
def test_a_bad_gradient_spoils_its_own_matrix(kind: Any, norm: str, bad: float) -> None:
    params, optimizer = make(kind, [(72, 80)] * 3, torch.float32, norm=norm)
    for i, p in enumerate(params):
        p.grad = gaussian((72, 80), i)
    assert params[1].grad is not None
    params[1].grad[3, 5] = bad
    optimizer.step()
    assert bool(torch.isnan(params[1]).all())
    assert all(bool(torch.isfinite(p).all()) for p in (params[0], params[2]))


@runs_kernels
@pytest.mark.parametrize("norm", ["spectral", "scaled-sign"])
def test_zero_gradients_do_not_move(norm: str) -> None:
    params, optimizer = make(Scion, [(24, 16)], torch.float32, norm=norm)
    before = params[0].detach().clone()
    params[0].grad = torch.zeros_like(params[0])
    optimizer.step()
    assert torch.equal(params[0], before)


@runs_kernels
@pytest.mark.parametrize("kind", [Scion, Almond])
def test_gradients_that_lie_otherwise(kind: Any, plainly: Any) -> None:
    """Transposed, and not aligned to 16 bytes; an average that was loaded transposed."""
    both = []
    for call in (run, plainly):
        params, optimizer = make(kind, [(24, 16), (24, 16)], torch.float32)
        call(params, optimizer)
        state = optimizer.state[params[0]]
        state["average"] = state["average"].T.contiguous().T
        params[0].grad = gaussian((16, 24), 7).T
        buffer = torch.zeros(24 * 16 + 1, device=DEVICE)
        params[1].grad = buffer[1:].view(24, 16).copy_(gaussian((24, 16), 8))
        if call is run:
            optimizer.step()
        else:
            optimizer._planned = None
            batch_entries, batch.entries = batch.entries, lambda *args: None  # type: ignore[assignment]
            try:
                optimizer.step()
            finally:
                batch.entries = batch_entries
        both.append((params, optimizer))
    (one, first), (other, second) = both
    assert_same(one, other, [first, second])
    assert first.state[one[0]]["average"].stride() == (1, 24)


@runs_kernels
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
@pytest.mark.parametrize("name", NORM_NAMES)
@pytest.mark.parametrize("stacked", [False, True])
def test_nothing_waits_for_the_gpu(name: str, stacked: bool) -> None:
    shapes = [(3, *shape) if stacked else shape for shape in SHAPES[NORMS[name].event_ndim]]
    numbers = {"lr": torch.tensor([0.1, 0.2, 0.3]), "alpha": torch.tensor([0.1, 0.2, 0.3])}
    params, optimizer = make(
        Scion, shapes, torch.float32, norm=name, stacked=stacked, **(numbers if stacked else {})
    )
    run(params, optimizer)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.param_groups[0]["lr"] = torch.tensor([0.3, 0.2, 0.1]) if stacked else 0.3
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@runs_kernels
@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
@pytest.mark.parametrize("polar_name", ["muon@bfloat16", "muon"])
@pytest.mark.parametrize("norm", ["spectral", "scaled-sign"])
def test_memory_stays_in_the_workspace(norm: str, polar_name: str) -> None:
    params, optimizer = make(
        Scion, [(512, 512)] * 24, torch.float32, norm=norm, polar=polar_name, workspace_mb=24
    )
    run(params, optimizer, steps=1)
    for p in params:
        p.grad = torch.randn_like(p)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    optimizer.step()
    used = (torch.cuda.max_memory_allocated() - before) / 2**20
    assert used <= 24, f"{used:.1f} MiB"
