"""The coordinate check: sizes as they are, right parametrisations pass, planted faults do not."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.coordinates import CoordinateCheck, check_coordinates
from transfer.config import (
    AdamWConfig,
    CustomConfig,
    DigitsConfig,
    MlpConfig,
    MupAdamWConfig,
    OptimizerConfig,
    RoleConfig,
    RunConfig,
    ScheduleConfig,
    ScionConfig,
)
from transfer.coordcheck import Coordinate, measure, measure_run, measure_weights
from transfer.stack import Stack
from transfer.train import train

WIDTHS = (32, 64, 128, 256)
SEEDS = (1, 2, 3)
BASE = WIDTHS[0]
ROLES = {
    "input": RoleConfig(norm="spectral-max"),
    "hidden": RoleConfig(norm="spectral"),
    "output": RoleConfig(norm="scaled-sign"),
}
SCION = ScionConfig(stepsize=2**-3, roles=ROLES)
RUN = RunConfig(
    model=MlpConfig(),
    width=16,
    depth=3,
    data=DigitsConfig(),
    batch_size=128,
    steps=60,
    label_smoothing=0.1,
    schedule=ScheduleConfig(),
    optimizer=SCION,
    precision="float32",
    seed=1,
)


def check(
    optimizer: Callable[[int], OptimizerConfig],
    change: Callable[[Stack], None] = lambda stack: None,
    steps: int = 4,
) -> CoordinateCheck:
    """Judge an optimizer over widths and seeds, after something was changed in every run."""
    rows: list[Coordinate] = []
    for width in WIDTHS:
        for seed in SEEDS:
            run = replace(RUN, width=width, seed=seed, optimizer=optimizer(width))
            stack = Stack([run])
            change(stack)
            rows += measure_run(stack, steps)
    return check_coordinates(pd.DataFrame(rows))


def statuses(checked: CoordinateCheck) -> list[str]:
    return [layer.status for layer in checked.layers]


# --- what passes -----------------------------------------------------------------------------


def test_scion_passes() -> None:
    checked = check(lambda width: SCION, steps=10)
    assert checked.status == "passes", checked.reason
    assert statuses(checked) == ["passes"] * 3
    output = checked.layers[2]
    start = next(s for s in output.slopes if s.quantity == "activation" and s.step == 0)
    assert start.slope == pytest.approx(-0.5, abs=0.2), "random signs / d_in shrink by design"
    for layer in checked.layers:
        update = layer.worst("update")
        assert update is not None and update.slope == pytest.approx(0, abs=0.05)


def test_mup_passes() -> None:
    checked = check(lambda width: MupAdamWConfig(base_width=BASE))
    assert checked.status == "passes", checked.reason


# --- what fails ------------------------------------------------------------------------------


def test_the_control_in_standard_parametrisation_fails() -> None:
    checked = check(lambda width: AdamWConfig())
    assert checked.status == "fails"
    assert statuses(checked) == ["passes", "fails", "fails"], "only the input's d_in is fixed"


def test_fault_base_and_target_width_equal() -> None:
    checked = check(lambda width: MupAdamWConfig(base_width=width))
    assert checked.status == "fails"
    assert statuses(checked)[1:] == ["fails", "fails"]


def test_fault_scheduler_that_overwrites_the_rates_of_groups() -> None:
    def one_rate(stack: Stack) -> None:
        def overwrite(optimizer: torch.optim.Optimizer, *_: object) -> None:
            for group in optimizer.param_groups:
                group["lr"] = stack.configs[0].optimizer.stepsize

        for optimizer in stack.stepper.optimizers:
            optimizer.register_step_pre_hook(overwrite)  # type: ignore[arg-type]

    checked = check(lambda width: MupAdamWConfig(base_width=BASE), one_rate)
    assert checked.status == "fails"
    assert statuses(checked)[1:] == ["fails", "fails"]
    # Scion's groups share one stepsize and differ in their radii, which no scheduler writes.
    assert check(lambda width: SCION, one_rate).status == "passes"


def test_fault_output_without_one_over_d_in() -> None:
    sign = RoleConfig(norm="sign", radius=1 / BASE)  # right at the base width
    checked = check(lambda width: replace(SCION, roles=ROLES | {"output": sign}))
    assert checked.status == "fails"
    assert statuses(checked) == ["passes", "passes", "fails"]


# --- the numbers -----------------------------------------------------------------------------


def values(rows: list[Coordinate], quantity: str, layer: str) -> list[float]:
    return [r["value"] for r in rows if r["quantity"] == quantity and r["layer"] == layer]


def test_sizes_are_those_of_the_run() -> None:
    rows = measure(replace(RUN, precision="float64"), steps=2)
    run = Stack([replace(RUN, precision="float64")])
    layer = run.model.layers[0]  # type: ignore[index,union-attr]
    probe = run.data.val_rows(slice(0, 256)).x
    before, weight = layer(probe).detach(), layer.weight.detach().clone()
    run.advance()
    after, update = layer(probe).detach(), layer.weight.detach() - weight
    rms = [x.square().mean().sqrt().item() for x in (before, after, after - before)]
    assert values(rows, "activation", "layers.0")[:2] == pytest.approx(rms[:2])
    assert values(rows, "change", "layers.0")[0] == pytest.approx(rms[2])
    # The input layer is wider than it is tall: its norm is the largest singular value.
    sizes = [torch.linalg.matrix_norm(x, 2).item() for x in (weight, update)]
    assert values(rows, "weight", "layers.0")[0] == pytest.approx(sizes[0])
    assert values(rows, "update", "layers.0")[0] == pytest.approx(sizes[1])
    assert values(rows, "update", "layers.2") == pytest.approx([2**-3, 2**-3 * 59 / 60])
    assert {r["step"] for r in rows if r["quantity"] in ("activation", "weight")} == {0, 1, 2}
    assert {r["step"] for r in rows if r["quantity"] in ("change", "update")} == {1, 2}


def test_measuring_does_not_change_the_run() -> None:
    config = replace(RUN, steps=6)
    run = Stack([config])
    measure_run(run, 6)
    assert np.array_equal(run.losses[0].numpy(), train(config).curve)
    assert not any(module._forward_hooks for module in run.model.modules())


def test_biases_are_listed_beside_their_layer() -> None:
    rules = ROLES | {"bias": RoleConfig(norm="bias-rms")}
    config = replace(RUN, model=MlpConfig(bias=True), optimizer=replace(SCION, roles=rules))
    rows = measure(config, steps=1)
    assert {(r["layer"], r["role"]) for r in rows if r["quantity"] == "update"} == {
        *(("layers.0", "input"), ("layers.1", "hidden"), ("layers.2", "output")),
        *((f"layers.{i}.bias", "bias") for i in range(3)),
    }
    assert values(rows, "activation", "layers.0.bias") == []


def test_a_diverged_run_is_measured_to_its_end_and_fails() -> None:
    rows: list[Coordinate] = []
    for width in (8, 16):
        rows += measure(replace(RUN, width=width, optimizer=AdamWConfig(stepsize=1e30)), steps=3)
    assert not np.isfinite(values(rows, "activation", "layers.2")).all()
    checked = check_coordinates(pd.DataFrame(rows))
    assert checked.status == "fails" and "not finite at width 8, 16" in checked.reason


@pytest.mark.parametrize("steps", [0, 61])
def test_steps_are_those_of_the_run(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps must be between 1 and the 60.*got {steps}"):
        measure(RUN, steps)


ODD = '''
import torch
from torch import nn


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), "beside it"


class Odd(nn.Module):
    """A layer called twice, one that returns a tuple, one used by its weight alone."""

    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(64))
        self.first = Pair(64, width, bias=False)
        self.twice = nn.Linear(width, width, bias=False)
        self.unused = nn.Linear(width, width, bias=False)
        self.last = nn.Linear(width, 10, bias=False)

    def loss(self, x, y):
        h, _ = self.first(x * self.scale)
        h = self.twice(self.twice(h).relu_())
        h = h @ self.unused.weight.T
        return nn.functional.cross_entropy(self.last(h), y)

    def parameter_roles(self):
        return {
            "scale": "gain", "first.weight": "input", "twice.weight": "hidden",
            "unused.weight": "hidden", "last.weight": "output",
        }


def build(width, depth):
    return Odd(width)
'''


def test_a_family_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_family.py").write_text(ODD)
    monkeypatch.syspath_prepend(str(tmp_path))
    rules = ROLES | {"gain": RoleConfig(norm="gain-rms")}
    model = CustomConfig(build="odd_family:build")
    config = replace(RUN, model=model, optimizer=replace(SCION, roles=rules))
    rows = measure(config, steps=2)
    for layer in ("first", "twice", "last"):
        assert len(values(rows, "activation", layer)) == 3
        assert len(values(rows, "change", layer)) == 2
    for layer in ("unused", "scale"):
        assert values(rows, "activation", layer) == [] and len(values(rows, "update", layer)) == 2
    # What works in place on an output comes after what was seen: both calls count, whole.
    run = Stack([config])
    x = run.data.val_rows(slice(0, 256)).x
    h = run.model.twice(run.model.first(x)[0]).detach()  # type: ignore[operator]
    both = torch.cat([h, run.model.twice(h.relu()).detach()])  # type: ignore[operator]
    expected = both.square().mean().sqrt().item()
    assert values(rows, "activation", "twice")[0] == pytest.approx(expected)


# --- norms over a whole run ------------------------------------------------------------------


def test_norms_are_read_at_the_start_at_times_and_at_the_end() -> None:
    rows = measure_weights(replace(RUN, optimizer=SCION, steps=12), readings=4)
    assert sorted({row["step"] for row in rows}) == [0, 3, 6, 9, 12]
    assert {row["quantity"] for row in rows} == {"weight"}
    assert len(rows) == 5 * 3 and {row["role"] for row in rows} == {"input", "hidden", "output"}
    every = measure_weights(replace(RUN, optimizer=SCION, steps=5), readings=40)
    assert sorted({row["step"] for row in every}) == [0, 1, 2, 3, 4, 5]
    # The same numbers as step by step.
    short = measure(replace(RUN, optimizer=SCION, steps=5), 5)
    assert every == [row for row in short if row["quantity"] == "weight"]
    with pytest.raises(ValueError, match="readings must be at least 1, got 0"):
        measure_weights(RUN, readings=0)


def test_norms_of_constrained_runs_stay_in_their_balls() -> None:
    constrained = replace(SCION, constrained=True, stepsize=0.5)
    rows = measure_weights(replace(RUN, optimizer=constrained, steps=8))
    radii = {role: rule.radius for role, rule in constrained.roles.items()}
    # Newton-Schulz leaves the ball by a fifth at most (docs/polar.md).
    assert all(row["value"] <= 1.21 * radii[row["role"]] for row in rows)


def test_a_run_that_diverges_is_measured_up_to_there() -> None:
    wild = replace(RUN, optimizer=replace(SCION, stepsize=1e30), steps=12)
    rows = measure_weights(wild)
    assert not math.isfinite(rows[-1]["value"]) and max(row["step"] for row in rows) < 12
