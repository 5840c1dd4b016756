"""`lmo-transfer describe`: what the models of an experiment cost, before anything is trained."""

import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from sweeps.experiment import Experiment

_MIB, _GIB = 2**20, 2**30


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One size of the sweep; see `transfer.describe.Description` for what is counted."""

    size: int
    """Along the axis of the sweep."""
    swept: bool
    """Whether it is swept; if not, the tuned setting is tried there."""
    width: int
    depth: int
    batch_size: int
    steps: int
    parameters: int
    parameters_without_embedding: int
    flops_per_position: int
    """Floating-point operations of training on a token, or on an image or a vector."""
    flops_per_run: int
    """The same for all steps of a run, validation aside."""
    activation_bytes_per_example: int
    """What the forward pass keeps of a sequence, an image or a vector, in float32."""
    examples_at_once: int
    """Batch, or micro-batch."""
    activation_bytes: int
    """What the forward pass keeps of the examples that are computed at once."""


def costs(experiment: Experiment) -> list[Cost]:
    """Describe every size of a sweep, the one that is only checked included; nothing is allocated.

    Raises:
        ValueError: the model cannot be built, or not without its weights.
    """
    from transfer.families import Family

    family = Family(experiment.model, experiment.data.shape)
    describe = lru_cache(family.describe)  # along batch sizes and steps the model is one
    sizes = [*experiment.sweep.sizes, experiment.sweep.check_size]
    made = []
    for size in filter(None, sizes):
        point = experiment.at(size)
        model = describe(point.width, point.depth)
        positions = experiment.data.shape.positions * point.batch_size * point.steps
        at_once = min(experiment.compute.micro_batch_size or point.batch_size, point.batch_size)
        made.append(
            Cost(
                size=size,
                swept=size in experiment.sweep.sizes,
                width=point.width,
                depth=point.depth,
                batch_size=point.batch_size,
                steps=point.steps,
                parameters=model.parameters,
                parameters_without_embedding=model.parameters_without_embedding,
                flops_per_position=model.flops,
                flops_per_run=model.flops * positions,
                activation_bytes_per_example=model.activation_bytes,
                examples_at_once=at_once,
                activation_bytes=model.activation_bytes * at_once,
            )
        )
    return made


def print_costs(experiment: Experiment, *, as_json: bool) -> None:
    """Print a table of all sizes, or JSON; raises ValueError as `costs`."""
    found, axis = costs(experiment), experiment.sweep.axis
    if as_json:
        rows = [asdict(cost) for cost in found]
        told = {"experiment": experiment.name, "axis": axis, "position": _position(experiment)}
        print(json.dumps({**told, "sizes": rows}, indent=2))
        return
    print(_heading(experiment, found[0]))
    print(_table(_titles(experiment), [_cells(cost) for cost in found]))
    print(
        "\nFLOPs: matrix products, convolutions and attention, forward and backward; a run: all "
        "its steps.\nActivations: what the forward pass keeps in float32, weights aside."
    )


def _position(experiment: Experiment) -> str:
    return {"tokens": "token", "images": "image", "vectors": "vector"}[experiment.data.shape.kind]


def _heading(experiment: Experiment, first: Cost) -> str:
    """Name the experiment and what it holds fixed, along every axis but the swept one."""
    axis, fixed_examples = experiment.sweep.axis, experiment.sweep.fixed_examples
    moving = {axis, "steps"} if fixed_examples else {axis}
    names = [name for name in ("width", "depth", "batch_size", "steps") if name not in moving]
    fixed = [f"{name.replace('_', ' ')} {getattr(first, name)}" for name in names]
    shape = " x ".join(map(str, experiment.data.shape.inputs))
    told = f"{experiment.data.name} ({shape})"
    return f"{experiment.name}: {experiment.model.family} on {told}, {', '.join(fixed)}\n"


def _titles(experiment: Experiment) -> list[str]:
    position = _position(experiment)
    example = "sequence" if position == "token" else position
    return [
        experiment.sweep.axis.replace("_", " "),
        "parameters",
        "without embedding",
        f"FLOPs a {position}" if position != "image" else "FLOPs an image",
        "FLOPs a run",
        f"activations a{'n' * (example == 'image')} {example}",
        "at once",
    ]


def _cells(cost: Cost) -> list[str]:
    return [
        f"{cost.size}" if cost.swept else f"{cost.size} (check)",
        f"{cost.parameters:,}",
        f"{cost.parameters_without_embedding:,}",
        f"{cost.flops_per_position:.2e}",
        f"{cost.flops_per_run:.2e}",
        _memory(cost.activation_bytes_per_example),
        f"{_memory(cost.activation_bytes)} ({cost.examples_at_once})",
    ]


def _memory(num_bytes: int) -> str:
    if num_bytes >= _GIB:
        return f"{num_bytes / _GIB:.2f} GiB"
    return f"{num_bytes / _MIB:.2f} MiB" if num_bytes >= 1e4 else f"{num_bytes} B"


def _table(titles: list[str], rows: list[list[Any]]) -> str:
    """Align columns to the right."""
    lines = [titles, *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(titles))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
