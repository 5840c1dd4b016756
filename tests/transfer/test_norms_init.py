"""Initialisations lie on the boundary, follow from the seed, and fit the shape; names exist."""

import math

import pytest
import torch

from tests.transfer.test_norms import CASES
from transfer.config import NORM_NAMES
from transfer.norms import NORMS, make_norm


def seeded(seed: int = 0) -> torch.Generator:
    """Return a generator with this seed."""
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_on_the_boundary(name: str, shape: tuple[int, ...]) -> None:
    if NORMS[name].any_shape:
        shape = (math.prod(shape),)
    norm, x = make_norm(name), torch.full(shape, torch.nan, dtype=torch.float64)
    assert norm.init_(x, 2.5, seeded()) is x
    size = norm.norm(x)
    wanted = 0.0 if name == "bias-rms" else 2.5
    torch.testing.assert_close(size, torch.full_like(size, wanted), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["spectral", "plain-spectral", "spectral-max"])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (3, 6, 6)])
def test_spectral_init_is_semi_orthogonal(name: str, shape: tuple[int, ...]) -> None:
    x = make_norm(name).init_(torch.empty(shape, dtype=torch.float64), 1.0, seeded())
    values = torch.linalg.svdvals(x)
    torch.testing.assert_close(values, values[..., :1].expand_as(values), rtol=1e-12, atol=0)


def test_spectral_init_is_uniform() -> None:
    """Without the sign fix of QR the trace of an orthogonal matrix would not be centred."""
    x = make_norm("plain-spectral").init_(
        torch.empty(4000, 3, 3, dtype=torch.float64), 1.0, seeded()
    )
    traces = torch.diagonal(x, dim1=-2, dim2=-1).sum(-1)
    # Haar measure: mean 0, mean square 1.
    assert abs(traces.mean().item()) < 4 / math.sqrt(4000)
    assert traces.square().mean().item() == pytest.approx(1.0, abs=0.15)


@pytest.mark.parametrize("name", ["euclidean", "max-norm"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_any_shape_is_one_vector(name: str, shape: tuple[int, ...]) -> None:
    norm = make_norm(name)
    x = norm.init_(torch.empty(shape, dtype=torch.float64), 2.0, seeded())
    assert norm.norm(x.flatten()).item() == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("name", [n for n in NORM_NAMES if n not in ("bias-rms", "gain-rms")])
def test_seed_decides(name: str) -> None:
    shape = {1: (30,), 2: (6, 5), 3: (6, 5, 4)}[NORMS[name].event_ndim]
    one, same, other = (
        make_norm(name).init_(torch.empty(shape), 1.0, seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    wide = make_norm(name).init_(torch.empty(shape, dtype=torch.float64), 1.0, seeded(1))
    assert torch.equal(one, wide.float()), "the draw depends on the dtype"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NORM_NAMES)
def test_init_keeps_dtype_and_parameter(name: str, dtype: torch.dtype) -> None:
    shape = {1: (30,), 2: (6, 5), 3: (6, 5, 4)}[NORMS[name].event_ndim]
    parameter = torch.nn.Parameter(torch.empty(shape, dtype=dtype))
    make_norm(name).init_(parameter, 1.0, seeded())
    assert parameter.dtype == dtype and parameter.requires_grad and parameter.grad_fn is None


@pytest.mark.parametrize(
    ("typed", "near"), [("spctral", "spectral"), ("colnorm", "col-norm"), ("Sign", "sign")]
)
def test_unknown_norm_names_the_nearest(typed: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"norm must be one of .*{typed}.*did you mean '{near}'"):
        make_norm(typed)


@pytest.mark.parametrize("name", ["spectral", "embedding-spectral", "sign", "bias-rms"])
def test_unknown_polar_factor(name: str) -> None:
    with pytest.raises(ValueError, match="polar must be one of svd.*'mun'"):
        make_norm(name, "mun")


@pytest.mark.parametrize("name", NORM_NAMES)
def test_names_map_to_their_classes(name: str) -> None:
    norm = make_norm(name)
    assert type(norm) is NORMS[name]
    assert type(norm).__name__.lower() == name.replace("-", "")
