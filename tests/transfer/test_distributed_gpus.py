"""Two GPUs that train together, through NCCL: what one would have trained, and no hanging."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.transfer.pair import Pair, Raised, State, advanced, trained
from tests.transfer.test_stack import FAMILIES, POLAR, RUN, mixed, scion
from transfer.config import AdamWConfig, ComputeConfig, RunConfig
from transfer.data.arrays import ArrayData
from transfer.distributed import current
from transfer.train import RunRecord, train_stack

pytestmark = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two NVIDIA GPUs")

GPU = ComputeConfig(device="cuda", compile="never")
HALVES = replace(GPU, micro_batch_size=4)
# Wide enough for the kernels of our own, which are for 256 rows and more.
WIDE = replace(FAMILIES["gpt"], precision="bf16", width=256)


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.invented import invented

    monkeypatch.setattr("transfer.data.load", invented)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair(tmp_path_factory.mktemp("pair"), "cuda") as made:
        yield made


def on_the_cpu(runs: list[RunConfig], steps: int, compute: ComputeConfig) -> tuple[State, int]:
    """Return a stack after some steps, and the GPU that this process has."""
    state = advanced(runs, steps, compute)
    weights = {name: w.cpu() for name, w in state.weights.items()}
    return State(weights, state.losses.cpu(), state.judged), torch.cuda.current_device()


# --- the same result -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["mlp", "gpt"])
@pytest.mark.parametrize("optimizer", ["scion", "adamw"])
def test_float64_as_one_process(pair: Pair, family: str, optimizer: str) -> None:
    base = replace(FAMILIES[family], precision="float64")
    chosen = AdamWConfig(stepsize=2**-9, clip_norm=1.0)
    config = scion(base, polar=POLAR, stepsize=2**-9) if optimizer == "scion" else chosen
    runs = [replace(base, optimizer=config, seed=seed) for seed in (1, 2)]
    alone, _ = on_the_cpu(runs, 6, GPU)
    (first, _), (second, gpu) = pair(on_the_cpu, runs, 6, GPU)
    assert gpu == 1, "each has a GPU of its own"
    for name, w in alone.weights.items():
        torch.testing.assert_close(first.weights[name], w, rtol=1e-9, atol=1e-9)
        assert torch.equal(first.weights[name], second.weights[name]), name
    for found, wanted in zip(first.judged, alone.judged, strict=True):
        assert found == pytest.approx(wanted, rel=1e-9)


def test_bfloat16_as_micro_batches(pair: Pair) -> None:
    """The same two halves of a batch; sums over their rows lie in another order of memory."""
    runs = [replace(WIDE, optimizer=scion(WIDE), seed=seed) for seed in (1, 2)]
    alone, _ = on_the_cpu(runs, 1, HALVES)
    (first, _), (second, _) = pair(on_the_cpu, runs, 1, GPU)
    torch.testing.assert_close(first.losses, alone.losses, rtol=1e-5, atol=1e-5)
    for name, w in alone.weights.items():
        assert torch.equal(first.weights[name], second.weights[name]), name
        # A step of 2^-4 in a ball of radius 2; polar factors are those of bfloat16.
        assert (first.weights[name] - w).norm() <= 2e-2 * w.norm(), name


def test_a_diverging_run_leaves_the_stack(pair: Pair) -> None:
    runs = [replace(RUN, optimizer=AdamWConfig(stepsize=s), steps=30) for s in (0.01, 1e30, 0.02)]
    both, alone = trained(pair, runs, GPU), train_stack(runs, HALVES)
    assert [record.status for record in both] == ["done", "diverged", "done"]
    for one, other in zip(both, alone, strict=True):
        assert (one.val_loss or 0) == pytest.approx(other.val_loss or 0, rel=1e-4)


def test_killed_and_resumed(pair: Pair, tmp_path: Path) -> None:
    runs = mixed(replace(RUN, optimizer=scion(RUN)))
    files = {run.run_id: tmp_path / f"{run.run_id}.pt" for run in runs}
    whole = trained(pair, runs, GPU)
    assert {answer.kind for answer in pair(_stopped, runs, files)} <= {"_Stop", "RuntimeError"}
    assert {torch.load(path)["step"] for path in files.values()} == {5}
    (steps, first), (_, second) = pair(_resumed, runs, files)
    assert steps[0] == 6
    for one, other, wanted in zip(first, second, whole, strict=True):
        assert one.val_loss == other.val_loss == wanted.val_loss


class _Stop(Exception):
    pass


def _stopped(runs: list[RunConfig], files: dict[str, Path]) -> None:
    def stop(step: int) -> None:
        if step > 5:
            raise _Stop

    train_stack(runs, GPU, checkpoints=files, checkpoint_every_s=0.0, on_step=stop)


def _resumed(runs: list[RunConfig], files: dict[str, Path]) -> tuple[list[int], list[RunRecord]]:
    steps: list[int] = []
    return steps, train_stack(runs, GPU, checkpoints=files, on_step=steps.append)


# --- what goes wrong in one process ----------------------------------------------------------


def test_one_gpu_is_out_of_memory(pair: Pair) -> None:
    first, second = pair(_hungry, [RUN])
    assert second.kind == "OutOfMemoryError"
    assert first.kind == "MemoryError" and "process 1: OutOfMemoryError" in first.text
    assert trained(pair, [RUN], GPU)[0].status == "done"


def _hungry(runs: list[RunConfig]) -> Any:
    rows_of, calls = ArrayData.train_rows, 0

    def ask(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 2 and not current().first:
            torch.empty(2**45, device="cuda")
        return rows_of(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayData, "train_rows", ask)
        return train_stack(runs, GPU)


@pytest.mark.parametrize("when", ["between steps", "before a sum"])
def test_the_other_ends_when_one_is_killed(tmp_path: Path, when: str) -> None:
    with Pair(tmp_path, "cuda") as pair:
        pair.ask(_killed, RUN, when)
        first, second = pair.answer(0), pair.answer(1)
        assert second is None and isinstance(first, Raised) and first.kind == "TeamBroken"
        pair.processes[0].join(20)
        assert pair.processes[0].exitcode == 1


def _killed(run: RunConfig, when: str) -> None:
    def die(*given: Any, **named: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        if when == "between steps":
            on_step = (lambda step: None if step < 3 else die()) if not current().first else None
            train_stack([run], GPU, on_step=on_step)
            return
        if not current().first:
            patch.setattr("torch.distributed.all_reduce", die)
        train_stack([run], GPU)


# --- a job's processes -----------------------------------------------------------------------


def test_a_job_gives_each_process_its_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SLURM would start them: by submitit, whose variables tell each who it is."""
    submitit = pytest.importorskip("submitit")
    monkeypatch.setenv("SUBMITIT_FOLDER", str(tmp_path))
    executor = submitit.LocalExecutor(tmp_path)
    executor.update_parameters(tasks_per_node=2, gpus_per_node=2, timeout_min=2)
    job = executor.submit(_as_a_job, [replace(RUN, optimizer=scion(RUN))])
    (first, one), (second, other) = job.results()
    assert (first, second) == ("cuda:0", "cuda:1")
    assert one == other == pytest.approx(_val_losses(HALVES), rel=1e-4)


def _as_a_job(runs: list[RunConfig]) -> tuple[str, list[float | None]]:
    import transfer.data
    from launch.team import team
    from tests.invented import invented

    transfer.data.load = invented
    with team("cuda") as found:
        assert found.size == 2
        losses = [record.val_loss for record in train_stack(runs, GPU)]
    return f"cuda:{torch.cuda.current_device()}", losses


def _val_losses(compute: ComputeConfig) -> list[float | None]:
    return [r.val_loss for r in train_stack([replace(RUN, optimizer=scion(RUN))], compute)]
