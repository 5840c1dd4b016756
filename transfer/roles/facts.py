"""What a module's type says about its parameters: kind of parameter and layout of its tensor."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import nn

from transfer.layouts import Layout

Kind = Literal["linear", "embedding", "convolution", "patches", "gain", "bias", "unknown"]

# Module names under which three (or two) equal projections of one input lie side by side in d_out.
_FUSED = {3: {"c_attn", "qkv", "wqkv", "in_proj", "qkv_proj"}, 2: {"gate_up_proj", "w12"}}
# Names of fused projections whose blocks are interleaved or of unequal size: never guessed.
_PERHAPS_FUSED = {"query_key_value", "kv", "kv_proj", "c_attn", "qkv", "wqkv", "qkv_proj"}

_NORMALISATION = re.compile(r"(Layer|Batch|Group|Instance|RMS|T5Layer|Scale)?Norm(\d?d)?$", re.I)
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
# Parameters that no module type explains are known by whole words of their names, or not at all.
_BIAS_WORDS = {"bias", "beta", "shift"}
_GAIN_WORDS = {"weight", "gain", "scale", "gamma", "lambda", "temperature"}
_INPUT_WORDS = {
    *("cls", "class", "token", "tokens", "prompt", "prompts", "latent", "latents"),
    *("pos", "position", "positions", "positional", "embed", "embeds", "embedding", "embeddings"),
    *("register", "registers"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One parameter, as its module's type explains it."""

    kind: Kind
    layout: Layout
    note: str = ""
    """What a reader of the table should look at."""
    by_name: bool = False
    """Whether nothing but the parameter's name says so."""


def parameter_facts(model: nn.Module) -> dict[str, list[Fact]]:
    """Return what the modules say of every parameter, by the first name torch gives it.

    A parameter that several modules share has one entry for each of them.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    facts: dict[str, list[Fact]] = defaultdict(list)
    for path, module in model.named_modules():
        for own, p in module.named_parameters(recurse=False):
            facts[names[id(p)]].append(_fact(module, path.rpartition(".")[2], own, p))
    return {name: facts[name] for name in names.values()}


def _fact(module: nn.Module, called: str, own: str, p: nn.Parameter) -> Fact:
    for explain in (_projection, _table, _convolution, _normalisation, _recurrent):
        for fact in explain(module, called, own, p):
            return fact
    return _by_name(own, p)


def _projection(module: nn.Module, called: str, own: str, p: nn.Parameter) -> Iterator[Fact]:
    """nn.Linear, the (d_in, d_out) Conv1D of GPT-2, and attention's projections."""
    if isinstance(module, nn.MultiheadAttention) and p.ndim == 2 and own.endswith("weight"):
        thirds = (module.embed_dim,) * 3 if own == "in_proj_weight" else ()
        yield Fact(kind="linear", layout=Layout(split_sizes=thirds))
    elif isinstance(module, nn.MultiheadAttention) and own == "in_proj_bias":
        thirds = (module.embed_dim,) * 3
        yield Fact(kind="bias", layout=Layout(name="vector", split_sizes=thirds))
    # By name: transformers need not be installed, and has moved the class before.
    flipped = type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    if not (isinstance(module, nn.Linear) or flipped) or own not in ("weight", "bias"):
        return
    shape = tuple(module.weight.shape)  # type: ignore[arg-type]
    d_out, d_in = reversed(shape) if flipped else shape
    sizes = _fused_sizes(called, d_out, d_in)
    if own == "bias":
        yield Fact(kind="bias", layout=Layout(name="vector", split_sizes=sizes))
        return
    suspect = called.lower() in _PERHAPS_FUSED and not sizes
    yield Fact(
        kind="linear",
        layout=Layout(name="transposed" if flipped else "matrix", split_sizes=sizes),
        note="fused? one block, unless split_sizes are given" if suspect else "",
    )


def _fused_sizes(called: str, d_out: int, d_in: int) -> tuple[int, ...]:
    name = called.lower()
    if name in _FUSED[3] and d_out == 3 * d_in:
        return (d_in,) * 3
    if name in _FUSED[2] and d_out % 2 == 0:
        return (d_out // 2,) * 2
    return ()


def _table(module: nn.Module, called: str, own: str, p: nn.Parameter) -> Iterator[Fact]:
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        yield Fact(kind="embedding", layout=Layout(name="table"))
    elif isinstance(module, nn.MultiheadAttention) and own in ("bias_k", "bias_v"):
        yield Fact(kind="embedding", layout=Layout(name="table"))


def _convolution(module: nn.Module, called: str, own: str, p: nn.Parameter) -> Iterator[Fact]:
    if not isinstance(module, nn.modules.conv._ConvNd):
        return
    if own == "bias":
        yield Fact(kind="bias", layout=Layout(name="vector"))
        return
    name: Literal["conv", "conv-transposed"] = "conv-transposed" if module.transposed else "conv"
    apart = module.kernel_size == module.stride and max(module.kernel_size) > 1
    patches = apart and module.groups == 1 and not module.transposed
    layout = Layout(name=name, groups=module.groups)
    yield Fact(kind="patches" if patches else "convolution", layout=layout)


def _normalisation(module: nn.Module, called: str, own: str, p: nn.Parameter) -> Iterator[Fact]:
    if not any(_NORMALISATION.search(kind.__name__) for kind in type(module).__mro__):
        return
    if _words(own) & _BIAS_WORDS:
        yield Fact(kind="bias", layout=Layout(name="whole"))
    elif p.ndim <= 1 or isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        yield Fact(kind="gain", layout=Layout(name="whole"))


def _recurrent(module: nn.Module, called: str, own: str, p: nn.Parameter) -> Iterator[Fact]:
    if not isinstance(module, nn.RNNBase):
        return
    gates = _GATES.get(module.mode.partition("_")[0], 1)
    sizes = (p.shape[0] // gates,) * gates if gates > 1 and "_hr_" not in own else ()
    if p.ndim == 2:
        yield Fact(kind="linear", layout=Layout(split_sizes=sizes))
    else:
        yield Fact(kind="bias", layout=Layout(name="vector", split_sizes=sizes))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _by_name(own: str, p: nn.Parameter) -> Fact:
    """Parameters that modules of unknown types hold themselves."""
    words = _words(own)
    if p.ndim <= 1 and words & _BIAS_WORDS:
        return Fact(kind="bias", layout=Layout(name="whole"), by_name=True)
    if p.ndim <= 1 and (p.ndim == 0 or words & _GAIN_WORDS):
        return Fact(kind="gain", layout=Layout(name="whole"), by_name=True)
    if words & _INPUT_WORDS:
        return Fact(kind="embedding", layout=Layout(name="table"), by_name=True)
    guess = {2: "matrix", 1: "vector"}.get(p.ndim, "whole")
    return Fact(kind="unknown", layout=Layout(name=guess))  # type: ignore[arg-type]
