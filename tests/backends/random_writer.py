"""Random specs: recurrences that nobody thought of.  `random_specs.py` compares their layers with the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

__all__ = ["random_spec"]

SHAPES = {"s": "", "n": "[n]", "k": "[k]", "v": "[v]", "m": "[k, v]", "q": "[n, n]", "z": "[n]"}  # z: complex
VECTORS = "nkv"
STATES = ["n", "n", "nn", "m", "m", "mn", "mk", "sn", "ms", "nv", "s", "mm", "nsk", "q", "z", "zn", "zz", "ns"]
PLAIN = ["tanh", "sigmoid", "silu", "softplus", "gelu", "relu", "abs", "sin", "cos", "logsigmoid"]
Make = Callable[[], str]


@dataclass(slots=True)
class Writer:
    """The text of one cell in the making.  A kind is a shape: a scalar, vectors, matrices, a complex vector."""

    r: Random
    lines: list[str] = field(default_factory=list)
    count: int = 0
    states: list[tuple[str, str]] = field(default_factory=list)
    new: list[tuple[str, str]] = field(default_factory=list)  # new values that may be read so far
    shared: list[tuple[str, str]] = field(default_factory=list)
    five: bool = False  # n is 5, so that permutations fit
    even: bool = False  # n is 4, so that rotations and blocks do

    # ------------------------------------------------------------ leaves

    def chance(self, p: float) -> bool:
        return self.r.random() < p

    def one(self, *xs: str) -> str:
        return self.r.choice(xs)

    def call(self, makers: list[Make]) -> str:
        return self.r.choice(makers)()

    def fresh(self, base: str) -> str:
        self.count += 1
        return f"{base}{self.count}"

    def let(self, base: str, kind: str, value: str) -> str:
        name = self.fresh(base)
        self.lines.append(f"let {name}: {self.type(kind)} = {value}")
        return name

    def type(self, kind: str) -> str:
        return f"{'complex' if kind == 'z' else 'real'}{SHAPES[kind]}"

    def linear(self, kind: str, of: str = "x") -> str:
        if kind == "z":
            return f"complex({self.linear('n', of)}, {self.linear('n', of)})"
        bias = self.one("", "", ", bias = false")
        return f"sum(linear[1]({of}{bias}))" if kind == "s" else f"linear{SHAPES[kind]}({of}{bias})"

    def param(self, kind: str) -> str:
        if kind == "z":
            return f"complex({self.param('n')}, {self.param('n')})"
        name = self.fresh("p")
        self.lines.append(f"param {name}: real{SHAPES[kind]} init normal(0.4)")
        return name

    def leaf(self, kind: str) -> str:
        makers: list[Make] = [lambda: self.linear(kind), lambda: self.linear(kind), lambda: self.param(kind)]
        known = [s for s, k in (*self.states, *self.states, *self.new, *self.shared) if k == kind]
        makers += [lambda s=s: s for s in known]  # type: ignore[misc]
        if kind == "s":
            makers += [lambda: self.one("0.5", "1", "-0.25")]
        if self.chance(0.06):
            makers += [lambda: f"prev({self.linear(kind)})"] * 2
        if kind in VECTORS and self.chance(0.05):
            makers += [lambda: f"conv({self.linear(kind)}, width = {self.r.randrange(1, 4)})"] * 2
        if known and self.chance(0.04):
            makers += [lambda: f"prev({self.one(*known)})"] * 2
        return self.call(makers)

    # ------------------------------------------------------------ expressions

    def any(self, kind: str, depth: int) -> str:
        """An expression of this kind: of inputs, parameters, old values, and new values of states that come earlier."""
        if depth <= 0 or self.chance(0.3):
            return self.leaf(kind)
        d = depth - 1
        if kind == "z":
            return self._complex(d)
        makers: list[Make] = [
            lambda: f"({self.any(kind, d)} {self.one('+', '-', '*', '+')} {self.any(kind, d)})",
            lambda: f"{self.one(*PLAIN)}({self.any(kind, d)})",
            lambda: f"({self.any('s', d)} * {self.any(kind, d)})",
            lambda: f"{self.one('max', 'min', 'logaddexp')}({self.any(kind, d)}, {self.any(kind, d)})",
            lambda: f"({self.any(kind, d)} if {self.condition(kind, d)} else {self.any(kind, d)})",
            lambda: f"({self.any(kind, d)} / (1 + abs({self.any(self.one('s', kind), d)})))",
            lambda: f"exp(tanh({self.any(kind, d)}))",
            lambda: f"sqrt(abs({self.any(kind, d)}) + 0.3)",
            lambda: f"log(abs({self.any(kind, d)}) + 0.5)",
            lambda: f"clamp({self.any(kind, d)}, -1, 0.8)",
            lambda: f"{self.any(kind, d)}^2",
        ]
        makers += {"s": self._scalar, "m": self._matrix, "q": self._square}.get(kind, lambda d: self._vector(kind, d))(
            d
        )
        return self.call(makers)

    def condition(self, kind: str, d: int) -> str:
        of = self.one("s", kind)
        return f"{self.any(of, d)} {self.one('>', '<=')} {self.one('0', '0.1', self.leaf(of))}"

    def _complex(self, d: int) -> str:
        return self.call(
            [
                lambda: f"({self.any('z', d)} {self.one('+', '-', '*')} {self.any('z', d)})",
                lambda: f"({self.any(self.one('s', 'n'), d)} * {self.any('z', d)})",
                lambda: f"polar(sigmoid({self.any('n', d)}), {self.any('n', d)})",
                lambda: f"conj({self.any('z', d)})",
                lambda: f"({self.any('z', d)} / (1 + abs({self.any('z', d)})))",
                lambda: f"complex({self.any('n', d)}, {self.any('n', d)})",
            ]
        )

    def _scalar(self, d: int) -> list[Make]:
        w = self.one(*VECTORS)
        return [
            lambda: f"dot({self.any(w, d)}, {self.any(w, d)})",
            lambda: f"{self.one('sum', 'mean', 'max', 'min')}({self.any(w, d)})",
            lambda: f"mean({self.any('m', d)})",
            lambda: f"({self.any('n', d)})[{self.one('0', '-1')}]",
            lambda: f"sum(abs({self.any('z', d)}))",
        ]

    def _vector(self, kind: str, d: int) -> list[Make]:
        of = self.one(*VECTORS)
        norm = self.one("l2norm", "softmax", "rmsnorm", "layernorm")
        makers: list[Make] = [lambda: self.linear(kind, self.any(of, d))] * 2 + [lambda: f"{norm}({self.any(kind, d)})"]
        if kind == "v":
            makers += [lambda: f"(({self.any('m', d)}).T @ {self.any('k', d)})"] * 2
            makers += [lambda: f"{self.one('sum', 'mean', 'max')}({self.any('m', d)}, axis = 0)"]
        if kind == "k":
            makers += [lambda: f"({self.any('m', d)} @ {self.any('v', d)})"] * 2
            makers += [lambda: f"{self.one('sum', 'max')}({self.any('m', d)}, axis = 1)"]
        if kind == "n":
            makers += [lambda: f"({self.any('q', d)} @ {self.any('n', d)})"]
            makers += [lambda: f"{self.one('re', 'im', 'abs')}({self.any('z', d)})"]
            if self.five:
                makers += [lambda: f"(permutation([1, 2, 0, 4, 3]) @ {self.any('n', d)})"]
            if self.even:
                makers += [lambda: f"(rotation(reshape({self.any('n', d)}, 2, 2)[0]) @ {self.any('n', d)})"]
        return makers

    def _matrix(self, d: int) -> list[Make]:
        makers: list[Make] = [lambda: f"outer({self.any('k', d)}, {self.any('v', d)})"] * 3
        makers += [lambda: f"(diag({self.any('k', d)}) @ {self.any('m', d)})"]
        return [*makers, lambda: f"({self.any('m', d)} @ diag({self.any('v', d)}))"]

    def _square(self, d: int) -> list[Make]:
        return [lambda: f"outer({self.any('n', d)}, {self.any('n', d)})", lambda: f"({self.any('q', d)}).T"]

    # ------------------------------------------------------------ updates

    def gate(self, kind: str, depth: int) -> str:
        return self.let("g", kind, f"sigmoid({self.any(kind, depth)})")

    def near(self) -> int:
        return self.r.choice([0, 0, 0, 1])

    def bounded(self, kind: str, depth: int) -> str:
        if kind == "z":
            return f"({self.any('z', depth)} / (1 + abs({self.any('z', 0)})))"
        return f"tanh({self.any(kind, depth)})"

    def update(self, h: str, kind: str) -> str:
        depth = self.r.choice([1, 1, 2, 2, 3])
        gated = "n" if kind == "z" else "s" if kind in "mq" and self.chance(0.8) else kind
        f = self.gate(gated, self.r.choice([0, 0, 0, 1, 2]))
        rest = self.one(f"(1 - {f}) * ", "0.3 * ", "")
        makers: list[Make] = [
            lambda: f"{f} * {h} + {rest}{self.bounded(kind, depth)}",
            lambda: f"0.9 * {f} * {h} + {self.linear(kind)}",
            lambda: self.bounded(kind, depth + 1),
            lambda: f"(0.8 * {h} if {self.condition('s', 1)} else {self.bounded(kind, depth)})",
        ]
        if kind in "snkv":
            makers += [lambda: f"{self.one('max', 'min', 'logaddexp')}({h} - {f}, {self.bounded(kind, depth)})"]
        if kind in VECTORS:
            makers += [
                lambda: self._reflected(h, kind, f, depth),
                lambda: f"0.5 * {self.linear(kind, h)} + {self.bounded(kind, depth)}",
                lambda: f"tanh({self.linear(kind)} + {f} * {self.linear(kind, h)})",
            ]
        if kind == "n" and self.five:
            makers += [lambda: f"{f} * (permutation([4, 0, 1, 3, 2]) @ {h}) + {self.bounded(kind, depth)}"]
        if kind == "n" and self.even:
            blocks = self.one("rotation(linear[2](x))", "blockdiag(0.4 * tanh(linear[2, 2, 2](x)))")
            makers += [lambda: f"{f} * ({blocks} @ {h}) + {self.bounded(kind, depth)}"] * 2
        if kind == "z":
            turn = self.one(self.param("n"), self.linear("n"))
            makers += [lambda: f"polar({f}, {turn}) * {h} + {self.linear('z')}"] * 3
        if kind == "m":
            makers = [*makers, *[lambda: self._delta(h)] * 2, *[lambda: self._written(h)] * 3]
        return self.call(makers)

    def _reflected(self, h: str, kind: str, f: str, depth: int) -> str:
        u = self.let("u", kind, f"l2norm({self.any(kind, self.near())})")
        return f"{f} * (householder({u}, {self.gate('s', 0)}) @ {h}) + {self.bounded(kind, depth)}"

    def _decayed(self, h: str) -> str:
        how = self.one("s", "k", "v", "1", "both")
        s = f"{self.gate('s', self.near())} * {h}" if how == "s" else h
        s = f"diag({self.gate('k', self.near())}) @ {s}" if how in ("k", "both") else s
        return f"(({s}) @ diag({self.gate('v', 0)}))" if how in ("v", "both") else f"({s})"

    def _pair(self) -> tuple[str, str]:
        k = self.let("u", "k", f"{self.one('l2norm', 'l2norm', 'tanh')}({self.any('k', self.near())})")
        return k, self.let("v", "v", self.any("v", self.near()))

    def _delta(self, h: str) -> str:
        (k, v), b, s = self._pair(), self.gate("s", 0), self._decayed(h)
        return self.one(
            f"{s} + {b} * outer({k}, {v} - {s}.T @ {k})",
            f"(I - {b} * outer({k}, {k})) @ {s} + {b} * outer({k}, {v})",
            f"{s} - {b} * outer({k}, {h}.T @ {k}) + outer({k}, {v})",
        )

    def _written(self, h: str) -> str:
        k, v = self._pair()
        more = f" + {self.any('s', 0)} * outer({self.any('k', 0)}, {self.any('v', 0)})" if self.chance(0.25) else ""
        return f"{self._decayed(h)} + outer({k}, {v}){more}"

    # ------------------------------------------------------------ the cell

    def cell(self) -> str:
        kinds = self.r.choice(STATES)
        self.five, self.even = self.chance(0.25), self.chance(0.25)
        self.even = self.even and not self.five
        heads = self.chance(0.35)
        self.states = [(("S" if k in "mq" else "h") + str(i), k) for i, k in enumerate(kinds)]
        body = [f"state {h}: {self.type(k)} = {self.one('0', '0', '0', '1', '0.5')}" for h, k in self.states]
        for _ in range(self.r.choice([0, 0, 1, 2])):
            kind = self.one(*"snkv")
            self.shared.append((self.let("w", kind, self.any(kind, self.r.choice([0, 1]))), kind))
        updates = []
        for h, k in self.states:
            updates.append(f"{h} <- {self.update(h, k)}")
            self.new.append((f"{h}'", k))
        outputs = [self.output(f"y{i}") for i in range(self.r.choice([1, 1, 1, 2]))]
        body += [*self.lines, *updates]
        if heads:
            body += [f"let {y}_part: {self.type(k)} = {e}" for y, k, e in outputs]
            body = [
                "per heads {",
                *("  " + line for line in body),
                "}",
                *(f"output {y} = {y}_part" for y, _, _ in outputs),
            ]
        else:
            body += [f"output {y}: {self.type(k)} = {e}" for y, k, e in outputs]
        n = 5 if self.five else 4 if self.even else self.r.choice([1, 2, 3, 4, 7])
        k, v, h = (self.r.choice(c) for c in ([1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3]))
        size = "int" if self.five or self.even else "dim"  # a number, so that it is known to be that of a permutation
        dims = f"d: dim, heads: dim = {h}, n: {size} = {n}, k: dim = {k}, v: dim = {v}"
        text = "\n".join("  " + line for line in ["input x: real[d]", *body])
        return f"cell R({dims}) {{\n{text}\n}}\n"

    def output(self, name: str) -> tuple[str, str, str]:
        """What reads a new value in any case."""
        kind = self.one("n", "v", "k", "s", self.r.choice(self.states)[1])
        value = self.any(kind, self.r.choice([1, 2, 2]))
        h, k = self.r.choice(self.states)
        if f"{h}'" not in value:
            read = {"s": f"{h}'", "m": f"sum({h}'.T @ {self.linear('k')})", "z": f"sum(re({h}'))"}.get(k, f"mean({h}')")
            value = f"{value} + {read}"
        return name, kind, value


def random_spec(seed: int) -> str:
    return Writer(Random(seed)).cell()
