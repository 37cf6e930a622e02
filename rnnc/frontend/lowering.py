"""The state of lowering one cell: its graph so far, what it declares, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from rnnc.diagnostics import Diagnostics, Span
from rnnc.frontend import ast
from rnnc.frontend.scope import Binding, Context
from rnnc.frontend.values import ERROR, ErrorValue, Identity, Pieces, Shape, Tensor, Value, type_text
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam, Init, Input, NodeId, Output, Param, RangeClaim
from rnnc.ir.ops import OpTypeError
from rnnc.ir.types import Domain, Type, UnitNorm

if TYPE_CHECKING:
    from rnnc.frontend.modules import Library

MAX_UNROLL = 256
LARGEST = 10**308  # number that a value may be, of which a float holds a little more
MAX_NODES = 20_000
MAX_STEPS = 40_000  # expressions evaluated while lowering one cell, inlined functions included
MAX_TOTAL_STEPS = 100_000  # ... and while checking one file


class TooLarge(Exception):
    """A bound of the compiler was passed; reported as E0304 at `span`."""

    def __init__(self, message: str, span: Span) -> None:
        self.message, self.span = message, span
        super().__init__(message)


@dataclass(slots=True, kw_only=True)
class StateInfo:
    """A state while the cell is being lowered."""

    name: str
    binding: Binding
    type: Type
    node: NodeId
    init: NodeId | None = None
    update: NodeId | None = None
    domain: Domain | None = None
    span: Span | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Lowering:
    """Everything that grows while one cell is lowered.  Passes over the syntax take it as their first argument."""

    library: Library
    diagnostics: Diagnostics
    keyword: str  # cell, model, or repeat
    name: str
    dims: tuple[DimParam, ...] = ()
    outer: Lowering | None = None  # of a `repeat` body
    b: Builder = field(default_factory=Builder)
    inputs: list[Input] = field(default_factory=list)
    params: list[Param] = field(default_factory=list)
    declared_params: set[NodeId] = field(default_factory=set)
    states: dict[str, StateInfo] = field(default_factory=dict)
    outputs: list[Output] = field(default_factory=list)
    transitions: list[tuple[str, NodeId]] = field(default_factory=list)
    ranges: list[RangeClaim] = field(default_factory=list)
    expect: list[ast.Claim] = field(default_factory=list)
    subcells: list[CellIR] = field(default_factory=list)
    captured: dict[NodeId, NodeId] = field(default_factory=dict)  # outer node -> input node, of a `repeat` body
    sizeless: dict[str, tuple[Identity, Span]] = field(default_factory=dict)  # transitions such as `alpha * I`
    unit_nodes: set[NodeId] = field(default_factory=set)
    waiting: dict[Binding, list[StateInfo]] = field(default_factory=dict)  # states that hold a value not yet known
    active: list[Binding] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)  # functions being inlined
    future_states: set[str] = field(default_factory=set)  # declared anywhere in the cell
    future_names: set[str] = field(default_factory=set)
    state_values: set[NodeId] = field(default_factory=set)  # what `grad` takes for a state, beside the states' leaves
    substep_results: dict[tuple[int, str], dict[str, Value]] = field(default_factory=dict)
    sizes_of_identity: dict[str, Dim] = field(default_factory=dict)
    names_used: set[str] = field(default_factory=set)
    promised: set[str] = field(default_factory=set)  # those of them that declared parameters will have
    not_taken: list[tuple[tuple[ast.Statement, ...], Context]] = field(
        default_factory=list
    )  # of `if` on hyperparameters
    steps: int = 0
    lenient: int = 0  # above 0 the expected shape is unknown because of another error: it is not asked for
    _timed: list[bool] = field(default_factory=list)
    _stateful: list[bool] = field(default_factory=list)
    _learned: list[bool] = field(default_factory=list)

    # ------------------------------------------------------------ reporting

    def error(
        self, code: str, message: str, span: Span, *, label: str = "", help: str = "", notes: tuple[str, ...] = ()
    ) -> ErrorValue:
        self.diagnostics.error(code, message, span, label=label, help=help, notes=notes)
        return ERROR

    def text_of(self, expr: ast.Located, limit: int = 32) -> str:
        """The source text of a part of the spec, on one line."""
        source = self.library.sources.get(expr.span.file, "")
        text = " ".join(source[expr.span.start : expr.span.end].split())
        return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."

    def described(self, expr: ast.Located, value: Value) -> str:
        return f"`{self.text_of(expr)}: {self.type_text(value)}`"

    def type_text(self, value: Value) -> str:
        match value:
            case Tensor(node):
                return type_text(self.b.type(node))
            case bool():
                return "bool"
            case Dim():
                return "real"
            case Identity():
                return "I"
            case Pieces(items):
                return f"{len(items)} values"
            case str():
                return "text"
            case _:
                return "?"

    def count(self, span: Span) -> None:
        """One more expression was evaluated."""
        self.steps += 1
        self.library.steps += 1
        if len(self.b.nodes) > MAX_NODES:
            raise TooLarge(f"`{self.name}` is too large: more than {MAX_NODES} operations in one step", span)
        if self.steps > MAX_STEPS or self.library.steps > MAX_TOTAL_STEPS:
            raise TooLarge(f"`{self.name}` is too large: its functions and rounds unroll to too many expressions", span)

    # ------------------------------------------------------------ values

    def shape(self, value: Value) -> Shape | None:
        """The core shape, if the value has one."""
        match value:
            case Tensor(node):
                return self.b.type(node).shape
            case bool() | Dim():
                return ()
            case _:
                return None

    def to_node(self, value: Value, span: Span, want: Shape | None = None) -> NodeId | None:
        """The graph node of a value, or None when it has none (which is reported)."""
        match value:
            case Tensor(node):
                return node
            case bool():
                return self.b.const(value)
            case Dim():
                if any(abs(c) > LARGEST for _, c in value.terms):
                    self.error("E0313", "this number is beyond 10^308, which no float holds", span)
                    return None
                return self.number(value)
            case Identity():
                return self.sized_identity(value, span, want)
            case Pieces(items):
                self.error("E0204", f"{len(items)} values stand where one is needed", span, help="pick one: `name[0]`")
            case str():
                self.error("E0204", "text stands where a number is needed", span)
            case ErrorValue():
                pass
        return None

    def number(self, value: Dim) -> NodeId:
        """A known number as a node; a `dim` node is whole, so that `1/n` and `d/heads + 1` become quotients."""
        if all(c.denominator == 1 and all(p > 0 for _, p in m) for m, c in value.terms):
            return self.b.dim(value)
        total: NodeId | None = None
        for monomial, coefficient in reversed(value.terms):
            top = Dim({tuple((n, p) for n, p in monomial if p > 0): Fraction(coefficient.numerator)})
            bottom = Dim({tuple((n, -p) for n, p in monomial if p < 0): Fraction(coefficient.denominator)})
            if top.constant is not None and bottom.constant is not None:
                term = self.b.const(coefficient)
            elif bottom == Dim.of(1):
                term = self.b.dim(top)
            else:
                term = self.b.map("div", self.b.dim(top), self.b.dim(bottom))
            total = term if total is None else self.b.map("add", total, term)
        return self.b.const(0) if total is None else total

    def sized_identity(self, value: Identity, span: Span, want: Shape | None) -> NodeId | None:
        if want is None or len(want) != 2:
            self.error(
                "E0205",
                "the size of `I` is unknown here",
                span,
                help="use it next to a matrix (`I - M`, `I @ S`), or give the name a type: `real[n, n]`",
            )
            return None
        if want[0] != want[1]:
            self.error("E0203", f"`I` is square, and [{', '.join(map(str, want))}] is not", span)
            return None
        return self.scaled_identity(value, want[0])

    def scaled_identity(self, value: Identity, n: Dim) -> NodeId:
        eye = self.b.add("eye", n=n)
        if value.scale == Dim.of(1):
            return eye
        scale = self.number(value.scale) if isinstance(value.scale, Dim) else value.scale.node
        return self.b.map("mul", scale, eye)

    def build(self, span: Span, what: str, make: Callable[[], NodeId]) -> Value:
        """Run a builder call; a value that does not fit is reported at `span`."""
        try:
            return Tensor(make())
        except OpTypeError as e:
            prefix = f"`{what}`: " if what and what not in e.message else ""
            return self.error(e.code, f"{prefix}{e.message}", span)

    # ------------------------------------------------------------ facts about nodes

    def _extend_facts(self) -> None:
        for n in self.b.nodes[len(self._timed) :]:
            args = n.args
            is_time = n.op in ("input", "delay", "conv", "attention", "call", "repeat")
            self._stateful.append(n.op == "state" or any(self._stateful[a] for a in args))
            self._timed.append(is_time or any(self._timed[a] for a in args))
            self._learned.append(n.op == "param" or any(self._learned[a] for a in args))

    def depends_on_state(self, node: NodeId) -> bool:
        self._extend_facts()
        return self._stateful[node]

    def is_static(self, node: NodeId) -> bool:
        """Made of parameters and constants only."""
        self._extend_facts()
        return not (self._stateful[node] or self._timed[node])

    def is_constant(self, node: NodeId) -> bool:
        """Made of constants only."""
        self._extend_facts()
        return self.is_static(node) and not self._learned[node]

    @contextmanager
    def sizes_unknown(self, because: bool = True) -> Iterator[None]:
        """No complaint about sizes that would come from something wrong, which was reported."""
        self.lenient += because
        try:
            yield
        finally:
            self.lenient -= because

    # ------------------------------------------------------------ naming

    def unique(self, name: str) -> str:
        """`name`, or `name_2`, `name_3`, ... when it was given out before."""
        candidate, k = name, 1
        while candidate in self.names_used:
            k += 1
            candidate = f"{name}_{k}"
        self.names_used.add(candidate)
        return candidate

    def promise(self, names: Iterable[str]) -> None:
        """Keep the names of parameters that are yet to be declared from learned maps and cells that are called."""
        self.promised.update(names)
        self.names_used |= self.promised

    def parameter_name(self, name: str) -> str:
        if name in self.promised:
            self.promised.remove(name)
            return name
        return self.unique(name)

    def map_names(self, context: Context, kind: str, *leaves: str) -> tuple[str, ...]:
        """The names of a learned map and of its leaves: `q_linear`, `q_linear_weight`; the next is `q_linear_2`."""
        base = f"{context.binding}_{kind}" if context.binding else kind
        k = 1
        while True:
            stem = base if k == 1 else f"{base}_{k}"
            names = (stem + context.suffix, *(f"{stem}_{leaf}{context.suffix}" for leaf in leaves))
            if self.names_used.isdisjoint(names):
                self.names_used.update(names)
                return names
            k += 1

    def learned(self, name: str, type_: Type, init: Init) -> NodeId:
        """The leaf of a learned map's parameter."""
        node = self.b.leaf("param", name, type_)
        self.params.append(Param(name=name, node=node, init=init))
        return node

    def name_node(self, node: NodeId, name: str, span: Span | None = None) -> None:
        """Give a computed node the spec's name, unless it has one."""
        n = self.b.nodes[node]
        if not n.name and n.op not in ("const", "dim"):
            self.b.nodes[node] = replace(n, name=name, span=span or n.span)

    def claim_range(self, node: NodeId, domain: Domain, span: Span, *, required: bool = False) -> None:
        if isinstance(domain, UnitNorm):
            self.unit_nodes.add(node)
        self.ranges.append(RangeClaim(node=node, domain=domain, span=span, required=required))
