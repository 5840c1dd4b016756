"""A compiled model trains with Scion as the plain one does."""

import copy

import pytest
import torch
from torch import Tensor, nn

from transfer.config import RoleConfig
from transfer.models.mlp import Mlp
from transfer.optimizers import Scion
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
