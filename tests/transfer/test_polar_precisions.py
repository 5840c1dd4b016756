"""Number formats of polar factors: of the result and of the arithmetic."""

import pytest
import torch

from tests.transfer.test_polar import ITERATIVE, WITH_DTYPE, alignment, gaussian, iterate
from transfer.polar import NewtonSchulz, make_polar, matmul_precision


@pytest.mark.parametrize("name", WITH_DTYPE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_result_has_the_dtype_of_the_input(name: str, dtype: torch.dtype) -> None:
    s = gaussian((2, 6, 4)).to(dtype)
    got = make_polar(name)(s)
    assert got.dtype == dtype and got.shape == s.shape
    assert 0.8 < alignment(s, got).min().item() < 1.2 or name.startswith("muon")


@pytest.mark.parametrize(("name", "smallest"), [("svd", 1e-9), ("eigh", 1e-5)])
def test_exact_ones_compute_in_the_precision_they_name(name: str, smallest: float) -> None:
    """The smallest value is above float64's cutoff and below float32's."""
    for dtype in (torch.float32, torch.float64):
        s = torch.diag(torch.tensor([1.0, smallest], dtype=dtype))
        ranks = [
            torch.linalg.matrix_rank(make_polar(f"{name}@{inside}")(s)).item()
            for inside in ("float32", "float64")
        ]
        assert ranks == [1, 2]
        followed = torch.linalg.matrix_rank(make_polar(name)(s)).item()
        assert followed == (2 if dtype == torch.float64 else 1)


@pytest.mark.parametrize("name", ITERATIVE)
def test_iterations_compute_in_the_precision_they_name(name: str) -> None:
    s = gaussian((24, 16))
    wanted = make_polar(name)(s)
    assert torch.equal(make_polar(f"{name}@float64")(s), wanted)
    errors = {"float32": (1e-9, 1e-5), "tf32": (1e-9, 1e-5), "bfloat16": (1e-4, 0.1)}
    for dtype, (low, high) in errors.items():
        got = make_polar(f"{name}@{dtype}")(s)
        held = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        assert torch.equal(got, got.to(held).double()), "not a number of that precision"
        assert low < (got - wanted).abs().max().item() < high


def test_bfloat16_is_normalised_in_float32() -> None:
    s = gaussian((12, 20)).float()
    polar = make_polar("muon@bfloat16")
    assert isinstance(polar, NewtonSchulz)
    x = (s / torch.linalg.matrix_norm(s)).bfloat16()
    rough = s.bfloat16() / torch.linalg.matrix_norm(s.bfloat16())
    assert not torch.equal(x, rough), "the two normalisations cannot be told apart here"
    plain = NewtonSchulz((), torch.bfloat16)
    off = [(plain(s) - other.float()).abs().max().item() for other in (x, rough)]
    assert off[0] <= 2**-10 * x.abs().max().item() and off[1] > off[0]
    exact = iterate(x.double(), polar.coefficients)
    torch.testing.assert_close(polar(s), exact.float(), rtol=0, atol=0.02)


@pytest.mark.parametrize("before", ["none", "ieee", "tf32"])
@pytest.mark.parametrize("wanted", [None, "ieee", "tf32"])
def test_matmul_precision_is_put_back(before: str, wanted: str | None) -> None:
    knob = torch.backends.cuda.matmul
    found = knob.fp32_precision
    try:
        knob.fp32_precision = before
        with matmul_precision(wanted):
            inside = knob.fp32_precision
        after = knob.fp32_precision
        with pytest.raises(RuntimeError, match="inside"), matmul_precision(wanted):
            raise RuntimeError("inside")
        after_error = knob.fp32_precision
    finally:
        knob.fp32_precision = found
    # "none" is torch's own setting, without TF32.
    assert inside == (before if wanted is None or (before, wanted) == ("none", "ieee") else wanted)
    assert after == after_error == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="TF32 is a mode of CUDA devices")
@pytest.mark.parametrize("before", ["none", "tf32"])
def test_tf32_on_a_device(before: str) -> None:
    s = gaussian((2, 256, 256)).float().cuda()
    wanted = make_polar("quintic@float64")(s)
    errors = {}
    knob = torch.backends.cuda.matmul
    found = knob.fp32_precision
    try:
        knob.fp32_precision = before
        for dtype in ("@float32", "@tf32", ""):
            got = make_polar(f"quintic{dtype}")(s)
            errors[dtype] = ((got - wanted).norm() / wanted.norm()).item()
        assert knob.fp32_precision == before
    finally:
        knob.fp32_precision = found
    assert errors["@float32"] < 1e-4 < errors["@tf32"] < 1e-2
    assert errors[""] == errors["@tf32" if before == "tf32" else "@float32"]
