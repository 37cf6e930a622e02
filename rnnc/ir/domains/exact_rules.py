"""Every op on NumPy object arrays of exact numbers (`rnnc.exact`), bool arrays, and int64 arrays of tokens.

Layout as in the concrete domain.  A rule is exact or raises `NotExact`.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Any, TypeAlias

import numpy

from rnnc.exact import Asymptotic, NotExact, Number, pi
from rnnc.exact import functions as fn
from rnnc.exact.algebraic import I
from rnnc.exact.asymptotic import sign
from rnnc.ir.ops import numeric
from rnnc.ir.ops.table import Site

np: Any = numpy  # object arrays, which its stubs do not describe
Array = Any  # np.ndarray of object, bool or int64
Rule: TypeAlias = Callable[..., Array]
ZERO, ONE = Fraction(0), Fraction(1)
MEMORY = 1 << 14  # results that are kept: a machine's steps ask for the same few again and again
MOST_BITS = 1 << 20  # of a product: squared again and again a number would fill the memory


# ---------------------------------------------------------------- arrays


def _number(x: Any) -> Any:
    """Python numbers as exact ones; a float is the rational it is."""
    if isinstance(x, (bool, int, np.integer)):
        return Fraction(int(x))
    if isinstance(x, (float, np.floating)):
        return Fraction(float(x))
    if isinstance(x, (complex, np.complexfloating)):
        return I * Fraction(x.imag) + Fraction(x.real)
    return x


_numbers = np.frompyfunc(_number, 1, 1)


def exact_array(value: Any) -> Array:
    """A number, nested sequences or an array, as an object array of exact numbers."""
    return objects(_numbers(np.asarray(value, dtype=object)))


def objects(value: Any) -> Array:
    """NumPy's functions return the bare element for rank 0: this puts it back."""
    if isinstance(value, np.ndarray):
        return value
    out = np.empty((), dtype=object)
    out[()] = value
    return out


def zeros(shape: tuple[int, ...]) -> Array:
    out = np.empty(shape, dtype=object)
    out.fill(ZERO)
    return out


def _each(f: Callable[..., Any], arity: int = 1) -> Rule:
    over = np.frompyfunc(f, arity, 1)
    return lambda site, *args: objects(over(*args))


def _truth(f: Callable[..., bool], arity: int = 2) -> Rule:
    over = np.frompyfunc(f, arity, 1)
    return lambda site, *args: np.asarray(over(*args), dtype=bool)


def _mul(a: Number, b: Number) -> Number:
    """Products with plain zeros and ones are what most matrices hold."""
    if a is ZERO or b is ZERO or a == 0 or b == 0:
        return ZERO
    if isinstance(a, Asymptotic) or isinstance(b, Asymptotic):
        return _product_of(a, b)
    if a is ONE or b is ONE:
        return b if a is ONE else a
    if isinstance(a, Fraction) and isinstance(b, Fraction) and _bits(a) + _bits(b) > MOST_BITS:
        raise NotExact(f"numbers of more than {MOST_BITS} bits")
    return a * b


def _bits(a: Fraction) -> int:
    return a.numerator.bit_length() + a.denominator.bit_length()


@lru_cache(maxsize=MEMORY)
def _product_of(a: Number, b: Number) -> Number:
    return a * b


@lru_cache(maxsize=MEMORY)
def _sum_of(a: Number, b: Number) -> Number:
    return a + b


def _div(a: Number, b: Number) -> Number:
    if b == 0:
        raise NotExact("division by zero")
    return a / b


_products = np.frompyfunc(_mul, 2, 1)


def _plus(a: Number, b: Number) -> Number:
    if a is ZERO or b is ZERO:
        return b if a is ZERO else a
    return _sum_of(a, b) if isinstance(a, Asymptotic) or isinstance(b, Asymptotic) else a + b


_sums = np.frompyfunc(_plus, 2, 1)


def _sum(x: Array, axes: tuple[int, ...]) -> Array:
    for axis in sorted((a % x.ndim for a in axes), reverse=True):
        x = objects(_sums.reduce(x, axis=axis, initial=ZERO))
    return x


def contract(spec: str, a: Array, b: Array) -> Array:
    """einsum over the last axes, any axes in front broadcast."""
    inputs, output = spec.split("->")
    left, right = inputs.split(",")
    labels = output + "".join(x for x in dict.fromkeys(left + right) if x not in output)

    def aligned(x: Array, have: str) -> Array:
        lead = x.ndim - len(have)
        order = [lead + have.index(k) for k in labels if k in have]
        x = x.transpose(*range(lead), *order)
        sizes = iter(x.shape[lead:])
        return x.reshape(x.shape[:lead] + tuple(next(sizes) if k in have else 1 for k in labels))

    products = objects(_products(aligned(a, left), aligned(b, right)))
    return _sum(products, tuple(range(len(output) - len(labels), 0)))


def matmul(a: Array, b: Array) -> Array:
    return contract("ij,jk->ik", a, b)


def solve(a: Array, b: Array) -> Array:
    """X with A X = B by elimination, over any axes in front."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a = np.broadcast_to(a, lead + a.shape[-2:])
    b = np.broadcast_to(b, lead + b.shape[-2:])
    out = np.empty(b.shape, dtype=object)
    for at in np.ndindex(*lead):
        out[at] = _eliminate(a[at], b[at])
    return out


def _eliminate(a: Array, b: Array) -> Array:
    n = a.shape[0]
    rows = [[*a[i], *b[i]] for i in range(n)]
    for i in range(n):
        pivot = next((r for r in range(i, n) if not fn.equal(rows[r][i], ZERO)), None)
        if pivot is None:
            raise NotExact("the matrix has no inverse")
        rows[i], rows[pivot] = rows[pivot], rows[i]
        inverse = 1 / rows[i][i]
        rows[i] = [_mul(x, inverse) for x in rows[i]]
        for r in range(n):
            factor = rows[r][i]
            if r != i and factor != 0:
                rows[r] = [x - _mul(factor, y) for x, y in zip(rows[r], rows[i])]
    out = np.empty((n, b.shape[1]), dtype=object)
    for i in range(n):
        out[i] = rows[i][n:]
    return out


# ---------------------------------------------------------------- rules


def _eye(n: int) -> Array:
    return exact_array(np.eye(n, dtype=int))


def _mean(site: Site, x: Array) -> Array:
    axes = tuple(site.attrs["axes"])
    count = int(np.prod([x.shape[a] for a in axes]))
    return objects(_sum(x, axes) / Fraction(count))


def _extremum(pick: Callable[[Number, Number], Number]) -> Rule:
    def rule(site: Site, x: Array) -> Array:
        axes = tuple(a % x.ndim for a in site.attrs["axes"])
        kept = [a for a in range(x.ndim) if a not in axes]
        rows = x.transpose(*kept, *axes).reshape(*(x.shape[a] for a in kept), -1)
        out = np.empty(rows.shape[:-1], dtype=object)
        for at in np.ndindex(*out.shape):
            out[at] = reduce(pick, rows[at])
        return out

    return rule


def _norm(mean: bool, centre: bool) -> Rule:
    def rule(site: Site, x: Array) -> Array:
        size = Fraction(x.shape[-1])
        if centre:
            x = x - _sum(x, (-1,))[..., None] / size
        squares = objects(_products(x, objects(np.frompyfunc(fn.conj, 1, 1)(x))))
        total = _sum(squares, (-1,))[..., None]
        total = (total / size if mean else total) + Fraction(site.attrs["eps"])
        roots = np.frompyfunc(lambda t: fn.sqrt(fn.re(t)), 1, 1)(total)
        return objects(np.frompyfunc(lambda a, b: a if a == 0 and b != 0 else _div(a, b), 2, 1)(x, roots))

    return rule


def _softmax(site: Site, x: Array) -> Array:
    out = np.empty(x.shape, dtype=object)
    for at in np.ndindex(*x.shape[:-1]):
        top = reduce(fn.maximum, x[at])
        weights = [fn.exp(v - top) for v in x[at]]
        total = sum(weights, ZERO)
        out[at] = [_div(w, total) for w in weights]
    return out


def _layout(site: Site, x: Array) -> Array:
    kind = site.attrs["kind"]
    core = x.shape[x.ndim - site.rank() :]
    at = numeric._places(np, kind, core)
    flat = x.reshape((*numeric.front(x, len(core)), -1))
    out = np.where(at >= 0, flat[..., np.maximum(at, 0)], ZERO)
    if kind == "companion":
        out = np.where(np.eye(core[0], k=-1, dtype=bool) & (at < 0), ONE, out)
    return out


def _layout_transpose(site: Site, x: Array) -> Array:
    at = numeric._places(np, site.attrs["kind"], site.shape).reshape(-1)
    flat = x.reshape((*numeric.front(x, 2), -1))
    out = zeros((*flat.shape[:-1], int(np.prod(site.shape))))
    for source, target in enumerate(at):
        if target >= 0:
            out[..., target] = out[..., target] + flat[..., source]
    return out.reshape(numeric.front(x, 2) + site.shape)


def _rotation_blocks(site: Site, theta: Array) -> Array:
    c, s = objects(np.frompyfunc(fn.cos, 1, 1)(theta)), objects(np.frompyfunc(fn.sin, 1, 1)(theta))
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)


def _expm(site: Site, a: Array) -> Array:
    """Of nilpotent matrices (a finite sum), of diagonal ones, and of [[0, -t], [t, 0]] with t a multiple of pi."""
    out = np.empty(a.shape, dtype=object)
    for at in np.ndindex(*a.shape[:-2]):
        out[at] = _expm_one(a[at])
    return out


def _expm_one(a: Array) -> Array:
    n = a.shape[0]
    off = a.copy()
    np.fill_diagonal(off, ZERO)
    if all(x == 0 for x in off.flat):
        return np.where(np.eye(n, dtype=bool), objects(np.frompyfunc(fn.exp, 1, 1)(a.diagonal()))[:, None], ZERO)
    if n == 2 and a[0, 0] == 0 and a[1, 1] == 0 and a[0, 1] == -a[1, 0]:
        c, s = fn.cos(a[1, 0]), fn.sin(a[1, 0])
        return exact_array([[c, -s], [s, c]])
    total, term = _eye(n), _eye(n)
    for k in range(1, n + 1):
        term = matmul(term, a) / Fraction(k)
        total = total + term
    if any(x != 0 for x in term.flat):
        raise NotExact("the exponential of a matrix that is neither nilpotent, diagonal nor a plane rotation's")
    return total


def _cayley(site: Site, m: Array) -> Array:
    eye = _eye(m.shape[-1])
    return solve(eye + m, eye - m)


def _take(site: Site, table: Array, token: Array) -> Array:
    rank = site.rank(0)
    lead = np.broadcast_shapes(numeric.front(table, rank), token.shape)
    rows = np.broadcast_to(table, lead + table.shape[table.ndim - rank :])
    tokens = np.broadcast_to(token, lead)
    out = np.empty(lead + site.shape, dtype=object)
    for at in np.ndindex(*lead):
        out[at] = rows[(*at, int(tokens[at]))]
    return out


def _const(site: Site) -> Array:
    value, declared = site.attrs["value"], site.attrs["type"]
    if value == "e":
        raise NotExact("the constant e is not algebraic")
    if declared.dtype in ("bool", "token"):
        return np.broadcast_to(
            np.array(value, dtype=bool if declared.dtype == "bool" else np.int64), site.per + site.shape
        )
    filled = objects(pi) if isinstance(value, str) else exact_array(value)
    return np.broadcast_to(filled, site.per + site.shape)


VIEWS = frozenset({"lift", "merge", "split_per", "expand", "broadcast", "reshape", "transpose", "slice", "concat"})
LOGICAL = frozenset({"and", "or", "not"})
_UNARY: dict[str, Rule] = {name: _each(lru_cache(maxsize=MEMORY)(f)) for name, f in fn.UNARY.items()}
RULES: dict[str, Rule] = _UNARY | {
    "neg": _each(lambda a: -a),
    "expm1": _each(lambda a: fn.exp(a) - 1),
    "real": lambda site, x: exact_array(x.astype(int)),
    "add": _each(_plus, 2),
    "sub": _each(lambda a, b: a - b, 2),
    "mul": _each(_mul, 2),
    "div": _each(_div, 2),
    "pow": _each(fn.power, 2),
    "max": _each(fn.maximum, 2),
    "min": _each(fn.minimum, 2),
    "logaddexp": _each(fn.logaddexp, 2),
    "lt": _truth(lambda a, b: sign(a - b) < 0),
    "le": _truth(lambda a, b: sign(a - b) <= 0),
    "eq": _truth(fn.equal),
    "ne": _truth(lambda a, b: not fn.equal(a, b)),
    "select": lambda site, c, a, b: np.where(c, a, b),
    "polar": _each(lambda r, t: _mul(r, fn.cis(t)), 2),
    "complex": _each(lambda a, b: a + I * b, 2),
    "einsum": lambda site, a, b: contract(site.attrs["spec"], a, b),
    "sum": lambda site, x: _sum(x, tuple(site.attrs["axes"])),
    "mean": _mean,
    "amax": _extremum(fn.maximum),
    "amin": _extremum(fn.minimum),
    "softmax": _softmax,
    "l2norm": _norm(mean=False, centre=False),
    "rmsnorm": _norm(mean=True, centre=False),
    "layernorm": _norm(mean=True, centre=True),
    "layout": _layout,
    "layout_transpose": _layout_transpose,
    "rotation_blocks": _rotation_blocks,
    "expm": _expm,
    "cayley": _cayley,
    "solve": lambda site, a, b: solve(a, b),
    "one_hot": lambda site, t: exact_array((t[..., None] == np.arange(site.shape[-1])).astype(int)),
    "take": _take,
    "const": _const,
    "dim": lambda site: objects(Fraction(site.attrs["value"])),
    "arange": lambda site: exact_array(np.arange(site.attrs["start"], site.attrs["stop"])),
    "eye": lambda site: _eye(site.attrs["n"]),
}
