"""Values are NumPy object arrays of exact numbers (`rnnc.exact`), bool arrays, and int64 arrays of tokens.

Layout as in the concrete domain.  Every op is either exact or raises `NotExact` with the op and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from fractions import Fraction
from typing import Any

import numpy

from rnnc.exact import Asymptotic, NotExact
from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import numbers
from rnnc.ir.domains.exact_rules import LOGICAL, RULES, VIEWS, Array, exact_array
from rnnc.ir.evaluate import Domain, evaluate
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.ir.unfold import inline_calls, unfold_time

__all__ = ["RULES", "VIEWS", "ExactCell", "ExactDomain", "NotExactError", "exact_array", "exact_step", "shape_of"]

np: Any = numpy  # object arrays, which its stubs do not describe


class NotExactError(NotExact):
    """An op without an exact value here: which one (`op`, `name`, the source line), and why."""

    def __init__(self, node: Node, reason: str) -> None:
        self.op = node.op
        self.reason = reason
        where = f" `{node.name}`" if node.name else ""
        line = f" (line {node.span.line})" if node.span is not None else ""
        super().__init__(f"{node.op}{where}{line} is not exact: {reason}")


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
    """`given` holds the values of inputs, parameters and states by node; `dims` a number for every dim.

    `nonnegative`: nodes that are never negative.  Of what is only known to vanish, roots are taken there alone: of a
    number that vanishes from below a root is not one.
    """

    def __init__(
        self,
        cell: CellIR,
        dims: Mapping[str, int],
        given: Mapping[NodeId, Array],
        nonnegative: Container[NodeId] = frozenset(),
    ) -> None:
        self.cell = cell
        self.nonnegative = nonnegative
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
        with np.errstate(all="ignore"):  # flags that Python's floats leave behind where a sign is decided
            return self._exactly(node, args)

    def _exactly(self, node: Node, args: tuple[Array, ...]) -> Array:
        try:
            if node.op in VIEWS or node.op in LOGICAL:
                value = OPS[node.op].value
                assert value is not None
                return value(np, self.site(node), *args)
            if node.op not in RULES:
                raise NotExact("it has no exact value")
            if _takes_a_root(node, args) and node.args[0] not in self.nonnegative:
                raise NotExact("a root of something infinitesimal that may be negative")
            return RULES[node.op](self.site(node), *args)
        except NotExactError:
            raise
        except NotExact as error:
            raise NotExactError(node, str(error)) from None


def _takes_a_root(node: Node, args: tuple[Array, ...]) -> bool:
    """Whether a root is taken of something that is only known to vanish."""
    whole = node.op == "pow" and all(isinstance(x, Fraction) and x.denominator == 1 for x in args[1].flat)
    if node.op not in ("sqrt", "pow") or whole:
        return False
    return any(isinstance(x, Asymptotic) and not x.terms for x in args[0].flat)


# ---------------------------------------------------------------- one step


def shape_of(cell: CellIR, node: NodeId, dims: Mapping[str, int]) -> tuple[int, ...]:
    t = cell.nodes[node].type
    return tuple(d.evaluate(dims) for d in (*t.per, *t.shape))


class ExactCell:
    """A cell unfolded to plain nodes and states, with exact numbers for its parameters.

    Inputs, parameters and states are arrays [*per, *shape] (of numbers: ints, Fractions, `rnnc.exact` numbers; nested
    lists will do); a state of `conv` or `prev` is [*per, n, *shape], oldest first.  `nonnegative` proves of nodes of
    the unfolded cell that they are never negative.  Raises ValueError for a wrong shape or a missing value, NotExact
    where an op is not exact.
    """

    def __init__(
        self,
        cell: CellIR,
        dims: Mapping[str, int],
        params: Mapping[str, Any],
        nonnegative: Callable[[CellIR], Container[NodeId]] = lambda cell: frozenset(),
    ) -> None:
        self.cell, _ = unfold_time(inline_calls(cell))
        self.dims = self.cell.dim_values(dims)
        self.given = dict(params)
        given = {p.node: self.fit(p.node, f"parameter `{p.name}`", params.get(p.name)) for p in self.cell.params}
        self.domain = ExactDomain(self.cell, self.dims, given, nonnegative(self.cell))
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

    def fit(self, node: NodeId, what: str, value: Any) -> Array:
        if value is None:
            raise ValueError(f"no value for {what}")
        shape = shape_of(self.cell, node, self.dims)
        dtype = self.cell.nodes[node].type.dtype
        array = np.asarray(value, dtype=bool if dtype == "bool" else np.int64) if dtype in ("bool", "token") else None
        array = exact_array(value) if array is None else array
        if array.shape != shape:
            raise ValueError(f"{what} has shape {array.shape}, not {shape}")
        return array

    def known(self, roots: list[NodeId]) -> dict[NodeId, Array]:
        """Values of what is static and needed for `roots`, computed once."""
        wanted = ancestors(self.cell, roots, self._static_roots) & self._static_roots
        missing = [i for i in wanted if i not in self._static]
        if missing:
            self._static |= evaluate(self.cell, self.domain, missing, self._static)
        return self._static

    def start(self) -> dict[str, Array]:
        """The initial state."""
        known = self.known([s.init for s in self.cell.states])
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
        known = self.known(roots)
        for i in self.cell.inputs:
            self.domain.given[i.node] = self.fit(i.node, f"input `{i.name}`", inputs.get(i.name))
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
