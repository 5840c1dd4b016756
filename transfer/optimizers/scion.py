"""Scion: gradients are averaged, then the oracle is asked (Pethick et al. 2025, Algorithms 1-3)."""

from typing import Any, final

import torch
from torch import Tensor

from transfer.optimizers.base import LmoOptimizer, shrink
from transfer.optimizers.batch import Length
from transfer.optimizers.groups import gradients, stepsize, with_gradients


@final
class Scion(LmoOptimizer):
    """Norm-constrained steepest descent with averaged gradients: uSCG, SCG and Scion.

    With average d (zero at the start), weight alpha, stepsize gamma and ball radius rho::

        d <- (1 - alpha) d + alpha g
        x <- x + gamma lmo(d)                  unconstrained (uSCG, Algorithm 1)
        x <- (1 - gamma) x + gamma lmo(d)      constrained (SCG, Algorithm 2): norm(x) <= rho stays

    with one norm and radius per group, one ball per parameter (Algorithm 3), or one ball for the
    whole group (`joint`). Arguments and errors: see `LmoOptimizer`.

    References:
        Pethick et al. 2025, arXiv:2502.07529, Algorithms 1 to 3.
    """

    def _begin(self) -> None:
        pass

    def _ready(self, group: dict[str, Any]) -> list[Tensor]:
        return with_gradients(group)

    def _prepare(
        self, group: dict[str, Any], params: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], Length]:
        averages = self._averages(params)
        torch._foreach_lerp_(averages, gradients(params), group["alpha"])
        shrink(group, params)
        return params, averages, stepsize(group) * group["radius"]

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pass
