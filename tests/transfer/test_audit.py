"""The audit flags what is wrong with an optimizer's updates, and nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from transfer import (
    DEFAULT_RULES,
    Almond,
    Audit,
    RoleConfig,
    Scion,
    ScionConfig,
    ScionLight,
    audit,
    init_parameters,
    parameter_groups,
    stated_table,
)
from transfer.auditing import AuditRow

VOCAB, WIDTH = 11, 12
ROLES = {
    "embed.weight": "embedding",
    "c_attn.weight": "hidden",
    "c_attn.bias": "bias",
    "up.weight": "hidden",
    "up.bias": "bias",
    "conv.weight": "convolution",
    "norm.weight": "gain",
    "down.weight": "hidden",
    "head.weight": "output",
}
TOKENS = torch.arange(4 * 7).reshape(4, 7) % VOCAB
Make = Callable[[nn.Module], torch.optim.Optimizer]


class Everything(nn.Module):
    """An embedding, a fused query-key-value projection, biases, a convolution, a gain, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.c_attn = nn.Linear(WIDTH, 3 * WIDTH)
        self.up = nn.Linear(WIDTH, 4 * WIDTH)
        self.conv = nn.Conv1d(4 * WIDTH, 4 * WIDTH, 3, padding=1, groups=2, bias=False)
        self.norm = nn.RMSNorm(4 * WIDTH)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        q, k, v = self.c_attn(x).chunk(3, -1)
        x = x + torch.tanh(q * k) + v
        x = self.conv(self.up(x).relu().mT).mT
        return self.head(self.down(self.norm(x)))


def make_model() -> Everything:
    """Return the model on the boundary of its balls."""
    torch.manual_seed(0)
    model = Everything()
    init_parameters(model, ROLES, ScionConfig(roles=rules_of()), torch.Generator().manual_seed(0))
    return model


def rules_of(**radii: float) -> dict[str, RoleConfig]:
    """Return the recommended rules of the model's roles, with other radii."""
    roles = dict.fromkeys(ROLES.values())
    return {r: RoleConfig(norm=DEFAULT_RULES[r].norm, radius=radii.get(r, 1.0)) for r in roles}


def backward(model: nn.Module) -> Tensor:
    """Make gradients, return the loss."""
    model.zero_grad()
    loss = nn.functional.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten().roll(1))
    loss.backward()
    return loss


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """Do some steps."""
    for _ in range(steps):
        backward(model)
        optimizer.step()


def row(report: Audit, name: str) -> AuditRow:
    """Return one parameter's row."""
    return next(row for row in report.rows if row.parameter == name)


def one(p: nn.Parameter, **holder: Any) -> nn.Module:
    """Return a module with one parameter, called p."""
    module = nn.Module()
    module.p = p
    return module


# --- clean ---


@pytest.mark.parametrize("with_table", [True, False])
@pytest.mark.parametrize("polar", ["svd", "muon", "quintic", "polar-express"])
@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("kind", [Scion, ScionLight])
def test_clean(kind: type[Scion], constrained: bool, polar: str, with_table: bool) -> None:
    model = make_model()
    groups = parameter_groups(model, ROLES, rules_of(hidden=3.0, output=50.0))
    optimizer = kind(groups, lr=0.02, constrained=constrained, polar=polar)
    given = (ROLES, rules_of(hidden=3.0, output=50.0)) if with_table else (None, None)
    with audit(model, optimizer, *given) as report:
        train(model, optimizer)
    assert report.flagged == [], str(report)
    assert [r.parameter for r in report.rows] == list(dict(model.named_parameters()))
    assert {r.parameter: r.role for r in report.rows} == ROLES
    for r in report.rows:
        exact = polar == "svd" or "spectral" not in r.norm
        assert r.update_ratio == pytest.approx(1.0, rel=1e-3 if exact else 0.35), r
        assert r.stepsize == 0.02
    assert row(report, "head.weight").radius == 50.0
    assert "step 3: nothing flagged, 9 parameters" in str(report)


def test_almond_stays_inside() -> None:
    model = make_model()
    optimizer = Almond(parameter_groups(model, ROLES), lr=0.02, alpha=0.25, polar="svd")
    with audit(model, optimizer) as report:
        train(model, optimizer, 1)
    assert report.flagged == []
    assert row(report, "norm.weight").update_ratio == pytest.approx(0.25, rel=1e-3)


def test_joint_group_is_one_vector() -> None:
    model = make_model()
    optimizer = Scion(model.parameters(), lr=0.1, norm="euclidean", radius=2.0, joint=True)
    with audit(model, optimizer) as report:
        train(model, optimizer, 1)
    assert report.flagged == []
    assert all(r.update_ratio == pytest.approx(1.0, rel=1e-3) for r in report.rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = make_model().to(dtype)
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.1, polar="svd")
    with audit(model, optimizer) as report:
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    assert report.flagged == [], str(report)


def test_a_step_below_the_rounding_of_the_weights() -> None:
    """One step of 1e-3 in bfloat16: below half a unit in the last place of most weights."""
    model = make_model().bfloat16()
    optimizer = Scion(parameter_groups(model, ROLES), lr=1e-4, polar="svd")
    with audit(model, optimizer) as report:
        for p in model.parameters():
            p.grad = torch.randn_like(p)
        optimizer.step()
    assert row(report, "embed.weight").flag == "lost in the rounding of bfloat16"
    assert row(report, "norm.weight").flag == "lost in the rounding of bfloat16"  # moved nowhere
    assert row(report, "up.bias").flag == ""  # starts at zero, where nothing is rounded away


# --- wrong ---


def test_adamw() -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with audit(model, optimizer, ROLES) as report:
        train(model, optimizer)
    assert set(report.flagged) == set(ROLES)
    assert all(r.flag == "not on its sphere" for r in report.rows), str(report)
    assert "step 3: 9 of 9 parameters flagged: embed.weight" in str(report)


def test_without_roles_nothing_is_known_of_adamw() -> None:
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    with audit(model, optimizer) as report:
        train(model, optimizer, 1)
    assert {r.flag for r in report.rows} == {"no norm known"}


def test_wrong_radius_in_one_group() -> None:
    model = make_model()
    groups = parameter_groups(model, ROLES, rules_of(hidden=3.0))
    wrong = next(g for g in groups if g["role"] == "output")
    wrong["radius"] = 10.0
    optimizer = Scion(groups, lr=0.01)
    with audit(model, optimizer, ROLES, rules_of(hidden=3.0)) as report:
        train(model, optimizer)
    assert report.flagged == ["head.weight"]
    found = row(report, "head.weight")
    assert found.flag == "not on its sphere; its group has radius 10"
    assert found.update_ratio == pytest.approx(10.0, rel=1e-3)
    # Without rules a table is about norms: the radii are the groups' own.
    with audit(model, optimizer, ROLES) as report:
        train(model, optimizer)
    assert report.flagged == [] and row(report, "head.weight").radius == 10.0


def test_spectral_embedding() -> None:
    model = make_model()
    groups = parameter_groups(model, ROLES)
    wrong = next(g for g in groups if g["role"] == "embedding")
    wrong.update(norm="spectral", layout="matrix")
    optimizer = Scion(groups, lr=0.01)
    with audit(model, optimizer, ROLES) as report:
        train(model, optimizer)
    assert report.flagged == ["embed.weight"]
    assert "its group has norm spectral" in row(report, "embed.weight").flag


def test_fused_projection_as_one_matrix() -> None:
    model = make_model()
    groups = parameter_groups(model, ROLES)
    for group in groups:
        group["split_sizes"] = ()
    optimizer = Scion(groups, lr=0.01, polar="svd")
    with audit(model, optimizer, stated_table(model, ROLES)) as report:
        train(model, optimizer)
    assert "c_attn.weight" in report.flagged and "up.weight" not in report.flagged


def test_schedule_that_overwrites_lr() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.05
    with audit(model, optimizer, ROLES) as report:
        train(model, optimizer)
    assert report.flagged == []
    assert {r.stepsize for r in report.rows} == {0.05}
    with audit(model, optimizer, ROLES, stepsize=0.01) as report:
        train(model, optimizer)
    assert {r.flag for r in report.rows} == {"stepsize is not 0.01"}


def test_outside_its_ball() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01, constrained=True)
    with torch.no_grad():
        model.head.weight.mul_(2)
    with audit(model, optimizer, ROLES) as report:
        train(model, optimizer)
    assert report.flagged == ["head.weight"]
    assert row(report, "head.weight").flag == "outside its ball"
    assert row(report, "head.weight").weight_ratio == pytest.approx(1.97, abs=0.02)


def test_groups_that_do_not_say_whether_they_are_constrained() -> None:
    model = make_model()
    optimizer = SignDescent(model.parameters(), {"lr": 0.5})
    with audit(model, optimizer, ROLES) as report:
        train(model, optimizer, 1)
    assert row(report, "head.weight").flag == ""
    with audit(model, optimizer, ROLES, constrained=True) as report:
        train(model, optimizer, 1)
    assert row(report, "head.weight").flag.startswith("not on its sphere")


class SignDescent(torch.optim.Optimizer):
    """Somebody's optimizer: on the sphere of output layers, without shrinking the weights."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign(), alpha=group["lr"] / p.shape[-1])


def test_torch_muon() -> None:
    """Muon's matrices are on the spectral sphere if they are square, not if they are wide."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 4, bias=False))
    optimizer = torch.optim.Muon(model.parameters(), lr=0.01, weight_decay=0.0)
    with audit(model, optimizer, {"0.weight": "hidden", "1.weight": "hidden"}) as report:
        model(torch.randn(64, 16)).square().sum().backward()
        optimizer.step()
    assert report.flagged == ["1.weight"]
    ratio = row(report, "1.weight").update_ratio
    assert ratio is not None and 2 * 0.65 < ratio < 2 * 1.21  # sqrt(16 / 4)


# --- parameters that do not take part ---


def test_frozen_without_gradient_and_in_no_group() -> None:
    model = make_model()
    model.up.bias.requires_grad_(False)
    model.unused = nn.Linear(3, 3)
    model.stray = nn.Linear(3, 3, bias=False)
    roles = {**ROLES, "unused.weight": "hidden", "stray.weight": "hidden"}
    table = {name: role for name, role in roles.items() if name != "stray.weight"}
    groups = parameter_groups(model, {**roles, "unused.bias": "bias"})
    for group in groups:
        kept = [p for p in group["params"] if p[0] != "stray.weight"]
        group["params"] = kept
    optimizer = Scion([g for g in groups if g["params"]], lr=0.01)
    with audit(model, optimizer, table) as report:
        train(model, optimizer)
    assert report.flagged == ["unused.weight", "unused.bias", "stray.weight"]
    assert row(report, "up.bias").note == "frozen"
    assert row(report, "unused.weight").flag == "did not move (no gradient)"
    assert row(report, "unused.bias").flag == "not in the table; did not move (no gradient)"
    assert row(report, "stray.weight").flag == "not in the table; in no group"
    with audit(model, optimizer, roles) as report:
        train(model, optimizer)
    stray = row(report, "stray.weight")
    assert stray.flag == "in no group" and stray.update_ratio is None
    assert stray.weight_ratio == pytest.approx(
        torch.linalg.matrix_norm(model.stray.weight, 2).item(), rel=1e-5
    )


@pytest.mark.parametrize("kind", [Scion, ScionLight])
def test_constrained_without_gradient(kind: type[Scion]) -> None:
    """Its weights stay, so x_new - (1 - stepsize) x_old is on the sphere by accident."""
    module = one(nn.Parameter(torch.eye(4)))
    optimizer = kind(module.parameters(), lr=0.1, constrained=True)
    with audit(module, optimizer) as report:
        optimizer.step()
    assert row(report, "p").flag == "did not move (no gradient)"


def test_zero_gradient_and_zero_stepsize() -> None:
    module = one(nn.Parameter(torch.eye(4)))
    optimizer = Scion(module.parameters(), lr=0.1)
    module.p.grad = torch.zeros(4, 4)
    with audit(module, optimizer) as report:
        optimizer.step()
        assert row(report, "p").flag == "did not move (zero gradient)"
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
    assert row(report, "p").flag == "zero stepsize"


def test_an_expert_without_tokens() -> None:
    module = one(nn.Parameter(torch.zeros(3, 4, 4)))
    optimizer = Scion(module.parameters(), lr=0.1, layout="batch")
    module.p.grad = torch.eye(4).repeat(3, 1, 1)
    module.p.grad[1] = 0
    with audit(module, optimizer) as report:
        optimizer.step()
    assert row(report, "p").flag == "1 of 3 matrices did not move"
    assert row(report, "p").update_ratio == 0.0


def test_not_finite() -> None:
    module = one(nn.Parameter(torch.eye(4)))
    optimizer = Scion(module.parameters(), lr=0.1)
    module.p.grad = torch.full((4, 4), torch.nan)
    with audit(module, optimizer) as report:
        optimizer.step()
    assert row(report, "p").flag == "not finite"


def test_a_parameter_of_another_model() -> None:
    model, stranger = make_model(), nn.Parameter(torch.eye(3))
    groups = [*parameter_groups(model, ROLES), {"params": [("other", stranger)]}]
    optimizer = Scion(groups, lr=0.01)
    with audit(model, optimizer) as report:
        stranger.grad = torch.eye(3)
        train(model, optimizer)
    assert [r.flag for r in report.rows if r.flag] == ["not in the model"]
