"""One run: the same result every time, resumed or not, and an honest status."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import transfer
from tests.cases import rest_slow
from transfer.checkpoint import load_checkpoint
from transfer.config import (
    AdamWConfig,
    DigitsConfig,
    MlpConfig,
    RoleConfig,
    RunConfig,
    ScheduleConfig,
    ScionConfig,
)
from transfer.program import Program
from transfer.stack import Stack
from transfer.train import RunRecord, train

ROLES = {
    "input": RoleConfig(norm="spectral-max"),
    "hidden": RoleConfig(norm="spectral"),
    "output": RoleConfig(norm="scaled-sign", radius=16.0),
}
BIAS = {"bias": RoleConfig(norm="bias-rms")}
SCION = ScionConfig(stepsize=2**-4, roles=ROLES)
RUN = RunConfig(
    model=MlpConfig(),
    width=16,
    depth=3,
    data=DigitsConfig(),
    batch_size=64,
    steps=25,
    label_smoothing=0.1,
    schedule=ScheduleConfig(),
    optimizer=SCION,
    precision="float32",
    seed=1,
)
VARIANTS = {
    "scion": RUN,
    "constrained": replace(RUN, optimizer=replace(SCION, constrained=True, polar="svd")),
    "biases": replace(
        RUN, model=MlpConfig(bias=True), optimizer=replace(SCION, roles=ROLES | BIAS)
    ),
    "float64": replace(RUN, precision="float64", schedule=ScheduleConfig(name="constant")),
    "adamw": replace(RUN, optimizer=AdamWConfig(), model=MlpConfig(bias=True)),
}
DIVERGING = replace(RUN, optimizer=AdamWConfig(stepsize=1e30), batch_size=32)


def assert_same(one: RunRecord, other: RunRecord) -> None:
    """Fail unless all but the time and the company is equal, bit for bit."""
    assert np.array_equal(one.curve, other.curve, equal_nan=True)
    for name in RunRecord.__dataclass_fields__:
        if name not in ("curve", "wall_s", "stack_size", "compile_s"):
            assert getattr(one, name) == getattr(other, name), name


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_same_configuration_same_record(config: RunConfig) -> None:
    first = train(config)
    torch.manual_seed(4711)
    torch.rand(3)
    assert_same(first, train(config))


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_record_of_a_good_run(config: RunConfig) -> None:
    record = train(config)
    assert record.config == config and record.error is None
    assert (record.status, record.stopped_step) == ("done", config.steps)
    assert record.curve.shape == (config.steps,) and record.curve.dtype == np.float32
    assert record.train_loss == record.curve[-1]
    assert record.val_loss is not None and record.initial_loss is not None
    assert record.val_loss < record.initial_loss
    assert record.val_accuracy is not None and 0.3 < record.val_accuracy <= 1
    assert record.wall_s > 0


def test_learns_digits() -> None:
    record = train(replace(RUN, steps=200, width=64, label_smoothing=0.0))
    assert record.val_accuracy is not None and record.val_accuracy > 0.93


def test_initial_loss_is_measured_before_the_first_step() -> None:
    one, many = (train(replace(RUN, steps=steps)) for steps in (1, 5))
    assert one.initial_loss == many.initial_loss
    assert one.curve[0] == many.curve[0]


def test_label_smoothing_enters_the_loss() -> None:
    smooth, plain = (train(replace(RUN, steps=1, label_smoothing=s)) for s in (0.3, 0.0))
    assert smooth.initial_loss != plain.initial_loss


def test_seeds_differ() -> None:
    losses = {train(replace(RUN, steps=3, seed=seed)).val_loss for seed in range(4)}
    assert len(losses) == 4


def test_schedule_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    advance = Stack.advance

    def spy(self: Stack) -> None:
        advance(self)
        rates.append(float(self.stepper.optimizers[0].param_groups[-1]["lr"]))

    monkeypatch.setattr(Stack, "advance", spy)
    train(replace(RUN, steps=4))
    assert rates == [2**-4, 2**-4 * 0.75, 2**-4 * 0.5, 2**-4 * 0.25]


def test_label_smoothing_and_width_reach_the_model() -> None:
    run = Stack([replace(RUN, width=24, depth=4, precision="float64")])
    shapes = [tuple(p.shape) for p in run.model.parameters()]
    assert shapes == [(24, 64), (24, 24), (24, 24), (10, 24)]
    assert {p.dtype for p in run.model.parameters()} == {torch.float64}


# --- resuming ---


class Killed(Exception):
    """Stands for the end of the process."""


def killed_after(steps: int) -> Callable[[Stack], None]:
    """Return an `advance` that fails once `steps` steps are done."""
    advance = Stack.advance

    def fragile(self: Stack) -> None:
        if self.step >= steps:
            raise Killed
        advance(self)

    return fragile


# Every variant once, and every instant with one of them.
RESUMED = [(name, 7) for name in VARIANTS] + [("scion", 1), ("biases", 10), ("adamw", 24)]


@pytest.mark.parametrize(
    ("name", "steps"), rest_slow(RESUMED, itertools.product(VARIANTS, [1, 7, 10, 24]))
)
def test_resumed_run_has_the_same_record(
    name: str, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = VARIANTS[name]
    whole = train(config)
    path = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "advance", killed_after(steps))
        with pytest.raises(Killed):
            train(config, checkpoint=path, checkpoint_every_s=0.0)
    state = load_checkpoint(path, config.run_id)
    assert state is not None and state["step"] == steps
    assert_same(train(config, checkpoint=path), whole)
    assert not path.exists()


def test_killed_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    for steps in (3, 3, 9, 20):
        with monkeypatch.context() as patch:
            patch.setattr(Stack, "advance", killed_after(steps))
            with pytest.raises(Killed):
                train(RUN, checkpoint=path, checkpoint_every_s=0.0)
    assert_same(train(RUN, checkpoint=path), train(RUN))


@pytest.mark.parametrize("content", ["other run", "damaged"])
def test_useless_checkpoint_is_passed_over(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    with monkeypatch.context() as patch:
        patch.setattr(Stack, "advance", killed_after(5))
        with pytest.raises(Killed):
            train(replace(RUN, seed=2), checkpoint=path, checkpoint_every_s=0.0)
    if content == "damaged":
        path.write_bytes(path.read_bytes()[:500])
    assert_same(train(RUN, checkpoint=path), train(RUN))
    assert not path.exists()


def test_no_checkpoint_before_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    monkeypatch.setattr(Stack, "advance", killed_after(5))
    with pytest.raises(Killed):
        train(RUN, checkpoint=path, checkpoint_every_s=3600.0)
    assert not path.exists()


# --- divergence ---


def test_non_finite_loss_is_diverged_with_its_step() -> None:
    record = train(DIVERGING)
    assert record.status == "diverged" and record.stopped_step < DIVERGING.steps
    assert record.val_loss is record.val_accuracy is record.train_loss is None
    assert record.initial_loss is not None and record.error is None
    assert record.curve.shape == (record.stopped_step + 1,)
    assert np.isfinite(record.curve[:-1]).all() and not np.isfinite(record.curve[-1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 3, 9, 10, 24])
def test_step_of_the_first_bad_loss(bad: float, at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, steps = Program.losses, itertools.count()

    def broken(self: Program, *args: Any) -> torch.Tensor:
        # Trying out whether the model can be stacked gives no noise.
        spoilt = len(args) == 3 and next(steps) == at
        return losses(self, *args) * (bad if spoilt else 1.0)

    monkeypatch.setattr("transfer.stack.Program.losses", broken)
    record = train(RUN)
    assert (record.status, record.stopped_step) == ("diverged", at)
    assert record.curve.shape == (at + 1,) and record.val_loss is None


def test_weights_spoiled_by_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Stack.advance

    def spoil(self: Stack) -> None:
        advance(self)
        if self.step == RUN.steps:
            with torch.no_grad():
                next(self.model.parameters())[0, 0] = float("nan")

    monkeypatch.setattr(Stack, "advance", spoil)
    record = train(RUN)
    assert (record.status, record.stopped_step, record.val_loss) == ("diverged", RUN.steps, None)
    assert record.train_loss is not None and record.curve.shape == (RUN.steps,)


def test_ending_above_the_start_is_diverged() -> None:
    config = replace(RUN, optimizer=replace(SCION, stepsize=16.0), steps=5)
    record = train(config)
    assert record.status == "diverged" and record.stopped_step == 5
    assert record.val_loss is not None and record.initial_loss is not None
    assert record.val_loss > record.initial_loss


# --- errors and symmetries ---


def test_batch_larger_than_the_data() -> None:
    train(replace(RUN, batch_size=1437, steps=1))
    message = "batch_size must be at most the 1437 training examples of digits, got 1438"
    with pytest.raises(ValueError, match=message):
        train(replace(RUN, batch_size=1438))


def test_changed_data_are_refused() -> None:
    with pytest.raises(ValueError, match="the data changed"):
        train(replace(RUN, data=DigitsConfig(fingerprint="0" * 64)))


@pytest.mark.parametrize("factor", [4.0, 0.25, 3.0])
@pytest.mark.parametrize("polar", ["svd", "muon"])
def test_radius_may_be_moved_between_layers(factor: float, polar: str) -> None:
    """One layer times 4, the next by 4: the function, and so every loss, is the same.

    ReLU is positively homogeneous, steps grow with the radius and oracles do not see the size of
    a gradient. Unconstrained, without biases.
    """
    moved = ROLES | {
        "hidden": replace(ROLES["hidden"], radius=factor),
        "output": replace(ROLES["output"], radius=16.0 / factor),
    }
    one, other = (
        train(replace(RUN, precision="float64", optimizer=replace(SCION, polar=polar, roles=roles)))
        for roles in (ROLES, moved)
    )
    assert one.val_loss is not None and other.val_loss is not None
    assert other.val_loss == pytest.approx(one.val_loss, rel=1e-9)
    assert other.initial_loss == pytest.approx(one.initial_loss, rel=1e-12)
    # The curve is kept in float32.
    np.testing.assert_allclose(other.curve, one.curve, rtol=2e-7)


def test_radius_of_one_layer_alone_matters() -> None:
    """The control: moving it in one layer only changes the losses."""
    roles = ROLES | {"hidden": replace(ROLES["hidden"], radius=4.0)}
    one, other = train(RUN), train(replace(RUN, optimizer=replace(SCION, roles=roles)))
    assert one.val_loss is not None
    assert other.val_loss != pytest.approx(one.val_loss, rel=1e-3)


def test_record_is_plain_data() -> None:
    record = train(replace(RUN, steps=1))
    assert asdict(record.config)["width"] == 16
    assert transfer.RunRecord is RunRecord
