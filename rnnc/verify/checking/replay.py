"""Closures step by step, in exact arithmetic or rounded to a float format."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy

from rnnc.exact import Algebraic, Asymptotic, is_limit, to_float
from rnnc.exact import functions as fn
from rnnc.exact.asymptotic import is_unknown, standard, wide, without_error
from rnnc.exact.operations import Interpreter, each, inside
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Domain
from rnnc.ir.unfold import unfold_time
from rnnc.verify.format import decode, decode_array, encode

np: Any = numpy  # object arrays, which its stubs do not describe
EXACT = (Fraction, Algebraic, Asymptotic)


class Reject(Exception):
    """The certificate does not establish what it claims: the first step that fails."""


def need(holds: Any, what: str) -> None:
    if not holds:
        raise Reject(what)


class Machine(Interpreter):
    """A cell with sizes and parameters from a certificate, one step at a time."""

    def __init__(self, cell: CellIR, given: Any, sizes: Any, params: Any, kind: str) -> None:
        super().__init__(unfold_time(cell)[0], sizes, kind)
        free = {p.name: sizes[p.name] for p in cell.dims if p.default is None}
        wanted = cell.dim_values(free | {p.name: given[p.name] for p in cell.dims if p.name in given})
        need(sizes == wanted and min(sizes.values(), default=1) >= 1, f"{sizes} are not sizes of the cell")
        self.given = {p.node: self.read(p.node, params[p.name], f"`{p.name}`") for p in self.cell.params}
        fixed: set[int] = set()
        for n in self.cell.nodes:
            if n.op not in ("input", "state") and fixed.issuperset(n.args):
                fixed.add(n.id)
        self.given = self.evaluate(fixed)

    def read(self, node: int, value: Any, what: str, domain: Domain | None = None, finite: bool = False) -> Any:
        """An array of the certificate as a value of the node, inside its type and domain."""
        x, t = decode_array(value), self.cell.nodes[node].type
        flat = x.reshape(-1).tolist()
        numbers = t.dtype in ("real", "complex")
        need(x.shape == self.sized((*t.per, *t.shape)) and (x.dtype == object) == numbers, f"{what} is no {t}")
        if not numbers:
            need(t.dtype != "token" or all(0 <= v < self.sized(t.vocab) for v in flat), f"{what} is no letter")
            return x
        need(t.dtype == "complex" or all(v == fn.conj(v) for v in flat), f"{what} is not real")
        need(not finite or all(wide(v).degree <= 0 and not is_limit(v) for v in flat), f"{what} is not finite")
        need(inside(domain, x), f"{what} lies outside of {domain}")
        if self.kind != "exact":
            x = self.rounded(x.astype(complex if t.dtype == "complex" else float))
            need([decode(encode(v)) for v in x.reshape(-1).tolist()] == flat, f"{what} is no number of {self.kind}")
        return x

    def inputs(self, row: Any, what: str) -> dict[str, Any]:
        return {x.name: self.read(x.node, row[x.name], what, x.domain, finite=True) for x in self.cell.inputs}

    def start(self) -> dict[str, Any]:
        return {s.name: self.fitted(self.given[s.init], s.node) for s in self.cell.states}

    def step(self, inputs: Any, state: Any, outputs: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        """The states after a step and the outputs; what vanishes with omega becomes the error of an output."""
        cell, fixed = self.cell, dict(self.given)
        shown = cell.outputs if outputs else ()
        self.given |= {x.node: inputs[x.name] for x in cell.inputs} | {s.node: state[s.name] for s in cell.states}
        found = self.evaluate([*(s.update for s in cell.states), *(o.node for o in shown)])
        self.given = fixed
        seen = {o.name: self.fitted(found[o.node], o.node) for o in shown}
        seen = {name: each(standard, v) if v.dtype == object else v for name, v in seen.items()}
        return {s.name: self.fitted(found[s.update], s.node) for s in cell.states}, seen


def fits(computed: Any, stated: Any) -> bool:
    """Whether an entry is the one that is stated, with no more left out; "unknown" is what no step reads."""
    if is_unknown(stated) or not isinstance(stated, EXACT):
        return is_unknown(stated) or bool(computed == stated)
    x, y = wide(standard(computed)), wide(stated)
    return x.terms == y.terms and (x.error is None or (y.error is not None and x.error <= y.error))


def entries(state: Any) -> list[Any]:
    return [x for part in state for name in sorted(part) for x in np.asarray(part[name]).reshape(-1).tolist()]


def core(state: Any) -> tuple[Any, ...]:
    """What tells two states (or outputs) apart: their numbers, without what is left out."""
    return tuple(without_error(x) if isinstance(x, Asymptotic) else x for x in entries(state))


def separate(cores: Any, g: Any) -> None:
    """States with different g differ: by a margin that floating point is sure of, or as rational numbers."""
    near = np.array([[to_float(x, 1e3) if isinstance(x, EXACT) else x for x in c] for c in cores], dtype=complex)
    plain = [all(isinstance(x, (int, float, Fraction)) for x in c) for c in cores]
    for k, row in enumerate(near):
        close = np.abs(near - row).max(axis=1, initial=0) <= 1e-6 * (1 + np.abs(row).max(initial=0))
        same = [
            j for j in range(k) if g[j] != g[k] and close[j] and not (plain[j] and plain[k] and cores[j] != cores[k])
        ]
        need(not same, f"states {same} and {k} are equal in the limit and belong to different states of the automaton")


def check_closure(cell: CellIR, given: Any, data: Any, dfa: Any) -> bool:
    """Every step from every state, and the map g onto the automaton's states; whether all states are attained."""
    layers = [Machine(cell, given, x["sizes"], x["params"], data["arithmetic"]) for x in data["layers"]]
    letters = {a: layers[0].inputs(data["letters"][a], f"letter `{a}`") for a in dfa.alphabet}
    states = [
        [
            {s.name: m.read(s.node, x[s.name], f"state {k}") for s in m.cell.states}
            for m, x in zip(layers, row, strict=True)
        ]
        for k, row in enumerate(data["states"])
    ]
    tables: list[dict[Any, Any]] = [{} for _ in layers[1:]]
    for table, m, rows in zip(tables, layers[1:], data["tables"], strict=True):
        for row in rows:
            key = row["letter"], core([{name: decode_array(v) for name, v in row["output"].items()}])
            need(key not in table, "the map between layers is no function")
            table[key] = m.inputs(row["inputs"], "a table's input")

    def same(found: Any, stated: Any, where: str) -> None:
        for name, array in found.items():
            fit = all(map(fits, array.reshape(-1).tolist(), stated[name].reshape(-1).tolist()))
            need(fit, f"{where}: `{name}` is {array.tolist()}, not what is stated")

    for n, m in enumerate(layers):
        same(m.start(), states[0][n], f"state 0 is not the initial state of layer {n + 1}")
    for k, state in enumerate(states):
        for j, letter in enumerate(dfa.alphabet):
            to, read, where = data["steps"][k][j], letters[letter], f"state {k}, letter `{letter}`"
            shown: dict[str, Any] = {}
            for n, (m, before) in enumerate(zip(layers, state, strict=True)):
                new, output = m.step(read, before, n + 1 < len(layers))
                same(new, states[to][n], f"{where}, to state {to}, layer {n + 1}")
                shown |= {f"{n}.{name}": v for name, v in output.items()}
                if n + 1 < len(layers):
                    key = letter, core([output if n == 0 else shown])
                    need(key in tables[n], f"{where}: layer {n + 1} gives an output that the map has not")
                    read = tables[n][key]
            before_ = {data["g"][k]} | ({dfa.start} if k == 0 else set())
            wanted = {dfa.delta[q][j] for q in before_}
            need(
                wanted == {data["g"][to]},
                f"{where}: g of state {to} is {data['g'][to]}, the automaton goes to {wanted}",
            )
    separate([core(s) for s in states], data["g"])
    return not any(isinstance(x, Asymptotic) and is_limit(x) for s in states for x in entries(s))
