"""Coordinate check: sizes of activations, weights and updates, step by step in the real loop.

A parametrisation that transfers keeps activations and their changes at one size over widths (Yang
et al. 2022, arXiv:2203.03466, appendix D.1). What is measured here is judged elsewhere: the rows
go into any table.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor, nn

from transfer.config import ComputeConfig, RunConfig, ScionConfig, require
from transfer.norms import make_norm
from transfer.roles import DEFAULT_RULES, ParameterRow, rows_to_train
from transfer.stack import Stack

_PROBE_SIZE = 256
"""Validation vectors, images or tokens that activations are measured on; all of them where there
are fewer, and one whole sequence where that is longer."""


class Coordinate(TypedDict):
    """One measured size."""

    width: int
    seed: int
    step: int
    """Steps done; 0 is the initialisation."""
    layer: str
    role: str
    quantity: str
    """activation, change, weight or update."""
    value: float
    """Not finite where training has diverged."""


def measure(
    config: RunConfig, steps: int = 10, compute: ComputeConfig | None = None
) -> list[Coordinate]:
    """Train a run for its first steps; return the sizes before the first and after each.

    Args:
        config: The run; its schedule is that of the whole run.
        steps: Steps to do, at most those of the run.
        compute: Where; by default on the CPU.

    Raises:
        ValueError: too many steps, or as `train`.
    """
    return measure_run(Stack([config], compute), steps)


def measure_run(stack: Stack, steps: int = 10) -> list[Coordinate]:
    """Measure the first run of a stack that has not begun, with what its maker changed in it.

    For every module that holds trainable parameters of its own:

    - activation: root mean square of its output on the first validation examples, without
      gradient and in evaluation mode; of the first tensor where it returns several, and over all
      calls where it is called several times. A module that is never called has none;
    - change: root mean square of the output's change since the initialisation; none while the
      output has another shape than then.

    For every trainable parameter, in its layer's own norm: Scion's for that parameter, under
    other optimizers the recommended one of its role; the largest over blocks with balls of their
    own:

    - weight: norm of the parameter;
    - update: norm of what the last step added to it.

    Layers are named after modules; a parameter after its module if it is called `weight` there,
    else by its own name. Measuring changes nothing in the run.

    Raises:
        ValueError: more steps than the run has.
    """
    most = stack.configs[0].steps
    require(1 <= steps <= most, "steps", f"between 1 and the {most} of the run", steps)
    gauge = _Gauge(stack)
    coordinates = gauge.read()
    for _ in range(steps):
        stack.advance()
        coordinates += gauge.read()
    return coordinates


def measure_weights(
    config: RunConfig, readings: int = 40, compute: ComputeConfig | None = None
) -> list[Coordinate]:
    """Train a whole run; return its parameters' norms at the start, at times, and at the end.

    The norms are those of `measure_run`. A run that diverges ends there.

    Args:
        config: The run.
        readings: How often to read, evenly over the steps; at most once a step.
        compute: Where; by default on the CPU.

    Raises:
        ValueError: `readings` is below 1, or as `train`.
    """
    require(readings >= 1, "readings", "at least 1", readings)
    stack = Stack([config], compute)
    gauge, number = _Gauge(stack), min(readings, config.steps)
    due = {round(config.steps * (i + 1) / number) for i in range(number)}
    rows = gauge.norms()
    while stack.step < config.steps:
        stack.advance()
        if stack.step in due:
            rows += gauge.norms()
            if not all(math.isfinite(row["value"]) for row in rows):
                break
    return rows


class _Layer(NamedTuple):
    """A module with parameters of its own, and the role of the first of them."""

    module: nn.Module
    role: str


class _Parameter(NamedTuple):
    """A parameter, under the name of its layer, with its row of the table."""

    layer: str
    row: ParameterRow
    tensor: Tensor


class _Gauge:
    """Reads off the sizes in a run, time after time."""

    def __init__(self, stack: Stack) -> None:
        self.stack, self.config = stack, stack.configs[0]
        rows = rows_to_train(stack.model, stack.table)
        self.parameters = [
            _Parameter(row.name.removesuffix(".weight"), row, p.detach()) for row, p in rows
        ]
        roles = {id(p): row.role for row, p in rows}
        self.layers: dict[str, _Layer] = {}
        for name, module in stack.model.named_modules():
            own = [roles[id(p)] for p in module.parameters(recurse=False) if id(p) in roles]
            if own:
                self.layers[name or "model"] = _Layer(module, own[0])
        self.start: dict[str, Tensor] = {}
        self.before: list[Tensor] = []

    def read(self) -> list[Coordinate]:
        """Return all sizes now; changes are against the first reading, updates the last one."""
        outputs = self._outputs()
        self.start = self.start or outputs
        read = []
        for name, output in outputs.items():
            role, start = self.layers[name].role, self.start.get(name)
            read.append(self._coordinate(name, role, "activation", _rms(output)))
            if self.stack.step and start is not None and start.shape == output.shape:
                read.append(self._coordinate(name, role, "change", _rms(output - start)))
        read += self._weights()
        return read

    def norms(self) -> list[Coordinate]:
        """Return the parameters' norms now."""
        return [
            self._coordinate(layer, row.role, "weight", self._norm(row, p))
            for layer, row, p in self.parameters
        ]

    def _weights(self) -> list[Coordinate]:
        read = self.norms()
        for index, (layer, row, p) in enumerate(self.parameters):
            if self.before:
                update = self._norm(row, p - self.before[index])
                read.append(self._coordinate(layer, row.role, "update", update))
        self.before = [p.clone() for _, _, p in self.parameters]
        return read

    def _norm(self, row: ParameterRow, x: Tensor) -> float:
        optimizer = self.config.optimizer
        rule = row.rule(optimizer.roles if isinstance(optimizer, ScionConfig) else DEFAULT_RULES)
        norm, layout = make_norm(rule.norm), row.layout_for(rule.norm)
        events = (layout.to_events(block, norm.event_ndim) for block in layout.blocks(x))
        return max(norm.norm(e).max().item() for e in events)

    def _outputs(self) -> dict[str, Tensor]:
        """Return every layer's outputs on the probe, as one vector a call in the order of calls."""
        seen: dict[str, list[Tensor]] = {}
        with _listening(self.layers, seen):
            self.stack.pass_through(max(1, _PROBE_SIZE // self.stack.data.shape.positions))
        return {name: torch.cat(parts) for name, parts in seen.items()}

    def _coordinate(self, layer: str, role: str, quantity: str, value: float) -> Coordinate:
        return Coordinate(
            width=self.config.width,
            seed=self.config.seed,
            step=self.stack.step,
            layer=layer,
            role=role,
            quantity=quantity,
            value=value,
        )


@contextmanager
def _listening(layers: dict[str, _Layer], seen: dict[str, list[Tensor]]) -> Iterator[None]:
    """Collect what the layers return, while it lasts."""

    def listener(name: str) -> Any:
        def hear(module: nn.Module, given: Any, returned: Any) -> None:
            tensor = _first_tensor(returned)
            if tensor is not None:
                # A copy: an activation function may work in place on the output.
                seen.setdefault(name, []).append(tensor.detach().flatten().clone())

        return hear

    handles = [layer.module.register_forward_hook(listener(n)) for n, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(returned: Any) -> Tensor | None:
    """Return the first tensor of real numbers in an output of tensors, tuples, lists and dicts."""
    if isinstance(returned, Tensor):
        return returned if returned.is_floating_point() else None
    if isinstance(returned, dict):
        returned = list(returned.values())
    if isinstance(returned, (tuple, list)):
        return next((t for t in map(_first_tensor, returned) if t is not None), None)
    return None


def _rms(x: Tensor) -> float:
    # In float64: squares of a diverging float32 activation overflow before the activation does.
    return x.cpu().double().square().mean().sqrt().item()
