"""Stacks that do not fit the memory are halved, and the limit is remembered."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps import worker
from tests.transfer.test_stack import RUN, scion
from transfer.config import ComputeConfig, RunConfig
from transfer.stacksize import bytes_of_stack, bytes_per_run, most_runs
from transfer.train import RunRecord

RUNS = [replace(RUN, seed=seed) for seed in range(8)]


class Memory:
    """Holds so many runs; what was tried is kept."""

    def __init__(self, holds: int, error: Exception) -> None:
        self.holds, self.error, self.tried = holds, error, list[list[int]]()

    def train_stack(self, configs: Sequence[RunConfig], *_: Any, **__: Any) -> list[RunRecord]:
        self.tried.append([config.seed for config in configs])
        if len(configs) > self.holds:
            raise self.error
        return [replace(worker.failed(c, "", 0.0), status="done", error=None) for c in configs]

    def sizes(self) -> list[int]:
        tried, self.tried = self.tried, []
        return [len(seeds) for seeds in tried]


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Memory:
    found = Memory(*request.param)
    monkeypatch.setattr(worker, "train_stack", found.train_stack)
    monkeypatch.setattr(worker, "_fits", {})
    return found


def test_the_workspace_of_a_step_is_taken_off_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for all runs, and only where one optimizer steps them all."""
    gpu, free = ComputeConfig(device="cuda"), 8 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, free))
    for run, workspace in ((replace(RUN, optimizer=scion(RUN)), 2 * 2**30), (RUN, 0)):
        assert bytes_of_stack(run, gpu) == workspace
        fits = (int(0.85 * free) - workspace) // bytes_per_run(run, gpu)
        assert most_runs(run, gpu) == fits > 1
    free = 2 * 2**30
    assert most_runs(replace(RUN, optimizer=scion(RUN)), gpu) == 1


@pytest.mark.parametrize("memory", [(3, error) for error in ERRORS], indirect=True, ids=str)
def test_halved_and_remembered(memory: Memory, tmp_path: Path) -> None:
    told: list[str] = []
    records = worker.train_safely(RUNS, tmp_path, on_note=told.append)
    assert told[0] == "8 runs do not fit the memory together, now 4 do" and len(told) == 2
    assert [r.config.seed for r in records] == [*range(8)] and {r.status for r in records} == {
        "done"
    }
    assert memory.sizes() == [8, 4, 2, 2, 2, 2]
    worker.train_safely(RUNS[:7], tmp_path)
    assert memory.sizes() == [2, 2, 2, 1], "no stack is tried that is known not to fit"
    worker.train_safely([replace(run, width=2 * run.width) for run in RUNS], tmp_path)
    assert memory.sizes()[0] == 8, "of other shapes nothing is known"


@pytest.mark.parametrize("memory", [(0, ERRORS[0])], indirect=True, ids=str)
def test_a_single_run_that_does_not_fit_fails(memory: Memory, tmp_path: Path) -> None:
    records = worker.train_safely(RUNS[:2], tmp_path)
    assert [r.status for r in records] == ["failed"] * 2
    assert "out of memory" in str(records[0].error)


@pytest.mark.parametrize("memory", [(1, ArithmeticError("singular"))], indirect=True, ids=str)
def test_other_errors_say_nothing_of_the_memory(memory: Memory, tmp_path: Path) -> None:
    for _ in range(2):
        assert {r.status for r in worker.train_safely(RUNS[:3], tmp_path)} == {"done"}
        assert memory.sizes() == [3, 1, 1, 1]
