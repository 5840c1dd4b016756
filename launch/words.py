"""What a job said last."""

from launch.ledger import Submission

_LONGEST = 200


def last_words(submission: Submission, task: int) -> str:
    """Return the last line of a task, its exception if it raised one."""
    log = submission.log(task)
    if log is None:
        return "it wrote nothing"
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    # What srun adds is only that a task ended.
    said = [line for line in lines if not line.startswith(("srun:", "slurmstepd:"))]
    return (said or lines or ["it wrote nothing"])[-1][:_LONGEST]
