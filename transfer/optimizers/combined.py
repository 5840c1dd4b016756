"""Several optimizers as one, each for its own parameters."""

from collections.abc import Callable, Sequence
from typing import Any, final

import torch


@final
class Combined(torch.optim.Optimizer):
    """Steps several optimizers together; their groups and states appear as one.

    Schedulers see all groups: they are the parts' own. Parameters must not be shared.

    Args:
        parts: Optimizers of disjoint parameters.

    Raises:
        ValueError: no parts.
    """

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        if not parts:
            raise ValueError("parts must be at least one optimizer, got none")
        self.parts = list(parts)
        super().__init__([p for part in parts for g in part.param_groups for p in g["params"]], {})
        self._share()

    def _share(self) -> None:
        """Take the parts' groups for our own: a stepsize written here is theirs."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self._complete = True
        for part in self.parts:
            self.state.update(part.state)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse a group that is added later: which part should step it?

        Raises:
            ValueError: always, once the parts are in place.
        """
        if getattr(self, "_complete", False):
            raise ValueError("a group must be added to one of `parts`, of which the caller knows")
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every part and return the closure's loss, if a closure is given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
            self.state.update(part.state)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what `state_dict` returned.

        Raises:
            ValueError: another number of parts, or of parameters in them.
        """
        states = state_dict["parts"]
        if len(states) != len(self.parts):
            raise ValueError(f"state of {len(self.parts)} optimizers wanted, got {len(states)}")
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Combined.__init__(self, state["parts"])
