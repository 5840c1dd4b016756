"""Errors that callers tell apart."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transfer.config import RunConfig


class FailedTrialError(RuntimeError):
    """A run of the tuning failed, or all diverged; its arm has no tuned setting."""

    asked: "tuple[RunConfig, ...]" = ()
    """Runs that the tuning has asked for."""


class NotTunedError(LookupError):
    """Runs of the tuning are missing and nothing may be trained."""

    def __init__(self, text: str, asked: "tuple[RunConfig, ...]") -> None:
        super().__init__(text)
        self.asked = asked


class StorageError(OSError):
    """A worker could not write to the study's folder."""


class DatabaseError(OSError):
    """The database that keeps Optuna's trials cannot be reached, or refuses; nothing is lost."""
