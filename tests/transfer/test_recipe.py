"""Recipes: the same after a round trip, an optimizer for any model, and errors in one line."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from transfer.config import (
    AdamWConfig,
    DigitsConfig,
    MlpConfig,
    RoleConfig,
    RunConfig,
    ScheduleConfig,
    ScionConfig,
)
from transfer.models.mlp import Mlp
from transfer.norms import make_norm
from transfer.optimizers import Scion
from transfer.recipe import RECIPE_VERSION, Recipe

ROLES = {
    "input": RoleConfig(norm="spectral-max", radius=0.1),
    "hidden": RoleConfig(norm="spectral", radius=2.0**0.5),
    "output": RoleConfig(norm="scaled-sign", radius=16.0),
}
RUN = RunConfig(
    model=MlpConfig(),
    width=16,
    depth=3,
    data=DigitsConfig(),
    batch_size=64,
    steps=5,
    label_smoothing=0.1,
    schedule=ScheduleConfig(),
    optimizer=ScionConfig(stepsize=2**-4.3, alpha=0.2, polar="svd", roles=ROLES),
    precision="float32",
    seed=1,
)
RECIPE = Recipe(
    name="digits",
    run=RUN,
    verdict={"stepsize": {"verdict": "transfers", "upper": 0.0012, "sizes": [1, 2]}},
    provenance={"widths": [16, 32], "commit": None},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return RECIPE.save(tmp_path / "deep" / "recipe.json")


def edited(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Change the plain data of a recipe file."""
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))
    return path


def foreign() -> nn.Sequential:
    """Return a model that knows nothing of roles."""
    return nn.Sequential(
        nn.Linear(12, 9, bias=False), nn.GELU(), nn.Linear(9, 9, bias=False), nn.Linear(9, 4, False)
    )


FOREIGN_ROLES = {"0.weight": "input", "2.weight": "hidden", "3.weight": "output"}

# --- round trip ---


def test_round_trip(path: Path) -> None:
    again = Recipe.load(path)
    assert again == RECIPE and again.run.run_id == RUN.run_id
    assert Recipe.load(str(path)) == RECIPE
    assert again.version == RECIPE_VERSION == 1
    assert again.save(path.with_name("again.json")).read_bytes() == path.read_bytes()
    assert path.read_text().endswith("}\n") and "\r" not in path.read_text()


def test_saving_replaces(path: Path) -> None:
    replace(RECIPE, name="other").save(path)
    assert Recipe.load(path).name == "other"
    with pytest.raises(ValueError):
        replace(RECIPE, verdict={"upper": float("nan")}).save(path)
    assert Recipe.load(path).name == "other"
    assert [file.name for file in path.parent.iterdir()] == ["recipe.json"]


def test_run_at_another_width() -> None:
    run = RECIPE.run_config(width=128, seed=7)
    assert (run.width, run.seed) == (128, 7)
    assert replace(run, width=RUN.width, seed=RUN.seed) == RUN


# --- use ---


def assert_tuned(optimizer: torch.optim.Optimizer) -> None:
    """Fail unless the groups have the recipe's settings."""
    assert isinstance(optimizer, Scion)
    assert {g["role"]: (g["norm"], g["radius"]) for g in optimizer.param_groups} == {
        role: (rule.norm, rule.radius) for role, rule in ROLES.items()
    }
    for g in optimizer.param_groups:
        assert (g["lr"], g["alpha"], g["polar"]) == (2**-4.3, 0.2, "svd")


def test_own_model(path: Path) -> None:
    model = Mlp(64, 48, 10, 4, bias=False)
    recipe = Recipe.load(path)
    recipe.init_parameters(model, generator=torch.Generator().manual_seed(0))
    optimizer = recipe.build_optimizer(model)
    assert_tuned(optimizer)
    sizes = [
        make_norm(ROLES[role].norm).norm(model.get_parameter(name).detach()).item()
        for name, role in model.parameter_roles().items()
    ]
    assert sizes == pytest.approx([0.1, 2**0.5, 2**0.5, 16.0], rel=1e-5)


def test_foreign_model(path: Path) -> None:
    model, recipe = foreign(), Recipe.load(path)
    recipe.init_parameters(model, FOREIGN_ROLES, torch.Generator().manual_seed(0))
    optimizer = recipe.build_optimizer(model, FOREIGN_ROLES)
    assert_tuned(optimizer)
    x = torch.randn(20, 12, generator=torch.Generator().manual_seed(1))
    y = torch.arange(20) % 4
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_roles_given_win_over_the_models_own() -> None:
    model = Mlp(8, 8, 8, 3, bias=False)
    names = list(model.parameter_roles())
    turned = dict(zip(names, ("output", "hidden", "input"), strict=True))
    optimizer = RECIPE.build_optimizer(model, turned)
    (group,) = (g for g in optimizer.param_groups if g["role"] == "output")
    assert group["params"][0] is model.get_parameter(names[0])


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (None, "Sequential has no method parameter_roles.*pass roles="),
        ({"0.weight": "input", "3.weight": "output"}, "parameter '2.weight' has no role"),
        (FOREIGN_ROLES | {"9.weight": "hidden"}, "role given to '9.weight', which is no parameter"),
        (
            FOREIGN_ROLES | {"2.weight": "hiden"},
            "role 'hiden' of parameter '2.weight' has no rule; did you mean 'hidden'",
        ),
        (FOREIGN_ROLES | {"2.weight": "input"}, "rule for role 'hidden', which no parameter has"),
    ],
    ids=["no roles", "role missing", "role extra", "typing error", "rule unused"],
)
def test_roles_that_do_not_fit(roles: dict[str, str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RECIPE.build_optimizer(foreign(), roles)
    with pytest.raises(ValueError, match=message):
        RECIPE.init_parameters(foreign(), roles)


def test_biases_need_a_role_too() -> None:
    with pytest.raises(ValueError, match=r"role 'bias' of parameter 'layers.0.bias' has no rule"):
        RECIPE.build_optimizer(Mlp(8, 8, 8, 3, bias=True))


# --- errors ---


def test_only_scion_has_radii(path: Path) -> None:
    with pytest.raises(ValueError, match="optimizer 'adamw' does not have: export a scion arm"):
        replace(RECIPE, run=replace(RUN, optimizer=AdamWConfig()))
    adamw = json.loads(json.dumps(asdict(AdamWConfig())))
    edited(path, lambda data: data["run"].update(optimizer=adamw))
    with pytest.raises(ValueError, match="recipe .*export a scion arm"):
        Recipe.load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe at .*nowhere.json"):
        Recipe.load(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match="cannot be read as a recipe"):
        Recipe.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"name = 'x'", b"\xff\xfe\x00", b"[1, 2"])
def test_not_json(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as a recipe"):
        Recipe.load(path)


@pytest.mark.parametrize("content", ["null", "[]", '"recipe"', "{}", '{"name": "x"}'])
def test_no_recipe(path: Path, content: str) -> None:
    path.write_text(content)
    with pytest.raises(ValueError, match="no recipe: the field version is missing"):
        Recipe.load(path)


def test_newer_version(path: Path) -> None:
    edited(path, lambda data: data.update(version=2, novelty={}))
    with pytest.raises(ValueError, match="version 2, newer than the 1 .*upgrade lmo-transfer"):
        Recipe.load(path)


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, True])
def test_invalid_version(path: Path, version: object) -> None:
    edited(path, lambda data: data.update(version=version))
    with pytest.raises(ValueError, match="version must be a positive integer, got"):
        Recipe.load(path)


@pytest.mark.parametrize("key", ["name", "run", "verdict", "provenance"])
def test_missing_field(path: Path, key: str) -> None:
    edited(path, lambda data: data.pop(key))
    with pytest.raises(ValueError, match=f"missing {key}"):
        Recipe.load(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(verdct={}), "field must be .*'verdct'; did you mean 'verdict'"),
        (lambda data: data["run"].update(widht=3), "run field .*did you mean 'width'"),
        (
            lambda data: data["run"]["optimizer"]["roles"]["input"].update(raduis=3),
            "optimizer.roles.input field .*did you mean 'radius'",
        ),
    ],
    ids=["recipe", "run", "role"],
)
def test_unknown_field(path: Path, edit: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.load(edited(path, edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda data: data.update(name=3), "name must be"),
        (lambda data: data.update(verdict="transfers"), "verdict must be"),
        (lambda data: data.update(provenance=[]), "provenance must be"),
        (lambda data: data.update(run=[1]), "run must be"),
        (lambda data: data.update(run=None), "run must be"),
        (lambda data: data["run"].update(optimizer=4), "optimizer must be"),
        (lambda data: data["run"]["optimizer"].update(name=["scion"]), "optimizer name must be"),
        (lambda data: data["run"]["optimizer"].update(roles=[]), "roles must be"),
        (lambda data: data["run"].update(width="16"), "run.width must be of type int, got '16'"),
        (lambda data: data["run"]["optimizer"].update(alpha=2.0), r"alpha must be in \(0, 1\]"),
        (lambda data: data["run"]["optimizer"].update(name="adam"), "did you mean 'adamw'"),
    ],
)
def test_wrong_types_and_values(path: Path, edit: Callable[[Any], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.load(edited(path, edit))
    assert str(path) in str(caught.value), "the message does not say which file"
    assert "\n" not in str(caught.value)
