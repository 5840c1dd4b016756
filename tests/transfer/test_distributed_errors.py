"""What goes wrong in one of two processes goes wrong in both, and nobody is left waiting."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.transfer.pair import HALVES, Pair, Raised, trained
from tests.transfer.test_stack import FAMILIES, RUN
from tests.transfer.test_train import assert_same
from transfer.config import RunConfig
from transfer.data.arrays import ArrayData
from transfer.distributed import current
from transfer.stack import Stack
from transfer.train import train_stack


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.invented import invented

    monkeypatch.setattr("transfer.data.load", invented)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair")) as made:
        yield made


# --- what cannot be shared -------------------------------------------------------------------


def test_a_batch_with_nothing_for_somebody(pair: Pair) -> None:
    words = "batch_size must be at least 2, the number of processes of this job, got 1"
    first, second = pair(train_stack, [replace(RUN, batch_size=1)])
    assert first == Raised("ValueError", words) and second[0] == "ValueError"


def test_batch_norm_is_refused(pair: Pair) -> None:
    words = "the number of processes of a job must be 1, got 2: stages.0.norms.0 normalises"
    for kind, text in pair(train_stack, [FAMILIES["cnn"]]):
        assert kind == "ValueError" and words in text


# --- what goes wrong in one process ----------------------------------------------------------

ERRORS = [
    (ZeroDivisionError("bad"), "RuntimeError", "ZeroDivisionError: bad"),
    (ValueError("bad"), "ValueError", "ValueError: bad"),
    (torch.OutOfMemoryError("full"), "MemoryError", "OutOfMemoryError: full"),
    (OSError(28, "disk full"), "OSError", "disk full"),
]


@pytest.mark.parametrize("place", ["train_rows", "val_rows", "_stepped", "_end"])
@pytest.mark.parametrize(("error", "kind", "text"), ERRORS, ids=lambda value: str(value)[:9])
def test_an_error_of_one_is_one_of_all(
    pair: Pair, error: Exception, kind: str, text: str, place: str
) -> None:
    first, second = pair(_failing, 1, error, place, [RUN])
    assert second == Raised(type(error).__name__, str(error))
    assert first.kind == kind and f"process 1: {text}" in first.text
    assert_same(trained(pair, [RUN])[0], train_stack([RUN], HALVES)[0])


def test_errors_of_both_are_the_first_ones(pair: Pair) -> None:
    first, second = pair(_failing, None, OSError(28, "disk full"), "train_rows", [RUN])
    assert first == Raised("OSError", "[Errno 28] disk full") and second.kind == "OSError"
    # Bad data in one, while the other is short of memory: halved or not, both do the same.
    first, second = pair(_differing, [RUN])
    assert (first.kind, second.kind) == ("OutOfMemoryError", "MemoryError")


def _differing(runs: list[RunConfig]) -> Any:
    first = current().first
    error = torch.OutOfMemoryError("full") if first else ZeroDivisionError("bad")
    return _failing(None, error, "train_rows", runs)


def _failing(rank: int | None, error: Exception, place: str, runs: list[RunConfig]) -> Any:
    """Train; on one rank, or all, something raises after a while."""
    calls = 0

    def fail(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2 and rank in (None, current().rank):
            raise error
        return real(*given)

    from transfer import train as module
    from transfer.steppers import OwnSteppers

    owner, name = {
        "_stepped": (OwnSteppers, "step"),
        "_end": (module, "_record"),
    }.get(place, (ArrayData, place))
    calls = 2 if place in ("_end", "val_rows") else 0
    real = getattr(owner, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, fail)
        if place == "val_rows":  # the one validation batch is the first one's
            patch.setattr("transfer.stack._ROWS_TO_VALIDATE", 4)
        return train_stack(runs)


def test_what_is_kept_for_later_stacks_is_the_same_after_an_error(pair: Pair) -> None:
    """A run fails in one process while it is built, so that the other alone has kept its start."""
    first, second = pair(_unequal, [replace(RUN, seed=seed) for seed in (1, 2, 3, 1)])
    assert first == second == ["done", "done", "raised", "done"]


def _unequal(runs: list[RunConfig]) -> list[str]:
    built, statuses = Stack._built, []

    def build(self: Stack, family: Any, config: RunConfig) -> Any:
        if config.seed == 3 and not current().first:
            raise ArithmeticError
        return built(self, family, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stack, "_built", build)
        patch.setattr("transfer.stack._MODELS_KEPT", 2)
        for run in runs:
            try:
                statuses.append(train_stack([run])[0].status)
            except Exception:
                statuses.append("raised")
    return statuses


def test_the_others_end_when_one_is_killed(tmp_path: Path) -> None:
    with Pair(tmp_path) as pair:
        assert pair(_ready) == [0, 1]
        pair.ask(_killed, RUN)
        first, second = pair.answer(0), pair.answer(1)
        assert second is None and first.kind == "TeamBroken"
        assert first.text.startswith("the processes of this job have lost each other")
        pair.processes[0].join(10)
        assert pair.processes[0].exitcode == 1


def _ready() -> int:
    return current().rank


def _killed(run: RunConfig) -> None:
    def die(step: int) -> None:
        if step == 3 and not current().first:
            os.kill(os.getpid(), signal.SIGKILL)

    train_stack([run], on_step=die)


def test_an_error_while_they_talk_ends_both(tmp_path: Path) -> None:
    """As of a signal's handler: the other waits for a sum, and would take no report."""
    with Pair(tmp_path) as pair:
        assert pair(_ready) == [0, 1]
        pair.ask(_interrupted, RUN)
        assert pair.answer(0).kind == "TeamBroken"
        assert pair.answer(1) == Raised("TeamBroken", "ArithmeticError: time is up")


def _interrupted(run: RunConfig) -> None:
    def interrupt(*given: Any, **named: Any) -> None:
        raise ArithmeticError("time is up")

    with pytest.MonkeyPatch.context() as patch:
        if not current().first:
            patch.setattr("torch.distributed.all_reduce", interrupt)
        train_stack([run])


def test_the_others_do_not_wait_for_ever(tmp_path: Path) -> None:
    with Pair(tmp_path) as pair:
        assert pair(_ready) == [0, 1]
        pair.ask(_asleep, RUN)
        assert pair.answer(0).kind == "TeamBroken"
        pair.processes[1].kill()


def _asleep(run: RunConfig) -> None:
    from torch.distributed.distributed_c10d import _set_pg_timeout

    _set_pg_timeout(timedelta(seconds=3), current()._meetings)
    train_stack([run], on_step=lambda step: None if current().first else time.sleep(1_000))


def test_processes_that_do_different_things_end(tmp_path: Path) -> None:
    with Pair(tmp_path) as pair:
        for answer in pair(_different):
            assert answer.kind == "TeamBroken" and "do different things" in answer.text


def _different() -> None:
    team = current()
    team.add_up([torch.ones(2 if team.first else 3_000)])
