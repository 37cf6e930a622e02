"""Functions of one register tile that Triton has no stable form of; every number they return is right to a few ulps.

All work in the precision of their argument (float32 or float64).  `log1p` and `expm1` use Kahan's trick: the rounding
error of `1 + x` (of `exp(x)`) cancels in the quotient with its logarithm.
"""

# mypy: allow-untyped-defs, allow-untyped-decorators, allow-untyped-calls
# (a Triton function has tiles for arguments, which Python's types do not describe)

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "exp",
    "expm1",
    "gelu",
    "log1p",
    "log_add",
    "log_sigmoid",
    "maximum",
    "minimum",
    "power",
    "product",
    "relu",
    "sigmoid",
    "sign",
    "silu",
    "softplus",
    "tanh",
]


@triton.jit
def exp(x):
    """e^x as a power of two, which GPUs have an instruction for.

    `tl.exp` is the same but for float32 results below 2^-126, which it finds with four more instructions; here they
    are 0.
    """
    return tl.exp2(x * 1.4426950408889634)


@triton.jit
def maximum(a, b):
    """The larger one, as PyTorch has it: NaN where either is.  By itself the instruction takes the other number."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(a, b):
    return tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def log1p(x):
    """log(1 + x), exact for small x."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * x / tl.where(u == 1.0, 1.0, u - 1.0))


@triton.jit
def expm1(x):
    """exp(x) - 1, exact for small x."""
    u = exp(x)
    plain = (u == 1.0) | (u < 0.25) | (u > 4.0)
    near = (u - 1.0) * x / tl.log(tl.where(plain, 0.5, u))
    return tl.where(u == 1.0, x, tl.where(plain, u - 1.0, near))


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)) without overflow: exp is taken of -|x| only."""
    z = exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, z) / (1.0 + z)


@triton.jit
def silu(x):
    return x * sigmoid(x)


@triton.jit
def softplus(x):
    """log(1 + exp(x))."""
    return maximum(x, 0.0) + log1p(exp(-tl.abs(x)))


@triton.jit
def log_sigmoid(x):
    return -softplus(-x)


@triton.jit
def tanh(x):
    """-expm1(-2 |x|) / (1 + exp(-2 |x|)) with the sign of x: small x keep their digits."""
    w = -2.0 * tl.abs(x)
    size = -expm1(w) / (1.0 + exp(w))
    return tl.where(x >= 0, size, -size)


@triton.jit
def relu(x):
    return maximum(x, 0.0)


@triton.jit
def gelu(x):
    """x Phi(x)."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def log_add(a, b):
    """log(exp(a) + exp(b)); -inf stands for nothing."""
    top = maximum(a, b)
    gap = tl.where(top == -float("inf"), 0.0, tl.abs(a - b))
    return tl.where(top == float("inf"), top, top + log1p(exp(-gap)))


@triton.jit
def power(x, y):
    """x^y for real numbers: exp(y log |x|) with the sign of x where y is odd; nan for a root of a negative number."""
    whole = tl.floor(y) == y
    odd = whole & (tl.floor(0.5 * y) != 0.5 * y)
    size = exp(y * tl.log(tl.where(x == 0, 1.0, tl.abs(x))))
    size = tl.where(x == 0, tl.where(y == 0, 1.0, tl.where(y > 0, 0.0, float("inf"))), size)
    signed = tl.where(odd, -size, size)
    return tl.where(x < 0, tl.where(whole, signed, float("nan")), size)


@triton.jit
def product(x, matrix, inside):
    """x times a matrix held on chip, in the matrix's precision; columns of x outside the array count as zero."""
    return tl.dot(tl.where(inside, x, 0.0).to(matrix.dtype), matrix, input_precision="ieee").to(x.dtype)
