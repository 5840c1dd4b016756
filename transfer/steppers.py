"""How the runs of a stack take their optimizer steps: all in one, or each with its own optimizer.

Shapes: R runs; weights and gradients are (R, *shape) under the names of one model's parameters.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from transfer.config import AdamWConfig, RunConfig, ScionConfig
from transfer.optimizers import Almond, Scion
from transfer.roles import ParameterTable, build_optimizer, parameter_groups

Gradients = dict[str, Tensor | None]

WORKSPACE_MB = {"cpu": 512.0, "mps": 512.0, "cuda": 2048.0}
"""Of a stack's step by kind of device; small batches leave a GPU partly idle."""


class Stepper(ABC):
    """Optimizer steps of all runs of a stack.

    Attributes:
        optimizers: One for all runs, or one for each.
    """

    optimizers: list[torch.optim.Optimizer]

    @abstractmethod
    def step(self, gradients: Gradients, factor: float) -> None:
        """Move every run's weights; `factor` is the schedule's, of each run's peak stepsize."""

    @abstractmethod
    def state(self, run: int) -> dict[str, Any]:
        """Return a copy of one run's state, which does not depend on its place in the stack."""

    @abstractmethod
    def load(self, states: Sequence[dict[str, Any]]) -> None:
        """Take the states of all runs, in their order."""


@final
class OneStepper(Stepper):
    """Steps of one LMO optimizer on stacked weights: every oracle call is one batch for all runs.

    Args:
        weights: Trained parameters, (R, *shape), leaves of the graph.
        model: A model with parameters of those names.
        table: Roles of the parameters.
        configs: The runs, with Scion's configuration.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        model: nn.Module,
        table: ParameterTable,
        configs: Sequence[RunConfig],
    ) -> None:
        self.weights = weights
        optimizers = [c.optimizer for c in configs if isinstance(c.optimizer, ScionConfig)]
        assert len(optimizers) == len(configs), "only Scion has stacked steps"
        kind = Almond if optimizers[0].average == "oracles" else Scion
        self.peaks = torch.tensor([o.stepsize for o in optimizers], dtype=torch.float64)
        self.optimizer = kind(
            _stacked_groups(weights, model, table, optimizers),
            lr=self.peaks,
            constrained=optimizers[0].constrained,
            polar=optimizers[0].polar,
            workspace_mb=WORKSPACE_MB[next(iter(weights.values())).device.type],
        )
        self.optimizers = [self.optimizer]

    def step(self, gradients: Gradients, factor: float) -> None:
        for name, p in self.weights.items():
            p.grad = gradients[name]
        rates = self.peaks * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rates
        self.optimizer.step()

    def state(self, run: int) -> dict[str, Any]:
        states = self.optimizer.state
        return {
            name: {key: value[run].clone() for key, value in states[p].items()}
            for name, p in self.weights.items()
        }

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        for name, p in self.weights.items():
            keys = states[0][name]
            self.optimizer.state[p] = {
                key: torch.stack([state[name][key].to(p) for state in states]) for key in keys
            }


def _stacked_groups(
    weights: dict[str, Tensor],
    model: nn.Module,
    table: ParameterTable,
    optimizers: Sequence[ScionConfig],
) -> list[dict[str, Any]]:
    """Return the groups of all runs: those of one, with a radius a run."""
    names = {id(p): name for name, p in model.named_parameters()}
    per_run = [parameter_groups(model, table, o.roles) for o in optimizers]
    radii = [
        {id(p): group["radius"] for group in groups for _, p in group["params"]}
        for groups in per_run
    ]
    alphas = torch.tensor([o.alpha for o in optimizers], dtype=torch.float64)
    stacked: dict[Any, dict[str, Any]] = {}
    for group in per_run[0]:
        for name, p in group["params"]:
            radius = tuple(of_run[id(p)] for of_run in radii)
            key = (group["role"], group["norm"], group["layout"], group["split_sizes"], radius)
            own = {"params": [], "radius": torch.tensor(radius, dtype=torch.float64)}
            both = {**group, **own, "alpha": alphas, "stacked": True}
            place = stacked.setdefault((*key, group["groups"]), both)
            place["params"].append((name, weights[names[id(p)]]))
    return list(stacked.values())


@final
class OwnSteppers(Stepper):
    """Steps of any torch optimizer, one for each run, on a model whose parameters view the stack.

    Args:
        models: One for each run.
        build: Makes the optimizer of a model and a run.
        configs: The runs.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        build: Callable[[nn.Module, RunConfig], torch.optim.Optimizer],
        configs: Sequence[RunConfig],
    ) -> None:
        self.parameters = [dict(model.named_parameters()) for model in models]
        self.optimizers = [build(m, c) for m, c in zip(models, configs, strict=True)]
        self.peaks = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.limits = [_clip_norm(c) for c in configs]

    def step(self, gradients: Gradients, factor: float) -> None:
        for run, optimizer in enumerate(self.optimizers):
            own = self.parameters[run]
            for name, gradient in gradients.items():
                own[name].grad = None if gradient is None else gradient[run]
            for group, peak in zip(optimizer.param_groups, self.peaks[run], strict=True):
                group["lr"] = peak * factor
            if self.limits[run]:
                nn.utils.clip_grad_norm_(own.values(), self.limits[run])
            optimizer.step()

    def state(self, run: int) -> dict[str, Any]:
        state: dict[str, Any] = _copied(self.optimizers[run].state_dict())
        return state

    def load(self, states: Sequence[dict[str, Any]]) -> None:
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


def _clip_norm(config: RunConfig) -> float:
    return config.optimizer.clip_norm if isinstance(config.optimizer, AdamWConfig) else 0.0


def _copied(value: Any) -> Any:
    """Copy the tensors of nested containers: a saved view would bring its whole stack along."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def make_stepper(
    weights: dict[str, Tensor],
    view: Callable[[int], nn.Module],
    table: ParameterTable,
    configs: Sequence[RunConfig],
) -> Stepper:
    """Build the steps that the runs are configured with.

    Args:
        weights: Trained parameters, (R, *shape), leaves of the graph.
        view: Returns a model whose parameters are those of one run.
        table: Roles of the parameters.
        configs: The runs.
    """
    if isinstance(configs[0].optimizer, ScionConfig):
        return OneStepper(weights, view(0), table, configs)

    def build(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
        return build_optimizer(model, table, config.optimizer, config.width)

    return OwnSteppers([view(run) for run in range(len(configs))], build, configs)
