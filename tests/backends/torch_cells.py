"""Cells built by hand, for tests of the backend alone."""

from __future__ import annotations

from fractions import Fraction

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam, Init, Input, NodeId, Output, Param, State
from rnnc.ir.types import Type

D, H, K, V = (Dim.of(x) for x in ("d", "heads", "dk", "dv"))


DEFAULT = Init()


class Cell:
    """A builder with the bookkeeping of parameters."""

    def __init__(self) -> None:
        self.b = Builder()
        self.params: list[Param] = []

    def param(self, name: str, *shape: Dim, per: tuple[Dim, ...] = (), init: Init = DEFAULT) -> NodeId:
        node = self.b.leaf("param", name, Type(shape=shape, per=per))
        self.params.append(Param(name=name, node=node, init=init))
        return node

    def linear(self, x: NodeId, out: tuple[Dim, ...], name: str, per: tuple[Dim, ...] = (), title: str = "") -> NodeId:
        size = self.b.type(x).shape[-1]
        fan = Init(kind="fan_in", args=(size,))
        w = self.param(f"{name}_weight", *out, size, per=per, init=fan)
        bias = self.param(f"{name}_bias", *out, per=per, init=fan)
        y = self.b.einsum("oi,i->o" if out else "i,i->", w, self.b.lift(x, per))
        return self.b.add("add", y, bias, name=title)

    def zero(self, type_: Type) -> NodeId:
        return self.b.const(Fraction(0), type_)

    def finish(
        self, name: str, dims: dict[str, Dim | None], inputs: list[NodeId], states: list[State], **outputs: NodeId
    ) -> CellIR:
        nodes = self.b.nodes
        return CellIR(
            name=name,
            dims=tuple(DimParam(name=k, default=v) for k, v in dims.items()),
            nodes=tuple(nodes),
            inputs=tuple(Input(name=nodes[i].name, node=i) for i in inputs),
            params=tuple(self.params),
            states=tuple(states),
            outputs=tuple(Output(name=k, node=v) for k, v in outputs.items()),
        )


def elman() -> CellIR:
    """h <- tanh(W h + U x + b), y = W' h'."""
    c = Cell()
    b = c.b
    x = b.leaf("input", "x", Type(shape=(D,)))
    h = b.leaf("state", "h", Type(shape=(K,)))
    w = c.param("W", K, K, init=Init(kind="orthogonal"))
    total = b.map("add", b.einsum("oi,i->o", w, h), c.linear(x, (K,), "h_linear"))
    new = b.map("tanh", total)
    y = c.linear(new, (D,), "y_linear")
    states = [State(name="h", node=h, init=c.zero(Type(shape=(K,))), update=new)]
    return c.finish("Elman", {"d": None, "dk": Dim.of(8)}, [x], states, y=y)


def lstm() -> CellIR:
    """torch.nn.LSTM's step with one weight for all gates, and a learned initial state."""
    c = Cell()
    b = c.b
    x = b.leaf("input", "x", Type(shape=(D,)))
    h = b.leaf("state", "h", Type(shape=(K,)))
    s = b.leaf("state", "c", Type(shape=(K,)))
    h0 = c.param("h0", K)
    gates = b.add("add", c.linear(x, (K * 4,), "x_linear"), c.linear(h, (K * 4,), "h_linear"), name="gates")
    i, f, g, o = (b.add("slice", gates, axis=-1, start=K * n, stop=K * (n + 1)) for n in range(4))
    new_c = b.map("add", b.map("mul", b.map("sigmoid", f), s), b.map("mul", b.map("sigmoid", i), b.map("tanh", g)))
    new_h = b.map("mul", b.map("sigmoid", o), b.map("tanh", new_c))
    y = b.map("add", new_h, h)
    states = [
        State(name="h", node=h, init=h0, update=new_h),
        State(name="c", node=s, init=c.zero(Type(shape=(K,))), update=new_c),
    ]
    return c.finish("HandLstm", {"d": None, "dk": Dim.of(8)}, [x], states, y=y, last=new_c)


def delta() -> CellIR:
    """The gated delta rule with a convolution, per heads."""
    c = Cell()
    b = c.b
    x = b.leaf("input", "x", Type(shape=(D,)))
    per = (H,)

    def conv(value: NodeId, name: str) -> NodeId:
        w = c.param(
            f"{name}_conv_weight", *b.type(value).shape, Dim.of(4), per=per, init=Init(kind="fan_in", args=(Dim.of(4),))
        )
        bias = c.param(f"{name}_conv_bias", *b.type(value).shape, per=per)
        return b.add("conv", value, w, bias, width=4, key=f"{name}_conv")

    q = b.add("l2norm", b.map("silu", conv(c.linear(x, (K,), "q_linear", per), "q")), eps=Fraction(1, 10**6), name="q")
    k = b.add("l2norm", b.map("silu", conv(c.linear(x, (K,), "k_linear", per), "k")), eps=Fraction(1, 10**6), name="k")
    v = b.add("silu", conv(c.linear(x, (V,), "v_linear", per), "v"), name="v")
    beta = b.add("mul", b.const(2), b.map("sigmoid", c.linear(x, (), "beta_linear", per)), name="beta")
    alpha = b.add("sigmoid", c.linear(x, (), "alpha_linear", per), name="alpha")
    s = b.leaf("state", "S", Type(shape=(K, V), per=per))
    read = b.einsum("i,ij->j", k, s)
    write = b.outer(k, b.map("sub", v, b.map("mul", alpha, read)))
    new = b.map("add", b.map("mul", alpha, s), b.map("mul", beta, write))
    o = b.add("rmsnorm", b.matmul(b.transpose(new), q), eps=Fraction(1, 10**6), name="o")
    flat = b.add("reshape", b.add("merge", o, n=1), shape=(H * V,))
    y = c.linear(b.map("mul", flat, b.map("silu", c.linear(x, (H * V,), "g_linear"))), (D,), "y_linear")
    states = [State(name="S", node=s, init=c.zero(Type(shape=(K, V), per=per)), update=new)]
    return c.finish("HandDelta", {"d": None, "heads": Dim.of(2), "dk": D / H, "dv": D / H}, [x], states, y=y)


def rotating() -> CellIR:
    """A complex state with a fixed angle, delayed input, a real output; c depends on h, so there are two groups."""
    c = Cell()
    b = c.b
    x = b.leaf("input", "x", Type(shape=(D,)))
    h = b.leaf("state", "h", Type(dtype="complex", shape=(D,)))
    s = b.leaf("state", "m", Type(shape=(D,)))
    theta = c.param("theta", D, init=Init(kind="uniform", args=(Fraction(0), Fraction(3))))
    turn = b.map("polar", b.const(Fraction(9, 10)), theta)
    new_h = b.map("add", b.map("mul", turn, h), b.add("delay", x, n=2, key="past"))
    energy = b.add("re", b.map("mul", new_h, b.map("conj", h)), name="energy")
    new_m = b.map("max", b.map("sub", s, b.const(Fraction(1, 2))), energy)
    y = b.map("add", b.map("tanh", energy), new_m)
    start = b.const(Fraction(0), Type(dtype="complex", shape=(D,)))
    states = [
        State(name="h", node=h, init=start, update=new_h),
        State(name="m", node=s, init=b.const(Fraction(-1), Type(shape=(D,))), update=new_m),
    ]
    return c.finish("Rotating", {"d": None}, [x], states, y=y)


CELLS = {"elman": elman, "lstm": lstm, "delta": delta, "rotating": rotating}
