"""The values of a whole single step as C: expressions where they are read, loop nests for those with memory.

The innermost loop runs along vector lanes.  A sum runs them along what its larger operand has last in memory: a reduced
axis (in partial sums that do not wait for each other) or an axis of the result (some vectors abreast).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial

from rnnc.backends.cpu.single import POINTWISE, SUMS, axes, only_units, outer_product
from rnnc.backends.cpu.single_places import (
    ZERO,
    Index,
    Place,
    Scratch,
    Text,
    grouped,
    numbers,
    scalar,
    size_text,
    strides_text,
    vector,
)
from rnnc.backends.cpu.text import INFIX, LOGICAL, dim_c, number_c
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Attr, CellIR, Node, NodeId

ABREAST = 4
TINY = 8
START = {"sum": "0", "mean": "0", "amax": "-(T)INFINITY", "amin": "(T)INFINITY"}


@dataclass(slots=True, kw_only=True)
class Writer:
    cell: CellIR
    lasting: Set[NodeId] = frozenset()  # values that are kept from step to step
    flattened: bool = False  # all axes are one, along the lanes
    lines: list[str] = field(default_factory=list)
    places: dict[NodeId, Place] = field(default_factory=dict)
    scratch: list[Scratch] = field(default_factory=list)

    @property
    def nodes(self) -> tuple[Node, ...]:
        return self.cell.nodes

    def add(self, *lines: str, depth: int = 1) -> None:
        self.lines += ["  " * depth + line for line in lines]

    def place(self, i: NodeId, pointer: str, static: bool, buffer: int) -> Place:
        """Memory of the caller's for a node; of a buffer, whose first core axis lies in front of the per axes."""
        sizes = axes(self.nodes[i])
        order = [buffer, *range(buffer), *range(buffer + 1, len(sizes))] if buffer else None
        batch = None if static else grouped(size_text(sizes))
        return Place(pointer=pointer, strides=strides_text(sizes, order), batch=batch)

    def memory(self, name: str, sizes: Sequence[Dim], static: bool, batch: str = "") -> str:
        """Memory of the function's own; `static`: kept from step to step, `batch`: how many times the sizes."""
        size = f"{grouped(size_text(sizes))} * {batch}" if batch else size_text(sizes)
        self.scratch.append(Scratch(name=name, size=size, static=static))
        return name

    def constants(self) -> list[str]:
        """Arrays of numbers that the spec gives, as C; from now on they are read there."""
        lines = []
        for node in self.nodes:
            value = node.attr("value")
            if node.op == "const" and isinstance(value, tuple):
                given = ", ".join(number_c(x) for x in _flat(value))
                lines.append(f"  static const T c{node.id}[] = {{{given}}};")
                self.places[node.id] = Place(pointer=f"c{node.id}", strides=strides_text(axes(node)), batch=None)
        return lines

    # ------------------------------------------------------------ expressions

    def read(self, i: NodeId, index: Sequence[Index]) -> Text:
        """The value of a node at an index."""
        node = self.nodes[i]
        if i in self.places:
            found = self.places[i].load(self.fit(i, index))
            return found if node.type.dtype != "bool" else (f"({vector(found)} != 0)", "M")
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
            case "re" | "im":
                return self.places[node.args[0]].part(int(node.op == "im")).load(index)
            case "arange":
                start = dim_c(Dim.of(node.attr("start")))  # type: ignore[arg-type]
                return numbers(Index(f"{start} + {index[0].text}", index[0].lane))
            case "eye":
                return self.equal(*map(numbers, index))
            case "one_hot":
                token = f"(T)({self.places[node.args[0]].pointer}[b])"
                return self.equal((token, "T"), numbers(index[-1]))
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

    def equal(self, a: Text, b: Text) -> Text:
        """1 where two numbers are the same, else 0."""
        return f"pick({vector(a)} == {vector(b)}, splat(1), splat(0))", "V"

    def fit(self, i: NodeId, index: Sequence[Index]) -> list[Index]:
        """The index of a broadcast operand: none for a number, 0 along axes of size 1."""
        sizes = axes(self.nodes[i])
        if self.flattened and sizes:
            return list(index)
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
        return replace(place, strides=strides_text(axes(node))).load(index)

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

    def concat(self, node: Node, place: Place) -> None:
        """Each part into its rows."""
        k = len(axes(node)) + int(node.attr("axis"))  # type: ignore[arg-type]
        before: list[Dim] = []
        for a in node.args:
            sizes = axes(self.nodes[a])
            offset = " + ".join(dim_c(d) for d in before) or "0"
            strides = tuple(None if d == ONE else s for d, s in zip(sizes, place.strides, strict=True))
            pointer = f"({place.pointer} + ({offset}) * {place.strides[k] or '1'})"
            part = Place(pointer=pointer, strides=strides, batch=place.batch)
            self.fill(a, part, lambda index, a=a: self.read(a, index))  # type: ignore[misc]
            before.append(sizes[k])

    def fill(self, i: NodeId, place: Place, value: Callable[[Sequence[Index]], Text]) -> None:
        """Every entry of `place`, which has the axes of node i."""
        sizes = axes(self.nodes[i])
        lane = self.lane_of(sizes)
        here = [
            Index("j", lane=True) if k == lane else ZERO if d == ONE else Index(f"i{k}") for k, d in enumerate(sizes)
        ]
        rest = [k for k, d in enumerate(sizes) if d != ONE and k != lane]
        self.loops([sizes[k] for k in rest], place.batch is not None, [f"i{k}" for k in rest])
        body = place.store(here, value(here))
        self.add(body, depth=2) if lane is None else self.lanes(dim_c(sizes[lane]), [body])
        self.add("}")

    def flat(self, i: NodeId, place: Place) -> bool:
        """Every entry of a node whose operands lie in memory as it does, entry beside entry: one loop over all axes."""
        sizes = axes(self.nodes[i])
        if sum(d != ONE for d in sizes) < 2 or not (self.alike(i, sizes) and place.strides == strides_text(sizes)):
            return False
        here = [ZERO] * (len(sizes) - 1) + [Index("j", lane=True)]
        # The last axis may have size 1: what runs along the lanes is all of the memory.
        whole = {k: replace(p, strides=(*(None for _ in sizes[1:]), "1")) for k, p in self.places.items()}
        inner = Writer(cell=self.cell, places=whole, flattened=True)
        self.loops([], place.batch is not None)
        body = replace(place, strides=(*(None for _ in sizes[1:]), "1")).store(here, inner.read(i, here))
        self.lanes(size_text(sizes), [body])
        self.add("}")
        return True

    def alike(self, i: NodeId, sizes: Sequence[Dim]) -> bool:
        """Whether a value is a number, or made entry by entry of values in memory that have these axes."""
        node = self.nodes[i]
        if not axes(node) and node.op in ("const", "dim"):
            return True
        if axes(node) != tuple(sizes) or node.type.dtype == "complex":
            return False
        if i in self.places:
            return self.places[i].strides == strides_text(sizes)
        if node.op in ("merge", "split_per"):
            return self.alike(node.args[0], sizes)
        return node.op in POINTWISE and all(self.alike(a, sizes) for a in node.args)

    def lane_of(self, sizes: Sequence[Dim]) -> int | None:
        """The axis for vector lanes: the last one, unless that is tiny and another is not."""
        real = [k for k, d in enumerate(sizes) if d != ONE]
        wide = [k for k in real if not tiny(sizes[k])]
        if not real or real[-1] in wide or not wide:
            return real[-1] if real else None
        return max(wide, key=lambda k: (sizes[k].constant is None, sizes[k].constant or 0, k))

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

    def entries(self, sizes: Sequence[Dim], place: Place, index: Sequence[Index], value: Text) -> None:
        """One number for each index i0, i1, ... of axes, written to its place of `place`."""
        self.loops(sizes, place.batch is not None)
        self.add(place.store(index, (scalar(value), "T")), depth=2)
        self.add("}")

    def arrange(self, i: NodeId, place: Place) -> None:
        """The matrix of a `layout`: zeros, and the argument's entries at their places."""
        node = self.nodes[i]
        per, have = node.type.per, axes(self.nodes[node.args[0]])
        n, front = dim_c(node.type.shape[-1]), [Index(f"i{k}") for k in range(len(per))]
        at, last = [Index(f"i{k}") for k in range(len(have))], [f"i{k}" for k in range(len(per), len(have))]

        def put(row: str, column: str, sizes: Sequence[Dim], value: Text) -> None:
            self.entries(sizes, place, [*front, Index(row), Index(column)], value)

        self.fill(i, place, lambda index: ("(T)0", "T"))
        match str(node.attr("kind")):
            case "diag":
                put(last[0], last[0], have, self.read(node.args[0], at))
            case "blockdiag":
                block = f"{last[0]} * {grouped(dim_c(have[-1]))}"
                put(f"{block} + {last[1]}", f"{block} + {last[2]}", have, self.read(node.args[0], at))
            case "circulant":
                turned = f"(i{len(have)} + {last[0]}) % {grouped(n)}"
                put(turned, f"i{len(have)}", [*have, node.type.shape[-1]], self.read(node.args[0], at))
            case "companion":
                put(last[0], f"{n} - 1", have, self.read(node.args[0], at))
                below = node.type.shape[-1] - 1
                if below != Dim.of(0):
                    put(f"{last[0]} + 1", last[0], [*per, below], ("(T)1", "T"))

    def matrix_function(self, i: NodeId, place: Place) -> None:
        """exp(M), or X with A X = B, of the matrices in memory."""
        node = self.nodes[i]
        n, per, static = dim_c(node.type.shape[0]), node.type.per, i in self.lasting
        square = [node.type.shape[0]] * 2
        work = self.memory(f"u{i}", square if node.op == "solve" else [Dim.of(3), *square], static)
        index = [*(Index(f"i{k}") for k in range(len(per))), ZERO, ZERO]
        self.loops(per, place.batch is not None)
        read = [f"{self.places[a].at(self.fit(a, index))}" for a in node.args]
        if node.op == "expm":
            self.add(f"matrix_exp({read[0]}, {n}, {place.at(index)}, {work});", depth=2)
        else:
            columns = dim_c(node.type.shape[1])
            given = ", ".join([*read, n, columns, place.at(index), work])
            self.add(f"if (solve({given})) failed = 3;", depth=2)
        self.add("}")

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

        def value(first: str, lane: str | None, row: str | None = None, ahead: int = 0) -> Text:
            def index(labels: Sequence[str]) -> list[Index]:
                shifted = {row: f" + {ahead}"} if ahead else {}
                return [Index(first, lane=True) if x == lane else Index(f"i_{x}{shifted.get(x, '')}") for x in labels]

            texts = [self.read(a, index(labels)) for a, labels in zip(node.args, factors)]
            if node.op == "mean":
                texts.append((f"((T)1 / (T)({size_text([size[x] for x in over])}))", "T"))
            text = texts[0]
            for t in texts[1:]:
                text = (f"({text[0]} * {t[0]})", "T" if text[1] == t[1] == "T" else "V")
            return text

        def cost(lane: str) -> tuple[bool, int, bool, bool, int]:
            """No tiny axis, few reads with gaps, no constant size, many reads side by side, an axis of the result."""
            text = value("j", lane)[0]
            strided = text.count("load_strided")
            return (
                tiny(size[lane]),
                strided,
                size[lane].constant is not None,
                lane not in out,
                strided - text.count("load"),
            )

        wide = min((x for x in size if size[x] != ONE), key=cost, default=None)
        lined = partial(value, lane=wide)
        combine = {"amax": "v_max({}, {})", "amin": "v_min({}, {})"}.get(node.op, "{} + {}")
        start = START.get(node.op, "0")
        rows = [x for x in out if x != wide]
        inner = [x for x in over if x != wide]
        many = wide in over and not inner and combine == "{} + {}" and bool(rows) and not tiny(size[rows[-1]])
        row = rows.pop() if many else None
        self.loops([size[x] for x in rows], place.batch is not None, [f"i_{x}" for x in rows])
        at = [Index("j", lane=True) if x == wide else Index(f"i_{x}") for x in out]
        if wide is not None and wide in out:
            self.abreast(place, at, dim_c(size[wide]), lined, combine, start, size, inner)
        elif wide is not None and row is not None:
            length, index = dim_c(size[wide]), f"i_{row}"
            sums = [lined("j", row=row, ahead=k) for k in range(ABREAST)]
            self.rows_abreast(place, at, length, index, dim_c(size[row]), sums)
            self.add(f"for (; {index} < {dim_c(size[row])}; {index}++) {{", depth=2)
            self.in_parts(place, at, length, lined, combine, start, size, inner)
            self.add("}", depth=2)
        else:
            self.in_parts(place, at, dim_c(size[wide]) if wide else "1", lined, combine, start, size, inner)
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

    def rows_abreast(
        self, place: Place, at: Sequence[Index], length: str, row: str, count: str, values: Sequence[Text]
    ) -> None:
        """Lanes along a reduced axis, for some rows at once, whose terms are `values`: what all read is read once."""
        names = [f"s{k}" for k in range(len(values))]
        self.add(f"int64_t {row} = 0;", depth=2)
        self.add(f"for (; {row} + {len(values)} <= {count}; {row} += {len(values)}) {{", depth=2)
        self.add(f"V {', '.join(f'{s} = splat(0)' for s in names)};", "int64_t j = 0;", depth=3)
        adds = [f"{s} += {vector(v)};" for s, v in zip(names, values, strict=True)]
        rest = [f"{s} += lanes_or({vector(v)}, n, 0);" for s, v in zip(names, values, strict=True)]
        self.add(f"for (; j + LANES <= {length}; j += LANES) {{", "  const int n = LANES;", depth=3)
        self.add(*(f"  {line}" for line in adds), "}", depth=3)
        self.add(f"if (j < {length}) {{", f"  const int n = (int)({length} - j);", depth=3)
        self.add(*(f"  {line}" for line in rest), "}", depth=3)
        for k, s in enumerate(names):
            here = [Index(f"{x.text} + {k}") if k and x.text == row else x for x in at]
            self.add(place.store(here, (f"total({s})", "T")), depth=3)
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


def tiny(size: Dim) -> bool:
    """Whether an axis leaves most lanes of a vector unused."""
    return size.constant is not None and size.constant < TINY


def _flat(value: Attr | None) -> list[Fraction | str]:
    if isinstance(value, tuple):
        return [x for part in value for x in _flat(part)]
    assert isinstance(value, Fraction | int | str)
    return [value if isinstance(value, str) else Fraction(value)]
