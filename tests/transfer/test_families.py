"""What holds for the models of every family: roles, steps, stacking, arithmetic of 16 bits."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn.attention import SDPBackend, sdpa_kernel

from transfer.config import (
    CnnConfig,
    DataShape,
    GptConfig,
    MlpConfig,
    ModelConfig,
    ScionConfig,
    VitConfig,
)
from transfer.families import Family
from transfer.roles import DEFAULT_RULES, build_optimizer, infer_roles, init_parameters

TOKENS = DataShape(kind="tokens", inputs=(6,), outputs=11)
IMAGES = DataShape(kind="images", inputs=(3, 8, 12), outputs=5)
LARGER = DataShape(kind="images", inputs=(3, 32, 32), outputs=10)
VECTORS = DataShape(kind="vectors", inputs=(12,), outputs=7)


@dataclass(frozen=True)
class Case:
    """A family with a small model of it."""

    config: ModelConfig
    shape: DataShape
    width: int = 16
    depth: int = 2

    @property
    def family(self) -> Family:
        """The family for its data."""
        return Family(self.config, self.shape)

    def build(self, width: int = 0) -> nn.Module:
        """Return the model, or one of another width."""
        return self.family.build(width or self.width, self.depth)

    def config_of_scion(self, model: nn.Module) -> ScionConfig:
        """Return Scion with the recommended rules of the roles that a model has."""
        roles = set(self.family.table(model, self.width, self.depth).roles.values())
        rules = {role: rule for role, rule in DEFAULT_RULES.items() if role in roles}
        return ScionConfig(stepsize=2**-4, alpha=1.0, polar="svd", roles=rules)

    def example(self, batch: int = 4) -> Tensor:
        """Return random inputs."""
        if self.shape.kind == "tokens":
            return torch.randint(0, self.shape.outputs, (batch, *self.shape.inputs))
        return torch.randn(batch, *self.shape.inputs)


CASES = {
    "mlp": Case(MlpConfig(), VECTORS, depth=3),
    "mlp-shallow": Case(MlpConfig(bias=True), IMAGES),
    "gpt": Case(GptConfig(head_dim=8, activation="relu-squared"), TOKENS),
    "gpt-tied": Case(GptConfig(head_dim=8, tied=True, zero_residual=True), TOKENS),
    "cnn": Case(CnnConfig(), LARGER, width=8),
    "vit": Case(VitConfig(patch=4, head_dim=8), IMAGES),
    "vit-zero": Case(VitConfig(patch=4, head_dim=8, zero_residual=True), IMAGES),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@cases
def test_models_state_the_roles_of_their_configuration(case: Case) -> None:
    table = case.family.table(case.build(), case.width, case.depth)
    expected = case.config.roles(case.depth)
    assert expected is not None and case.family.role_names(case.width, case.depth) == expected
    assert set(table.roles.values()) == set(expected) and len(set(expected)) == len(expected)


@cases
def test_every_role_has_a_recommended_rule_that_fits(case: Case) -> None:
    model = case.build()
    table = case.family.table(model, case.width, case.depth)
    rules = case.config_of_scion(model).roles
    assert len(table.with_rules(rules).to_records()) == len(list(model.parameters()))


@cases
def test_inferred_roles_are_those_stated(case: Case) -> None:
    model = case.build()
    stated = case.family.table(model, case.width, case.depth)
    inferred = infer_roles(model, case.build(2 * case.width))
    assert inferred.roles == stated.roles
    layouts = [{row.name: row.layout for row in table} for table in (stated, inferred)]
    assert layouts[0] == layouts[1]


def test_patches_of_one_pixel_are_not_inferred() -> None:
    """A convolution of one pixel could be any: only the model knows that it reads the input."""
    case = Case(VitConfig(patch=1, head_dim=8), IMAGES)
    model = case.build()
    inferred = infer_roles(model, case.build(32)).roles
    stated = case.family.table(model, 16, 2).roles
    differ = {name: inferred[name] for name in stated if stated[name] != inferred[name]}
    assert differ == {"patches.weight": "convolution"}


@cases
def test_scion_learns_a_batch(case: Case) -> None:
    """Ten steps with the recommended rules move every parameter and lower the loss."""
    model, x = case.build(), case.example()
    y = torch.randint(0, case.shape.outputs, (len(x) * case.shape.positions,))
    table = case.family.table(model, case.width, case.depth)
    config = case.config_of_scion(model)
    init_parameters(model, table, config)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, table, config)
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], losses
    still = [name for name, p in model.named_parameters() if torch.equal(p, start[name])]
    assert not still


STACKED = [name for name in CASES if not name.startswith("mlp")]


@pytest.mark.parametrize("name", STACKED)
def test_two_stacked_models_are_each_one_by_one(name: str) -> None:
    """Models of equal shape can run as one: parameters and statistics with a first dimension."""
    case = CASES[name]
    models = [case.build().eval() for _ in range(2)]
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))
    parameters, buffers = stack_module_state(models)
    x = case.example()

    def logits(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        out: Tensor = functional_call(models[0], (parameters, buffers), (x,))
        return out

    # Of the attention kernels for CPUs, torch maps this one without a loop over the models.
    with sdpa_kernel(SDPBackend.MATH):
        both = torch.vmap(logits)(parameters, buffers)
    assert not torch.allclose(both[0], both[1], rtol=0.01)
    for own, model in zip(both, models, strict=True):
        torch.testing.assert_close(own, model(x), rtol=1e-4, atol=1e-5)


@cases
def test_bfloat16_is_close_to_float32(case: Case) -> None:
    """bfloat16 keeps 8 bits: errors of 2^-8 a product, some of them added up."""
    model, x = case.build().eval(), case.example()
    exact = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = model(x)
    error = ((rounded.float() - exact).norm() / exact.norm()).item()
    assert 0 < error < 0.02, error


@pytest.mark.parametrize("name", ["gpt", "vit", "cnn"])
def test_width_and_depth_change_the_shapes(name: str) -> None:
    case = CASES[name]
    counts = [len(list(case.family.build(case.width, depth).parameters())) for depth in (1, 2, 3)]
    assert counts[2] - counts[1] == counts[1] - counts[0] > 0
    mine, wider = dict(case.build().named_parameters()), case.build(2 * case.width)
    fixed = {"whitening_bias"}  # as many as the images have numbers a patch
    grown = {n for n, p in wider.named_parameters() if p.numel() > mine[n].numel()}
    assert grown == mine.keys() - fixed


@pytest.mark.parametrize(
    ("config", "shape", "got"),
    [
        (GptConfig(), IMAGES, "gpt needs data of tokens, got data of images"),
        (GptConfig(), VECTORS, "gpt needs data of tokens, got data of vectors"),
        (VitConfig(), VECTORS, "vit needs data of images, got data of vectors"),
        (CnnConfig(), VECTORS, "cnn needs data of images, got data of vectors"),
        (MlpConfig(), TOKENS, "mlp needs data of vectors or images, got data of tokens"),
    ],
)
def test_data_of_another_kind(config: Any, shape: DataShape, got: str) -> None:
    with pytest.raises(ValueError) as caught:
        Family(config, shape)
    assert str(caught.value) == f"model family {got}"
