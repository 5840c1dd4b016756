"""The checks, as functions of an implementation: AssertionError says what is probably wrong."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tests.conformance.cases import CASES, Case, gaussian
from tests.conformance.network import check_network_width
from tests.conformance.protocol import Implementation

STEPSIZE, RADIUS = 0.25, 3.0
EXACT = 1e-3
"""Relative tolerance of exact oracles in float32."""
SIZES = (0.65, 1.21)
"""Norm of five Newton-Schulz steps at radius 1, of the usual coefficient sets, in bfloat16 too."""
ANGLE = 0.9
"""Least cosine between five Newton-Schulz steps and the exact oracle, for Gaussian gradients."""
BLUR = 0.1
"""Most that Newton-Schulz steps in bfloat16 may differ, for gradients that differ by a factor."""


class Layer:
    """One case's layer, on the boundary of its ball, under an optimizer."""

    def __init__(
        self,
        scion: Implementation,
        case: Case,
        *,
        width: int = 16,
        stepsize: float = STEPSIZE,
        alpha: float = 0.1,
        constrained: bool = False,
    ) -> None:
        self.case, self.module = case, case.layer(width)
        self.p = self.module.get_parameter(case.parameter)
        with torch.no_grad():
            self.p.copy_(RADIUS * case.lmo(gaussian(self.p.shape, 99)))
        self.optimizer = scion.build(
            self.module,
            [case.spec(RADIUS)],
            stepsize=stepsize,
            alpha=alpha,
            constrained=constrained,
        )

    def step(self, g: Tensor) -> Tensor:
        """Step with this gradient; return the change of the weights in float64."""
        before = self.p.detach().double().clone()
        feed(self.optimizer, {self.p: g})
        return self.p.detach().double() - before

    def gradient(self, seed: int) -> Tensor:
        """Return a Gaussian gradient."""
        return gaussian(self.p.shape, seed)


def feed(optimizer: torch.optim.Optimizer, grads: dict[nn.Parameter, Tensor]) -> None:
    """Do a step of the usual loop in which the parameters have these gradients."""
    optimizer.zero_grad()
    torch.stack([(p * g).sum() for p, g in grads.items()]).sum().backward()
    optimizer.step()


def apart(a: Tensor, b: Tensor) -> float:
    """Return the length of a - b relative to that of b."""
    return ((a - b).norm() / b.norm()).item()


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine between two tensors, each as one vector."""
    return cosine_similarity(a.flatten().double(), b.flatten().double(), 0).item()


def sizes(scion: Implementation, case: Case) -> tuple[float, float]:
    """Return the least and largest size, in radii, of an answer on the sphere."""
    blurred = case.spectral and not scion.exact
    return SIZES if blurred else (1 - EXACT, 1 + EXACT)


def slack(scion: Implementation, case: Case) -> float:
    """Return how much two answers for the same direction may differ, relatively."""
    return BLUR if case.spectral and not scion.exact else EXACT


def diagnosis(case: Case, answer: Tensor, g: Tensor, alpha: float) -> str:
    """Say which usual mistake gives this answer (an update over stepsize * radius) to g."""
    right = case.lmo(g)
    known = case.mistakes(g) | {
        "the right point, but of radius 1: the radius is not used": right / RADIUS,
        "the right point times the radius twice": right * RADIUS,
        "the right point times the stepsize twice": right * STEPSIZE,
        "the right point times alpha: is the oracle averaged instead of the gradient?": right
        * alpha,
    }
    nearest = min(known, key=lambda text: apart(answer, known[text]))
    if apart(answer, known[nearest]) < min(0.3, apart(answer, right)):
        return f"the update is {nearest}"
    if apart(answer, right) > 3:
        return "the update is far too long: are the weights initialised again in the first step?"
    return "it is none of the usual mistakes; see the formulas in protocol.py"


# --- layer by layer ---


def check_init(scion: Implementation, case: Case, width: int = 16) -> None:
    """Initial weights are on the boundary of their ball; biases zero; the same for a seed."""
    weights = []
    for seed in (1, 1, 2):
        module = case.layer(width)
        scion.initialise(module, [case.spec(RADIUS)], seed)
        weights.append(module.get_parameter(case.parameter).detach().clone())
    x = weights[0]
    assert torch.equal(x, weights[1]), (
        "one seed gave two initialisations: is a part left as it was?"
    )
    if case.role == "bias":
        assert not x.any(), "biases start at zero"
        return
    if case.role == "gain":
        hint = "" if x.any() else ": zero, as if they were biases, and their layers give nothing"
        assert torch.allclose(x, torch.full_like(x, RADIUS)), f"gains start at their radius{hint}"
        return
    assert not torch.equal(x, weights[2]), "two seeds gave the same initialisation"
    size = case.size(x) / RADIUS
    hint = ""
    if abs(size * RADIUS - 1) < EXACT:
        hint = ": it has norm 1, so the radius is not used"
    elif case.role == "convolution" and size > 1:
        hint = ": semi-orthogonal slice by slice instead of as (out, in * prod(k))?"
    elif case.role == "embedding":
        hint = ": is it initialised as a hidden matrix, or transposed?"
    assert abs(size - 1) < EXACT, (
        f"{case.role}: initial weights have {case.norm} norm {size:.4g} radii, not 1{hint}"
    )


def check_first_step(
    scion: Implementation, case: Case, alpha: float = 0.1, constrained: bool = False
) -> None:
    """From a zero average: the update is on the sphere, and no point of it goes down faster."""
    layer = Layer(scion, case, alpha=alpha, constrained=constrained)
    g = layer.gradient(1)
    start = layer.p.detach().double().clone()
    update = layer.step(g)
    where = f"{case.role} in {case.norm}, first step from a zero average"
    if constrained:
        whole = update / (STEPSIZE * RADIUS)
        update = update + STEPSIZE * start
        where += ", of x_new - (1 - stepsize) x_old"
        if apart(whole, case.lmo(g)) < slack(scion, case) + 0.2:
            raise AssertionError(f"{where}: the weights are not multiplied by 1 - stepsize")
    answer = update / (STEPSIZE * RADIUS)
    low, high = sizes(scion, case)
    size, descent = case.size(answer), -(g * answer).sum().item() / case.dual(g)
    why = f"{where}: {diagnosis(case, answer, g, alpha)}"
    assert descent > 0, f"{why} (<g, update> > 0)"
    assert low <= size <= high, (
        f"{why} (norm {size:.4g} stepsize * radius, not {low:g} to {high:g})"
    )
    assert low <= descent <= high, (
        f"{why} (<g, update> is {descent:.4g} of -stepsize * radius * dual norm of g)"
    )


def check_momentum_start(scion: Implementation, case: Case) -> None:
    """The average starts at zero: the first step is the same for every alpha."""
    alphas = (0.1, 0.5, 1.0)
    updates = []
    for alpha in alphas:
        layer = Layer(scion, case, alpha=alpha)
        updates.append(layer.step(layer.gradient(1)))
    for alpha, update in zip(alphas, updates, strict=True):
        off = apart(update, updates[-1])
        assert off < slack(scion, case), (
            f"first step at alpha {alpha} is {off:.3g} away from that at alpha 1: the oracle sees "
            "directions only, and the average of one gradient has its direction. Is the oracle's "
            "answer averaged, or does an epsilon matter?"
        )


def check_second_step(scion: Implementation, case: Case, alpha: float = 0.1) -> None:
    """The second step follows (1 - alpha) alpha g1 + alpha g2."""
    layer = Layer(scion, case, alpha=alpha)
    g1, g2 = layer.gradient(1), layer.gradient(2)
    layer.step(g1)
    update = layer.step(g2)
    average = (1 - alpha) * alpha * g1 + alpha * g2
    right = case.lmo(average)
    others = {
        "alpha is read as the weight of the OLD average": alpha * g1 + g2,
        "the average starts at the first gradient instead of zero": (1 - alpha) * g1 + alpha * g2,
        "only the new gradient counts: is the average kept?": g2,
        "only the first gradient counts": g1,
        "gradients are added up without (1 - alpha)": g1 + g2,
        "Nesterov: the new gradient is mixed in once more": (1 - alpha) * average + alpha * g2,
        "the update points uphill": -average,
    }
    seen = cosine(update, right)
    nearest = max(others, key=lambda text: cosine(update, case.lmo(others[text])))
    theirs = case.lmo(others[nearest])
    # What answers nearly the same as the right average cannot be told from it by a blurred oracle.
    mistaken = cosine(update, theirs) > seen and cosine(right, theirs) < 0.99
    enough = ANGLE if case.spectral and not scion.exact else 1 - EXACT
    hint = nearest if mistaken else "the average is another one"
    assert seen >= enough and not mistaken, (
        f"second step at alpha {alpha} does not follow (1 - alpha) alpha g1 + alpha g2 "
        f"(cosine {seen:.4f}): {hint}. alpha is the weight of the NEW gradient; if "
        "first_step fails too, look there first"
    )


def check_scale(scion: Implementation, case: Case, scale: float) -> None:
    """The size of the loss does not matter."""
    plain, scaled = Layer(scion, case), Layer(scion, case)
    wanted = plain.step(plain.gradient(1))
    update = scaled.step(scaled.gradient(1) * scale)
    off = apart(update, wanted)
    assert off < slack(scion, case), (
        f"{case.role} in {case.norm}: gradients times {scale:g} change the update by {off:.3g} of "
        "its length: is an epsilon added in the normalisation, or does a square leave float32? "
        "Divide by the largest magnitude first, then by the norm without an epsilon"
    )


def check_zero_gradient(scion: Implementation, case: Case) -> None:
    """A zero gradient moves nothing and spoils nothing."""
    layer = Layer(scion, case)
    update = layer.step(torch.zeros_like(layer.p))
    assert torch.isfinite(update).all(), "a zero gradient gives NaN: 0 / 0 in the normalisation"
    assert not update.any(), "a zero gradient has no direction, and yet the weights moved"


def check_in_the_ball(scion: Implementation, case: Case, stepsize: float = 0.1) -> None:
    """Constrained iterates stay in the ball, even if every gradient points the same way."""
    layer = Layer(scion, case, stepsize=stepsize, constrained=True)
    drift = layer.gradient(1)
    _, high = sizes(scion, case)
    for step in range(30):
        layer.step(drift + 0.1 * layer.gradient(2 + step))
        size = case.size(layer.p) / RADIUS
        assert size <= high * (1 + EXACT), (
            f"{case.role} in {case.norm}, step {step + 1} at stepsize {stepsize}: norm {size:.4g} "
            "radii. Constrained is x <- (1 - stepsize) x + stepsize lmo: are the weights "
            "multiplied by 1 - stepsize, and not by 1 - stepsize * something? If first_step fails "
            "too, look there first"
        )


def check_width(scion: Implementation, case: Case) -> None:
    """A layer's update has the same size in its norm at two widths."""
    found = []
    for width in (16, 64):
        layer = Layer(scion, case, width=width)
        g = layer.gradient(1)
        found.append(-(g * layer.step(g)).sum().item() / (STEPSIZE * RADIUS * case.dual(g)))
    ratio = found[1] / found[0]
    most = 1.35 if case.spectral and not scion.exact else 1 + EXACT
    hint = (
        "a sum of squares where their mean belongs"
        if case.role in ("bias", "gain")
        else ("the factor of d_out and d_in")
    )
    assert 1 / most <= ratio <= most, (
        f"{case.role} in {case.norm}: the update at width 64 is {ratio:.3g} of that at width 16, "
        f"measured in the layer's norm: look for {hint}"
    )


# --- the optimizer as a whole ---


def check_every_parameter(scion: Implementation) -> None:
    """In one model with all kinds of layers, each gets a step of its own norm and radius."""
    model = nn.ModuleDict({name: case.layer(16) for name, case in CASES.items()})
    radii = {name: 2.0**i for i, name in enumerate(CASES)}
    specs = [case.spec(radii[name], f"{name}.") for name, case in CASES.items()]
    optimizer = scion.build(model, specs, stepsize=STEPSIZE, alpha=0.1, constrained=False)
    params = {spec.name: model.get_parameter(spec.name) for spec in specs}
    before = {name: p.detach().double().clone() for name, p in params.items()}
    feed(optimizer, {p: gaussian(p.shape, i) for i, p in enumerate(params.values())})
    for spec, (name, case) in zip(specs, CASES.items(), strict=True):
        update = params[spec.name].detach().double() - before[spec.name]
        assert update.any(), f"parameter {spec.name} did not move: was its group dropped?"
        low, high = sizes(scion, case)
        size = case.size(update) / (STEPSIZE * radii[name])
        # Weights of size 1 and small steps: float32 rounding counts here.
        assert low - 0.01 <= size <= high + 0.01, (
            f"parameter {spec.name} has an update of {size:.4g} stepsize * radius among others: "
            "has it got the norm or the radius of another group?"
        )


def check_schedule(scion: Implementation, case: Case) -> None:
    """Schedulers write param_groups[i]["lr"]: half of it is half a step."""
    layer = Layer(scion, case, alpha=1.0)
    g = layer.gradient(1)
    first = layer.step(g)
    for group in layer.optimizer.param_groups:
        group["lr"] *= 0.5
    second = layer.step(g)
    off = apart(second, first / 2)
    assert off < slack(scion, case), (
        f'half of the group\'s "lr" does not halve the step ({off:.3g} away): is the stepsize read '
        "from the group in every step?"
    )


def check_closure(scion: Implementation, case: Case) -> None:
    """step(closure) is part of torch's interface: it computes the loss and returns it."""
    layer = Layer(scion, case)

    def closure() -> Tensor:
        layer.optimizer.zero_grad()
        loss = (layer.p * layer.gradient(1)).sum()
        loss.backward()
        return loss

    before = layer.p.detach().clone()
    step: Any = layer.optimizer.step  # of anybody's optimizer, which may not take a closure
    try:
        loss = step(closure)
    except TypeError as error:
        raise AssertionError(f"step takes no closure: {error}") from None
    assert loss is not None, "step(closure) must return the closure's loss"
    assert not torch.equal(before, layer.p), "step(closure) did not step"


SCALES = (1e-30, 1e-10, 1e-5, 1e5, 1e10)
PER_LAYER: dict[str, Callable[[Implementation, Case], None]] = {
    "init": check_init,
    "first_step": check_first_step,
    "first_constrained_step": lambda s, c: check_first_step(s, c, constrained=True),
    "momentum_start": check_momentum_start,
    "second_step_alpha_0.1": check_second_step,
    "second_step_alpha_0.7": lambda s, c: check_second_step(s, c, alpha=0.7),
    **{f"scale_{x:g}": lambda s, c, x=x: check_scale(s, c, x) for x in SCALES},
    "zero_gradient": check_zero_gradient,
    "in_the_ball_stepsize_0.1": check_in_the_ball,
    "in_the_ball_stepsize_1": lambda s, c: check_in_the_ball(s, c, stepsize=1.0),
    "width": check_width,
    "schedule": check_schedule,
    "closure": check_closure,
}
WHOLE: dict[str, Callable[[Implementation], None]] = {
    "every_parameter": check_every_parameter,
    "network_width_dense": lambda s: check_network_width(s, tokens=False),
    "network_width_tokens": lambda s: check_network_width(s, tokens=True),
}
