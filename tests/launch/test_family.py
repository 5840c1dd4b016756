"""A family of the user's own: the example of the documentation, and what can be wrong with one."""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w

import transfer.custom
from launch.cli import main
from sweeps.study import Study
from tests.launch.conftest import without_workers
from transfer import Recipe

DOCS = Path(__file__).parents[2] / "docs" / "own-family.md"
SMALL = ["--train.depth", "1", "--train.steps", "5", "--sweep.widths", "8", "16"]
SMALL += ["--workers", "1", "--sweep.seeds", "1", "--tune.seeds", "101", "--tune.trials", "8"]


def code(language: str) -> list[str]:
    """Return the documentation's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the documentation's mynet.py in it."""
    (tmp_path / "mynet.py").write_text(code("python")[0], "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield tmp_path
    sys.modules.pop("mynet", None)
    transfer.custom._known_roles.clear()


def test_the_documentation_shows_what_roles_prints(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(code("python")[0].splitlines()) <= 30
    assert main(["roles", "--family", "mynet:build", "--train.depth", "1"]) == 0
    assert capsys.readouterr().out.strip() in code("console")[0]


def test_the_documentation_in_python(folder: Path) -> None:
    namespace: dict[str, object] = {}
    exec(code("python")[0] + code("python")[1], namespace)
    assert "blocks.3.down.weight" in str(namespace["table"])


@pytest.mark.slow
def test_the_whole_loop(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "--family", "mynet:build", *SMALL, "--model.options", "expansion", "1"]
    assert main(arguments) == 0
    study = Study.open(folder / "studies" / "digits-mlp-mynet")
    rows = study.table.read()
    assert {row.status for row in rows.values()} <= {"done", "diverged"}
    assert {row.config["model"]["options"]["expansion"] for row in rows.values()} == {1}
    recipe = Recipe.load(study.folder / "results" / "recipe.json")
    assert set(recipe.optimizer.roles) == {"input", "hidden", "output", "bias", "gain"}
    # The recipe trains the same family, from the folder of its file.
    path = str(study.folder / "results" / "recipe.json")
    assert main(["train", "--recipe", path, "--width", "32", "--workers", "1"]) == 0
    assert "width 32 seed 1: validation loss" in capsys.readouterr().out


def test_a_changed_file_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tune", "--family", "mynet:build", *SMALL]
    with without_workers():
        assert main(arguments) == 0
    source = folder / "mynet.py"
    source.write_text(source.read_text("utf-8") + "\n# changed\n", "utf-8")
    capsys.readouterr()
    # A width that the tuning did not have, so that something is left to train.
    assert main(["sweep", str(folder / "studies" / "digits-mlp-mynet")]) == 2
    assert "family 'mynet:build' has changed since this was planned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--family", "mynet"], "(a module's name, no file's), got 'mynet'"),
        (["--family", "mynet.py:build"], "build must be package.module:function (a module's name"),
        (["--family", ""], "build must be package.module:function"),
        (["--family", "nothere:build"], "cannot import nothere: ModuleNotFoundError"),
        (["--family", "mynet:buld"], "family 'mynet:buld': mynet has no function buld"),
        (
            ["--family", "mynet:build", "--model.options", "expand", "2"],
            "TypeError: build() got an unexpected keyword argument 'expand'",
        ),
        (
            ["--family", "mynet:Block"],
            "family 'mynet:Block' at width 32, depth 3 must return an nn.Module with a method "
            "loss(x, y), got Block",
        ),
    ],
)
def test_bad_families(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    for command in ("roles", "run"):
        assert main([command, *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1, error
    assert not (folder / "studies").exists()


def test_smoothing_is_the_familys_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--family", "mynet:build"]) == 0
    text = capsys.readouterr().out
    assert "label_smoothing = 0.0" in text
    smoothed = text.replace("label_smoothing = 0.0", "label_smoothing = 0.1")
    (folder / "mine.toml").write_text(smoothed, "utf-8")
    assert main(["run", "mine.toml"]) == 2
    assert "train.label_smoothing must be 0 for a family of your own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bulid = 1", "model.bulid: field must be one of build, "),
        ("option = {}", "model.option: field must be one of .*did you mean 'options'"),
        (
            'overrides = { "*.up.weight" = { rol = "hidden" } }',
            "field must be one of .*did you mean 'role'",
        ),
        (
            'overrides = { "*.up.weight" = { role = "hiden" } }',
            "must be one of .*'hiden'.*did you mean 'hidden'",
        ),
        ('overrides = { "*.upp.*" = { role = "hidden" } }', r"'\*.upp.\*' matches no parameter"),
    ],
)
def test_mistakes_in_the_models_table(
    folder: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert main(["show", "--family", "mynet:build"]) == 0
    text = capsys.readouterr().out.replace("[model.options]\n\n[model.overrides]\n", "")
    written = text.replace('build = "mynet:build"\n', f'build = "mynet:build"\n{line}\n')
    (folder / "mine.toml").write_text(written, "utf-8")
    assert main(["roles", "mine.toml"]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error


@pytest.mark.slow
def test_a_frozen_role_needs_no_rule(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "mynet.py").read_text("utf-8")
    frozen = text + "\n\ndef frozen(width, depth):\n    net = build(width, depth)\n"
    frozen += "    net.head.requires_grad_(False)\n    return net\n"
    (folder / "icenet.py").write_text(frozen, "utf-8")
    assert main(["roles", "--family", "icenet:frozen"]) == 0
    assert "frozen" in capsys.readouterr().out
    assert main(["show", "--family", "icenet:frozen"]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    for table in ("search", "star"):
        del shown["arms"]["scion"][table]["output"]
    del shown["arms"]["scion"]["optimizer"]["roles"]["output"]
    (folder / "ice.toml").write_text(tomli_w.dumps(shown), "utf-8")
    assert main(["roles", "ice.toml"]) == 0
    with without_workers():
        assert main(["run", "ice.toml", *SMALL]) == 0
    sys.modules.pop("icenet", None)


def test_a_family_without_the_roles_of_an_arm(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (folder / "mynet.py").read_text("utf-8")
    flat = text.replace("self.blocks(self.pixels(x))", "self.pixels(x)")
    flat = re.sub(r"        self.blocks = .*\n", "", flat)
    (folder / "flatnet.py").write_text(flat, "utf-8")
    assert main(["run", "--family", "flatnet:build"]) == 2
    assert "arms.scion: a role in search and star must be one of" in capsys.readouterr().err
    sys.modules.pop("flatnet", None)


def test_overrides_in_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--family", "mynet:build", "--train.depth", "1"]) == 0
    text = capsys.readouterr().out
    override = '[model.overrides]\n"*.up.weight" = { split = 2, radius = 3.0 }\n'
    (folder / "mine.toml").write_text(text.replace("[model.overrides]\n", override), "utf-8")
    assert main(["roles", "mine.toml"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "up.weight" in line]
    assert row.split()[2:] == "hidden spectral 3 32 32 matrix in 2 blocks".split()
