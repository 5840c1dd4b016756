"""The console and its progress display."""

import shutil
import sys
import time
from typing import TYPE_CHECKING

from rich.console import Console

from sweeps.progress import Reporter
from sweeps.sizes import Axis
from transfer.config import RunConfig

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_SECONDS_BETWEEN_LINES = 10.0


_LEAST_WIDTH = 100
"""Tables need this much; a narrower terminal folds lines, which loses nothing."""


def make_console() -> Console:
    """Return a console wide enough for tables; only terminals fold lines."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 120
    return Console(width=max(columns, _LEAST_WIDTH), highlight=False, soft_wrap=True)


class ConsoleReporter(Reporter):
    """Shows a live bar on a terminal, plain log lines elsewhere. Use as a context manager.

    Args:
        console: Where to.
        axis: What tells one run from another, besides its seed.
    """

    def __init__(self, console: Console, axis: Axis = "width") -> None:
        self.console, self._axis = console, axis
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._title, self._total, self._done = "", 0, 0
        self._started = self._printed = time.monotonic()

    def __enter__(self) -> "ConsoleReporter":
        if self.console.is_terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                SpinnerColumn,
                TextColumn,
                TimeElapsedColumn,
            )

            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def stage(self, title: str, total: int, known: int) -> None:
        """Begin a bar, or print a line."""
        self._title, self._total, self._done = title, total, known
        if self._progress is not None:
            self._task = self._progress.add_task(title, total=total, completed=known)
        else:
            self._line(f"{known} of {total} runs in the table" if known else f"{total} runs")

    def advance(self, runs: int) -> None:
        """Move the bar, or print a line now and then."""
        self._done += runs
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, advance=runs, description=self._title)
        elif self._done >= self._total or (
            time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES
        ):
            self._line(f"{self._done} of {self._total} runs")

    def running(self, config: RunConfig, step: int) -> None:
        """Show how far a long run is, beside the bar or in a line now and then."""
        size = f"{self._axis.replace('_', ' ')} {getattr(config, self._axis)}"
        text = f"{size}, seed {config.seed}: step {step} of {config.steps}"
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=f"{self._title} ({text})")
        elif time.monotonic() - self._printed >= _SECONDS_BETWEEN_LINES:
            self._line(text)

    def note(self, text: str) -> None:
        """Print a line above the bar."""
        self.console.print(f"note: {text}", markup=False)

    def _line(self, text: str) -> None:
        self._printed = time.monotonic()
        elapsed = self._printed - self._started
        self.console.print(f"[{elapsed:6.1f} s] {self._title}: {text}", markup=False)
