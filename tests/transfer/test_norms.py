"""Every norm is a norm, its dual is dual, and its oracle minimises over its ball."""

import zlib

import pytest
import torch
from torch import Tensor

from tests.transfer.reference import TABLE
from transfer.config import NORM_NAMES
from transfer.norms import NORMS, Norm, make_norm

MATRIX_SHAPES = [(6, 6), (12, 5), (4, 9), (7, 3), (1, 8), (8, 1), (1, 1), (3, 5, 4), (2, 3, 4, 6)]
VECTOR_SHAPES = [(6,), (1,), (37,), (3, 8), (2, 3, 5)]
CONV_SHAPES = [(6, 5, 9), (4, 9, 1), (9, 1, 5), (1, 1, 3), (3, 6, 4, 9)]
SHAPES = {1: VECTOR_SHAPES, 2: MATRIX_SHAPES, 3: CONV_SHAPES}
CASES = [
    pytest.param(name, shape, id=f"{name}-{'x'.join(map(str, shape))}")
    for name in NORM_NAMES
    for shape in SHAPES[NORMS[name].event_ndim]
]
_BATCH = {1: (4, 7), 2: (4, 6, 5), 3: (4, 6, 5, 3)}
BATCHES = [(n, _BATCH[NORMS[n].event_ndim]) for n in NORM_NAMES]
SPECTRAL = [n for n in NORM_NAMES if "spectral" in n and NORMS[n].event_ndim == 2]
RHO = 3.5


def draw(name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    """Return a Gaussian tensor that depends on the case."""
    seed = zlib.crc32(f"{name}{shape}".encode())
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def inner(norm: Norm, a: Tensor, b: Tensor) -> Tensor:
    """Return <a, b> for each object, in float64."""
    return (a.double() * b.double()).sum(tuple(range(-norm.event_ndim, 0)))


def column(norm: Norm, values: Tensor) -> Tensor:
    """Append the dimensions of one object, so that values multiply objects."""
    return values.reshape(values.shape + (1,) * norm.event_ndim)


def objects(norm: Norm, x: Tensor) -> list[Tensor]:
    """Return the single matrices or vectors of a batch."""
    return list(x.reshape(-1, *x.shape[x.ndim - norm.event_ndim :]))


def test_the_table_covers_every_norm() -> None:
    assert set(TABLE) == set(NORMS) == set(NORM_NAMES)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_formulas(name: str, shape: tuple[int, ...]) -> None:
    norm, g = make_norm(name), draw(name, shape)
    row = TABLE[name]
    parts = objects(norm, g)
    batch = shape[: len(shape) - norm.event_ndim]
    for got, formula in ((norm.norm(g), row.norm), (norm.dual_norm(g), row.dual_norm)):
        wanted = torch.tensor([formula(part) for part in parts], dtype=torch.float64)
        torch.testing.assert_close(got, wanted.reshape(batch), rtol=1e-12, atol=0)
    wanted = RHO * torch.stack([row.lmo(part) for part in parts]).reshape(shape)
    torch.testing.assert_close(norm.lmo(g, RHO), wanted, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_lmo_attains_the_dual_norm_on_the_sphere(name: str, shape: tuple[int, ...]) -> None:
    norm, g = make_norm(name), draw(name, shape)
    step = norm.lmo(g, RHO)
    assert step.shape == g.shape
    torch.testing.assert_close(inner(norm, g, step), -RHO * norm.dual_norm(g), rtol=1e-12, atol=0)
    on_sphere = torch.full_like(norm.norm(step), RHO)
    torch.testing.assert_close(norm.norm(step), on_sphere, rtol=1e-12, atol=0)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_nothing_in_the_ball_does_better(name: str, shape: tuple[int, ...]) -> None:
    norm, g = make_norm(name), draw(name, shape)
    step = norm.lmo(g, RHO)
    best = inner(norm, g, step)
    generator = torch.Generator().manual_seed(5)
    for size in (None, 1.0, 0.1, 1e-3):
        noise = torch.randn((40, *shape), generator=generator, dtype=torch.float64)
        points = noise if size is None else step + size * noise
        points = points * column(norm, RHO / norm.norm(points))
        worst = (inner(norm, g.expand_as(points), points) - best).min().item()
        assert worst >= -1e-11 * best.abs().max().item(), (size, worst)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_norm_axioms(name: str, shape: tuple[int, ...]) -> None:
    norm, a, b = make_norm(name), draw(name, shape), draw(name + "b", shape)
    for size in (norm.norm, norm.dual_norm):
        assert (size(a) > 0).all()
        assert (size(a + b) <= (size(a) + size(b)) * (1 + 1e-12)).all()
        torch.testing.assert_close(size(-2.5 * a), 2.5 * size(a), rtol=1e-13, atol=0)
        assert (size(torch.zeros_like(a)) == 0).all()
    # The dual of the dual: <a, b> <= ||a|| ||b||*.
    assert (inner(norm, a, b) <= norm.norm(a) * norm.dual_norm(b) * (1 + 1e-12)).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-3, 1e3, 1e12, 1e30])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_any_size_of_gradient(name: str, shape: tuple[int, ...], scale: float) -> None:
    norm, g = make_norm(name), draw(name, shape, torch.float32)
    small = g * scale
    # Rounding g * scale turns singular vectors by eps over the relative gap.
    torch.testing.assert_close(norm.lmo(small, RHO), norm.lmo(g, RHO), rtol=1e-4, atol=1e-4)
    for size in (norm.norm, norm.dual_norm):
        torch.testing.assert_close(
            size(small).double(), size(g).double() * scale, rtol=1e-5, atol=0
        )


@pytest.mark.parametrize("power", [-100, -40, 40, 100])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_powers_of_two_change_no_bit(name: str, shape: tuple[int, ...], power: int) -> None:
    norm, g = make_norm(name), draw(name, shape, torch.float32)
    assert torch.equal(norm.lmo(g * 2.0**power), norm.lmo(g))


@pytest.mark.parametrize("scale", [torch.finfo(torch.float32).tiny, 1e38])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_lmo_at_the_ends_of_float32(name: str, shape: tuple[int, ...], scale: float) -> None:
    norm, g = make_norm(name), draw(name, shape, torch.float32).sign()
    torch.testing.assert_close(norm.lmo(g * scale), norm.lmo(g), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NORM_NAMES)
def test_zero_stays_zero(name: str) -> None:
    norm = make_norm(name)
    for shape in SHAPES[norm.event_ndim]:
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            zero = torch.zeros(shape, dtype=dtype)
            got = norm.lmo(zero, RHO)
            assert got.dtype == dtype and torch.equal(got, zero), (shape, dtype, got)


@pytest.mark.parametrize("polar", ["svd", "muon", "polar-express:8"])
@pytest.mark.parametrize("name", SPECTRAL)
def test_zero_matrix_in_a_batch(name: str, polar: str) -> None:
    g = draw(name, (3, 5, 4), torch.float32)
    g[1] = 0
    step = make_norm(name, polar).lmo(g, RHO)
    assert torch.equal(step[1], torch.zeros(5, 4)) and torch.isfinite(step).all()


@pytest.mark.parametrize("name", SPECTRAL)
@pytest.mark.parametrize(("shape", "rank"), [((8, 8), 3), ((12, 6), 1), ((5, 11), 4)])
def test_rank_deficient(name: str, shape: tuple[int, int], rank: int) -> None:
    """The null space is dropped: steps are on the sphere and small noise changes little."""
    norm = make_norm(name)
    left, right = draw(name, (shape[0], rank)), draw(name + "r", (rank, shape[1]))
    g = left @ right
    step = norm.lmo(g, RHO)
    assert norm.norm(step).item() == pytest.approx(RHO, rel=1e-12)
    assert inner(norm, g, step).item() == pytest.approx(-RHO * norm.dual_norm(g).item(), rel=1e-12)
    assert torch.linalg.matrix_rank(step).item() == rank
    null = torch.linalg.svd(g).Vh[rank:].mT
    assert (step @ null).abs().max().item() < 1e-11
    noise = draw(name + "n", shape)
    narrow = (g / torch.linalg.matrix_norm(g)).float()
    noisy = narrow + 1e-7 * (noise / torch.linalg.matrix_norm(noise)).float()
    change = torch.linalg.matrix_norm(norm.lmo(noisy) - norm.lmo(narrow))
    assert change / torch.linalg.matrix_norm(norm.lmo(narrow)) < 1e-4


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("polar", ["svd", "muon"])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_a_bad_entry_spoils_its_own_object_only(
    name: str, shape: tuple[int, ...], polar: str, bad: float
) -> None:
    norm, g = make_norm(name, polar if name in SPECTRAL else "svd"), draw(name, shape)
    clean = norm.lmo(g, RHO), norm.norm(g), norm.dual_norm(g)
    g[1].view(-1)[2] = bad
    others = [0, 2, 3]
    for got, wanted in zip((norm.lmo(g, RHO), norm.norm(g), norm.dual_norm(g)), clean, strict=True):
        assert got[1].isnan().all()
        torch.testing.assert_close(got[others], wanted[others], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_batch_equals_one_by_one(name: str, shape: tuple[int, ...]) -> None:
    norm, g = make_norm(name), draw(name, shape)
    parts = objects(norm, g)
    for method in (norm.norm, norm.dual_norm, norm.lmo):
        singles = torch.stack([method(part) for part in parts])
        torch.testing.assert_close(method(g), singles.reshape(method(g).shape), rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_one_radius_per_batch_entry(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    norm, g = make_norm(name), draw(name, shape, dtype)
    radii = torch.tensor([0.5, 1.0, 2.0, 40.0], dtype=torch.float64)
    step = norm.lmo(g, radii)
    assert step.dtype == dtype
    tight = 1e-12 if dtype == torch.float64 else 1e-6
    for i, radius in enumerate(radii.tolist()):
        torch.testing.assert_close(step[i], norm.lmo(g[i], radius), rtol=tight, atol=tight * radius)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_half_precision(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Computed in float32, so only the last rounding is left."""
    norm, g = make_norm(name), draw(name, shape).to(dtype)
    wide = norm.lmo(g.float(), RHO)
    assert norm.lmo(g, RHO).dtype == dtype
    assert torch.equal(norm.lmo(g, RHO), wide.to(dtype))
    assert norm.norm(g).dtype == norm.dual_norm(g).dtype == torch.float32
    torch.testing.assert_close(norm.norm(g), norm.norm(g.float()), rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_dtype_and_device_kept(name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    norm, g = make_norm(name), draw(name, shape, dtype)
    before = g.clone()
    for result in (norm.lmo(g), norm.norm(g), norm.dual_norm(g)):
        assert (result.dtype, result.device) == (dtype, g.device)
    assert torch.equal(g, before), "the input was changed"
    assert norm.lmo(g.to("meta")).device.type == "meta"


@pytest.mark.parametrize(("name", "shape"), BATCHES)
def test_strided_input(name: str, shape: tuple[int, ...]) -> None:
    norm, g = make_norm(name), draw(name, shape)
    strided = g.mT.contiguous().mT
    assert not strided.is_contiguous()
    torch.testing.assert_close(norm.lmo(strided), norm.lmo(g), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", ["col-norm", "hidden-col-norm", "row-norm", "input-row-norm"])
def test_a_tiny_slice_keeps_its_direction(name: str) -> None:
    norm, g = make_norm(name), draw(name, (5, 5), torch.float32)
    sizes = torch.logspace(0, -30, 5)
    scaled = g * (sizes if "col" in name else sizes.unsqueeze(1))
    torch.testing.assert_close(norm.lmo(scaled), norm.lmo(g), rtol=1e-5, atol=1e-6)
