"""The figures of a study: analysis draws, this hands it the right rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from launch.pipeline import Finished, largest_stepsize

if TYPE_CHECKING:
    from analysis import Verdict


def draw(done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]]) -> list[Path]:
    """Draw every figure of the study as PNG and SVG and return the files."""
    from analysis import panels_of, plot_curves, plot_radii, plot_scaling, save

    panels = []
    for arm, claims in verdicts.items():
        runs, limit = done.runs(arm, "sweep"), largest_stepsize(done.tuned[arm].optimizer)
        panels += panels_of(runs, {arm: claims["stepsize"]}, group="arm", x_limit=limit)
    folder = done.results / "figures"
    files = save(plot_curves(panels), folder / "loss_against_stepsize")
    files += save(plot_scaling(panels), folder / "scaling")
    for arm, claims in verdicts.items():
        radii = claims.get("radii")
        if radii is not None and radii.comparisons:
            files += save(plot_radii(radii), folder / f"radii_{arm}")
    return files
