"""lmo-transfer analysis: tables in, curves, verdicts and plots out.

Works on anybody's tidy table and imports none of the other packages. The
names below load on first use, so that `import analysis` costs neither pandas
nor matplotlib.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.axes import Axis, axes_of
    from analysis.claims import radii_verdict, verdict
    from analysis.coordinate_plot import plot_coordinates
    from analysis.coordinates import CoordinateCheck, LayerCheck, Slope, check_coordinates
    from analysis.drift import Drift, fit_drift
    from analysis.groups import verdicts
    from analysis.history_plot import plot_training, plot_tuning
    from analysis.landscapes import Landscape, build_landscapes
    from analysis.load import read_table, tidy
    from analysis.medium import PAGE, PAPER, SCREEN, Medium, drawn_for
    from analysis.norms_plot import plot_norms
    from analysis.optimum import Optimum, Region, Tilt
    from analysis.page import render
    from analysis.panels import Panel, panels_of
    from analysis.partial import settles
    from analysis.plots import plot_curves
    from analysis.radii import plot_radii
    from analysis.regret_plot import plot_regret
    from analysis.report import page_of
    from analysis.result import VERDICT_SCHEMA, Comparison, NextRun, SizeRow, Verdict
    from analysis.rule import Judgement, Noise, judge
    from analysis.scaling_plot import plot_scaling
    from analysis.style import save
    from analysis.surface_plot import plot_surface

_HOME = {
    "Axis": "axes",
    "Comparison": "result",
    "CoordinateCheck": "coordinates",
    "Drift": "drift",
    "Judgement": "rule",
    "Landscape": "landscapes",
    "LayerCheck": "coordinates",
    "Medium": "medium",
    "NextRun": "result",
    "Noise": "rule",
    "Optimum": "optimum",
    "PAGE": "medium",
    "PAPER": "medium",
    "Panel": "panels",
    "Region": "optimum",
    "SCREEN": "medium",
    "SizeRow": "result",
    "Slope": "coordinates",
    "Tilt": "optimum",
    "VERDICT_SCHEMA": "result",
    "Verdict": "result",
    "axes_of": "axes",
    "build_landscapes": "landscapes",
    "check_coordinates": "coordinates",
    "drawn_for": "medium",
    "fit_drift": "drift",
    "judge": "rule",
    "page_of": "report",
    "panels_of": "panels",
    "plot_coordinates": "coordinate_plot",
    "plot_curves": "plots",
    "plot_norms": "norms_plot",
    "plot_radii": "radii",
    "plot_regret": "regret_plot",
    "plot_scaling": "scaling_plot",
    "plot_surface": "surface_plot",
    "plot_training": "history_plot",
    "plot_tuning": "history_plot",
    "radii_verdict": "claims",
    "read_table": "load",
    "render": "page",
    "save": "style",
    "settles": "partial",
    "tidy": "load",
    "verdict": "claims",
    "verdicts": "groups",
}
_MODULES = frozenset(_HOME.values())

__all__ = [
    "Axis",
    "Comparison",
    "CoordinateCheck",
    "Drift",
    "Judgement",
    "Landscape",
    "LayerCheck",
    "Medium",
    "NextRun",
    "Noise",
    "Optimum",
    "PAGE",
    "PAPER",
    "Panel",
    "Region",
    "SCREEN",
    "SizeRow",
    "Slope",
    "Tilt",
    "VERDICT_SCHEMA",
    "Verdict",
    "axes_of",
    "build_landscapes",
    "check_coordinates",
    "drawn_for",
    "fit_drift",
    "judge",
    "page_of",
    "panels_of",
    "plot_coordinates",
    "plot_curves",
    "plot_norms",
    "plot_radii",
    "plot_regret",
    "plot_scaling",
    "plot_surface",
    "plot_training",
    "plot_tuning",
    "radii_verdict",
    "read_table",
    "render",
    "save",
    "settles",
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
