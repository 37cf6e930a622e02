"""Steps of a machine from several states and by several letters at once, with entries of which nothing is known.

Arrays hold places of a table of numbers and have two axes in front, states and letters, either of length one where a
value is the same for all.  A product with exactly zero is zero, a choice is what is chosen; whatever else reads a
number of which nothing is known is such a number itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy

from rnnc.exact.asymptotic import is_unknown, unknown
from rnnc.exact.tables import Table
from rnnc.ir.graph import Node, ancestors
from rnnc.ir.ops import OPS
from rnnc.verify.trusted.boxes import EXACT, contains
from rnnc.verify.trusted.cells import need
from rnnc.verify.trusted.machine import Machine

np: Any = numpy  # object arrays, which its stubs do not describe
LARGE = 1 << 22  # products of a contraction that are formed at once
MOST = 1 << 26  # entries of an array: a certificate is not to fill the memory


class Grid:
    """The letters are the inputs of the machine for each letter, in order."""

    def __init__(self, m: Machine, letters: list[dict[str, Any]]) -> None:
        self.m, self.table = m, Table()
        leaves = [*(x.node for x in m.cell.inputs), *(s.node for s in m.cell.states)]
        need(m.kind == "exact" and all(m.cell.nodes[i].type.dtype != "token" for i in leaves), "no exact numbers")
        self.blank = self.table.place(unknown())
        self.updates = [s.update for s in m.cell.states]
        self.rows = {x.node: np.stack([self.table.coded(row[x.name]) for row in letters])[None] for x in m.cell.inputs}
        self.letters = len(letters)

    def after(self, states: dict[str, Any]) -> tuple[dict[str, Any], dict[int, Any]]:
        """From states [S, ...] those after a step, [S, letters, ...]; and of all that a step works out, by node,
        whether an entry is known from all these states.
        """
        values = self.rows | {s.node: states[s.name][:, None] for s in self.m.cell.states}
        worked: dict[int, Any] = {}
        for i in sorted(ancestors(self.m.cell, self.updates, values.keys() | self.m.given.keys())):
            if i not in values and i in self.m.given:
                values[i] = self.table.coded(self.m.given[i])[None, None]
            if i not in values:
                n = self.m.cell.nodes[i]
                rows, letters = np.broadcast_shapes((1, 1), *(values[a].shape[:2] for a in n.args))
                once = letters * (rows if n.op != "einsum" else 1)  # of a contraction a part of the states at a time
                need(once * self.m.work(n) <= MOST, f"too many states and letters for {n.op}")
                values[i] = self.value(n, [values[a] for a in n.args])
                worked[i] = (values[i] != self.blank).all(axis=(0, 1))
        return {
            s.name: np.broadcast_to(values[s.update], (len(x), self.letters, *x.shape[1:]))
            for s in self.m.cell.states
            for x in (states[s.name],)
        }, worked

    def alone(self, entries: dict[str, list[int]], states: list[dict[str, Any]]) -> tuple[Any, Any, dict[int, Any]]:
        """The numbers [S, K] of entries of the state in the given states, in all of which nothing else is known; what
        they are after a step, [S, letters, K]; and what is known of all that a step works out.
        """
        whole, sizes = self.m.start(), {name: len(at) for name, at in entries.items()}
        need(all(x[name].shape == (n,) for x in states for name, n in sizes.items()), "a state of other entries")
        kinds = {s.name: EXACT if whole[s.name].dtype == object else bool for s in self.m.cell.states}
        fit = all(isinstance(v, kinds[name]) for x in states for name in sizes for v in x[name].tolist())
        need(fit, "a state has truth values for numbers")  # True + True is not 2
        given = {name: np.full((len(states), x.size), self.blank) for name, x in whole.items()}
        for name, at in entries.items():
            given[name][:, at] = self.table.coded(np.stack([x[name] for x in states]))
        after, known = self.after({name: x.reshape(len(states), *whole[name].shape) for name, x in given.items()})
        found = [after[name].reshape(len(states), self.letters, -1)[..., at] for name, at in entries.items()]
        stated = [given[name][:, at] for name, at in entries.items()]
        return np.concatenate(stated, axis=-1), np.concatenate(found, axis=-1), known

    def same(self, found: Any, stated: Any) -> Any:
        """Whether numbers are those that are stated, with no more left out; what is not known is none."""

        def fits(a: Any, b: Any) -> Any:
            pairs = zip(a, b, strict=True)
            return np.array([not is_unknown(x) and contains({}, ("", 0, "re"), x, y) for x, y in pairs], dtype=bool)

        return self.table.read(self.table.each(fits, found, stated))

    def value(self, n: Node, args: list[Any]) -> Any:
        kind = OPS[n.op].category
        if kind == "elementwise":
            rank = max(a.ndim for a in args)
            args = [a.reshape(*a.shape[:2], *(1,) * (rank - a.ndim), *a.shape[2:]) for a in args]
            return self.table.each(lambda *columns: self.entries(n, columns), *args)
        if n.op == "einsum":
            return self.contracted(str(n.attr("spec")), *args)
        front = np.broadcast_shapes(*(a.shape[:2] for a in args))
        args = [np.broadcast_to(a, (*front, *a.shape[2:])) for a in args]
        if kind == "view":
            return np.asarray(OPS[n.op].value(np, self.m.site(n), *args))  # type: ignore[misc]
        rows = [self.row(n, [a[at] for a in args]) for at in np.ndindex(*front)]
        return np.stack(rows).reshape(*front, *rows[0].shape)

    def entries(self, n: Node, columns: tuple[Any, ...]) -> Any:
        """An operation on entries, for the choices of arguments in the columns."""
        out = np.empty(len(columns[0]), dtype=object)
        for k, row in enumerate(zip(*columns, strict=True)):
            open_ = [is_unknown(x) for x in row]
            if n.op == "select" and not open_[0]:
                out[k] = row[1] if row[0] else row[2]
            elif any(open_):
                zero = n.op == "mul" and any(not u and x == 0 for u, x in zip(open_, row, strict=True))
                out[k] = self.table.values[0] if zero else unknown()
            else:
                cells = [np.array([x], dtype=bool if isinstance(x, bool) else object) for x in row]
                (out[k],) = self.m.value(n, cells).tolist()
        return out

    def row(self, n: Node, args: list[Any]) -> Any:
        """Any other operation: known if all that it reads is."""
        shape = self.m.site(n).per + self.m.site(n).shape
        if any((a == self.blank).any() for a in args):
            return np.full(shape, self.blank)
        return self.table.coded(np.broadcast_to(self.m.value(n, [self.table.read(a) for a in args]), shape))

    def contracted(self, spec: str, a: Any, b: Any) -> Any:
        """einsum over the last axes: the products, then their sum, one after the other."""
        (left, right), out = spec.split("->")[0].split(","), spec.split("->")[1]
        labels = out + "".join(sorted({*left, *right} - {*out}))

        def aligned(x: Any, have: str, other: Any, others: str) -> Any:
            """[states, letters, axes of heads, one axis for each label]."""
            heads, more = x.ndim - len(have), other.ndim - len(others)
            x = x.transpose(*range(heads), *(heads + have.index(k) for k in labels if k in have))
            sizes = [x.shape[heads + sorted(have, key=labels.index).index(k)] if k in have else 1 for k in labels]
            return x.reshape(*x.shape[:2], *(1,) * (more - heads), *x.shape[2:heads], *sizes)

        x, y = aligned(a, left, b, right), aligned(b, right, a, left)
        return np.concatenate(list(self.summed(x, y, len(labels) - len(out))))

    def summed(self, x: Any, y: Any, axes: int) -> Iterator[Any]:
        """The sums over the last axes of the products, for a part of the states at a time."""
        shape = np.broadcast_shapes(x.shape, y.shape)
        size = max(1, LARGE // max(1, prod(shape[1:])))
        for k in range(0, shape[0], size):
            part = (z[k : k + size] if len(z) > 1 else z for z in (x, y))
            products = self.table.each(lambda p, q: self.pairs(p, q, True), *part)
            terms = products.reshape(*products.shape[: products.ndim - axes], -1)
            total = terms[..., 0] if terms.shape[-1] else np.zeros(terms.shape[:-1], dtype=np.int64)
            for j in range(1, terms.shape[-1]):
                total = self.table.each(lambda p, q: self.pairs(p, q, False), total, terms[..., j])
            yield total

    def pairs(self, p: Any, q: Any, times: bool) -> Any:
        out = np.empty(len(p), dtype=object)
        for k, (x, y) in enumerate(zip(p, q, strict=True)):
            open_ = is_unknown(x) or is_unknown(y)
            zero = times and (x == 0 or y == 0)
            out[k] = self.table.values[0] if zero else unknown() if open_ else x * y if times else x + y
        return out
