"""Profiles of clusters, and what is said where there is none."""

from pathlib import Path

import pytest

from launch.cluster import load_cluster
from sweeps.cluster import ClusterConfig
from tests.launch.conftest import SMALL, Command, one_line


def test_a_profile_by_file_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "lmo-transfer").mkdir()
    text = 'partition = "a100,v100"\ngres = "gpu:a100:1"\nsetup = ["module load cuda/13"]\n'
    (tmp_path / "lmo-transfer" / "big.toml").write_text(text + "extra = { nice = '10' }\n")
    expected = ClusterConfig(
        partition="a100,v100", gres="gpu:a100:1", setup=("module load cuda/13",),
        extra={"nice": "10"},
    )  # fmt: skip
    assert load_cluster("big") == expected
    assert load_cluster(str(tmp_path / "lmo-transfer" / "big.toml")) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("partitoin = 'a'", "partitoin must be one of partition, account"),
        ("cpus = 0", "cluster.cpus must be at least 1, got 0"),
        ("[cluster]\ncpus = 2", "a profile's fields stand by themselves, without .cluster."),
        ("cpus = 'two'", "cluster.cpus must be a whole number, got 'two'"),
        ("setup = 'a'", "cluster.setup must be a list of texts, got 'a'"),
        ("extra = { nice = 10 }", "cluster.extra.nice must be a text, got 10"),
        ("partition = 'a\\n#SBATCH --uid=0'", "cluster.partition must be one word for sbatch"),
        ("partition = 'a; rm -rf x'", "cluster.partition must be one word for sbatch"),
        ('partition = "$(id)"', "cluster.partition must be one word for sbatch"),
        ("extra = { 'mail user' = 'x' }", "cluster.extra.mail user must be an option's name"),
        ("= 1", "Invalid statement"),
    ],
)
def test_bad_profiles_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text.replace("'a\\n#", '"a\\n#').replace("uid=0'", 'uid=0"'))
    with pytest.raises(ValueError, match=message) as error:
        load_cluster(str(path))
    assert "\n" not in str(error.value).replace("\\n", "")


def test_without_a_profile_or_slurm_it_is_said(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.toml").write_text(SMALL)
    gone = command("sweep", "small.toml", "--on", "slurm", "--cluster", "no.toml", cwd=tmp_path)
    assert "--cluster must name a profile, got 'no.toml'" in one_line(gone)
    bare = command("sweep", "small.toml", "--on", "slurm", cwd=tmp_path, PATH=str(tmp_path))
    assert "--on slurm needs SLURM: there is no sbatch on PATH" in one_line(bare)
    local = command("sweep", "small.toml", "--cluster", "x", cwd=tmp_path)
    assert "--cluster is for --on slurm, got x without it" in one_line(local)
    workers = command("sweep", "small.toml", "--on", "slurm", "--workers", "2", cwd=tmp_path)
    assert "--workers is for --on local" in one_line(workers)
