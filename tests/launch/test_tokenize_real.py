"""The command with the real tiktoken and Hugging Face's datasets, where they are installed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
TEXT = "The king's two crowns.\n\n\tAnd 34 more,\r\nof   gold \n" * 40

# An encoding of tiktoken's own kind, found as a plugin is: bytes, some pairs, GPT-2's pattern.
PLUGIN = r"""
def tiny():
    ranks = {bytes([k]): k for k in range(256)}
    for pair in (b"th", b" t", b"in", b" g", b"ol", b"\n\n", b"an", b"  ", b" gol", b"\r\n"):
        ranks[pair] = len(ranks)
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    special = {"<|endoftext|>": len(ranks)}
    return dict(name="tiny", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)

ENCODING_CONSTRUCTORS = {"tiny": tiny}
"""
EOT = 266


def require(*packages: str) -> None:
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'lmo-transfer[tokens]'")


def tokenize(room: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own, without a network."""
    (room / "tiktoken_ext").mkdir(exist_ok=True)
    (room / "tiktoken_ext" / "tiny.py").write_text(PLUGIN)
    path = os.pathsep.join([str(room), str(ROOT), os.environ.get("PYTHONPATH", "")])
    sizes = ["--val-tokens", "100", "--shard-tokens", "700"]
    return subprocess.run(
        [sys.executable, "-m", "lmo_transfer", "tokenize", "--output", "out", *sizes, *arguments],
        cwd=room,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "HF_HOME": str(room / "cache"),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


def written(room: Path) -> list[int]:
    """Return all tokens, in order."""
    files = [*(room / "out").glob("*val*"), *sorted((room / "out").glob("*train*"))]
    return [int(token) for file in files for token in np.fromfile(file, "<u2", offset=1024)]


def encoded(room: Path, text: str) -> list[int]:
    """Encode as the package does, the whole text at once."""
    code = "import json, sys, tiktoken; e = tiktoken.get_encoding('tiny'); "
    code += "print(json.dumps([e.eot_token, *e.encode_ordinary(json.load(sys.stdin))]))"
    path = os.pathsep.join([str(room), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(text),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    ids: list[int] = json.loads(done.stdout)
    return ids


def test_tokens_are_those_of_tiktoken(tmp_path: Path) -> None:
    require("tiktoken")
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8", newline="")
    done = tokenize(tmp_path, "--text", "text.txt", "--encoding", "tiny")
    assert done.returncode == 0, done.stderr
    tokens = written(tmp_path)
    assert tokens == encoded(tmp_path, TEXT)
    assert tokens[0] == EOT and len(set(tokens)) > 20 and max(tokens[1:]) >= 256, "pairs merge"


def test_errors_of_tiktoken_are_one_line(tmp_path: Path) -> None:
    require("tiktoken")
    (tmp_path / "text.txt").write_text(TEXT)
    done = tokenize(tmp_path, "--text", "text.txt", "--encoding", "tinny")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "did you mean 'tiny'" in done.stderr


@pytest.mark.parametrize("kind", ["json", "csv", "parquet"])
def test_a_folder_of_a_data_set(tmp_path: Path, kind: str) -> None:
    require("tiktoken", "datasets")
    folder = tmp_path / "mine"
    folder.mkdir()
    rows = [line for line in TEXT.split("\n\n") if line] + ["the end"]
    import pandas as pd

    frame = pd.DataFrame({"id": range(len(rows)), "text": rows})
    if kind == "json":
        frame.to_json(folder / "train.jsonl", orient="records", lines=True)
    elif kind == "csv":
        frame.to_csv(folder / "train.csv", index=False)
    else:
        frame.to_parquet(folder / "train.parquet")
    done = tokenize(tmp_path, "--dataset", "./mine", "--encoding", "tiny")
    assert done.returncode == 0, done.stderr
    ends = [k for k, token in enumerate(written(tmp_path)) if token == EOT]
    assert len(ends) == len(rows), "every row is a document"
    assert written(tmp_path)[ends[-1] :] == encoded(tmp_path, "the end")


@pytest.mark.parametrize(
    ("files", "arguments", "words"),
    [
        ({"test.jsonl": '{"text": "a"}\n'}, (), "split"),
        ({"train.jsonl": '{"text": "a"}\n'}, ("--dataset-config", "nope"), "nope"),
        ({"train.jsonl": '{"text": ["a"]}\n'}, (), "--column must be a column of text"),
        ({"train.parquet": "noise"}, (), "--dataset ./mine: "),
        ({}, (), "--dataset ./mine: "),
    ],
    ids=["no split", "configuration", "column", "damaged", "empty"],
)
def test_errors_of_datasets_are_one_line(
    tmp_path: Path, files: dict[str, str], arguments: tuple[str, ...], words: str
) -> None:
    require("tiktoken", "datasets")
    (tmp_path / "mine").mkdir()
    for name, text in files.items():
        (tmp_path / "mine" / name).write_text(text)
    done = tokenize(tmp_path, "--dataset", "./mine", "--encoding", "tiny", *arguments)
    assert done.returncode == 2, done.stderr
    # The package logs lines of its own before; the last one is ours.
    assert done.stderr.splitlines()[-1].startswith("lmo-transfer: ") and words in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()
