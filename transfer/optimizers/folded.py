"""The stand-in that Scion Light leaves where a gradient was."""

from typing import Any, NoReturn

import torch
from torch import Tensor

_REASON = (
    "ScionLight folds every gradient into its average as autograd makes it and frees it, so there "
    "is no gradient left for {what}. Whatever computes with p.grad between backward pass and step "
    "comes too late (clipping by norm, GradScaler, another optimizer, another dtype): use Scion "
    "for that. The oracle does not see the size of the average, and bfloat16 needs no scaler."
)


class FoldedGradient(Tensor):
    """Stand-in for a gradient that was folded away: takes no memory, refuses all arithmetic.

    It is sparse and empty, because autograd adds a new gradient to a sparse one out of place,
    which gives just the new gradient.
    """

    # What zero_grad calls, and looking.
    _ALLOWED = frozenset({"zero_", "detach_", "requires_grad_", "__repr__", "__set__"})
    # Attributes that are tensors of its class no longer, or computations.
    _REFUSED_ATTRIBUTES = frozenset({"data", "real", "imag", "T", "H", "mT", "mH"})

    @classmethod
    def like(cls, p: Tensor) -> "FoldedGradient":
        """Return the stand-in for a parameter's gradient."""
        empty = torch.zeros(p.shape, dtype=p.dtype, device=p.device, layout=torch.sparse_coo)
        made: FoldedGradient = torch.Tensor._make_subclass(cls, empty)
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if name == "__get__":
            name = getattr(func.__self__, "__name__", name)
            allowed = name not in cls._REFUSED_ATTRIBUTES
        else:
            allowed = name in cls._ALLOWED
        if not allowed:
            refuse(name)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    def __deepcopy__(self, memo: Any) -> "FoldedGradient":
        # A copied leaf tensor copies its gradient.
        return self.like(self)


def refuse(what: str) -> NoReturn:
    """Raise RuntimeError: what was asked needs the gradient itself."""
    raise RuntimeError(_REASON.format(what=what))
