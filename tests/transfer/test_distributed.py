"""Two processes that train together: what one would have trained."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.transfer.pair import HALVES, Pair, advanced, trained
from tests.transfer.test_stack import FAMILIES, OPTIMIZERS, POLAR, RUN, mixed, scion
from tests.transfer.test_stack_alone import ODD
from tests.transfer.test_train import assert_same
from transfer.config import (
    AdamWConfig,
    ComputeConfig,
    CustomConfig,
    RunConfig,
    ScionConfig,
)
from transfer.data.arrays import ArrayData
from transfer.distributed import Team, current
from transfer.stack import Stack
from transfer.train import RunRecord, train_stack


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.invented import invented

    monkeypatch.setattr("transfer.data.load", invented)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair")) as made:
        yield made


CASES = [(f, o) for f in ("mlp", "gpt") for o in ("scion", "adamw")]


# --- the same result -------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "optimizer"), CASES)
def test_float64_as_one_process(pair: Pair, family: str, optimizer: str) -> None:
    base = replace(FAMILIES[family], precision="float64")
    config = OPTIMIZERS[optimizer](base)
    if isinstance(config, ScionConfig):
        config = replace(config, polar=POLAR, stepsize=2**-9)
    runs = [replace(base, optimizer=config, seed=seed) for seed in (1, 2)]
    alone, both = advanced(runs, 6), pair(advanced, runs, 6)
    for state in both:
        assert state.judged == both[0].judged
        for name, w in alone.weights.items():
            torch.testing.assert_close(state.weights[name], w, rtol=1e-10, atol=1e-10)
            assert torch.equal(state.weights[name], both[0].weights[name])
        for found, wanted in zip(state.judged, alone.judged, strict=True):
            assert found == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize(("family", "optimizer"), [*CASES, ("vit", "scion")])
def test_one_float32_step_as_one_process(pair: Pair, family: str, optimizer: str) -> None:
    base = FAMILIES[family]
    config = OPTIMIZERS[optimizer](base)
    if isinstance(config, ScionConfig):
        config = replace(config, polar=POLAR)
    runs = [replace(base, optimizer=config)]
    alone, both = advanced(runs, 1), pair(advanced, runs, 1)
    torch.testing.assert_close(both[0].losses, alone.losses, rtol=1e-5, atol=1e-5)
    for name, w in alone.weights.items():
        torch.testing.assert_close(both[0].weights[name], w, rtol=1e-5, atol=1e-5)
        assert torch.equal(both[0].weights[name], both[1].weights[name])


@pytest.mark.parametrize(
    ("family", "optimizer", "precision"),
    [*((f, o, "float32") for f, o in CASES), ("mlp", "adamw", "bf16"), ("gpt", "scion", "bf16")],
)
def test_same_bits_as_micro_batches(
    pair: Pair, family: str, optimizer: str, precision: Any
) -> None:
    """The same sums of two numbers; `mixed` has runs that diverge, so that a stack is cut down."""
    base = replace(FAMILIES[family], precision=precision, steps=12)
    # The norm that clips is a sum in the order of memory, where sums over processes lie in another.
    config = AdamWConfig() if optimizer == "adamw" else OPTIMIZERS[optimizer](base)
    runs = mixed(replace(base, optimizer=config))
    alone = train_stack(runs, HALVES)
    assert "done" in {record.status for record in alone}
    for one, other in zip(trained(pair, runs), alone, strict=True):
        assert_same(one, other)


def test_a_diverging_run_leaves_the_stack(pair: Pair) -> None:
    runs = [replace(RUN, optimizer=AdamWConfig(stepsize=s), steps=30) for s in (0.01, 1e30, 0.02)]
    alone, both = train_stack(runs, HALVES), trained(pair, runs)
    assert [record.status for record in both] == ["done", "diverged", "done"]
    for one, other in zip(both, alone, strict=True):
        assert_same(one, other)


def test_micro_batches_of_a_share(pair: Pair) -> None:
    runs = [replace(RUN, precision="float64", optimizer=scion(RUN, polar=POLAR, stepsize=2**-9))]
    whole, parts = advanced(runs, 6), pair(advanced, runs, 6, ComputeConfig(micro_batch_size=3))[0]
    for name, w in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], w, rtol=1e-10, atol=1e-10)


def test_a_batch_that_two_do_not_divide(pair: Pair) -> None:
    runs = [replace(RUN, batch_size=7, precision="float64")]
    whole, parts = advanced(runs, 6), pair(advanced, runs, 6)[1]
    for name, w in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], w, rtol=1e-10, atol=1e-10)


def test_dropout_differs_between_the_shares(pair: Pair, tmp_path: Path) -> None:
    """As between micro-batches, of which each has its own."""
    (tmp_path / "odd_pair.py").write_text(ODD)
    model = CustomConfig(build="odd_pair:dropout")
    run = replace(RUN, model=model, optimizer=AdamWConfig(), label_smoothing=0.0)
    first, second = pair(_with_path, str(tmp_path), [run])
    (alone,) = _with_path(str(tmp_path), [run], HALVES)
    assert_same(first[0], alone)
    assert_same(second[0], alone)


def _with_path(
    folder: str, runs: list[RunConfig], compute: ComputeConfig | None = None
) -> list[RunRecord]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return train_stack(runs, compute)


def test_each_process_computes_its_part_alone(pair: Pair) -> None:
    assert pair(_rows_asked_for, RUN) == [{(0, 4)}, {(4, 8)}]


def _rows_asked_for(run: RunConfig) -> set[tuple[int, int]]:
    found, rows_of = set(), ArrayData.train_rows
    stack = Stack([run])

    def spy(self: ArrayData, seed: int, step: int, batch_size: int, rows: slice) -> Any:
        found.add((rows.start, rows.stop))
        return rows_of(self, seed, step, batch_size, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayData, "train_rows", spy)
        stack.advance()
    return found


# --- checkpoints -----------------------------------------------------------------------------


def test_killed_and_resumed(pair: Pair, tmp_path: Path) -> None:
    """One process writes, all resume; also what a single process wrote."""
    runs = mixed(replace(RUN, optimizer=scion(RUN)))
    whole = train_stack(runs, HALVES)
    files = {run.run_id: tmp_path / f"{run.run_id}.pt" for run in runs}
    wrote = pair(_stopped, runs, files, 5)
    assert wrote[0] and not wrote[1], "the first process alone writes"
    assert {torch.load(path)["step"] for path in files.values()} == {5}
    resumed, _ = pair(_resumed, runs, files)
    assert resumed[0] == 5
    for one, other in zip(resumed[1], whole, strict=True):
        assert_same(one, other)
    assert list(tmp_path.glob("*.pt")) == []
    assert _stopped(runs, files, 3, HALVES)
    for one, other in zip(pair(_resumed, runs, files)[1][1], whole, strict=True):
        assert_same(one, other)


def test_a_checkpoint_that_one_process_does_not_see_is_not_used(pair: Pair, tmp_path: Path) -> None:
    files = {RUN.run_id: tmp_path / "run.pt"}
    pair(_stopped, [RUN], files, 5)
    found = pair(_resumed_blind, [RUN], files)
    assert [step for step, _ in found] == [0, 0]
    assert_same(found[0][1][0], train_stack([RUN], HALVES)[0])


class _Stop(Exception):
    pass


def _stopped(
    runs: list[RunConfig], files: dict[str, Path], steps: int, compute: ComputeConfig | None = None
) -> bool:
    """Train so many steps, and return whether this process wrote checkpoints."""
    wrote = []

    def stop(step: int) -> None:
        if step > steps:
            raise _Stop

    from transfer import train as module

    with pytest.MonkeyPatch.context() as patch:
        save = module.save_checkpoint
        patch.setattr(module, "save_checkpoint", lambda *given: wrote.append(save(*given)))
        with pytest.raises((_Stop, RuntimeError)):
            train_stack(runs, compute, checkpoints=files, checkpoint_every_s=0.0, on_step=stop)
    return bool(wrote)


def _resumed(runs: list[RunConfig], files: dict[str, Path]) -> tuple[int, list[RunRecord]]:
    steps: list[int] = []
    records = train_stack(runs, None if current().size > 1 else HALVES, checkpoints=files,
                          on_step=steps.append)  # fmt: skip
    return steps[0] - 1, records


def _resumed_blind(runs: list[RunConfig], files: dict[str, Path]) -> tuple[int, list[RunRecord]]:
    blind = {run_id: path.with_name("nothing.pt") for run_id, path in files.items()}
    return _resumed(runs, files if current().first else blind)


# --- the team itself -------------------------------------------------------------------------


def test_decisions_are_made_together(pair: Pair) -> None:
    assert pair(_decisions) == [(0, 0, [0, 1], 1.0)] * 2


def _decisions() -> Any:
    team = current()
    half = torch.tensor(0.5, dtype=torch.float64)
    return (
        team.told(team.rank),
        team.least(team.rank),
        team.everybodys(team.rank),
        team.total(half).item(),
    )


def test_tensors_of_any_layout_are_added_up(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = pair(_sums)
    for one, other, wanted in zip(first, second, _parts(3.0), strict=True):
        assert (one is None) == (wanted is None)
        if one is not None:
            assert torch.equal(one, wanted) and torch.equal(other, wanted)
            assert one.dtype == wanted.dtype and one.shape == wanted.shape


def _parts(factor: float) -> list[torch.Tensor | None]:
    grid = torch.arange(12.0).reshape(3, 4)
    plain: list[torch.Tensor | None] = [grid.T, None, grid[:, 1], torch.ones(()).expand(5, 2),
                                        grid.double(), torch.ones(0), torch.ones(70)]  # fmt: skip
    return [None if part is None else part * factor for part in plain]


def _sums() -> list[torch.Tensor | None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transfer.distributed._BUCKET_BYTES", 256)
        parts = _parts(1.0 + current().rank)
        current().add_up(parts)
    return [None if part is None else part.clone() for part in parts]


def test_one_process_computes_nothing() -> None:
    team, tensor = Team(), torch.ones(3)
    parts: list[torch.Tensor | None] = [tensor, None]
    team.add_up(parts)
    assert parts[0] is tensor and team.total(tensor) is tensor
    assert team.share(7) == slice(0, 7) and team.everybodys("a") == ["a"]
    with pytest.raises(ZeroDivisionError), team.alike():
        raise ZeroDivisionError


def test_shares_are_the_batch() -> None:
    for size in (1, 2, 3, 4):
        for batch_size in (4, 7, 32):
            shares = [Team(rank, size).share(batch_size) for rank in range(size)]
            rows = [row for share in shares for row in range(share.start, share.stop)]
            assert rows == [*range(batch_size)]
            largest = max(share.stop - share.start for share in shares)
            assert largest == Team(0, size).largest_share(batch_size)
