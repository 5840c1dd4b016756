"""Stacked runs: the same bits in every company, and what a plain training loop gives."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.cases import rest_slow
from tests.invented import invented
from tests.transfer.test_train import assert_same
from transfer.config import (
    AdamWConfig,
    CharactersConfig,
    Cifar10Config,
    CnnConfig,
    ComputeConfig,
    DigitsConfig,
    GptConfig,
    MlpConfig,
    MuonConfig,
    NormName,
    OptimizerConfig,
    RoleConfig,
    RunConfig,
    ScheduleConfig,
    ScionConfig,
    SgdConfig,
    VitConfig,
    stack_key,
)
from transfer.families import Family
from transfer.roles import DEFAULT_RULES, build_optimizer, init_parameters
from transfer.schedules import factor
from transfer.seeds import derived_seed
from transfer.stack import Stack
from transfer.train import train, train_stack

RUN = RunConfig(
    model=MlpConfig(bias=True),
    width=16,
    depth=3,
    data=DigitsConfig(),
    batch_size=8,
    steps=8,
    label_smoothing=0.1,
    schedule=ScheduleConfig(),
    optimizer=AdamWConfig(),
    precision="float32",
    seed=1,
)
TEXT = CharactersConfig(name="shakespeare", sequence_length=16)
FAMILIES = {
    "mlp": RUN,
    "gpt": replace(RUN, model=GptConfig(head_dim=8), data=TEXT, depth=2),
    "tied": replace(RUN, model=GptConfig(head_dim=8, tied=True), data=TEXT, depth=1),
    "vit": replace(RUN, model=VitConfig(patch=8, head_dim=8), data=Cifar10Config(), depth=2),
    "cnn": replace(RUN, model=CnnConfig(), data=Cifar10Config(), width=4, depth=1),
}
POLAR = "polar-express@float64"


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on invented data of the right shapes."""
    monkeypatch.setattr("transfer.data.load", invented)


def scion(run: RunConfig, **changes: Any) -> ScionConfig:
    """Return Scion with the recommended norms for a run's roles."""
    roles = run.model.roles(run.depth)
    assert roles is not None
    rules = {role: replace(DEFAULT_RULES[role], radius=2.0) for role in roles}
    return ScionConfig(**{"stepsize": 2**-4, "roles": rules, **changes})


OPTIMIZERS: dict[str, Callable[[RunConfig], OptimizerConfig]] = {
    "scion": scion,
    "constrained": lambda run: scion(run, constrained=True),
    "almond": lambda run: scion(run, average="oracles", polar="quintic"),
    "adamw": lambda run: AdamWConfig(clip_norm=1.0, weight_decay=0.1),
    "muon": lambda run: MuonConfig(),
    "sgd": lambda run: SgdConfig(),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_start_alike_whether_modules_draw_or_not(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = FAMILIES[family]
    found = []
    for draws in (False, True):
        monkeypatch.setattr("transfer.stack._recent", {})
        if draws:
            monkeypatch.setattr("transfer.stack._keeps", lambda config: True)
        found.append(Stack([replace(run, optimizer=scion(run))]).weights)
    without, drawn = found
    assert all(torch.equal(without[name], drawn[name]) for name in drawn)


def test_what_is_kept_as_built_is_drawn() -> None:
    kept = replace(RUN, optimizer=AdamWConfig(init="keep"))
    assert all(bool(w.detach().ne(0).any()) for w in Stack([kept]).weights.values())


# Every optimizer with one family and every family with one optimizer; the rest is their product.
PAIRS = [("mlp", o) for o in OPTIMIZERS] + [(f, "scion") for f in FAMILIES if f != "mlp"]
PAIRS += [(f, o) for f in ("gpt", "vit", "cnn") for o in ("adamw", "muon")]


FIFTY = rest_slow(PAIRS[: len(OPTIMIZERS)] + [("gpt", "scion")], PAIRS)


def mixed(run: RunConfig) -> list[RunConfig]:
    """Return runs of two seeds that differ in stepsize, radius and alpha; some may diverge."""
    runs = []
    for number, power in enumerate((0, -3, 20, 2)):
        optimizer: Any = run.optimizer
        stepsize = optimizer.stepsize * 2.0**power
        if isinstance(optimizer, ScionConfig):
            roles = {
                role: replace(rule, radius=rule.radius * 2.0 ** (number - 1))
                for role, rule in optimizer.roles.items()
            }
            optimizer = replace(optimizer, alpha=0.1 + 0.2 * number, roles=roles)
            stepsize = min(stepsize, 1.0 if optimizer.constrained else 1e3)
        changed = replace(optimizer, stepsize=stepsize)
        runs.append(replace(run, optimizer=changed, seed=1 + number % 2))
    return runs


# --- the same bits in every company ----------------------------------------------------------


@pytest.mark.parametrize(("family", "optimizer"), rest_slow(PAIRS, product(FAMILIES, OPTIMIZERS)))
def test_same_bits_in_every_company(family: str, optimizer: str) -> None:
    base = FAMILIES[family]
    runs = mixed(replace(base, optimizer=OPTIMIZERS[optimizer](base)))
    alone = [train(run) for run in runs]
    statuses = {record.status for record in alone}
    assert "done" in statuses, "nothing was trained that could differ"
    for part in (runs, runs[::-1], runs[1:3]):
        for record in train_stack(part):
            assert_same(record, alone[runs.index(record.config)])


def test_diverged_runs_poison_nobody_and_leave() -> None:
    runs = [replace(RUN, optimizer=AdamWConfig(stepsize=s), steps=30) for s in (0.01, 1e30, 0.02)]
    records = train_stack(runs)
    assert [r.status for r in records] == ["done", "diverged", "done"]
    assert [r.stack_size for r in records] == [3, 3, 3]
    for record in records:
        assert_same(record, train(record.config))


def test_a_stack_goes_on_with_some_of_its_runs() -> None:
    runs = [replace(RUN, seed=seed, optimizer=scion(RUN)) for seed in range(4)]
    stack, pair = Stack(runs), Stack([runs[1], runs[3]])
    for _ in range(3):
        stack.advance()
        pair.advance()
    stack.keep([1, 3])
    for _ in range(3):
        stack.advance()
        pair.advance()
    assert stack.configs == pair.configs and torch.equal(stack.losses, pair.losses)
    assert all(torch.equal(w, pair.weights[name]) for name, w in stack.weights.items())
    assert stack.validate() == pair.validate() and stack.initial == pair.initial


def test_all_runs_diverged() -> None:
    runs = [replace(RUN, seed=s, optimizer=AdamWConfig(stepsize=1e30), steps=30) for s in (1, 2)]
    assert {record.status for record in train_stack(runs)} == {"diverged"}


# --- against a plain loop --------------------------------------------------------------------


class Plain:
    """One run as anybody would write it."""

    def __init__(self, config: RunConfig) -> None:
        dtype = torch.float64 if config.precision == "float64" else torch.float32
        self.config = config
        self.data = invented(config.data).to(torch.device("cpu"), dtype)
        family = Family(config.model, config.data.shape)
        torch.manual_seed(derived_seed("build", config.seed))
        self.model = family.build(config.width, config.depth).to(dtype)
        table = family.table(self.model, config.width, config.depth)
        generator = torch.Generator().manual_seed(derived_seed("init", config.seed))
        init_parameters(self.model, table, config.optimizer, generator, config.width)
        if hasattr(self.model, "fit_to_data"):
            self.model.fit_to_data(self.data.train_rows(config.seed, 0, 40, slice(0, 40)).x)
        self.optimizer = build_optimizer(self.model, table, config.optimizer, config.width)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]

    def advance(self, step: int) -> float:
        config, size = self.config, self.config.batch_size
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor(config.schedule, step, config.steps)
        x, y = self.data.train_rows(config.seed, step, size, slice(0, size))
        logits = self.model(x).flatten(0, -2)
        loss = F.cross_entropy(logits, y.flatten(), label_smoothing=config.label_smoothing)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        if isinstance(config.optimizer, AdamWConfig) and config.optimizer.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), config.optimizer.clip_norm)
        self.optimizer.step()
        return loss.item()


@pytest.fixture
def exact_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's Muon rounds to bfloat16, which blows differences of 1e-16 up to 1e-3."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self)


@pytest.mark.usefixtures("exact_muon")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_from_equal_state(family: str, optimizer: str) -> None:
    """In float32; AdamW's first step is the sign of the gradient, so small ones are left out."""
    run = FAMILIES[family]
    run = replace(run, optimizer=OPTIMIZERS[optimizer](run))
    plain = Plain(run)
    other: Any = replace(run.optimizer, stepsize=run.optimizer.stepsize / 2)
    stack = Stack([replace(run, optimizer=other), run])
    before = {name: w.clone() for name, w in stack.weights.items()}
    for name, p in plain.model.named_parameters():
        assert torch.equal(before[name][1], p), name
    loss = plain.advance(0)
    stack.advance()
    assert stack.losses[1, 0].item() == pytest.approx(loss, rel=1e-5)
    for name, p in plain.model.named_parameters():
        assert p.grad is not None
        clear = p.grad.abs() > 1e-5 * p.grad.abs().max()
        torch.testing.assert_close(
            stack.weights[name][1][clear], p[clear], rtol=1e-5, atol=1e-5, msg=name
        )


@pytest.mark.usefixtures("exact_muon")
@pytest.mark.parametrize(("family", "optimizer"), FIFTY)
def test_fifty_steps_in_float64(family: str, optimizer: str) -> None:
    base = replace(FAMILIES[family], steps=50, precision="float64")
    config = OPTIMIZERS[optimizer](base)
    if isinstance(config, ScionConfig):
        config = replace(config, stepsize=2**-9, polar=POLAR)
    # In a ball, steps of 1 go no farther than its radius; all others leave float64.
    bounded = isinstance(config, ScionConfig) and config.constrained
    wild: Any = replace(config, stepsize=1.0 if bounded else 1e300)
    run = replace(base, optimizer=config)
    plain, stack = Plain(run), Stack([replace(run, optimizer=wild, seed=2), run])
    for step in range(50):
        plain.advance(step)
        stack.advance()
    assert bounded or not stack.losses[0].isfinite().all(), "one of both diverges"
    for name, p in plain.model.named_parameters():
        torch.testing.assert_close(stack.weights[name][1], p, rtol=1e-8, atol=1e-8, msg=name)


NORMS: dict[NormName, str] = {
    "spectral": "hidden",
    "plain-spectral": "hidden",
    "hidden-col-norm": "hidden",
    "scaled-sign": "hidden",
    "row-norm": "output",
    "spectral-max": "input",
    "input-row-norm": "input",
    "sign": "input",
    "col-norm": "input",
    "embedding-spectral": "input",
    "bias-rms": "bias",
    "euclidean": "bias",
    "max-norm": "bias",
}


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm(norm: NormName) -> None:
    base = replace(RUN, precision="float64", steps=50)
    rules = scion(base).roles
    rules[NORMS[norm]] = RoleConfig(norm=norm, radius=3.0)
    run = replace(base, optimizer=scion(base, roles=rules, stepsize=2**-7, polar=POLAR))
    plain, stack = Plain(run), Stack([replace(run, seed=2), run])
    for step in range(50):
        plain.advance(step)
        stack.advance()
    for name, p in plain.model.named_parameters():
        torch.testing.assert_close(stack.weights[name][1], p, rtol=1e-8, atol=1e-8, msg=name)


# --- what belongs together -------------------------------------------------------------------


def test_runs_of_a_stack_share_everything_but_numbers_and_seed() -> None:
    run = replace(RUN, optimizer=scion(RUN))
    assert len({stack_key(r) for r in mixed(run)}) == 1
    others = [
        replace(run, width=32),
        replace(run, steps=9),
        replace(run, precision="float64"),
        replace(run, optimizer=scion(RUN, polar="svd")),
        replace(run, optimizer=scion(RUN, constrained=True)),
        replace(run, optimizer=AdamWConfig()),
        replace(run, schedule=ScheduleConfig(name="constant")),
        replace(run, label_smoothing=0.0),
    ]
    assert len({stack_key(r) for r in [run, *others]}) == 1 + len(others)
    with pytest.raises(ValueError, match="runs of a stack must have one stack_key, got 2 of them"):
        Stack([run, others[0]])


def test_runs_of_one_seed_share_their_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = Stack([replace(RUN, seed=s) for s in (1, 2, 1, 1)])
    asked: list[int] = []
    rows = type(stack.data).train_rows

    def spy(self: Any, seed: int, *rest: Any) -> Any:
        asked.append(seed)
        return rows(self, seed, *rest)

    monkeypatch.setattr(type(stack.data), "train_rows", spy)
    x, _ = stack._batch(slice(0, 8))
    assert asked == [1, 2] and torch.equal(x[0], x[2]) and not torch.equal(x[0], x[1])


# --- checkpoints -----------------------------------------------------------------------------


class Killed(Exception):
    """Stands for the end of the process."""


def killed(
    runs: list[RunConfig], steps: int, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train runs until the process is killed after so many steps, with a checkpoint each."""
    advance = Stack.advance

    def fragile(self: Stack) -> None:
        if self.step >= steps:
            raise Killed
        advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(Stack, "advance", fragile)
        with pytest.raises(Killed):
            train_stack(runs, checkpoints=files, checkpoint_every_s=0.0)


@pytest.mark.parametrize("optimizer", ["scion", "adamw", "muon"])
def test_checkpoints_fit_any_stack(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stacks are killed at different steps; their runs go on in one, and one goes on alone."""
    runs = mixed(replace(RUN, optimizer=OPTIMIZERS[optimizer](RUN)))
    whole = [train(run) for run in runs]
    files = {run.run_id: tmp_path / f"{run.run_id}.pt" for run in runs}
    killed(runs[:2], 3, {r.run_id: files[r.run_id] for r in runs[:2]}, monkeypatch)
    killed(runs[2:3], 5, {runs[2].run_id: files[runs[2].run_id]}, monkeypatch)
    size = files[runs[0].run_id].stat().st_size
    killed(runs[:1], 3, {runs[0].run_id: tmp_path / "alone.pt"}, monkeypatch)
    assert size == pytest.approx((tmp_path / "alone.pt").stat().st_size, rel=0.05)
    assert_same(train(runs[1], checkpoint=files[runs[1].run_id]), whole[1])
    for record in train_stack(runs, checkpoints=files):
        assert_same(record, whole[runs.index(record.config)])
    assert list(tmp_path.glob("*.pt")) == [tmp_path / "alone.pt"]


def test_micro_batches_of_a_stack() -> None:
    runs = mixed(replace(RUN, optimizer=scion(RUN), precision="float64"))
    whole = train_stack(runs)
    parts = train_stack(runs, ComputeConfig(micro_batch_size=5))
    assert any(record.status == "done" for record in whole)
    for one, other in zip(whole, parts, strict=True):
        if one.status == "done":
            assert other.val_loss == pytest.approx(one.val_loss, rel=1e-8)


def test_records_are_plain_numbers() -> None:
    (record,) = train_stack([RUN])
    assert isinstance(record.val_loss, float) and isinstance(record.curve, np.ndarray)
