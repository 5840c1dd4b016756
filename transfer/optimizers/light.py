"""Scion Light: every gradient is folded into the average as soon as autograd has made it."""

import weakref
from typing import Any, final

import torch
from torch import Tensor

from transfer.config import require
from transfer.optimizers.base import LmoOptimizer, kept
from transfer.optimizers.folded import FoldedGradient
from transfer.optimizers.groups import check_alpha, named, require_dense
from transfer.optimizers.jobs import Job
from transfer.optimizers.numbers import number


@final
class ScionLight(LmoOptimizer):
    """Scion whose only memory beside the weights is one average per parameter.

    A hook on every parameter folds the gradient into the average during the backward pass and
    frees it: d <- (1 - alpha) d + alpha g for the first backward pass after a step, d <- d + alpha
    g for the further ones (gradient accumulation). Steps as `Scion`'s, and the same numbers up to
    rounding. The weight `alpha` that counts is the one during the backward pass.

    Until the step `p.grad` is an empty stand-in which raises RuntimeError, with the reason, when
    anything computes with it: `clip_grad_norm_` and `GradScaler` cannot be honoured and must not
    be silent. `zero_grad` does no harm; a gradient cannot be taken back. A gradient that was put
    into `p.grad` by hand is folded, and freed, by the step. DistributedDataParallel averages over
    processes only after the hook, and fails on the stand-in.

    Arguments and errors: see `LmoOptimizer`; `stacked` must be False.

    References:
        Pethick et al. 2025, arXiv:2502.07529, the algorithm Scion Light; there the average lives
        in `p.grad`, which clipping, scaling and schedules of alpha spoil.
    """

    def _check_group(self, group: dict[str, Any]) -> None:
        require(not group["stacked"], "stacked", "False for ScionLight", group["stacked"])
        super()._check_group(group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group and hook its parameters."""
        super().add_param_group(param_group)
        self._hook(self.param_groups[-1])

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            self._hook(group)

    def close(self) -> None:
        """Take the hooks off, so that another optimizer may have the parameters."""
        _remove(self._handles)
        for group in self.param_groups:
            for p in group["params"]:
                if isinstance(p.grad, FoldedGradient):
                    p.grad = None

    def _hook(self, group: dict[str, Any]) -> None:
        # Not in __init__: torch adds the first groups inside its own, and copies have none.
        if not hasattr(self, "_handles"):
            self._handles: dict[Tensor, list[Any]] = {}
            self._places: dict[Tensor, tuple[str, dict[str, Any]]] = {}
            weakref.finalize(self, _remove, self._handles).atexit = False
        for name, p in named(group):
            self._places[p] = name, group
            # torch hooks no frozen parameter; one that is thawed later is folded by the step.
            if p not in self._handles and p.requires_grad:
                self._handles[p] = _hooked(p, weakref.ref(self))

    @torch.no_grad()
    def _fold(self, p: Tensor) -> None:
        name, group = self._places[p]
        grad, p.grad = p.grad, None
        assert grad is not None, "autograd calls the hook after accumulating"
        if isinstance(grad, FoldedGradient):
            raise RuntimeError(
                f"the gradient of parameter {name} was folded by another ScionLight: call close() "
                "of the one that is no longer used"
            )
        require_dense(name, grad)
        check_alpha(group)
        (average,) = self._averages([p])
        if self.state[p].get("folded"):
            average.add_(grad, alpha=group["alpha"])
        else:
            average.lerp_(grad, group["alpha"])
        self.state[p]["folded"] = True
        p.grad = FoldedGradient.like(p)

    # The compiler cannot trace the stand-ins, and must not meet them in the rest of the step. It is
    # what torch.compiler.disable does, but for importing the compiler at once.
    @torch._disable_dynamo  # type: ignore[attr-defined]
    def _begin(self) -> None:
        for p in self._places:
            if p.grad is not None and not isinstance(p.grad, FoldedGradient):
                self._fold(p)
            p.grad = None

    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        return [p for p in group["params"] if self.state.get(p, {}).get("folded")]

    def _prepare(self, group: dict[str, Any], params: list[Tensor]) -> Job:
        gamma = number(group, "lr")
        for p in params:
            self.state[p]["folded"] = False
        return Job(
            targets=params,
            sources=self._averages(params),
            length=gamma * number(group, "radius"),
            keep=kept(group, gamma),
        )

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pass


def _hooked(p: Tensor, optimizer: "weakref.ref[ScionLight]") -> list[Any]:
    """Hook a parameter; weakly, so that hooks keep neither it nor a discarded optimizer alive."""
    parameter = weakref.ref(p)

    @torch.utils.hooks.unserializable_hook  # type: ignore[untyped-decorator]
    def before(_: Tensor) -> None:
        # Autograd would add to the stand-in out of place, a copy that loses the memory format.
        alive = parameter()
        if alive is not None and isinstance(alive.grad, FoldedGradient):
            alive.grad = None

    def after(p: Tensor) -> None:
        alive = optimizer()
        if alive is not None:
            alive._fold(p)

    return [p.register_hook(before), p.register_post_accumulate_grad_hook(after)]  # type: ignore[no-untyped-call]


def _remove(handles: dict[Tensor, list[Any]]) -> None:
    for pair in handles.values():
        for handle in pair:
            handle.remove()
    handles.clear()
