"""`CellIR`: one step of a recurrence as a small typed graph.

Nodes are frozen, topologically ordered, and refer to each other by id (`cell.nodes[i].id == i`).  Facts found by an
analysis live in mappings beside the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from rnnc.diagnostics import Span
from rnnc.ir.dims import Dim
from rnnc.ir.types import Domain, Type

NodeId: TypeAlias = int
Exact: TypeAlias = "Fraction | tuple[Exact, ...]"
InitNumber: TypeAlias = "Fraction | Dim | tuple[Fraction, Dim, Fraction]"  # the last is coefficient * dim ^ power
Attr: TypeAlias = "str | int | bool | Fraction | Dim | tuple[Attr, ...]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One operation.  `op` is a row of `rnnc.ir.ops.OPS`; `name` is the spec's name for the value, if it has one."""

    id: NodeId
    op: str
    args: tuple[NodeId, ...] = ()
    attrs: tuple[tuple[str, Attr], ...] = ()
    type: Type
    name: str = ""
    span: Span | None = field(default=None, compare=False, repr=False)

    def attr(self, key: str, default: Attr | None = None) -> Attr | None:
        for k, v in self.attrs:
            if k == key:
                return v
        return default


@dataclass(frozen=True, slots=True, kw_only=True)
class DimParam:
    """A `dim` hyperparameter, kept symbolic; `default` may use the names of earlier ones."""

    name: str
    default: Dim | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    name: str
    node: NodeId  # op "input"
    domain: Domain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """How a parameter starts.

    `kind`: "default" (uniform +-1/sqrt(last axis) from rank 2 on, zeros below), "fan_in" (uniform +-1/sqrt(args[0])),
    "zeros", "ones", "constant" (args[0]), "normal" (std args[0], mean args[1] or 0), "uniform" (args[0], args[1]),
    "xavier", "kaiming", "orthogonal", "identity", "value" (`node`, a static expression of no parameters).
    The value is that of the *constrained* parameter where `ParamDecl.constrained` is set.
    """

    kind: str = "default"
    args: tuple[InitNumber, ...] = ()
    node: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A learned tensor: `node` has op "param".  With a domain, `constrained` is the node that maps it into the
    domain.
    """

    name: str
    node: NodeId
    init: Init = Init()
    domain: Domain | None = None
    constrained: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """`node` (op "state") reads the value before the step; `update` is the value after it; `init` is static."""

    name: str
    node: NodeId
    init: NodeId
    update: NodeId
    domain: Domain | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    name: str
    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeClaim:
    """`node` lies in `domain`: written by the user on a gate, let or output; checked, never trusted.

    `required` (a gate): the range has to be proved; that of others has to be possible.
    """

    node: NodeId
    domain: Domain
    required: bool = field(default=False, compare=False)
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CellIR:
    """One cell, specialised on its int, real and bool hyperparameters (`hyper`); symbolic in its dims.

    `transitions` are the named operators of the spec; `expect` keeps the claims as written (frontend `Claim` nodes).
    `subcells` are the cells that "call" nodes refer to by index (models only).
    """

    name: str
    dims: tuple[DimParam, ...] = ()
    hyper: tuple[tuple[str, Fraction | int | bool], ...] = ()
    nodes: tuple[Node, ...] = ()
    inputs: tuple[Input, ...] = ()
    params: tuple[Param, ...] = ()
    states: tuple[State, ...] = ()
    outputs: tuple[Output, ...] = ()
    transitions: tuple[tuple[str, NodeId], ...] = ()
    ranges: tuple[RangeClaim, ...] = ()
    expect: tuple[object, ...] = field(default=(), compare=False)
    subcells: tuple[CellIR, ...] = ()
    doc: str = field(default="", compare=False)
    file: str = field(default="", compare=False)

    def __getitem__(self, node: NodeId) -> Node:
        return self.nodes[node]

    def state(self, name: str) -> State:
        return next(s for s in self.states if s.name == name)

    def dim_values(self, given: Mapping[str, int]) -> dict[str, int]:
        """Values of all dims: those given, then defaults; a dim without either is left out."""
        env = dict(given)
        for p in self.dims:
            if p.name not in env and p.default is not None and p.default.names <= env.keys():
                env[p.name] = p.default.evaluate(env)
        return env


VARYING = frozenset({"input", "state", "delay", "conv", "attention", "call", "repeat"})


def is_static(nodes: Sequence[Node], roots: Iterable[NodeId]) -> bool:
    """Whether values are computed from parameters and constants alone."""
    work, seen = list(roots), set()
    while work:
        i = work.pop()
        if i not in seen:
            seen.add(i)
            if nodes[i].op in VARYING:
                return False
            work.extend(nodes[i].args)
    return True


def users(cell: CellIR) -> dict[NodeId, list[NodeId]]:
    """Which nodes read each node."""
    found: dict[NodeId, list[NodeId]] = {n.id: [] for n in cell.nodes}
    for n in cell.nodes:
        for a in dict.fromkeys(n.args):
            found[a].append(n.id)
    return found


def ancestors(cell: CellIR, roots: Iterable[NodeId], stop: Set[NodeId] = frozenset()) -> set[NodeId]:
    """`roots` and everything they are computed from; not past the nodes in `stop` (which are included when reached)."""
    seen: set[NodeId] = set()
    work = list(roots)
    while work:
        i = work.pop()
        if i in seen:
            continue
        seen.add(i)
        if i not in stop:
            work.extend(cell.nodes[i].args)
    return seen
