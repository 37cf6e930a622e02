"""Many steps of a cell at once, in exact arithmetic: from each of several states by each of several letters.

Numbers are places in a table, so that an operation on entries costs what its different arguments cost.  Entries of
which nothing is known (`unknown()`) may stand in a state: zero times one is zero, and all else that reads one is not
known either.  What is known after a step therefore holds whatever stood there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from rnnc.exact import NotExact
from rnnc.exact.asymptotic import is_unknown, unknown
from rnnc.exact.tables import Table
from rnnc.ir.domains.exact import VIEWS, ExactCell
from rnnc.ir.evaluate import Domain, evaluate
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.ops import OPS
from rnnc.ir.ops.table import Site
from rnnc.verify.effort import Effort, spend
from rnnc.verify.machines import Arrays, settled

np: Any = numpy  # object arrays, which its stubs do not describe
Codes = Any  # int64 [states or 1, letters or 1, *per, *shape]
LARGEST = 1 << 22  # products of a contraction that are formed at once
REAL = frozenset({"real", "complex", "bool"})


class OutOfTime(Exception):
    """The effort is over."""


class Steps(Domain[Codes]):
    """Of one cell with weights; `letters` are its inputs for each letter.  NotExact for tokens."""

    def __init__(self, body: ExactCell, letters: Sequence[Arrays], effort: Effort | None = None) -> None:
        self.body, self.effort, self.table = body, effort, Table()
        self.unknown = self.table.place(unknown())
        self.roots = [s.update for s in body.cell.states]
        if any(body.cell.nodes[n].type.dtype not in REAL for n in self._leaves()):
            raise NotExact("a letter is a token")
        self.fixed: dict[NodeId, Codes] = {k: self._front(v) for k, v in body.known(self.roots).items()}
        for i in body.cell.inputs:
            rows = [self.table.coded(body.fit(i.node, f"input `{i.name}`", row[i.name])) for row in letters]
            self.fixed[i.node] = np.stack(rows)[None]

    def _leaves(self) -> list[NodeId]:
        return [*(i.node for i in self.body.cell.inputs), *(s.node for s in self.body.cell.states)]

    def _front(self, value: Any) -> Codes:
        return self.table.coded(value)[None, None]

    def start(self) -> dict[str, Codes]:
        """The initial state [*per, *shape] of each name."""
        return {name: self._settled(self.table.coded(x)) for name, x in self.body.start().items()}

    def after(self, states: Mapping[str, Codes]) -> tuple[dict[str, Codes], dict[NodeId, Codes]]:
        """The states [S, L, *per, *shape] after a step by each letter from states [S, *per, *shape], and the values of
        all nodes that are worked out on the way.
        """
        given = {s.node: states[s.name][:, None] for s in self.body.cell.states}
        values = evaluate(self.body.cell, self, self.roots, self.fixed | given)
        count, letters = (
            len(next(iter(states.values()))),
            max(len(self.fixed[i.node][0]) for i in self.body.cell.inputs),
        )
        found = {}
        for s in self.body.cell.states:
            shape = (count, letters, *states[s.name].shape[1:])
            found[s.name] = self._settled(np.broadcast_to(values[s.update], shape))
        return found, {n: v for n, v in values.items() if n not in self.fixed}

    def _settled(self, codes: Codes) -> Codes:
        return self.table.each(lambda x: np.array([v if is_unknown(v) else settled(v) for v in x], dtype=object), codes)

    # ------------------------------------------------------------ operations

    def leaf(self, node: Node) -> Codes:
        return self._front(self.body.domain.leaf(node))

    def apply(self, node: Node, args: tuple[Codes, ...]) -> Codes:
        if self.effort is not None and self.effort.over:
            raise OutOfTime
        spend("table")
        spend("code", sum(a.size for a in args))
        site = self.body.domain.site(node)
        if node.op in VIEWS:
            value = OPS[node.op].value
            assert value is not None
            return np.asarray(value(np, site, *_same_front(args)))
        if node.op == "einsum":
            return self._contracted(str(node.attr("spec")), *args)
        if node.op == "sum":
            return self._summed(args[0], tuple(site.attrs["axes"]))
        if OPS[node.op].category == "elementwise":
            return self._entries(node, args)
        return self._rows(node, site, args)

    def _entries(self, node: Node, args: tuple[Codes, ...]) -> Codes:
        rank = max(a.ndim for a in args)
        wide = [a.reshape(*a.shape[:2], *(1,) * (rank - a.ndim), *a.shape[2:]) for a in args]
        return self.table.each(lambda *columns: self._column(node, columns), *wide)

    def _column(self, node: Node, columns: tuple[Any, ...]) -> Any:
        """Values of an operation on entries, for many arguments: known where the arguments that matter are."""
        blank = [np.array([is_unknown(x) for x in c], dtype=bool) for c in columns]
        out = np.empty(len(columns[0]), dtype=object)
        out.fill(unknown())
        open_ = np.logical_or.reduce(blank)
        if node.op == "select":
            for k, (condition, *ways) in enumerate(zip(*columns, strict=True)):
                if not blank[0][k]:
                    out[k] = ways[0 if condition else 1]
            return out
        if node.op == "mul":
            for k in np.flatnonzero(open_):
                if any(c[k] == 0 for c in columns):
                    out[k] = self.table.values[0]
        if not open_.all():
            told = tuple(np.array(c[~open_].tolist(), dtype=c.dtype) for c in columns)
            out[~open_] = self.body.domain.apply(node, told)
        return out

    def _rows(self, node: Node, site: Site, args: tuple[Codes, ...]) -> Codes:
        """Any other operation, row by row: known if all that it reads is."""
        args = tuple(_same_front(args))
        flat = [a.reshape(-1, *a.shape[2:]) for a in args]
        known: dict[bytes, Codes] = {}
        rows = []
        for k in range(len(flat[0])):
            key = b"".join(a[k].tobytes() for a in flat)
            if key not in known:
                known[key] = self._row(node, site, [a[k] for a in flat])
            rows.append(known[key])
        return np.stack(rows).reshape(*args[0].shape[:2], *rows[0].shape)

    def _row(self, node: Node, site: Site, args: list[Codes]) -> Codes:
        if self.effort is not None and self.effort.over:
            raise OutOfTime
        if any((a == self.unknown).any() for a in args):
            return np.full((*site.per, *site.shape), self.unknown)
        value = self.body.domain.apply(node, tuple(self.table.read(a) for a in args))
        return self.table.coded(np.broadcast_to(value, (*site.per, *site.shape)))

    # ------------------------------------------------------------ sums of products

    def _contracted(self, spec: str, a: Codes, b: Codes) -> Codes:
        """einsum over the last axes."""
        inputs, output = spec.split("->")
        left, right = inputs.split(",")
        labels = output + "".join(x for x in dict.fromkeys(left + right) if x not in output)

        def aligned(x: Codes, have: str) -> Codes:
            lead = x.ndim - len(have)
            x = x.transpose(*range(lead), *(lead + have.index(k) for k in labels if k in have))
            sizes = iter(x.shape[lead:])
            return x.reshape(x.shape[:lead] + tuple(next(sizes) if k in have else 1 for k in labels))

        a, b = _same_rank(aligned(a, left), aligned(b, right), len(labels))
        shape = np.broadcast_shapes(a.shape, b.shape)
        axes = tuple(range(len(output) - len(labels), 0))
        if int(np.prod(shape, dtype=float)) <= LARGEST or shape[0] == 1:
            return self._summed(self._products(a, b), axes)
        parts = [(x[k : k + 1] if len(x) > 1 else x for x in (a, b)) for k in range(shape[0])]
        return np.concatenate([self._summed(self._products(*part), axes) for part in parts])

    def _products(self, a: Codes, b: Codes) -> Codes:
        spend("table")
        spend("code", 2 * math.prod(np.broadcast_shapes(a.shape, b.shape)))
        return self.table.each(self._times, a, b)

    def _times(self, a: Any, b: Any) -> Any:
        out = np.empty(len(a), dtype=object)
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            zero = x == 0 or y == 0
            out[k] = self.table.values[0] if zero else unknown() if is_unknown(x) or is_unknown(y) else x * y
        return out

    def _plus(self, a: Any, b: Any) -> Any:
        return np.array([unknown() if is_unknown(x) or is_unknown(y) else x + y for x, y in zip(a, b)], dtype=object)

    def _summed(self, x: Codes, axes: tuple[int, ...]) -> Codes:
        for axis in sorted((a % x.ndim for a in axes), reverse=True):
            x = np.moveaxis(x, axis, -1)
            while x.shape[-1] > 1:
                if self.effort is not None and self.effort.over:
                    raise OutOfTime
                half = x.shape[-1] // 2
                spend("table")
                spend("code", 2 * x.size)
                pairs = self.table.each(self._plus, x[..., :half], x[..., half : 2 * half])
                x = np.concatenate([pairs, x[..., 2 * half :]], axis=-1)
            x = x[..., 0] if x.shape[-1] else np.zeros(x.shape[:-1], dtype=np.int64)
        return x


def _same_front(args: tuple[Codes, ...]) -> list[Codes]:
    """With the same axes of states and letters."""
    front = np.broadcast_shapes(*(a.shape[:2] for a in args))
    return [np.broadcast_to(a, (*front, *a.shape[2:])) for a in args]


def _same_rank(a: Codes, b: Codes, core: int) -> tuple[Codes, Codes]:
    """Any axes between the fronts and the labels (of heads) broadcast."""
    rank = max(a.ndim, b.ndim) - 2 - core
    made = []
    for x in (a, b):
        middle = x.shape[2 : x.ndim - core]
        made.append(x.reshape(*x.shape[:2], *(1,) * (rank - len(middle)), *middle, *x.shape[x.ndim - core :]))
    return made[0], made[1]
