"""What all LMO optimizers share: settings, copies, and the step around the oracle calls."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transfer.norms import Norm, make_norm
from transfer.optimizers.batch import Plan, signature
from transfer.optimizers.groups import (
    DEFAULTS,
    check_keys,
    check_new,
    check_parameters,
    check_settings,
)
from transfer.optimizers.jobs import Job
from transfer.optimizers.numbers import Number

# Torch keeps its compiler away from this method, and imports it to do so: that takes as long as
# importing torch, in every process that trains.
_add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)


class LmoOptimizer(torch.optim.Optimizer):
    """Steps along linear minimisation oracles of norm balls, layer by layer.

    Subclasses say what the oracle is asked about and what its answer is added to. All matrices of
    one shape, norm and dtype, across groups and layers, go through the oracle as one batch.

    Args:
        params: Parameters, named parameters, or groups; a group may set every key below.
        lr: Stepsize gamma, a number or a tensor of one. The key is called `lr` because torch
            schedulers write it.
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
        stacked: Whether the first dimension of every parameter of the group counts runs, each
            stepped as by an optimizer of its own; lr, radius and alpha may then each be a tensor
            of one number per run.
        workspace_mb: Memory in MiB that the step may take for a while beside weights, gradients
            and averages, at least what one matrix needs; less makes smaller batches.

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
        radius: float | Tensor = 1.0,
        alpha: float | Tensor = 0.1,
        constrained: bool = False,
        polar: str = "muon",
        layout: str | None = None,
        split_sizes: tuple[int, ...] = (),
        groups: int = 1,
        joint: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        stacked: bool = False,
        workspace_mb: float = 512.0,
    ) -> None:
        settings = {
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
            "stacked": stacked,
            "workspace_mb": workspace_mb,
        }
        self._norms: dict[tuple[str, str], Norm] = {}
        self._planned: tuple[list[Any], Plan] | None = None
        super().__init__(params, settings)

    # --- groups ---

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its settings and the shapes of its parameters."""
        if isinstance(param_group, dict):  # torch says what else it wants
            check_keys(param_group)
            check_new(param_group, self.param_groups)
        _add_param_group(self, param_group)
        try:
            self._check_group(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        check_settings(group)
        check_parameters(group, self._norm(group))

    def _norm(self, group: dict[str, Any]) -> Norm:
        key = (group["norm"], group["polar"])
        if key not in self._norms:
            self._norms[key] = make_norm(*key)
        return self._norms[key]

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Called for copies, and by load_state_dict, where a refusal must change nothing.
        self._norms, self._planned = {}, None
        groups = state["param_groups"]
        own = self.__dict__.get("param_groups") or [{}] * len(groups)
        for group, before in zip(groups, own, strict=True):
            for key, default in DEFAULTS.items():
                group.setdefault(key, before.get(key, default))
            self._check_group(group)
        if "defaults" in state:
            state = {**state, "defaults": {**DEFAULTS, **state["defaults"]}}
        super().__setstate__(state)

    # --- step ---

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Do one step and return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._begin()
        for group in self.param_groups:
            # Schedules may have changed them since; look before any parameter is touched.
            check_settings(group)
        ready = [(group, self._ready(group)) for group in self.param_groups]
        ready = [(group, params) for group, params in ready if params]
        jobs = [self._job(group, params) for group, params in ready]
        self._plan(ready).move(jobs)
        for group, params in ready:
            self._finish(group, params)
        return loss

    def _job(self, group: dict[str, Any], params: list[Tensor]) -> Job:
        job = self._prepare(group, params)
        # The oracle is odd, so nothing has to be negated but its answer.
        return replace(job, length=-job.length) if group["maximize"] else job

    def _plan(self, ready: list[tuple[dict[str, Any], list[Tensor]]]) -> Plan:
        """Return the plan of the last step while it fits."""
        asked = [(group, self._norm(group), params) for group, params in ready]
        if torch.compiler.is_compiling():
            return Plan(asked)
        key = signature(asked)
        if self._planned is None or self._planned[0] != key:
            self._planned = key, Plan(asked)
        return self._planned[1]

    @abstractmethod
    def _begin(self) -> None:
        """Do what has to be done with gradients before they are looked at."""

    @abstractmethod
    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        """Return the parameters of a group that have something to step with."""

    @abstractmethod
    def _prepare(self, group: dict[str, Any], params: list[Tensor]) -> Job:
        """Return what to average and to ask the oracle for; change no parameter yet."""

    @abstractmethod
    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        """Do what is left once the oracle's answers were added."""

    def _averages(self, params: list[Tensor]) -> list[Tensor]:
        """Return the averages in the state, which start at zero."""
        for p in params:
            if "average" not in self.state[p]:
                self.state[p]["average"] = torch.zeros_like(p)
            average = self.state[p]["average"]
            if average.dtype != p.dtype or average.device != p.device:
                raise RuntimeError(
                    f"a parameter of shape {tuple(p.shape)} is {p.dtype} on {p.device}, but its "
                    f"average {average.dtype} on {average.device}: convert the model before its "
                    "first step, or load the optimizer's state_dict after it"
                )
        return [self.state[p]["average"] for p in params]


def kept(group: dict[str, Any], gamma: Number) -> Number:
    """Return the factor of the old weights: 1 - stepsize if the group is constrained."""
    return 1 - gamma if group["constrained"] else 1.0
