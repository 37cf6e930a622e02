"""The C of a whole single step: a loop nest for each value that has memory of its own, in the order of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rnnc.backends.cpu.single import LEAVES, NUMBERS, Single, axes, kept, lasting
from rnnc.backends.cpu.single_helpers import HELPERS
from rnnc.backends.cpu.single_places import Index, Place, Scratch, Text, grouped, size_text
from rnnc.backends.cpu.single_sums import Writer
from rnnc.backends.cpu.text import dim_c
from rnnc.ir.graph import NodeId, ancestors


def single_text(single: Single) -> str:
    """The functions NAME_step, NAME_held and NAME_shapes of a step, behind `vector_math.h` and `HELPERS`."""
    w = Writer(cell=single.cell)
    nodes, cell = single.cell.nodes, single.cell
    for k, g in enumerate(single.given):
        real = nodes[g.node].type.dtype == "real"
        w.places[g.node] = replace(w.place(g.node, f"a{k}", g.static, g.buffer), narrow=real and single.halves)
    constants = w.constants()
    results = single.results
    memory = kept(cell, [i for i, _ in results], [g.node for g in single.given], single.static)
    w.lasting = lasting(single, memory)
    first: dict[NodeId, int] = {}
    for k, (i, buffer) in enumerate(results):
        given = nodes[i].op in LEAVES | NUMBERS or nodes[i].type.dtype == "complex"
        if i not in first and not buffer and i not in single.static and not given:
            first[i] = k
    once: list[str] = []
    for node in nodes:
        i = node.id
        if i not in memory and i not in first:
            continue
        static, lasts = i in single.static, i in w.lasting
        if i in first:
            place = w.place(i, f"r{first[i]}", False, 0)
        else:
            own = w.memory(f"w{i}", axes(node), lasts, "" if static else "batch")
            place = w.place(i, own, static, 0)
        title = node.name or next((o.name for o in cell.outputs if o.node == i), "")
        step, w.lines = w.lines, once if lasts else w.lines
        w.lines += [f"  /* {title} */"] if title else []
        w.compute(i, place)
        w.lines = step
        w.places[i] = place
    for k, (i, buffer) in enumerate(results):
        if first.get(i) != k:
            _hand_back(w, i, w.place(i, f"r{k}", False, buffer))
    text = _Text(single=single, scratch=w.scratch, step=w.lines, once=once, constants=constants)
    return "\n".join([*_shapes(single), "", *text.once_text(), "", *text.part_text(), "", *text.step_text()]) + "\n"


def _hand_back(w: Writer, i: NodeId, place: Place) -> None:
    """A result that is in memory of its own, or nowhere; of complex numbers the two parts."""
    node = w.nodes[i]
    if node.type.dtype != "complex":
        w.fill(i, place, lambda index: w.read(i, index))
        return
    for k in (0, 1):

        def part(index: Sequence[Index], k: int = k) -> Text:
            if node.op == "complex":
                return w.read(node.args[k], w.fit(node.args[k], index))
            return w.places[i].part(k).load(w.fit(i, index))

        w.fill(i, place.part(k), part)


def steps_text(singles: Sequence[Single]) -> str:
    """The functions of some steps, with what they share."""
    return "\n".join([HELPERS, *(single_text(s) for s in singles)])


def _shapes(single: Single) -> list[str]:
    """NAME_shapes writes the sizes of all arrays, given ones and results, one after the other, without the batch."""
    lines = [f"void {single.name}_shapes(const int64_t *dims, int64_t *out) {{", *_dims(single)]
    at = 0
    wanted = [(g.node, g.buffer) for g in single.given] + single.results
    for i, buffer in wanted:
        sizes = list(axes(single.cell.nodes[i]))
        if buffer:
            sizes.insert(0, sizes.pop(buffer))
        for d in sizes:
            lines.append(f"  out[{at}] = {dim_c(d)};")
            at += 1
    return [*lines, "}"]


def _dims(single: Single) -> list[str]:
    found = [f"  const int64_t d_{d.name} = dims[{k}];" for k, d in enumerate(single.cell.dims)]
    return [*found, *(f"  (void)d_{d.name};" for d in single.cell.dims)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """The functions of a step: what parameters alone say (NAME_once), some sequences (NAME_part), and all of them.

    Where all arrays are of half precision (E), results are worked out in memory of the function's own and rounded at
    the end: what is read again is not rounded.
    """

    single: Single
    scratch: Sequence[Scratch]
    step: Sequence[str]
    once: Sequence[str]
    constants: Sequence[str]

    @property
    def sizes(self) -> list[str]:
        """Numbers of each array, given ones and results, for one sequence; a complex one counts twice."""
        nodes = [*(g.node for g in self.single.given), *(i for i, _ in self.single.results)]
        found = [size_text(axes(self.single.cell.nodes[i])) for i in nodes]
        return [f"2 * {n}" if k in self.single.complex_places else n for k, n in enumerate(found)]

    def kind(self, k: int) -> str:
        """The C type of a given array."""
        if k in self.single.tokens:
            return "int64_t"
        return "E" if self.single.halves else "T"

    def given(self, static_only: bool) -> list[str]:
        """Pointers to what is given, from sequence `first` on."""
        s, lines = self.single, []
        names = [*s.inputs, *s.states, *s.params]
        for k, (g, name, size) in enumerate(zip(s.given, names, self.sizes)):
            if g.static or not static_only:
                offset = "" if g.static else f" + first * {grouped(size)}"
                lines.append(
                    f"  const {self.kind(k)} *a{k} = (const {self.kind(k)} *)arrays[{k}]{offset}; /* {name} */"
                )
                lines.append(f"  (void)a{k};")
        return lines

    def lasting(self) -> list[str]:
        """Pointers to what is kept from step to step, and to what stands behind it."""
        static = [x for x in self.scratch if x.static]
        lines = ["  T *rest_held = held + 16;"] if static else []
        for x in static:
            lines += [f"  T *{x.name} = rest_held;", f"  rest_held += {x.size};", f"  (void){x.name};"]
        return lines

    @property
    def read_once(self) -> list[int]:
        """Places of the parameters that what is kept is made of."""
        s = self.single
        made = {int(x.name[1:]) for x in self.scratch if x.static and x.name[0] == "w"}
        needed = ancestors(s.cell, sorted(made))
        return [k for k, g in enumerate(s.given) if g.static and g.node in needed]

    def once_text(self) -> list[str]:
        """NAME_once works out what parameters alone say, unless they are, bit by bit, what they were then: numbers may
        be written into them in ways that no counter sees.  NAME_held: bytes of memory for that.
        """
        name, saved = self.single.name, self.read_once
        bytes_of = {k: f"(size_t)({self.sizes[k]}) * sizeof({self.kind(k)})" for k in saved}
        static = [x.size for x in self.scratch if x.static]
        total = " + ".join(
            [f"(int64_t)sizeof(T) * ({' + '.join(['16', *static])})", *(f"(int64_t)({b})" for b in bytes_of.values())]
        )
        lines = [
            f"int64_t {name}_held(const int64_t *dims) {{",
            *_dims(self.single),
            f"  return {total if static else '0'};",
            "}",
            f"static int {name}_once(void *const *arrays, const int64_t *dims, T *held) {{",
        ]
        if not static:
            return [*lines, "  (void)arrays, (void)dims, (void)held;", "  return 0;", "}"]
        lines += [
            *_dims(self.single),
            *self.given(static_only=True),
            *self.lasting(),
            "  int failed = 0;",
            *self.constants,
        ]
        lines += ["  char *saved = (char *)rest_held;", "  int same = held[0] == 1;"]
        for k, size in bytes_of.items():
            lines += [f"  same = same && !memcmp(saved, a{k}, {size});", f"  saved += {size};"]
        lines += [
            "  (void)saved;",
            "  if (same) return 0;",
            "  held[0] = 0;",
            *self.once,
            "  saved = (char *)rest_held;",
        ]
        for k, size in bytes_of.items():
            lines += [f"  memcpy(saved, a{k}, {size});", f"  saved += {size};"]
        return [*lines, "  if (!failed) held[0] = 1;", "  return failed;", "}"]

    def part_text(self) -> list[str]:
        """NAME_part: the step of `batch` sequences from `first` on."""
        s, n = self.single, len(self.single.given)
        sizes = self.sizes[n:]
        lines = [
            f"static int {s.name}_part(void *const *arrays, const int64_t *dims, int64_t first, int64_t batch,",
            "    int64_t threads, T *held) {",
            "  int failed = 0;",
            "  (void)threads, (void)held;",
            *_dims(s),
            *self.given(static_only=False),
            *self.lasting(),
            *self.constants,
        ]
        own = [(x.name, x.size) for x in self.scratch if not x.static]
        if s.halves:
            lines.append("#ifdef RNNC_E")
            rounded = [f"{grouped(size)} * batch" for size in sizes]
            lines += self._own([*own, *((f"r{k}", size) for k, size in enumerate(rounded))])
            lines.append("#else")
        lines += self._own(own)
        lines += [f"  T *r{k} = (T *)arrays[{n + k}] + first * {grouped(size)};" for k, size in enumerate(sizes)]
        lines += ["#endif", *self.step, "#ifdef RNNC_E"] if s.halves else self.step
        if s.halves:
            for k, size in enumerate(rounded):
                lines.append(f"  rounded_to((E *)arrays[{n + k}] + first * {grouped(sizes[k])}, r{k}, {size});")
            lines.append("#endif")
        return [*lines, "  free(memory);", "  return failed;", "}"]

    def _own(self, scratch: Sequence[tuple[str, str]]) -> list[str]:
        count = " + ".join(["1", *(size for _, size in scratch)])
        lines = [f"  T *memory = malloc((size_t)({count}) * sizeof(T)), *rest = memory;", "  if (!memory) return 1;"]
        for name, size in scratch:
            lines += [f"  T *{name} = rest;", f"  rest += {size};"]
        return lines

    def step_text(self) -> list[str]:
        """NAME_step: 0; 1 without memory; 2 where a token is too large; 3 where a matrix has no inverse.

        Its one argument is where the addresses of the arrays (given ones, results) and of what parameters say lie, with
        the numbers of threads and of sequences and the dims behind them: each argument more is Python's time.
        """
        s = self.single
        count = len(s.given) + len(s.results)
        lines = [
            f"int {s.name}_step(void *const *arrays) {{",
            f"  T *held = arrays[{count}];",
            f"  const int64_t *numbers = (const int64_t *)(arrays + {count + 1}), *dims = numbers + 2;",
            "  const int64_t threads = numbers[0], batch = numbers[1];",
            *_dims(s),
        ]
        for k, vocab in s.tokens.items():
            lines.append(f"  const int64_t *a{k} = arrays[{k}];")
            lines.append(
                f"  for (int64_t b = 0; b < batch; b++) if (a{k}[b] < 0 || a{k}[b] >= {dim_c(vocab)}) return 2;"
            )
        work = " + ".join(self.sizes[: len(s.given)])
        return [
            *lines,
            f"  int failed = {s.name}_once(arrays, dims, held);",
            "  if (failed) return failed;",
            f"  const int shared = batch >= threads && batch * ({work}) >= 8 * PARALLEL;",
            "  const int64_t blocks = (batch + AT_ONCE - 1) / AT_ONCE;",
            "  const int64_t parts = shared && blocks < threads ? threads : blocks;",
            "#pragma omp parallel for num_threads((int)threads) if (shared && threads > 1) reduction(max : failed)",
            "  for (int64_t p = 0; p < parts; p++) {",
            "    const int64_t from = batch * p / parts, to = batch * (p + 1) / parts;",
            f"    const int found = {s.name}_part(arrays, dims, from, to - from, shared ? 1 : threads, held);",
            "    failed = found > failed ? found : failed;",
            "  }",
            "  return failed;",
            "}",
        ]
