"""lmo-transfer analysis: tables in, curves, verdicts and plots out.

Works on anybody's tidy table and imports none of the other packages. The
names below load on first use, so that `import analysis` costs neither pandas
nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.claims import radii_verdict, verdict
    from analysis.coordinate_plot import plot_coordinates
    from analysis.coordinates import CoordinateCheck, LayerCheck, Slope, check_coordinates
    from analysis.curves import Curve, Drift, build_curves, fit_drift
    from analysis.groups import verdicts
    from analysis.load import read_table, tidy
    from analysis.panels import panels_of
    from analysis.plots import Panel, plot_curves, plot_scaling
    from analysis.radii import plot_radii
    from analysis.result import VERDICT_SCHEMA, Comparison, NextRun, SizeRow, Verdict
    from analysis.rule import Judgement, Noise, judge
    from analysis.style import save

_MODULES = (
    *("claims", "coordinate_plot", "coordinates", "curves", "groups", "load", "plots", "radii"),
    *("result", "rule", "style"),
)
_HOME = {
    "Comparison": "result",
    "CoordinateCheck": "coordinates",
    "Curve": "curves",
    "Drift": "curves",
    "Judgement": "rule",
    "LayerCheck": "coordinates",
    "NextRun": "result",
    "Noise": "rule",
    "Panel": "plots",
    "SizeRow": "result",
    "Slope": "coordinates",
    "VERDICT_SCHEMA": "result",
    "Verdict": "result",
    "build_curves": "curves",
    "check_coordinates": "coordinates",
    "fit_drift": "curves",
    "judge": "rule",
    "panels_of": "panels",
    "plot_coordinates": "coordinate_plot",
    "plot_curves": "plots",
    "plot_radii": "radii",
    "plot_scaling": "plots",
    "radii_verdict": "claims",
    "read_table": "load",
    "save": "style",
    "tidy": "load",
    "verdict": "claims",
    "verdicts": "groups",
}

__all__ = [
    "VERDICT_SCHEMA",
    "Comparison",
    "CoordinateCheck",
    "Curve",
    "Drift",
    "Judgement",
    "LayerCheck",
    "NextRun",
    "Noise",
    "Panel",
    "SizeRow",
    "Slope",
    "Verdict",
    "build_curves",
    "check_coordinates",
    "fit_drift",
    "judge",
    "panels_of",
    "plot_coordinates",
    "plot_curves",
    "plot_radii",
    "plot_scaling",
    "radii_verdict",
    "read_table",
    "save",
    "tidy",
    "verdict",
    "verdicts",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"analysis.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'analysis' has no attribute {name!r}")
    value: object = getattr(import_module(f"analysis.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
