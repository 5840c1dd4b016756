"""The processes of one job, set up from SLURM's variables by submitit's helper."""

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from transfer.files import replace_file

if TYPE_CHECKING:
    import torch
    from torch._C._distributed_c10d import Store

    from transfer.distributed import Team

SRUN_ARGS = ("--kill-on-bad-exit=1",)
"""For a job of several processes: none is left behind when one has died."""
_HERE = "127.0.0.1"
_LOST = "transfer.distributed.TeamBroken:"
_FRAME = ("srun:", "slurmstepd", "submitit ", "{'index': ", "{'note': ")


@contextmanager
def team(device: str) -> Iterator["Team"]:
    """Train together with the other processes of this job, while it lasts; alone if there are none.

    Whatever leaves this context as an error ends this process at once: the others, which may wait
    for it, see that, and SLURM ends them. Only what hands the job on goes on as it would.

    Args:
        device: Where runs are computed, cpu or cuda; each process has a GPU of its own.
    """
    from transfer.distributed import TIMEOUT, current, joined

    if _num_processes() == 1:
        yield current()
        return
    try:
        from submitit.helpers import TorchDistributedEnvironment

        # CUDA_VISIBLE_DEVICES is SLURM's: the job's GPUs need not be the first ones of the node.
        there = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        place = _place(device, there.local_rank, there.local_world_size)
        store = _meeting_place(there.rank, TIMEOUT.total_seconds())
        with joined(there.rank, there.world_size, place, store=store) as found:
            yield found
    except SystemExit:
        raise  # submitit's, once SLURM has agreed to requeue the job
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # the interpreter's own end may wait for what other processes owe it


def _num_processes() -> int:
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return 1
    from submitit import JobEnvironment

    return JobEnvironment().num_tasks


def _meeting_place(rank: int, timeout_s: float) -> "Store":
    """Return the store by which the processes find each other: one node has them all.

    Its port is any that is free, told by a file of the job's. The one that submitit draws may be
    another program's, and requeued the job would draw the same again.
    """
    from datetime import timedelta

    from submitit import JobEnvironment
    from torch._C._distributed_c10d import TCPStore

    attempt = f"{JobEnvironment().job_id}_{os.environ.get('SLURM_RESTART_COUNT', '0')}"
    file = Path(os.environ["SUBMITIT_FOLDER"]) / f"{attempt}_port"
    timeout = timedelta(seconds=timeout_s)
    if rank == 0:
        store = TCPStore(_HERE, 0, is_master=True, timeout=timeout, wait_for_workers=False)
        replace_file(file, lambda temporary: temporary.write_text(str(store.port)))
        return store
    end = time.monotonic() + timeout_s
    while not file.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"the first process of this job did not write {file}")
        time.sleep(0.05)
    return TCPStore(_HERE, int(file.read_text()), is_master=False, timeout=timeout)


def _place(device: str, local_rank: int, number: int) -> "torch.device":
    """Return the device of a process, and make it torch's own choice of a GPU."""
    import torch

    if device != "cuda":
        return torch.device(device)
    seen = torch.cuda.device_count()
    if seen not in (1, number):  # one, where SLURM shows each process its own
        raise ValueError(
            f"cluster.gres must give {number} GPUs, one for each of cluster.tasks_per_node, "
            f"got {seen}"
        )
    index = local_rank if seen == number else 0
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def last_words(logs: Sequence[Path]) -> str:
    """Return what the processes of a job said last, its exception if one raised one.

    Args:
        logs: What each of them wrote.
    """
    said = [line for line in map(_last_line, logs) if line]
    # That the others are gone says less than why one of them is.
    said.sort(key=lambda line: line.startswith(_LOST))
    return [*said, "it wrote nothing"][0][:200]


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    # What srun and submitit add is only that a process began or ended, and how far it was says
    # nothing of why.
    said = [line for line in lines if not line.startswith(_FRAME)]
    return said[-1] if said else ""
