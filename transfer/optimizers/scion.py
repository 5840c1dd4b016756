"""Scion: gradients are averaged, then the oracle is asked (Pethick et al. 2025, Algorithms 1-3)."""

from typing import Any, final

from torch import Tensor

from transfer.optimizers.base import LmoOptimizer, shrink
from transfer.optimizers.batch import Job
from transfer.optimizers.groups import gradients, with_gradients
from transfer.optimizers.numbers import average_in, number


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
        averages, gamma = self._averages(params), number(group, "lr")
        average_in(averages, gradients(params), number(group, "alpha"))
        shrink(group, params, gamma)
        return Job(params, averages, gamma * number(group, "radius"))

    def _finish(self, group: dict[str, Any], params: list[Tensor]) -> None:
        pass
