"""Scion: gradients are averaged, then the oracle is asked (Pethick et al. 2025, Algorithms 1-3)."""

from typing import Any, final

from torch import Tensor

from transfer.optimizers.base import LmoOptimizer, kept
from transfer.optimizers.groups import gradients, with_gradients
from transfer.optimizers.jobs import Job
from transfer.optimizers.numbers import number


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

    def _prepare(self, group: dict[str, Any], params: list[Tensor]) -> Job:
        gamma = number(group, "lr")
        return Job(
            targets=params,
            sources=self._averages(params),
            length=gamma * number(group, "radius"),
            keep=kept(group, gamma),
            fresh=gradients(params),
            alpha=number(group, "alpha"),
        )

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pass
