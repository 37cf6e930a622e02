"""Values of single operations and of whole cells on exact numbers or rounded to a float format.

Independent of `rnnc.ir.domains`, with which witnesses are found; the certificate checker runs cells with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy

from rnnc.exact import NotExact, pi
from rnnc.exact import functions as fn
from rnnc.exact.asymptotic import NUMBERS, sign
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Node, ancestors
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, UnitNorm

np: Any = numpy  # object arrays, which its stubs do not describe
GRAIN = Fraction(1, 10**30)  # far above the digits to which irrational ends of domains are rounded
FLOATS = {"float32": (np.float32, np.complex64), "float64": (np.float64, np.complex128)}


def each(f: Any, *args: Any) -> Any:
    """f of every entry, as an object array."""
    return np.asarray(np.frompyfunc(f, len(args), 1)(*args), dtype=object)


EXACT: dict[str, Any] = fn.UNARY | {
    "div": lambda a, b: a if a == 0 and b != 0 else a / b, "pow": fn.power, "max": fn.maximum, "min": fn.minimum,
    "logaddexp": fn.logaddexp, "polar": lambda r, t: r * fn.cis(t), "complex": lambda a, b: a + fn.cis(pi / 2) * b,
}  # fmt: skip


def exactly(node: Node, site: Site, args: Any) -> Any:
    """The value of a node from those of its arguments; NotExact or TypeError for what has no exact value."""
    match node.op:
        case op if op in EXACT:
            return each(EXACT[op], *args)
        case "eq" | "ne":
            return each(fn.equal, *args).astype(bool) == (node.op == "eq")
        case "const" if node.type.dtype in ("real", "complex"):
            value = np.asarray(site.attrs["value"], dtype=object)
            return np.broadcast_to(each(lambda v: pi if v == "pi" else Fraction(v), value), site.per + site.shape)
        case "rotation_blocks":
            c, s = each(fn.cos, args[0]), each(fn.sin, args[0])
            return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)
        case "l2norm" | "rmsnorm" | "layernorm":
            x, n = args[0], Fraction(args[0].shape[-1])
            x = x - x.sum(axis=-1, keepdims=True) / n if node.op == "layernorm" else x
            squares = (x * each(fn.conj, x)).sum(axis=-1, keepdims=True) / (1 if node.op == "l2norm" else n)
            return each(EXACT["div"], x, each(fn.sqrt, squares + Fraction(site.attrs["eps"])))
        case "softmax":
            rows = args[0].reshape(-1, args[0].shape[-1]).tolist()
            return np.array([_softmax(row) for row in rows], dtype=object).reshape(args[0].shape)
        case "take" if not node.type.per:
            return args[0][int(args[1])]
    try:
        found = np.asarray(OPS[node.op].value(np, site, *args))  # type: ignore[misc]
    except (TypeError, AttributeError) as error:  # a function of numpy that exact numbers do not have
        raise NotExact(f"{node.op} has no exact value: {error}") from None
    mixed = any(a.dtype == object for a in args)

    def number(v: Any) -> Any:
        if isinstance(v, NUMBERS):
            return v
        if mixed:
            raise NotExact(f"{node.op} is worked out in floating point")
        return Fraction(v)

    return each(number, found) if found.dtype.kind in "fcO" else found


def _softmax(row: list[Any]) -> list[Any]:
    top = reduce(fn.maximum, row)
    weights = [fn.exp(v - top) for v in row]
    return [w / sum(weights, Fraction(0)) for w in weights]


class Interpreter:
    """The nodes of a cell at given sizes: exact, or each operation rounded to a format (`kind`: "exact", "float32").

    `given` holds values of inputs, parameters and states, by node.
    """

    def __init__(self, cell: CellIR, sizes: dict[str, int], kind: str) -> None:
        self.cell, self.sizes, self.kind = cell, sizes, kind
        self.given: dict[int, Any] = {}

    def evaluate(self, roots: Iterable[int]) -> dict[int, Any]:
        """Values of these nodes and of what they are computed from."""
        values = dict(self.given)
        for i in sorted(ancestors(self.cell, roots, values.keys())):
            if i not in values:
                values[i] = self.value(self.cell.nodes[i], [values[a] for a in self.cell.nodes[i].args])
        return values

    def site(self, node: Node) -> Site:
        attrs, types = {k: self.sized(v) for k, v in node.attrs}, tuple(self.cell.nodes[a].type for a in node.args)
        return Site(attrs=attrs, types=types, per=self.sized(node.type.per), shape=self.sized(node.type.shape))

    def value(self, node: Node, args: Any) -> Any:
        site = self.site(node)
        with np.errstate(all="ignore"):
            if self.kind == "exact":
                return exactly(node, site, args)
            return self.rounded(OPS[node.op].value(np, site, *args))  # type: ignore[misc]

    def rounded(self, value: Any, complex_: bool = False) -> Any:
        array = np.asarray(value)
        return (
            array.astype(FLOATS[self.kind][complex_ or array.dtype.kind == "c"]) if array.dtype.kind in "fc" else array
        )

    def sized(self, value: Any) -> Any:
        """An attribute or shape with numbers for the sizes."""
        if isinstance(value, tuple):
            return tuple(self.sized(v) for v in value)
        value = value.evaluate(self.sizes) if isinstance(value, Dim) else value
        return float(value) if isinstance(value, Fraction) and self.kind != "exact" else value

    def fitted(self, value: Any, node: int) -> Any:
        """A value with the shape of a node."""
        t = self.cell.nodes[node].type
        return np.broadcast_to(value, self.sized((*t.per, *t.shape)))


def inside(domain: Domain | None, x: Any) -> bool:
    """Whether exact numbers lie in a declared domain.

    Irrational ends of domains were rounded outward (`rnnc.frontend.irrational`), so numbers beside such an end, and
    irrational ones beside any, have to keep GRAIN away from it.
    """

    def above(gap: Any, v: Any, end: Fraction, open_: bool) -> bool:
        rounded = not isinstance(v, Fraction) or end.denominator > 1 / GRAIN
        return sign(gap - (GRAIN if rounded else 0)) >= int(open_)

    entries = x.reshape(-1).tolist()
    match domain:
        case Interval(lo=lo, hi=hi, lo_open=lo_open, hi_open=hi_open):
            low = all(lo is None or above(v - lo, v, lo, lo_open) for v in entries)
            return low and all(hi is None or above(hi - v, v, hi, hi_open) for v in entries)
        case Disk(radius=r):
            return all(above(r * r - v * fn.conj(v), v * fn.conj(v), r, False) for v in entries)
        case HalfPlane(bound=b, above=up, strict=strict):
            return all(above((fn.re(v) - b) * (1 if up else -1), fn.re(v), b, strict) for v in entries)
        case UnitNorm():
            return all(v == 1 for v in (x * each(fn.conj, x)).sum(axis=-1, keepdims=True).reshape(-1))
    return True
