"""Coefficient sets of the Newton-Schulz iteration X <- aX + (bA + cA^2)X, A = X X^T.

Plain numbers, kept apart from polar.py so that configurations can be validated without torch.
"""

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

DEFAULT_STEPS = 5


def parse_polar(name: str) -> tuple[str, int]:
    """Split a polar-factor name such as `svd`, `muon` or `polar-express:8` into name and steps.

    Raises:
        ValueError: the name is unknown or the number of steps is not available.
    """
    base, _, steps_text = name.partition(":")
    if base == "svd" and not steps_text:
        return "svd", 0
    if base not in COEFFICIENTS:
        known = ", ".join(("svd", *COEFFICIENTS))
        raise ValueError(f"polar must be one of {known} (optionally NAME:STEPS), got {name!r}")
    most = len(COEFFICIENTS[base]) if base != "muon" else 100
    if not steps_text:
        return base, DEFAULT_STEPS
    if not (steps_text.isascii() and steps_text.isdigit() and 1 <= int(steps_text) <= most):
        raise ValueError(f"polar {base!r} takes 1 to {most} steps, got {name!r}")
    return base, int(steps_text)
