"""Elements of Q(zeta_n), zeta_n = exp(2 pi i / n), in canonical form: the least n, and the power basis below phi(n).

An element is `(n, {k: c})`, the sum of c zeta_n^k.  Equal numbers have equal forms.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from typing import TypeAlias

Coefficients: TypeAlias = dict[int, Fraction]
Element: TypeAlias = tuple[int, Coefficients]


class NotExact(ArithmeticError):
    """A value that the exact numbers do not hold, or a question about one that they do not decide."""


MAX_ORDER = 1000  # of roots of unity: larger fields are refused
GAUSS = 7  # square roots of primes up to here are sums of roots of unity; others are generators (algebraic.py)


@cache
def prime_factors(n: int) -> tuple[tuple[int, int], ...]:
    """((p, power), ...) of n >= 1, by trial division; NotExact where a factor above 10^12 is left."""
    found, p = [], 2
    while p * p <= n:
        power = 0
        while n % p == 0:
            n //= p
            power += 1
        if power:
            found.append((p, power))
        p += 1 if p == 2 else 2
        if p > 1_000_000:
            break
    if n > 10**12:
        raise NotExact("a whole number too large to be factored")
    return (*found, (n, 1)) if n > 1 else tuple(found)


@cache
def cyclotomic_polynomial(n: int) -> tuple[int, ...]:
    """Coefficients of Phi_n, lowest power first."""
    top = [-1] + [0] * (n - 1) + [1]
    for d in range(1, n):
        if n % d == 0:
            top = _divide(top, cyclotomic_polynomial(d))
    return tuple(top)


def _divide(top: list[int], divisor: tuple[int, ...]) -> list[int]:
    """The quotient of an exact division by a monic polynomial."""
    top, out = list(top), [0] * (len(top) - len(divisor) + 1)
    for k in range(len(out) - 1, -1, -1):
        c = out[k] = top[k + len(divisor) - 1]
        if c:
            for j, d in enumerate(divisor):
                top[k + j] -= c * d
    return out


@cache
def _powers(n: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """zeta_n^k for k below n in the power basis."""
    phi = cyclotomic_polynomial(n)
    degree = len(phi) - 1
    row, rows = [1] + [0] * (degree - 1), []
    for _ in range(n):
        rows.append(tuple((i, c) for i, c in enumerate(row) if c))
        last = row[-1]
        row = [(row[i - 1] if i else 0) - last * phi[i] for i in range(degree)]
    return tuple(rows)


def reduced(n: int, terms: Mapping[int, Fraction]) -> Coefficients:
    """The sum of c zeta_n^k, any k, in the power basis of Q(zeta_n)."""
    table = _powers(n)
    out: Coefficients = {}
    for k, c in terms.items():
        for i, t in table[k % n]:
            out[i] = out.get(i, Fraction(0)) + c * t
    return {i: c for i, c in out.items() if c}


def lifted(x: Element, n: int) -> Coefficients:
    """The same number in Q(zeta_n); its order divides n."""
    m, terms = x
    return dict(terms) if m == n else reduced(n, {k * (n // m): c for k, c in terms.items()})


@cache
def check_order(n: int) -> int:
    if n > MAX_ORDER:
        raise NotExact(f"roots of unity of order {n}: too large")
    return n


def canonical(n: int, terms: Coefficients) -> Element:
    """The form with the least n (terms are in the power basis of Q(zeta_n))."""
    changed = True
    while changed and n > 1:
        changed = False
        for p, power in prime_factors(n):
            smaller = _into_subfield(n, p, power, terms)
            if smaller is not None:
                n, terms, changed = n // p, smaller, True
                break
    return n, terms


def _into_subfield(n: int, p: int, power: int, terms: Coefficients) -> Coefficients | None:
    """The number in Q(zeta_{n/p}), or None where it is not there."""
    m = n // p
    if power > 1:  # Phi_n(x) = Phi_m(x^p): the basis of the subfield is part of the basis
        return {k // p: c for k, c in terms.items()} if all(k % p == 0 for k in terms) else None
    # The trace over Q(zeta_m), divided by the degree p - 1, is the number itself if it lies in Q(zeta_m).
    inverse = pow(p, -1, m) if m > 1 else 0
    traced: Coefficients = {}
    for k, c in terms.items():
        share = c if k % p == 0 else -c / (p - 1)
        at = (k * inverse) % m if m > 1 else 0  # zeta_n^k = zeta_m^at times a p-th root of unity
        traced[at] = traced.get(at, Fraction(0)) + share
    candidate = reduced(m, traced)
    return candidate if lifted((m, candidate), n) == terms else None


def add(x: Element, y: Element) -> Element:
    n = check_order(math.lcm(x[0], y[0]))
    out = lifted(x, n)
    for k, c in lifted(y, n).items():
        out[k] = out.get(k, Fraction(0)) + c
    return canonical(n, {k: c for k, c in out.items() if c})


def multiply(x: Element, y: Element) -> Element:
    n = check_order(math.lcm(x[0], y[0]))
    left, right = lifted(x, n), lifted(y, n)
    out: Coefficients = {}
    for i, a in left.items():
        for j, b in right.items():
            k = (i + j) % n
            out[k] = out.get(k, Fraction(0)) + a * b
    return canonical(n, reduced(n, out))


def conjugate(x: Element) -> Element:
    """The complex conjugate."""
    n, terms = x
    return n, reduced(n, {-k: c for k, c in terms.items()})


def invert(x: Element) -> Element:
    """1 / x: the solution of a linear system, multiplication by x on the power basis."""
    n, terms = x
    if not terms:
        raise NotExact("division by zero")
    degree = len(cyclotomic_polynomial(n)) - 1
    columns = [reduced(n, {k + j: c for k, c in terms.items()}) for j in range(degree)]
    rows = [[column.get(i, Fraction(0)) for column in columns] + [Fraction(int(i == 0))] for i in range(degree)]
    for i in range(degree):
        pivot = next(r for r in range(i, degree) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for r in range(degree):
            if r != i and (f := rows[r][i]):
                rows[r] = [a - f * b for a, b in zip(rows[r], rows[i])]
    return canonical(n, {i: row[-1] for i, row in enumerate(rows) if row[-1]})


def unity(turns: Fraction) -> Element:
    """exp(2 pi i turns)."""
    n = check_order(turns.denominator)
    return canonical(n, reduced(n, {turns.numerator % n: Fraction(1)}))


def prime_root(p: int) -> Element:
    """sqrt(p) of a prime p: sqrt(2) = zeta_8 + 1/zeta_8, else Gauss's sum."""
    if p == 2:
        return canonical(8, reduced(8, {1: Fraction(1), 7: Fraction(1)}))
    total = reduced(p, {a: Fraction(1 if pow(a, (p - 1) // 2, p) == 1 else -1) for a in range(1, p)})
    found = canonical(p, total)  # sqrt(p), or i sqrt(p) where p = 3 mod 4
    return found if p % 4 == 1 else multiply(found, unity(Fraction(3, 4)))


def approximate(x: Element) -> complex:
    n, terms = x
    return sum((float(c) * cmath.exp(2j * cmath.pi * k / n) for k, c in terms.items()), 0j)
