"""Errors that callers tell apart."""


class FailedTrialError(RuntimeError):
    """A run of the tuning failed, or all diverged; its arm has no tuned setting."""


class StorageError(OSError):
    """A worker could not write to the study's folder."""


class DatabaseError(OSError):
    """The database that keeps Optuna's trials cannot be reached, or refuses; nothing is lost."""
