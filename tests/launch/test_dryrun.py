"""What would be submitted, on a machine without SLURM: nothing is written."""

from pathlib import Path
from typing import Any

import pytest

from launch.cluster import mismatches
from launch.dryrun import _contents
from sweeps.cluster import ClusterConfig
from tests.launch.conftest import SMALL, Command, one_line
from tests.sweeps.test_packing import runs

PROFILE = """
partition = "a100"
gres = "gpu:a100:2"
parallelism = 2
runs_per_job = 6
setup = ["module load cuda/13"]
extra = { nice = "10" }
"""


def test_jobs_times_and_the_script(tmp_path: Path, command: Command) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "p.toml").write_text(PROFILE)
    done = command(
        "run", "small.toml", "--dry-run", "--cluster", "p.toml", cwd=tmp_path, PATH=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "small: nothing is submitted" in done.stdout
    # Grid of 4 and 3 stepsizes x 2 widths x 2 seeds, star 1 x 2 x 2, check 2 x 2, at most 6 a job.
    assert "sweep, radii and check: 36 runs in 7 jobs" in done.stdout
    assert "tune scion, adamw: 5 runs in 1 job\n" in done.stdout
    assert "0 of 41 runs from the run table" in done.stdout
    script = done.stdout.partition("#!/bin/bash")[2]
    for line in (
        "#SBATCH --array=0-6%2", "#SBATCH --gres=gpu:a100:2", "#SBATCH --nice=10",
        "#SBATCH --partition=a100", "#SBATCH --time=60", "module load cuda/13",
        "export PYTHONSAFEPATH=1",
    ):  # fmt: skip
        assert line in script.splitlines(), line
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.toml", "small.toml"]


def test_what_is_known_is_not_submitted_again(study: Path, command: Command) -> None:
    before = sorted(study.rglob("*"))
    done = command("run", str(study), "--dry-run", cwd=study.parent)
    assert done.returncode == 0, done.stderr
    assert "sweep, radii and check: nothing is missing" in done.stdout
    assert "#!/bin/bash" not in done.stdout
    more = command("run", str(study), "--dry-run", "--sweep.seeds", "1", "2", "3",
                   cwd=study.parent)  # fmt: skip
    assert "18 runs in 1 job" in more.stdout, more.stdout
    assert "18 of 18 runs from the run table" in more.stdout
    assert sorted(study.rglob("*")) == before


def test_an_experiment_has_a_cluster_of_its_own(tmp_path: Path, command: Command) -> None:
    (tmp_path / "small.toml").write_text(SMALL + '[cluster]\npartition = "long"\ntime_min = 2\n')
    done = command("sweep", "small.toml", "--dry-run", cwd=tmp_path)
    assert "#SBATCH --partition=long" in done.stdout and "#SBATCH --time=2" in done.stdout
    assert "cluster.cpus" not in done.stdout
    with (tmp_path / "small.toml").open("a") as file:
        file.write("cpus = 8\n")
    done = command("sweep", "small.toml", "--dry-run", cwd=tmp_path)
    assert "cluster.cpus is 8, and training on CPUs uses one core of a process" in done.stdout
    (tmp_path / "bad.toml").write_text(SMALL + "[cluster]\ncpus = 0\n")
    bad = command("sweep", "bad.toml", "--dry-run", cwd=tmp_path)
    assert "cluster.cpus must be at least 1, got 0" in one_line(bad)
    here = command("sweep", "small.toml", "--dry-run", "--on", "debug", cwd=tmp_path)
    assert "--dry-run is for --on slurm, got --on debug" in one_line(here)


def test_contents_are_sizes_and_numbers() -> None:
    assert _contents([*runs(8, 3), *runs(4, 2)], "width") == "4 x 2, 8 x 3"


@pytest.mark.parametrize(
    ("gres", "extra", "number"),
    [
        ("gpu:a100:1", {}, 1), ("gpu:4", {}, 4), ("gpu", {}, 1), ("gpu:a100:4(S:0-1)", {}, 4),
        ("tmpdisk:100,gpu:h100:2", {}, 2), ("tmpdisk:100", {}, 0), ("", {}, 0),
        ("", {"gpus": "2"}, 2), ("", {"gpus-per-node": "a100:8"}, 8),
        ("", {"gpus-per-task": "a100:3"}, 3),
    ],
)  # fmt: skip
def test_gpus_of_a_job(gres: str, extra: dict[str, str], number: int) -> None:
    assert ClusterConfig(gres=gres, extra=extra).gpus == number


def test_gpus_of_several_processes() -> None:
    """One each, however they are asked for."""
    assert ClusterConfig(tasks_per_node=2, extra={"gpus-per-task": "a100:1"}).gpus == 2
    with pytest.raises(
        ValueError, match=r"cluster\.extra\.gpus must be one with 2 .* got 'gpu:a100:4'"
    ):
        ClusterConfig(tasks_per_node=2, extra={"gpus": "a100:4"})
    with pytest.raises(ValueError, match=r"cluster\.gres must be one with 2 .* got 'gpu:1'"):
        ClusterConfig(tasks_per_node=2, gres="gpu:1")


@pytest.mark.parametrize(
    ("changes", "device", "words"),
    [
        ({"gres": "gpu:a100:1"}, "cuda", []),
        ({}, "cpu", []),
        ({"cpus": 8}, "cuda", ["compute.device is cuda, and the jobs ask for no GPU"]),
        ({"cpus": 8}, "cpu", ["cluster.cpus is 8"]),
        ({"gres": "gpu:2", "cpus": 8}, "cpu", ["cluster.cpus is 8", "the jobs ask for 2 GPUs"]),
    ],
)
def test_what_is_asked_for_and_not_used(
    changes: dict[str, Any], device: str, words: list[str]
) -> None:
    lines = mismatches(ClusterConfig(**changes), device)
    assert [line.startswith(start) for line, start in zip(lines, words, strict=True)] == [
        True
    ] * len(words), lines


def test_an_adaptive_sweep_is_the_most_that_it_takes(tmp_path: Path, command: Command) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    for option, said in (("--sweep.adaptive", True), ("--sweep.no-adaptive", False)):
        done = command("sweep", "small.toml", "--dry-run", "--on", "slurm", option, cwd=tmp_path)
        assert ("With sweep.adaptive that is the most" in done.stdout) == said, done.stderr
