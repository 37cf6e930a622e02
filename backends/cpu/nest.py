"""Kernels whose step is a graph of small arrays: dense and block transitions, norms inside an update, slices, mixing.

A task is one sequence of the batch and, where nothing in the step joins `per` blocks, one of those.  Each value of the
step that has memory is a loop nest (`single_loops`), the states live in scratch memory.  The backward is the same with
the derivative of the step appended to its graph; states come from checkpoints, as in a kernel without loops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from rnnc.backends.cpu.kernel import CHUNK_BYTES, LEAST_CHUNK, MOST_CHUNK, CArray, Kernel
from rnnc.backends.cpu.layout import Layout
from rnnc.backends.cpu.single import KNOWN, NUMBERS, axes, kept, plain
from rnnc.backends.cpu.single_loops import Writer
from rnnc.backends.cpu.single_places import Place, Text, grouped, size_text, strides_text
from rnnc.backends.cpu.text import dim_c
from rnnc.backends.kernels.axes import Axis
from rnnc.backends.kernels.nest import PER
from rnnc.backends.kernels.program import Array, Program
from rnnc.ir import autodiff
from rnnc.ir.dims import ONE, Dim
from rnnc.ir.graph import CellIR, NodeId, ancestors


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the value of a node goes: memory with the axes of the node `like`; `adds`: to what is there."""

    node: NodeId
    like: NodeId
    place: Place
    adds: bool = False


@dataclass(frozen=True, kw_only=True)
class NestKernel(Kernel):
    """A kernel of a region that `find_nest` found."""

    @cached_property
    def outer(self) -> tuple[Dim, ...]:
        """The `per` axes that are shared out among tasks."""
        nodes = self.region.step.nodes
        found = {n.type.per for n in nodes if n.type.per or n.op not in NUMBERS}
        return next(iter(found)) if len(found) == 1 and not any(n.op in PER for n in nodes) else ()

    @cached_property
    def step(self) -> CellIR:
        """The step of one task."""
        found = plain(self.region.step)
        if not self.outer:
            return found
        nodes = tuple(replace(n, type=replace(n.type, per=())) for n in found.nodes)
        return replace(found, nodes=nodes)

    @cached_property
    def rule(self) -> autodiff.Backward:
        """The derivative of the step."""
        step = self.step
        wanted = [i.node for i in step.inputs if step.nodes[i.node].type.dtype == "real"]
        roots = [*(s.update for s in step.states), *(o.node for o in step.outputs)]
        return autodiff.backward(step, roots, [*wanted, *(s.node for s in step.states)])

    @property
    def loops(self) -> frozenset[NodeId]:
        """The values of a step that have a loop nest of their own."""
        step = self.step
        ends = [*(s.update for s in step.states), *(o.node for o in step.outputs)]
        given = [*(i.node for i in step.inputs), *(s.node for s in step.states)]
        return kept(step, ends, given) | {i for i in ends if step.nodes[i].args}

    @property
    def fits(self) -> bool:
        """Whether loops can do the derivative too."""
        cell = self.rule.cell
        return all(cell.nodes[i].op in KNOWN for i in ancestors(cell, [*self.rule.grads.values()]))

    # ------------------------------------------------------------ arrays

    @cached_property
    def labels(self) -> list[Dim]:
        """The different sizes of axes: a label is a place among them."""
        step = self.region.step
        nodes = [*(i.node for i in step.inputs), *(s.node for s in step.states), *(o.node for o in step.outputs)]
        return list(dict.fromkeys(d for i in nodes for d in axes(step.nodes[i]) if d != ONE))

    def array(self, node: NodeId, static: bool = False) -> Array:
        n = self.region.step.nodes[node]
        assert n.type.dtype in ("real", "bool")
        found: tuple[Axis, ...] = tuple(None if d == ONE else self.labels.index(d) for d in axes(n))
        return Array(dtype=n.type.dtype, axes=found, static=static)

    @cached_property
    def forward(self) -> Program:
        """The arrays; what is computed of them is `step`."""
        step = self.region.step
        static = [i in self.region.static for i in self.region.inputs]
        return Program(
            values=(),
            results=(),
            sizes=tuple(self.labels),
            inputs=tuple(self.array(i.node, f) for i, f in zip(step.inputs, static, strict=True)),
            outputs=tuple(self.array(o.node) for o in step.outputs),
            states=tuple(self.array(s.node) for s in step.states),
        )

    @property
    def backward(self) -> Program:
        return self.forward

    @property
    def layout(self) -> Layout:
        return Layout(vector=None, outer=(), serial=())

    @property
    def dense(self) -> int:
        """How many axes behind batch and time may have gaps between them: the callers' arrays have none behind."""
        return len(self.outer)

    @property
    def differentiated(self) -> tuple[int, ...]:
        return tuple(k for k, i in enumerate(self.step.inputs) if i.node in self.rule.grads)

    @property
    def shapes(self) -> list[tuple[Dim, ...]]:
        """The axes of the states of one task."""
        return [axes(self.step.nodes[s.node]) for s in self.step.states]


# ---------------------------------------------------------------- one step


@dataclass(slots=True, kw_only=True)
class StepText:
    """A graph, where its leaves are and where its results go, as statements.

    `fixed` are those that depend on static values alone: they run once before the first step.
    """

    cell: CellIR
    given: Mapping[NodeId, Place]
    targets: Sequence[Target]
    prefix: str
    lines: list[str] = field(default_factory=list)
    fixed: list[str] = field(default_factory=list)
    scratch: dict[str, str] = field(default_factory=dict)  # names, and how many numbers each takes

    def write(self, static: frozenset[NodeId], sums: Mapping[NodeId, Sequence[Place]]) -> None:
        """Requires: each leaf is in `given` or in `sums`, which lists what a leaf is the sum of."""
        nodes = self.cell.nodes
        w = Writer(cell=self.cell, places=dict(self.given))
        for i, parts in sums.items():
            self.begin(w, i)
            w.fill(i, w.places.setdefault(i, self.place(i)), lambda index, parts=parts: _total(parts, index))  # type: ignore[misc]
            self.take(w, False)
        live = ancestors(self.cell, [t.node for t in self.targets])
        memory = kept(self.cell, [t.node for t in self.targets], list(w.places))
        first: dict[NodeId, Target] = {}
        for t in self.targets:
            leaf = t.node in w.places or nodes[t.node].op in NUMBERS
            if not leaf and not t.adds and axes(nodes[t.like]) == axes(nodes[t.node]):
                first.setdefault(t.node, t)
        for i in sorted((memory | first.keys()) & live):
            self.begin(w, i)
            w.compute(i, first[i].place if i in first else self.place(i))
            self.take(w, i in static and i not in first)
        for t in self.targets:
            if first.get(t.node) is t:
                continue
            w.fill(t.like, t.place, lambda index, t=t: _added(t, w, index))  # type: ignore[misc]
            self.take(w, False)

    def place(self, i: NodeId) -> Place:
        sizes = axes(self.cell.nodes[i])
        name = f"{self.prefix}{i}"
        self.scratch[name] = size_text(sizes)
        return Place(pointer=f"f->{name}", strides=strides_text(sizes), batch=None)

    def begin(self, w: Writer, i: NodeId) -> None:
        title = self.cell.nodes[i].name
        if title:
            w.lines.append(f"  /* {title} */")

    def take(self, w: Writer, fixed: bool) -> None:
        (self.fixed if fixed else self.lines).extend(w.lines)
        w.lines = []


def _total(parts: Sequence[Place], index: Sequence[object]) -> Text:
    texts = [p.load(index) for p in parts]  # type: ignore[arg-type]
    kind = "V" if any(k == "V" for _, k in texts) else "T"
    return f"({' + '.join(t for t, _ in texts)})", kind


def _added(t: Target, w: Writer, index: Sequence[object]) -> Text:
    value = w.read(t.node, index)  # type: ignore[arg-type]
    if not t.adds:
        return value
    here = t.place.load(index)  # type: ignore[arg-type]
    return f"({here[0]} + {value[0]})", "V" if "V" in (here[1], value[1]) else "T"


# ---------------------------------------------------------------- functions


@dataclass(slots=True, kw_only=True)
class _Function:
    """One function of a kernel in the making."""

    kernel: NestKernel
    kind: str
    arrays: list[CArray]
    lines: list[str] = field(default_factory=list)
    scratch: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.kernel.name}_{self.kind}"

    def add(self, *lines: str) -> None:
        self.lines += lines

    def sizes(self, i: NodeId) -> tuple[Dim, ...]:
        return axes(self.kernel.step.nodes[i])

    def at(self, name: str, i: NodeId, pointer: str = "") -> Place:
        """The memory of an array of the call at this step, or of a state, for a node of the step."""
        return Place(pointer=pointer or name, strides=strides_text(self.sizes(i)), batch=None)

    def states(self, pointer: str) -> list[Place]:
        step = self.kernel.step
        return [self.at("", s.node, f"({pointer} + z->o{k})") for k, s in enumerate(step.states)]

    def step(self, label: str, text: StepText, states: Sequence[str]) -> None:
        """The function of one step, and that of what stays the same in all steps."""
        self.scratch |= text.scratch
        pointers = {s.lstrip("*"): ("T *" if s[0] == "*" else "const T *") for s in states}
        given = "".join(f", {kind}{s}" for s, kind in pointers.items())
        frame = f"const struct {self.name} *f"
        for suffix, body, arguments in (("_static", text.fixed, ""), ("", text.lines, f", int64_t t{given}")):
            if suffix and not body:
                continue
            self.add(f"static void {self.name}_{label}{suffix}({frame}{arguments}) {{", *self.locals(body), *body, "}")

    def locals(self, body: Sequence[str]) -> list[str]:
        """The sizes, and the arrays at this step, that statements read."""
        words = {w for line in body for w in re.findall(r"[^\W\d]\w*", line)}
        found = [f"  const struct {self.kernel.name}_sizes *z = &f->z;"] if "z" in words else []
        dims = self.kernel.region.step.dims
        found += [f"  const int64_t d_{d.name} = f->dims[{k}];" for k, d in enumerate(dims) if f"d_{d.name}" in words]
        for a in self.arrays:
            if a.name in words:
                found.append(f"  T *{a.name} = f->{a.name}{f' + t * f->{a.name}_t' if a.sequence else ''};")
        return found

    def frame(self) -> list[str]:
        lines = [f"struct {self.name} {{", f"  struct {self.kernel.name}_sizes z;", "  const int64_t *dims;"]
        lines += [f"  T *{a.name};{f' int64_t {a.name}_t;' if a.sequence else ''}" for a in self.arrays]
        return [*lines, *(f"  T *{n};" for n in self.scratch), "};"]

    def fill_frame(self) -> list[str]:
        """The pointers of a task: of its sequence, and its `per` block."""
        outer = self.kernel.outer
        lines = ["int64_t rest = task;"]
        for k in reversed(range(len(outer))):
            lines += [f"const int64_t p{k} = rest % ({dim_c(outer[k])});", f"rest /= {grouped(dim_c(outer[k]))};"]
        lines.append("const int64_t b = rest;")
        stride = 0
        for n, a in enumerate(self.arrays):
            names = a.strides
            front = [s for s in names if s in ("b", "t")]
            if a.sequence:
                lines.append(f"f->{a.name}_t = strides[{stride + front.index('t')}];")
            terms = [f"b * strides[{stride}]"] if a.batch else []
            at = iter(range(stride + len(front), stride + len(names)))
            places = [None if x is None else next(at) for x in a.array.axes[: len(outer)]]
            terms += [f"p{k} * strides[{p}]" for k, p in enumerate(places) if p is not None]
            lines.append(f"f->{a.name} = {' + '.join([f'(T *)arrays[{n}]', *terms])};")
            stride += len(names)
        return lines

    def copies(self, name: str, arrays: Sequence[str], out: bool, time: str = "") -> None:
        """A function that copies states between arrays and scratch memory."""
        argument = f", int64_t {time}" if time else ""
        body = []
        for k, (a, sizes) in enumerate(zip(arrays, self.kernel.shapes, strict=True)):
            there = f"f->{a}" + (f" + {time} * f->{a}_t" if time else "")
            to, of = (there, f"s + z->o{k}") if out else (f"s + z->o{k}", there)
            body.append(f"  memcpy({to}, {of}, sizeof(T) * (size_t)({size_text(sizes)}));")
        head = f"static void {self.name}_{name}(const struct {self.name} *f, T *s{argument}) {{"
        self.add(head, *self.locals(body), *body, "}")

    def call(self, memory: Sequence[tuple[str, str]], body: Sequence[str], static: Sequence[str]) -> None:
        """The exported function: tasks shared out among threads, each with scratch memory of its own."""
        dims = self.kernel.region.step.dims
        sizes = [size for _, size in (*self.scratch.items(), *memory)]
        lines = [
            f"int {self.name}(void *const *arrays, const int64_t *strides, const int64_t *dims, int64_t steps,",
            "    const int64_t *plan, int64_t threads, T *checkpoints) {",
            "  int failed = 0;",
            "  (void)checkpoints;",
            *(f"  const int64_t d_{d.name} = dims[{k}];" for k, d in enumerate(dims)),
            *(f"  (void)d_{d.name};" for d in dims),
            "#pragma omp parallel num_threads((int)threads) if (threads > 1)",
            "  {",
            f"    struct {self.name} frame, *f = &frame;",
            "    memset(f, 0, sizeof frame);",
            f"    f->z = {self.kernel.name}_sizes(dims, 1);",
            "    f->dims = dims;",
            f"    const struct {self.kernel.name}_sizes *z = &frame.z;",
            f"    T *memory = calloc((size_t)({' + '.join(['1', *sizes])}), sizeof(T)), *part = memory;",
            "    if (!memory) failed = 1;",
        ]
        for name, size in self.scratch.items():
            lines += [f"    f->{name} = part;", f"    part += memory ? {size} : 0;"]
        for name, size in memory:
            lines += [f"    T *{name} = part;", f"    part += memory ? {size} : 0;"]
        lines += [
            "#pragma omp for schedule(static)",
            "    for (int64_t task = 0; task < plan[2]; task++) {",
            "      if (!memory) continue;",
            *(f"      {line}" for line in (*self.fill_frame(), *static, *body)),
            "    }",
            "    free(memory);",
            "  }",
            "  return failed;",
            "}",
        ]
        self.add(*lines)

    def text(self) -> list[str]:
        return [*self.frame(), *self.lines]


def forward_text(k: NestKernel) -> list[str]:
    f = _Function(kernel=k, kind="forward", arrays=k.forward_arrays)
    text = _forward_step(f, outputs=True, prefix="w")
    f.step("step", text, ["old", "*new"])
    numbers = range(len(k.shapes))
    f.copies("begin", [f"h{n}" for n in numbers], out=False)
    f.copies("end", [f"e{n}" for n in numbers], out=True)
    body = [
        "T *now = states, *next = states + z->total;",
        f"{f.name}_begin(f, now);",
        "for (int64_t t = 0; t < steps; t++) {",
        "  if (checkpoints && t % plan[4] == 0)",
        "    memcpy(checkpoints + (task * ((steps + plan[4] - 1) / plan[4]) + t / plan[4]) * z->total, now,",
        "           sizeof(T) * (size_t)z->total);",
        f"  {f.name}_step(f, t, now, next);",
        "  T *turn = now;",
        "  now = next;",
        "  next = turn;",
        "}",
        f"{f.name}_end(f, now);",
    ]
    f.call([("states", "2 * z->total")], body, [f"{f.name}_step_static(f);"] if text.fixed else [])
    return f.text()


def _forward_step(f: _Function, *, outputs: bool, prefix: str) -> StepText:
    k, step = f.kernel, f.kernel.step
    given = {i.node: f.at(f"x{n}", i.node) for n, i in enumerate(step.inputs)}
    given |= {s.node: p for s, p in zip(step.states, f.states("old"), strict=True)}
    new = f.states("new")
    targets = [Target(node=s.update, like=s.node, place=p) for s, p in zip(step.states, new, strict=True)]
    if outputs:
        targets += [Target(node=o.node, like=o.node, place=f.at(f"y{n}", o.node)) for n, o in enumerate(step.outputs)]
    text = StepText(cell=step, given=given, targets=targets, prefix=prefix)
    text.write(_static(k, step), {})
    return text


def _static(k: NestKernel, cell: CellIR) -> frozenset[NodeId]:
    """Nodes that depend on static inputs and numbers alone."""
    fixed = {i.node for i, outer in zip(cell.inputs, k.region.inputs, strict=True) if outer in k.region.static}
    for n in cell.nodes:
        if n.op in NUMBERS or (n.args and all(a in fixed for a in n.args)):
            fixed.add(n.id)
    return frozenset(fixed)


def backward_text(k: NestKernel) -> list[str]:
    f = _Function(kernel=k, kind="backward", arrays=k.backward_arrays)
    text = _backward_step(f)
    f.step("step", text, ["old", "g_new", "*g_old"])
    steps = [("step", text)]
    if not k.stored:
        again = _forward_step(f, outputs=False, prefix="r")
        f.step("again", again, ["old", "*new"])
        steps.append(("again", again))
    numbers = range(len(k.shapes))
    f.copies("begin", [f"ge{n}" for n in numbers], out=False)
    f.copies("end", [f"dh{n}" for n in numbers], out=True)
    turn = ["  T *turn = now;", "  now = next;", "  next = turn;"]
    if k.stored:
        f.copies("first", [f"h{n}" for n in numbers], out=False)
        f.copies("before", [f"y{n}" for n in k.stored], out=False, time="t")
        body = [
            "for (int64_t t = steps - 1; t >= 0; t--) {",
            f"  if (t) {f.name}_before(f, states, t - 1);",
            f"  else {f.name}_first(f, states);",
            f"  {f.name}_step(f, t, states, now, next);",
            *turn,
            "}",
        ]
    else:
        body = [
            "const int64_t chunk = plan[4], chunks = (steps + chunk - 1) / chunk;",
            "for (int64_t c = chunks - 1; c >= 0; c--) {",
            "  const int64_t from = c * chunk, to = from + chunk < steps ? from + chunk : steps;",
            "  memcpy(states, checkpoints + (task * chunks + c) * z->total, sizeof(T) * (size_t)z->total);",
            "  for (int64_t t = from; t + 1 < to; t++)",
            f"    {f.name}_again(f, t, states + (t - from) * z->total, states + (t - from + 1) * z->total);",
            "  for (int64_t t = to - 1; t >= from; t--) {",
            f"    {f.name}_step(f, t, states + (t - from) * z->total, now, next);",
            *(f"  {line}" for line in turn),
            "  }",
            "}",
        ]
    head = ["T *now = gradients, *next = gradients + z->total;", f"{f.name}_begin(f, now);"]
    count = "z->total" if k.stored else "plan[4] * z->total"
    static = [f"{f.name}_{label}_static(f);" for label, t in steps if t.fixed]
    f.call([("gradients", "2 * z->total"), ("states", count)], [*head, *body, f"{f.name}_end(f, now);"], static)
    return f.text()


def _backward_step(f: _Function) -> StepText:
    k, step, rule = f.kernel, f.kernel.step, f.kernel.rule
    given = {i.node: f.at(f"x{n}", i.node) for n, i in enumerate(step.inputs)}
    given |= {s.node: p for s, p in zip(step.states, f.states("old"), strict=True)}
    sums: dict[NodeId, list[Place]] = {}
    for root, seed in rule.seeds.items():
        parts = [p for s, p in zip(step.states, f.states("g_new"), strict=True) if s.update == root]
        parts += [f.at(f"gy{n}", root) for n, o in enumerate(step.outputs) if o.node == root]
        if len(parts) == 1:
            given[seed] = parts[0]
        else:
            sums[seed] = parts
    targets: list[Target] = []
    for s, p in zip(step.states, f.states("g_old"), strict=True):
        if s.node in rule.grads:
            targets.append(Target(node=rule.grads[s.node], like=s.node, place=p))
    for n in k.differentiated:
        i = step.inputs[n].node
        static = k.region.inputs[n] in k.region.static
        targets.append(Target(node=rule.grads[i], like=i, place=f.at(f"dx{n}", i), adds=static))
    text = StepText(cell=rule.cell, given=given, targets=targets, prefix="w")
    text.write(_static(k, rule.cell), sums)
    for s, sizes, at in zip(step.states, k.shapes, range(len(step.states)), strict=True):
        if s.node not in rule.grads:
            text.lines.append(f"  memset(g_old + z->o{at}, 0, sizeof(T) * (size_t)({size_text(sizes)}));")
    return text


def nest_text(k: NestKernel) -> str:
    """Everything of one kernel behind `vector_math.h` and the helpers of loops."""
    parts = [_sizes(k), _plan(k), forward_text(k), backward_text(k)]
    return "\n\n".join("\n".join(p) for p in parts) + "\n"


def _sizes(k: NestKernel) -> list[str]:
    """Sizes of labels, and where the states are in scratch memory."""
    name, dims = k.name, k.region.step.dims
    fields = [*(f"n{x}" for x in range(len(k.labels))), *(f"o{n}" for n in range(len(k.shapes))), "total"]
    lines = [f"struct {name}_sizes {{", f"  int64_t {', '.join(fields)};", "};"]
    lines += [f"static struct {name}_sizes {name}_sizes(const int64_t *dims, int64_t block) {{"]
    lines += [f"  struct {name}_sizes z;", "  int64_t at = 0;", "  (void)block;"]
    lines += [f"  const int64_t d_{d.name} = dims[{n}];" for n, d in enumerate(dims)]
    lines += [f"  (void)d_{d.name};" for d in dims]
    lines += [f"  z.n{x} = {dim_c(size)};" for x, size in enumerate(k.labels)]
    for n, sizes in enumerate(k.shapes):
        lines += [f"  z.o{n} = at;", f"  at += ({size_text(sizes)} + LANES - 1) / LANES * LANES;"]
    return [*lines, "  z.total = at;", "  return z;", "}"]


def _plan(k: NestKernel) -> list[str]:
    """How a call is divided; see `Kernel.plan_text`."""
    dims = k.region.step.dims
    text = f"""\
void {k.name}_plan(const int64_t *dims, int64_t batch, int64_t threads, int64_t *out) {{
  struct {k.name}_sizes z = {k.name}_sizes(dims, 1);
  const int64_t chunk = {CHUNK_BYTES} / (int64_t)sizeof(T) / (z.total ? z.total : 1);
  (void)threads;
{chr(10).join(f"  const int64_t d_{d.name} = dims[{n}]; (void)d_{d.name};" for n, d in enumerate(dims))}
  out[0] = 1;
  out[1] = 1;
  out[2] = batch * {size_text(k.outer)};
  out[3] = z.total;
  out[4] = chunk < {LEAST_CHUNK} ? {LEAST_CHUNK} : chunk > {MOST_CHUNK} ? {MOST_CHUNK} : chunk;
}}"""
    return text.split("\n")


__all__ = ["NestKernel", "nest_text"]
