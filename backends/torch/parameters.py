"""Parameters and buffers of an emitted module: their shapes, and how they start."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from rnnc.backends.torch.body import Body, Names, Source
from rnnc.backends.torch.context import Context, number_text, static_nodes
from rnnc.backends.torch.expr import MUL, tuple_text
from rnnc.backends.torch.needs import closure
from rnnc.backends.torch.timeops import Time
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Init, Node, NodeId, Param
from rnnc.ir.types import Disk, HalfPlane, Type

DTYPES = {
    "real": "dtype",
    "complex": "torch.promote_types(dtype, torch.complex64)",
    "bool": "torch.bool",
    "token": "torch.long",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A fixed tensor: an attribute of the module and the expression that makes it (on `device`, of `dtype`)."""

    name: str
    node: NodeId
    text: str


def literal(value: object) -> str:
    """Nested exact numbers as a Python list."""
    if isinstance(value, tuple):
        return f"[{', '.join(literal(v) for v in value)}]"
    assert isinstance(value, (int, Fraction)), value
    return number_text(Fraction(value))[0]


def buffers(c: Context, nodes: set[NodeId], taken: set[str]) -> list[Buffer]:
    """The constants among `nodes` that are no numbers."""
    found = []
    names = Names(set(taken))
    for i in sorted(nodes):
        node = c.cell.nodes[i]
        if node.op == "eye":
            text, name = f"torch.eye({c.dim(_dim(node, 'n'))})", "identity"
        elif node.op == "arange":
            start, stop = c.dim(_dim(node, "start")), c.dim(_dim(node, "stop"))
            text, name = f"torch.arange({'' if start == '0' else start + ', '}{stop})", "positions"
        elif node.op == "const" and isinstance(node.attr("value"), tuple):
            text, name = f"torch.tensor({literal(node.attr('value'))}, dtype=torch.float64)", "constant"
        else:
            continue
        found.append(Buffer(name=names.fresh(node.name or name), node=i, text=text))
    return found


def _dim(node: Node, key: str) -> Dim:
    return Dim.of(node.attr(key))  # type: ignore[arg-type]


def shape_text(c: Context, type_: Type) -> str:
    """Sizes as the arguments of `torch.empty`."""
    sizes = [c.dim(d) for d in (*type_.per, *type_.shape)]
    return ", ".join(sizes) if sizes else "()"


# ---------------------------------------------------------------- how parameters start


class Initialiser:
    """Writes `reset_parameters`."""

    def __init__(self, c: Context, source: Source) -> None:
        self.c = c
        self.source = source

    def lines(self, p: Param) -> list[str]:
        name = self.c.attributes[p.node]
        type_ = self.c.type(p.node)
        if p.init.kind == "value":
            return self._value(p, name)
        text = self._fill(p.init, name, type_)
        if p.constrained is None or p.constrained == p.node or p.init.kind == "default":
            return text
        return [*text, *self._to_raw(p, name)]

    def _to_raw(self, p: Param, name: str) -> list[str]:
        """Bring the value of a parameter back through its domain's map, in place."""
        match p.domain:
            case Disk(radius=radius):
                modulus = f"{name}.abs()" if radius == 1 else f"{name}.abs() / {number_text(radius)[0]}"
                raw = f"torch.complex(torch.logit({modulus}), {name}.angle())"
            case HalfPlane(bound=bound, above=above):
                b = number_text(abs(bound))[0]
                sign = "" if above else "-"
                shift = "" if bound == 0 else f" {'-' if (bound > 0) == above else '+'} {b}"
                distance = f"{sign}{name}.real{shift}"
                raw = f"torch.complex(torch.log(torch.expm1({distance})), {name}.imag)"
            case _:
                raw = self._inverse(p, name)
        if raw == name:
            return []
        known = all(isinstance(a, Fraction) for a in p.init.args) and p.init.kind != "value"
        if known:  # the frontend has looked at the numbers
            return [f"{name}.copy_({raw})"]
        shown = self.c.cell.nodes[p.constrained].name if p.constrained is not None else p.name
        return [f'{name}.copy_({self.c.use("inside")}({raw}, "{shown}", "{p.domain}"))']

    def _number(self, x: Fraction | Dim | object) -> str:
        if isinstance(x, Dim):
            return self.c.dim(x)
        if isinstance(x, tuple):
            coefficient, base, power = x
            scale = "" if coefficient == 1 else f"{float(coefficient)!r} * "
            return f"{scale}({self.c.dim(base)}) ** {float(power)!r}"
        assert isinstance(x, (int, Fraction)), x
        return number_text(Fraction(x))[0]

    def _fill(self, init: Init, name: str, type_: Type) -> list[str]:
        """Statements that fill the tensor `name`; complex tensors are filled through their real view."""
        if type_.dtype == "complex" and init.kind in ("default", "fan_in", "uniform", "normal"):
            name = f"torch.view_as_real({name})"
        args = [self._number(a) for a in init.args]
        kind = init.kind
        if kind == "default":
            if type_.rank < 2:
                return [f"nn.init.zeros_({name})"]
            return self._uniform(name, f"{self.c.dim(type_.shape[-1])}")
        match kind:
            case "fan_in":
                return self._uniform(name, args[0])
            case "zeros" | "ones":
                return [f"nn.init.{kind}_({name})"]
            case "constant":
                return [f"nn.init.constant_({name}, {args[0]})"]
            case "normal":
                return [f"nn.init.normal_({name}, mean={args[1] if len(args) > 1 else '0'}, std={args[0]})"]
            case "uniform":
                return [f"nn.init.uniform_({name}, {args[0]}, {args[1]})"]
        function = {
            "xavier": "nn.init.xavier_uniform_({0})",
            "kaiming": "nn.init.kaiming_uniform_({0}, a=math.sqrt(5))",
            "orthogonal": "nn.init.orthogonal_({0})",
            "identity": "nn.init.eye_({0})",
        }[kind]
        if kind == "kaiming":
            self.c.use("math")
        if not type_.per:
            return [function.format(name)]
        matrices = name if len(type_.per) == 1 else f"{name}.flatten(0, {len(type_.per) - 1})"
        return [f"for matrix in {matrices}:", "    " + function.format("matrix")]

    def _uniform(self, name: str, fan: str) -> list[str]:
        self.c.use("math")
        return [f"nn.init.uniform_({name}, -1 / math.sqrt({fan}), 1 / math.sqrt({fan}))"]

    def _value(self, p: Param, name: str) -> list[str]:
        """A declared expression; brought back through the domain's map where there is one."""
        assert p.init.node is not None
        body = static_body(self.c, self.source)
        body.build([p.init.node])
        e = body.env[p.init.node]
        value = f"nn.init.constant_({name}, {e.text})" if e.number else f"{name}.copy_({e.text})"
        mapped = p.constrained is not None and p.constrained != p.node
        return [*body.lines, value, *(self._to_raw(p, name) if mapped else [])]

    def _inverse(self, p: Param, value: str) -> str:
        """The raw leaf that the domain's map sends to `value`, by undoing the map from its end to the leaf."""
        assert p.constrained is not None
        cell, at = self.c.cell, p.constrained
        while at != p.node:
            node = cell.nodes[at]
            inner = [a for a in node.args if p.node in closure(cell, [a])]
            assert len(inner) == 1, f"the domain of {p.name} is kept by a map that has no simple inverse"
            value = self._undo(node, node.args.index(inner[0]), value)
            at = inner[0]
        return value

    def _undo(self, node: Node, place: int, y: str) -> str:
        """x from y = op(x, constant)."""
        simple = {
            "sigmoid": f"torch.logit({y})",
            "softplus": f"torch.log(torch.expm1({y}))",
            "exp": f"torch.log({y})",
            "log": f"torch.exp({y})",
            "tanh": f"torch.atanh({y})",
            "neg": f"-({y})",
            "logsigmoid": f"torch.logit(torch.exp({y}))",
        }
        if node.op in simple:
            return simple[node.op]
        if node.op in ("l2norm", "lift", "expand", "broadcast", "merge", "split_per"):
            return y
        body = static_body(self.c, self.source)
        other = node.args[1 - place]
        body.build([other])
        k = body.env[other].at(MUL + 1)
        forms = {
            ("add", 0): f"{y} - {k}",
            ("add", 1): f"{y} - {k}",
            ("sub", 0): f"{y} + {k}",
            ("sub", 1): f"{k} - {y}",
            ("mul", 0): f"{y} / {k}",
            ("mul", 1): f"{y} / {k}",
            ("div", 0): f"{y} * {k}",
            ("div", 1): f"{k} / {y}",
        }
        assert (node.op, place) in forms, f"no inverse of {node.op}"
        return f"({forms[node.op, place]})"


def static_body(c: Context, source: Source) -> Body:
    """For expressions of parameters and constants alone."""
    return Body(
        c=c,
        names=Names(),
        env={},
        uses={},
        titles={},
        results=frozenset(),
        owners={},
        source=Source({}),
        time=Time(step=True),
    )


def initial_value(c: Context, source: Source, init: NodeId, type_: Type, batch: str) -> tuple[list[str], str]:
    """Statements before, and the expression of a state's initial value `[batch, *per, *shape]`."""
    body = static_body(c, source)
    body.build([init])
    e = body.env[init]
    sizes = ", ".join([batch, *(c.dim(d) for d in (*type_.per, *type_.shape))])
    kind = f"dtype={DTYPES[type_.dtype]}"
    if e.number and e.text in ("0", "0.0", "complex(0, 0)"):
        return [], f"torch.zeros({sizes}, device=device, {kind})"
    if e.number:
        size = f"({sizes}{',' if ', ' not in sizes else ''})"
        return [], f"torch.full({size}, {e.text}, device=device, {kind})"
    cast = (
        ".to(torch.promote_types(dtype, torch.complex64))"
        if type_.dtype == "complex" and c.type(init).dtype != "complex"
        else ""
    )
    return body.lines, f"{e.atom}{cast}.expand({sizes})"


def tuple_of(items: list[str]) -> str:
    return tuple_text(items)


def static_of(cell: CellIR) -> frozenset[NodeId]:
    return static_nodes(cell)
