"""Jobs of two processes: both decide alike, and one of them publishes."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps import worker
from sweeps.table import RunTable
from tests.invented import invented
from tests.transfer.pair import Pair
from tests.transfer.test_stack import RUN
from transfer.config import ComputeConfig, RunConfig
from transfer.distributed import current
from transfer.stack import Stack

RUNS = [replace(RUN, seed=seed) for seed in range(4)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair")) as made:
        yield made


def _work(folder: Path, runs: list[RunConfig], failing: str) -> list[Any]:
    """Do a job in which the second process fails; return what this one says, and its stacks."""
    said: list[worker.Answer] = []
    sizes, advance = [], Stack.advance

    def fragile(self: Stack) -> None:
        if self.step == 1:
            sizes.append(len(self.configs))
        if not current().first and self.step == 1:
            if failing == "memory" and len(self.configs) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            if failing == "data" and RUNS[1] in self.configs:
                raise ArithmeticError("bad data")
        advance(self)

    def publish(self: RunTable, *given: Any) -> Any:
        if failing == "folder":
            raise OSError(28, "No space left on device")
        wrote.append(os.getpid())
        return real(self, *given)

    wrote: list[int] = []
    real = RunTable.publish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "_fits", {})
        patch.setattr(Stack, "advance", fragile)
        patch.setattr(RunTable, "publish", publish)
        worker.work(RunTable(folder), runs, said.append)
    return [said, sizes, len(wrote)]


def test_the_first_process_publishes_what_both_have_trained(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, sizes, wrote), (said, others, nothing) = pair(_work, tmp_path, RUNS, "")
    assert (sizes, wrote) == ([4], 1) and (said, others, nothing) == ([], [4], 0)
    rows = RunTable(tmp_path).read()
    monkeypatch.setattr("transfer.data.load", invented)
    for record in worker.train_safely(RUNS, tmp_path / "alone", None, ComputeConfig()):
        row = rows[record.config.run_id]
        assert (row.status, row.val_loss) == ("done", pytest.approx(record.val_loss, rel=1e-4))


def test_a_stack_too_large_for_one_is_halved_by_both(pair: Pair, tmp_path: Path) -> None:
    (said, sizes, _), (silent, others, _) = pair(_work, tmp_path, RUNS, "memory")
    assert sizes == others == [4, 2, 2]
    assert said == [{"note": "4 runs do not fit the memory together, now 2 do"}] and silent == []
    assert {row.status for row in RunTable(tmp_path).read().values()} == {"done"}


def test_a_run_that_fails_in_one_is_the_only_one(pair: Pair, tmp_path: Path) -> None:
    (_, sizes, _), (_, others, _) = pair(_work, tmp_path, RUNS, "data")
    assert sizes == others == [4, 1, 1, 1, 1]
    rows = RunTable(tmp_path).read()
    errors = {run_id: row.error for run_id, row in rows.items() if row.status == "failed"}
    assert errors == {RUNS[1].run_id: "RuntimeError: process 1: ArithmeticError: bad data"}


def test_a_folder_that_cannot_be_written_ends_both(pair: Pair, tmp_path: Path) -> None:
    first, second = pair(_work, tmp_path, RUNS, "folder")
    assert first == ("OSError", "[Errno 28] No space left on device")
    assert second == ("OSError", "[Errno 28] process 0: No space left on device")
