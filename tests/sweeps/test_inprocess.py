"""Training in this very process: what workers would give, and the process as it was."""

from pathlib import Path

import pytest
import torch

from sweeps.inprocess import InProcessRunner
from sweeps.plan import run_config
from sweeps.progress import Reporter
from sweeps.runner import LocalRunner
from sweeps.table import RunTable
from tests.helpers import contents, tiny_experiment
from transfer.config import RunConfig


class Counting(Reporter):
    """Counts runs, and keeps what is told of their steps."""

    def __init__(self) -> None:
        self.ended = 0
        self.steps: list[int] = []

    def advance(self, runs: int) -> None:
        self.ended += runs

    def running(self, config: RunConfig, step: int) -> None:
        self.steps.append(step)


def test_the_table_is_that_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.worker._SECONDS_BETWEEN_BEATS", 0.0)
    experiment = tiny_experiment()
    configs = [
        run_config(experiment, arm, experiment.arms[arm].optimizer, size=width, seed=seed)
        for arm in experiment.arms
        for width in experiment.sweep.widths
        for seed in (1, 2)
    ]
    here, there = RunTable(tmp_path / "here"), RunTable(tmp_path / "there")
    threads, told = torch.get_num_threads(), Counting()
    torch.set_num_threads(2)
    try:
        with InProcessRunner() as runner:
            runner.run(here, configs, told)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    with LocalRunner(1) as local:
        local.run(there, configs, Reporter())
    assert contents(here) == contents(there)
    assert told.ended == len(configs) and told.steps
