"""Example uses of every op: small cells `y = op(x0, x1, ...)` with sizes and random arguments, shared by tests of all
readings.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam, Input, Output, Param, State
from rnnc.ir.types import Type

N, M, H = Dim.of("n"), Dim.of("m"), Dim.of("heads")
DIMS = {"n": 3, "m": 4, "heads": 2}
EPS = Fraction(1, 100)

Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arg:
    """One argument: its type, whether it is a parameter (static), and how values are drawn."""

    type: Type
    static: bool = False
    draw: Draw


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """`cell` has the inputs and params x0, x1, ... and the output y, which is the op's node itself."""

    op: str
    cell: CellIR
    args: tuple[Arg, ...]
    dims: dict[str, int]

    def __str__(self) -> str:
        attrs = ", ".join(f"{k}={v}" for k, v in self.cell.nodes[self.node].attrs if k not in ("type", "dims"))
        static = ["static " * a.static + str(a.type) for a in self.args]
        return f"{self.op}({', '.join(static)}; {attrs})"

    @property
    def node(self) -> int:
        return self.cell.outputs[0].node

    def sample(self, rng: np.random.Generator, lead: tuple[int, ...]) -> dict[str, Any]:
        """Values of x0, x1, ...: [*lead, *per, *shape], or [*per, *shape] for the static ones."""
        found = {}
        for i, a in enumerate(self.args):
            core = tuple(d.evaluate(self.dims) for d in (*a.type.per, *a.type.shape))
            found[f"x{i}"] = a.draw(rng, core if a.static else (*lead, *core))
        return found


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.normal(size=shape)


def positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.uniform(0.2, 3.0, size=shape)


def away_from_zero(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.uniform(0.3, 2.0, size=shape) * rng.choice([-1.0, 1.0], size=shape)


def complex_normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def right_half_plane(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    """Away from the branch cut of log and sqrt, and from zero."""
    return rng.uniform(0.3, 2.0, size=shape) + 1j * rng.normal(size=shape)


def truth(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return rng.integers(0, 2, size=shape).astype(bool)


def well_conditioned(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return 0.3 * rng.normal(size=shape) + 2 * np.eye(shape[-1])


def complex_well_conditioned(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    return well_conditioned(rng, shape) + 0.3j * rng.normal(size=shape)


def tokens(below: int) -> Draw:
    return lambda rng, shape: rng.integers(0, below, size=shape)


def real(*shape: Dim, per: tuple[Dim, ...] = (), static: bool = False, draw: Draw = normal) -> Arg:
    return Arg(type=Type(shape=shape, per=per), static=static, draw=draw)


def cplx(*shape: Dim, per: tuple[Dim, ...] = (), static: bool = False, draw: Draw = complex_normal) -> Arg:
    return Arg(type=Type(dtype="complex", shape=shape, per=per), static=static, draw=draw)


def boolean(*shape: Dim) -> Arg:
    return Arg(type=Type(dtype="bool", shape=shape), draw=truth)


def token(*shape: Dim, per: tuple[Dim, ...] = ()) -> Arg:
    return Arg(type=Type(dtype="token", shape=shape, per=per, vocab=M), draw=tokens(DIMS["m"]))


def declare(b: Builder, args: tuple[Arg, ...]) -> tuple[list[int], list[Input], list[Param]]:
    """Leaves x0, x1, ... for the arguments."""
    nodes = [b.leaf("param" if a.static else "input", f"x{i}", a.type) for i, a in enumerate(args)]
    inputs = [Input(name=f"x{i}", node=n) for i, (a, n) in enumerate(zip(args, nodes)) if not a.static]
    params = [Param(name=f"x{i}", node=n) for i, (a, n) in enumerate(zip(args, nodes)) if a.static]
    return nodes, inputs, params


def example(op: str, *args: Arg, subcells: tuple[CellIR, ...] = (), **attrs: Any) -> Example:
    b = Builder()
    nodes, inputs, params = declare(b, args)
    y = b.add(op, *nodes, **attrs)
    cell = CellIR(
        name="Example",
        dims=tuple(DimParam(name=k) for k in DIMS),
        nodes=tuple(b.nodes),
        inputs=tuple(inputs),
        params=tuple(params),
        outputs=(Output(name="y", node=y),),
        subcells=subcells,
    )
    return Example(op=op, cell=cell, args=args, dims=DIMS)


def _elementwise() -> list[Example]:
    found = []
    for op in ["neg", "exp", "sin", "cos", "conj", "re", "im", "abs"]:
        found += [example(op, cplx(N)), example(op, real(N, M, per=(H,)))]
    for op in ("log", "sqrt"):
        found += [example(op, cplx(N, draw=right_half_plane)), example(op, real(N, draw=positive))]
    for op in ["expm1", "sign", "step", "tanh", "erf", "relu", "gelu", "silu", "sigmoid", "softplus", "logsigmoid"]:
        found += [example(op, real(N, draw=away_from_zero)), example(op, real(N, per=(H,), static=True))]
    one = Dim.of(1)
    for op in ("add", "sub", "mul"):
        found += [
            example(op, real(N, M), real(N, M)),
            example(op, real(one, M, per=(H,)), real(N, one, per=(H,), static=True)),
            example(op, cplx(N), real(N)),
            example(op, cplx(N, static=True), cplx(N)),
        ]
    found += [
        example("div", real(N, M), real(one, M, draw=away_from_zero)),
        example("div", real(N), cplx(N, draw=right_half_plane)),
        example("div", cplx(N), cplx(N, draw=right_half_plane, static=True)),
        example("pow", real(N, draw=positive), real(N)),
        example("pow", cplx(N, draw=right_half_plane), real(N)),
        example("pow", real(N, draw=positive), cplx(N)),
    ]
    for op in ("max", "min", "logaddexp", "lt", "le", "eq", "ne"):
        found += [example(op, real(N, M), real(N, one)), example(op, real(N, per=(H,)), real(N, per=(H,), static=True))]
    for op in ("and", "or"):
        found.append(example(op, boolean(N), boolean(N)))
    found += [
        example("not", boolean(N)),
        example("select", boolean(N, M), real(N, M), real(one, M)),
        example("select", boolean(N), cplx(N), real(N)),
        example("polar", real(N, draw=away_from_zero), real(N)),
        example("complex", real(N, M), real(one, M)),
        example("real", boolean(N)),
        example("real", token()),
    ]
    return found


def _views() -> list[Example]:
    one = Dim.of(1)
    return [
        example("lift", real(N, M), per=(H,)),
        example("lift", cplx(N, static=True), per=(H,)),
        example("lift", real(N, per=(H,)), per=(M,)),
        example("merge", real(N, M, per=(H,)), n=1),
        example("merge", real(per=(M, H)), n=1),
        example("split_per", cplx(H, N), n=1),
        example("split_per", real(M, N, per=(H,)), n=1),
        example("expand", real(N, M, per=(H,)), axes=(-2,)),
        example("expand", real(), axes=(-2, -1)),
        example("broadcast", real(N, one, per=(H,)), shape=(N, M)),
        example("broadcast", cplx(M), shape=(N, M)),
        example("reshape", real(N, M, per=(H,)), shape=(M * N,)),
        example("reshape", cplx(N * M, static=True), shape=(M, N)),
        example("transpose", real(N, M, per=(H,)), perm=(1, 0)),
        example("transpose", cplx(N, M, H), perm=(2, 0, 1)),
        example("slice", real(N, M, per=(H,)), axis=-1, start=Dim.of(1), stop=M - 1),
        example("slice", cplx(N, M), axis=-2, start=Dim.of(0), stop=Dim.of(1)),
        example("concat", real(N, per=(H,)), real(M, per=(H,)), axis=-1),
        example("concat", real(N, M), cplx(one, M, static=True), real(N, M), axis=-2),
    ]


def _contractions() -> list[Example]:
    found = [
        example("einsum", real(N, M, static=True), real(M), spec="ij,j->i"),
        example("einsum", real(N, M, per=(H,), static=True), real(M, per=(H,)), spec="ij,j->i"),
        example("einsum", cplx(N, M), real(M, N), spec="ij,jk->ik"),
        example("einsum", cplx(N), cplx(M), spec="i,j->ij"),
        example("einsum", real(N), real(N), spec="i,i->"),
        example("einsum", real(), real(N, M), spec=",ij->ji"),
        example("einsum", real(N, M), cplx(N), spec="ij,k->ik"),
    ]
    for op in ("sum", "mean"):
        found += [example(op, cplx(N, M), axes=(-2,)), example(op, real(N, M, per=(H,)), axes=(-2, -1))]
    for op in ("amax", "amin"):
        found += [example(op, real(N, M), axes=(-1,)), example(op, real(N, M, per=(H,)), axes=(-2, -1))]
    found += [
        example("take", real(M, N, static=True), token()),
        example("take", real(M, N, per=(H,), static=True), token(per=(H,))),
        example("take", cplx(M, N, H), token()),
        example("one_hot", token()),
        example("one_hot", token(N)),
    ]
    return found


def _structured() -> list[Example]:
    two = Dim.of(2)
    found = [
        example("const", value=(Fraction(1), Fraction(1, 3)), type=Type(shape=(two,))),
        example("const", value=Fraction(0), type=Type(dtype="complex", shape=(N,), per=(H,))),
        example("const", value="pi", type=Type()),
        example("const", value=True, type=Type(dtype="bool")),
        example("dim", value=N * 2),
        example("arange", start=Dim.of(1), stop=N + 2),
        example("eye", n=N),
        example("rotation_blocks", real(N, per=(H,))),
        example("rotation_blocks", real(N, static=True)),
    ]
    for kind in ("diag", "circulant", "companion"):
        found += [
            example("layout", real(N, per=(H,)), kind=kind),
            example("layout", cplx(N, static=True), kind=kind),
            example("layout_transpose", real(N, N), kind=kind, shape=(N,)),
        ]
    found += [
        example("layout", real(two, N, N), kind="blockdiag"),
        example("layout_transpose", cplx(two * N, two * N), kind="blockdiag", shape=(two, N, N)),
        example("expm", real(N, N, per=(H,))),
        example("expm", cplx(N, N)),
        example("cayley", real(N, N, per=(H,), draw=well_conditioned)),
        example("cayley", cplx(N, N, static=True, draw=complex_well_conditioned)),
        example("solve", real(N, N, draw=well_conditioned, static=True), real(N, M)),
        example("solve", cplx(N, N, draw=complex_well_conditioned), real(N, M)),
        example("softmax", real(N, M, per=(H,))),
        example("layernorm", real(N, M), eps=EPS),
    ]
    for op in ("l2norm", "rmsnorm"):
        found += [example(op, real(N, M, per=(H,)), eps=EPS), example(op, cplx(M), eps=EPS)]
    return found


def _body() -> CellIR:
    """A small cell to call: y = W x + h, h' = y / 2."""
    b = Builder()
    x = b.leaf("input", "x", Type(shape=(N,)))
    w = b.leaf("param", "W", Type(shape=(N, N)))
    h = b.leaf("state", "h", Type(shape=(N,)))
    start = b.const(Fraction(0), Type(shape=(N,)))
    y = b.map("add", b.einsum("ij,j->i", w, x), h)
    half = b.map("mul", y, b.const(Fraction(1, 2)))
    return CellIR(
        name="Body",
        dims=(DimParam(name="n"),),
        nodes=tuple(b.nodes),
        inputs=(Input(name="x", node=x),),
        params=(Param(name="W", node=w),),
        states=(State(name="h", node=h, init=start, update=half),),
        outputs=(Output(name="y", node=y),),
    )


def _over_time() -> list[Example]:
    width = Dim.of(4)
    size, body = (("n", M),), (_body(),)
    return [
        example("delay", real(N), n=1, key="d"),
        example("delay", cplx(N, per=(H,)), cplx(N, per=(H,), static=True), n=3, key="d"),
        example("conv", real(N), real(N, width, static=True), real(N, static=True), width=4, key="c"),
        example("conv", cplx(per=(H,)), real(width, per=(H,), static=True), width=4, key="c"),
        example("conv", real(N), real(N, Dim.of(1), static=True), width=1, key="c"),
        example("attention", real(N, per=(H,)), real(N, per=(H,)), real(M, per=(H,)), key="a"),
        example("call", real(M), cell=0, dims=size, output=0, key="k", type=Type(shape=(M,)), subcells=body),
        example("repeat", real(M), cell=0, dims=size, count=3, key="k", type=Type(shape=(M,)), subcells=body),
    ]


LEAVES = frozenset({"input", "param", "state"})  # given from outside: every other example uses them
EXAMPLES = (*_elementwise(), *_views(), *_contractions(), *_structured(), *_over_time())
