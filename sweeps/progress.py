"""What a long piece of work tells whoever watches; silent unless replaced."""

from transfer.config import RunConfig


class Reporter:
    """Receives progress; this base class ignores it."""

    def stage(self, title: str, total: int, known: int) -> None:
        """A stage of `total` runs begins, of which `known` are in the table already."""

    def advance(self, runs: int) -> None:
        """So many more runs of the stage have ended."""

    def running(self, config: RunConfig, step: int) -> None:
        """A run has done so many of its steps; told every few seconds, for long runs only."""

    def note(self, text: str) -> None:
        """Something worth a line happened."""
