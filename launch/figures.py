"""The figures of a study: analysis draws, this hands it the right rows."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from launch.pipeline import Finished

if TYPE_CHECKING:
    from analysis import Verdict


def draw(done: Finished, verdicts: Mapping[str, Mapping[str, "Verdict"]]) -> list[Path]:
    """Draw every figure of the study as PNG and SVG and return the files."""
    from analysis import panels_of, plot_curves, plot_radii, plot_scaling, save

    panels = []
    for arm, claims in verdicts.items():
        panels += panels_of(done.runs(arm, "sweep"), {arm: claims["stepsize"]}, group="arm")
    folder = done.results / "figures"
    files = save(plot_curves(panels), folder / "loss_against_stepsize")
    files += save(plot_scaling(panels), folder / "scaling")
    for arm, claims in verdicts.items():
        radii = claims.get("radii")
        if radii is not None and radii.comparisons:
            files += save(plot_radii(radii), folder / f"radii_{arm}")
    return files
