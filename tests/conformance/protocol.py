"""What the conformance suite asks of an implementation of Scion: one function, a few attributes.

An adapter is a module with a factory::

    def make(model, specs, *, stepsize, alpha, constrained):
        return a torch.optim.Optimizer over the parameters that specs name

`specs` is a list with one `Spec` a parameter. It needs nothing of this project: a spec has four
plain attributes. What an implementation does not have (a norm, a role, constrained) it refuses by
raising NotImplementedError in the factory or in `init`: those tests are skipped with its message.

Optional, as attributes of the factory, or as names in its module:

- `init(model, specs, seed)`: initialises the weights in place, each on the boundary of its ball.
- `exact`: True if spectral norms use an exact polar factor; tolerances are then 0.1 %.

The suite calls `optimizer.zero_grad(); loss.backward(); optimizer.step()`, in this order, and reads
and writes the weights and `param_groups[i]["lr"]` between steps. An optimizer that keeps its
average in `p.grad` has to make its `zero_grad` do nothing.

Norms, for matrices A (d_out, d_in), with the point of the unit sphere that minimises <S, .>:

- spectral: sqrt(d_in / d_out) sigma_max(A); -sqrt(d_out / d_in) U V^T
- spectral-max: sigma_max(A) / c, c = max(1, sqrt(d_out / d_in)); -c U V^T
- col-norm: largest length of a column over sqrt(d_out); -sqrt(d_out) S_:j / |S_:j|
- row-norm: sqrt(d_in) times the largest length of a row; -S_i: / (|S_i:| sqrt(d_in))
- sign: largest magnitude; -sign(S)
- scaled-sign: d_in times the largest magnitude; -sign(S) / d_in
- bias-rms, gain-rms: root of the MEAN square of a vector; -b / RMS(b)
- conv-spectral: sigma_max(M) / c, M = A as (out, in prod(k)), c = sqrt(out / in) / prod(k)

Weights are stored as torch stores them: an embedding is (vocabulary, d_model), so A is its
transpose; a convolution is (out, in, *k).
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import nn


@dataclass(frozen=True)
class Spec:
    """What is asked for one parameter of the model."""

    name: str
    """As in model.named_parameters()."""
    role: str
    """input, embedding, hidden, output, bias, gain or convolution."""
    norm: str
    radius: float


class Make(Protocol):
    """The factory: alpha is the weight of the NEW gradient, constrained is Algorithm 2 (SCG)."""

    def __call__(
        self,
        model: nn.Module,
        specs: list[Spec],
        *,
        stepsize: float,
        alpha: float,
        constrained: bool,
    ) -> torch.optim.Optimizer: ...


class Declined(Exception):
    """The adapter itself says that it does not have what a check needs."""


@dataclass(frozen=True)
class Implementation:
    """A factory with what it says of itself."""

    name: str
    make: Make
    init: Callable[[nn.Module, list[Spec], int], Any] | None = None
    exact: bool = False

    def build(self, model: nn.Module, specs: list[Spec], **settings: Any) -> torch.optim.Optimizer:
        """Call the factory.

        Raises:
            Declined: it raised NotImplementedError. Raised by a step it is a failure: torch, too,
                raises it for operations it does not have.
        """
        try:
            return self.make(model, specs, **settings)
        except NotImplementedError as error:
            raise Declined(f"{self.name} declined: {error}") from error

    def initialise(self, model: nn.Module, specs: list[Spec], seed: int) -> None:
        """Initialise the weights; raises as above."""
        if self.init is None:
            raise Declined(f"{self.name} has no init")
        try:
            self.init(model, specs, seed)
        except NotImplementedError as error:
            raise Declined(f"{self.name} declined: {error}") from error


def load(path: str) -> Implementation:
    """Import `package.module:factory`.

    Raises:
        ValueError: no such module or factory.
    """
    module_name, _, name = path.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ValueError(f"--scion {path}: cannot import {module_name}: {error}") from error
    make = getattr(module, name or "make", None)
    if not callable(make):
        raise ValueError(f"--scion {path}: {module_name} has no function {name or 'make'}")
    return Implementation(
        name=path,
        make=make,
        init=getattr(make, "init", getattr(module, "init", None)),
        exact=bool(getattr(make, "exact", getattr(module, "exact", False))),
    )
