"""Jobs of several processes: what the cluster is asked for, and what they said last."""

from pathlib import Path

import pytest
import torch

from launch.team import _place, last_words, team
from sweeps.cluster import ClusterConfig


@pytest.mark.parametrize("gres", ["gpu:2", "gpu:a100:2", "", "shard:8", "tmp:1,gpu:a100:2"])
def test_as_many_gpus_as_processes(gres: str) -> None:
    assert ClusterConfig(gres=gres, tasks_per_node=2).tasks_per_node == 2


@pytest.mark.parametrize("gres", ["gpu", "gpu:a100", "gpu:a100:1", "gpu:4", "gpu:a100:2,gpu:1"])
def test_another_number_of_gpus(gres: str) -> None:
    words = "cluster.gres must be one with 2 GPUs, as many as cluster.tasks_per_node, got"
    with pytest.raises(ValueError, match=words):
        ClusterConfig(gres=gres, tasks_per_node=2)
    assert ClusterConfig(gres=gres).tasks_per_node == 1


def test_no_process() -> None:
    with pytest.raises(ValueError, match="cluster.tasks_per_node must be at least 1, got 0"):
        ClusterConfig(tasks_per_node=0)


def test_outside_of_a_job_there_is_one_process() -> None:
    with team("cpu") as found:
        assert (found.rank, found.size) == (0, 1)
    with pytest.raises(ZeroDivisionError), team("cpu"):
        raise ZeroDivisionError


@pytest.mark.parametrize(("seen", "index"), [(4, 3), (1, 0)])
def test_every_process_has_its_gpu(seen: int, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert _place("cuda", 3, 4) == torch.device("cuda", index) and chosen == [index]
    assert _place("cpu", 3, 4) == torch.device("cpu") and len(chosen) == 1


def test_too_few_gpus_for_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="cluster.gres must give 4 GPUs, .* got 2"):
        _place("cuda", 1, 4)


START = "submitit INFO (2026-01-01) - Loading pickle: /x\n"
LOST = "transfer.distributed.TeamBroken: the processes of this job have lost each other: closed\n"


@pytest.mark.parametrize(
    ("logs", "said"),
    [
        ((START + "OSError: disk full\nsrun: error: task 0: Exited\n", START + LOST), "OSError: "),
        ((START + LOST, START + "ValueError: no\n"), "ValueError: no"),
        ((START + LOST + "srun: error: task 1: Killed\n", START), "transfer.distributed.TeamBr"),
        ((START + "{'index': 0, 'step': 7}\n", START + LOST), "transfer.distributed.TeamBr"),
        ((START, ""), "it wrote nothing"),
        ((), "it wrote nothing"),
    ],
)
def test_what_went_wrong_first_is_said(tmp_path: Path, logs: tuple[str, ...], said: str) -> None:
    files = [tmp_path / f"1_{rank}_log.out" for rank in range(len(logs))]
    for file, text in zip(files, logs, strict=True):
        file.write_text(text)
    assert last_words(files).startswith(said)
