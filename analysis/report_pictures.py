"""The figures of a report, each with what it shows in words."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from analysis.page import Picture
from analysis.panels import Panel
from analysis.plots import plot_curves
from analysis.radii import plot_radii
from analysis.regret_plot import plot_regret
from analysis.result import Verdict
from analysis.scaling_plot import plot_scaling
from analysis.surface_plot import plot_surface
from analysis.words import drift_text

_MOST_GROUPS = 12
"""Groups that are drawn."""


def pictures_of(
    judged: Mapping[str, Mapping[str, Verdict]], panels: Sequence[Panel]
) -> list[Picture]:
    """Draw what the landscapes and the verdicts show, one figure for groups that are alike."""
    return [p for alike in _alike(panels) for p in _pictures(judged, alike)]


def _alike(panels: Sequence[Panel]) -> list[list[Panel]]:
    """Part the groups into those that one figure can show."""
    found: dict[object, list[Panel]] = {}
    for p in panels:
        names = tuple((a.name, a.linear) for a in p.axes)
        found.setdefault((names, p.size_name, p.metric, p.negated), []).append(p)
    return list(found.values())


def _pictures(
    judged: Mapping[str, Mapping[str, Verdict]], groups: Sequence[Panel]
) -> list[Picture]:
    panels = groups[:_MOST_GROUPS]
    names, size = " and ".join(a.name for a in panels[0].axes), panels[0].size_name
    metric, said = panels[0].metric, _said(panels)
    few = f"{len(panels)} of {len(groups)} groups. " if len(panels) < len(groups) else ""
    shown = _landscapes(panels, names, size, metric, few + said)
    drifts = [
        f"{p.title + ': ' if p.title else ''}{drift_text(drift, axis)}."
        for p in panels
        for k, axis in enumerate(p.axes)
        if (drift := p.drift(k)) is not None
    ]
    shown.append(
        Picture.of(
            partial(plot_scaling, panels),
            title=f"Best {metric} and optimum against {size}",
            text="Filled: the best setting; hollow and dashed: the transferred one. Right: the "
            "optima with their 95 % intervals and the fitted drift.",
            alt=f"Left, best {metric} against {size}; right, the optimum against {size}. "
            f"{' '.join(drifts)} The numbers are in the tables by size.",
        )
    )
    if any(p.verdict for p in panels):
        shown.append(
            Picture.of(
                partial(plot_regret, panels),
                title=f"Regret against {size}",
                text=f"How much {metric} the transferred setting gives away, in units of ε; the "
                "bars are the bounds on which the verdict rests, a cross at the top is a run that "
                "diverged.",
                alt=f"Regret of the transferred setting against {size}, in units of ε. {said} The "
                "numbers are in the tables by size.",
            )
        )
    for panel in panels:
        radii = judged[panel.title].get("radii")
        if radii is not None and radii.comparisons:
            shown.append(
                Picture.of(
                    partial(plot_radii, radii),
                    title=f"Other radii{': ' + panel.title if panel.title else ''}",
                    text=f"{metric} with other radii less that with the transferred ones; below "
                    "the band another radius is better by more than ε.",
                    alt=f"Change of {metric} with other radii at every {size}. {radii.reason}",
                )
            )
    return shown


def _landscapes(
    panels: Sequence[Panel], names: str, size: str, metric: str, said: str
) -> list[Picture]:
    """Curves of one hyperparameter, or heat maps of two."""
    if len(panels[0].axes) == 1:
        return [
            Picture.of(
                partial(plot_curves, panels),
                title=f"{metric} against {names}",
                text=f"One curve for each {size}; bands span the seeds, diamonds are the optima "
                "with their 95 % intervals, crosses at the top are runs that diverged, the dashed "
                f"line is the transferred value. {said}",
                alt=f"{metric} against {names}, one curve for each {size}. {_bests(panels)}",
            )
        ]
    return [
        Picture.of(
            partial(plot_surface, panel),
            title=f"{metric} over {names}{': ' + panel.title if panel.title else ''}",
            text=f"One heat map for each {size}; framed cells are within ε of the best, the ring "
            f"is the transferred setting, the ellipse the optimum's 95 % region. {said}",
            alt=f"Heat maps of {metric} over {names}, one for each {size}. {_bests([panel])}",
        )
        for panel in panels
    ]


def _bests(panels: Sequence[Panel]) -> str:
    """Where the lowest points are, in words."""
    told = []
    for p in panels:
        shapes = sorted(p.landscapes, key=lambda c: c.size)
        ends = [shapes[i] for i in np.unique([0, len(shapes) - 1])]
        where = [
            f"{', '.join(a.text(v) for a, v in zip(c.axes, c.best, strict=True))} at {p.size_name} "
            f"{c.size:.12g}"
            for c in ends
            if c.best is not None
        ]
        told.append(f"{p.title + ': ' if p.title else ''}best at {' and '.join(where)}.")
    return " ".join(told)


def _said(panels: Sequence[Panel]) -> str:
    """The verdicts in a sentence."""
    told = [f"{p.title}: {p.verdict.status}".removeprefix(": ") for p in panels if p.verdict]
    return f"Verdict: {'; '.join(told)}." if told else ""
