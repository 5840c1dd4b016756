"""Settings and parameters that cannot be honoured raise, name what is wrong, and change nothing."""

from typing import Any

import pytest
import torch
from torch import nn

from tests.transfer.stepping import every_optimizer, run
from tests.transfer.test_optimizer_state import make_both
from transfer.optimizers import Almond, Scion, ScionLight
from transfer.optimizers.groups import DEFAULTS

# --- settings ---

TENSOR = torch.tensor(0.5)
OUT_OF_RANGE: list[tuple[dict[str, Any], str]] = [
    ({"norm": "spectrl"}, "norm must be one of .*'spectrl'; did you mean 'spectral'"),
    ({"polar": "mun"}, "polar must be one of .*'mun'"),
    ({"polar": "muon:0"}, "polar 'muon' takes 1 to 100 steps"),
    ({"alpha": 0.0}, r"alpha must be in \(0, 1\], got 0.0"),
    ({"alpha": 1.5}, r"alpha must be in \(0, 1\], got 1.5"),
    ({"alpha": float("nan")}, "alpha must be in"),
    ({"radius": 0.0}, "radius must be a finite number above 0, got 0.0"),
    ({"radius": -2.0}, "radius must be a finite number above 0, got -2.0"),
    ({"radius": float("inf")}, "radius must be a finite number above 0, got inf"),
    ({"lr": -0.1}, "lr must be a finite number, at least 0, got -0.1"),
    ({"lr": float("nan")}, "lr must be a finite number, at least 0, got nan"),
    ({"lr": torch.tensor(-0.5)}, "lr must be a finite number, at least 0, got -0.5"),
    ({"lr": torch.ones(2)}, "lr must be one number, got tensor"),
    ({"groups": 0}, "groups must be a whole number, at least 1, got 0"),
    ({"groups": 2}, "groups must be 1 in layout 'matrix', got 2"),
    ({"split_sizes": (2, 0)}, "split_sizes must be positive whole numbers"),
    ({"split_sizes": (2, 2)}, r"parameter #0: spectral: .*\(3, 2\): split_sizes must add up to"),
    ({"joint": True}, "joint must be False unless .* norm 'spectral' and layout 'matrix'"),
    ({"joint": True, "norm": "max-norm", "layout": "vector"}, "joint must be False"),
]


@pytest.mark.parametrize(("settings", "message"), OUT_OF_RANGE, ids=lambda x: str(x)[:40])
@pytest.mark.parametrize("where", ["defaults", "group"])
@every_optimizer
def test_settings_out_of_range(
    kind: Any, settings: dict[str, Any], message: str, where: str
) -> None:
    p = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=message):
        if where == "defaults":
            kind([p], **settings)
        else:
            kind([{"params": [p], **settings}])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": TENSOR}, "alpha must be a number, not a tensor, got tensor"),
        ({"radius": TENSOR}, "radius must be a number, not a tensor, got tensor"),
        ({"split_sizes": 2}, "split_sizes must be a list of sizes, got 2"),
    ],
)
@every_optimizer
def test_groups_with_the_wrong_type(kind: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind([{"params": [nn.Parameter(torch.zeros(3, 2))], **settings}])


@pytest.mark.parametrize("lr", [1.5, torch.tensor(1.5)], ids=["number", "tensor"])
@pytest.mark.parametrize("kind", [Scion, ScionLight])
def test_constrained_needs_a_stepsize_of_at_most_one(kind: Any, lr: Any) -> None:
    p = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="lr must be at most 1 when constrained, got 1.5"):
        kind([p], lr=lr, constrained=True)
    kind([p], lr=lr, constrained=False)


@every_optimizer
def test_bounds_are_allowed(kind: Any) -> None:
    kind([nn.Parameter(torch.zeros(3, 2))], lr=0.0)
    kind([nn.Parameter(torch.zeros(3, 2))], lr=8.0, alpha=1.0)
    kind([nn.Parameter(torch.zeros(3, 2))], lr=1.0, constrained=kind is not Almond)
    # Lists come from files.
    kind([{"params": [nn.Parameter(torch.zeros(3, 2))], "split_sizes": [2, 1]}])


@pytest.mark.parametrize(
    ("key", "near"),
    [("radus", "radius"), ("split_size", "split_sizes"), ("Norm", "norm"), ("group", "groups")],
)
@every_optimizer
def test_unknown_key_names_the_nearest(kind: Any, key: str, near: str) -> None:
    p = nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(ValueError) as caught:
        kind([{"params": [p], key: 2}])
    message = str(caught.value)
    assert f"got {key!r}; did you mean {near!r}?" in message
    assert message.startswith("group key must be one of ")
    assert all(name in message for name in ("params", "lr", *DEFAULTS))


@every_optimizer
def test_keys_of_others_are_let_through(kind: Any) -> None:
    """Names of roles, and what torch's schedulers leave in groups."""
    p = nn.Parameter(torch.zeros(3, 2))
    optimizer = kind([{"params": [p], "role": "hidden", "name": "first"}])
    torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5, cycle_momentum=False)
    again = kind(optimizer.param_groups)
    assert again.param_groups[0]["max_lr"] == 0.1


# --- parameters ---


@every_optimizer
def test_a_parameter_in_two_groups_names_both_places(kind: Any) -> None:
    a, b = (nn.Parameter(torch.zeros(3, 2)) for _ in range(2))
    with pytest.raises(ValueError, match="parameter #0 of group 1 is already .* #1 of group 0"):
        kind([{"params": [a, b]}, {"params": b}])
    with pytest.raises(ValueError, match="parameter head of group 1 is already .* emb of group 0"):
        kind([{"params": [("emb", a)]}, {"params": iter([("b", b), ("head", a)])}])
    with pytest.raises(ValueError, match="parameter #2 of group 0 is already .* #0 of group 0"):
        kind([a, b, a])
    optimizer = kind([a])
    with pytest.raises(ValueError, match="parameter #0 of group 1 is already"):
        optimizer.add_param_group({"params": [a]})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        ("spectral", (3,)),
        ("spectral", (8, 4, 3, 3)),
        ("conv-spectral", (3, 2)),
        ("bias-rms", (3, 2)),
        ("sign", (0, 2)),
    ],
)
@every_optimizer
def test_misfit_names_the_parameter(kind: Any, norm: str, shape: tuple[int, ...]) -> None:
    fits = {"bias-rms": (2,), "conv-spectral": (2, 2, 2)}.get(norm, (2, 2))
    fine = nn.Parameter(torch.zeros(fits))
    named = [("fine", fine), ("blocks.0.w", nn.Parameter(torch.zeros(shape)))]
    with pytest.raises(ValueError) as caught:
        kind(named, norm=norm)
    message = str(caught.value)
    assert f"parameter blocks.0.w: {norm}: " in message and str(shape) in message
    with pytest.raises(ValueError, match="parameter #1: "):
        kind([p for _, p in named], norm=norm)


def test_a_convolution_under_a_matrix_norm_hears_of_the_layout() -> None:
    weight = nn.Conv2d(4, 8, 3).weight
    with pytest.raises(ValueError, match="layouts for 4 dimensions: .*conv"):
        Scion([weight])
    Scion([weight], layout="conv")


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (torch.complex64, "parameter w .* got torch.complex64: take torch.view_as_real of it"),
        (torch.int64, "parameter w must be of real floating point, got torch.int64"),
    ],
)
@every_optimizer
def test_numbers_without_an_oracle(kind: Any, dtype: torch.dtype, message: str) -> None:
    w = nn.Parameter(torch.zeros(3, 2, dtype=dtype), requires_grad=False)
    with pytest.raises(ValueError, match=message):
        kind([("w", w)])


@pytest.mark.parametrize("kind", [Scion, Almond])  # Scion Light: test_light_stand_in.py
def test_sparse_gradient_names_the_parameter(kind: Any) -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2, bias=False))
    optimizer = kind(model.named_parameters())
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="parameter 0.weight has a sparse .* sparse=False"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    assert not optimizer.state


# --- what is refused changes nothing ---


@every_optimizer
def test_group_refused_leaves_the_optimizer_as_it_was(kind: Any) -> None:
    params, optimizer = make_both(kind)
    late = nn.Parameter(torch.zeros(2, 2))
    for bad in ({"radius": -1.0}, {"layout": "batch"}, {"norm": "bias-rms"}):
        with pytest.raises(ValueError):
            optimizer.add_param_group({"params": [late], "norm": "sign", **bad})
    assert len(optimizer.param_groups) == 4
    optimizer.add_param_group({"params": [late], "norm": "sign"})
    run([*params, late], optimizer, 0, 1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lr", 1.25, "lr must be at most 1 when constrained, got 1.25"),
        ("lr", torch.tensor(1.25), "lr must be at most 1 when constrained, got 1.25"),
        ("alpha", 0.0, r"alpha must be in \(0, 1\], got 0.0"),
        ("radius", -1.0, "radius must be a finite number above 0, got -1.0"),
    ],
    ids=["lr", "tensor", "alpha", "radius"],
)
@pytest.mark.parametrize("kind", [Scion, ScionLight])
def test_a_schedule_out_of_range_changes_nothing(
    kind: Any, key: str, value: Any, message: str
) -> None:
    """Whoever catches the error can mend the setting and go on."""
    params, optimizer = make_both(kind, constrained=True)
    run(params, optimizer, 0, 1)
    before = [p.detach().clone() for p in params]
    good = optimizer.param_groups[1][key]
    optimizer.param_groups[1][key] = value
    with pytest.raises(ValueError, match=message):
        run(params, optimizer, 1, 2)
    assert all(torch.equal(p, old) for p, old in zip(params, before, strict=True))
    optimizer.param_groups[1][key] = good
    run(params, optimizer, 2, 3)
