"""Names of polar factors: what they mean, and what is refused."""

import pytest
import torch

from tests.transfer.test_polar import ITERATIVE
from transfer.coefficients import (
    COEFFICIENTS,
    MAX_STEPS,
    PolarName,
    parse_polar,
)
from transfer.polar import EighPolar, NewtonSchulz, SvdPolar, make_polar


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("svd", PolarName("svd")),
        ("svd@float64", PolarName("svd", 0, "float64")),
        ("eigh@float32", PolarName("eigh", 0, "float32")),
        ("muon", PolarName("muon", 5)),
        ("muon@bfloat16", PolarName("muon", 5, "bfloat16")),
        ("quintic:3", PolarName("quintic", 3)),
        ("quintic:6@tf32", PolarName("quintic", 6, "tf32")),
        ("muon:100", PolarName("muon", 100)),
        ("polar-express:8", PolarName("polar-express", 8)),
        ("polar-express:9@float64", PolarName("polar-express", 9, "float64")),
    ],
)
def test_parse_polar(name: str, parsed: PolarName) -> None:
    assert parse_polar(name) == parsed
    assert len(parsed.coefficients) == parsed.steps


def test_make_polar() -> None:
    muon = COEFFICIENTS["muon"]
    assert make_polar("svd") == SvdPolar()
    assert make_polar("svd@float64") == SvdPolar(torch.float64)
    assert make_polar("eigh@float32") == EighPolar(torch.float32)
    assert make_polar("muon") == NewtonSchulz(muon)
    assert make_polar("muon@float64") == NewtonSchulz(muon, torch.float64)
    assert make_polar("muon@float32") == NewtonSchulz(muon, torch.float32, "ieee")
    assert make_polar("muon@tf32") == NewtonSchulz(muon, torch.float32, "tf32")
    assert make_polar("muon@bfloat16") == NewtonSchulz(muon, torch.bfloat16)


@pytest.mark.parametrize("name", ["", "SVD", "newton", ":5", "@float32", "muon5", "mun@float32"])
def test_unknown_polar(name: str) -> None:
    known = "polar must be one of svd, muon, quintic, polar-express, eigh"
    with pytest.raises(ValueError, match=f"{known} .*, got '{name}'$"):
        parse_polar(name)


@pytest.mark.parametrize("base", ITERATIVE)
@pytest.mark.parametrize(
    "steps", ["0", "101", "-1", "five", "5:5", " 5", "²", "", "05", "5 ", "1" * 5000]
)
def test_number_of_steps(base: str, steps: str) -> None:
    with pytest.raises(ValueError, match=f"takes 1 to {MAX_STEPS} steps, got '{base}:{steps}'$"):
        make_polar(f"{base}:{steps}")


@pytest.mark.parametrize("name", ["svd:3", "svd:", "eigh:5", "eigh:5@float32"])
def test_exact_ones_take_no_steps(name: str) -> None:
    with pytest.raises(ValueError, match=f"is exact and takes no steps, got '{name}'$"):
        parse_polar(name)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("svd@bfloat16", "float64, float32"),
        ("eigh@tf32", "float64, float32"),
        ("svd@", "float64, float32"),
        ("muon@float16", "float64, float32, tf32, bfloat16"),
        ("muon@", "float64, float32, tf32, bfloat16"),
        ("muon@bfloat16:5", "float64, float32, tf32, bfloat16"),
        ("muon:5@bfloat16@tf32", "float64, float32, tf32, bfloat16"),
    ],
)
def test_dtypes_that_are_not_taken(name: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"takes a dtype of {allowed}, got '{name}'$"):
        parse_polar(name)
