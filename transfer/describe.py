"""What a model costs: parameters, arithmetic and memory, found without any weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transfer.config import DataShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
    """Size and cost of one model."""

    parameters: int
    """Trainable numbers; a tied tensor counts once."""
    parameters_without_embedding: int
    """The same without one-hot inputs: embeddings, tied ones too, and position embeddings."""
    flops: int
    """Floating-point operations of matrix products, convolutions and attention, forward and
    backward, per token or image; a multiplication and an addition count as two, and causal
    attention as if all positions saw all."""
    activation_bytes: int
    """What the forward pass in float32 keeps for the backward pass per example, weights and input
    aside, with attention that keeps no T x T matrices."""


def describe(build: Callable[[], nn.Module], shape: DataShape) -> Description:
    """Describe the model that a function builds; nothing is allocated.

    Raises:
        ValueError: the model cannot be built or run without values.
    """
    # Not above, and so in `measure`: it imports the compiler, which takes as long as torch itself.
    from torch._subclasses.fake_tensor import FakeTensorMode

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = build()
            return measure(model, *_examples(shape))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the model cannot be described without its values: {reason}") from error


def measure(model: nn.Module, x: Tensor, y: Tensor) -> Description:
    """Describe a model by the forward and backward pass of a batch, x and y of two examples."""
    from torch.utils.flop_counter import FlopCounterMode

    embedded = _embedding_names(model)
    sizes = _sizes(model)
    with FlopCounterMode(display=False, custom_mapping=_attention_costs()) as counter:
        loss, kept = _forward(model, x, y)
        torch.autograd.backward(loss)
    return Description(
        parameters=sum(sizes.values()),
        parameters_without_embedding=sum(n for name, n in sizes.items() if name not in embedded),
        flops=counter.get_total_flops() // max(1, y.numel()),
        activation_bytes=kept,
    )


def footprint(build: Callable[[], nn.Module], shape: DataShape) -> tuple[int, int]:
    """Return `parameters` and `activation_bytes` of the model that a function builds, as it is.

    Raises:
        ValueError: the model cannot be run.
    """
    try:
        with torch.random.fork_rng(devices=[]):  # the caller's generator is not ours to advance
            model = build()
            return sum(_sizes(model).values()), _forward(model, *_examples(shape))[1]
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"the model cannot be trained on two examples: {reason}") from error


def _examples(shape: DataShape) -> tuple[Tensor, Tensor]:
    """Return inputs and targets of two examples: some normalisations refuse a single one."""
    if shape.kind == "tokens":
        x = torch.zeros(2, *shape.inputs, dtype=torch.int64)
        return x, torch.zeros_like(x)
    return torch.zeros(2, *shape.inputs), torch.zeros(2, dtype=torch.int64)


def _sizes(model: nn.Module) -> dict[str, int]:
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}


def _forward(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, int]:
    """Return the loss, and the bytes that it keeps for the backward pass per example."""
    saved = _Saved([*model.parameters(), *model.buffers(), x, y])
    with torch.autograd.graph.saved_tensors_hooks(saved.keep, lambda t: t):
        loss = _loss(model, x, y)
    return loss, saved.num_bytes // len(x)


def _product(q: Any, k: Any) -> int:
    """Return the operations of all queries times all keys, from shapes (batch, heads, T, K)."""
    batch, heads, rows, size = q
    return int(2 * batch * heads * rows * k[2] * size)


def _attention(q: Any, k: Any, v: Any, *rest: Any, **more: Any) -> int:
    return 2 * _product(q, k)


def _attention_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **more: Any) -> int:
    return 5 * _product(q, k)


def _attention_costs() -> dict[Any, Any]:
    """Return what torch lacks: it counts its attention kernels for GPUs, not yet that for CPUs."""
    aten = torch.ops.aten
    return {
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    own = getattr(model, "loss", None)
    if own is not None:
        loss: Tensor = own(x, y)
        return loss
    return F.cross_entropy(model(x).flatten(0, -2), y.flatten())


def _embedding_names(model: nn.Module) -> set[str]:
    """Return the parameters of one-hot inputs, as the model states its roles, else by module."""
    stated = getattr(model, "parameter_roles", None)
    if stated is not None:
        return {name for name, role in stated().items() if role in ("embedding", "tied")}
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return {name for name, p in model.named_parameters() if id(p) in tables}


class _Saved:
    """Bytes of the storages that are saved for the backward pass, each once, some left out."""

    def __init__(self, left_out: list[Tensor]) -> None:
        self.num_bytes = 0
        # The tensors are kept: a freed storage's address would be used again.
        self._kept: list[Any] = list(left_out)
        self._seen = {t.untyped_storage()._cdata for t in left_out}

    def keep(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd saves."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._kept.append(tensor)
            self.num_bytes += storage.nbytes()
        return tensor
