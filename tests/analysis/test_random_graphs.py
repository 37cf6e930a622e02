"""Random graphs of linear and some other ops: what is called affine is affine, and its forms compute the update."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest

from rnnc.ir.dims import Dim
from rnnc.ir.domains.concrete import Concrete
from rnnc.ir.evaluate import evaluate
from rnnc.ir.ops import OpTypeError

SIZES = {"K": 3, "V": 4, "H": 2, "p": 2}
PAIRS = Dim.of("p") * 2
STATES = {
    "matrix": (("S",), ("K", "V"), "real"),
    "square": (("S",), ("K", "K"), "real"),
    "vector": (("h",), ("K",), "real"),
    "pairs": (("h",), (PAIRS,), "real"),
    "complex": (("h",), ("K",), "complex"),
    "two": (("a", "b"), ("K",), "real"),
}
SHAPES = [(), ("K",), ("V",), ("K", "V"), ("K", "K"), ("V", "V"), (PAIRS,)]
OPS = [
    "add",
    "sub",
    "mul",
    "div",
    "matmul",
    "transpose",
    "neg",
    "diag",
    "outer",
    "sum",
    "mean",
    "expand",
    "halves",
    "fold",
    "unfold",
    "select",
    "conj",
    "re",
    "nonlinear",
    "rotate",
    "mix",
]


class Graph:
    """Grows random values over the states of a cell."""

    def __init__(self, maker, rnd: random.Random) -> None:
        self.m, self.b, self.rnd = maker, maker.b, rnd
        self.per = ("H",) if rnd.random() < 0.4 else ()
        self.names, shape, dtype = STATES[rnd.choice(list(STATES))]
        self.states = [maker.state(n, *shape, per=self.per, dtype=dtype) for n in self.names]
        self.free = [self.input(*rnd.choice(SHAPES)) for _ in range(4)]
        constants = [self.b.add("eye", n=Dim.of("K")), self.b.const(1), self.b.const(Fraction(-3, 2))]
        self.values = [*self.states, *self.free, *constants]

    def input(self, *shape):
        node = self.m.input(f"x{len(self.m.inputs)}", *shape, per=self.per if self.rnd.random() < 0.7 else ())
        return self.b.add("sigmoid", node) if self.rnd.random() < 0.3 else node

    def grow(self) -> None:
        recent = self.values[-8:] if self.rnd.random() < 0.5 else self.values
        op, x, y = self.rnd.choice(OPS), self.rnd.choice(recent), self.rnd.choice(self.values)
        try:
            node = self.apply(op, x, y)
        except (OpTypeError, AssertionError):
            return  # the operands do not fit
        if node is not None and self.b.type(node).rank <= 3:
            self.values.append(node)

    def apply(self, op, x, y):
        b, t = self.b, self.b.type(x)
        vector, pairs = t.rank == 1, t.rank == 1 and t.shape[0] == PAIRS
        match op:
            case "add" | "sub" | "mul":
                return b.map(op, x, y)
            case "div":
                return b.map("div", x, b.map("add", b.const(2), b.add("sigmoid", self.rnd.choice(self.free))))
            case "matmul":
                return b.matmul(x, y)
            case "transpose":
                return b.transpose(x)
            case "neg" | "conj" | "re":
                return b.add(op, x)
            case "diag":
                return b.add("layout", x, kind="diag")
            case "outer" if vector and b.type(y).rank == 1:
                return b.outer(x, y)
            case "sum" | "mean" if t.rank:
                return b.add(op, x, axes=(self.rnd.choice(range(-t.rank, 0)),))
            case "expand" if vector:
                return b.add("expand", x, axes=(self.rnd.choice([-1, -2]),))
            case "halves" if pairs:
                low = b.add("slice", x, axis=-1, start=Dim.of(0), stop=Dim.of("p"))
                high = b.add("slice", x, axis=-1, start=Dim.of("p"), stop=PAIRS)
                return b.add("concat", high, b.add("neg", low), axis=-1)
            case "fold" if t.rank == 2:
                return b.add("reshape", x, shape=(t.shape[0] * t.shape[1],))
            case "unfold" if pairs:
                return b.add("reshape", x, shape=(Dim.of("p"), Dim.of(2)))
            case "select":
                return b.map("select", b.map("lt", self.free[0], b.const(0)), x, y)
            case "nonlinear" if self.rnd.random() < 0.2:
                return b.add(self.rnd.choice(["tanh", "relu", "abs"]), x)
            case "rotate" if pairs:
                blocks = b.add("rotation_blocks", self.input("p"))
                return b.matmul(b.add("layout", blocks, kind="blockdiag"), x)
            case "mix" if t.per:
                letters = "abc"[: t.rank]
                mixed = b.einsum(
                    f"gh,h{letters}->g{letters}",
                    self.m.input(f"w{len(self.m.inputs)}", "H", "H"),
                    b.add("merge", x, n=1),
                )
                return b.add("split_per", mixed, n=1)
        return None

    def cell(self):
        for name, state in zip(self.names, self.states, strict=True):
            fitting = [v for v in self.values if self.b.type(v) == self.b.type(state) and v != state]
            update = self.rnd.choice(fitting[-3:]) if fitting else state
            if fitting and self.rnd.random() < 0.5:
                update = self.b.map("sub", update, self.b.map("mul", self.input(), self.rnd.choice(fitting)))
            self.m.update(name, update if self.b.type(update) == self.b.type(state) else state)
        return self.m.cell()


def random_like(rng, x):
    value = rng.normal(size=x.shape)
    return value + 1j * rng.normal(size=x.shape) if np.iscomplexobj(x) else value


def is_affine(cell, states, seed) -> tuple[bool, bool]:
    """Whether the updates of these states are affine in them, and whether they are zero at zero, on random numbers."""
    rng = np.random.default_rng(seed)
    nodes, updates = [cell.state(s).node for s in states], [cell.state(s).update for s in states]
    given = {
        n.id: rng.normal(size=tuple(d.evaluate(SIZES) for d in (*n.type.per, *n.type.shape)))
        for n in cell.nodes
        if n.op in ("input", "param", "state")
    }
    given |= {n: given[n] + 0j for n in given if cell.nodes[n].type.dtype == "complex"}

    def run(values):
        found = evaluate(cell, Concrete(cell, SIZES, given | dict(zip(nodes, values, strict=True))), updates)
        return [found[u] for u in updates]

    one, two = ([random_like(rng, given[n]) for n in nodes] for _ in range(2))
    weight = 0.37 + (0.5j if np.iscomplexobj(one[0]) else 0)
    between = run([weight * a + (1 - weight) * b for a, b in zip(one, two, strict=True)])
    wanted = [weight * a + (1 - weight) * b for a, b in zip(run(one), run(two), strict=True)]
    affine = all(np.allclose(a, b, rtol=1e-7, atol=1e-7) for a, b in zip(between, wanted, strict=True))
    return affine, all(np.allclose(x, 0) for x in run([0 * x for x in one]))


@pytest.mark.parametrize("seed", range(200))
def test_a_random_graph(make, reproduces, seed):
    rnd = random.Random(seed)
    graph = Graph(make(), rnd)
    for _ in range(rnd.randint(8, 40)):
        graph.grow()
    cell = graph.cell()
    for group in reproduces(cell, SIZES, seed).groups:
        if group.semiring != "plus_times" or group.kind == "nonlinear":
            continue
        affine, zero_at_zero = is_affine(cell, group.states, seed)
        assert affine
        assert zero_at_zero or group.kind == "affine"


def test_the_random_graphs_reach_every_form(make, reproduces):
    found = set()
    for seed in range(200):
        rnd = random.Random(seed)
        graph = Graph(make(), rnd)
        for _ in range(rnd.randint(8, 40)):
            graph.grow()
        for group in reproduces(graph.cell(), SIZES, seed).groups:
            found |= {type(f).__name__ for f in group.forms} or {group.kind}
    assert found >= {"Elementwise", "MatrixState", "Coupled", "Dense", "BlockLinear", "linear", "nonlinear"}
