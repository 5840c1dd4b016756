"""Scion Light: every gradient is folded into the average as soon as autograd has made it."""

import weakref
from collections.abc import Callable
from typing import Any, NoReturn, final

import torch
from torch import Tensor

from transfer.optimizers.base import LmoOptimizer, named, shrink
from transfer.optimizers.batch import Length

_REASON = (
    "ScionLight folds every gradient into its average as autograd makes it and frees it, so there "
    "is no gradient left for {what}. Clipping by norm and GradScaler would come too late: use "
    "Scion for them. The oracle does not see the size of the average, and bfloat16 needs no scaler."
)


@final
class ScionLight(LmoOptimizer):
    """Scion whose only memory beside the weights is one average per parameter.

    A hook on every parameter folds the gradient into the average during the backward pass and
    frees it: d <- (1 - alpha) d + alpha g for the first backward pass after a step, d <- d + alpha
    g for the further ones (gradient accumulation). Steps as `Scion`'s, and the same numbers up to
    rounding. The weight `alpha` that counts is the one during the backward pass.

    `p.grad` is left as an empty stand-in which raises RuntimeError, with the reason, when anything
    computes with it: `clip_grad_norm_` and `GradScaler` cannot be honoured and must not be silent.
    `zero_grad` does no harm; a gradient cannot be taken back.

    Arguments and errors: see `LmoOptimizer`.

    References:
        Pethick et al. 2025, arXiv:2502.07529, the algorithm Scion Light; there the average lives
        in `p.grad`, which clipping, scaling and schedules of alpha spoil.
    """

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
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        for group in self.param_groups:
            for p in group["params"]:
                if isinstance(p.grad, FoldedGradient):
                    p.grad = None

    def _hook(self, group: dict[str, Any]) -> None:
        # Not in __init__: torch adds the first groups inside its own, and copies have none.
        if not hasattr(self, "_handles"):
            self._handles: dict[int, Any] = {}
        for name, p in named(group):
            if id(p) not in self._handles:
                # A weak reference: the hooks of a discarded optimizer do nothing.
                hook = _folding(weakref.ref(self), name)
                self._handles[id(p)] = p.register_post_accumulate_grad_hook(hook)

    @torch.no_grad()
    def _fold(self, p: Tensor, name: str) -> None:
        grad = p.grad
        assert grad is not None, "autograd calls the hook after accumulating"
        if grad.layout != torch.strided:
            p.grad = None
            raise RuntimeError(
                f"parameter {name} has a sparse gradient, which has no oracle here: build "
                "nn.Embedding with sparse=False"
            )
        group = next(g for g in self.param_groups if any(q is p for q in g["params"]))
        alpha = -group["alpha"] if group["maximize"] else group["alpha"]
        state = self.state[p]
        (average,) = self._averages([p])
        if state.get("folded"):
            average.add_(grad, alpha=alpha)
        elif group["maximize"]:
            average.lerp_(grad.neg_(), -alpha)
        else:
            average.lerp_(grad, alpha)
        state["folded"] = True
        p.grad = FoldedGradient.like(p)

    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        return [p for p in group["params"] if self.state[p].get("folded")]

    def _ask(
        self, group: dict[str, Any], params: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Length]:
        for p in params:
            self.state[p]["folded"] = False
        shrink(group, params)
        return params, self._averages(params), group["lr"] * group["radius"]

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pass


def _folding(optimizer: "weakref.ref[ScionLight]", name: str) -> Callable[[Tensor], None]:
    def hook(p: Tensor) -> None:
        alive = optimizer()
        if alive is not None:
            alive._fold(p, name)

    return hook


class FoldedGradient(Tensor):
    """Stand-in for a gradient that was folded away: takes no memory, refuses all arithmetic.

    It is sparse and empty, because autograd adds a new gradient to a sparse one out of place,
    which gives just the new gradient.
    """

    _ALLOWED = frozenset({"zero_", "detach_", "requires_grad_", "__repr__", "__reduce_ex__"})

    @classmethod
    def like(cls, p: Tensor) -> "FoldedGradient":
        """Return the stand-in for a parameter's gradient."""
        empty = torch.sparse_coo_tensor(
            torch.empty((p.ndim, 0), dtype=torch.long, device=p.device),
            torch.empty(0, dtype=p.dtype, device=p.device),
            p.shape,
            check_invariants=False,
        )
        made: FoldedGradient = torch.Tensor._make_subclass(cls, empty)
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in cls._ALLOWED or name in ("__get__", "__set__", "__delete__"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        _refuse(name)


def _refuse(what: str) -> NoReturn:
    raise RuntimeError(_REASON.format(what=what))
