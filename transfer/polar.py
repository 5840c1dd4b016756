"""Polar factor U V^T of a matrix S = U diag(sigma) V^T, exactly or by Newton-Schulz.

Every back end takes (*batch, d_out, d_in), keeps dtype and device, depends on the direction of
S only, gives 0 for a zero matrix and NaN for a matrix that is not finite without touching the
others of the batch. docs/polar.md has their measured accuracy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from transfer import kernels
from transfer.coefficients import Coefficients, parse_polar

PolarFn = Callable[[Tensor], Tensor]

_LEAST_ROWS = 256
"""From which size on half of a symmetric product is faster than a library's whole one."""

_TORCH_DTYPES = {
    None: None,
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.bfloat16,
}


def _compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is computed in float32; float32 and float64 stay."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def rescale(x: Tensor, num_dims: int) -> tuple[Tensor, Tensor]:
    """Divide by the largest magnitude over the last `num_dims` dimensions.

    Squares then neither overflow nor vanish, whatever the size of a gradient. An additive
    epsilon instead would change the direction of small gradients.

    Returns:
        The rescaled tensor and the divisor (dimensions kept): 1 for zeros, not finite where
        an entry is not.
    """
    peak = x.abs().amax(dim=tuple(range(-num_dims, 0)), keepdim=True)
    peak = torch.where(peak == 0, torch.ones_like(peak), peak)
    return x / peak, peak


def _unit_peak(s: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Every matrix over its largest entry, in the wider of its own precision and `dtype`.

    A float64 matrix of size 1e300 has to become smaller before it becomes float32.
    """
    wide = _compute_dtype(s.dtype)
    return rescale(s.to(wide if dtype is None else torch.promote_types(wide, dtype)), 2)[0]


@contextmanager
def matmul_precision(wanted: str | None) -> Iterator[None]:
    """Multiply float32 matrices on CUDA in `ieee` or `tf32` inside, as before afterwards.

    Does nothing for None and where torch is already set so. The knob is torch's newer one: it
    can be set and put back whichever of the two APIs the caller uses, while the older
    `allow_tf32` raises once the newer one was used. torch.compile ends its graph here.
    """
    if wanted is None:
        yield
        return
    knob = torch.backends.cuda.matmul
    before = knob.fp32_precision
    if before == wanted or (before, wanted) == ("none", "ieee"):
        yield
        return
    knob.fp32_precision = wanted
    try:
        yield
    finally:
        knob.fp32_precision = before


def polar_of_unit(polar: PolarFn, x: Tensor) -> Tensor:
    """Return the polar factor of matrices whose largest entry has magnitude 1, or all are 0.

    The same as `polar(x)`, without rescaling once more.
    """
    of_unit: PolarFn = getattr(polar, "of_unit", polar)
    return of_unit(x)


def _exact(x: Tensor, dtype: torch.dtype | None, polar: PolarFn) -> Tensor:
    """Apply `polar` to the finite matrices, of largest entry 1, in `dtype`."""
    given = x.dtype
    x = x.to(dtype or _compute_dtype(given))
    # A batched decomposition raises for all when one matrix is not finite: mask that one, mark
    # it after.
    finite = torch.isfinite(x).all(dim=(-2, -1), keepdim=True)
    x = torch.where(finite, x, 0.0)
    with matmul_precision("ieee" if x.is_cuda else None):
        result = _one_by_one(x, polar) if _places_matter(x) and x.numel() else polar(x)
    return torch.where(finite, result, torch.nan).to(given)


def _places_matter(x: Tensor) -> bool:
    """Whether results depend on where a matrix lies, and so on its place in a batch.

    The CPU's libraries round differently for matrices that begin at other multiples of 64 bytes.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def _one_by_one(x: Tensor, polar: PolarFn) -> Tensor:
    """Apply `polar` to copies of the matrices, each of which begins where memory is aligned."""
    flat = x.reshape(-1, *x.shape[-2:])
    return torch.stack([polar(matrix.clone()) for matrix in flat]).reshape(x.shape)


def _aligned(x: Tensor) -> Tensor:
    """Append zero rows and columns until every matrix of the batch begins at 64 bytes.

    X X^T too; zeros change nothing else.
    """
    multiple = 8 if x.element_size() < 4 else 4
    rows, columns = (-size % multiple for size in x.shape[-2:])
    return torch.nn.functional.pad(x, (0, columns, 0, rows)) if rows or columns else x


@dataclass(frozen=True, slots=True)
class SvdPolar:
    """Exact polar factor by singular value decomposition.

    Singular values below max(d_out, d_in) * eps * sigma_max are dropped: on the null space of a
    rank-deficient gradient (batch smaller than width) U V^T is arbitrary noise.
    """

    dtype: torch.dtype | None = None
    """Precision inside; None: the input's, float32 for half precision."""

    def __call__(self, s: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        return self.of_unit(_unit_peak(s, self.dtype)).to(s.dtype)

    def of_unit(self, x: Tensor) -> Tensor:
        """Return the polar factor of matrices of largest entry 1."""
        return _exact(x, self.dtype, _svd_polar)


def _svd_polar(x: Tensor) -> Tensor:
    u, sigma, vh = torch.linalg.svd(x, full_matrices=False)
    cutoff = max(x.shape[-2:]) * torch.finfo(x.dtype).eps * sigma[..., :1]
    polar: Tensor = (u * (sigma > cutoff).to(x.dtype).unsqueeze(-2)) @ vh
    return polar


@dataclass(frozen=True, slots=True)
class EighPolar:
    """Exact polar factor V diag(lambda^-1/2) V^T X by the smaller Gram matrix X X^T.

    Squaring loses half the digits, so singular values below sqrt(max(d_out, d_in) * eps) *
    sigma_max are dropped: for 256 x 256 that is 5.5e-3 sigma_max in float32, 2.4e-7 in float64.
    """

    dtype: torch.dtype | None = None
    """Precision inside; None: the input's, float32 for half precision."""

    def __call__(self, s: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        return self.of_unit(_unit_peak(s, self.dtype)).to(s.dtype)

    def of_unit(self, x: Tensor) -> Tensor:
        """Return the polar factor of matrices of largest entry 1."""
        return _exact(x, self.dtype, _eigh_polar)


def _eigh_polar(x: Tensor) -> Tensor:
    if x.shape[-2] > x.shape[-1]:
        return _eigh_polar(x.mT).mT
    values, vectors = torch.linalg.eigh(x @ x.mT)
    kept = values > max(x.shape[-2:]) * torch.finfo(x.dtype).eps * values[..., -1:]
    root = torch.where(kept, values, 1.0).rsqrt() * kept
    polar: Tensor = (vectors * root.unsqueeze(-2)) @ (vectors.mT @ x)
    return polar


@dataclass(frozen=True, slots=True)
class NewtonSchulz:
    """Approximate polar factor by an odd quintic iteration.

    Singular values end near 1, not at 1: five steps overshoot to at most 1.21 (muon), 1.15
    (quintic), 1.13 (polar express), and values far below the largest stay small. The bounds are
    `OVERSHOOT_5` in coefficients.py, those of bfloat16 `OVERSHOOT_5_BFLOAT16`. In bfloat16 the
    published polar-express triples can diverge; `make_polar` widens them, see `HEADROOM_BFLOAT16`.
    """

    coefficients: Coefficients
    dtype: torch.dtype | None = None
    """Precision of the iteration; the normalisation has float32 at least. None: as `SvdPolar`."""
    matmul: str | None = None
    """`ieee` or `tf32` for float32 products on CUDA; None leaves it as torch is set."""

    def __call__(self, s: Float[Tensor, "*batch d_out d_in"]) -> Float[Tensor, "*batch d_out d_in"]:
        return self.of_unit(_unit_peak(s, self.dtype)).to(s.dtype)

    def of_unit(self, x: Tensor) -> Tensor:
        """Return the polar factor of matrices of largest entry 1, in their precision."""
        given, shape = x.dtype, x.shape
        dtype = self.dtype or _compute_dtype(given)
        x = x.reshape(-1, *shape[-2:]).to(torch.promote_types(given, dtype))
        # The Gram matrix of the smaller side is the cheaper one.
        flip = shape[-2] > shape[-1]
        x = x.mT if flip else x
        frobenius = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        x = (x / torch.where(frobenius == 0, 1.0, frobenius)).to(dtype)
        rows, columns = x.shape[-2:]
        x = _aligned(x) if _places_matter(x) else x
        with matmul_precision(self.matmul if x.is_cuda else None):
            x = newton_schulz(x, self.coefficients, overwrite=True)
        x = x[:, :rows, :columns]
        return (x.mT if flip else x).reshape(shape).to(given)


def newton_schulz(
    x: Float[Tensor, "batch small large"], coefficients: Coefficients, *, overwrite: bool = False
) -> Float[Tensor, "batch small large"]:
    """Iterate X <- aX + (bA + cA^2)X, A = X X^T, in the precision of X.

    On a GPU with Triton, in bfloat16, the symmetric products are computed by half, aI + bA + cA^2
    is rounded as one matrix, and long matrices go two steps at a time.

    Args:
        x: Matrices whose singular values are at most 1.
        coefficients: One triple (a, b, c) a step.
        overwrite: Whether x may be changed.
    """
    large = x.dtype == torch.bfloat16 and x.shape[1] >= _LEAST_ROWS
    if large and kernels.usable(x) and not (x.requires_grad and torch.is_grad_enabled()):
        return _newton_schulz_by_half(x if overwrite else x.clone(), coefficients)
    for a, b, c in coefficients:
        gram = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x


def _newton_schulz_by_half(x: Tensor, coefficients: Coefficients) -> Tensor:
    from transfer.kernels.symmetric import symmetric_product

    x, other = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    gram, polynomial, spare = (x.new_empty((len(x), x.shape[1], x.shape[1])) for _ in range(3))
    # Long matrices are multiplied once for two steps. More at once are wrong in bfloat16: what
    # rounding makes of small eigenvalues of the Gram matrix grows with every polynomial.
    at_once = 2 if x.shape[2] > x.shape[1] else 1
    for start in range(0, len(coefficients), at_once):
        (a, b, c), *second = coefficients[start : start + at_once]
        symmetric_product(x, gram)
        symmetric_product(gram, polynomial, alpha=c, beta=b, diagonal=a)
        for a, b, c in second:
            # Polynomials P of one Gram matrix G commute, so P G and the product of two are
            # symmetric. P X has the Gram matrix P G P.
            symmetric_product(polynomial, spare, gram)
            symmetric_product(spare, gram, polynomial)
            symmetric_product(gram, spare, alpha=c, beta=b, diagonal=a)
            symmetric_product(spare, gram, polynomial)
            gram, polynomial = polynomial, gram
        torch.bmm(polynomial, x, out=other)
        x, other = other, x
    return x


def make_polar(name: str) -> PolarFn:
    """Build the back end called `BASE[:STEPS][@DTYPE]`.

    Base: `svd` and `eigh` are exact, `muon`, `quintic` and `polar-express` are Newton-Schulz sets
    of 5 steps unless STEPS, 1 to 100, says otherwise. Beyond the end of a set its last triple
    repeats. DTYPE: `float64` and `float32` for all, also `tf32` and `bfloat16` for Newton-Schulz;
    without it, the input's, or float32 for half precision. `tf32` is float32 with TF32 products
    on CUDA, and plain float32 elsewhere.

    Raises:
        ValueError: unknown base, or steps or a dtype that it does not take.
    """
    parsed = parse_polar(name)
    dtype = _TORCH_DTYPES[parsed.dtype]
    if parsed.base == "svd":
        return SvdPolar(dtype)
    if parsed.base == "eigh":
        return EighPolar(dtype)
    matmul = {"float32": "ieee", "tf32": "tf32"}.get(parsed.dtype or "")
    return NewtonSchulz(parsed.coefficients, dtype, matmul)
