"""Entry point of the `lmo-transfer` command.

The project's four packages have generic names (transfer, sweeps, analysis, launch) which
other distributions, or a folder on PYTHONPATH, may use too. This module has a name of its
own, so it can tell before importing any of them.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

_PACKAGES = ("transfer", "sweeps", "analysis", "launch")


def foreign_package(root: Path) -> str | None:
    """Return a line that names the first package not found in `root`, or None."""
    for name in _PACKAGES:
        spec = find_spec(name)
        if spec is None:
            return f"package {name!r} is missing: reinstall lmo-transfer"
        origin = spec.origin or str(next(iter(spec.submodule_search_locations or []), "?"))
        ours = root / name / "__init__.py"
        if Path(origin).resolve() != ours:
            return (
                f"package {name!r} comes from {origin}, not from lmo-transfer in {root}: "
                "remove it from PYTHONPATH or uninstall it"
            )
        # Another distribution may have been installed over ours, into the same folder.
        if not ours.read_text(encoding="utf-8").startswith('"""lmo-transfer'):
            return f"{ours} was overwritten by another distribution: uninstall that, reinstall ours"
    return None


def main() -> int:
    """Check where the packages come from, then hand over to the command line."""
    complaint = foreign_package(Path(__file__).resolve().parent)
    if complaint is not None:
        print(f"lmo-transfer: {complaint}", file=sys.stderr)
        return 2
    try:
        from launch.cli import main as run

        return run()
    except KeyboardInterrupt:  # while importing
        return 130


if __name__ == "__main__":
    sys.exit(main())
