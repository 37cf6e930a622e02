"""The elementary functions on exact numbers: each exact, or `NotExact`.

An argument that goes to infinity gives the limit, with the error left out; one with something infinitesimal gives the
value at its finite part.  Logarithms of rationals are sums of logarithms of primes, so that exp, sigmoid, tanh and
softplus undo the preimages that `preimage` gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

from rnnc.exact import algebraic as alg
from rnnc.exact import asymptotic as asy
from rnnc.exact.algebraic import Algebraic, NotExact
from rnnc.exact.asymptotic import EXPONENTIAL, Asymptotic, Atom, Number, inexact, sign
from rnnc.exact.cyclotomic import prime_factors

Function: TypeAlias = Callable[[Number], Number]
LARGEST_POWER = 1000  # whole powers beyond this have too many digits
HALF, ZERO, ONE = Fraction(1, 2), Fraction(0), Fraction(1)


def _limits(low: Number | None, high: Number | None) -> Callable[[Function], Function]:
    """The wrapped function gives values at finite exact points; `low` and `high` are its limits at -+infinity."""

    def wrap(at_finite: Function) -> Function:
        def function(x: Number) -> Number:
            side = asy.infinite(x)
            if side:
                value = high if side > 0 else low
                if value is None:
                    raise NotExact(f"{at_finite.__name__} of an infinite value")
                return inexact(value, EXPONENTIAL)
            point, error = asy.finite(x)
            return inexact(at_finite(point), error)

        function.__name__ = at_finite.__name__
        return function

    return wrap


def inverted(kind: str, x: Number) -> Number | None:
    """v where x is exactly the atom kind^-1(v)."""
    if isinstance(x, Asymptotic) and x.error is None and len(x.terms) == 1:
        (((power, atoms), c),) = x.terms.items()
        if power == 0 and c == 1 and len(atoms) == 1 and atoms[0][1] == 1 and atoms[0][0].kind == kind:
            return atoms[0][0].value
    return None


def atom(kind: str, value: Number) -> Number:
    return asy.make({(0, ((Atom(kind, value), 1),)): ONE}, None)


# ---------------------------------------------------------------- exp and log


@_limits(ZERO, None)
def _exp(x: Number) -> Number:
    if x == 0:
        return ONE
    if not isinstance(x, Asymptotic):
        raise NotExact(f"exp({x})")
    out: Number = ONE
    for (_, atoms), c in x.terms.items():
        if len(atoms) != 1 or atoms[0][1] != 1 or not isinstance(c, Fraction) or c.denominator > 2:
            raise NotExact(f"exp({x})")
        a = atoms[0][0]
        if a.kind == "log":
            base = a.value
        elif a.kind == "softplus":  # exp(softplus^-1(v)) = exp(v) - 1
            base = exp(a.value) - 1
        else:
            raise NotExact(f"exp({x})")
        power = sqrt(base) if c.denominator == 2 else base
        out = out * power ** int(c * c.denominator)
    return out


def exp(x: Number) -> Number:
    """Real or complex: exp(a + b i) = exp(a) (cos b + i sin b)."""
    real, imaginary = re(x), im(x)
    grown = _exp_near(real)
    return grown if imaginary == 0 else grown * cis(imaginary)


def _exp_near(x: Number) -> Number:
    """exp(p + d) = exp(p) (1 + d + O(d^2)) where d vanishes with omega."""
    small = {k: c for k, c in asy.wide(x).terms.items() if k[0] < 0}
    if not small or asy.infinite(x):
        return _exp(x)
    d = asy.make(small, asy.wide(x).error)
    return _exp(x - asy.make(small, None)) * inexact(1 + d, 2 * asy.wide(d).degree)


def log(x: Number) -> Number:
    """log of a positive number; log(c omega^n) = log c + n log omega, an infinite atom that only exp takes back."""
    if isinstance(x, Asymptotic) and x.error is None and len(x.terms) == 1:
        (((grade, atoms), c),) = x.terms.items()
        if grade and not atoms:
            return log(c) + grade * atom("log", asy.omega)
    point, error = asy.finite(x)
    if isinstance(point, Asymptotic):
        raise NotExact(f"log({x})")
    if isinstance(point, Algebraic) and not point.is_real:
        raise NotExact(f"log({x}), a complex number")
    if sign(point) <= 0:
        raise NotExact(f"log({point})")
    if isinstance(point, Algebraic):
        return inexact(atom("log", point), error)
    total: Number = ZERO
    for n, side in ((point.numerator, 1), (point.denominator, -1)):
        for p, power in prime_factors(n):
            total = total + atom("log", Fraction(p)) * (side * power)
    return inexact(total, error)


def sqrt(x: Number) -> Number:
    if not isinstance(x, Asymptotic):
        return alg.root(x)
    if not x.terms:
        if x.error == EXPONENTIAL:
            return x
        raise NotExact("the square root of something infinitesimal")
    head, relative = asy.leading_term(x)
    (((power, atoms), c),) = head.items()
    if power % 2 or any(p % 2 for _, p in atoms):
        raise NotExact(f"sqrt({x})")
    out = {(power // 2, tuple((a, p // 2) for a, p in atoms)): alg.root(c)}
    value = asy.make(out, None if relative is None else asy._raised(relative, power // 2))
    odd = any(p // 2 % 2 for _, p in atoms)
    return -value if odd and sign(value) < 0 else value


# ---------------------------------------------------------------- angles


def turns(theta: Number) -> Fraction:
    """theta / (2 pi) of a rational multiple of pi."""
    if theta == 0:
        return ZERO
    if isinstance(theta, Asymptotic) and len(theta.terms) == 1:
        (((power, atoms), c),) = theta.terms.items()
        if power == 0 and atoms == ((Atom("pi"), 1),) and isinstance(c, Fraction):
            return c / 2
    raise NotExact(f"the angle {theta} is no rational multiple of pi")


def cis(theta: Number) -> Number:
    point, error = asy.finite(theta)
    return inexact(alg.unity(turns(point)), error)


def cos(x: Number) -> Number:
    return re(cis(x))


def sin(x: Number) -> Number:
    return im(cis(x))


# ---------------------------------------------------------------- parts


def conj(x: Number) -> Number:
    return x if isinstance(x, Fraction) else x.conjugate()


def re(x: Number) -> Number:
    return x if isinstance(x, Fraction) else (x + x.conjugate()) / 2


def im(x: Number) -> Number:
    return ZERO if isinstance(x, Fraction) else (x - x.conjugate()) / (2 * alg.I)


def absolute(x: Number) -> Number:
    """|x|; of a real x that is only infinitesimal, x itself."""
    if im(x) == 0:
        if isinstance(x, Asymptotic) and not x.terms:
            return x
        return x if sign(x) >= 0 else -x
    return sqrt(re(x * conj(x)))


def maximum(a: Number, b: Number) -> Number:
    """max, continuous: where a - b is only infinitesimal, a up to that."""
    d = a - b
    if isinstance(d, Asymptotic) and not d.terms:
        return inexact(a, d.error)
    return a if sign(d) >= 0 else b


def minimum(a: Number, b: Number) -> Number:
    return -maximum(-a, -b)


def equal(a: Number, b: Number) -> bool:
    """NotExact where it is not decided."""
    d = a - b
    if not isinstance(d, Asymptotic):
        return d == 0
    return sign(re(d)) == 0 and sign(im(d)) == 0 if im(d) != 0 else sign(d) == 0


# ---------------------------------------------------------------- sigmoids and their kin


@_limits(ZERO, ONE)
def sigmoid(x: Number) -> Number:
    known = inverted("sigmoid", x)
    if known is not None:
        return known
    e = exp(x)
    return e / (1 + e)


@_limits(-ONE, ONE)
def tanh(x: Number) -> Number:
    known = inverted("tanh", x)
    if known is not None:
        return known
    e = exp(x * 2)
    return (e - 1) / (e + 1)


@_limits(-ONE, ONE)
def erf(x: Number) -> Number:
    known = inverted("erf", x)
    if known is None and x != 0:
        raise NotExact(f"erf({x})")
    return known or ZERO


def _growing(at_finite: Function) -> Function:
    """0 at -infinity and x itself at +infinity, both up to something exponentially small."""

    def function(x: Number) -> Number:
        side = asy.infinite(x)
        if side:
            return inexact(x if side > 0 else ZERO, EXPONENTIAL)
        point, error = asy.finite(x)
        known = inverted(at_finite.__name__, point)
        return inexact(at_finite(point) if known is None else known, error)

    function.__name__ = at_finite.__name__
    return function


@_growing
def softplus(x: Number) -> Number:
    return log(1 + exp(x))


@_growing
def silu(x: Number) -> Number:
    return ZERO if x == 0 else x * sigmoid(x)


@_growing
def gelu(x: Number) -> Number:
    if x != 0:
        raise NotExact(f"gelu({x})")
    return ZERO


def logsigmoid(x: Number) -> Number:
    return -softplus(-x)


def relu(x: Number) -> Number:
    return maximum(x, ZERO)


def step(x: Number) -> Number:
    return Fraction(int(sign(x) > 0))


def signum(x: Number) -> Number:
    return Fraction(sign(x))


def logaddexp(a: Number, b: Number) -> Number:
    d = a - b
    return a + softplus(-d) if (isinstance(d, Asymptotic) and not d.terms) or sign(d) >= 0 else b + softplus(d)


def power(a: Number, b: Number) -> Number:
    """a ^ b for whole and half b, and for positive a by exp(b log a)."""
    if isinstance(b, Fraction) and b < 0 and isinstance(a, Fraction) and a == 0:
        raise NotExact(f"0 to the power of {b}")
    if isinstance(b, Fraction) and b.denominator == 1:
        if abs(b) > LARGEST_POWER and a not in (ZERO, ONE, -ONE):
            raise NotExact(f"a power of {b}")
        return a ** int(b)
    if isinstance(b, Fraction) and b.denominator == 2:
        return sqrt(a) ** b.numerator
    if a == 1:
        return ONE
    if isinstance(a, Asymptotic) and not a.terms and a.error == EXPONENTIAL and isinstance(b, Fraction) and b > 0:
        return a  # a power of something exponentially small is exponentially small
    return exp(b * log(a))


# ---------------------------------------------------------------- preimages

FORWARD: dict[str, Callable[[float], float]] = {
    "silu": lambda x: x / (1 + math.exp(-x)),
    "gelu": lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2)),
    "erf": math.erf,
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "tanh": math.tanh,
}
RANGES: dict[str, tuple[Number | None, Number | None]] = {
    "sigmoid": (ZERO, ONE),
    "tanh": (-ONE, ONE),
    "erf": (-ONE, ONE),
    "exp": (ZERO, None),
    "softplus": (ZERO, None),
    "silu": (ZERO, None),
    "gelu": (ZERO, None),
}


def preimage_float(function: str, y: float) -> float:
    """x with function(x) = y by bisection (for silu and gelu the one with x >= 0)."""
    lo, hi = (0.0, 64.0 + y) if y >= 0 and function not in ("softplus", "sigmoid") else (-64.0, 64.0 + y)
    for _ in range(200):
        mid = (lo + hi) / 2
        lo, hi = (mid, hi) if FORWARD[function](mid) < y else (lo, mid)
    return (lo + hi) / 2


def preimage(function: str, value: Number | int) -> Number:
    """x with function(x) = value; for silu and gelu the one with x >= 0, so value >= 0.

    An end of the range that is only a limit gives omega or -omega.  NotExact for a value outside the range.
    """
    y: Number = Fraction(value) if isinstance(value, int) else value
    low, high = RANGES[function]
    if asy.infinite(y) > 0 and function in ("softplus", "silu", "gelu"):
        return y
    if function in ("silu", "gelu") and y == 0:
        return ZERO
    if low is not None and y == low:
        return -asy.omega
    if high is not None and y == high:
        return asy.omega
    if (low is not None and y < low) or (high is not None and y > high):
        raise NotExact(f"{function} never has the value {y}")
    match function:
        case "exp":
            return log(y)
        case "sigmoid" if not isinstance(y, Asymptotic):
            return log(y) - log(1 - y)
        case "tanh" if not isinstance(y, Asymptotic):
            return (log(1 + y) - log(1 - y)) / 2
        case "erf" if y == 0:
            return ZERO
    inside = inverted("log", y)
    if function == "softplus" and inside is not None:
        return log(inside - 1)
    return atom(function, y)


UNARY: dict[str, Function] = {
    "exp": exp, "log": log, "sqrt": sqrt, "sin": sin, "cos": cos, "conj": conj, "sign": signum, "step": step,
    "tanh": tanh, "erf": erf, "relu": relu, "gelu": gelu, "silu": silu, "sigmoid": sigmoid, "softplus": softplus,
    "logsigmoid": logsigmoid, "re": re, "im": im, "abs": absolute,
}  # fmt: skip
