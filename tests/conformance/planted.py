"""A plain implementation of Scion that can be told to make one usual mistake.

It imports nothing of the project and serves as an example of an adapter.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MISTAKES = {
    "bias-sum": "RMS of biases and gains from the sum of squares",
    "spectral-everywhere": "embedding, input and output layers as hidden matrices",
    "transposed-embedding": "an embedding's columns as stored",
    "alpha-of-old": "alpha as the weight of the old average",
    "starts-at-gradient": "the average starts at the first gradient",
    "no-average": "only the new gradient counts",
    "nesterov": "the new gradient is mixed in once more",
    "averaged-oracles": "the oracle's answers are averaged",
    "epsilon": "1e-7 added in every normalisation",
    "no-rescaling": "squares of gradients as they are",
    "ascent": "the oracle's sign",
    "no-aspect": "U V^T without sqrt(d_out / d_in)",
    "flipped-aspect": "U V^T with sqrt(d_in / d_out)",
    "unscaled-sign": "output sign without 1 / d_in",
    "no-kernel": "convolutions without the division by prod(k)",
    "no-radius": "the radius is not used",
    "one-radius": "one radius for all parameters",
    "no-shrinking": "constrained steps leave the weights whole",
    "decay-by-radius": "constrained steps multiply by 1 - stepsize / radius",
    "initialises-in-step": "parameters are initialised in the first step",
    "drops-vectors": "parameters of one dimension are left out",
    "fixed-stepsize": "the stepsize is read once",
    "no-closure": "step takes no closure",
    "init-radius": "initialisation without the radius",
    "init-gains": "gains start at zero",
    "init-slices": "convolutions are initialised slice by slice",
}


class PlainScion(torch.optim.Optimizer):
    """Scion, one parameter after the other."""

    def __init__(self, groups: list[dict[str, Any]], stepsize: float, mistake: str) -> None:
        assert not mistake or mistake in MISTAKES
        super().__init__(groups, {"lr": stepsize})
        self.first, self.mistake = stepsize, mistake

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if closure is not None and self.mistake == "no-closure":
            raise TypeError("step() takes 1 positional argument but 2 were given")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, p.grad, group)
        return loss

    def _step(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> None:
        stepsize, alpha, radius = group["lr"], group["alpha"], group["radius"]
        state = self.state[p]
        if self.mistake == "initialises-in-step" and not state:
            p.copy_(100 * torch.randn(p.shape))
        if self.mistake == "fixed-stepsize":
            stepsize = self.first
        if self.mistake == "no-radius":
            radius = 1.0
        if self.mistake == "one-radius":
            radius = self.param_groups[0]["radius"]
        direction = self._direction(state, g, alpha, group)
        if group["constrained"] and self.mistake == "decay-by-radius":
            p.mul_(1 - stepsize / radius)
        elif group["constrained"] and self.mistake != "no-shrinking":
            p.mul_(1 - stepsize)
        p.add_(direction, alpha=stepsize * radius)

    def _direction(
        self, state: dict[str, Any], g: Tensor, alpha: float, group: dict[str, Any]
    ) -> Tensor:
        if self.mistake == "averaged-oracles":
            answer = oracle(g, group, self.mistake)
            d = state.setdefault("average", torch.zeros_like(g))
            return d.mul_(1 - alpha).add_(answer, alpha=alpha)
        if self.mistake == "no-average":
            return oracle(g, group, self.mistake)
        if self.mistake == "alpha-of-old":
            alpha = 1 - alpha if alpha < 1 else 1.0
        start = g.clone() if self.mistake == "starts-at-gradient" else torch.zeros_like(g)
        d = state.setdefault("average", start)
        d.mul_(1 - alpha).add_(g, alpha=alpha)
        if self.mistake == "nesterov":
            d = (1 - alpha) * d + alpha * g
        return oracle(d, group, self.mistake)


def oracle(g: Tensor, group: dict[str, Any], mistake: str) -> Tensor:
    """Return the point of the unit sphere that minimises <g, .>."""
    peak = g.abs().max()
    if peak == 0:
        return torch.zeros_like(g)
    if mistake not in ("epsilon", "no-rescaling"):
        g = g / peak
    transposed = group["role"] == "embedding" and mistake != "transposed-embedding"
    norm = group["norm"]
    if mistake == "spectral-everywhere" and g.ndim == 2:
        transposed, norm = False, "spectral"
    s = g.mT if transposed else g.flatten(1) if g.ndim > 2 else g
    answer = _unit_point(s, norm, math.prod(g.shape[2:]), mistake)
    answer = (answer.mT if transposed else answer).reshape(g.shape)
    return answer if mistake == "ascent" else -answer


def _unit_point(s: Tensor, norm: str, kernel: int, mistake: str) -> Tensor:
    epsilon = 1e-7 if mistake == "epsilon" else 0.0
    if s.ndim == 1:
        square = s.square().sum() if mistake == "bias-sum" else s.square().mean()
        return s / (square.sqrt() + epsilon)
    d_out, d_in = s.shape
    match norm:
        case "col-norm":
            return math.sqrt(d_out) * s / (s.square().sum(0).sqrt() + epsilon)
        case "row-norm":
            return s / (s.square().sum(1, keepdim=True).sqrt() + epsilon) / math.sqrt(d_in)
        case "sign":
            return s.sign()
        case "scaled-sign":
            return s.sign() / (1 if mistake == "unscaled-sign" else d_in)
    u, _, vh = torch.linalg.svd(s / (s.square().sum().sqrt() + epsilon), full_matrices=False)
    size = s.square().sum().sqrt()
    # An exact polar factor knows no size; Newton-Schulz would keep that of small gradients.
    return size / (size + epsilon) * _factor(norm, d_out, d_in, kernel, mistake) * u @ vh


def _factor(norm: str, d_out: int, d_in: int, kernel: int, mistake: str) -> float:
    if norm == "conv-spectral":
        factor = math.sqrt(d_out / (d_in / kernel))
        return factor if mistake == "no-kernel" else factor / kernel
    if mistake == "no-aspect":
        return 1.0
    ratio = d_in / d_out if mistake == "flipped-aspect" else d_out / d_in
    return max(1.0, math.sqrt(ratio)) if norm == "spectral-max" else math.sqrt(ratio)


@dataclass(frozen=True)
class Factory:
    """A factory with one of the mistakes."""

    mistake: str = ""
    exact: bool = True

    def __call__(
        self,
        model: nn.Module,
        specs: list[Any],
        *,
        stepsize: float,
        alpha: float,
        constrained: bool,
    ) -> torch.optim.Optimizer:
        settings = {"alpha": alpha, "constrained": constrained}
        groups = []
        for spec in specs:
            p = model.get_parameter(spec.name)
            if p.ndim > 1 or self.mistake != "drops-vectors":
                groups.append({"params": [p], **vars(spec), **settings})
        return PlainScion(groups, stepsize, self.mistake)

    def init(self, model: nn.Module, specs: list[Any], seed: int) -> None:
        init(model, specs, seed, self.mistake)


@torch.no_grad()
def init(model: nn.Module, specs: list[Any], seed: int, mistake: str) -> None:
    """Fill with a point of the sphere: the oracle's answer to noise."""
    generator = torch.Generator().manual_seed(seed)
    for spec in specs:
        p = model.get_parameter(spec.name)
        noise = torch.randn(p.shape, generator=generator)
        radius = 1.0 if mistake == "init-radius" else spec.radius
        if spec.role == "bias" or (spec.role == "gain" and mistake == "init-gains"):
            p.zero_()
        elif spec.role == "gain":
            p.fill_(radius)
        else:
            p.copy_(radius * oracle(noise, vars(spec), mistake))
        if p.ndim == 4 and mistake == "init-slices":
            for position in p.flatten(2).unbind(2):
                position.copy_(torch.nn.init.orthogonal_(position.clone(), generator=generator))
            p.mul_(radius * math.sqrt(p.shape[0] / p.shape[1]) / math.prod(p.shape[2:]))


plain = Factory()
ascent = Factory("ascent")
