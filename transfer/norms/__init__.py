"""Norm balls and their linear minimisation oracles (LMOs).

For a ball of radius rho, lmo(s) = argmin over norm(x) <= rho of <s, x>. It points downhill, so
<s, lmo(s)> = -rho * dual_norm(s), and norm(lmo(s)) = rho for s != 0. (The authors' published
code returns the opposite sign at radius 1.)

Matrices are (*batch, d_out, d_in), vectors (*batch, d); every method treats the leading
dimensions as a batch, keeps the device, and computes half precision in float32 (oracles are
returned in the input's dtype, norms in float32). A norm's name fixes its scaling. The formulas
are the layer norms of Pethick et al. 2025, arXiv:2502.07529; `NORMS` lists them.
"""

from transfer.config import NORM_NAMES, unknown
from transfer.norms.base import Norm
from transfer.norms.signs import MaxNorm, ScaledSign, Sign
from transfer.norms.slices import ColNorm, HiddenColNorm, InputRowNorm, RowNorm
from transfer.norms.spectral import (
    ConvSpectral,
    EmbeddingSpectral,
    PlainSpectral,
    Spectral,
    SpectralMax,
    SpectralNorm,
)
from transfer.norms.vectors import BiasRMS, Euclidean, GainRMS
from transfer.polar import make_polar

__all__ = [
    "NORMS",
    "BiasRMS",
    "ColNorm",
    "ConvSpectral",
    "EmbeddingSpectral",
    "Euclidean",
    "GainRMS",
    "HiddenColNorm",
    "InputRowNorm",
    "MaxNorm",
    "Norm",
    "PlainSpectral",
    "RowNorm",
    "ScaledSign",
    "Sign",
    "Spectral",
    "SpectralMax",
    "make_norm",
]

NORMS: dict[str, type[Norm]] = {
    "spectral": Spectral,
    "plain-spectral": PlainSpectral,
    "spectral-max": SpectralMax,
    "embedding-spectral": EmbeddingSpectral,
    "col-norm": ColNorm,
    "hidden-col-norm": HiddenColNorm,
    "row-norm": RowNorm,
    "input-row-norm": InputRowNorm,
    "sign": Sign,
    "scaled-sign": ScaledSign,
    "conv-spectral": ConvSpectral,
    "bias-rms": BiasRMS,
    "gain-rms": GainRMS,
    "euclidean": Euclidean,
    "max-norm": MaxNorm,
}
assert set(NORMS) == set(NORM_NAMES), "config.NORM_NAMES must list the norms built here"


def make_norm(name: str, polar: str = "svd") -> Norm:
    """Build a norm by name; `polar` is used by the spectral ones.

    Raises:
        ValueError: unknown norm or polar factor, with the nearest valid name.
    """
    if name not in NORMS:
        raise ValueError(unknown("norm", name, NORMS))
    kind, polar_factor = NORMS[name], make_polar(polar)
    return kind(polar_factor) if issubclass(kind, SpectralNorm) else kind()
