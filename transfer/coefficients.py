"""Coefficient sets of the Newton-Schulz iteration X <- aX + (bA + cA^2)X, A = X X^T.

Plain numbers and names, kept apart from polar.py so that configurations can be validated without
torch.
"""

import re
from dataclasses import dataclass

Coefficients = tuple[tuple[float, float, float], ...]

COEFFICIENTS: dict[str, Coefficients] = {
    # Jordan et al. 2024 (Muon); one triple, repeated.
    "muon": ((3.4445, -4.7750, 2.0315),) * 5,
    # Quintic steps tuned one by one, as used in public GPT speed runs.
    "quintic": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    # Amsel et al. 2025, arXiv:2505.16932, already divided by the safety factor 1.01.
    "polar-express": (
        (8.2051, -22.9019, 16.4607),
        (4.0664, -2.8612, 0.5184),
        (3.9096, -2.8234, 0.5250),
        (3.2856, -2.4153, 0.4853),
        (2.2779, -1.6198, 0.3985),
        (1.8726, -1.2307, 0.3585),
        (1.8564, -1.2132, 0.3568),
        (1.8750, -1.2500, 0.3750),
    ),
}

# Largest singular value that the first five steps (all eight in the second table) may give for
# input singular values in (0, 1]: measured on 10^6 values in float64 and rounded up; float32
# rounding stays below the last digit. tests/transfer/test_polar.py measures them again.
OVERSHOOT_5: dict[str, float] = {"muon": 1.21, "quintic": 1.15, "polar-express": 1.13}

# The same with an iteration in bfloat16, whose rounding adds to it: measured on random matrices of
# up to 512 x 512, the small ones being the worst (1.218, 1.159, 1.145), and rounded up.
OVERSHOOT_5_BFLOAT16: dict[str, float] = {"muon": 1.23, "quintic": 1.17, "polar-express": 1.15}

# Safety factor on top of the published one, for the triples before the last: p(x) becomes p(x / f).
# A step's largest output lies just inside the interval that the next one maps back, and beyond it
# the iteration diverges. Rounding errors per step that this survives: 4.3 % (muon), 3.2 %
# (quintic), 1.0 % (polar express). bfloat16 exceeds the last: the published triples give singular
# values of 1e12 for some Gaussian 2 x 2 matrices. With this factor it survives 3.0 %.
HEADROOM_BFLOAT16: dict[str, float] = {"polar-express": 1.02}

DEFAULT_STEPS = 5
MAX_STEPS = 100
EXACT = ("svd", "eigh")
EXACT_DTYPES = ("float64", "float32")
DTYPES = ("float64", "float32", "tf32", "bfloat16")


@dataclass(frozen=True, slots=True)
class PolarName:
    """A polar factor's name, taken apart."""

    base: str
    """svd, eigh or a key of `COEFFICIENTS`."""
    steps: int = 0
    """Number of Newton-Schulz steps; 0 for svd and eigh."""
    dtype: str | None = None
    """Precision of the computation, one of `DTYPES`; None follows the input."""

    @property
    def coefficients(self) -> Coefficients:
        """One triple per step; beyond the end of the table its last one repeats."""
        if self.base in EXACT:
            return ()
        *head, last = COEFFICIENTS[self.base]
        f = HEADROOM_BFLOAT16.get(self.base, 1.0) if self.dtype == "bfloat16" else 1.0
        wide = tuple((a / f, b / f**3, c / f**5) for a, b, c in head)
        return wide[: self.steps] + (last,) * (self.steps - len(wide))


def parse_polar(name: str) -> PolarName:
    """Take apart `BASE[:STEPS][@DTYPE]`, such as `svd`, `muon@bfloat16` or `polar-express:8`.

    Raises:
        ValueError: the base is unknown, or does not take these steps or this dtype.
    """
    rest, at, dtype = name.partition("@")
    base, colon, steps = rest.partition(":")
    if base not in (*EXACT, *COEFFICIENTS):
        known = ", ".join(("svd", *COEFFICIENTS, "eigh"))
        raise ValueError(f"polar must be one of {known} (as BASE[:STEPS][@DTYPE]), got {name!r}")
    dtypes = EXACT_DTYPES if base in EXACT else DTYPES
    if at and dtype not in dtypes:
        raise ValueError(f"polar {base!r} takes a dtype of {', '.join(dtypes)}, got {name!r}")
    if base in EXACT and colon:
        raise ValueError(f"polar {base!r} is exact and takes no steps, got {name!r}")
    if colon and not (re.fullmatch("[1-9][0-9]{0,2}", steps) and int(steps) <= MAX_STEPS):
        raise ValueError(f"polar {base!r} takes 1 to {MAX_STEPS} steps, got {name!r}")
    num_steps = 0 if base in EXACT else int(steps) if colon else DEFAULT_STEPS
    return PolarName(base, num_steps, dtype if at else None)
