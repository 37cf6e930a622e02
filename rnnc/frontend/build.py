"""Actions of the grammar's rules: each makes the node of rnnc/frontend/ast.py that its rule stands for."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from rnnc.diagnostics import Diagnostics, Span
from rnnc.frontend import ast
from rnnc.frontend.tokens import Token, span_of

MAX_DEPTH = 100  # of an expression's tree; later passes may recurse over it

TYPE_KINDS = ("real", "complex", "unit", "token", "bool")
HYPER_KINDS = ("dim", "int", "real", "bool")
PRECISIONS = ("finite_precision", "exact", "log_precision", "eta_finite", "float16", "bfloat16", "float32", "float64")
PARALLEL = ("scan", "chunk", "convolution", "newton")


# what other languages call a type --> what to write
FOREIGN_TYPES = {
    **dict.fromkeys(("float", "float32", "float64", "double", "number"), "real numbers are `real`"),
    **dict.fromkeys(("tensor", "Tensor", "array", "vector", "matrix"), "write `real[n]` or `real[n, m]`"),
    **dict.fromkeys(("string", "str", "char", "byte"), "symbols are `token[V]`, whole numbers below V"),
    "boolean": "did you mean `bool`?",
}


def nearest(word: str, known: Sequence[str]) -> str:
    """A help line that names the known word nearest to `word`, or an empty one."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


@dataclass(slots=True)
class Parts:
    """What a head says before its block is known: the fields of the node to be."""

    fields: dict[str, Any]


@dataclass(slots=True)
class Builder:
    """Builds nodes for one statement or head; `failed` says that a diagnostic was given for it."""

    file: str
    tokens: Sequence[Token]
    diagnostics: Diagnostics
    failed: bool = False
    _depth: dict[int, int] = field(default_factory=dict)
    _alive: list[Any] = field(default_factory=list)

    def action(self, name: str) -> Callable[[list[Any], int, int], Any] | None:
        """The method for a rule, or None where a rule only groups its children."""
        return getattr(self, f"on_{name}", None)

    # ------------------------------------------------------------ helpers

    def span(self, first: int, last: int) -> Span:
        return span_of(self.file, self.tokens[first], self.tokens[max(first, last)])

    def token_span(self, token: Token) -> Span:
        return span_of(self.file, token, token)

    def error(self, code: str, message: str, span: Span, *, label: str = "", help_: str = "") -> None:
        self.failed = True
        self.diagnostics.error(code, message, span, label=label, help=help_)

    def node(self, made: Any, *children: Any) -> Any:
        """Registers an expression's depth; too deep a tree is an error once per statement."""
        depth = 1 + max((self._depth.get(id(child), 0) for child in children), default=0)
        self._depth[id(made)] = depth
        self._alive.append(made)  # ids stay unique while the nodes live
        if depth == MAX_DEPTH + 1:
            message = f"this expression is nested more than {MAX_DEPTH} levels deep"
            help_ = "name parts of it with `let`; a chain of n operators counts as n levels"
            self.error("E0312", message, made.span, help_=help_)
        return made

    def name(self, token: Token) -> ast.Name:
        return ast.Name(span=self.token_span(token), id=token.word)

    # ------------------------------------------------------------ expressions

    def on_name(self, c: list[Any], i: int, j: int) -> Any:
        return self.name(c[0])

    def on_primed(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Name(span=self.span(i, j), id=c[0].word, primed=True)

    def on_number(self, c: list[Any], i: int, j: int) -> Any:
        text = c[0].word
        return ast.Number(span=self.span(i, j), value=Fraction(text), is_integer=text.isdigit(), text=text)

    def on_string(self, c: list[Any], i: int, j: int) -> Any:
        return ast.String(span=self.span(i, j), value=c[0].word)

    def on_true(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Bool(span=self.span(i, j), value=True)

    def on_false(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Bool(span=self.span(i, j), value=False)

    def on_parenthesised(self, c: list[Any], i: int, j: int) -> Any:
        return c[0]

    def on_binary(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Binary(span=self.span(i, j), op=c[1].word, left=c[0], right=c[2]), c[0], c[2])

    def _binary(self, op: str) -> Callable[[list[Any], int, int], Any]:
        def build(c: list[Any], i: int, j: int) -> Any:
            return self.node(ast.Binary(span=self.span(i, j), op=op, left=c[0], right=c[1]), c[0], c[1])

        return build

    @property
    def on_or_(self) -> Callable[[list[Any], int, int], Any]:
        return self._binary("or")

    @property
    def on_and_(self) -> Callable[[list[Any], int, int], Any]:
        return self._binary("and")

    @property
    def on_power(self) -> Callable[[list[Any], int, int], Any]:
        return self._binary("^")

    def on_not_(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Unary(span=self.span(i, j), op="not", operand=c[0]), c[0])

    def on_sign(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Unary(span=self.span(i, j), op=c[0].word, operand=c[1]), c[1])

    def on_compare(self, c: list[Any], i: int, j: int) -> Any:
        """`a < b <= c` means `a < b and b <= c`, as in Python."""
        whole: Any = None
        for left, op, right in zip(c[0::2], c[1::2], c[2::2]):
            link = self.node(ast.Binary(span=left.span.to(right.span), op=op.word, left=left, right=right), left, right)
            if whole is not None:
                span = self.span(i, j) if right is c[-1] else whole.span.to(right.span)
                link = self.node(ast.Binary(span=span, op="and", left=whole, right=link), whole, link)
            whole = link
        return whole

    def on_if_else(self, c: list[Any], i: int, j: int) -> Any:
        made = ast.IfElse(span=self.span(i, j), then=c[0], condition=c[1], orelse=c[2])
        return self.node(made, *c)

    def on_positional(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Argument(span=self.span(i, j), value=c[0]), c[0])

    def on_named(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Argument(span=self.span(i, j), value=c[1], name=c[0].word), c[1])

    def on_call(self, c: list[Any], i: int, j: int) -> Any:
        callee, args = c[0], tuple(c[1:])
        sizes: tuple[Any, ...] = ()
        if isinstance(callee, ast.Subscript) and isinstance(callee.value, ast.Name):
            for part in callee.slices:
                if not part.single:
                    self.error("E0107", "sizes of a learned map are expressions, not ranges", part.span)
            sizes = tuple(part.lo for part in callee.slices if part.single)
            callee = callee.value
        elif isinstance(callee, ast.Attribute) and callee.name != "T":
            pass  # the attribute is an error already
        elif not isinstance(callee, ast.Name | ast.Call):
            self.error("E0107", "only a name can be called", callee.span, help_="multiplication needs `*`")
        if isinstance(callee, ast.Name) and callee.primed:
            self.error("E0107", f"`{callee.id}'` is a value and cannot be called", callee.span, help_="use `*`")
        self._check_arguments(args)
        return self.node(ast.Call(span=self.span(i, j), callee=callee, args=args, sizes=sizes), callee, *args, *sizes)

    def _check_arguments(self, args: tuple[ast.Argument, ...]) -> None:
        seen: set[str] = set()
        for arg in args:
            if arg.name and arg.name in seen:
                self.error("E0107", f"the argument `{arg.name}` is given twice", arg.span)
            if not arg.name and seen:
                self.error("E0107", "an argument by position cannot follow one by name", arg.span)
            if arg.name:
                seen.add(arg.name)

    def on_index(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Slice(span=self.span(i, j), lo=c[0], hi=None, single=True), c[0])

    def on_range(self, c: list[Any], i: int, j: int) -> Any:
        ends = {part.fields["end"]: part.fields["value"] for part in c}
        lo, hi = ends.get("low"), ends.get("high")
        return self.node(ast.Slice(span=self.span(i, j), lo=lo, hi=hi), *ends.values())

    def on_low(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"end": "low", "value": c[0]})

    def on_high(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"end": "high", "value": c[0]})

    def on_subscript(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.Subscript(span=self.span(i, j), value=c[0], slices=tuple(c[1:])), *c)

    def on_attribute(self, c: list[Any], i: int, j: int) -> Any:
        if c[1].word != "T":
            word = c[1].word
            help_ = f"the only attribute is the transpose `.T`; a function stands before its argument, `{word}(...)`"
            self.error("E0107", f"there is no attribute `.{word}`", self.token_span(c[1]), help_=help_)
        return self.node(ast.Attribute(span=self.span(i, j), value=c[0], name=c[1].word), c[0])

    def on_list(self, c: list[Any], i: int, j: int) -> Any:
        return self.node(ast.ListExpr(span=self.span(i, j), items=tuple(c)), *c)

    def on_fold(self, c: list[Any], i: int, j: int) -> Any:
        kind, index, lo, hi, body = c
        made = ast.Fold(span=self.span(i, j), kind=kind.word, index=index.word, lo=lo, hi=hi, body=body)
        return self.node(made, lo, hi, body)

    # ------------------------------------------------------------ types

    def on_type(self, c: list[Any], i: int, j: int) -> Any:
        kind: Token = c[0]
        shape: tuple[Any, ...] = ()
        domain = None
        for part in c[1:]:
            if isinstance(part, Parts):
                shape = part.fields["shape"]
            else:
                domain = part
        if kind.word not in TYPE_KINDS:
            hyper = kind.word in HYPER_KINDS
            what = (
                f"`{kind.word}` is a kind of hyperparameter, not a type" if hyper else f"there is no type `{kind.word}`"
            )
            help_ = f"types are {', '.join(TYPE_KINDS)}"
            if not hyper:
                help_ = FOREIGN_TYPES.get(kind.word, "") or nearest(kind.word, TYPE_KINDS) or help_
            self.error("E0105", what, self.token_span(kind), help_=help_)
        return ast.TypeExpr(span=self.span(i, j), kind=kind.word, shape=shape, domain=domain)

    def on_shape(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"shape": tuple(c)})

    def on_annotation(self, c: list[Any], i: int, j: int) -> Any:
        return c[0]

    def _interval(self, lo_open: bool, hi_open: bool) -> Callable[[list[Any], int, int], Any]:
        def build(c: list[Any], i: int, j: int) -> Any:
            lo, hi = (None if _is_infinite(c[0], "-") else c[0]), (None if _is_infinite(c[1], "+") else c[1])
            return ast.IntervalDomain(
                span=self.span(i, j), lo=lo, hi=hi, lo_open=lo_open or lo is None, hi_open=hi_open or hi is None
            )

        return build

    @property
    def on_interval_open_open(self) -> Callable[[list[Any], int, int], Any]:
        return self._interval(True, True)

    @property
    def on_interval_open_closed(self) -> Callable[[list[Any], int, int], Any]:
        return self._interval(True, False)

    @property
    def on_interval_closed_open(self) -> Callable[[list[Any], int, int], Any]:
        return self._interval(False, True)

    @property
    def on_interval_closed_closed(self) -> Callable[[list[Any], int, int], Any]:
        return self._interval(False, False)

    def on_half_line(self, c: list[Any], i: int, j: int) -> Any:
        op, bound = self._inequality(c[0]), c[1]
        lower = op.startswith(">")
        return ast.IntervalDomain(
            span=self.span(i, j),
            lo=bound if lower else None,
            hi=None if lower else bound,
            lo_open=not (lower and op == ">="),
            hi_open=lower or op == "<",
        )

    def _inequality(self, token: Token) -> str:
        if token.word in ("==", "!="):
            self.error("E0105", f"a domain is not given by `{token.word}`", self.token_span(token))
        return token.word

    def on_disk(self, c: list[Any], i: int, j: int) -> Any:
        return ast.DiskDomain(span=self.span(i, j), radius=c[0])

    def on_half_plane(self, c: list[Any], i: int, j: int) -> Any:
        return ast.HalfPlaneDomain(span=self.span(i, j), op=self._inequality(c[0]), bound=c[1])


def _is_infinite(e: ast.Expr, sign: str) -> bool:
    match e:
        case ast.Name(id="inf"):
            return sign == "+"
        case ast.Unary(op=op, operand=ast.Name(id="inf")):
            return op == sign
        case _:
            return False
