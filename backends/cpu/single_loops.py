"""Loop nests that write values of a whole single step to memory: the innermost loop runs along vector lanes."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace
from fractions import Fraction

from rnnc.backends.cpu.single import POINTWISE, axes
from rnnc.backends.cpu.single_places import ZERO, Index, Place, Scratch, Text, grouped, scalar, size_text, strides_text
from rnnc.backends.cpu.single_values import Values
from rnnc.backends.cpu.text import dim_c, number_c
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import Attr, Node, NodeId

TINY = 8


@dataclass(slots=True, kw_only=True)
class Loops(Values):
    """Values into memory, and the memory that this takes."""

    lasting: Set[NodeId] = frozenset()  # values that are kept from step to step
    lines: list[str] = field(default_factory=list)
    scratch: list[Scratch] = field(default_factory=list)

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

    # ------------------------------------------------------------ loops

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
        inner = Values(cell=self.cell, places=whole, flattened=True)
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


def tiny(size: Dim) -> bool:
    """Whether an axis leaves most lanes of a vector unused."""
    return size.constant is not None and size.constant < TINY


def _flat(value: Attr | None) -> list[Fraction | str]:
    if isinstance(value, tuple):
        return [x for part in value for x in _flat(part)]
    assert isinstance(value, Fraction | int | str)
    return [value if isinstance(value, str) else Fraction(value)]
