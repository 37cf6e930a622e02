"""A cell with the weights of a certificate as a machine, and its values inside their types and domains."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy

from rnnc.exact import functions as fn
from rnnc.exact import is_limit
from rnnc.exact.asymptotic import standard, unknown, wide
from rnnc.ir.graph import CellIR, Node
from rnnc.ir.types import Domain, UnitNorm
from rnnc.ir.unfold import unfold_time
from rnnc.verify.format import decode, decode_array, encode
from rnnc.verify.trusted.cells import need
from rnnc.verify.trusted.operations import Interpreter, each, inside

np: Any = numpy  # object arrays, which its stubs do not describe
NOISE, STEADY = 2.0**-44, 1e-7  # relative; the second well below the margins of `checking/structure.py`
MOST_SIZE = 2000  # of a dim: a certificate is not to fill the memory
MOST_ENTRIES = 1 << 24  # of a node, and products in a contraction


def bare(x: Any) -> bool:
    """Whether a number is finite and the same for every omega."""
    y = wide(x)
    return y.degree <= 0 and not is_limit(x) and all(bare(a.value) for _, atoms in y.terms for a, _ in atoms)


class Machine(Interpreter):
    """A cell with sizes and parameters from a certificate, one step at a time.

    Of states that are `left_out` nothing is known: zero times such a value is zero, and else it has no value.
    """

    def __init__(self, cell: CellIR, given: Any, sizes: Any, params: Any, kind: str, left_out: Any = ()) -> None:
        super().__init__(unfold_time(cell)[0], sizes, kind)
        free = {p.name: sizes[p.name] for p in cell.dims if p.default is None}
        wanted = cell.dim_values(free | {p.name: given[p.name] for p in cell.dims if p.name in given})
        fit = sizes == wanted and all(1 <= n <= MOST_SIZE for n in sizes.values())
        need(fit, f"{sizes} are not sizes of the cell")
        need(all(self.work(n) <= MOST_ENTRIES for n in self.cell.nodes), f"{sizes} make too large a node")
        self.states = [s for s in self.cell.states if s.name not in left_out]
        self.given = {p.node: self.read(p.node, params[p.name], f"`{p.name}`") for p in self.cell.params}
        self.noise: Any = None
        fixed: set[int] = set()
        for n in self.cell.nodes:
            if n.op not in ("input", "state") and fixed.issuperset(n.args):
                fixed.add(n.id)
        self.weights, self.given = self.given, self.evaluate(fixed)
        for s in self.cell.states:
            if s not in self.states:
                self.given[s.node] = np.empty(self.fitted(np.zeros(()), s.node).shape, dtype=object)
                self.given[s.node].fill(unknown())

    def work(self, node: Node) -> int:
        """Entries of a node, or products of a contraction."""
        sizes = dict[Any, int](enumerate(self.sized(node.type.shape)))
        if node.op == "einsum":
            parts = zip(str(node.attr("spec")).split("->")[0].split(","), node.args, strict=True)
            sizes = {k: n for p, a in parts for k, n in zip(p, self.sized(self.cell.nodes[a].type.shape), strict=True)}
        return prod([*self.sized(node.type.per), *sizes.values()])

    def read(self, node: int, value: Any, what: str, domain: Domain | None = None, finite_: bool = False) -> Any:
        """An array of the certificate as a value of the node, inside its type and domain."""
        x, t = decode_array(value), self.cell.nodes[node].type
        flat = x.reshape(-1).tolist()
        numbers = t.dtype in ("real", "complex")
        need(x.shape == self.sized((*t.per, *t.shape)) and (x.dtype == object) == numbers, f"{what} is no {t}")
        if not numbers:
            need(t.dtype == "token" or x.dtype == bool, f"{what} is no {t}")
            need(t.dtype != "token" or all(0 <= v < self.sized(t.vocab) for v in flat), f"{what} is no letter")
            return x
        real = t.dtype == "complex" or all(v == fn.conj(v) for v in flat)
        need(real and not any(isinstance(v, int) for v in flat), f"{what} is no {t}")
        need(not finite_ or all(map(bare, flat)), f"{what} is not finite")
        unit = self.kind == "float64" and isinstance(domain, UnitNorm)  # made one here, as far as rounding allows
        need(unit or inside(domain, x), f"{what} lies outside of {domain}")
        if self.kind != "exact":
            real, imaginary = (np.asarray(each(f, x), dtype=float) for f in (fn.re, fn.im))
            x = self.rounded(real + 1j * imaginary if t.dtype == "complex" else real)
            need([decode(encode(v)) for v in x.reshape(-1).tolist()] == flat, f"{what} is no number of {self.kind}")
        return x / np.linalg.norm(x, axis=-1, keepdims=True) if unit else x

    def inputs(self, row: Any, what: str) -> dict[str, Any]:
        return {x.name: self.read(x.node, row[x.name], what, x.domain, finite_=True) for x in self.cell.inputs}

    def state(self, row: Any, what: str) -> dict[str, Any]:
        return {s.name: self.read(s.node, row[s.name], what) for s in self.states}

    def start(self) -> dict[str, Any]:
        return {s.name: self.fitted(self.given[s.init], s.node) for s in self.states}

    def value(self, node: Node, args: Any) -> Any:
        found = super().value(node, args)
        if self.noise is None or found.dtype.kind not in "fc":
            return found
        return found * (1 + NOISE * self.noise.standard_normal(found.shape))

    def step(self, inputs: Any, state: Any, outputs: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """The states after a step and the outputs.  In float64 it is done again, with each operation a little off:
        numbers that rounding decides show nothing.
        """
        found = self._step(inputs, state, outputs)
        if self.kind == "float64":
            rng = np.random.default_rng(0)
            for _ in range(2):
                again = self.shaken(inputs, state, rng)
                for name, x in found[0].items():
                    off = np.abs(x * 1.0 - again[name]).max(initial=0)
                    need(off <= STEADY * (1 + np.abs(x * 1.0).max(initial=0)), f"rounding decides about `{name}`")
        return found

    def shaken(self, inputs: Any, state: Any, rng: Any) -> dict[str, Any]:
        """The states after a step in float64 of which each operation is a little off."""
        given, self.given, self.noise = self.given, self.weights, rng
        found = self._step(inputs, state)[0]
        self.given, self.noise = given, None
        return found

    def _step(self, inputs: Any, state: Any, outputs: bool = False) -> tuple[dict[str, Any], dict[str, Any]]:
        """The states after a step and the outputs; what vanishes with omega becomes the error of an output."""
        shown = self.cell.outputs if outputs else ()
        fixed = dict(self.given)
        self.given |= {x.node: inputs[x.name] for x in self.cell.inputs} | {s.node: state[s.name] for s in self.states}
        found = self.evaluate([*(s.update for s in self.states), *(o.node for o in shown)])
        self.given = fixed
        seen = {o.name: self.fitted(found[o.node], o.node) for o in shown}
        seen = {name: each(standard, v) if v.dtype == object else v for name, v in seen.items()}
        return {s.name: self.fitted(found[s.update], s.node) for s in self.states}, seen
