"""Re-establishes what a certificate claims, from the certificate alone.

Shares no code with the search, the analyses or `rnnc.exact`: its own numbers, its own evaluator of the graph.  The
format is described in docs/verification.md, section "Certificates".
"""

from __future__ import annotations

import cmath
import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, cast

import numpy

np: Any = numpy  # object arrays, which its stubs do not describe
MALFORMED = (KeyError, IndexError, TypeError, ValueError, StopIteration, ZeroDivisionError, AttributeError)
SMALL = -(10**6)  # the error "exponentially small in omega"


class Reject(Exception):
    """The certificate does not establish what it claims: the first step that fails."""


class NeedOrder(Exception):
    """A root of unity outside the field in use."""

    def __init__(self, order: int) -> None:
        self.order = order


# ---------------------------------------------------------------- numbers


def primes_of(n: int) -> Iterator[int]:
    """The prime factors of n >= 1 with multiplicity."""
    p = 2
    while p * p <= n:
        while n % p == 0:
            yield p
            n //= p
        p += 1
    if n > 1:
        yield n


class Field:
    """Q(zeta_n): `rows[k]` is zeta_n^k in the power basis."""

    def __init__(self, n: int) -> None:
        if n > 1000:
            raise Reject(f"roots of unity of order {n}")
        self.n, self.primes = n, set(primes_of(n))
        phi = self.polynomial(n)
        self.degree = len(phi) - 1
        row, self.rows = [1] + [0] * (self.degree - 1), []
        for _ in range(n):
            self.rows.append([(i, c) for i, c in enumerate(row) if c])
            row = [(row[i - 1] if i else 0) - row[-1] * phi[i] for i in range(self.degree)]

    def polynomial(self, n: int) -> list[int]:
        top = [-1] + [0] * (n - 1) + [1]
        for d in [d for d in range(1, n) if n % d == 0]:
            divisor = self.polynomial(d)
            quotient = [0] * (len(top) - len(divisor) + 1)
            for k in reversed(range(len(quotient))):
                c = quotient[k] = top[k + len(divisor) - 1]
                for j, x in enumerate(divisor):
                    top[k + j] -= c * x
            top = quotient
        return top

    def power(self, k: int, of: int) -> int:
        """The exponent of zeta_n that is exp(2 pi i k / of)."""
        reduced = Fraction(k, of)
        if self.n % reduced.denominator:
            raise NeedOrder(reduced.denominator)
        return int(reduced * self.n) % self.n


class Num:
    """Sums of c * zeta^i * square roots of primes * omega^p * atoms, up to `error` (a power of omega, or None)."""

    __slots__ = ("error", "field", "terms")

    def __init__(self, field: Field, terms: dict[Any, Fraction], error: int | None = None) -> None:
        self.field, self.error = field, error
        self.terms = {k: c for k, c in terms.items() if c and (error is None or k[2] > error)}

    def like(self, value: Any) -> Num:
        return value if isinstance(value, Num) else Num(self.field, {(0, (), 0, ()): Fraction(value)})

    def __add__(self, other: Any) -> Num:
        y, out = self.like(other), dict(self.terms)
        for k, c in y.terms.items():
            out[k] = out.get(k, Fraction(0)) + c
        return Num(self.field, out, joined(self.error, y.error))

    __radd__ = __add__

    def __neg__(self) -> Num:
        return Num(self.field, {k: -c for k, c in self.terms.items()}, self.error)

    def __sub__(self, other: Any) -> Num:
        return self + -self.like(other)

    def __rsub__(self, other: Any) -> Num:
        return self.like(other) - self

    def __mul__(self, other: Any) -> Num:
        y, error = self.like(other), None
        out: dict[Any, Fraction] = {}
        if self.is_zero or y.is_zero:
            return Num(self.field, {})
        for (i, roots, p, atoms), c in self.terms.items():
            for (j, more, q, others), d in y.terms.items():
                common = set(roots) & set(more)
                key = tuple(sorted(set(roots) ^ set(more))), p + q, merged(atoms, others)
                for z, e in self.field.rows[(i + j) % self.field.n]:
                    out[z, *key] = out.get((z, *key), Fraction(0)) + c * d * e * math.prod(common)
        for a, b in ((self, y), (y, self)):
            if b.error is not None:
                raised = b.error + a.top
                error = joined(error, SMALL if raised < SMALL // 2 else raised)
        return Num(self.field, out, error)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Num:
        return self * inverse(self.like(other))

    def __pow__(self, n: int) -> Num:
        out = self.like(1)
        for _ in range(abs(n)):
            out = out * self
        return out if n >= 0 else inverse(out)

    def __eq__(self, other: object) -> bool:
        y = self.like(other)
        return self.terms == y.terms and self.error == y.error

    def __hash__(self) -> int:
        return hash((frozenset(self.terms.items()), self.error))

    @property
    def is_zero(self) -> bool:
        return not self.terms and self.error is None

    @property
    def top(self) -> int:
        return max((k[2] for k in self.terms), default=SMALL if self.error is None else self.error)

    @property
    def core(self) -> Num:
        return Num(self.field, self.terms)

    def conj(self) -> Num:
        out: dict[Any, Fraction] = {}
        for (i, *rest), c in self.terms.items():
            for z, e in self.field.rows[-i % self.field.n]:
                out[z, *rest] = out.get((z, *rest), Fraction(0)) + c * e
        return Num(self.field, out, self.error)

    def at(self, tau: float = 1e3) -> complex:
        return sum(
            (
                float(c)
                * cmath.exp(2j * cmath.pi * i / self.field.n)
                * math.sqrt(math.prod(roots))
                * tau**p
                * math.prod(atom_value(a) ** q for a, q in atoms)
                for (i, roots, p, atoms), c in self.terms.items()
            ),
            0j,
        )

    def sign(self) -> int:
        """Of a real number; the float is trusted only far from zero, and zero is decided exactly."""
        if self.is_zero:
            return 0
        head = Num(self.field, {(i, r, 0, a): c for (i, r, p, a), c in self.terms.items() if p == self.top})
        if not head.terms or head - head.conj() != 0:
            raise Reject(f"the sign of {self}")
        size, near = sum(abs(Num(self.field, {k: c}).at()) for k, c in head.terms.items()), head.at().real
        if abs(near) <= 1e-9 * size:
            raise Reject(f"the sign of {self} is too close to call")
        return 1 if near > 0 else -1

    def up_to(self, error: int | None) -> Num:
        return Num(self.field, self.terms, joined(self.error, error))

    def standard(self) -> Num:
        """Without what vanishes with omega; that becomes the error."""
        if self.error is not None and self.error >= 0:
            raise Reject("a state known only to its leading power of omega")
        small = max((k[2] for k in self.terms if k[2] < 0), default=None)
        return Num(self.field, {k: c for k, c in self.terms.items() if k[2] >= 0}, joined(self.error, small))

    def __repr__(self) -> str:
        near = self.at()
        shown = f"{near.real:.6g}" + (f"{near.imag:+.6g}i" if abs(near.imag) > 1e-12 else "")
        return shown if self.error is None else f"{shown} in the limit"


def joined(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else max(a, b)


def merged(a: Any, b: Any) -> Any:
    out = dict(a)
    for atom, p in b:
        out[atom] = out.get(atom, 0) + p
    return tuple(sorted(((x, p) for x, p in out.items() if p), key=str))


def atom_value(atom: tuple[str, Any]) -> float:
    kind, value = atom
    if kind not in ("pi", "log") or (kind == "log" and value.top > 0):
        raise Reject(f"the size of {kind}^-1({value})")
    return math.pi if kind == "pi" else math.log(value.at().real)


def split_head(x: Num) -> tuple[Num, int, Any, int | None]:
    """(algebraic coefficient, power, atoms) of the leading term, and the order of the rest relative to it."""
    power = x.top
    groups = {a for (_, _, p, a) in x.terms if p == power}
    if len(groups) != 1:
        raise Reject(f"division by {x}")
    atoms = groups.pop()
    head = {(i, r, 0, ()): c for (i, r, p, _), c in x.terms.items() if p == power}
    rest = [p - power for (_, _, p, _) in x.terms if p < power]
    if x.error is not None:
        rest.append(max(x.error - power, SMALL))
    return Num(x.field, head), power, atoms, max(rest, default=None)


def inverse(x: Num) -> Num:
    """1 / x; the algebraic part by linear algebra on the basis zeta^i * roots."""
    head, power, atoms, rest = split_head(x)
    primes = sorted({p for (_, roots, _, _) in head.terms for p in roots})
    subsets = [tuple(p for k, p in enumerate(primes) if bits >> k & 1) for bits in range(2 ** len(primes))]
    basis = [(i, s, 0, ()) for s in subsets for i in range(x.field.degree)]
    columns = [head * Num(x.field, {b: Fraction(1)}) for b in basis]
    rows = [[c.terms.get(b, Fraction(0)) for c in columns] + [Fraction(int(b == basis[0]))] for b in basis]
    for i in range(len(rows)):
        pivot = next(r for r in range(i, len(rows)) if rows[r][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [v / rows[i][i] for v in rows[i]]
        for r in range(len(rows)):
            if r != i and rows[r][i]:
                rows[r] = [a - rows[r][i] * b for a, b in zip(rows[r], rows[i])]
    found = Num(x.field, {b: row[-1] for b, row in zip(basis, rows)})
    turned = tuple((a, -p) for a, p in atoms)
    out = Num(x.field, {(i, r, -power, turned): c for (i, r, _, _), c in found.terms.items()})
    return out if rest is None else out.up_to(max(rest - power, SMALL))


def root(x: Num) -> Num:
    """The square root of a rational times an even power of omega (the leading one, with the order of the rest)."""
    if x.is_zero or (not x.terms and x.error == SMALL):
        return x
    head, power, atoms, rest = split_head(x)
    if atoms or power % 2 or set(head.terms) != {(0, (), 0, ())}:
        raise Reject(f"the square root of {x}")
    q = head.terms[0, (), 0, ()]
    out = head.like(1) / q.denominator if q > 0 else head.like(unity(x.field, 1, 4)) / q.denominator
    for p in primes_of(abs(q.numerator) * q.denominator):
        out = out * prime_root(x.field, p)
    out = Num(x.field, {(i, r, power // 2, a): c for (i, r, _, a), c in out.terms.items()})
    return out if rest is None else out.up_to(max(rest + power // 2, SMALL))


def prime_root(field: Field, p: int) -> Num:
    """sqrt(p): by Gauss's sum where p is small or divides the order, a generator of its own otherwise."""
    if p > 7 and p not in field.primes:
        return Num(field, {(0, (p,), 0, ()): Fraction(1)})
    if p == 2:
        return unity(field, 1, 8) + unity(field, 7, 8)
    total = Num(field, {})
    for a in range(1, p):
        total = total + unity(field, a, p) * (1 if pow(a, (p - 1) // 2, p) == 1 else -1)
    return total if p % 4 == 1 else total * unity(field, 3, 4)


def unity(field: Field, k: int, of: int) -> Num:
    """exp(2 pi i k / of)."""
    at = field.power(k, of)
    return Num(field, {(z, (), 0, ()): Fraction(c) for z, c in field.rows[at]})


def decode(field: Field, value: Any) -> Num:
    """A number of the certificate: "p/q", or {"terms": [[c, turns, radicand, omega power, atoms], ...], "error"}."""
    if isinstance(value, str):
        return Num(field, {(0, (), 0, ()): Fraction(value)})
    total = Num(field, {}, value["error"])
    for c, turns, radicand, power, atoms in value["terms"]:
        term = unity(field, Fraction(turns).numerator, Fraction(turns).denominator) * Fraction(c)
        for p in primes_of(radicand):
            term = term * prime_root(field, p)
        read = tuple(sorted((((kind, decode(field, v)), p) for kind, v, p in atoms), key=str))
        total = total + Num(field, {(i, r, power, read): d for (i, r, _, _), d in term.terms.items()})
    return total


# ---------------------------------------------------------------- functions of numbers


def exp(x: Num) -> Num:
    if x.top > 0:
        if x.sign() > 0:
            raise Reject(f"exp({x})")
        return Num(x.field, {}, SMALL)
    out, limit = x.like(1), x.standard()
    for (i, roots, _, atoms), c in limit.terms.items():
        if len(atoms) != 1 or atoms[0][1] != 1 or i or roots or c.denominator > 2:
            raise Reject(f"exp({x})")
        (kind, value), _ = atoms[0]
        if kind == "pi":
            raise Reject(f"exp({x})")
        base = value if kind == "log" else exp(value) - 1 if kind == "softplus" else None
        if base is None:
            raise Reject(f"exp({x})")
        out = out * (root(base) if c.denominator == 2 else base) ** int(c * c.denominator)
    return out.up_to(limit.error)


def log(x: Num) -> Num:
    x = x.standard()
    if set(x.terms) != {(0, (), 0, ())}:
        if x.sign() <= 0:
            raise Reject(f"log({x})")
        return Num(x.field, {(0, (), 0, ((("log", x.core), 1),)): Fraction(1)}, x.error)
    q, total = x.terms[0, (), 0, ()], Num(x.field, {})
    if q <= 0:
        raise Reject(f"log({q})")
    for n, side in ((q.numerator, 1), (q.denominator, -1)):
        for p in primes_of(n):
            total = total + Num(x.field, {(0, (), 0, ((("log", x.like(p)), 1),)): Fraction(side)})
    return total.up_to(x.error)


def preimage_of(kind: str, x: Num) -> Num | None:
    """v where x is the atom kind^-1(v)."""
    if x.error is None and len(x.terms) == 1:
        ((key, c),) = x.terms.items()
        (found, power), *more = key[3] or (((None, None), 0),)
        if key[:3] == (0, (), 0) and c == 1 and power == 1 and not more and found[0] == kind:
            return cast(Num, found[1])
    return None


def smooth(kind: str, low: int | None, high: int | None, body: Callable[[Num], Num]) -> Callable[[Num], Num]:
    """A function with limits `low` and `high` (None: the argument itself) at -+infinity."""

    def f(x: Num) -> Num:
        if x.terms and x.top > 0:
            limit = high if x.sign() > 0 else low
            return (x if limit is None else x.like(limit)).up_to(SMALL)
        y = x.standard()
        known = preimage_of(kind, y.core)
        return (body(y.core) if known is None else known).up_to(y.error)

    return f


def turn(theta: Num) -> Num:
    """exp(i theta) of a rational multiple of pi."""
    y = theta.standard()
    if y.is_zero:
        return y.like(1)
    keys = set(y.terms)
    if keys - {(0, (), 0, ((("pi", theta.like(0)), 1),))} or y.error is not None:
        raise Reject(f"an angle {theta} that is no rational multiple of pi")
    q = next(iter(y.terms.values())) / 2
    return unity(theta.field, q.numerator, q.denominator)


def bigger(a: Num, b: Num) -> Num:
    d = a - b
    if not d.terms:
        return a.up_to(d.error)
    return a if d.sign() >= 0 else b


def re(x: Num) -> Num:
    return (x + x.conj()) / 2


def im(x: Num) -> Num:
    return (x - x.conj()) / (unity(x.field, 1, 4) * 2)


def divide(a: Num, b: Num) -> Num:
    return Num(a.field, {}) if a.is_zero and b.terms else a / b


def power(a: Num, b: Num) -> Num:
    plain = b.terms.get((0, (), 0, ()), Fraction(0))
    return a ** int(plain) if b == plain and plain.denominator == 1 else a if a == 1 else exp(b * log(a))


sigmoid = smooth("sigmoid", 0, 1, lambda x: exp(x) / (exp(x) + 1))
# fmt: off
UNARY: dict[str, Callable[[Num], Num]] = {
    "neg": lambda x: -x, "exp": exp, "log": log, "sqrt": root, "re": re, "im": im, "conj": lambda x: x.conj(),
    "cos": lambda x: re(turn(x)), "sin": lambda x: im(turn(x)), "sigmoid": sigmoid,
    "sign": lambda x: x.like(x.sign()), "step": lambda x: x.like(int(x.sign() > 0)),
    "relu": lambda x: bigger(x, x.like(0)), "abs": lambda x: bigger(x, -x),
    "tanh": smooth("tanh", -1, 1, lambda x: (exp(x * 2) - 1) / (exp(x * 2) + 1)),
    "softplus": smooth("softplus", 0, None, lambda x: log(exp(x) + 1)),
    "logsigmoid": lambda x: -UNARY["softplus"](-x),
    "silu": smooth("silu", 0, None, lambda x: x if x.is_zero else x * sigmoid(x)),
}
BINARY: dict[str, Callable[[Num, Num], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": divide,
    "pow": power, "max": bigger, "min": lambda a, b: -bigger(-a, -b),
    "polar": lambda r, t: r * turn(t), "complex": lambda a, b: a + b * unity(a.field, 1, 4),
}
COMPARE: dict[str, Callable[[Num, Num], bool]] = {
    "lt": lambda a, b: (a - b).sign() < 0, "le": lambda a, b: (a - b).sign() <= 0,
    "eq": lambda a, b: (a - b).sign() == 0, "ne": lambda a, b: (a - b).sign() != 0,
}
# fmt: on


# ---------------------------------------------------------------- the graph


def total(x: Any, axes: Any, zero: Num) -> Any:
    return np.asarray(np.sum(x, axis=tuple(axes), initial=zero), dtype=object)


def einsum(spec: str, a: Any, b: Any, zero: Num) -> Any:
    (left, right), out = spec.split("->")[0].split(","), spec.split("->")[1]
    labels = out + "".join(dict.fromkeys(c for c in left + right if c not in out))

    def laid(x: Any, have: str) -> Any:
        lead = x.ndim - len(have)
        moved = x.transpose(*range(lead), *(lead + have.index(c) for c in labels if c in have))
        sizes = iter(moved.shape[lead:])
        return moved.reshape(moved.shape[:lead] + tuple(next(sizes) if c in have else 1 for c in labels))

    return total(np.asarray(laid(a, left) * laid(b, right), dtype=object), range(len(out) - len(labels), 0), zero)


def normalised(x: Any, attrs: Any, mean: bool, centre: bool, zero: Num) -> Any:
    n = x.shape[-1]
    x = x - total(x, [-1], zero)[..., None] / n if centre else x
    squares = total(x * np.frompyfunc(Num.conj, 1, 1)(x), [-1], zero)[..., None] / (n if mean else 1)
    return np.frompyfunc(divide, 2, 1)(x, np.frompyfunc(root, 1, 1)(squares + Fraction(attrs["eps"])))


def view(node: Any, types: Any, args: Any) -> Any:
    """lift, reshape, slice, ...: the same entries at other places; axes count from the right."""
    op, attrs, x = node["op"], node["attrs"], args[0]
    rank = len(types[0]["shape"])
    front = x.shape[: x.ndim - rank]
    whole = (*node["type"]["per"], *node["type"]["shape"])
    match op:
        case "merge" | "split_per":
            return x
        case "reshape" | "expand":
            return x.reshape((*front, *node["type"]["shape"]))
        case "broadcast":
            core = (1,) * (len(node["type"]["shape"]) - rank) + x.shape[x.ndim - rank :]
            return np.broadcast_to(x.reshape(front + core), (*front, *node["type"]["shape"]))
        case "lift":
            return np.broadcast_to(x, whole)
        case "transpose":
            return x.transpose(*range(len(front)), *(len(front) + p for p in attrs["perm"]))
        case "slice":
            return np.moveaxis(np.moveaxis(x, attrs["axis"], 0)[attrs["start"] : attrs["stop"]], 0, attrs["axis"])
    lead = np.broadcast_shapes(*(a.shape[: a.ndim - rank] for a in args))
    return np.concatenate([np.broadcast_to(a, lead + a.shape[a.ndim - rank :]) for a in args], axis=attrs["axis"])


VIEWS = {"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice", "concat"}


def apply(field: Field, node: Any, types: Any, args: Any) -> Any:
    """The value of one node."""
    op, attrs, one, zero = node["op"], node["attrs"], Num(field, {(0, (), 0, ()): Fraction(1)}), Num(field, {})
    shape = (*node["type"]["per"], *node["type"]["shape"])
    if op in VIEWS:
        return view(node, types, args)
    if op in UNARY:
        return np.asarray(np.frompyfunc(UNARY[op], 1, 1)(*args), dtype=object)
    if op in BINARY:
        return np.asarray(np.frompyfunc(BINARY[op], 2, 1)(*args), dtype=object)
    if op in COMPARE:
        return np.asarray(np.frompyfunc(COMPARE[op], 2, 1)(*args), dtype=bool)
    match op:
        case "select":
            return np.where(args[0], args[1], args[2])
        case "and" | "or":
            return args[0] & args[1] if op == "and" else args[0] | args[1]
        case "not":
            return ~args[0]
        case "einsum":
            return einsum(attrs["spec"], args[0], args[1], zero)
        case "sum" | "mean":
            count = math.prod(args[0].shape[a] for a in attrs["axes"]) if op == "mean" else 1
            return np.asarray(total(args[0], attrs["axes"], zero) / count, dtype=object)
        case "const" if attrs["value"] == "pi":
            return np.full(shape, Num(field, {(0, (), 0, ((("pi", zero), 1),)): Fraction(1)}), dtype=object)
        case "const" if node["type"]["dtype"] == "real" or node["type"]["dtype"] == "complex":
            return np.broadcast_to(np.asarray(np.frompyfunc(lambda v: one * Fraction(v), 1, 1)(attrs["value"])), shape)
        case "dim":
            return np.full((), one * attrs["value"], dtype=object)
        case "eye":
            return np.where(np.eye(attrs["n"], dtype=bool), one, zero)
        case "layout" if attrs["kind"] == "diag":
            return np.where(np.eye(shape[-1], dtype=bool), args[0][..., None], zero)
        case "layout" if attrs["kind"] == "blockdiag":
            out, n = np.full((*args[0].shape[:-3], *shape[-2:]), zero, dtype=object), args[0].shape[-1]
            for b in range(args[0].shape[-3]):
                out[..., b * n : b * n + n, b * n : b * n + n] = args[0][..., b, :, :]
            return out
        case "rotation_blocks":
            c, s = (np.asarray(np.frompyfunc(UNARY[f], 1, 1)(args[0]), dtype=object) for f in ("cos", "sin"))
            return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
        case "l2norm" | "rmsnorm" | "layernorm":
            return normalised(args[0], attrs, op != "l2norm", op == "layernorm", zero)
        case "one_hot":
            return np.where(args[0][..., None] == np.arange(shape[-1]), one, zero)
        case "take":
            return args[0][int(args[1])]
    raise Reject(f"no rule for `{op}`")


# ---------------------------------------------------------------- closures


def read(field: Field, value: Any) -> Any:
    """An array: {"shape": [...], "entries": [...]}; entries are numbers, truth values or tokens."""
    entries = value["entries"]
    plain = all(isinstance(x, (bool, int)) for x in entries) and bool(entries)
    out = np.array(entries) if plain else np.empty(len(entries), dtype=object)
    for k, x in enumerate(entries if not plain else ()):
        out[k] = decode(field, x)
    return out.reshape(value["shape"])


class Layer:
    """A cell of the certificate, with its parameters."""

    def __init__(self, field: Field, data: Any) -> None:
        self.field, self.cell = field, data["cell"]
        self.given = {at: read(field, data["params"][name]) for name, at in self.cell["params"].items()}
        self.static: dict[int, Any] = {}
        self.static = self.evaluate({}, [k for k, n in enumerate(self.cell["nodes"]) if self.is_static(n)])

    def is_static(self, node: Any) -> bool:
        nodes = self.cell["nodes"]
        node.setdefault(
            "static", node["op"] not in ("input", "state") and all(nodes[a]["static"] for a in node["args"])
        )
        return bool(node["static"])

    def evaluate(self, given: Any, roots: Any) -> dict[int, Any]:
        nodes, work = self.cell["nodes"], list(roots)
        values: dict[int, Any] = self.static | self.given | given
        while work:
            k = work[-1]
            missing = [a for a in nodes[k]["args"] if a not in values] if k not in values else []
            if not missing:
                if k not in values:
                    types = [nodes[a]["type"] for a in nodes[k]["args"]]
                    values[k] = apply(self.field, nodes[k], types, [values[a] for a in nodes[k]["args"]])
                work.pop()
            work += missing
        return values

    def values(self, at: Any, values: Any) -> dict[str, list[Any]]:
        """name -> entries of the nodes (node whose shape it has, node of the value)."""
        found = {}
        for name, (like, node) in at.items():
            t = self.cell["nodes"][like]["type"]
            found[name] = list(np.broadcast_to(values[node], (*t["per"], *t["shape"])).reshape(-1))
        return found

    def step(self, inputs: Any, state: Any, outputs: bool) -> tuple[Any, Any]:
        at = {self.cell["inputs"][name]: read(self.field, value) for name, value in inputs.items()}
        at |= {self.cell["states"][name][0]: value for name, value in state.items()}
        updates = {name: (s[0], s[2]) for name, s in self.cell["states"].items()}
        shown = {name: (o, o) for name, o in self.cell["outputs"].items()} if outputs else {}
        values = self.evaluate(at, [node for _, node in (*updates.values(), *shown.values())])
        return self.values(updates, values), self.values(shown, values)


def fits(computed: Any, stated: Any) -> bool:
    """The same number, and no more left out than is stated."""
    if not isinstance(stated, Num):
        return bool(computed == stated)
    x = computed if stated.error is not None and stated.error > 0 else computed.standard()
    left = x.error is None or (stated.error is not None and x.error <= stated.error)
    return left and Num(x.field, x.terms, stated.error).terms == stated.terms


def core(state: Any) -> Any:
    numbers = (x for layer in state for name in sorted(layer) for x in np.asarray(layer[name]).reshape(-1))
    return tuple(x.core if isinstance(x, Num) else x for x in numbers)


def check_closure(field: Field, data: Any) -> None:
    """Every step from every state, the map g, and what is said of attainment and of the readout."""
    dfa, letters = data["automaton"], data["letters"]
    layers = [Layer(field, x) for x in data["layers"]]
    states = [[{name: read(field, v) for name, v in layer.items()} for layer in s] for s in data["states"]]
    for layer, first in zip(layers, states[0]):
        values = layer.evaluate({}, [s[1] for s in layer.cell["states"].values()])
        starts = layer.values({name: (s[0], s[1]) for name, s in layer.cell["states"].items()}, values)
        for name, entries in starts.items():
            if not all(map(fits, entries, first[name].reshape(-1))):
                raise Reject(f"state 0 is not the initial state (`{name}`)")
    tables: list[dict[Any, Any]] = [{} for _ in data["tables"]]
    for table, rows in zip(tables, data["tables"]):
        for row in rows:
            key = (row["letter"], core([{k: read(field, v) for k, v in row["output"].items()}]))
            if table.setdefault(key, row["inputs"]) != row["inputs"]:
                raise Reject("the map between layers is no function")
    through = data["readout"] == "outputs"
    answers: dict[Any, bool] = {}
    for k, state in enumerate(states):
        for j, letter in enumerate(dfa["alphabet"]):
            after, to, inputs = states[data["steps"][k][j]], data["steps"][k][j], letters[letter]
            where = f"state {k}, letter `{letter}`"
            for n, (layer, before) in enumerate(zip(layers, state)):
                last = n + 1 == len(layers)
                new, output = layer.step(inputs, before, through or not last)
                for name, entries in new.items():
                    if not all(map(fits, entries, after[n][name].reshape(-1))):
                        raise Reject(f"{where}: `{name}` of layer {n + 1} becomes {entries}, not what state {to} says")
                seen = core([output])
                if not last:
                    if (letter, seen) not in tables[n]:
                        raise Reject(f"{where}: layer {n + 1} gives an output that the map between layers has not")
                    inputs = tables[n][letter, seen]
            for q in {data["g"][k]} | ({dfa["start"]} if k == 0 else set()):
                if data["g"][to] != dfa["delta"][q][j]:
                    raise Reject(
                        f"{where}: g of the successor is {data['g'][to]}, and the automaton goes from {q} to "
                        f"{dfa['delta'][q][j]}"
                    )
            if through and answers.setdefault(seen, data["g"][to] in dfa["accept"]) != (data["g"][to] in dfa["accept"]):
                raise Reject(f"{where}: the outputs do not decide acceptance")
    separate([core(s) for s in states], data["g"], "states")
    separate(list(answers), list(answers.values()), "outputs")
    flat = [x for s in states for layer in s for v in layer.values() for x in v.reshape(-1) if isinstance(x, Num)]
    if data["attained"] and any(x.error is not None and x.error <= 0 for x in flat):
        raise Reject("a state is reached in the limit only, and the certificate calls it attained")


def separate(values: Any, groups: Any, what: str) -> None:
    """Values of different groups differ, for certain: in the limit, and where numbers are not algebraic by a margin."""
    first: dict[Any, Any] = {}
    for v, g in zip(values, groups):
        if first.setdefault(v, g) != g:
            raise Reject(f"two {what} that are equal in the limit belong to different states of the automaton")
    atoms = {a for v in values for x in v if isinstance(x, Num) for (*_, powers) in x.terms for a in powers}
    if any(kind != "pi" or power != 1 for (kind, _), power in atoms):
        raise Reject(f"{what} that hold numbers which are not algebraic")


# ---------------------------------------------------------------- certificates


def check_claim(claim: Any) -> None:
    """Raises Reject.  The verdict has to be the one that a closure gives."""
    positive = "refuted" if claim["claim"].startswith("not ") else "proved"
    if claim["verdict"] != positive:
        raise Reject(f"a closure makes the claim {positive}, not {claim['verdict']}")
    if not claim["closure"]["attained"] and claim["precision"] != "finite_precision":
        raise Reject(f"weights that are reached in the limit only say nothing under {claim['precision']}")
    order = 4
    while True:
        try:
            return check_closure(Field(order), claim["closure"])
        except NeedOrder as error:
            order = math.lcm(order, error.order)


def check(text: str) -> list[str]:
    """One line for each claim that is re-established; raises Reject at the first that is not."""
    try:
        data = json.loads(text)
        if data["format"] != "rnnc certificate 1":
            raise Reject("not a certificate of this version")
        claims = list(data["claims"])
    except MALFORMED as error:
        raise Reject(f"no certificate: {type(error).__name__}: {error}") from None
    lines = []
    for n, claim in enumerate(claims, 1):
        try:
            check_claim(claim)
            lines.append(f"{claim['cell']}: {claim['claim']}: {claim['verdict']} under {claim['precision']}")
        except Reject as error:
            raise Reject(f"claim {n} (`{claim['claim']}`): {error}") from None
        except MALFORMED as error:
            raise Reject(f"claim {n}: malformed: {type(error).__name__}: {error}") from None
    return lines
