"""A cell as text, and back: `parse_cell(print_cell(cell)) == cell`.

```
cell "Ema" {
  dim d
  %0 "x" = input : real[d]
  %1 "h" = state : real[d]
  %2 = const {value=1/2} : real
  %3 = mul(%1, %2) : real[d]
  %4 = add(%3, %0) : real[d]
  input "x" %0
  state "h" %1 init %2 update %4
  output "y" %4
}
```
An attribute is a string, `true`, a whole number `3`, a fraction `3/1`, a dimension `<2*d>`, a type `real[d]`, or a
tuple of them.  The attribute `type` is left out where it is the node's type.  Spans, documentation and claims are not
part of the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, TypeVar

from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam, Init, Input, Node, Output, Param, RangeClaim, State
from rnnc.ir.types import Disk, Domain, HalfPlane, Interval, Type, UnitNorm

DECLARED = frozenset({"input", "param", "state", "const", "call", "repeat"})  # ops whose attribute `type` is their type
R = TypeVar("R")

# ---------------------------------------------------------------- printing


def print_cell(cell: CellIR) -> str:
    return "\n".join(_cell(cell, "")) + "\n"


def _cell(cell: CellIR, indent: str) -> list[str]:
    body = [f"dim {p.name}" + ("" if p.default is None else f" = {_value(p.default)}") for p in cell.dims]
    body += [f"hyper {name} = {_value(v)}" for name, v in cell.hyper]
    body += [_node(n) for n in cell.nodes]
    body += [f"input {_quote(i.name)} %{i.node}{_in(i.domain)}" for i in cell.inputs]
    body += [_param(p) for p in cell.params]
    body += [f"state {_quote(s.name)} %{s.node} init %{s.init} update %{s.update}{_in(s.domain)}" for s in cell.states]
    body += [f"output {_quote(o.name)} %{o.node}" for o in cell.outputs]
    body += [f"transition {_quote(name)} %{node}" for name, node in cell.transitions]
    body += [f"range %{r.node}{_in(r.domain)}" for r in cell.ranges]
    lines = [f"{indent}cell {_quote(cell.name)} {{", *(f"{indent}  {line}" for line in body)]
    for sub in cell.subcells:
        lines += _cell(sub, indent + "  ")
    return [*lines, f"{indent}}}"]


def _node(n: Node) -> str:
    name = f" {_quote(n.name)}" if n.name else ""
    args = f"({', '.join(f'%{a}' for a in n.args)})" if n.args else ""
    shown = [(k, v) for k, v in n.attrs if not (k == "type" and n.op in DECLARED and v == n.type)]
    attrs = f" {{{', '.join(f'{k}={_value(v)}' for k, v in shown)}}}" if shown else ""
    return f"%{n.id}{name} = {n.op}{args}{attrs} : {_type(n.type)}"


def _param(p: Param) -> str:
    init = f" init {p.init.kind}({', '.join(_value(a) for a in p.init.args)})"
    value = "" if p.init.node is None else f" value %{p.init.node}"
    fixed = "" if p.constrained is None else f" constrained %{p.constrained}"
    return f"param {_quote(p.name)} %{p.node}{init}{value}{fixed}{_in(p.domain)}"


def _quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _value(v: Any) -> str:
    match v:
        case bool():
            return "true" if v else "false"
        case int():
            return str(v)
        case str():
            return _quote(v)
        case Fraction():
            return _fraction(v)
        case Dim():
            return f"<{v}>"
        case Type():
            return _type(v)
        case tuple():
            return f"({', '.join(_value(x) for x in v)})"
    raise AssertionError(f"no text for {v!r}")


def _fraction(v: Fraction) -> str:
    return f"{v.numerator}/{v.denominator}"


def _type(t: Type) -> str:
    vocab = "" if t.vocab is None else f"({t.vocab})"
    shape = f"[{', '.join(map(str, t.shape))}]" if t.shape else ""
    return f"{t.dtype}{vocab}{shape}" + (f" per [{', '.join(map(str, t.per))}]" if t.per else "")


def _in(d: Domain | None) -> str:
    match d:
        case None:
            return ""
        case Interval():
            lo = "-inf" if d.lo is None else _fraction(d.lo)
            hi = "inf" if d.hi is None else _fraction(d.hi)
            return f" in {'(' if d.lo_open else '['}{lo}, {hi}{')' if d.hi_open else ']'}"
        case Disk():
            return f" in disk {_fraction(d.radius)}"
        case HalfPlane():
            return f" in re {'>' if d.above else '<'}{'' if d.strict else '='} {_fraction(d.bound)}"
        case UnitNorm():
            return " in unit"


# ---------------------------------------------------------------- parsing

TOKEN = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<node>%\d+)|(?P<number>\d+)|(?P<name>\w+)|(?P<mark>[<>]=|\S))'
)


class TextError(ValueError):
    """The text is not that of a cell."""


def parse_cell(text: str) -> CellIR:
    """The cell that `print_cell` printed; raises TextError."""
    reader = _Reader(text)
    cell = reader.cell()
    if reader.peek:
        raise reader.wrong("the end")
    return cell


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens = [m.group().strip() for m in TOKEN.finditer(text)]
        self.at = 0

    @property
    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def wrong(self, expected: str) -> TextError:
        before = " ".join(self.tokens[max(0, self.at - 8) : self.at])
        return TextError(f"expected {expected} and found `{self.peek}` after `{before}`")

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1] if self.at <= len(self.tokens) else ""

    def take(self, token: str) -> bool:
        if self.peek == token:
            self.at += 1
            return True
        return False

    def need(self, token: str) -> None:
        if not self.take(token):
            raise self.wrong(f"`{token}`")

    def name(self) -> str:
        if not re.fullmatch(r"\w+", self.peek):
            raise self.wrong("a name")
        return self.next()

    def string(self) -> str:
        if not self.peek.startswith('"'):
            raise self.wrong("a string")
        return str(json.loads(self.next()))

    def node_id(self) -> int:
        if not self.peek.startswith("%"):
            raise self.wrong("a node")
        return int(self.next()[1:])

    def number(self) -> int:
        sign = -1 if self.take("-") else 1
        if not self.peek.isdigit():
            raise self.wrong("a number")
        return sign * int(self.next())

    def fraction(self) -> Fraction:
        top = self.number()
        self.need("/")
        return Fraction(top, self.number())

    def many(self, close: str, item: Callable[[], R]) -> tuple[R, ...]:
        """Items with commas between them up to `close`."""
        found: list[R] = []
        while not self.take(close):
            if found:
                self.need(",")
            found.append(item())
        return tuple(found)

    # ------------------------------------------------------------ values

    def dim(self) -> Dim:
        total = self.term(-1 if self.take("-") else 1)
        while self.peek in ("+", "-"):
            total = total + self.term(-1 if self.next() == "-" else 1)
        return total

    def term(self, sign: int) -> Dim:
        value = self.factor() * sign
        while self.peek in ("*", "/"):
            value = value * self.factor() if self.next() == "*" else value / self.factor()
        return value

    def factor(self) -> Dim:
        return Dim.of(self.number()) if self.peek.isdigit() else Dim.of(self.name())

    def value(self) -> Any:
        token = self.peek
        if token in ("true", "false"):
            return self.next() == "true"
        if token.startswith('"'):
            return self.string()
        if self.take("<"):
            dim = self.dim()
            self.need(">")
            return dim
        if self.take("("):
            return self.many(")", self.value)
        if token == "-" or token.isdigit():
            top = self.number()
            return Fraction(top, self.number()) if self.take("/") else top
        return self.type()

    def type(self) -> Type:
        dtype: Any = self.name()
        if dtype not in ("real", "complex", "bool", "token"):
            raise TextError(f"no such type: `{dtype}`")
        vocab = None
        if self.take("("):
            vocab = self.dim()
            self.need(")")
        shape = self.many("]", self.dim) if self.take("[") else ()
        per: tuple[Dim, ...] = ()
        if self.take("per"):
            self.need("[")
            per = self.many("]", self.dim)
        return Type(dtype=dtype, shape=shape, per=per, vocab=vocab)

    def domain(self) -> Domain | None:
        if not self.take("in"):
            return None
        if self.take("unit"):
            return UnitNorm()
        if self.take("disk"):
            return Disk(radius=self.fraction())
        if self.take("re"):
            relation = self.next()
            return HalfPlane(bound=self.fraction(), strict="=" not in relation, above=">" in relation)
        lo_open = self.next() == "("
        lo = self.end()
        self.need(",")
        hi = self.end()
        return Interval(lo=lo, hi=hi, lo_open=lo_open, hi_open=self.next() == ")")

    def end(self) -> Fraction | None:
        if self.peek == "inf" or self.tokens[self.at : self.at + 2] == ["-", "inf"]:
            self.at += 1 if self.peek == "inf" else 2
            return None
        return self.fraction()

    # ------------------------------------------------------------ entries

    def node(self) -> Node:
        node_id = self.node_id()
        name = self.string() if self.peek.startswith('"') else ""
        self.need("=")
        op = self.name()
        args = self.many(")", self.node_id) if self.take("(") else ()
        attrs = dict(self.many("}", self.attribute)) if self.take("{") else {}
        self.need(":")
        type_ = self.type()
        if op in DECLARED:
            attrs.setdefault("type", type_)
        return Node(id=node_id, op=op, args=args, attrs=tuple(sorted(attrs.items())), type=type_, name=name)

    def attribute(self) -> tuple[str, Any]:
        key = self.name()
        self.need("=")
        return key, self.value()

    def dim_param(self) -> DimParam:
        return DimParam(name=self.name(), default=self.value() if self.take("=") else None)

    def param(self) -> Param:
        name, node = self.string(), self.node_id()
        self.need("init")
        kind = self.name()
        self.need("(")
        args = self.many(")", self.value)
        value = self.node_id() if self.take("value") else None
        fixed = self.node_id() if self.take("constrained") else None
        init = Init(kind=kind, args=args, node=value)
        return Param(name=name, node=node, init=init, domain=self.domain(), constrained=fixed)

    def state(self) -> State:
        name, node = self.string(), self.node_id()
        self.need("init")
        init = self.node_id()
        self.need("update")
        return State(name=name, node=node, init=init, update=self.node_id(), domain=self.domain())

    def range_claim(self) -> RangeClaim:
        node, domain = self.node_id(), self.domain()
        if domain is None:
            raise self.wrong("`in`")
        return RangeClaim(node=node, domain=domain)

    def cell(self) -> CellIR:
        self.need("cell")
        name = self.string()
        self.need("{")
        found: dict[str, list[Any]] = {}
        entries: dict[str, Callable[[], Any]] = {
            "dim": self.dim_param,
            "hyper": self.attribute,
            "input": lambda: Input(name=self.string(), node=self.node_id(), domain=self.domain()),
            "param": self.param,
            "state": self.state,
            "output": lambda: Output(name=self.string(), node=self.node_id()),
            "transition": lambda: (self.string(), self.node_id()),
            "range": self.range_claim,
        }
        while not self.take("}"):
            if self.peek.startswith("%"):
                found.setdefault("node", []).append(self.node())
            elif self.peek == "cell":
                found.setdefault("cell", []).append(self.cell())
            elif self.peek in entries:
                kind = self.next()
                found.setdefault(kind, []).append(entries[kind]())
            else:
                raise self.wrong("an entry of a cell")

        def all_of(kind: str) -> tuple[Any, ...]:
            return tuple(found.get(kind, ()))

        return CellIR(
            name=name,
            dims=all_of("dim"),
            hyper=all_of("hyper"),
            nodes=all_of("node"),
            inputs=all_of("input"),
            params=all_of("param"),
            states=all_of("state"),
            outputs=all_of("output"),
            transitions=all_of("transition"),
            ranges=all_of("range"),
            subcells=all_of("cell"),
        )
