"""Numbers that depend on a formal infinite omega: Laurent polynomials with an error term.

`terms[(power of omega, ((atom, power), ...))]` is an algebraic coefficient.  Atoms stand for numbers that are not
algebraic: pi, the logarithm of a prime or of an algebraic number, and preimages such as silu^-1(1).  `error` says what
is left out: None nothing, an integer e something of order omega^e, EXPONENTIAL something of order exp(-c omega).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from rnnc.exact import algebraic as alg
from rnnc.exact.algebraic import Algebraic, Exact, NotExact

EXPONENTIAL = -(10**6)
UNKNOWN_ORDER = 10**6
MOST_POWER = 10**4  # of omega: so that powers keep away from both of these orders
Number: TypeAlias = "Fraction | Algebraic | Asymptotic"


@dataclass(frozen=True, slots=True)
class Atom:
    """`kind` is "pi", "log" (of a prime or an irrational algebraic number > 0), or the function of a preimage."""

    kind: str
    value: Number = Fraction(0)

    def __str__(self) -> str:
        return self.kind if self.kind == "pi" else f"{self.kind}({self.value})"

    @property
    def decided(self) -> bool:
        """Linear forms in these with algebraic coefficients vanish only if they are empty (Baker)."""
        return self.kind == "pi" or (self.kind == "log" and isinstance(self.value, Fraction))


Powers: TypeAlias = tuple[tuple[Atom, int], ...]
Key: TypeAlias = tuple[int, Powers]


class Asymptotic:
    """A number that is not algebraic, or known only up to `error`; `make` gives the lesser type where it can."""

    __slots__ = ("_hash", "error", "terms")
    terms: dict[Key, Exact]
    error: int | None

    def __init__(self, terms: dict[Key, Exact], error: int | None) -> None:
        self.terms = terms
        self.error = error
        self._hash = hash((frozenset(terms.items()), error))

    @property
    def degree(self) -> int:
        """The highest power of omega, or the error's where there is no term."""
        return max((k[0] for k in self.terms), default=EXPONENTIAL if self.error is None else self.error)

    def leading(self) -> dict[Key, Exact]:
        top = self.degree
        return {k: c for k, c in self.terms.items() if k[0] == top}

    def __add__(self, other: object) -> Number:
        if not isinstance(other, NUMBERS):
            return NotImplemented
        y = wide(other)
        out = dict(self.terms)
        for k, c in y.terms.items():
            out[k] = out[k] + c if k in out else c
        return make(out, join(self.error, y.error))

    __radd__ = __add__

    def __neg__(self) -> Number:
        return make({k: -c for k, c in self.terms.items()}, self.error)

    def __sub__(self, other: object) -> Number:
        return self + -other if isinstance(other, NUMBERS) else NotImplemented

    def __rsub__(self, other: object) -> Number:
        return -self + other if isinstance(other, NUMBERS) else NotImplemented

    def __mul__(self, other: object) -> Number:
        if not isinstance(other, NUMBERS):
            return NotImplemented
        y = wide(other)
        if (not y.terms and y.error is None) or (not self.terms and self.error is None):
            return Fraction(0)
        out: dict[Key, Exact] = {}
        for (p, a), c in self.terms.items():
            for (q, b), d in y.terms.items():
                if abs(p + q) > MOST_POWER:
                    raise NotExact("a power of omega that is too large")
                key = (p + q, _powers(a, b))
                out[key] = out[key] + c * d if key in out else c * d
        error = None
        for x, z in ((self, y), (y, self)):
            if z.error is not None:
                error = join(error, _raised(z.error, x.degree))
        return make(out, error)

    __rmul__ = __mul__

    def __truediv__(self, other: object) -> Number:
        return self * inverse(wide(other)) if isinstance(other, NUMBERS) else NotImplemented

    def __rtruediv__(self, other: object) -> Number:
        return inverse(self) * other if isinstance(other, NUMBERS) else NotImplemented

    def __pow__(self, power: object) -> Number:
        if not isinstance(power, int):
            return NotImplemented
        out: Number = Fraction(1)
        for _ in range(abs(power)):
            out = out * self
        return out if power >= 0 else 1 / out

    def conjugate(self) -> Number:
        return make({k: alg.conjugate(c) for k, c in self.terms.items()}, self.error)

    def __eq__(self, other: object) -> bool:
        """Equality of forms: for numbers that are `decided` that of the numbers."""
        return isinstance(other, Asymptotic) and self.terms == other.terms and self.error == other.error

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return True

    def __lt__(self, other: object) -> bool:
        return sign(self - other) < 0 if isinstance(other, NUMBERS) else NotImplemented

    def __gt__(self, other: object) -> bool:
        return sign(self - other) > 0 if isinstance(other, NUMBERS) else NotImplemented

    def __le__(self, other: object) -> bool:
        return sign(self - other) <= 0 if isinstance(other, NUMBERS) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return sign(self - other) >= 0 if isinstance(other, NUMBERS) else NotImplemented

    def __repr__(self) -> str:
        parts = []
        for (power, atoms), c in sorted(self.terms.items(), key=lambda item: (-item[0][0], str(item[0][1]))):
            factors = [f"({c})"] + ([f"omega^{power}"] if power else [])
            parts.append(" ".join(factors + [f"{a}^{p}" if p != 1 else str(a) for a, p in atoms]))
        if self.error is not None:
            parts.append("O(exp(-omega))" if self.error == EXPONENTIAL else f"O(omega^{self.error})")
        return " + ".join(parts)


NUMBERS = (int, Fraction, Algebraic, Asymptotic)


def join(a: int | None, b: int | None) -> int | None:
    """The error of a sum."""
    return b if a is None else a if b is None else max(a, b)


def _raised(error: int, by: int) -> int:
    """The error times something of the order of omega^by; the unknown stays so, and what vanishes exponentially."""
    if max(error, by) >= UNKNOWN_ORDER // 2:
        return UNKNOWN_ORDER
    if min(error, by) <= EXPONENTIAL // 2:
        return EXPONENTIAL
    return max(error + by, -MOST_POWER)  # a larger bound: a power is not to pass for an exponential


def _powers(a: Powers, b: Powers) -> Powers:
    if not a or not b:
        return a or b
    out = dict(a)
    for atom, p in b:
        out[atom] = out.get(atom, 0) + p
    return tuple(sorted(((x, p) for x, p in out.items() if p), key=lambda item: str(item[0])))


def wide(x: object) -> Asymptotic:
    if isinstance(x, Asymptotic):
        return x
    value = Fraction(x) if isinstance(x, int) else x
    assert isinstance(value, (Fraction, Algebraic))
    return Asymptotic({(0, ()): value} if value else {}, None)


def make(terms: dict[Key, Exact], error: int | None) -> Number:
    """The number; terms that are zero or below the error are dropped."""
    kept = {k: c for k, c in terms.items() if c and (error is None or k[0] > error)}
    if error is None and all(k == (0, ()) for k in kept):
        return kept.get((0, ()), Fraction(0))
    return Asymptotic(kept, error)


def inexact(x: Number, error: int | None) -> Number:
    """x, up to something of the order of `error`."""
    if error is None:
        return x
    y = wide(x)
    return make(y.terms, join(y.error, error))


def inverse(x: Asymptotic) -> Number:
    """1 / x: exact for a single term, else its leading term and the order of the rest."""
    head, relative = leading_term(x)
    (((power, atoms), c),) = head.items()
    out: dict[Key, Exact] = {(-power, tuple((a, -p) for a, p in atoms)): 1 / c}
    return make(out, None if relative is None else _raised(relative, -power))


def leading_term(x: Asymptotic) -> tuple[dict[Key, Exact], int | None]:
    """The leading term, and the order of the rest relative to it (None: nothing is left out).

    NotExact for zero, and where several terms share the highest power.
    """
    head = x.leading()
    if not head:
        raise NotExact("division by zero" if x.error is None else "division by something infinitesimal")
    if len(head) > 1:
        raise NotExact(f"a quotient by {x}")
    top = x.degree
    rest = [k[0] - top for k in x.terms if k not in head]
    if x.error is not None:
        rest.append(_raised(x.error, -top))
    return head, max(rest, default=None)


def coefficient(terms: dict[Key, Exact]) -> Number:
    """The terms of one power of omega, without omega."""
    return make({(0, atoms): c for (_, atoms), c in terms.items()}, None)


def sign(x: Number | int) -> int:
    """-1, 0 or 1 (for omega large enough).  NotExact for complex numbers, and where the error hides the sign."""
    if not isinstance(x, Asymptotic):
        return alg.sign(Fraction(x) if isinstance(x, int) else x)
    head = x.leading()
    if not head:
        raise NotExact("the sign of something infinitesimal")
    c = coefficient(head)
    return alg.sign(c) if not isinstance(c, Asymptotic) else _numeric_sign(c)


def _numeric_sign(x: Asymptotic) -> int:
    """By floats, with a wide margin: sums of logarithms, pi and preimages."""
    size = sum(
        abs(alg.approximate(c)) * math.prod(abs(value_of(a, None)) ** p for a, p in k[1]) for k, c in x.terms.items()
    )
    near = to_float(x, None)
    if isinstance(near, complex):
        raise NotExact("a complex number is not ordered")
    if abs(near) <= 1e-9 * size:
        raise NotExact(f"the sign of {x}")
    return 1 if near > 0 else -1


def standard(x: Number) -> Number:
    """x without what vanishes as omega grows; the error says that there was something.  NotExact where the finite part
    is unknown.
    """
    if not isinstance(x, Asymptotic):
        return x
    if x.error is not None and x.error >= 0:
        raise NotExact("a value known only to its leading power of omega")
    small = max((k[0] for k in x.terms if k[0] < 0), default=None)
    return make({k: c for k, c in x.terms.items() if k[0] >= 0}, join(x.error, small))


def finite(x: Number) -> tuple[Exact | Asymptotic, int | None]:
    """(the standard part without error, the order of what vanishes); NotExact for an infinite number."""
    y = standard(x)
    if not isinstance(y, Asymptotic):
        return y, None
    if y.degree > 0:
        raise NotExact("an infinite value")
    return make(y.terms, None), y.error


def infinite(x: Number) -> int:
    """1 or -1 for a real number that goes to infinity with omega, else 0."""
    return sign(x) if isinstance(x, Asymptotic) and x.terms and x.degree > 0 else 0


def without_error(x: Number) -> Number:
    """x as if nothing were left out: the number it goes to."""
    return make(x.terms, None) if isinstance(x, Asymptotic) and x.error is not None else x


def is_limit(x: Number) -> bool:
    """Something is left out: x is reached only as omega goes to infinity."""
    if is_unknown(x):
        return False  # nothing reads it
    return isinstance(x, Asymptotic) and (x.error is not None or any(k[0] < 0 for k in x.terms))


def decided(x: Number) -> bool:
    """Equality of forms is equality of numbers: at most one atom a term, and only pi and logarithms of primes."""
    if not isinstance(x, Asymptotic):
        return True
    return all(not atoms or (len(atoms) == 1 and atoms[0][1] == 1 and atoms[0][0].decided) for _, atoms in x.terms)


def value_of(atom: Atom, tau: float | None) -> float:
    """As a float; NotExact for an atom that grows with omega, where omega has no value."""
    from rnnc.exact.functions import preimage_float

    if atom.kind == "pi":
        return math.pi
    if tau is None and isinstance(atom.value, Asymptotic) and atom.value.degree > 0:
        raise NotExact(f"{atom}, which grows with omega")
    y = to_float(atom.value, tau)
    assert isinstance(y, float)
    return math.log(y) if atom.kind == "log" else preimage_float(atom.kind, y)


def to_float(x: Number, tau: float | None = 1e3) -> float | complex:
    """As a float (or complex), with omega = tau."""
    if not isinstance(x, Asymptotic):
        return alg.approximate(x)
    total: float | complex = 0.0
    for (power, atoms), c in x.terms.items():
        total += alg.approximate(c) * _omega_power(tau, power) * math.prod(value_of(a, tau) ** p for a, p in atoms)
    return total


def _omega_power(tau: float | None, power: int) -> float:
    if power == 0:
        return 1.0
    if tau is None:
        raise NotExact("omega has no value here")
    return float(tau**power)


def unknown() -> Number:
    """A number of which nothing is known: 0 times it is 0, and everything else that reads it is NotExact."""
    return Asymptotic({}, UNKNOWN_ORDER)


def is_unknown(x: object) -> bool:
    return isinstance(x, Asymptotic) and x.error is not None and x.error >= UNKNOWN_ORDER // 2


def rational(top: int, bottom: int = 1) -> Fraction:
    return Fraction(top, bottom)


omega: Number = Asymptotic({(1, ()): Fraction(1)}, None)
pi: Number = Asymptotic({(0, ((Atom("pi"), 1),)): Fraction(1)}, None)
