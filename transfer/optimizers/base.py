"""What all LMO optimizers share: groups and their checks, and the step around the oracle calls."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from transfer.config import require, require_positive, unknown
from transfer.norms import Norm, make_norm
from transfer.optimizers.batch import Batches, Length

# Keys that others put into groups: torch itself, its schedulers, and our tables of roles.
_FOREIGN_KEYS = {
    *("params", "param_names", "role", "name", "differentiable", "capturable"),
    *("initial_lr", "max_lr", "min_lr", "base_momentum", "max_momentum", "swa_lr"),
}


class LmoOptimizer(torch.optim.Optimizer):
    """Steps along linear minimisation oracles of norm balls, layer by layer.

    Subclasses say what the oracle is asked about and what its answer is added to. All matrices of
    one shape, norm and dtype, across groups and layers, go through the oracle as one batch.

    Args:
        params: Parameters, named parameters, or groups; a group may set every key below.
        lr: Stepsize gamma, a number or a tensor. The key is called `lr` because torch schedulers
            write it.
        norm: Name of the norm, one of `NORMS`.
        radius: Ball radius rho, in units of the norm; positive.
        alpha: Weight of the new gradient or oracle, in (0, 1]; 1 means no averaging.
        constrained: Whether the iterates stay in the ball; needs lr <= 1.
        polar: Polar factor of the spectral norms, see `make_polar`.
        layout: How parameters hold their matrices, see `Layout`; None: as the norm expects.
        split_sizes: Sizes of fused blocks along d_out, each in a ball of its own.
        groups: Groups of convolutions.
        joint: Whether all parameters of the group are one long vector (Euclidean and max-norm).
        maximize: Whether to ascend instead.
        foreach: False asks the oracle parameter by parameter: less memory, more time.

    Raises:
        ValueError: an unknown key, a setting outside its range, a parameter in two groups, of
            complex numbers, or of a shape that does not fit; the parameter is named.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 2**-10,
        *,
        norm: str = "spectral",
        radius: float = 1.0,
        alpha: float = 0.1,
        constrained: bool = False,
        polar: str = "muon",
        layout: str | None = None,
        split_sizes: tuple[int, ...] = (),
        groups: int = 1,
        joint: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "norm": norm,
            "radius": radius,
            "alpha": alpha,
            "constrained": constrained,
            "polar": polar,
            "layout": layout,
            "split_sizes": split_sizes,
            "groups": groups,
            "joint": joint,
            "maximize": maximize,
            "foreach": foreach,
        }
        self._norms: dict[tuple[str, str], Norm] = {}
        super().__init__(params, defaults)

    # --- groups ---

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its settings and the shapes of its parameters."""
        if isinstance(param_group, dict):  # torch says what else it wants
            for key in param_group:
                if key not in self.defaults and key not in _FOREIGN_KEYS:
                    raise ValueError(unknown("group key", key, {"params", *self.defaults}))
            self._require_new(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_group(group)
        except ValueError:
            self.param_groups.pop()
            raise

    def _require_new(self, param_group: dict[str, Any]) -> None:
        """torch refuses a parameter in two groups too, but does not say which."""
        params = param_group.get("params")
        if not isinstance(params, (list, tuple)):
            return
        taken = {
            id(p): f"{name} of group {number}"
            for number, group in enumerate(self.param_groups)
            for name, p in named(group)
        }
        for index, given in enumerate(params):
            name, p = given if isinstance(given, tuple) else (f"#{index}", given)
            if id(p) in taken:
                raise ValueError(
                    f"parameter {name} of group {len(self.param_groups)} is already parameter "
                    f"{taken[id(p)]}: every parameter belongs to one group"
                )

    def _check_group(self, group: dict[str, Any]) -> None:
        check_stepsize(group)
        require(0 < group["alpha"] <= 1, "alpha", "in (0, 1]", group["alpha"])
        require_positive("radius", group["radius"])
        norm = self._norm(group)
        whole = norm.any_shape and group["layout"] in (None, "whole")
        require(whole or not group["joint"], "joint", "False for this norm and layout", True)
        for name, parameter in named(group):
            if parameter.is_complex():
                raise ValueError(f"parameter {name} is complex: take torch.view_as_real of it")
            try:
                layout = norm.layout(group["layout"], group["split_sizes"], group["groups"])
                layout.event_shapes(parameter.shape, norm.event_ndim)
            except ValueError as error:
                raise ValueError(f"parameter {name}: {group['norm']}: {error}") from None

    def _norm(self, group: dict[str, Any]) -> Norm:
        key = (group["norm"], group["polar"])
        if key not in self._norms:
            self._norms[key] = make_norm(*key)
        return self._norms[key]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._norms = {}
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
            self._check_group(group)

    # --- step ---

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step and return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            # A scheduler may have changed it since; look before any parameter is touched.
            check_stepsize(group)
        ready = [(group, self._ready(group)) for group in self.param_groups]
        batches = Batches()
        for group, params in ready:
            if params:
                targets, sources, length = self._ask(group, params)
                batches.file(group, self._norm(group), targets, sources, length)
        batches.move()
        for group, params in ready:
            if params:
                self._finish(group, params)
        return loss

    @abstractmethod
    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        """Return the parameters of a group that have something to step with."""

    @abstractmethod
    def _ask(
        self, group: dict[str, Any], params: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Length]:
        """Update the averages; return targets, sources and length: target += lmo(source)."""

    @abstractmethod
    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Do what is left after the oracle's answers were added."""

    def _averages(self, params: list[Tensor]) -> list[Tensor]:
        """Return the averages in the state, which start at zero."""
        for p in params:
            if "average" not in self.state[p]:
                self.state[p]["average"] = torch.zeros_like(p)
        return [self.state[p]["average"] for p in params]


def named(group: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """Return a group's parameters with their names, or #0, #1, ... without."""
    params = group["params"]
    names = group.get("param_names") or [f"#{i}" for i in range(len(params))]
    return list(zip(names, params, strict=True))


def with_gradients(group: dict[str, Any]) -> list[Tensor]:
    """Return the parameters that have a gradient.

    Raises:
        RuntimeError: a gradient is sparse.
    """
    for name, p in named(group):
        if p.grad is not None and p.grad.layout != torch.strided:
            raise RuntimeError(
                f"parameter {name} has a sparse gradient, which has no oracle here: build "
                "nn.Embedding with sparse=False"
            )
    return [p for p in group["params"] if p.grad is not None]


def gradients(group: dict[str, Any], params: list[Tensor]) -> list[Tensor]:
    """Return the gradients downhill: negated for `maximize`."""
    grads = [p.grad for p in params if p.grad is not None]
    return list(torch._foreach_neg(grads)) if group["maximize"] else grads


def check_stepsize(group: dict[str, Any]) -> None:
    """Raise ValueError unless the stepsize is in its range.

    Looking into a tensor on a GPU would wait for the device in every step, and break a compiled
    one: there the range is the caller's to keep.
    """
    stepsize = group["lr"]
    if isinstance(stepsize, Tensor):
        if torch.compiler.is_compiling() or stepsize.device.type != "cpu":
            return
        stepsize = stepsize.item()
    require(0 <= stepsize < math.inf, "lr", "a finite number, at least 0", stepsize)
    if group["constrained"]:
        require(stepsize <= 1, "lr", "at most 1 when constrained", stepsize)


def shrink(group: dict[str, Any], params: list[Tensor]) -> None:
    """Multiply weights by 1 - stepsize if the group is constrained."""
    if group["constrained"]:
        keep = 1 - group["lr"]
        torch._foreach_mul_(params, keep.to(params[0].device) if isinstance(keep, Tensor) else keep)
