"""The layers that the suite tries, and what is expected of them, restated from the formulas."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.conformance.protocol import Spec
from tests.transfer.reference import TABLE, uv

VOCAB, INPUTS, CLASSES = 20, 24, 10


class Bias(nn.Module):
    """A bias alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))


@dataclass(frozen=True)
class Case:
    """A layer of one parameter."""

    layer: Callable[[int], nn.Module]
    """The layer at a width."""
    role: str
    norm: str
    parameter: str = "weight"

    def spec(self, radius: float, prefix: str = "") -> Spec:
        """Return what is asked for the parameter."""
        return Spec(prefix + self.parameter, self.role, self.norm, radius)

    def matrix(self, x: Tensor) -> Tensor:
        """Return a parameter's tensor as the norm sees it, in float64."""
        x = x.detach().double()
        return x.mT if self.role == "embedding" else x.flatten(2) if x.ndim > 3 else x

    def stored(self, matrix: Tensor, shape: torch.Size) -> Tensor:
        """Undo `matrix`."""
        return (matrix.mT if self.role == "embedding" else matrix).reshape(shape)

    def size(self, x: Tensor) -> float:
        """Return the norm of a parameter's tensor."""
        return TABLE[self.norm].norm(self.matrix(x))

    def dual(self, g: Tensor) -> float:
        """Return the dual norm of a gradient."""
        return TABLE[self.norm].dual_norm(self.matrix(g))

    def lmo(self, g: Tensor) -> Tensor:
        """Return the point of the unit sphere that goes down fastest, stored as the parameter."""
        return self.stored(TABLE[self.norm].lmo(self.matrix(g)), g.shape)

    @property
    def spectral(self) -> bool:
        """Whether an iterative polar factor may blur the answer."""
        return "spectral" in self.norm

    def mistakes(self, g: Tensor) -> dict[str, Tensor]:
        """Return what usual mistakes would answer at radius 1, by their description."""
        s = self.matrix(g)
        right = TABLE[self.norm].lmo(s)
        found = {
            "the ascent direction: an update has to point downhill, against the gradient": -right,
            "the gradient itself, not normalised": -s,
        }
        if s.ndim == 1:
            root = math.sqrt(len(s))
            found["normalised by the root of the SUM of squares, not of their mean"] = right / root
        elif s.ndim == 2:
            found |= self._of_matrices(s, g)
        else:
            kernel = s.shape[2]
            found["without the division by the number of kernel positions"] = right * kernel
            plain = uv(s.flatten(1)).reshape(s.shape)
            found["U V^T without its factor sqrt(out / in) / prod(k)"] = -plain
        stored = {text: self.stored(answer, g.shape) for text, answer in found.items()}
        if self.role == "embedding":
            text = "col-norm of the stored matrix: an embedding is stored (vocabulary, d_model)"
            stored[text] = TABLE["col-norm"].lmo(g.double())
        return stored

    def _of_matrices(self, s: Tensor, g: Tensor) -> dict[str, Tensor]:
        ratio = s.shape[0] / s.shape[1]
        found = {f"as if its norm were {n}": TABLE[n].lmo(s) for n in _OTHER if n != self.norm}
        if self.role in ("embedding", "output"):
            spectral = g.double() if self.role == "embedding" else s
            answer = TABLE["spectral"].lmo(spectral)
            text = f"spectral: the {self.role} is treated as a hidden matrix"
            found.pop("as if its norm were spectral", None)
            found[text] = self.matrix(answer)
        if self.norm == "spectral" and ratio != 1:
            found.pop("as if its norm were plain-spectral", None)
            found["U V^T without its aspect factor sqrt(d_out / d_in)"] = -uv(s)
            text = "the aspect factor upside down: are d_out and d_in swapped?"
            found[text] = -uv(s) / math.sqrt(ratio)
            text = "the aspect factor max(1, sqrt(d_out / d_in)): that is for input layers alone"
            found.pop("as if its norm were spectral-max", None)
            found[text] = TABLE["spectral-max"].lmo(s)
        if self.norm == "scaled-sign":
            found.pop("as if its norm were sign", None)
            found["the sign without its factor 1 / d_in"] = TABLE["sign"].lmo(s)
        return found


_OTHER = ("spectral", "plain-spectral", "spectral-max", "col-norm", "row-norm", "sign")

CASES: dict[str, Case] = {
    "input": Case(lambda w: nn.Linear(INPUTS, w, bias=False), "input", "spectral-max"),
    "embedding-col-norm": Case(lambda w: nn.Embedding(VOCAB, w), "embedding", "col-norm"),
    "embedding-sign": Case(lambda w: nn.Embedding(VOCAB, w), "embedding", "sign"),
    "hidden-square": Case(lambda w: nn.Linear(w, w, bias=False), "hidden", "spectral"),
    "hidden-tall": Case(lambda w: nn.Linear(w, 4 * w, bias=False), "hidden", "spectral"),
    "hidden-wide": Case(lambda w: nn.Linear(4 * w, w, bias=False), "hidden", "spectral"),
    "output-sign": Case(lambda w: nn.Linear(w, CLASSES, bias=False), "output", "scaled-sign"),
    "output-row-norm": Case(lambda w: nn.Linear(w, CLASSES, bias=False), "output", "row-norm"),
    "bias": Case(Bias, "bias", "bias-rms", "bias"),
    "gain": Case(lambda w: nn.RMSNorm(w), "gain", "gain-rms"),
    "conv": Case(lambda w: nn.Conv2d(w, 2 * w, 3, bias=False), "convolution", "conv-spectral"),
    "conv-oblong": Case(
        lambda w: nn.Conv2d(w, w, (1, 3), bias=False), "convolution", "conv-spectral"
    ),
    "conv-1d": Case(lambda w: nn.Conv1d(w, w, 3, bias=False), "convolution", "conv-spectral"),
}


def gaussian(shape: torch.Size, seed: int) -> Tensor:
    """Return a Gaussian tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
