"""A compiled model trains as the plain one does, and so does a compiled step."""

import copy
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from tests.transfer.stepping import average, copies, loss, make_params
from transfer.config import RoleConfig
from transfer.models.mlp import Mlp
from transfer.optimizers import Almond, Scion, ScionLight
from transfer.roles import parameter_groups

pytestmark = [
    pytest.mark.compile,
    # torch's compiler warns of torch's own torch.jit when it is first imported.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]
STEPS = 5
RULES = {
    "input": RoleConfig(norm="spectral-max"),
    "hidden": RoleConfig(norm="spectral", radius=2.0),
    "output": RoleConfig(norm="scaled-sign", radius=16.0),
    "bias": RoleConfig(norm="bias-rms"),
}


def trained(
    model: Mlp, forward: nn.Module, x: Tensor, y: Tensor, polar: str, constrained: bool
) -> list[float]:
    """Train in place through `forward` and return the losses."""
    groups = parameter_groups(model, model.parameter_roles(), RULES)
    optimizer = Scion(groups, lr=2**-4, polar=polar, constrained=constrained)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize(("polar", "constrained"), [("muon", False), ("svd", True)])
def test_compiled_equals_eager(polar: str, constrained: bool) -> None:
    """In float64, where another order of additions cannot hide an error."""
    torch.manual_seed(0)
    eager = Mlp(12, 16, 5, 4, bias=True).double()
    other = copy.deepcopy(eager)
    x, y = torch.randn(32, 12, dtype=torch.float64), torch.arange(32) % 5
    compiled = torch.compile(other, fullgraph=True)
    wanted = trained(eager, eager, x, y, polar, constrained)
    got = trained(other, compiled, x, y, polar, constrained)
    assert wanted[-1] < wanted[0]
    assert got == pytest.approx(wanted, rel=1e-10)
    for (name, a), b in zip(eager.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_compiled_in_float32() -> None:
    torch.manual_seed(1)
    eager = Mlp(12, 16, 5, 3, bias=True)
    other = copy.deepcopy(eager)
    x, y = torch.randn(32, 12), torch.arange(32) % 5
    wanted = trained(eager, eager, x, y, "svd", False)
    got = trained(other, torch.compile(other, fullgraph=True), x, y, "svd", False)
    assert got == pytest.approx(wanted, rel=1e-3)


# --- the step itself ---


def step_groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Return groups of several norms and layouts."""
    return [
        {"params": params[:2], "radius": 2.0},
        {"params": params[2:3], "split_sizes": (3, 2, 1)},
        {"params": params[3:4], "norm": "bias-rms"},
        {"params": params[4:], "norm": "col-norm", "layout": "table"},
    ]


def run_backward(params: list[nn.Parameter], optimizer: torch.optim.Optimizer, step: int) -> None:
    """Make the gradients of one step, outside any graph."""
    optimizer.zero_grad()
    loss(params, step).backward()


def graphs() -> int:
    """Return the number of graphs compiled so far in this test."""
    count: int = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    return count


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Forget the graphs of other tests."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


# Scion Light folds by hooks, outside the graph.
@pytest.mark.parametrize(
    ("kind", "settings", "whole"),
    [
        pytest.param(Scion, {}, {"fullgraph": True}, id="Scion"),
        pytest.param(
            Scion,
            {"constrained": True, "polar": "svd"},
            {"fullgraph": True, "backend": "aot_eager"},
            id="constrained Scion",
        ),
        pytest.param(ScionLight, {"maximize": True}, {"backend": "aot_eager"}, id="ScionLight"),
        pytest.param(Almond, {}, {"fullgraph": True, "backend": "aot_eager"}, id="Almond"),
    ],
)
def test_compiled_step(kind: Any, settings: dict[str, Any], whole: dict[str, Any]) -> None:
    """One graph for the first step, which makes the averages, and one for all others."""
    shapes: list[tuple[int, ...]] = [(6, 4), (6, 4), (6, 5), (6,), (9, 4)]
    some = make_params(shapes)
    others = copies(some)
    # Of its own for each, because schedulers fill it in place.
    rates = [torch.tensor(0.1, dtype=torch.float64) for _ in range(2)]
    plain = kind(step_groups(some), lr=rates[0], **settings)
    compiled = kind(step_groups(others), lr=rates[1], **settings)
    step = torch.compile(compiled.step, **whole)
    counts = []
    for k in range(6):
        for rate in rates:
            rate.fill_(0.1 / (k + 1))
        run_backward(some, plain, k)
        run_backward(others, compiled, k)
        plain.step()
        step()
        counts.append(graphs())
        torch.testing.assert_close(others, some, rtol=1e-9, atol=1e-9)
    assert 1 <= counts[-1] == counts[1] <= 2, counts
    for p, q in zip(some, others, strict=True):
        torch.testing.assert_close(average(compiled, q), average(plain, p), rtol=1e-9, atol=1e-9)


# The scheduler counts calls of the step that it has wrapped, not of the compiled one.
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step:UserWarning")
def test_compiled_step_with_torch_s_schedulers() -> None:
    """A scheduler writes into the tensor, so the compiled step sees the new stepsize."""
    (some,) = make_params([(6, 4)])
    (others,) = copies([some])
    plain = Scion([some], lr=0.5, norm="row-norm")
    compiled = Scion([others], lr=torch.tensor(0.5, dtype=torch.float64), norm="row-norm")
    step = torch.compile(compiled.step, fullgraph=True)
    schedules = [
        torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=5) for o in (plain, compiled)
    ]
    counts = []
    for k in range(5):
        run_backward([some], plain, k)
        run_backward([others], compiled, k)
        plain.step()
        step()
        for schedule in schedules:
            schedule.step()
        counts.append(graphs())
    torch.testing.assert_close(others, some, rtol=1e-10, atol=1e-10)
    assert 1 <= counts[-1] == counts[1] <= 2, counts
