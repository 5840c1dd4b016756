"""Scion: stepsizes and radii layer by layer, over norm balls (Pethick et al. 2025)."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from transfer.config import require, require_positive
from transfer.norms import Norm, make_norm

# What two parameters must share for their LMOs to be one batched call.
_BatchKey = tuple[str, str, torch.Size, torch.dtype, torch.device]


class Scion(torch.optim.Optimizer):
    """Norm-constrained steepest descent with averaged gradients.

    With average d (zero at the start), weight alpha, stepsize gamma and ball radius rho::

        d <- (1 - alpha) d + alpha g
        x <- x + gamma lmo(d)                  unconstrained (Algorithm 1)
        x <- (1 - gamma) x + gamma lmo(d)      constrained (Algorithm 2): norm(x) <= rho stays

    All matrices of one shape, norm and dtype, across groups and layers, go through the LMO as
    one batch.

    Args:
        params: Parameters, named parameters, or groups; a group may set every key below.
        lr: Stepsize gamma. The key is called `lr` because torch schedulers write it.
        norm: Name of the norm, one of `NORMS`.
        radius: Ball radius rho, in units of the norm; positive.
        alpha: Weight of the new gradient, in (0, 1]; 1 means no averaging.
        constrained: Whether the iterates stay in the ball; needs lr <= 1.
        polar: Polar factor of the spectral norms, see `make_polar`.

    Raises:
        ValueError: a setting outside its range, or a norm that does not fit a parameter's shape.

    References:
        Pethick et al. 2025, arXiv:2502.07529, Algorithms 1 to 3.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2**-10,
        *,
        norm: str = "spectral",
        radius: float = 1.0,
        alpha: float = 0.1,
        constrained: bool = False,
        polar: str = "muon",
    ) -> None:
        defaults = {
            "lr": lr,
            "norm": norm,
            "radius": radius,
            "alpha": alpha,
            "constrained": constrained,
            "polar": polar,
        }
        self._norms: dict[tuple[str, str], Norm] = {}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its settings and the shapes of its parameters."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        _check_stepsize(group)
        require(0 < group["alpha"] <= 1, "alpha", "in (0, 1]", group["alpha"])
        require_positive("radius", group["radius"])
        norm = self._norm(group)
        names = group.get("param_names") or [f"#{i}" for i in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            try:
                norm.check_shape(parameter.shape)
            except ValueError as error:
                raise ValueError(f"parameter {name}: {error}") from None

    def _norm(self, group: dict[str, Any]) -> Norm:
        key = (group["norm"], group["polar"])
        if key not in self._norms:
            self._norms[key] = make_norm(*key)
        return self._norms[key]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step and return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # A scheduler may have changed it since; look before any parameter is touched.
            _check_stepsize(group)
        batches: dict[_BatchKey, _Batch] = {}
        for group in self.param_groups:
            self._average(group, batches)
        for batch in batches.values():
            batch.move()
        return loss

    def _average(self, group: dict[str, Any], batches: "dict[_BatchKey, _Batch]") -> None:
        """Update the averages of one group, shrink its weights, and file them for the LMO."""
        params = [p for p in group["params"] if p.grad is not None]
        if not params:
            return
        stepsize = float(group["lr"])
        averages = [self._state(p) for p in params]
        torch._foreach_lerp_(averages, [p.grad for p in params], group["alpha"])
        if group["constrained"]:
            torch._foreach_mul_(params, 1 - stepsize)
        norm = self._norm(group)
        for p, average in zip(params, averages, strict=True):
            key = (group["norm"], group["polar"], p.shape, p.dtype, p.device)
            batch = batches.setdefault(key, _Batch(norm))
            batch.add(p, average, stepsize * group["radius"])

    def _state(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if not state:
            state["average"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        average: Tensor = state["average"]
        return average

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._norms = {}
        for group in self.param_groups:
            self._check_group(group)


def _check_stepsize(group: dict[str, Any]) -> None:
    stepsize = float(group["lr"])
    require(0 <= stepsize < math.inf, "lr", "a finite number, at least 0", group["lr"])
    if group["constrained"]:
        require(stepsize <= 1, "lr", "at most 1 when constrained", group["lr"])


class _Batch:
    """Parameters of one shape whose LMOs are computed in one call."""

    def __init__(self, norm: Norm) -> None:
        self.norm = norm
        self.params: list[Tensor] = []
        self.averages: list[Tensor] = []
        self.lengths: list[float] = []

    def add(self, param: Tensor, average: Tensor, length: float) -> None:
        """File one parameter; `length` is its stepsize times its radius."""
        self.params.append(param)
        self.averages.append(average)
        self.lengths.append(length)

    def move(self) -> None:
        """Add lmo(average), of norm `length`, to every parameter."""
        stacked = torch.stack(self.averages)
        shape = stacked.shape
        if self.norm.any_shape:
            stacked = stacked.reshape(len(self.params), -1)
        # One length per parameter; 3-d parameters are batches of matrices themselves.
        batch_ndim = stacked.ndim - self.norm.event_ndim
        # Not every device knows float64, and only float64 weights need it.
        dtype = torch.float64 if stacked.dtype == torch.float64 else torch.float32
        lengths = torch.tensor(self.lengths, dtype=dtype, device=stacked.device)
        lengths = lengths.reshape((-1,) + (1,) * (batch_ndim - 1))
        moves = self.norm.lmo(stacked, lengths).reshape(shape)
        torch._foreach_add_(self.params, list(moves.unbind()))
