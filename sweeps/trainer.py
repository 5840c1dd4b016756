"""What brings the runs of a study's tuning into its table, here or in the background."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from sweeps.progress import Reporter, Together
from sweeps.runner import BackgroundRunner, Runner
from sweeps.table import StoredRun
from transfer.config import RunConfig

if TYPE_CHECKING:
    from sweeps.study import Study


class StudyTrainer:
    """Trains the runs of the tuning into a study's table; see `sweeps.trials.Trainer`."""

    def __init__(
        self, study: "Study", runner: Runner | None, reporter: Reporter, retry_failed: bool
    ) -> None:
        self._study, self._runner = study, runner
        self._reporter, self._retry_failed = reporter, retry_failed
        self._held: list[RunConfig] = []
        self._begun: set[str] = set()

    @property
    def background(self) -> bool:
        """Whether runs can be submitted and waited for."""
        return isinstance(self._runner, BackgroundRunner)

    def train(self, configs: Sequence[RunConfig]) -> dict[str, StoredRun]:
        """Return the table once it has these runs."""
        if configs:
            self._flush()
        return self._study.ensure(configs, self._runner, self._reporter, self._retry_failed)

    def submit(self, configs: Sequence[RunConfig]) -> None:
        """Begin runs that the table lacks, at the next `wait`: those of several arms at once."""
        self._held += [c for c in configs if c.run_id not in self._begun]
        self._begun |= {config.run_id for config in configs}

    def wait(self, run_ids: Collection[str]) -> dict[str, StoredRun]:
        """Return the table once it has one more of these submitted runs."""
        assert isinstance(self._runner, BackgroundRunner)
        self._flush()
        self._runner.wait(self._study.table, run_ids, self._reporter)
        return self._study.table.read()

    def _flush(self) -> None:
        if isinstance(self._reporter, Together):
            self._reporter.begin()
        if self._held:
            assert isinstance(self._runner, BackgroundRunner)
            self._study.prepare(self._reporter)
            held, self._held = self._held, []
            self._runner.submit(self._study.table, held, self._reporter)
