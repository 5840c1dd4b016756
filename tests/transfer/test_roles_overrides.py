"""What is said of parameters by name, and what cannot be inferred, is an error that names it."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.transfer.test_roles_infer import Everything, Tied
from transfer.config import (
    RoleConfig,
    RoleOverride,
    run_config_from_dict,
)
from transfer.roles import (
    DEFAULT_RULES,
    infer_roles,
)


def overridden(overrides: dict[str, RoleOverride]) -> dict[str, dict[str, object]]:
    """Return the records of `Everything(16)` with overrides."""
    found = infer_roles(Everything(16), Everything(32), overrides)
    return {str(r["parameter"]): r for r in found.to_records()}


def test_overrides_by_pattern() -> None:
    rows = overridden(
        {
            "blocks.*.kv.weight": RoleOverride(split=2),
            "blocks.*.router.*": RoleOverride(role="output", radius=3.0),
            "blocks.1.router.weight": RoleOverride(norm="row-norm"),
            "recurrent.weight_*": RoleOverride(split_sizes=()),
        }
    )
    assert rows["blocks.0.kv.weight"]["layout"] == "matrix in 2 blocks"
    assert (rows["blocks.0.kv.weight"]["d_out"], rows["blocks.0.kv.weight"]["note"]) == (16, "")
    for index, norm in ((0, "scaled-sign"), (1, "row-norm")):
        row = rows[f"blocks.{index}.router.weight"]
        assert (row["role"], row["norm"], row["radius"]) == ("output", norm, 3.0)
    assert rows["recurrent.weight_ih_l0"]["layout"] == "matrix"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"block.*": RoleOverride(role="hidden")},
            r"'block\.\*' matches no parameter of class_token",
        ),
        ({"head.weight": RoleOverride(split=3)}, "split of head.weight must be a divisor of 5"),
        (
            {"head.weight": RoleOverride(split_sizes=(2, 2))},
            "parameter head.weight: scaled-sign: .*split_sizes must add up to d_out, 5",
        ),
        ({"head.bias": RoleOverride(norm="spectral")}, "parameter head.bias: spectral: layout"),
        ({"head.weight": RoleOverride(layout="rows")}, "layout must be one of .*'rows'"),
    ],
)
def test_overrides_that_do_not_fit(overrides: dict[str, RoleOverride], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        overridden(overrides)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"role": "hiden"}, r"model.overrides.x\*.role must be one of input, .*got 'hiden'"),
        ({"norm": "spectrl"}, r"model.overrides.x\*.norm must be one of .*got 'spectrl'"),
        ({"init": "zeros"}, r"model.overrides.x\*.init must be one of boundary, .*got 'zeros'"),
        ({"radius": 0.0}, "radius must be a finite number above 0, got 0.0"),
        ({"radius": "big"}, r"model.overrides.x\*.radius must be a number, got 'big'"),
        ({"split": 2, "split_sizes": [1, 1]}, "split must be absent beside split_sizes"),
        ({"splits": 2}, r"model.overrides.x\* field must be one of .*did you mean 'split'"),
    ],
)
def test_overrides_in_a_file(settings: dict[str, object], message: str) -> None:
    model = {"family": "custom", "build": "mine:build", "overrides": {"x*": settings}}
    with pytest.raises(ValueError, match=message):
        run_config_from_dict({"model": model})


# --- what cannot be inferred ---


class Experts(nn.Module):
    """Weights held by a module of an unknown type: nothing says which dimension is which."""

    def __init__(self, w: int) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(4, w, 2 * w))
        self.mixing = nn.Parameter(torch.zeros(w, w))


def test_unknown_parameters_are_named() -> None:
    with pytest.raises(ValueError, match=r"no role .* w1 \(4, 8, 16\), mixing \(8, 8\); say what"):
        infer_roles(Experts(8), Experts(16))
    told = {
        "w1": RoleOverride(role="hidden", layout="batch-transposed"),
        "mixing": RoleOverride(role="hidden"),
    }
    found = infer_roles(Experts(8), Experts(16), told)
    assert found["w1"].dims("spectral") == (16, 8)
    with pytest.raises(ValueError, match="no role can be inferred for mixing"):
        infer_roles(Experts(8), Experts(16), {"w1": told["w1"]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: Everything(16), "no parameter's shape differs"),
        (lambda: Everything(32, blocks=3), "same parameters; only in one: blocks.2"),
    ],
)
def test_models_that_are_no_pair(other: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        infer_roles(Everything(16), other())


def test_rules_of_a_table() -> None:
    found = infer_roles(Tied(8, True), Tied(16, True))
    rules = {**DEFAULT_RULES, "hidden": RoleConfig(norm="plain-spectral", radius=5.0)}
    assert found.with_rules(rules).to_records()[1]["radius"] == 5.0
    with pytest.raises(ValueError, match="role 'bias' of parameter 'hidden.bias' has no rule"):
        found.with_rules({"tied": rules["tied"], "hidden": rules["hidden"]})
