"""Images decoded by other processes, ahead of time where it is known what comes next."""

import multiprocessing
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_MOST_AT_ONCE = 16
"""Most images of one task: closing waits for the tasks that are under way."""
Pixels = NDArray[np.uint8]


class Images(NamedTuple):
    """What to decode."""

    paths: Sequence[str]
    seeds: Sequence[int] | None
    """One an image, for its random crop and flip; None: the central crop."""


class Decoder:
    """Processes that decode images; they start when first needed, also after `close`.

    They are spawned: a script that trains without the command needs the usual
    `if __name__ == "__main__"`.

    Args:
        workers: Number of processes.
        resolution: Height and width of the results.
        smallest_crop: Least share of the area that a random crop covers.
        flip: Whether to mirror at random.
    """

    def __init__(self, workers: int, resolution: int, smallest_crop: float, flip: bool) -> None:
        self._workers = workers
        self._how = (resolution, smallest_crop, flip)
        self._pool: ProcessPoolExecutor | None = None
        self._ahead: dict[Hashable, list[Future[Pixels]]] = {}

    def prepare(self, name: Hashable, images: Callable[[], Images]) -> None:
        """Begin to decode what `get` will be asked for, unless that was done already.

        Raises:
            RuntimeError: a decoding process died.
        """
        if name not in self._ahead:
            try:
                self._ahead[name] = self._submit(images())
            except BrokenProcessPool:
                raise self._died() from None

    def is_prepared(self, name: Hashable) -> bool:
        """Whether `get` may be asked for it."""
        return name in self._ahead

    def get(self, name: Hashable) -> Pixels:
        """Return what was prepared, (images, resolution, resolution, 3), once it is there.

        Raises:
            ValueError: an image that cannot be read.
            RuntimeError: a decoding process died.
        """
        try:
            return np.concatenate([task.result() for task in self._ahead.pop(name)])
        except BrokenProcessPool:
            raise self._died() from None

    def keep(self, wanted: Callable[[Hashable], bool]) -> None:
        """Drop what was prepared under other names."""
        for name in [name for name in self._ahead if not wanted(name)]:
            for task in self._ahead.pop(name):
                task.cancel()

    def close(self) -> None:
        """End the processes and drop what they prepared."""
        pool, self._pool = self._pool, None
        self._ahead.clear()
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _died(self) -> RuntimeError:
        self.close()
        return RuntimeError(
            "a process that decodes images died, perhaps for want of memory: lower data.workers"
        )

    def _submit(self, images: Images) -> list[Future[Pixels]]:
        from transfer.images import decode, start_worker  # needs Pillow, which may be missing

        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._workers, spawn, initializer=start_worker)
        paths, seeds = images
        size = min(_MOST_AT_ONCE, -(-len(paths) // self._workers))
        parts = [slice(start, start + size) for start in range(0, len(paths), size)]
        return [
            self._pool.submit(decode, paths[part], seeds and seeds[part], *self._how)
            for part in parts
        ]
