"""What the audit is given, and what it refuses."""

import re
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import transfer
from tests.transfer.test_audit import ROLES, WIDTH, make_model, train
from transfer import (
    RoleConfig,
    RoleOverride,
    Scion,
    audit,
    parameter_groups,
    stated_table,
)


@pytest.mark.parametrize(
    ("roles", "settings", "message"),
    [
        ({"nothing": "hidden"}, {}, "role given to 'nothing', which is no parameter"),
        (
            {"up.weight": "hidden"},
            {"rules": {"bias": RoleConfig(norm="bias-rms")}},
            "role 'hidden' has no rule",
        ),
        ({}, {"every": 0}, "every must be at least 1, got 0"),
    ],
)
def test_refused(roles: dict[str, str], settings: dict[str, Any], message: str) -> None:
    model = make_model()
    with pytest.raises(ValueError, match=re.escape(message)):
        audit(model, Scion(model.parameters(), norm="euclidean"), roles, **settings)


def test_a_table_of_another_width() -> None:
    model, other = make_model(), make_model()
    other.up = nn.Linear(WIDTH, 7)
    with pytest.raises(ValueError, match=r"'up.bias' has shape \(48,\), \(7,\) in the table"):
        audit(model, Scion(model.parameters(), norm="euclidean"), stated_table(other, ROLES))


def test_overrides_of_the_table_count() -> None:
    model = make_model()
    table = stated_table(model, ROLES).override({"up.weight": RoleOverride(radius=2.0)})
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)
    with audit(model, optimizer, table) as report:
        train(model, optimizer)
    assert report.flagged == ["up.weight"]


def test_records() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)
    with audit(model, optimizer) as report:
        train(model, optimizer)
    assert [record["parameter"] for record in report.to_records()] == list(
        dict(model.named_parameters())
    )


def test_the_name_is_the_function() -> None:
    """No module of that name may come to stand in its place."""
    assert callable(transfer.audit) and not hasattr(transfer.audit, "__path__")


def test_example_in_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    text = Path(__file__).parents[2].joinpath("docs", "audit.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.S)[0]
    exec(compile(code, "docs/audit.md", "exec"), {})
    assert "its group has norm row-norm" in capsys.readouterr().out
