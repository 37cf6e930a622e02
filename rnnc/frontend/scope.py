"""Names and what they are bound to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

from rnnc.diagnostics import Span
from rnnc.frontend import ast
from rnnc.frontend.values import Value
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId

if TYPE_CHECKING:
    from rnnc.frontend.lowering import Lowering
    from rnnc.frontend.modules import LoadedModule

BindingKind: TypeAlias = Literal[
    "hyper", "value", "input", "param", "const", "let", "state", "update", "substep", "output", "repeat",
    "fn", "cell", "automaton", "language", "task",
]  # fmt: skip
Declaration: TypeAlias = "ast.Statement | ast.TopLevel | ast.HyperDecl | None"


@dataclass(slots=True, eq=False)
class Binding:
    """A name, evaluated when it is first needed (the order of statements does not matter)."""

    name: str
    kind: BindingKind
    span: Span
    decl: Declaration = None
    context: Context | None = None
    owner: Lowering | None = None  # the lowering whose graph the value belongs to
    module: LoadedModule | None = None  # of a top-level declaration: where it was written
    value: Value | None = None
    status: Literal["todo", "active", "done"] = "todo"
    node: NodeId | None = None  # of a state: the node that reads it
    needs_shape: bool | None = None  # whether its shape may come from its use, once that is known
    makes_matrix: bool | None = None  # whether it is a structured operator by its form, once that is known
    circle: tuple[Binding, ...] | None = None  # what it needs and is needed by, once that is known


@dataclass(slots=True, eq=False)
class Scope:
    """A block of names.  `running` holds the values of states inside a `substep`."""

    parent: Scope | None = None
    bindings: dict[str, Binding] = field(default_factory=dict)
    running: dict[str, Value] = field(default_factory=dict)

    def chain(self) -> Iterator[Scope]:
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def lookup(self, name: str) -> Binding | None:
        for scope in self.chain():
            if name in scope.bindings:
                return scope.bindings[name]
        return None

    def names(self) -> set[str]:
        return {name for scope in self.chain() for name in scope.bindings}


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Where an expression stands: its scope, the axes of the `per` blocks around it, and the statement it belongs to.

    Learned maps are named after `binding`, with `suffix` inside a `substep` or `product`.  `pure` holds inside a `fn`.
    """

    scope: Scope
    per: tuple[Dim, ...] = ()
    binding: str = ""
    suffix: str = ""
    pure: bool = False

    def within(self, scope: Scope) -> Context:
        return replace(self, scope=scope)

    def named(self, binding: str) -> Context:
        return replace(self, binding=binding)


def suggestion(name: str, candidates: Iterable[str]) -> str:
    """`did you mean ...?`, or nothing when no candidate is near."""
    known = sorted(set(candidates))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    if not near:
        near = [c for c in known if c.lower() == name.lower()][:1]
    return f"did you mean `{near[0]}`?" if near else ""
