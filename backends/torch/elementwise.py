"""code(torch): elementwise operations as Python expressions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rnnc.backends.torch.context import Context
from rnnc.backends.torch.expr import ADD, ATOM, BIT_AND, BIT_OR, COMPARE, MUL, POWER, TERNARY, UNARY, Expr, call
from rnnc.ir.dims import ONE
from rnnc.ir.graph import Node, NodeId

# op -> (on a tensor, on a Python number); {0} is the argument
UNARY_CALLS: dict[str, tuple[str, str]] = {
    "exp": ("torch.exp", "math.exp({0})"),
    "expm1": ("torch.expm1", "math.expm1({0})"),
    "log": ("torch.log", "math.log({0})"),
    "sqrt": ("torch.sqrt", "math.sqrt({0})"),
    "sin": ("torch.sin", "math.sin({0})"),
    "cos": ("torch.cos", "math.cos({0})"),
    "tanh": ("torch.tanh", "math.tanh({0})"),
    "sign": ("torch.sign", "(({0} > 0) - ({0} < 0))"),
    "sigmoid": ("torch.sigmoid", "(1 / (1 + math.exp(-({0}))))"),
    "logsigmoid": ("F.logsigmoid", "(-math.log1p(math.exp(-({0}))))"),
    "softplus": ("F.softplus", "math.log1p(math.exp({0}))"),
    "relu": ("F.relu", "max({0}, 0)"),
    "silu": ("F.silu", "(({0}) / (1 + math.exp(-({0}))))"),
    "gelu": ("F.gelu", "(0.5 * ({0}) * (1 + math.erf(({0}) / math.sqrt(2))))"),
    "erf": ("torch.erf", "math.erf({0})"),
    "abs": ("torch.abs", "abs({0})"),
}

# op -> (operator, its precedence, the precedence its right operand needs)
INFIX: dict[str, tuple[str, int, int]] = {
    "add": ("+", ADD, MUL),
    "sub": ("-", ADD, MUL),
    "mul": ("*", MUL, UNARY),
    "div": ("/", MUL, UNARY),
    "lt": ("<", COMPARE, BIT_OR),
    "le": ("<=", COMPARE, BIT_OR),
    "eq": ("==", COMPARE, BIT_OR),
    "ne": ("!=", COMPARE, BIT_OR),
    "and": ("&", BIT_AND, COMPARE + 3),
    "or": ("|", BIT_OR, BIT_AND),
}


def joined(
    c: Context, node: Node, args: list[Expr], text: str, prec: int, ids: tuple[NodeId, ...] | None = None
) -> Expr:
    """An elementwise result: where it broadcasts, where it is static, and its precision follow from the operands.

    The operands are the values of `ids`, the node's arguments if not given.
    """
    tensors = [(e, c.type(a)) for e, a in zip(args, ids or node.args) if not e.number]
    if not tensors:
        return Expr(text=text, prec=prec, number=True, static=True)
    sizes = (*node.type.per, *node.type.shape)
    small = set()
    for axis in range(-len(sizes), 0):
        if sizes[axis] != ONE and all(
            axis in e.small or len(t.per) + t.rank < -axis or (*t.per, *t.shape)[axis] == ONE for e, t in tensors
        ):
            small.add(axis)
    static = all(e.static for e, _ in tensors)
    return Expr(
        text=text,
        prec=prec,
        static=static,
        small=frozenset(small),
        absent=min(e.absent + len(sizes) - len(t.per) - t.rank for e, t in tensors) if static else 0,
        low=all(e.low for e, _ in tensors),
    )


def unary(c: Context, node: Node, args: list[Expr]) -> Expr:
    x = args[0]
    torch_name, on_number = UNARY_CALLS[node.op]
    if x.number:
        c.use("math")
        return joined(c, node, args, on_number.format(x.text), ATOM)
    if torch_name.startswith("F."):
        c.use("F")
    found = call(torch_name, x.text)
    return joined(c, node, args, real_of(c, found) if narrows(c, node) else found, ATOM)


def narrows(c: Context, node: Node) -> bool:
    """Whether a real value is read off a complex one."""
    return node.type.dtype == "real" and c.type(node.args[0]).dtype == "complex"


def real_of(c: Context, text: str) -> str:
    """A real value read off a complex one, in the module's dtype: in bfloat16 modules too, complex values are
    complex64."""
    return f"{text}.to({c.like}.dtype)"


def neg(c: Context, node: Node, args: list[Expr]) -> Expr:
    return joined(c, node, args, f"-{args[0].at(UNARY)}", UNARY)


def without_neutral(c: Context, node: Node, args: list[Expr]) -> Expr | None:
    """`1 * x`, `x / 1`, `x + 0` as x, where x has the result's type."""
    neutral = "1" if node.op in ("mul", "div") else "0" if node.op in ("add", "sub") else None
    for i in (1, 0) if node.op in ("mul", "add") else (1,):
        same = c.type(node.args[1 - i]).dtype == node.type.dtype
        if args[i].number and args[i].text == neutral and not args[1 - i].number and same:
            return args[1 - i]
    return None


def infix(c: Context, node: Node, args: list[Expr]) -> Expr:
    plain = without_neutral(c, node, args)
    if plain is not None:
        return plain
    sign, prec, right = INFIX[node.op]
    a, b = beside_complex(c, node, args)
    if node.op in ("lt", "le") and a.number and not b.number:  # `0 < x` reads better as `x > 0`
        sign, a, b = {"<": ">", "<=": ">="}[sign], b, a
    left = prec if node.op not in ("lt", "le", "eq", "ne") else BIT_OR
    return joined(c, node, args, f"{a.at(left)} {sign} {b.at(right)}", prec)


def add(c: Context, node: Node, args: list[Expr]) -> Expr:
    """`F.linear(x, W) + b` takes the bias inside."""
    one_dtype = c.type(node.args[0]).dtype == c.type(node.args[1]).dtype  # F.linear does not promote
    for product, bias in (args, args[::-1]) if one_dtype else ():
        fused = product.add_bias(bias) if product.add_bias and bias.static and not bias.number else None
        if fused is not None:
            return fused
    a, b = args
    if b.text.startswith("-") and b.prec == UNARY:
        return joined(c, node, args, f"{a.at(ADD)} - {b.text[1:]}", ADD)
    return infix(c, node, args)


def lerp(c: Context, node: Node, ids: tuple[NodeId, ...], args: list[Expr]) -> Expr:
    """`old + share * (new - old)` of three tensors, the values of `ids`, as one operation."""
    return joined(c, node, args, call(c.use("lerp"), *(e.text for e in args)), ATOM, ids)


def power(c: Context, node: Node, args: list[Expr]) -> Expr:
    a, b = args
    return joined(c, node, args, f"{a.at(ATOM)} ** {b.at(POWER)}", POWER)


def logical_not(c: Context, node: Node, args: list[Expr]) -> Expr:
    if args[0].number:
        return joined(c, node, args, f"(not {args[0].text})", ATOM)
    return joined(c, node, args, f"~{args[0].at(UNARY)}", UNARY)


def extremum(c: Context, node: Node, args: list[Expr]) -> Expr:
    """max and min; with a number they are a clamp."""
    a, b = args
    if a.number and b.number:
        return joined(c, node, args, call(node.op, a.text, b.text), ATOM)
    if a.number or b.number:
        number, tensor = (a, b) if a.number else (b, a)
        bound = "min" if node.op == "max" else "max"
        return joined(c, node, args, f"{tensor.atom}.clamp({bound}={number.text})", ATOM)
    return joined(c, node, args, call(f"torch.{node.op}imum", a.text, b.text), ATOM)


def as_tensors(c: Context, node: Node, args: list[Expr]) -> list[Expr]:
    """Numbers among the operands as 0-dimensional tensors, for functions that take no numbers."""
    if all(e.number for e in args):
        return args
    return [Expr(text=f"{c.like}.new_tensor({e.text})", static=True) if e.number else e for e in args]


def one_field(c: Context, node: Node, ids: tuple[NodeId, ...], args: list[Expr]) -> list[Expr]:
    """Real operands made complex where the result is, for functions that do not promote."""
    if node.type.dtype != "complex":
        return args
    return [e if e.number or c.type(i).dtype == "complex" else as_complex(c, e) for e, i in zip(args, ids)]


def as_complex(c: Context, e: Expr) -> Expr:
    """A real tensor as a complex one (of float16 too, where `x + 0j` would be of half precision)."""
    text = call(c.use("complex_of"), e.text)
    return replace(e, text=text, prec=ATOM, unlifted=None, flipped=None, base="", index=(), add_bias=None)


def beside_complex(c: Context, node: Node, args: list[Expr]) -> list[Expr]:
    """The operands of an infix operation; a real tensor beside a complex number is made complex first."""
    if node.type.dtype != "complex" or not any(
        e.number and c.type(i).dtype == "complex" for e, i in zip(args, node.args)
    ):
        return args
    return one_field(c, node, node.args, args)


def logaddexp(c: Context, node: Node, args: list[Expr]) -> Expr:
    if all(e.number for e in args):
        c.use("math")
        a, b = (e.text for e in args)
        return joined(c, node, args, f"math.log(math.exp({a}) + math.exp({b}))", ATOM)
    texts = [e.text for e in as_tensors(c, node, args)]
    return joined(c, node, args, call("torch.logaddexp", *texts), ATOM)


def polar(c: Context, node: Node, args: list[Expr]) -> Expr:
    r, theta = args
    if r.number and theta.number:
        c.use("cmath")
        return joined(c, node, args, call("cmath.rect", r.text, theta.text), ATOM)
    # torch.polar has the wrong derivative where r is negative
    if theta.number:
        c.use("cmath")
        return joined(c, node, args, f"{as_complex(c, r).text} * {call('cmath.rect', '1', theta.text)}", MUL)
    turn = call("torch.exp", f"1j * {as_complex(c, theta).text}")
    return joined(c, node, args, f"{r.at(MUL)} * {turn}", MUL)


def complex_(c: Context, node: Node, args: list[Expr]) -> Expr:
    re, im = args
    if re.number and im.number:
        return joined(c, node, args, call("complex", re.text, im.text), ATOM)
    if re.number:
        return joined(c, node, args, f"{re.at(ADD)} + 1j * {as_complex(c, im).text}", ADD)
    return joined(c, node, args, call(c.use("complex_of"), re.text, im.text), ATOM)


def part(c: Context, node: Node, args: list[Expr]) -> Expr:
    """re, im and conj, also of what is real."""
    z = args[0]
    if c.type(node.args[0]).dtype != "complex":
        if node.op == "im":
            return joined(c, node, args, "0" if z.number else call("torch.zeros_like", z.text), ATOM)
        return z
    if node.op == "conj":
        return joined(c, node, args, f"{z.atom}.conjugate()" if z.number else f"{z.atom}.conj()", ATOM)
    text = f"{z.atom}.{'real' if node.op == 're' else 'imag'}"
    return joined(c, node, args, text if z.number else real_of(c, text), ATOM)


def select(c: Context, node: Node, args: list[Expr]) -> Expr:
    condition, a, b = args
    if condition.number:
        if not (a.number and b.number):  # one of them stands alone: it gets the axes that `torch.where` would give it
            moving = not all(e.number or e.static for e in (a, b))
            a, b = (_of_size(c, node, i, e, moving) for i, e in zip(node.args[1:], (a, b)))
            args = [condition, a, b]
        return joined(
            c, node, args, f"{a.at(TERNARY + 1)} if {condition.at(TERNARY + 1)} else {b.at(TERNARY)}", TERNARY
        )
    if a.number and b.number:
        a, b = as_tensors(c, node, [condition, a, b])[1:]
    a, b = one_field(c, node, node.args[1:], [a, b])
    return joined(c, node, args, call("torch.where", condition.text, a.text, b.text), ATOM)


def _of_size(c: Context, node: Node, i: NodeId, e: Expr, moving: bool) -> Expr:
    """An argument with all axes of the result; `moving`: with batch and time."""
    own = c.type(i)
    pairs = zip((*own.per, *own.shape), (*node.type.per, *node.type.shape)) if not e.number else ()
    ones = {k - own.rank - len(own.per) for k, (a, b) in enumerate(pairs) if a == ONE != b}
    return c.whole(replace(e, small=e.small | ones), node.type, lead=moving)


def step(c: Context, node: Node, args: list[Expr]) -> Expr:
    if args[0].number:
        return joined(c, node, args, f"float({args[0].at(BIT_OR)} > 0)", ATOM)
    return joined(c, node, args, f"({args[0].at(BIT_OR)} > 0).to({c.like}.dtype)", ATOM)


def to_real(c: Context, node: Node, args: list[Expr]) -> Expr:
    if args[0].number:
        return joined(c, node, args, f"float({args[0].text})", ATOM)
    if c.type(node.args[0]).dtype == "real":
        return args[0]
    return joined(c, node, args, f"{args[0].atom}.to({c.like}.dtype)", ATOM)


TABLE: dict[str, Callable[[Context, Node, list[Expr]], Expr]] = {
    **dict.fromkeys(UNARY_CALLS, unary),
    **dict.fromkeys(INFIX, infix),
    "add": add,
    "neg": neg,
    "pow": power,
    "not": logical_not,
    "max": extremum,
    "min": extremum,
    "logaddexp": logaddexp,
    "polar": polar,
    "complex": complex_,
    "re": part,
    "im": part,
    "conj": part,
    "select": select,
    "step": step,
    "real": to_real,
}
