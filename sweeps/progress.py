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


class Together(Reporter):
    """Makes one stage of those that several arms begin; silent about it until `begin`.

    What is under way of one arm ends while another begins, so a later `begin` tells of all again.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._titles: list[str] = []
        self._total = self._done = 0
        self._told = True

    def begin(self) -> None:
        """Tell of the arms, if there are some that were not told of."""
        if not self._told:
            self._told = True
            arms = [title.removeprefix("tune ").partition(":")[0] for title in self._titles]
            title = f"tune {', '.join(arms)}" if len(arms) > 1 else self._titles[0]
            self._reporter.stage(title, self._total, self._done)

    def stage(self, title: str, total: int, known: int) -> None:
        self._titles.append(title)
        self._total, self._done = self._total + total, self._done + known
        self._told = False

    def advance(self, runs: int) -> None:
        self._done += runs
        if self._told:
            self._reporter.advance(runs)

    def running(self, config: RunConfig, step: int) -> None:
        self._reporter.running(config, step)

    def note(self, text: str) -> None:
        self._reporter.note(text)
