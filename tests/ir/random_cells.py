"""Random cells: graphs that nobody wrote, for properties of passes and domains."""

from __future__ import annotations

from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
from hypothesis import strategies as st

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.graph import CellIR, DimParam, Input, Output, Param, State
from rnnc.ir.ops import OpTypeError
from rnnc.ir.types import Type

N, M, H = Dim.of("n"), Dim.of("m"), Dim.of("heads")
DIMS = {"n": 3, "m": 4, "heads": 2}
UNARY = ["neg", "tanh", "sigmoid", "relu", "sin", "softplus", "exp", "abs", "conj", "re", "im", "silu", "step"]
BINARY = ["add", "sub", "mul", "add", "sub", "mul", "max", "min", "logaddexp", "lt", "polar", "complex", "div"]


def _leaves(b: Builder, per: tuple[Dim, ...]) -> dict[str, dict[str, int]]:
    def leaf(op: str, name: str, *shape: Dim, dtype: Any = "real") -> int:
        return b.leaf(op, name, Type(dtype=dtype, shape=shape, per=per))

    return {
        "input": {"x": leaf("input", "x", N), "u": leaf("input", "u", M), "g": leaf("input", "g")},
        "param": {
            "W": leaf("param", "W", N, N),
            "U": leaf("param", "U", M, N),
            "c": leaf("param", "c", N, dtype="complex"),
        },
        "state": {
            "S": leaf("state", "S", N, M),
            "h": leaf("state", "h", N),
            "z": leaf("state", "z", N, dtype="complex"),
        },
    }


def _grow(b: Builder, rng: Random) -> None:
    """One more node, of arguments that may or may not fit."""
    late = [n.id for n in b.nodes[-8:]]

    def pick() -> int:
        return rng.choice(late) if rng.random() < 0.5 else rng.randrange(len(b.nodes))

    a, c = pick(), pick()
    rank = b.type(a).rank
    match rng.randrange(14):
        case 0 | 1 | 2:
            b.map(rng.choice(UNARY), a)
        case 3 | 4 | 5:
            b.map(rng.choice(BINARY), a, c)
        case 6:
            b.matmul(a, c)
        case 7:
            b.outer(a, c) if rng.random() < 0.6 else b.einsum("ij,ij->j", a, c)
        case 8:
            b.transpose(a)
        case 9:
            b.add(rng.choice(["sum", "mean", "amax"]), a, axes=(rng.randrange(-rank, 0),) if rank else ())
        case 10:
            b.add(rng.choice(["softmax", "l2norm", "layernorm"]), a, eps=Fraction(1, 10))
        case 11:
            b.map("select", b.map("lt", pick(), b.const(0)), a, c)
        case 12:
            shapes = [(N, M), (M, N), (N,), (N * M,), (N, Dim.of(1))]
            b.add("reshape", a, shape=rng.choice(shapes))
        case 13:
            kind = rng.randrange(6)
            if kind == 4:
                b.matmul(b.map("sub", b.add("eye", n=N), b.outer(a, a)), c)
            elif kind == 5:
                b.matmul(a, b.map("mul", b.add("layout", c, kind="diag"), pick()))
            elif kind == 0:
                b.add("layout", a, kind=rng.choice(["diag", "circulant", "companion"]))
            elif kind == 1:
                b.add("concat", a, c, axis=-1)
            elif kind == 2 and rank:
                b.add("slice", a, axis=-1, start=Dim.of(1), stop=b.type(a).shape[-1])
            else:
                b.map("mul", a, b.const(rng.choice([0, 1, Fraction(1, 2)])))


def build(rng: Random, size: int) -> CellIR:
    """A cell of `size` or fewer nodes beside its leaves; updates are any nodes of the state's type."""
    b = Builder()
    per = (H,) if rng.random() < 0.3 else ()
    leaves = _leaves(b, per)
    for _ in range(size):
        try:
            _grow(b, rng)
        except OpTypeError:
            continue
    states = []
    for name, node in leaves["state"].items():
        t = b.type(node)
        zero = b.const(Fraction(0), t)
        fits = [n.id for n in b.nodes if n.type == t and n.op != "const"]
        states.append(State(name=name, node=node, init=zero, update=rng.choice(fits[-3:])))
    last = [n.id for n in b.nodes if n.type.dtype in ("real", "complex")][-2:]
    return CellIR(
        name="Random",
        dims=tuple(DimParam(name=k) for k in DIMS),
        nodes=tuple(b.nodes),
        inputs=tuple(Input(name=k, node=v) for k, v in leaves["input"].items()),
        params=tuple(Param(name=k, node=v) for k, v in leaves["param"].items()),
        states=tuple(states),
        outputs=tuple(Output(name=f"y{i}", node=n) for i, n in enumerate(last)),
    )


@st.composite
def cells(draw: Any, most: int = 25) -> CellIR:
    return build(Random(draw(st.integers(0, 2**32))), draw(st.integers(1, most)))


def sample(cell: CellIR, rng: np.random.Generator, lead: tuple[int, ...] = ()) -> dict[int, Any]:
    """Values of all inputs, params and states by node."""
    found = {}
    for leaf in (*cell.inputs, *cell.params, *cell.states):
        t = cell.nodes[leaf.node].type
        static = cell.nodes[leaf.node].op == "param"
        shape = (() if static else lead) + tuple(d.evaluate(DIMS) for d in (*t.per, *t.shape))
        x = 0.5 * rng.normal(size=shape)
        found[leaf.node] = x + 0.5j * rng.normal(size=shape) if t.dtype == "complex" else x
    return found


def values(cell: CellIR, given: dict[int, Any], nodes: Any = None) -> dict[int, Any]:
    with np.errstate(all="ignore"):
        return evaluate(cell, Concrete(cell, DIMS, given), nodes)
