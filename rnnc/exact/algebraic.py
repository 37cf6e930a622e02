"""Algebraic numbers: sums of square roots with coefficients in cyclotomic fields; everything about them is decided.

`{r: c}` is the sum of c sqrt(r), r square-free with prime factors above GAUSS only, c cyclotomic.  Square roots of
smaller primes are themselves cyclotomic (Gauss's sums).  sqrt(p) lies in Q(zeta_n) only if p divides n: sums of a root
sqrt(r) and roots of unity of an order that shares a prime with r are refused, so equal numbers have equal forms.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import TypeAlias

from rnnc.exact import cyclotomic as cyc
from rnnc.exact.cyclotomic import GAUSS, Element, NotExact

__all__ = ["Algebraic", "Exact", "I", "NotExact", "cosine", "is_zero", "root", "sign", "sine", "unity"]

Exact: TypeAlias = "Fraction | Algebraic"
ONE: Element = (1, {0: Fraction(1)})
LARGE = 2**200  # coefficients from which floating point is not tried


class Algebraic:
    """An irrational number of such a field; `make` gives a Fraction where the sum is rational.  Immutable."""

    __slots__ = ("_hash", "terms")
    terms: dict[int, Element]

    def __init__(self, terms: dict[int, Element]) -> None:
        self.terms = terms
        self._hash = hash(tuple(sorted((r, n, *sorted(c.items())) for r, (n, c) in terms.items())))

    def __add__(self, other: object) -> Exact:
        y = _terms(other)
        return NotImplemented if y is None else _sum(self.terms, y)

    __radd__ = __add__

    def __neg__(self) -> Algebraic:
        return Algebraic({r: (n, {k: -v for k, v in c.items()}) for r, (n, c) in self.terms.items()})

    def __sub__(self, other: object) -> Exact:
        y = _terms(other)
        return NotImplemented if y is None else _sum(self.terms, _negated(y))

    def __rsub__(self, other: object) -> Exact:
        y = _terms(other)
        return NotImplemented if y is None else _sum(y, _negated(self.terms))

    def __mul__(self, other: object) -> Exact:
        if isinstance(other, (int, Fraction)):
            scaled = {r: (n, {k: v * other for k, v in c.items()}) for r, (n, c) in self.terms.items()}
            return Algebraic(scaled) if other else Fraction(0)
        return _product(self.terms, other.terms) if isinstance(other, Algebraic) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Exact:
        if isinstance(other, (int, Fraction)):
            if not other:
                raise NotExact("division by zero")
            return self * (1 / Fraction(other))
        return self * other.inverse() if isinstance(other, Algebraic) else NotImplemented

    def __rtruediv__(self, other: object) -> Exact:
        return self.inverse() * other if isinstance(other, (int, Fraction)) else NotImplemented

    def __pow__(self, power: object) -> Exact:
        if not isinstance(power, int):
            return NotImplemented
        base: Exact = self if power >= 0 else self.inverse()
        out: Exact = Fraction(1)
        for _ in range(abs(power)):
            out = out * base
        return out

    def inverse(self) -> Exact:
        """1 / x: multiply by the conjugate sqrt(p) -> -sqrt(p), one prime after the other."""
        top: Exact = Fraction(1)
        bottom: Exact = self
        while isinstance(bottom, Algebraic) and any(r > 1 for r in bottom.terms):
            p = next(cyc.prime_factors(r)[0][0] for r in sorted(bottom.terms) if r > 1)
            turned = {r: c for r, c in bottom.terms.items() if r % p}
            turned |= _negated({r: c for r, c in bottom.terms.items() if r % p == 0})
            other = Algebraic(turned)
            top, bottom = top * other, bottom * other
        if isinstance(bottom, Fraction):
            return top / bottom
        return top * make({1: cyc.invert(bottom.terms[1])})

    def conjugate(self) -> Algebraic:
        return Algebraic({r: cyc.conjugate(c) for r, c in self.terms.items()})

    @property
    def is_real(self) -> bool:
        return self == self.conjugate()

    def __complex__(self) -> complex:
        return sum((cyc.approximate(c) * math.sqrt(r) for r, c in self.terms.items()), 0j)

    def __float__(self) -> float:
        if not self.is_real:
            raise NotExact("a complex number is not ordered")
        return complex(self).real

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Algebraic) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return True  # zero is a Fraction

    def __lt__(self, other: object) -> bool:
        return sign(self - other) < 0 if isinstance(other, (int, Fraction, Algebraic)) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return sign(self - other) > 0 if isinstance(other, (int, Fraction, Algebraic)) else NotImplemented

    def __le__(self, other: object) -> bool:
        return sign(self - other) <= 0 if isinstance(other, (int, Fraction, Algebraic)) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return sign(self - other) >= 0 if isinstance(other, (int, Fraction, Algebraic)) else NotImplemented

    def __repr__(self) -> str:
        parts = []
        for r, (n, c) in sorted(self.terms.items()):
            inner = " + ".join(f"{v}" + (f" z{n}^{k}" if k else "") for k, v in sorted(c.items()))
            parts.append(f"({inner}) sqrt({r})" if r > 1 else inner)
        return " + ".join(parts)


def _terms(x: object) -> dict[int, Element] | None:
    if isinstance(x, Algebraic):
        return x.terms
    if isinstance(x, (int, Fraction)):
        return {1: (1, {0: Fraction(x)})} if x else {}
    return None


def make(terms: dict[int, Element]) -> Exact:
    """The number of a sum; terms that are zero are dropped."""
    kept = {r: c for r, c in terms.items() if c[1]}
    if not kept:
        return Fraction(0)
    radicand = math.lcm(*kept)
    if radicand > 1 and any(math.gcd(radicand, n) > 1 for n, _ in kept.values()):
        raise NotExact("square roots and roots of unity that are not independent")
    if len(kept) == 1 and 1 in kept and kept[1][0] == 1:
        return kept[1][1][0]
    return Algebraic(kept)


def _negated(x: dict[int, Element]) -> dict[int, Element]:
    return {r: (n, {k: -v for k, v in c.items()}) for r, (n, c) in x.items()}


def _sum(x: dict[int, Element], y: dict[int, Element]) -> Exact:
    out = dict(x)
    for r, c in y.items():
        out[r] = cyc.add(out[r], c) if r in out else c
    return make(out)


def _product(x: dict[int, Element], y: dict[int, Element]) -> Exact:
    out: dict[int, Element] = {}
    for r, a in x.items():
        for s, b in y.items():
            shared = math.gcd(r, s)
            n, c = cyc.multiply(a, b)
            term = (n, {k: v * shared for k, v in c.items()})
            at = r * s // shared**2
            out[at] = cyc.add(out[at], term) if at in out else term
    return make(out)


@cache
def unity(turns: Fraction) -> Exact:
    """exp(2 pi i turns)."""
    return make({1: cyc.unity(turns % 1)})


I = unity(Fraction(1, 4))


def cosine(turns: Fraction) -> Exact:
    """cos(2 pi turns)."""
    return (unity(turns) + unity(-turns)) / 2


def sine(turns: Fraction) -> Exact:
    """sin(2 pi turns)."""
    return cosine(turns - Fraction(1, 4))


def conjugate(x: Exact) -> Exact:
    return x.conjugate() if isinstance(x, Algebraic) else x


def real_part(x: Exact) -> Exact:
    return (x + x.conjugate()) / 2 if isinstance(x, Algebraic) else x


def imaginary_part(x: Exact) -> Exact:
    return (x - x.conjugate()) / (2 * I) if isinstance(x, Algebraic) else Fraction(0)


def is_zero(x: Exact) -> bool:
    return isinstance(x, (int, Fraction)) and x == 0


def sign(x: Exact) -> int:
    """-1, 0 or 1 of a real number; NotExact for a complex one."""
    if isinstance(x, (int, Fraction)):
        return (x > 0) - (x < 0)
    if not x.is_real:
        raise NotExact("a complex number is not ordered")
    if any(abs(v) >= LARGE for _, c in x.terms.values() for v in c.values()):
        return _sign_by_enclosure(x)
    size = sum(math.sqrt(r) * sum(abs(float(v)) for v in c.values()) for r, (_, c) in x.terms.items())
    near = complex(x).real
    if abs(near) > 1e-9 * size:  # far above the rounding of a few hundred additions
        return 1 if near > 0 else -1
    return _sign_by_enclosure(x)


def _sign_by_enclosure(x: Algebraic) -> int:
    """By interval arithmetic with more and more digits; x is not zero, so this ends."""
    from mpmath import iv

    saved = iv.prec
    try:
        for bits in (128, 512, 2048, 8192):
            iv.prec = bits
            total = iv.mpf(0)
            for r, (n, c) in x.terms.items():
                for k, v in c.items():
                    angle = 2 * iv.pi * k / n
                    total += iv.cos(angle) * v.numerator / v.denominator * iv.sqrt(iv.mpf(r))
            if total > 0 or total < 0:
                return 1 if total > 0 else -1
    finally:
        iv.prec = saved
    raise NotExact("the sign of a number too close to zero")


def root(x: Exact | int) -> Exact:
    """The square root with positive real part (or positive imaginary, of a negative x).  NotExact where it is none of
    these numbers.
    """
    if isinstance(x, Algebraic):
        return _root_of_algebraic(x)
    x = Fraction(x)
    if x < 0:
        return I * root(-x)
    if x == 0:
        return x
    outside, inside, small = Fraction(1, x.denominator), 1, []
    for p, power in cyc.prime_factors(x.numerator) + cyc.prime_factors(x.denominator):
        outside *= p ** (power // 2)
        if power % 2 and p > GAUSS:
            inside *= p
        elif power % 2:
            small.append(p)
    value: Exact = make({inside: (1, {0: outside})})
    for p in small:
        value = value * make({1: cyc.prime_root(p)})
    return value


def _root_of_algebraic(x: Algebraic) -> Exact:
    """Squares of a rational times 2 sin(2 pi t) or of a half sum of roots: guessed by floats, checked exactly."""
    for guess in (_sine_root, _denested):
        found = guess(x)
        if found is not None and found * found == x:
            z = complex(found)
            return found if z.real > 1e-12 or (abs(z.real) <= 1e-12 and z.imag > 0) else -found
    raise NotExact(f"the square root of {x}")


def _sine_root(x: Algebraic) -> Exact | None:
    """x = q sin(2 pi t)^2 with q = 1: then 1 - 2x is a cosine; t is a multiple of 1/(4n) for x in Q(zeta_n)."""
    if not x.is_real or set(x.terms) != {1} or not 0 < complex(x).real < 1:
        return None
    n = 4 * x.terms[1][0]
    k = round(math.asin(math.sqrt(complex(x).real)) * n / (2 * math.pi))
    try:
        return sine(Fraction(k, n))
    except NotExact:
        return None


def _denested(x: Algebraic) -> Exact | None:
    """sqrt(a + b) with a rational, b^2 rational and a^2 - b^2 a square r^2: sqrt((a + r)/2) + sqrt((a - r)/2)."""
    a = _trace_part(x)
    b = x - a
    square = b * b
    if not isinstance(square, Fraction):
        return None
    norm = a * a - square
    r = root(norm) if norm >= 0 else None
    if not isinstance(r, Fraction):
        return None
    first, second = root((a + r) / 2), root((a - r) / 2)
    total = first + second
    return total if total * total == x else first - second


def _trace_part(x: Algebraic) -> Fraction:
    """The rational part: the trace over Q divided by the degree."""
    if 1 not in x.terms:
        return Fraction(0)
    n, terms = x.terms[1]
    return sum((c * _unity_mean(n, k) for k, c in terms.items()), Fraction(0))


@cache
def _unity_mean(n: int, k: int) -> Fraction:
    """The mean of the conjugates of zeta_n^k: mu(m) / phi(m), m the order of zeta_n^k."""
    m = n // math.gcd(n, k) if k % n else 1
    factors = cyc.prime_factors(m)
    if any(power > 1 for _, power in factors):
        return Fraction(0)
    return Fraction((-1) ** len(factors), math.prod(p - 1 for p, _ in factors))


def absolute(x: Exact) -> Exact:
    """|x|, real or complex."""
    if isinstance(x, Fraction) or x.is_real:
        return x if sign(x) >= 0 else -x
    return root(x * x.conjugate())


def approximate(x: Exact) -> complex | float:
    if isinstance(x, Algebraic):
        z = complex(x)
        return z.real if x.is_real else z
    try:
        return float(x)  # also of an int
    except OverflowError:
        return math.inf if x > 0 else -math.inf


def generators(x: Exact) -> tuple[int, int]:
    """(radicand, order): the square roots and the roots of unity that x is made of."""
    if not isinstance(x, Algebraic):
        return 1, 1
    return math.lcm(*x.terms), math.lcm(*(n for n, _ in x.terms.values()))
