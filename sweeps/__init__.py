"""lmo-transfer: experiments, run table, tuning, width grids and the local runner.

Names are imported when first used, so that reading an experiment imports neither torch nor
pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.experiment import Experiment
    from sweeps.frame import to_frame
    from sweeps.loop import run
    from sweeps.reading import list_presets, load_experiment
    from sweeps.runner import BackgroundRunner, LocalRunner, Runner
    from sweeps.study import Study
    from sweeps.table import RunTable

_HOME = {
    "BackgroundRunner": "runner",
    "Experiment": "experiment",
    "list_presets": "reading",
    "load_experiment": "reading",
    "to_frame": "frame",
    "run": "loop",
    "LocalRunner": "runner",
    "Runner": "runner",
    "Study": "study",
    "RunTable": "table",
}
__all__ = [
    "BackgroundRunner",
    "Experiment",
    "LocalRunner",
    "RunTable",
    "Runner",
    "Study",
    "list_presets",
    "load_experiment",
    "run",
    "to_frame",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sweeps' has no attribute {name!r}")
    return getattr(import_module(f"sweeps.{_HOME[name]}"), name)
