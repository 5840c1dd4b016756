"""Polar factors: the exact one is exact, the iterative ones keep their stated bounds."""

import pytest
import torch
from torch import Tensor

from tests.transfer.reference import newton_schulz, uv
from transfer.coefficients import (
    COEFFICIENTS,
    DTYPES,
    HEADROOM_BFLOAT16,
    OVERSHOOT_5,
    OVERSHOOT_5_BFLOAT16,
    Coefficients,
    parse_polar,
)
from transfer.polar import EighPolar, NewtonSchulz, SvdPolar, make_polar

ITERATIVE = ["muon", "quintic", "polar-express"]
NAMES = ["svd", "eigh", *ITERATIVE, "polar-express:8", "muon:7"]
WITH_DTYPE = [f"{base}@{dtype}" for base in ("svd", "eigh") for dtype in ("float64", "float32")]
WITH_DTYPE += [f"{base}@{dtype}" for base in ITERATIVE for dtype in DTYPES]
# As published; polar-express already divided by its safety factor.
PUBLISHED = {
    "muon": [(3.4445, -4.7750, 2.0315)] * 5,
    "quintic": [
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ],
    "polar-express": [
        (8.2051, -22.9019, 16.4607),
        (4.0664, -2.8612, 0.5184),
        (3.9096, -2.8234, 0.5250),
        (3.2856, -2.4153, 0.4853),
        (2.2779, -1.6198, 0.3985),
        (1.8726, -1.2307, 0.3585),
        (1.8564, -1.2132, 0.3568),
        (1.8750, -1.2500, 0.3750),
    ],
}
SHAPES = [
    (64, 64),
    (32, 128),
    (128, 32),
    (17, 5),
    (1, 7),
    (7, 1),
    (1, 1),
    (6, 24, 24),
    (2, 3, 5, 4),
]


def gaussian(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Return a Gaussian float64 tensor."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrices(shape: tuple[int, ...]) -> dict[str, Tensor]:
    """Return well-conditioned, ill-conditioned and rank-deficient matrices of one shape."""
    *batch, d_out, d_in = shape
    well = gaussian(shape)
    low = gaussian((*batch, d_out, 1), 1) @ gaussian((*batch, 1, d_in), 2)
    columns = torch.logspace(0, -6, d_in, dtype=torch.float64)
    flat = torch.logspace(0, -2, d_in, dtype=torch.float64)
    return {"well": well, "ill": well * columns, "flat": well * flat, "rank 1": low}


def scalars(name: str) -> tuple[Tensor, Tensor]:
    """Return singular values in (0, 1] and what the iteration makes of them, in float64."""
    even = torch.linspace(0, 1, 10**6 + 1, dtype=torch.float64)[1:]
    x = inputs = torch.cat([even, torch.logspace(-12, 0, 10**5, dtype=torch.float64)])
    polar = make_polar(name)
    assert isinstance(polar, NewtonSchulz)
    for a, b, c in polar.coefficients:
        x = a * x + b * x**3 + c * x**5
    return inputs, x


def iterate(x: Tensor, coefficients: Coefficients) -> Tensor:
    """Return the iteration's end, every operation in the precision of x."""
    for a, b, c in coefficients:
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x


def alignment(s: Tensor, o: Tensor) -> Tensor:
    """Return <s, o> / nuclear norm of s, in float64."""
    s, o = s.double(), o.double()
    return (s * o).sum((-2, -1)) / torch.linalg.svdvals(s).sum(-1)


# --- coefficients ---


def test_coefficients() -> None:
    assert set(COEFFICIENTS) == set(OVERSHOOT_5) == set(OVERSHOOT_5_BFLOAT16) == set(ITERATIVE)
    assert COEFFICIENTS == {name: tuple(rows) for name, rows in PUBLISHED.items()}
    # At convergence 1 is a fixed point, and its slope a + 3b + 5c is 0.
    a, b, c = COEFFICIENTS["polar-express"][-1]
    assert (a + b + c, a + 3 * b + 5 * c) == (1.0, 0.0)


@pytest.mark.parametrize("name", ITERATIVE)
def test_stated_overshoot_of_scalars(name: str) -> None:
    """The bound holds for a million singular values and is tight to its last digit."""
    _, outputs = scalars(name)
    assert OVERSHOOT_5[name] - 0.01 < outputs.max().item() <= OVERSHOOT_5[name]
    assert outputs.min().item() > 0, "a direction was reversed"


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stated_overshoot_of_matrices(name: str, shape: tuple[int, ...]) -> None:
    for kind, s in matrices(shape).items():
        for dtype, bound in (("float32", OVERSHOOT_5), ("bfloat16", OVERSHOOT_5_BFLOAT16)):
            values = torch.linalg.svdvals(make_polar(f"{name}@{dtype}")(s.float()).double())
            assert values.max().item() <= bound[name], (kind, shape, dtype)


@pytest.mark.parametrize("name", ITERATIVE)
def test_small_matrices_do_not_diverge_in_bfloat16(name: str) -> None:
    """Singular values near 0.38 go to the edge of what polar express's second step maps back."""
    num = 16000
    u, v = (torch.linalg.qr(gaussian((num, 2, 2), seed)).Q for seed in (0, 1))
    first = torch.cat(
        [torch.linspace(a, b, num // 2) for a, b in ((0.3, 0.46), (0.0, 1.0))]
    ).double()
    s = (u * torch.stack([first, (1 - first**2).sqrt()], -1).unsqueeze(-2)) @ v
    polar = make_polar(f"{name}@bfloat16")
    assert isinstance(polar, NewtonSchulz)

    def largest(f: NewtonSchulz) -> float:
        return torch.linalg.svdvals(f(s.float()).double()).max().item()

    bound = OVERSHOOT_5_BFLOAT16[name]
    assert bound - 0.03 < largest(polar) <= bound
    # Every operation rounded, as a library may do it.
    x = (s / torch.linalg.matrix_norm(s, keepdim=True)).bfloat16()
    rounded = iterate(x, COEFFICIENTS[name][:5])
    values = torch.linalg.svdvals(rounded.double())
    assert (not values.max().item() <= bound) == (name in HEADROOM_BFLOAT16)


@pytest.mark.parametrize(
    ("name", "largest"),
    [
        ("muon:1", 1.21),
        ("quintic:1", 1.28),
        ("polar-express:1", 2.0),
        ("polar-express:4", 1.57),
        ("quintic:6", 1.15),
        ("polar-express:6", 1.01),
    ],
)
def test_fewer_steps_overshoot_more(name: str, largest: float) -> None:
    assert largest - 0.01 < scalars(name)[1].max().item() <= largest


@pytest.mark.parametrize(
    ("name", "lowest"), [("muon", 0.68), ("quintic", 0.97), ("polar-express", 0.87)]
)
def test_values_above_a_hundredth_end_near_one(name: str, lowest: float) -> None:
    inputs, outputs = scalars(name)
    assert outputs[inputs > 0.01].min().item() > lowest


def test_all_eight_polar_express_steps_converge() -> None:
    inputs, outputs = scalars("polar-express:8")
    assert outputs.max().item() <= 1 + 1e-12
    assert outputs[inputs > 0.01].min().item() >= 1 - 1e-12


def test_more_muon_steps_do_not_converge() -> None:
    """Seven steps repeat the triple: same bound, wider reach, still not 1."""
    polar = make_polar("muon:7")
    assert isinstance(polar, NewtonSchulz)
    assert polar.coefficients == COEFFICIENTS["muon"][:1] * 7
    inputs, outputs = scalars("muon:7")
    assert 1.2 < outputs.max().item() <= OVERSHOOT_5["muon"]
    assert outputs[inputs > 0.001].min().item() > 0.68
    assert scalars("muon")[1][inputs > 0.001].min().item() < 0.68


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("dtype", ["", "@bfloat16"])
def test_steps_beyond_the_table_repeat_its_last(name: str, dtype: str) -> None:
    table = parse_polar(f"{name}:8{dtype}").coefficients[: len(COEFFICIENTS[name])]
    for steps in range(1, 12):
        wanted = [table[min(i, len(table) - 1)] for i in range(steps)]
        assert list(parse_polar(f"{name}:{steps}{dtype}").coefficients) == wanted
    assert table[-1] == COEFFICIENTS[name][-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("muon", 0.68, 1.14), ("quintic", 0.9890, 0.9891), ("polar-express", 1 - 1e-9, 1 + 1e-9)],
)
def test_a_hundred_steps(name: str, low: float, high: float) -> None:
    """All of 12 orders of magnitude arrive, quintic below 1."""
    _, outputs = scalars(f"{name}:100")
    assert low < outputs.min().item() and outputs.max().item() < high
    for dtype, slack in (("float32", 1e-5), ("bfloat16", 0.02)):
        got = make_polar(f"{name}:100@{dtype}")(gaussian((32, 48)).float())
        values = torch.linalg.svdvals(got.double())
        assert low - slack < values.min().item() and values.max().item() < high + slack, dtype


# --- alignment with the exact factor ---


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("muon", 0.84, 1.04), ("quintic", 0.98, 1.03), ("polar-express", 0.98, 1.03)],
)
def test_alignment_of_square_gaussians(name: str, low: float, high: float, size: int) -> None:
    s = gaussian((2, size, size)).float()
    got = alignment(s, make_polar(name)(s))
    assert low <= got.min().item() and got.max().item() <= high


# A weighted mean of what the iteration makes of the singular values, so between its extremes.
@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_alignment_of_any_shape(name: str, shape: tuple[int, ...]) -> None:
    low = {"muon": 0.68, "quintic": 0.97, "polar-express": 0.87}[name]
    for kind, s in matrices(shape).items():
        got = alignment(s, make_polar(name)(s.float()))
        assert low <= got.min().item() and got.max().item() <= OVERSHOOT_5[name], kind


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eight_polar_express_steps_are_nearly_exact(shape: tuple[int, ...]) -> None:
    *batch, d_out, d_in = shape
    small = min(d_out, d_in)
    u, v = (torch.linalg.qr(gaussian((*batch, d, small), d)).Q for d in (d_out, d_in))
    s = u * torch.linspace(1, 0.1, small, dtype=torch.float64) @ v.mT
    for dtype, tight in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
        got = make_polar("polar-express:8")(s.to(dtype)).double()
        torch.testing.assert_close(got, u @ v.mT, rtol=0, atol=tight)


@pytest.mark.parametrize("name", [*ITERATIVE, "muon:7", "polar-express:8"])
@pytest.mark.parametrize("shape", [(9, 9), (4, 13), (13, 4), (1, 5)], ids=str)
def test_equals_the_plain_iteration(name: str, shape: tuple[int, ...]) -> None:
    polar, s = make_polar(name), gaussian(shape)
    assert isinstance(polar, NewtonSchulz)
    wanted = newton_schulz(s, polar.coefficients)
    torch.testing.assert_close(polar(s), wanted, rtol=1e-9, atol=1e-10)


# --- what every back end must do ---


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(64, 64), (5, 12)], ids=str)
def test_direction_only(name: str, scale: float, shape: tuple[int, ...]) -> None:
    s = gaussian(shape).float()
    got, wanted = make_polar(name)(s * scale), make_polar(name)(s)
    change = torch.linalg.matrix_norm(got - wanted) / torch.linalg.matrix_norm(wanted)
    # An additive 1e-7 in the normalisation gives 0.18 at 1e-8. A scale that is no power of 2 rounds
    # the input, which squaring makes worse.
    assert change.item() < (1e-3 if name == "eigh" else 1e-4)


@pytest.mark.parametrize("name", [*NAMES, *WITH_DTYPE])
@pytest.mark.parametrize(
    ("dtype", "exponent"), [(torch.float32, 100), (torch.float64, 997)], ids=["1e30", "1e300"]
)
def test_direction_only_at_the_ends_of_the_range(
    name: str, dtype: torch.dtype, exponent: int
) -> None:
    """Powers of 2 change no digit of the input, so none of the result but for summation order."""
    polar, s = make_polar(name), gaussian((9, 12)).to(dtype)
    wanted = polar(s)
    tight = 0.02 if name.endswith("bfloat16") else 1e-5
    for scale in (2.0**-exponent, 2.0**exponent):
        assert 1e-302 < (s * scale).abs().max().item() < 1e302
        torch.testing.assert_close(polar(s * scale), wanted, rtol=0, atol=tight)


@pytest.mark.parametrize("name", [*NAMES, *WITH_DTYPE])
def test_zero_gives_zero(name: str) -> None:
    s = gaussian((3, 5, 4)).float()
    s[1] = 0
    got = make_polar(name)(s)
    assert torch.equal(got[1], torch.zeros(5, 4))
    assert (got[[0, 2]].abs().amax((-2, -1)) > 0.1).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_equals_one_by_one_and_transposes(name: str, shape: tuple[int, ...]) -> None:
    polar, s = make_polar(name), gaussian(shape)
    got = polar(s)
    assert got.shape == s.shape
    singles = torch.stack([polar(part) for part in s.reshape(-1, *shape[-2:])]).reshape(shape)
    torch.testing.assert_close(got, singles, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(polar(s.mT), got.mT, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_odd(name: str) -> None:
    s = gaussian((6, 9))
    torch.testing.assert_close(make_polar(name)(-s), -make_polar(name)(s))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    s = gaussian((3, 8, 6)).to(dtype)
    got = make_polar(name)(s)
    assert got.dtype == dtype
    assert torch.equal(got, make_polar(name)(s.float()).to(dtype))


@pytest.mark.parametrize("name", [*NAMES, *WITH_DTYPE])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_matrix_stays_alone(name: str, bad: float) -> None:
    s = gaussian((3, 6, 5))
    clean = make_polar(name)(s)
    s[1, 2, 3] = bad
    got = make_polar(name)(s)
    assert got[1].isnan().any()
    torch.testing.assert_close(got[[0, 2]], clean[[0, 2]], rtol=1e-12, atol=1e-12)


# --- the exact one ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_svd_is_orthogonal_and_positive(shape: tuple[int, ...]) -> None:
    s = gaussian(shape)
    o = SvdPolar()(s)
    small = o if shape[-2] <= shape[-1] else o.mT
    eye = torch.eye(min(shape[-2:]), dtype=torch.float64).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(small @ small.mT, eye, rtol=1e-12, atol=1e-12)
    # o^T s is symmetric and positive semi-definite: that makes o the polar factor.
    product = o.mT @ s
    torch.testing.assert_close(product, product.mT, rtol=1e-11, atol=1e-11)
    assert torch.linalg.eigvalsh(product).min().item() > -1e-11
    singles = torch.stack([uv(part) for part in s.reshape(-1, *shape[-2:])]).reshape(shape)
    torch.testing.assert_close(o, singles, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_svd_drops_what_is_rounding_noise(dtype: torch.dtype) -> None:
    eps = torch.finfo(dtype).eps
    u, v = (torch.linalg.qr(gaussian((8, 8), seed)).Q for seed in (0, 1))
    for smallest, rank in ((100 * 8 * eps, 8), (0.01 * 8 * eps, 7)):
        sigma = torch.tensor([1.0] * 7 + [smallest], dtype=torch.float64)
        # A diagonal matrix is exact in either precision.
        assert torch.linalg.matrix_rank(SvdPolar()(torch.diag(sigma).to(dtype))).item() == rank
    o = SvdPolar()((u[:, :3] @ v[:3]).to(dtype))
    assert torch.linalg.matrix_rank(o, tol=0.5).item() == 3


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_eigh_equals_svd(shape: tuple[int, ...]) -> None:
    *batch, d_out, d_in = shape
    for dtype, tight in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        s = with_values(torch.linspace(1, 0.1, min(d_out, d_in)), batch, d_out, d_in).to(dtype)
        torch.testing.assert_close(EighPolar()(s), SvdPolar()(s), rtol=0, atol=tight)
    if min(d_out, d_in) > 3:
        sigma = torch.tensor([1.0, 0.5, 0.2] + [0.0] * (min(d_out, d_in) - 3))
        low = with_values(sigma, batch, d_out, d_in)
        got = EighPolar()(low)
        assert (torch.linalg.matrix_rank(got, atol=0.5) == 3).all()
        torch.testing.assert_close(got, SvdPolar()(low), rtol=0, atol=1e-10)


def with_values(sigma: Tensor, batch: list[int], d_out: int, d_in: int) -> Tensor:
    """Return float64 matrices with these singular values."""
    shapes = ((*batch, d, len(sigma)) for d in (d_out, d_in))
    u, v = (torch.linalg.qr(gaussian(shape, seed)).Q for seed, shape in enumerate(shapes))
    return (u * sigma.double()) @ v.mT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", [(8, 8), (8, 32), (32, 8)], ids=str)
def test_eigh_drops_what_squaring_loses(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    cutoff = (max(shape) * torch.finfo(dtype).eps) ** 0.5
    for factor, rank in ((1.1, 8), (0.9, 7)):
        s = torch.zeros(shape, dtype=dtype)
        s.diagonal().copy_(torch.tensor([1.0] * 7 + [factor * cutoff]))
        assert torch.linalg.matrix_rank(EighPolar()(s)).item() == rank
        assert torch.linalg.matrix_rank(SvdPolar()(s)).item() == 8
