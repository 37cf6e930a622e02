"""Sums of a whole single step as loop nests, and each value by the loops that fit it.

A sum runs vector lanes along what its larger operand has last in memory: a reduced axis (in partial sums that do not
wait for each other) or an axis of the result (some vectors abreast).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from rnnc.backends.cpu.single import SUMS, axes, outer_product
from rnnc.backends.cpu.single_loops import Loops, tiny
from rnnc.backends.cpu.single_places import Index, Place, Text, grouped, size_text, strides_text, vector
from rnnc.backends.cpu.text import dim_c
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Node, NodeId

ABREAST = 4
START = {"sum": "0", "mean": "0", "amax": "-(T)INFINITY", "amin": "(T)INFINITY"}
COMBINE = {"amax": "v_max({}, {})", "amin": "v_min({}, {})"}
FOLD = {"amax": "most", "amin": "least"}  # the lanes of a vector into one number


@dataclass(frozen=True, slots=True, kw_only=True)
class Axes:
    """The axes of a sum's factors and of its result by labels, and their sizes."""

    factors: list[list[str]]
    out: list[str]
    size: dict[str, Dim]

    @property
    def over(self) -> list[str]:
        return [x for x in self.size if x not in self.out]


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is added up, to where: `value` gives the terms from a place along the lanes on, whose axis has `length`
    entries; `inner` are loops over the other reduced axes.
    """

    op: str
    place: Place
    at: list[Index]
    length: str
    value: Callable[[str], Text]
    inner: str

    @property
    def combine(self) -> str:
        return COMBINE.get(self.op, "{} + {}")

    @property
    def start(self) -> str:
        return f"splat({START.get(self.op, '0')})"

    def here(self, j: str) -> list[Index]:
        """The place of the result at lane j."""
        return [Index(j, lane=True) if x.lane else x for x in self.at]


@dataclass(slots=True, kw_only=True)
class Writer(Loops):
    """All values of a step."""

    def compute(self, i: NodeId, place: Place) -> None:
        """A node into its memory; from then on its readers find it there."""
        node = self.nodes[i]
        if node.op in SUMS or (node.op == "einsum" and not outer_product(node)):
            self.contract(i, place)
        elif node.op == "concat":
            self.concat(node, place)
        elif node.op == "layout":
            self.arrange(i, place)
        elif node.op in ("solve", "expm"):
            self.matrix_function(i, place)
        elif not self.flat(i, place):
            self.fill(i, place, lambda index: self.read(i, index))
        self.places[i] = place

    # ------------------------------------------------------------ sums

    def labelled(self, node: Node) -> Axes:
        n = len(node.type.per)
        per = [f"p{k}" for k in range(n)]
        if node.op == "einsum":
            inputs, output = str(node.attr("spec")).split("->")
            factors = [[*per, *labels] for labels in inputs.split(",")]
            out = [*per, *output]
        else:
            rank = self.nodes[node.args[0]].type.rank
            gone = {rank + int(a) for a in node.attr("axes")}  # type: ignore[union-attr,arg-type]
            factors = [[*per, *(f"r{k}" for k in range(rank))]]
            out = [*per, *(f"r{k}" for k in range(rank) if k not in gone)]
        size: dict[str, Dim] = {}
        for a, labels in zip(node.args, factors, strict=True):
            size |= {x: d for x, d in zip(labels, axes(self.nodes[a]), strict=True) if d != ONE or x not in size}
        return Axes(factors=factors, out=out, size=size)

    def term(self, node: Node, s: Axes, first: str, lane: str | None, row: str | None = None, ahead: int = 0) -> Text:
        """One term, or a vector of terms from `first` on along the axis `lane`, `ahead` rows further along `row`."""

        def index(labels: Sequence[str]) -> list[Index]:
            shifted = {row: f" + {ahead}"} if ahead else {}
            return [Index(first, lane=True) if x == lane else Index(f"i_{x}{shifted.get(x, '')}") for x in labels]

        texts = [self.read(a, index(labels)) for a, labels in zip(node.args, s.factors)]
        if node.op == "mean":
            texts.append((f"((T)1 / (T)({size_text([s.size[x] for x in s.over])}))", "T"))
        text = texts[0]
        for t in texts[1:]:
            text = (f"({text[0]} * {t[0]})", "T" if text[1] == t[1] == "T" else "V")
        return text

    def lane_axis(self, node: Node, s: Axes) -> str | None:
        """The axis along the lanes; None where there is one term."""

        def cost(lane: str) -> tuple[bool, int, bool, bool, int]:
            """No tiny axis, few reads with gaps, no constant size, many reads side by side, an axis of the result."""
            text = self.term(node, s, "j", lane)[0]
            strided = text.count("load_strided")
            constant = s.size[lane].constant is not None
            return tiny(s.size[lane]), strided, constant, lane not in s.out, strided - text.count("load")

        return min((x for x in s.size if s.size[x] != ONE), key=cost, default=None)

    def contract(self, i: NodeId, place: Place) -> None:
        """A value that is a sum."""
        node = self.nodes[i]
        if self.matrix_times_vector(node, place):
            return
        s = self.labelled(node)
        wide = self.lane_axis(node, s)
        rows, inner = [x for x in s.out if x != wide], [x for x in s.over if x != wide]
        summed = wide in s.over and not inner and node.op not in COMBINE
        row = rows.pop() if summed and rows and not tiny(s.size[rows[-1]]) else None
        terms = Terms(
            op=node.op,
            place=place,
            at=[Index("j", lane=True) if x == wide else Index(f"i_{x}") for x in s.out],
            length=dim_c(s.size[wide]) if wide else "1",
            value=partial(self.term, node, s, lane=wide),
            inner=" ".join(f"for (int64_t i_{x} = 0; i_{x} < {dim_c(s.size[x])}; i_{x}++)" for x in inner),
        )
        self.loops([s.size[x] for x in rows], place.batch is not None, [f"i_{x}" for x in rows])
        if wide in s.out:
            self.abreast(terms)
        elif row is not None:
            index, count = f"i_{row}", dim_c(s.size[row])
            values = [self.term(node, s, "j", wide, row, k) for k in range(ABREAST)]
            self.rows_abreast(terms, index, count, values)
            self.add(f"for (; {index} < {count}; {index}++) {{", depth=2)
            self.in_parts(terms)
            self.add("}", depth=2)
        else:
            self.in_parts(terms)
        self.add("}")

    def matrix_times_vector(self, node: Node, place: Place) -> bool:
        """A learned matrix [out, in], or one a head, times a vector, by the function that all share; False where it is
        none.  Where all heads read the same vector, their matrices are one."""
        if node.op != "einsum" or node.type.rank != 1 or place.batch is None:
            return False
        if place.strides != strides_text(axes(node)):
            return False
        inputs, out = str(node.attr("spec")).split("->")
        labels, per = inputs.split(","), node.type.per
        for left, right in ((0, 1), (1, 0)):
            matrix, vector_ = node.args[left], node.args[right]
            alike = self.nodes[vector_].op == "lift" and not self.nodes[self.nodes[vector_].args[0]].type.per
            vector_ = self.nodes[vector_].args[0] if alike else vector_
            m, v = self.address(matrix), self.address(vector_)
            if labels[left] != out + labels[right] or m is None or v is None or m[1] is not None or v[1] is None:
                continue
            *_, rows, length = axes(self.nodes[matrix])
            name = f"rows_times_vector_{''.join('e' if self.narrow(k) else 't' for k in (matrix, vector_))}"
            if alike or not per:
                given = [
                    m[0],
                    *v,
                    place.pointer,
                    place.batch,
                    "batch",
                    size_text([*per, rows]),
                    dim_c(length),
                    "threads",
                ]
                self.add(f"{name}({', '.join(map(str, given))});")
                return True
            heads, n, k = size_text(per), grouped(dim_c(rows)), grouped(dim_c(length))
            at = [f"{m[0]} + p * {n} * {k}", f"{v[0]} + p * {k}", v[1], f"{place.pointer} + p * {n}", place.batch]
            self.add(f"for (int64_t p = 0; p < {heads}; p++)")
            self.add(f"{name}({', '.join([*map(str, at), 'batch', n, k, 'threads'])});", depth=2)
            return True
        return False

    def address(self, i: NodeId) -> tuple[str, str | None] | None:
        """The memory of a value that lies there without gaps and in order, and the stride of its batch."""
        place, node = self.places.get(i), self.nodes[i]
        if place is not None:
            return (place.pointer, place.batch) if place.strides == strides_text(axes(node)) else None
        return self.address(node.args[0]) if node.op in ("reshape", "merge", "split_per", "expand") else None

    def narrow(self, i: NodeId) -> bool:
        """Whether the memory that `address` finds is of half precision."""
        place = self.places.get(i)
        return place.narrow if place is not None else self.narrow(self.nodes[i].args[0])

    def abreast(self, s: Terms) -> None:
        """Lanes along an axis of the result, some vectors at once: what all read alike is read once."""
        self.add("int64_t j = 0;", depth=2)
        for count in (ABREAST, 1):
            wide = "LANES" if count == 1 else f"{count} * LANES"
            if count == 1:
                self.add(f"for (; j < {s.length}; j += LANES) {{", depth=2)
                self.add(f"const int n = {s.length} - j < LANES ? (int)({s.length} - j) : LANES;", depth=3)
            else:
                self.add(f"for (; j + {wide} <= {s.length}; j += {wide}) {{", "  const int n = LANES;", depth=2)
            names = [f"s{k}" for k in range(count)]
            self.add(f"V {', '.join(f'{x} = {s.start}' for x in names)};", depth=3)
            starts = ["j", *(f"j + {k} * LANES" for k in range(1, count))]
            adds = [f"{x} = {s.combine.format(x, vector(s.value(j)))};" for x, j in zip(names, starts)]
            self.add(f"{s.inner} {{", *(f"  {line}" for line in adds), "}", depth=3)
            for x, j in zip(names, starts):
                self.add(s.place.store(s.here(j), (x, "V")), depth=3)
            self.add("}", depth=2)

    def rows_abreast(self, s: Terms, row: str, count: str, values: Sequence[Text]) -> None:
        """Lanes along a reduced axis, for some rows at once, whose terms are `values`: what all read is read once."""
        names = [f"s{k}" for k in range(len(values))]
        self.add(f"int64_t {row} = 0;", depth=2)
        self.add(f"for (; {row} + {len(values)} <= {count}; {row} += {len(values)}) {{", depth=2)
        self.add(f"V {', '.join(f'{x} = splat(0)' for x in names)};", "int64_t j = 0;", depth=3)
        adds = [f"{x} += {vector(v)};" for x, v in zip(names, values, strict=True)]
        rest = [f"{x} += lanes_or({vector(v)}, n, 0);" for x, v in zip(names, values, strict=True)]
        self.add(f"for (; j + LANES <= {s.length}; j += LANES) {{", "  const int n = LANES;", depth=3)
        self.add(*(f"  {line}" for line in adds), "}", depth=3)
        self.add(f"if (j < {s.length}) {{", f"  const int n = (int)({s.length} - j);", depth=3)
        self.add(*(f"  {line}" for line in rest), "}", depth=3)
        for k, x in enumerate(names):
            here = [Index(f"{i.text} + {k}") if k and i.text == row else i for i in s.at]
            self.add(s.place.store(here, (f"total({x})", "T")), depth=3)
        self.add("}", depth=2)

    def in_parts(self, s: Terms) -> None:
        """Lanes along a reduced axis, in partial sums that do not wait for each other."""
        names = [f"s{k}" for k in range(ABREAST)]
        self.add(f"V {', '.join(f'{x} = {s.start}' for x in names)};", depth=2)
        self.add(f"{s.inner} {{", "  int64_t j = 0;", depth=2)
        wide = f"{ABREAST} * LANES"
        starts = ["j", *(f"j + {k} * LANES" for k in range(1, ABREAST))]
        adds = [f"{x} = {s.combine.format(x, vector(s.value(j)))};" for x, j in zip(names, starts)]
        self.add(f"for (; j + {wide} <= {s.length}; j += {wide}) {{", "  const int n = LANES;", depth=3)
        self.add(*adds, depth=4)
        last = f"lanes_or({vector(s.value('j'))}, n, {START.get(s.op, '0')})"
        self.add("}", f"for (; j < {s.length}; j += LANES) {{", depth=3)
        self.add(f"const int n = {s.length} - j < LANES ? (int)({s.length} - j) : LANES;", depth=4)
        self.add(f"s0 = {s.combine.format('s0', last)};", depth=4)
        self.add("}", depth=3)
        self.add("}", depth=2)
        both = [s.combine.format(a, b) if s.op in COMBINE else f"({a} + {b})" for a, b in (names[:2], names[2:])]
        whole = s.combine.format(*both)
        self.add(s.place.store(s.at, (f"{FOLD.get(s.op, 'total')}({whole})", "T")), depth=2)
