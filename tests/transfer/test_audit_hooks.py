"""The audit in somebody's training loop."""

import pytest
import torch
from torch import Tensor

from tests.transfer.test_audit import ROLES, backward, make_model, train
from transfer import (
    Scion,
    audit,
    parameter_groups,
)
from transfer.optimizers.combined import Combined


def test_closures() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)

    def closure() -> Tensor:
        return backward(model)

    with torch.no_grad(), audit(model, optimizer, ROLES) as report:
        with torch.enable_grad():
            loss = backward(model)
        assert optimizer.step(closure) <= loss
    assert report.flagged == [] and report.step == 1


def test_hooks_are_removed() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)
    with pytest.raises(ZeroDivisionError), audit(model, optimizer) as report:
        train(model, optimizer, 1)
        raise ZeroDivisionError
    train(model, optimizer, 2)
    assert report.step == 1
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_goes_on_after_a_step_that_raised() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)

    def fails() -> Tensor:
        raise ZeroDivisionError

    with audit(model, optimizer) as report:
        with pytest.raises(ZeroDivisionError):
            optimizer.step(fails)
        assert str(report) == "no step seen" and report.flagged == []
        train(model, optimizer, 1)
    assert report.flagged == [] and report.step == 2


def test_every_so_many_steps_in_somebody_elses_loop() -> None:
    model = make_model()
    optimizer = Scion(parameter_groups(model, ROLES), lr=0.01)
    report = audit(model, optimizer, ROLES, every=3).attach()
    seen = []
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for _ in range(5):
        train(model, optimizer, 1)
        scheduler.step()
        seen.append(report.step)
    report.detach()
    assert seen == [1, 1, 1, 4, 4]
    assert {r.stepsize for r in report.rows} == {0.01 / 8}


def test_several_optimizers_as_one() -> None:
    model = make_model()
    matrices = [p for name, p in model.named_parameters() if ROLES[name] == "hidden"]
    others = [p for name, p in model.named_parameters() if ROLES[name] != "hidden"]
    combined = Combined([Scion(matrices, lr=0.01), torch.optim.AdamW(others, lr=0.01)])
    with audit(model, combined, ROLES) as report:
        train(model, combined)
    assert "up.weight" not in report.flagged and "embed.weight" in report.flagged
