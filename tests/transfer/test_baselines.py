"""The baselines are torch's own optimizers, with the groups and initialisation that users have."""

import copy
import io
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import nn

from transfer.config import (
    AdamWConfig,
    DigitsConfig,
    MlpConfig,
    MuonConfig,
    MupAdamWConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    SgdConfig,
    run_config_from_dict,
)
from transfer.layouts import Layout
from transfer.models.mlp import Mlp
from transfer.optimizers import Combined
from transfer.roles import (
    ParameterTable,
    build_optimizer,
    infer_roles,
    init_parameters,
    stated_table,
)
from transfer.train import train

MUON = MuonConfig(stepsize=0.02, momentum=0.9, adamw_factor=0.5, weight_decay=0.01)
SGD = SgdConfig(stepsize=0.3, momentum=0.8, nesterov=True, weight_decay=0.1)
MUP = MupAdamWConfig(base_width=16, stepsize=0.02)
CONFIGS = [MUON, SGD, MUP, AdamWConfig(stepsize=0.02)]


def mlp(width: int = 16, seed: int = 0) -> Mlp:
    """Return a multilayer perceptron with biases and the weights of a seed."""
    torch.manual_seed(seed)
    return Mlp(12, width, 5, 4, bias=True)


def built(config: OptimizerConfig, model: Mlp, width: int = 16) -> torch.optim.Optimizer:
    """Build the optimizer of a model that states its roles."""
    return build_optimizer(model, model.parameter_roles(), config, width)


def run(model: nn.Module, optimizer: torch.optim.Optimizer, start: int, stop: int) -> None:
    """Do the steps start to stop - 1 on Gaussian data that depend on the step."""
    for step in range(start, stop):
        generator = torch.Generator().manual_seed(step)
        x = torch.randn(32, 12, generator=generator)
        y = torch.randint(0, 5, (32,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def assert_equal(some: nn.Module, others: nn.Module) -> None:
    """Fail unless all parameters are equal bit for bit."""
    for (name, a), b in zip(some.named_parameters(), others.parameters(), strict=True):
        assert torch.equal(a, b), name


# --- against torch ---


def test_sgd_is_torchs() -> None:
    mine, other = mlp(), mlp()
    plain = torch.optim.SGD(
        other.parameters(), lr=0.3, momentum=0.8, nesterov=True, weight_decay=0.1
    )
    run(mine, built(SGD, mine), 0, 5)
    run(other, plain, 0, 5)
    assert_equal(mine, other)


@pytest.mark.parametrize("adjust", ["original", "match-rms-adamw"])
def test_muon_is_torchs_with_adamw_beside_it(adjust: Any) -> None:
    mine, other = mlp(), mlp()
    hidden = [other.layers[1].weight, other.layers[2].weight]
    rest = [p for p in other.parameters() if not any(p is h for h in hidden)]
    muon = torch.optim.Muon(
        hidden, lr=0.02, momentum=0.9, weight_decay=0.01, adjust_lr_fn=adjust.replace("-", "_")
    )
    adamw = torch.optim.AdamW(rest, lr=0.01, betas=(0.9, 0.95), weight_decay=0.01)
    run(mine, built(replace(MUON, adjust=adjust), mine), 0, 5)
    run(other, Combined([muon, adamw]), 0, 5)
    assert_equal(mine, other)


def test_muon_without_hidden_matrices_is_adamw() -> None:
    model = Mlp(12, 16, 5, 2, bias=True)
    optimizer = built(MUON, model)
    assert isinstance(optimizer, Combined) and len(optimizer.parts) == 1
    assert isinstance(optimizer.parts[0], torch.optim.AdamW)


# --- muP ---


def test_mup_at_its_base_width_is_adamw() -> None:
    mine, other = mlp(), mlp()
    adamw = AdamWConfig(stepsize=0.02)
    for model, config in ((mine, MUP), (other, adamw)):
        generator = torch.Generator().manual_seed(3)
        init_parameters(model, model.parameter_roles(), config, generator, 16)
    assert_equal(mine, other)
    run(mine, built(MUP, mine), 0, 5)
    run(other, built(adamw, other), 0, 5)
    assert_equal(mine, other)


def test_mup_groups_and_weights_at_another_width() -> None:
    """arXiv:2203.03466, Table 3, with m = 64 / 16 = 4."""
    model = Mlp(12, 64, 400, 4, bias=True)
    roles = model.parameter_roles()
    rates = {
        name: group["lr"]
        for group in build_optimizer(model, roles, MUP, 64).param_groups
        for name in group["param_names"]
    }
    slow = {name for name, role in roles.items() if role in ("hidden", "output")}
    assert rates == {name: 0.005 if name in slow else 0.02 for name in roles}
    init_parameters(model, roles, MUP, torch.Generator().manual_seed(0), 64)
    stds = [layer.weight.std().item() for layer in model.layers]
    assert stds == pytest.approx([12**-0.5, 64**-0.5, 64**-0.5, 64**-0.5 / 2], rel=0.06)
    assert not any(layer.bias.any() for layer in model.layers)


class Cnn(nn.Module):
    """The first convolution's d_in does not grow, nor does a depthwise one's."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, w, 3)
        self.depthwise = nn.Conv2d(w, w, 3, groups=w)
        self.hidden = nn.Conv2d(w, w, 3)
        self.head = nn.Linear(w, 10)


def test_mup_follows_the_d_in_that_grows() -> None:
    model = Cnn(64)
    table = infer_roles(model, Cnn(128))
    groups = build_optimizer(model, table, MUP, 64).param_groups
    slow = {n for g in groups if g["lr"] == pytest.approx(0.005) for n in g["param_names"]}
    assert slow == {"hidden.weight", "head.weight"}
    with pytest.raises(ValueError, match="parameter first.weight: muP-AdamW must know whether"):
        build_optimizer(model, table.roles, MUP, 64)


class Tied(nn.Module):
    """Embedding and head share a tensor."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(50, w)
        self.head = nn.Linear(w, 50, bias=False)
        self.head.weight = self.tokens.weight


@pytest.mark.parametrize("call", [build_optimizer, init_parameters])
def test_mup_refuses_tied_embeddings(call: Any) -> None:
    model = Tied(8)
    table = infer_roles(model, Tied(16))
    with pytest.raises(ValueError, match="parameter tokens.weight: muP-AdamW has no rate for a ti"):
        call(model, table, MUP, width=8)


def test_muon_refuses_transposed_matrices() -> None:
    """torch's Muon would scale them by the inverse of their aspect ratio."""
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    (row,) = stated_table(model, {"0.weight": "hidden"})
    flipped = ParameterTable((replace(row, layout=Layout(name="transposed")),))
    with pytest.raises(ValueError, match="parameter 0.weight: torch's Muon takes"):
        build_optimizer(model, flipped, MUON)


@pytest.mark.parametrize("call", [build_optimizer, init_parameters])
def test_mup_needs_the_width(call: Any) -> None:
    model = mlp()
    with pytest.raises(ValueError, match="optimizer 'mup-adamw' needs width="):
        call(model, model.parameter_roles(), MUP)


# --- several as one ---


@pytest.mark.parametrize("through_file", [False, True])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_resume_is_bit_for_bit(config: OptimizerConfig, through_file: bool) -> None:
    whole = mlp()
    optimizer = built(config, whole)
    run(whole, optimizer, 0, 4)
    state = copy.deepcopy(optimizer.state_dict())
    if through_file:
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    resumed = copy.deepcopy(whole)
    again = built(config, resumed)
    again.load_state_dict(state)
    run(whole, optimizer, 4, 8)
    run(resumed, again, 4, 8)
    assert_equal(whole, resumed)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_copies_go_on_alike(config: OptimizerConfig) -> None:
    model = mlp()
    optimizer = built(config, model)
    run(model, optimizer, 0, 2)
    other, its = copy.deepcopy((model, optimizer))
    run(model, optimizer, 2, 4)
    run(other, its, 2, 4)
    assert_equal(model, other)


def test_schedulers_reach_every_part() -> None:
    model = mlp()
    optimizer = built(MUON, model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    run(model, optimizer, 0, 1)
    schedule.step()
    assert isinstance(optimizer, Combined)
    assert [g["lr"] for part in optimizer.parts for g in part.param_groups] == [0.01, 0.005]
    assert set(optimizer.state) == set(model.parameters())


def test_combined_needs_parts_that_fit() -> None:
    with pytest.raises(ValueError, match="parts must be at least one optimizer, got none"):
        Combined([])
    model = mlp()
    late = {"params": [("late", nn.Parameter(torch.zeros(2, 2)))]}
    with pytest.raises(ValueError, match="must be added to one of `parts`"):
        built(MUON, model).add_param_group(late)
    state = built(MUON, model).state_dict()
    with pytest.raises(ValueError, match="state of 1 optimizers wanted, got 2"):
        Combined([torch.optim.SGD(model.parameters())]).load_state_dict(state)


# --- through a run ---


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c.name)
def test_trains_through_a_run(config: OptimizerConfig) -> None:
    run_config = RunConfig(
        model=MlpConfig(),
        width=16,
        depth=3,
        data=DigitsConfig(),
        batch_size=64,
        steps=20,
        label_smoothing=0.0,
        schedule=ScheduleConfig(),
        optimizer=replace(config, stepsize=0.02),
        precision="float32",
        seed=1,
    )
    assert run_config_from_dict(asdict(run_config)) == run_config
    record = train(run_config)
    assert record.status == "done"
    assert record.val_loss is not None and record.initial_loss is not None
    assert record.val_loss < 0.9 * record.initial_loss


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (SgdConfig, {"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        (SgdConfig, {"momentum": 0.0, "nesterov": True}, "nesterov must be False without momentum"),
        (SgdConfig, {"stepsize": 0.0}, "stepsize must be a finite number above 0"),
        (MuonConfig, {"adamw_factor": 0.0}, "adamw_factor must be a finite number above 0"),
        (MuonConfig, {"momentum": -0.1}, r"momentum must be in \[0, 1\)"),
        (MuonConfig, {"beta2": 1.0}, r"beta2 must be in \[0, 1\)"),
        (MupAdamWConfig, {"base_width": 0}, "base_width must be at least 1, got 0"),
        (MupAdamWConfig, {"base_width": 8, "weight_decay": -1.0}, "weight_decay must be a finite"),
    ],
)
def test_settings_out_of_range(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)
