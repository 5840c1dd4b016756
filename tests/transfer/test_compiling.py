"""Compiling a stack's loss: when it pays, and that it changes results by rounding alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.invented import invented
from tests.transfer.test_stack import FAMILIES, RUN
from transfer import compiling
from transfer.compiling import Pace, pays, time_saved
from transfer.config import ComputeConfig, MlpConfig, SgdConfig
from transfer.data.cache import cache_folder
from transfer.models.mlp import Mlp
from transfer.stack import Stack
from transfer.train import train, train_stack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep marks and kept programs of one test from the others."""
    monkeypatch.setenv("LMO_TRANSFER_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setattr(compiling, "_kept", {})
    monkeypatch.setattr(compiling, "_lost_s", {})


def test_one_long_stack_pays_at_once_and_short_ones_together() -> None:
    assert pays("long", 30.0, 25.0)
    assert [pays("short", 10.0, 25.0) for _ in range(4)] == [False, False, True, True]
    assert not pays("other", 10.0, 25.0), "stacks of another kind share no program"


def test_what_a_compiled_step_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of it, unless its passes are kernels of our own."""
    stack = Stack([RUN])
    assert time_saved(stack, 1.0) == 0.5
    monkeypatch.setattr(compiling.kernels, "THERE", True)
    monkeypatch.setattr(stack.model, "own_passes", True, raising=False)
    assert time_saved(stack, 1.0) == 0.5, "in float32 they are torch's"
    stack.arithmetic.precision = "bf16"
    assert time_saved(stack, 1.0) == 0.0


def test_what_an_earlier_process_compiled_is_compiled_at_once() -> None:
    stack = Stack([RUN])
    pace = Pace("auto")
    assert not pace._paid_before(stack)
    mark = compiling._mark(stack)
    mark.parent.mkdir(parents=True)
    for text, pays_off in (("", False), ("0.0", False), ("1e-9", False), ("10.0", True)):
        mark.write_text(text)
        assert pace._paid_before(stack) == pays_off, text


def test_nothing_is_compiled_on_the_cpu_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(self: object) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr("transfer.program.Program.compile", compile)
    for how in ("auto", "never"):
        train_stack([RUN], ComputeConfig(compile=how))
    with pytest.raises(AssertionError, match="compiled"):
        train_stack([RUN], ComputeConfig(compile="always"))


def test_a_kept_program_serves_the_next_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []

    def compile(self: compiling.Program) -> None:
        made.append(self)
        self.compiled = True

    monkeypatch.setattr("transfer.program.Program.compile", compile)
    stacks = [Stack([replace(RUN, seed=seed)]) for seed in (1, 2)]
    stacks.append(Stack([RUN, replace(RUN, seed=2)]))
    for stack in stacks:
        Pace("always").advance(stack)
    assert made == [stacks[0].program, stacks[2].program], "one program for each number of runs"
    assert stacks[1].program is stacks[0].program
    assert len(list((cache_folder() / "inductor" / "known").iterdir())) == 2


def test_what_goes_one_by_one_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transfer.data.load", invented)
    with pytest.raises(ValueError, match="compile must be auto or never.*it has convolutions"):
        train_stack([FAMILIES["cnn"]], ComputeConfig(compile="always"))


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_compiled_runs_differ_by_rounding() -> None:
    run = replace(RUN, model=MlpConfig(), precision="float64", optimizer=SgdConfig())
    runs = [run, replace(run, seed=2)]
    eager, compiled = (train_stack(runs, ComputeConfig(compile=how)) for how in ("never", "always"))
    for one, other in zip(eager, compiled, strict=True):
        assert other.val_loss == pytest.approx(one.val_loss, rel=1e-9)
        assert other.compile_s > 0.0 == one.compile_s


@pytest.mark.compile
def test_a_model_that_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Mlp.forward

    def forward(self: Mlp, x: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return plain(self, x)

    monkeypatch.setattr(Mlp, "forward", forward)
    run = replace(RUN, model=MlpConfig())
    with pytest.raises(ValueError, match="must be auto or never.*torch.compile cannot take it"):
        train_stack([run], ComputeConfig(compile="always"))
    told: list[str] = []
    stack, expected = Stack([run]), Stack([run])
    pace = Pace("auto", told.append)
    pace._compile(stack)
    pace.advance(stack)
    for _ in range(2):
        expected.advance()
    assert torch.equal(stack.losses, expected.losses) and stack.step == 2
    (line,) = told
    assert "this model is trained uncompiled: torch.compile cannot take it" in line


def test_a_single_run_warns_of_what_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unable(Pace):
        def advance(self, stack: Stack) -> None:
            assert self.on_note is not None
            self.on_note("this model is trained uncompiled")
            super().advance(stack)

    monkeypatch.setattr("transfer.train.Pace", Unable)
    with pytest.warns(UserWarning, match="trained uncompiled"):
        train(replace(RUN, steps=1))
