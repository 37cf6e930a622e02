"""Values are NumPy object arrays of exact numbers (`rnnc.exact`), bool arrays, and int64 arrays of tokens.

Layout as in the concrete domain.  Every op is either exact or raises `NotExact` with the op and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import reduce
from typing import Any, TypeAlias

import numpy

from rnnc.exact import NotExact, Number, pi
from rnnc.exact import functions as fn
from rnnc.exact.algebraic import I
from rnnc.exact.asymptotic import sign
from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import numbers
from rnnc.ir.evaluate import Domain, evaluate
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS, numeric
from rnnc.ir.ops.table import Site
from rnnc.ir.unfold import inline_calls, unfold_time

np: Any = numpy  # object arrays, which its stubs do not describe
Array = Any  # np.ndarray of object, bool or int64
Rule: TypeAlias = Callable[..., Array]
ZERO, ONE = Fraction(0), Fraction(1)


class NotExactError(NotExact):
    """An op without an exact value here: which one (`op`, `name`, the source line), and why."""

    def __init__(self, node: Node, reason: str) -> None:
        self.op = node.op
        self.reason = reason
        where = f" `{node.name}`" if node.name else ""
        line = f" (line {node.span.line})" if node.span is not None else ""
        super().__init__(f"{node.op}{where}{line} is not exact: {reason}")


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
    return b if a is ONE else a if b is ONE else a * b


def _div(a: Number, b: Number) -> Number:
    if b == 0:
        raise NotExact("division by zero")
    return a / b


_products = np.frompyfunc(_mul, 2, 1)


def _plus(a: Number, b: Number) -> Number:
    return b if a is ZERO else a if b is ZERO else a + b


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
_UNARY: dict[str, Rule] = {name: _each(f) for name, f in fn.UNARY.items()}
RULES: dict[str, Rule] = _UNARY | {
    "neg": _each(lambda a: -a),
    "expm1": _each(lambda a: fn.exp(a) - 1),
    "real": lambda site, x: exact_array(x.astype(int)),
    "add": _each(lambda a, b: a + b, 2),
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


def _resolve(value: Any, dims: Mapping[str, int]) -> Any:
    """An attribute with its dims as ints; exact numbers stay."""
    match value:
        case Dim():
            return value.evaluate(dims)
        case tuple():
            return tuple(_resolve(v, dims) for v in value)
        case _:
            return value


class ExactDomain(Domain[Array]):
    """`given` holds the values of inputs, parameters and states by node; `dims` a number for every dim."""

    def __init__(self, cell: CellIR, dims: Mapping[str, int], given: Mapping[NodeId, Array]) -> None:
        self.cell = cell
        self.dims = dims
        self.given = dict(given)
        self._sites: dict[NodeId, Site] = {}

    def site(self, node: Node) -> Site:
        found = self._sites.get(node.id)
        if found is None:
            found = self._sites[node.id] = Site(
                attrs=numbers(node, self.dims, _resolve),
                types=tuple(self.cell.nodes[a].type for a in node.args),
                per=_resolve(node.type.per, self.dims),
                shape=_resolve(node.type.shape, self.dims),
            )
        return found

    def leaf(self, node: Node) -> Array:
        if node.id in self.given:
            return self.given[node.id]
        if node.op not in RULES:
            raise KeyError(f"no value given for {node.op} `{node.name}`")
        return self._apply(node, ())

    def apply(self, node: Node, args: tuple[Array, ...]) -> Array:
        return self._apply(node, args)

    def _apply(self, node: Node, args: tuple[Array, ...]) -> Array:
        try:
            if node.op in VIEWS or node.op in LOGICAL:
                value = OPS[node.op].value
                assert value is not None
                return value(np, self.site(node), *args)
            if node.op not in RULES:
                raise NotExact("it has no exact value")
            return RULES[node.op](self.site(node), *args)
        except NotExactError:
            raise
        except NotExact as error:
            raise NotExactError(node, str(error)) from None


# ---------------------------------------------------------------- one step


def shape_of(cell: CellIR, node: NodeId, dims: Mapping[str, int]) -> tuple[int, ...]:
    t = cell.nodes[node].type
    return tuple(d.evaluate(dims) for d in (*t.per, *t.shape))


class ExactCell:
    """A cell unfolded to plain nodes and states, with exact numbers for its parameters.

    Inputs, parameters and states are arrays [*per, *shape] (of numbers: ints, Fractions, `rnnc.exact` numbers; nested
    lists will do); a state of `conv` or `prev` is [*per, n, *shape], oldest first.  Raises ValueError for a wrong
    shape or a missing value, NotExact where an op is not exact.
    """

    def __init__(self, cell: CellIR, dims: Mapping[str, int], params: Mapping[str, Any]) -> None:
        self.cell, _ = unfold_time(inline_calls(cell))
        self.dims = self.cell.dim_values(dims)
        self.given = dict(params)
        given = {p.node: self._fit(p.node, f"parameter `{p.name}`", params.get(p.name)) for p in self.cell.params}
        self.domain = ExactDomain(self.cell, self.dims, given)
        static: set[NodeId] = set()
        for n in self.cell.nodes:
            if n.op not in ("input", "state") and all(a in static for a in n.args):
                static.add(n.id)
        needed = {s.init for s in self.cell.states}
        needed |= {a for n in self.cell.nodes if n.id not in static for a in n.args if a in static}
        needed |= {r for r in self._roots() if r in static}
        self._static_roots = needed
        self._static: dict[NodeId, Array] = {}

    def _roots(self) -> list[NodeId]:
        return [s.update for s in self.cell.states] + [o.node for o in self.cell.outputs]

    def _fit(self, node: NodeId, what: str, value: Any) -> Array:
        if value is None:
            raise ValueError(f"no value for {what}")
        shape = shape_of(self.cell, node, self.dims)
        dtype = self.cell.nodes[node].type.dtype
        array = np.asarray(value, dtype=bool if dtype == "bool" else np.int64) if dtype in ("bool", "token") else None
        array = exact_array(value) if array is None else array
        if array.shape != shape:
            raise ValueError(f"{what} has shape {array.shape}, not {shape}")
        return array

    def _known(self, roots: list[NodeId]) -> dict[NodeId, Array]:
        """Values of what is static and needed for `roots`, computed once."""
        from rnnc.ir.graph import ancestors

        wanted = ancestors(self.cell, roots, self._static_roots) & self._static_roots
        missing = [i for i in wanted if i not in self._static]
        if missing:
            self._static |= evaluate(self.cell, self.domain, missing, self._static)
        return self._static

    def start(self) -> dict[str, Array]:
        """The initial state."""
        known = self._known([s.init for s in self.cell.states])
        return {
            s.name: np.broadcast_to(known[s.init], shape_of(self.cell, s.node, self.dims)) for s in self.cell.states
        }

    def step(self, inputs: Mapping[str, Any], state: Mapping[str, Array]) -> dict[str, Array]:
        """The state after one step."""
        return self._after(self._evaluate(inputs, state, [s.update for s in self.cell.states]))

    def outputs(self, inputs: Mapping[str, Any], state: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs of the step that starts in `state`."""
        return self._seen(self._evaluate(inputs, state, [o.node for o in self.cell.outputs]))

    def advance(
        self, inputs: Mapping[str, Any], state: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """`step` and `outputs` in one evaluation."""
        values = self._evaluate(inputs, state, self._roots())
        return self._after(values), self._seen(values)

    def _after(self, values: Mapping[NodeId, Array]) -> dict[str, Array]:
        return {
            s.name: np.broadcast_to(values[s.update], shape_of(self.cell, s.node, self.dims)) for s in self.cell.states
        }

    def _seen(self, values: Mapping[NodeId, Array]) -> dict[str, Array]:
        return {
            o.name: np.broadcast_to(values[o.node], shape_of(self.cell, o.node, self.dims)) for o in self.cell.outputs
        }

    def _evaluate(
        self, inputs: Mapping[str, Any], state: Mapping[str, Array], roots: list[NodeId]
    ) -> dict[NodeId, Array]:
        known = self._known(roots)
        for i in self.cell.inputs:
            self.domain.given[i.node] = self._fit(i.node, f"input `{i.name}`", inputs.get(i.name))
        for s in self.cell.states:
            self.domain.given[s.node] = state[s.name]
        return evaluate(self.cell, self.domain, roots, known)


def exact_step(
    cell: CellIR,
    dims: Mapping[str, int],
    params: Mapping[str, Any],
    inputs: Mapping[str, Any],
    state: Mapping[str, Array] | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """(outputs, state after) of one step; `state` None is the initial one.  See ExactCell for shapes and errors."""
    machine = ExactCell(cell, dims, params)
    before = machine.start() if state is None else state
    return machine.outputs(inputs, before), machine.step(inputs, before)
