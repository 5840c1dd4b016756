"""What the numbers of a benchmark depend on beside the code, and where they are kept."""

import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def facts(device: str = "cpu") -> dict[str, Any]:
    """Return date, command, device and versions."""
    # Not above: who times a command from its start imports this first, and torch takes seconds.
    import torch

    cuda = device == "cuda"
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if cuda else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if cuda:
        import triton

        found["triton"] = triton.__version__
    return found


def keep(name: str, found: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return path
