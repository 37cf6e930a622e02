"""The values of a whole single step as C: expressions where they are read, loop nests for those with memory.

The innermost loop runs along vector lanes.  A sum runs them along what its larger operand has last in memory: a reduced
axis (in partial sums that do not wait for each other) or an axis of the result (some vectors abreast).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial

from rnnc.backends.cpu.single import Single, axes, only_units
from rnnc.backends.cpu.single_places import ZERO, Index, Place, Text, grouped, size_text, strides_text, vector
from rnnc.backends.cpu.text import INFIX, LOGICAL, dim_c, number_c
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Node, NodeId

ABREAST = 4
START = {"sum": "0", "mean": "0", "amax": "-(T)INFINITY", "amin": "(T)INFINITY"}


@dataclass(slots=True, kw_only=True)
class Writer:
    single: Single
    lines: list[str] = field(default_factory=list)
    places: dict[NodeId, Place] = field(default_factory=dict)
    scratch: list[str] = field(default_factory=list)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.single.cell.nodes

    def add(self, *lines: str, depth: int = 1) -> None:
        self.lines += ["  " * depth + line for line in lines]

    def place(self, i: NodeId, pointer: str, static: bool, buffer: int) -> Place:
        """Memory of the caller's for a node; of a buffer, whose first core axis lies in front of the per axes."""
        sizes = axes(self.nodes[i])
        order = [buffer, *range(buffer), *range(buffer + 1, len(sizes))] if buffer else None
        batch = None if static else grouped(size_text(sizes))
        return Place(pointer=pointer, strides=strides_text(sizes, order), batch=batch)

    # ------------------------------------------------------------ expressions

    def read(self, i: NodeId, index: Sequence[Index]) -> Text:
        """The value of a node at an index."""
        if i in self.places:
            return self.places[i].load(self.fit(i, index))
        node = self.nodes[i]
        sizes = axes(node)
        index = self.fit(i, index)
        match node.op:
            case "const":
                value = node.attr("value")
                if isinstance(value, bool):
                    return f"splat_mask({int(value)})", "M"
                assert isinstance(value, Fraction | int | str)
                return number_c(Fraction(value) if isinstance(value, int) else value), "T"
            case "dim":
                return f"(T)({dim_c(Dim.of(node.attr('value')))})", "T"  # type: ignore[arg-type]
            case "merge" | "split_per":
                return self.read(node.args[0], index)
            case "lift":
                return self.read(node.args[0], index[len(sizes) - len(axes(self.nodes[node.args[0]])) :])
            case "broadcast":
                return self.read(node.args[0], self.broadcast(node, index))
            case "expand":
                new = {len(sizes) + int(a) for a in node.attr("axes")}  # type: ignore[union-attr,arg-type]
                return self.read(node.args[0], [x for k, x in enumerate(index) if k not in new])
            case "transpose":
                n = len(node.type.per)
                back = [ZERO] * node.type.rank
                for to, of in enumerate(node.attr("perm")):  # type: ignore[arg-type]
                    back[int(of)] = index[n + to]  # type: ignore[arg-type]
                return self.read(node.args[0], [*index[:n], *back])
            case "slice":
                k = len(sizes) + int(node.attr("axis"))  # type: ignore[arg-type]
                start = dim_c(Dim.of(node.attr("start")))  # type: ignore[arg-type]
                moved = index[k] if start == "0" else Index(f"{index[k].text} + {start}", index[k].lane)
                return self.read(node.args[0], [*index[:k], moved, *index[k + 1 :]])
            case "reshape":
                return self.reshaped(node, index)
            case "einsum":
                return self.outer(node, index)
            case "take":
                return self.read(node.args[0], [Index(f"{self.places[node.args[1]].pointer}[b]"), *index])
        return self.pointwise(node, [self.read(a, index) for a in node.args])

    def fit(self, i: NodeId, index: Sequence[Index]) -> list[Index]:
        """The index of a broadcast operand: none for a number, 0 along axes of size 1."""
        sizes = axes(self.nodes[i])
        if len(sizes) != len(index):
            assert not sizes, "elementwise operands have one rank, or none"
            return []
        return [ZERO if d == ONE else x for d, x in zip(sizes, index)]

    def broadcast(self, node: Node, index: Sequence[Index]) -> list[Index]:
        have = self.nodes[node.args[0]].type
        n = len(node.type.per)
        return [*index[: len(have.per)], *index[n + node.type.rank - have.rank :]]

    def reshaped(self, node: Node, index: Sequence[Index]) -> Text:
        """An entry of the argument's memory, which has no gaps; or where axes of size 1 came or went, of itself."""
        if only_units(self.nodes[node.args[0]], node):
            left = iter([x for x, d in zip(index, axes(node), strict=True) if d != ONE])
            return self.read(node.args[0], [ZERO if d == ONE else next(left) for d in axes(self.nodes[node.args[0]])])
        place = self.places[node.args[0]]
        strides = strides_text(axes(node))
        return Place(pointer=place.pointer, strides=strides, batch=place.batch).load(index)

    def outer(self, node: Node, index: Sequence[Index]) -> Text:
        inputs, output = str(node.attr("spec")).split("->")
        n = len(node.type.per)
        at = dict(zip(output, index[n:], strict=True))
        factors = [
            self.read(a, [*index[:n], *(at[x] for x in labels)]) for a, labels in zip(node.args, inputs.split(","))
        ]
        return self.pointwise(node, factors, "mul")

    def pointwise(self, node: Node, args: list[Text], op: str = "") -> Text:
        op = op or node.op
        kinds = {k for _, k in args}
        if op in INFIX:
            compares = node.type.dtype == "bool"
            if compares and kinds == {"T"}:
                args[0] = (vector(args[0]), "V")
            return f"({args[0][0]} {INFIX[op]} {args[1][0]})", "M" if compares else "T" if kinds == {"T"} else "V"
        match op:
            case "neg":
                return f"(-{args[0][0]})", args[0][1]
            case "not":
                return f"(~{args[0][0]})", "M"
            case "and" | "or":
                return f"({args[0][0]} {LOGICAL[op]} {args[1][0]})", "M"
            case "real":
                return f"pick({args[0][0]}, splat(1), splat(0))", "V"
            case "select":
                return f"pick({args[0][0]}, {vector(args[1])}, {vector(args[2])})", "V"
        return f"v_{op}({', '.join(vector(a) for a in args)})", "V"

    # ------------------------------------------------------------ loops

    def fill(self, i: NodeId, place: Place, value: Callable[[Sequence[Index]], Text]) -> None:
        """Every entry of `place`, which has the axes of node i."""
        sizes = axes(self.nodes[i])
        self.loops(sizes[:-1], place.batch is not None)
        if not sizes:
            self.add(place.store([], value([])), "}")
            return
        front = [Index(f"i{k}") for k in range(len(sizes) - 1)]
        here = [*front, Index("j", lane=True)]
        wide = sizes[-1] != ONE
        body = place.store(here, value(here)) if wide else place.store([*front, ZERO], value([*front, ZERO]))
        self.lanes(dim_c(sizes[-1]), [body]) if wide else self.add(body)
        self.add("}")

    def loops(self, sizes: Sequence[Dim], varying: bool, names: Sequence[str] = ()) -> None:
        """Loops over the batch (of a value that varies) and over axes; all in one brace."""
        heads = ["for (int64_t b = 0; b < batch; b++)"] if varying else []
        for k, d in enumerate(sizes):
            name = names[k] if names else f"i{k}"
            heads.append(f"for (int64_t {name} = 0; {name} < {dim_c(d)}; {name}++)")
        self.add(" ".join([*heads, "{"]))

    def lanes(self, size: str, body: Sequence[str]) -> None:
        """`body` for whole vectors, then for the rest."""
        self.add("int64_t j = 0;", f"for (; j + LANES <= {size}; j += LANES) {{", depth=2)
        self.add("const int n = LANES;", *body, depth=3)
        self.add("}", f"if (j < {size}) {{", depth=2)
        self.add(f"const int n = (int)({size} - j);", *body, depth=3)
        self.add("}", depth=2)

    # ------------------------------------------------------------ sums

    def contract(self, i: NodeId, place: Place) -> None:
        """A value that is a sum."""
        node = self.nodes[i]
        if self.matrix_times_vector(node, place):
            return
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
        over = [x for x in size if x not in out]

        def value(first: str, lane: str | None) -> Text:
            def index(labels: Sequence[str]) -> list[Index]:
                return [Index(first, lane=True) if x == lane else Index(f"i_{x}") for x in labels]

            texts = [self.read(a, index(labels)) for a, labels in zip(node.args, factors)]
            if node.op == "mean":
                texts.append((f"((T)1 / (T)({size_text([size[x] for x in over])}))", "T"))
            text = texts[0]
            for t in texts[1:]:
                text = (f"({text[0]} * {t[0]})", "T" if text[1] == t[1] == "T" else "V")
            return text

        def cost(lane: str) -> tuple[int, bool, bool, int]:
            """Few reads with gaps, no tiny axis, many reads side by side, rather an axis of the result."""
            text = value("j", lane)[0]
            return text.count("load_strided("), size[lane].constant is not None, lane not in out, -text.count("load(")

        wide = min((x for x in size if size[x] != ONE), key=cost, default=None)
        lined = partial(value, lane=wide)
        combine = {"amax": "v_max({}, {})", "amin": "v_min({}, {})"}.get(node.op, "{} + {}")
        start = START.get(node.op, "0")
        rows = [x for x in out if x != wide]
        self.loops([size[x] for x in rows], place.batch is not None, [f"i_{x}" for x in rows])
        inner = [x for x in over if x != wide]
        at = [Index("j", lane=True) if x == wide else Index(f"i_{x}") for x in out]
        if wide is not None and wide in out:
            self.abreast(place, at, dim_c(size[wide]), lined, combine, start, size, inner)
        else:
            self.in_parts(place, at, dim_c(size[wide]) if wide else "1", lined, combine, start, size, inner)
        self.add("}")

    def matrix_times_vector(self, node: Node, place: Place) -> bool:
        """A learned matrix [out, in] times a vector, by the function that all share; False where it is none."""
        if node.op != "einsum" or node.type.per or node.type.rank != 1 or place.batch is None:
            return False
        inputs, out = str(node.attr("spec")).split("->")
        for left, right in ((0, 1), (1, 0)):
            labels = inputs.split(",")
            m, v = self.address(node.args[left]), self.address(node.args[right])
            if labels[left] == out + labels[right] and m is not None and v is not None and m[1] is None and v[1]:
                rows, length = (dim_c(d) for d in axes(self.nodes[node.args[left]]))
                given = [m[0], *v, place.pointer, place.batch, "batch", rows, length, "threads"]
                self.add(f"rows_times_vector({', '.join(map(str, given))});")
                return True
        return False

    def address(self, i: NodeId) -> tuple[str, str | None] | None:
        """The memory of a value that lies there without gaps and in order, and the stride of its batch."""
        place, node = self.places.get(i), self.nodes[i]
        if place is not None:
            return (place.pointer, place.batch) if place.strides == strides_text(axes(node)) else None
        return self.address(node.args[0]) if node.op in ("reshape", "merge", "split_per", "expand") else None

    def head(self, size: dict[str, Dim], labels: Sequence[str]) -> str:
        return " ".join(f"for (int64_t i_{x} = 0; i_{x} < {dim_c(size[x])}; i_{x}++)" for x in labels)

    def abreast(
        self,
        place: Place,
        at: Sequence[Index],
        length: str,
        value: Callable[[str], Text],
        combine: str,
        start: str,
        size: dict[str, Dim],
        inner: Sequence[str],
    ) -> None:
        """Lanes along an axis of the result, some vectors at once: what all read alike is read once."""
        self.add("int64_t j = 0;", depth=2)
        for count in (ABREAST, 1):
            wide = "LANES" if count == 1 else f"{count} * LANES"
            if count == 1:
                self.add(f"for (; j < {length}; j += LANES) {{", depth=2)
                self.add(f"const int n = {length} - j < LANES ? (int)({length} - j) : LANES;", depth=3)
            else:
                self.add(f"for (; j + {wide} <= {length}; j += {wide}) {{", "  const int n = LANES;", depth=2)
            names = [f"s{k}" for k in range(count)]
            self.add(f"V {', '.join(f'{s} = splat({start})' for s in names)};", depth=3)
            starts = ["j", *(f"j + {k} * LANES" for k in range(1, count))]
            adds = [f"{s} = {combine.format(s, vector(value(j)))};" for s, j in zip(names, starts)]
            self.add(f"{self.head(size, inner)} {{", *(f"  {line}" for line in adds), "}", depth=3)
            for s, j in zip(names, starts):
                here = [Index(j, lane=True) if x.lane else x for x in at]
                self.add(place.store(here, (s, "V")), depth=3)
            self.add("}", depth=2)

    def in_parts(
        self,
        place: Place,
        at: Sequence[Index],
        length: str,
        value: Callable[[str], Text],
        combine: str,
        start: str,
        size: dict[str, Dim],
        inner: Sequence[str],
    ) -> None:
        """Lanes along a reduced axis, in partial sums that do not wait for each other."""
        names = [f"s{k}" for k in range(ABREAST)]
        self.add(f"V {', '.join(f'{s} = splat({start})' for s in names)};", depth=2)
        self.add(f"{self.head(size, inner)} {{", "  int64_t j = 0;", depth=2)
        wide = f"{ABREAST} * LANES"
        starts = ["j", *(f"j + {k} * LANES" for k in range(1, ABREAST))]
        adds = [f"{s} = {combine.format(s, vector(value(j)))};" for s, j in zip(names, starts)]
        self.add(f"for (; j + {wide} <= {length}; j += {wide}) {{", "  const int n = LANES;", depth=3)
        self.add(*adds, depth=4)
        one = vector(value("j"))
        rest = f"s0 = {combine.format('s0', f'lanes_or({one}, n, {start})')};"
        self.add("}", f"for (; j < {length}; j += LANES) {{", depth=3)
        self.add(f"const int n = {length} - j < LANES ? (int)({length} - j) : LANES;", rest, depth=4)
        self.add("}", depth=3)
        self.add("}", depth=2)
        total = combine.format("s0", "s1") if "{}, {}" in combine else "(s0 + s1)"
        other = combine.format("s2", "s3") if "{}, {}" in combine else "(s2 + s3)"
        whole = combine.format(total, other)
        fold = {"v_max({}, {})": "most", "v_min({}, {})": "least"}.get(combine, "total")
        self.add(place.store(at, (f"{fold}({whole})", "T")), depth=2)
