"""Checkpoints: whole or not at all, and only of the run that asks."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from transfer.checkpoint import load_checkpoint, save_checkpoint
from transfer.files import replace_file

STATE: dict[str, Any] = {
    "run_id": "abc",
    "step": 3,
    "losses": torch.arange(4.0),
    "model": {"w": torch.eye(2, dtype=torch.float64)},
}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "run.pt"
    save_checkpoint(path, STATE)
    state = load_checkpoint(path, "abc")
    assert state is not None and state["step"] == 3
    assert torch.equal(state["losses"], STATE["losses"])
    assert torch.equal(state["model"]["w"], STATE["model"]["w"])
    assert state["model"]["w"].dtype == torch.float64
    assert os.listdir(path.parent) == ["run.pt"]


def test_missing_and_other_run(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    assert load_checkpoint(path, "abc") is None
    save_checkpoint(path, STATE)
    assert load_checkpoint(path, "abd") is None
    assert load_checkpoint(path, "abc") is not None


@pytest.mark.parametrize("keep", [0, 1, 10, 0.5, 0.99])
def test_truncated(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert load_checkpoint(path, "abc") is None


@pytest.mark.parametrize("content", [b"\0" * 4096, b"not a checkpoint\n", b"\x80\x04N."])
def test_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    assert load_checkpoint(path, "abc") is None


@pytest.mark.parametrize("content", [None, [1, 2], torch.zeros(3), "abc", {}])
def test_something_else_that_torch_can_load(tmp_path: Path, content: object) -> None:
    path = tmp_path / "run.pt"
    torch.save(content, path)
    assert load_checkpoint(path, "abc") is None


class Hostile:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("unpickled",)


def test_nothing_is_run_when_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"run_id": "abc", "x": Hostile()}, "run.pt")
    assert load_checkpoint(Path("run.pt"), "abc") is None
    assert not Path("unpickled").exists()


def test_failed_write_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)

    def half(state: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {**STATE, "step": 4})
    monkeypatch.undo()
    state = load_checkpoint(path, "abc")
    assert state is not None and state["step"] == 3
    assert os.listdir(tmp_path) == ["run.pt"], "a temporary file was left behind"


def test_killed_before_the_replacement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every moment before the replacement the old file is whole."""
    path = tmp_path / "run.pt"
    save_checkpoint(path, STATE)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, killed)
            with pytest.raises(KeyboardInterrupt):
                save_checkpoint(path, {**STATE, "step": 4})
        state = load_checkpoint(path, "abc")
        assert state is not None and state["step"] == 3


def test_flushed_before_it_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real = {name: getattr(os, name) for name in ("fsync", "replace")}
    for name in real:

        def spy(*args: Any, name: str = name) -> Any:
            calls.append(name)
            return real[name](*args)

        monkeypatch.setattr(os, name, spy)
    target = replace_file(tmp_path / "x.txt", lambda temporary: temporary.write_text("new"))
    assert calls[:2] == ["fsync", "replace"]
    assert target.read_text() == "new"
