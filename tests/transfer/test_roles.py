"""Every parameter gets the norm, radius and initialisation of its role, or an error names it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from transfer.config import AdamWConfig, DataShape, MlpConfig, RoleConfig, ScionConfig
from transfer.families import Family, model_roles
from transfer.models.mlp import Mlp
from transfer.norms import make_norm
from transfer.optimizers import Scion
from transfer.roles import build_optimizer, init_parameters, parameter_groups

RULES = {
    "input": RoleConfig(norm="spectral-max", radius=2.0),
    "hidden": RoleConfig(norm="spectral", radius=4.0),
    "output": RoleConfig(norm="scaled-sign", radius=8.0),
    "bias": RoleConfig(norm="bias-rms", radius=0.5),
}
CONFIG = ScionConfig(stepsize=0.25, alpha=0.5, polar="svd", roles=RULES)


def mlp(depth: int = 4) -> Mlp:
    """Return a small multilayer perceptron with biases, in float64."""
    return Mlp(6, 5, 3, depth, bias=True).double()


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator with this seed."""
    return torch.Generator().manual_seed(seed)


def test_mlp_roles() -> None:
    assert mlp().parameter_roles() == {
        "layers.0.weight": "input",
        "layers.0.bias": "bias",
        "layers.1.weight": "hidden",
        "layers.1.bias": "bias",
        "layers.2.weight": "hidden",
        "layers.2.bias": "bias",
        "layers.3.weight": "output",
        "layers.3.bias": "bias",
    }
    assert set(Mlp(6, 5, 3, 2, bias=False).parameter_roles().values()) == {"input", "output"}


def test_mlp_keeps_the_size_of_signals() -> None:
    """Semi-orthogonal weights and sqrt(2)-ReLU: mean square 1 in, about 1 at the last layer."""
    model = Mlp(64, 512, 10, 4, bias=False)
    rules = {role: replace(RULES[role], radius=1.0) for role in ("input", "hidden", "output")}
    init_parameters(model, model_roles(model), ScionConfig(roles=rules), seeded())
    sizes: list[float] = []
    for layer in model.layers[1:]:
        layer.register_forward_pre_hook(lambda _, x: sizes.append(x[0].square().mean().item()))
    model(torch.randn(500, 64, generator=seeded(1)))
    assert len(sizes) == 3 and all(0.8 < size < 1.25 for size in sizes), sizes


def test_families_build_the_mlp() -> None:

    model = Family(MlpConfig(bias=True), DataShape(kind="vectors", inputs=(4,), outputs=2)).build(
        7, 3
    )
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert [shapes[f"layers.{i}.weight"] for i in range(3)] == [(7, 4), (7, 7), (2, 7)]
    with pytest.raises(ValueError, match="Linear has no method parameter_roles.*pass roles="):
        model_roles(nn.Linear(2, 2))


def test_groups() -> None:
    model = mlp()
    groups = {g["role"]: g for g in parameter_groups(model, model.parameter_roles(), RULES)}
    assert {role: (g["norm"], g["radius"]) for role, g in groups.items()} == {
        "input": ("spectral-max", 2.0),
        "hidden": ("spectral", 4.0),
        "output": ("scaled-sign", 8.0),
        "bias": ("bias-rms", 0.5),
    }
    names = [name for group in groups.values() for name, _ in group["params"]]
    assert sorted(names) == sorted(dict(model.named_parameters()))
    hidden = groups["hidden"]["params"]
    assert [name for name, _ in hidden] == ["layers.1.weight", "layers.2.weight"]


def test_build_scion() -> None:
    model = mlp()
    optimizer = build_optimizer(model, model.parameter_roles(), replace(CONFIG, constrained=True))
    assert isinstance(optimizer, Scion)
    for group in optimizer.param_groups:
        rule = RULES[group["role"]]
        settings = [group[k] for k in ("norm", "radius", "lr", "alpha", "constrained", "polar")]
        assert settings == [rule.norm, rule.radius, 0.25, 0.5, True, "svd"]


def test_build_adamw() -> None:
    config = AdamWConfig(stepsize=0.5, beta1=0.8, beta2=0.9, eps=1e-6, weight_decay=0.1)
    model = mlp()
    optimizer = build_optimizer(model, model.parameter_roles(), config)
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    settings = [group[k] for k in ("lr", "betas", "eps", "weight_decay")]
    assert settings == [0.5, (0.8, 0.9), 1e-6, 0.1]
    assert len(group["params"]) == 8


def without(mapping: dict[str, Any], *keys: str) -> dict[str, Any]:
    """Return a copy that lacks some keys."""
    return {key: value for key, value in mapping.items() if key not in keys}


@pytest.mark.parametrize(
    ("roles", "rules", "messages"),
    [
        (
            without(mlp().parameter_roles(), "layers.1.weight", "layers.2.bias"),
            RULES,
            ["parameter 'layers.1.weight' has no role", "parameter 'layers.2.bias' has no role"],
        ),
        (
            mlp().parameter_roles() | {"layers.9.weight": "hidden"},
            RULES,
            ["role given to 'layers.9.weight', which is no parameter"],
        ),
        (
            mlp().parameter_roles(),
            without(RULES, "hidden"),
            ["role 'hidden' of parameter 'layers.1.weight' has no rule"],
        ),
        (
            mlp().parameter_roles(),
            RULES | {"embedding": RULES["input"]},
            ["rule for role 'embedding', which no parameter has"],
        ),
        (
            mlp().parameter_roles() | {"layers.0.bias": "bais"},
            RULES,
            ["role 'bais' of parameter 'layers.0.bias' has no rule; did you mean 'bias'?"],
        ),
    ],
    ids=["no role", "no parameter", "no rule", "unused rule", "typing error"],
)
def test_misfits_are_named(
    roles: dict[str, str], rules: dict[str, RoleConfig], messages: list[str]
) -> None:
    model = mlp()
    config = replace(CONFIG, roles=rules)
    for call in (
        lambda: parameter_groups(model, roles, rules),
        lambda: build_optimizer(model, roles, config),
        lambda: init_parameters(model, roles, config, seeded()),
    ):
        with pytest.raises(ValueError) as caught:
            call()
        assert str(caught.value) == "; ".join(messages)


def test_misfit_of_shape_names_the_parameter() -> None:
    rules = RULES | {"bias": RoleConfig(norm="spectral")}
    with pytest.raises(ValueError, match=r"parameter layers\.0\.bias: spectral: layout"):
        build_optimizer(mlp(), mlp().parameter_roles(), replace(CONFIG, roles=rules))


def test_boundary_initialisation() -> None:
    model = mlp()
    init_parameters(model, model.parameter_roles(), CONFIG, seeded())
    for name, p in model.named_parameters():
        rule = RULES[model.parameter_roles()[name]]
        size = make_norm(rule.norm).norm(p.detach()).item()
        assert size == pytest.approx(0.0 if rule.norm == "bias-rms" else rule.radius, rel=1e-12)


@pytest.mark.parametrize("config", [CONFIG, AdamWConfig()], ids=["scion", "adamw"])
def test_seed_decides_the_weights(config: ScionConfig | AdamWConfig) -> None:
    models = [mlp() for _ in range(4)]
    if isinstance(config, ScionConfig):
        turned = replace(config, roles=dict(reversed(config.roles.items())))
    else:
        turned = config
    for model, seed, own in zip(
        models, (1, 1, 1, 2), (config, config, turned, config), strict=True
    ):
        init_parameters(model, model.parameter_roles(), own, seeded(seed))
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2]), "the order of the rules changed the weights"
    assert not torch.equal(weights[0], weights[3])


def test_fan_in() -> None:
    model = nn.Sequential(nn.Linear(400, 300), nn.LayerNorm(300), nn.Embedding(500, 300)).double()
    roles = {"0.weight": "hidden", "0.bias": "bias", "1.weight": "gain", "1.bias": "bias"}
    init_parameters(model, roles | {"2.weight": "embedding"}, AdamWConfig(), seeded())
    weights = dict(model.named_parameters())
    assert weights["0.weight"].std().item() == pytest.approx(400**-0.5, rel=0.02)
    assert abs(weights["0.weight"].mean().item()) < 5 * 400**-0.5 / 120_000**0.5
    assert weights["2.weight"].std().item() == pytest.approx(1.0, rel=0.02)
    assert torch.equal(weights["1.weight"], torch.ones(300).double())
    assert not weights["0.bias"].any() and not weights["1.bias"].any()


def test_init_of_one_role() -> None:
    model = mlp()
    before = model.layers[3].weight.detach().clone()
    rules = RULES | {"hidden": RoleConfig(norm="spectral", radius=4.0, init="fan-in")}
    rules |= {"output": RoleConfig(norm="scaled-sign", init="keep")}
    init_parameters(model, model.parameter_roles(), replace(CONFIG, roles=rules), seeded())
    sizes = [make_norm("spectral").norm(layer.weight.detach()).item() for layer in model.layers]
    assert sizes[1] != pytest.approx(4.0, rel=1e-6)
    assert torch.equal(model.layers[3].weight, before)


def test_frozen_parameters_need_no_role_and_stay() -> None:
    """Roles are for what is trained: the same mapping builds and initialises."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    config = ScionConfig(roles={"output": RULES["output"]})
    roles = {"1.weight": "output"}
    assert len(build_optimizer(model, roles, config).param_groups) == 1
    init_parameters(model, roles, config, seeded())
    assert torch.equal(model[0].weight, before)


def test_a_frozen_layer_keeps_its_default_role_and_its_weights() -> None:
    model = Mlp(6, 4, 3, 4, bias=True)
    model.layers[1].weight.requires_grad_(False)
    before = model.layers[1].weight.clone()
    optimizer = build_optimizer(model, model.parameter_roles(), ScionConfig(roles=RULES))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 7
    init_parameters(model, model.parameter_roles(), ScionConfig(roles=RULES))
    assert torch.equal(model.layers[1].weight, before)
