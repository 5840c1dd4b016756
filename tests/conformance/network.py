"""Check of a whole network: what one step changes in its output, at two widths."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.conformance.cases import CASES, CLASSES, INPUTS, VOCAB, Bias, gaussian
from tests.conformance.protocol import Implementation, Spec


class Network(nn.Module):
    """Three layers with biases; signals keep their size, so that steps can be compared."""

    def __init__(self, width: int, tokens: bool) -> None:
        super().__init__()
        self.first = nn.Embedding(VOCAB, width) if tokens else nn.Linear(INPUTS, width, bias=False)
        self.bias = Bias(width)
        self.hidden = nn.Linear(width, width, bias=False)
        self.output = nn.Linear(width, CLASSES, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = 2**0.5 * (self.first(x) + self.bias.bias).relu()
        return self.output(2**0.5 * self.hidden(x).relu())


def network_step(scion: Implementation, width: int, tokens: bool, seed: int) -> float:
    """Return the root mean square of what one step changes in the output."""
    first = CASES["embedding-col-norm" if tokens else "input"]
    layers = {
        "first.weight": first,
        "bias.bias": CASES["bias"],
        "hidden.weight": CASES["hidden-square"],
        "output.weight": CASES["output-sign"],
    }
    model = Network(width, tokens)
    specs = [Spec(name, case.role, case.norm, 1.0) for name, case in layers.items()]
    with torch.no_grad():
        for i, (name, case) in enumerate(layers.items()):
            p = model.get_parameter(name)
            p.copy_(case.lmo(gaussian(p.shape, 10 * seed + i)))
    optimizer = scion.build(model, specs, stepsize=0.1, alpha=0.1, constrained=False)
    inputs = gaussian(torch.Size((64, INPUTS)), seed)
    x = torch.arange(64) % VOCAB if tokens else inputs / inputs.square().mean(-1, True).sqrt()
    before = model(x)
    optimizer.zero_grad()
    cross_entropy(before, torch.arange(64) % CLASSES).backward()
    optimizer.step()
    return (model(x) - before).square().mean().sqrt().item()


def check_network_width(scion: Implementation, tokens: bool) -> None:
    """One step changes the output by as much in a wide network as in a narrow one.

    Below width 64 random weights of the output layer still count (a step at width 16 changes
    twice as much as at width 256); AdamW grows threefold from 64 to 256.
    """
    narrow, wide = (sum(network_step(scion, w, tokens, s) for s in range(4)) / 4 for w in (64, 256))
    assert 1 / 1.4 < wide / narrow < 1.4, (
        "root mean square of the change of the output in one step: "
        f"{narrow:.3g} at width 64, {wide:.3g} at 256. It must not depend on the width, so some "
        "layer's update does: the checks layer by layer say which"
    )
