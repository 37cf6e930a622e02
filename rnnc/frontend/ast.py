"""The syntax tree: exactly what the text says, with a span on every node.

Spans do not take part in comparison, so that two spellings of one spec have equal trees.  Names are unresolved here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import TypeAlias

from rnnc.diagnostics import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Anything with a place in the text."""

    span: Span = field(compare=False, repr=False)


# ---------------------------------------------------------------- expressions


@dataclass(frozen=True, slots=True, kw_only=True)
class Number(Located):
    """`3`, `0.5`, `1e-3`: exact as written; `text` keeps the spelling for `rnnc fmt`."""

    value: Fraction
    is_integer: bool
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bool(Located):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class String(Located):
    """Only import paths, arguments of `regex` and settings of tasks are strings."""

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Name(Located):
    """`x`, or `S'` when `primed` (the value of state S after this step)."""

    id: str
    primed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unary(Located):
    """`op` is one of `-`, `+`, `not`."""

    op: str
    operand: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary(Located):
    """`op` is one of `+ - * / ^ @ < <= > >= == != and or`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class IfElse(Located):
    """`then if condition else orelse`."""

    condition: Expr
    then: Expr
    orelse: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument(Located):
    """A call's argument; `name` is empty for a positional one."""

    value: Expr
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Located):
    """`callee[sizes](args)`: a function, learned map, operator or cell; `GatedDeltaNet(d)(x)` has a Call as callee."""

    callee: Name | Call
    args: tuple[Argument, ...]
    sizes: tuple[Expr, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute(Located):
    """`M.T` (the only attribute of the language)."""

    value: Expr
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice(Located):
    """One axis of a subscript: `lo:hi` (either may be missing), or a single index when `single`."""

    lo: Expr | None
    hi: Expr | None
    single: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscript(Located):
    """`x[0:n]`, `M[:, 0:2]`, `k[j]`."""

    value: Expr
    slices: tuple[Slice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListExpr(Located):
    """`[a, b]`, `[[0, 1], [1, 0]]`: a vector or matrix of its elements."""

    items: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold(Located):
    """`product j in 1..n { e }` (and `sum j in 1..n { e }`): `kind` is `product` or `sum`; bounds inclusive."""

    kind: str
    index: str
    lo: Expr
    hi: Expr
    body: Expr


Expr: TypeAlias = (
    Number | Bool | String | Name | Unary | Binary | IfElse | Call | Attribute | Subscript | ListExpr | Fold
)


# ---------------------------------------------------------------- types


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalDomain(Located):
    """`in (0, 1)`, `in [-1, 1]`, `> 0`; a missing end (None) is infinite."""

    lo: Expr | None
    hi: Expr | None
    lo_open: bool
    hi_open: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskDomain(Located):
    """`in disk(r)`: |z| <= r."""

    radius: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfPlaneDomain(Located):
    """`in re < 0`: `op` is one of `< <= > >=`."""

    op: str
    bound: Expr


Domain: TypeAlias = IntervalDomain | DiskDomain | HalfPlaneDomain


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeExpr(Located):
    """`real[n, m] in (0, 1)`; `kind` is one of real, complex, unit, token, bool; `token[V]` keeps V in `shape`."""

    kind: str
    shape: tuple[Expr, ...] = ()
    domain: Domain | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HyperDecl(Located):
    """`name: kind = default` in a cell's head; `kind` is one of dim, int, real, bool."""

    name: str
    kind: str
    default: Expr | None = None


# ---------------------------------------------------------------- statements of a cell, function or model


@dataclass(frozen=True, slots=True, kw_only=True)
class InputDecl(Located):
    """`input x: real[d]`."""

    name: str
    type: TypeExpr


@dataclass(frozen=True, slots=True, kw_only=True)
class ParamDecl(Located):
    """`param W: real[n, d] in DOMAIN init INIT`; `init` is an expression, `normal(0.02)` or `log(arange(1, n))`."""

    name: str
    type: TypeExpr
    init: Expr | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstDecl(Located):
    """`const R: real[2, 2] = [[0, 1], [1, 0]]`."""

    name: str
    type: TypeExpr | None
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class LetDecl(Located):
    """`let`, `gate` and `transition` name a value; `keyword` says which."""

    keyword: str
    name: str
    type: TypeExpr | None
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDecl(Located):
    """`state S: real[n] = 0`."""

    name: str
    type: TypeExpr
    init: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Update(Located):
    """`S <- e`."""

    target: Name
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Assign(Located):
    """`h = e` inside a model's `repeat`: rebinds the running value."""

    target: Name
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Substep(Located):
    """`substep j in 1..n { ... }`."""

    index: str
    lo: Expr
    hi: Expr
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Per(Located):
    """`per heads { ... }`."""

    axis: Name
    body: tuple[Statement, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class If(Located):
    """`if c { ... } else { ... }` on hyperparameters."""

    condition: Expr
    then: tuple[Statement, ...]
    orelse: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputDecl(Located):
    """`output y: real[d] = e`."""

    name: str
    type: TypeExpr | None
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat(Located):
    """`repeat layers as h from h0 { ... }` in a model."""

    count: Expr
    name: str
    start: Expr
    body: tuple[Statement, ...]


# Claims keep their parts syntactically; the verifier gives them meaning.


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Located):
    """One line of `expect { }`.

    `kind` is one of: linear, affine, time_invariant, eigenvalues, norm, stable, contractive, parallel, recognizes,
    tracks.
    `subject` is the state or operator spoken of; `domain` the set claimed ("real" for `eigenvalues(A) real`);
    `args` the language, group or strategy; `negated` for `not CLAIM`; `precision` of `under ...`; `layers` of
    `with layers = k`.
    """

    kind: str
    subject: Expr | None = None
    domain: Domain | None = None
    real: bool = False
    args: tuple[Expr, ...] = ()
    negated: bool = False
    precision: str = ""
    layers: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect(Located):
    """`expect { ... }`."""

    claims: tuple[Claim, ...]


Statement: TypeAlias = (
    InputDecl
    | ParamDecl
    | ConstDecl
    | LetDecl
    | StateDecl
    | Update
    | Assign
    | Substep
    | Per
    | If
    | OutputDecl
    | Repeat
    | Expect
)


# ---------------------------------------------------------------- top level


@dataclass(frozen=True, slots=True, kw_only=True)
class Use(Located):
    """`use std.gates { a }` has `path` "std.gates"; `use "./mine.rnn" { Foo }` has `path` "./mine.rnn" and is_file."""

    path: str
    is_file: bool
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FnDecl(Located):
    """`fn name(x: real[n], eps: real = 1e-6) -> type { let ...; expr }`: `body` ends in the value returned.

    Dim names that are not hyperparameters are inferred at each call.
    """

    name: str
    params: tuple[tuple[str, TypeExpr, Expr | None], ...]
    result: TypeExpr | None
    body: tuple[LetDecl, ...]
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class CellDecl(Located):
    """A cell or a model (`keyword`)."""

    keyword: str
    name: str
    name_span: Span = field(compare=False, repr=False)
    hyper: tuple[HyperDecl, ...]
    body: tuple[Statement, ...]
    sound: bool = field(default=True, compare=False)  # no statement was left out because of a syntax error


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomatonRow(Located):
    """`even: 0 -> even, 1 -> odd`."""

    state: str
    arrows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomatonDecl(Located):
    """`automaton NAME over {0, 1} { start ...; rows; accept ... }`."""

    name: str
    alphabet: tuple[str, ...]
    start: str
    rows: tuple[AutomatonRow, ...]
    accept: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageDecl(Located):
    """`language EvenPairs over {a, b} = regex "..."`; `value` is a Call, Name or String."""

    name: str
    alphabet: tuple[str, ...]
    value: Expr


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDecl(Located):
    """`task NAME { key = expr ... }`: settings for `rnnc train`."""

    name: str
    settings: tuple[Argument, ...]


TopLevel: TypeAlias = Use | FnDecl | CellDecl | AutomatonDecl | LanguageDecl | TaskDecl


@dataclass(frozen=True, slots=True, kw_only=True)
class Module(Located):
    """One `.rnn` file; `comments` keeps (line, text) so that `rnnc fmt` can put them back."""

    file: str
    items: tuple[TopLevel, ...]
    comments: tuple[tuple[int, str], ...] = field(default=(), compare=False)
    # Names that statements with syntax errors would have declared or updated (those are left out of the tree): later
    # passes do not report them as unknown, missing or never updated.
    broken_names: frozenset[str] = field(default=frozenset(), compare=False)
