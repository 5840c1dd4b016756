"""The list of studies; reads files only, so that it answers at once."""

import json
from pathlib import Path
from typing import Any

from sweeps.table import RunTable


def print_studies(root: Path) -> None:
    """Print the studies right below a folder: name, runs in the table, verdict of each arm."""
    studies = sorted(path.parent for path in root.glob("*/experiment.json"))
    if not studies:
        print(f"no studies in {root}: lmo-transfer run makes one")
        return
    width = max(len(str(folder)) for folder in studies)
    for folder in studies:
        table = RunTable(folder)
        print(f"{folder!s:<{width}}  {len(table.read()):>6} runs  {_verdicts(folder)}")
        for problem in table.problems:
            print(f"  note: {problem}")


def _verdicts(folder: Path) -> str:
    try:
        text = (folder / "results" / "verdict.json").read_text(encoding="utf-8")
        arms: dict[str, Any] = json.loads(text)["arms"]
        return ", ".join(f"{arm} {claims['stepsize']['status']}" for arm, claims in arms.items())
    except FileNotFoundError:
        return "not judged yet"
    except (ValueError, KeyError, TypeError):
        return "results/verdict.json is damaged: judge again"
