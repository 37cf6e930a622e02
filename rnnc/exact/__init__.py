"""Exact numbers: rationals, algebraic numbers, and numbers that depend on a formal infinite `omega`.

A number is the least of three types that holds it, so arithmetic of plain rationals costs what Fraction costs:

- `Fraction`;
- `Algebraic`: sums of products of roots of unity and square roots, real or complex (Q(sqrt n), cos and sin of rational
  multiples of pi, the icosahedral group's field, i).  Equality, hash and sign are decided exactly;
- `Asymptotic`: polynomials in `omega`, `pi`, logarithms and preimages with such coefficients, and how much is left out
  (`error`): sigmoid(omega) is 1 up to something exponentially small.

Mixed arithmetic with int, +, -, *, /, ** int, ==, <, bool works.  Constructors:

    rational(1, 3)   root(2)   cosine(Fraction(1, 5))   sine(turns)   unity(turns) = exp(2 pi i turns)   I   pi   omega
    preimage("sigmoid", value)       # x with sigmoid(x) = value; a value that is only a limit gives +-omega

Functions (`rnnc.exact.functions`): exp log sqrt sigmoid tanh softplus silu ... by the name of the op; each returns the
exact value or raises `NotExact`.  `to_float(x, tau)` puts omega = tau.  `is_limit(x)`: something was left out.
"""

from rnnc.exact.algebraic import Algebraic, I, NotExact, cosine, is_zero, root, sign, sine, unity
from rnnc.exact.asymptotic import Asymptotic, Number, decided, is_limit, omega, pi, rational, to_float
from rnnc.exact.functions import preimage

__all__ = [
    "Algebraic",
    "Asymptotic",
    "I",
    "NotExact",
    "Number",
    "cosine",
    "decided",
    "is_limit",
    "is_zero",
    "omega",
    "pi",
    "preimage",
    "rational",
    "root",
    "sign",
    "sine",
    "to_float",
    "unity",
]
