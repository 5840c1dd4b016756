"""Optimizers and what they need to know of each role, as frozen dataclasses."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from transfer.coefficients import parse_polar
from transfer.config.checks import STRICT, as_floats, require, require_positive

NormName = Literal[
    "spectral",
    "plain-spectral",
    "spectral-max",
    "embedding-spectral",
    "col-norm",
    "hidden-col-norm",
    "row-norm",
    "input-row-norm",
    "sign",
    "scaled-sign",
    "conv-spectral",
    "bias-rms",
    "gain-rms",
    "euclidean",
    "max-norm",
]
NORM_NAMES: tuple[str, ...] = get_args(NormName)
InitName = Literal["boundary", "slicewise", "fan-in", "keep", "zero"]
RoleName = Literal["input", "embedding", "hidden", "output", "tied", "bias", "gain", "convolution"]
INIT_NAMES: tuple[str, ...] = get_args(InitName)
BaselineInitName = Literal["fan-in", "keep"]
AverageName = Literal["gradients", "oracles"]
ROLE_NAMES: tuple[str, ...] = get_args(RoleName)


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleConfig:
    """Norm ball and initialisation of the parameters of one role."""

    __pydantic_config__: ClassVar[Any] = STRICT
    norm: NormName
    """Norm of the ball."""
    radius: float = 1.0
    """Radius rho of the ball, in units of its norm."""
    init: InitName = "boundary"
    """boundary: the norm's initialisation times the radius; slicewise: convolutions as the authors
    do, each kernel position semi-orthogonal, which lies outside the ball; fan-in: N(0, 1/d_in),
    embeddings N(0, 1), biases 0, gains 1; keep: as the model was built; zero: all zeros."""

    def __post_init__(self) -> None:
        as_floats(self)
        require(self.norm in NORM_NAMES, "norm", f"one of {', '.join(NORM_NAMES)}", self.norm)
        require_positive("radius", self.radius)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScionConfig:
    """Scion (Pethick et al. 2025, Algorithms 1 and 2), layer by layer."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["scion"] = "scion"
    stepsize: float = 2**-3
    """Peak stepsize gamma; one step of a layer has norm stepsize * radius."""
    alpha: float = 0.1
    """Weight of the new gradient in the average, in (0, 1]; 1 means no averaging."""
    average: AverageName = "gradients"
    """What is averaged: gradients (Algorithms 1 to 3), or oracles (ALMOND)."""
    constrained: bool = False
    """Algorithm 2: iterates stay in the balls. Needs stepsize <= 1."""
    polar: str = "muon"
    """Polar factor of spectral norms: BASE[:STEPS][@DTYPE], see docs/polar.md."""
    roles: dict[str, RoleConfig] = field(default_factory=dict)
    """Norm, radius and initialisation per role."""

    def __post_init__(self) -> None:
        as_floats(self)
        require_positive("stepsize", self.stepsize)
        require(0 < self.alpha <= 1, "alpha", "in (0, 1]", self.alpha)
        if self.constrained:
            require(self.stepsize <= 1, "stepsize", "at most 1 when constrained", self.stepsize)
            averaged = self.average == "gradients"
            require(averaged, "average", "'gradients' when constrained", self.average)
        parse_polar(self.polar)


def _check_adam(config: "AdamWConfig | MuonConfig | MupAdamWConfig") -> None:
    as_floats(config)
    require_positive("stepsize", config.stepsize)
    require(0 <= config.beta1 < 1, "beta1", "in [0, 1)", config.beta1)
    require(0 <= config.beta2 < 1, "beta2", "in [0, 1)", config.beta2)
    require_positive("eps", config.eps)
    _check_decay(config.weight_decay)


def _check_decay(decay: float) -> None:
    require(0 <= decay < math.inf, "weight_decay", "a finite number, at least 0", decay)


def _check_momentum(momentum: float) -> None:
    require(0 <= momentum < 1, "momentum", "in [0, 1)", momentum)


@dataclass(frozen=True, kw_only=True, slots=True)
class AdamWConfig:
    """AdamW (torch) in the standard parametrisation."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["adamw"] = "adamw"
    stepsize: float = 2**-6
    """Peak learning rate."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    init: BaselineInitName = "fan-in"
    """fan-in: the standard parametrisation; keep: as the model was built."""
    clip_norm: float = 0.0
    """Largest Euclidean norm of the whole gradient; a larger one is scaled down. 0: no limit."""

    def __post_init__(self) -> None:
        _check_adam(self)
        limit = self.clip_norm
        require(0 <= limit < math.inf, "clip_norm", "a finite number, at least 0", limit)


@dataclass(frozen=True, kw_only=True, slots=True)
class MupAdamWConfig:
    """AdamW (torch) in the maximal update parametrisation.

    With m = width / base_width: hidden and output weights have learning rate stepsize / m, output
    weights start at N(0, 1 / (m d_in)), everything else as AdamW in the standard parametrisation,
    which it equals at base_width. Yang et al. 2022, arXiv:2203.03466, Table 3.
    """

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["mup-adamw"] = "mup-adamw"
    base_width: int
    """Width at which this is AdamW in the standard parametrisation: the one tuned at."""
    stepsize: float = 2**-6
    """Peak learning rate at the base width."""
    beta1: float = 0.9
    """Decay of the first moment, in [0, 1)."""
    beta2: float = 0.999
    """Decay of the second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay, multiplied by each group's learning rate."""

    def __post_init__(self) -> None:
        _check_adam(self)
        require(self.base_width >= 1, "base_width", "at least 1", self.base_width)


@dataclass(frozen=True, kw_only=True, slots=True)
class MuonConfig:
    """Muon (torch) on hidden matrices, AdamW (torch) on all other parameters."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["muon"] = "muon"
    stepsize: float = 2**-6
    """Peak learning rate of Muon's matrices."""
    momentum: float = 0.95
    """Decay of Muon's momentum, in [0, 1)."""
    nesterov: bool = True
    """Whether Muon's momentum is Nesterov's."""
    adjust: Literal["original", "match-rms-adamw"] = "original"
    """How Muon's learning rate follows the shape: original, times sqrt(max(1, d_out / d_in));
    match-rms-adamw, times 0.2 sqrt(max(d_out, d_in))."""
    adamw_factor: float = 1.0
    """AdamW's learning rate, as a multiple of `stepsize`."""
    beta1: float = 0.9
    """Decay of AdamW's first moment, in [0, 1)."""
    beta2: float = 0.95
    """Decay of AdamW's second moment, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay of both."""
    init: BaselineInitName = "fan-in"
    """fan-in: the standard parametrisation; keep: as the model was built."""

    def __post_init__(self) -> None:
        _check_adam(self)
        _check_momentum(self.momentum)
        require_positive("adamw_factor", self.adamw_factor)


@dataclass(frozen=True, kw_only=True, slots=True)
class SgdConfig:
    """SGD with momentum (torch) in the standard parametrisation."""

    __pydantic_config__: ClassVar[Any] = STRICT
    name: Literal["sgd"] = "sgd"
    stepsize: float = 2**-4
    """Peak learning rate."""
    momentum: float = 0.9
    """Decay of the momentum, in [0, 1); torch adds every gradient with weight 1."""
    nesterov: bool = False
    """Whether the momentum is Nesterov's; needs momentum above 0."""
    weight_decay: float = 0.0
    """Weight decay, added to the gradient."""
    init: BaselineInitName = "fan-in"
    """fan-in: the standard parametrisation; keep: as the model was built."""

    def __post_init__(self) -> None:
        as_floats(self)
        require_positive("stepsize", self.stepsize)
        _check_momentum(self.momentum)
        require(self.momentum > 0 or not self.nesterov, "nesterov", "False without momentum", True)
        _check_decay(self.weight_decay)


OptimizerConfig = ScionConfig | AdamWConfig | MupAdamWConfig | MuonConfig | SgdConfig
OPTIMIZER_CONFIGS: dict[str, type[OptimizerConfig]] = {
    "scion": ScionConfig,
    "adamw": AdamWConfig,
    "mup-adamw": MupAdamWConfig,
    "muon": MuonConfig,
    "sgd": SgdConfig,
}
