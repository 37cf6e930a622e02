"""The C of kernels whose step is a graph of small arrays.

Each value of the step that has memory is a loop nest (`single_sums`), the states live in scratch memory.  The backward
is the same with the derivative of the step appended to its graph; states come from checkpoints, as in a kernel without
loops.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rnnc.backends.cpu.kernel import CHUNK_BYTES, LEAST_CHUNK, MOST_CHUNK, CArray
from rnnc.backends.cpu.nest import NestKernel
from rnnc.backends.cpu.single import NUMBERS, axes, kept
from rnnc.backends.cpu.single_places import Place, Text, grouped, size_text, strides_text
from rnnc.backends.cpu.single_sums import Writer
from rnnc.backends.cpu.text import dim_c
from rnnc.backends.cpu.walks import back, exported, forth
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, NodeId, ancestors

__all__ = ["nest_text"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where the value of a node goes: memory with the axes of the node `like`; `adds`: to what is there."""

    node: NodeId
    like: NodeId
    place: Place
    adds: bool = False


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
        before = [f"const int64_t d_{d.name} = dims[{k}]; (void)d_{d.name};" for k, d in enumerate(dims)]
        whole, scratch = [*self.fill_frame(), *static, *body], list(self.scratch.items())
        self.add(*exported(self.name, self.kernel.name, "1", memory, scratch, whole, before=before))

    def text(self) -> list[str]:
        return [*self.frame(), *self.lines]


def forward_text(k: NestKernel) -> list[str]:
    f = _Function(kernel=k, kind="forward", arrays=k.forward_arrays)
    text = _forward_step(f, outputs=True, prefix="w")
    f.step("step", text, ["old", "*new"])
    numbers = range(len(k.shapes))
    f.copies("begin", [f"h{n}" for n in numbers], out=False)
    f.copies("end", [f"e{n}" for n in numbers], out=True)
    memory, body = forth(f.name)
    f.call(memory, body, [f"{f.name}_step_static(f);"] if text.fixed else [])
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
    if k.stored:
        f.copies("first", [f"h{n}" for n in numbers], out=False)
        f.copies("before", [f"y{n}" for n in k.stored], out=False, time="t")
    memory, body = back(f.name, bool(k.stored))
    static = [f"{f.name}_{label}_static(f);" for label, t in steps if t.fixed]
    f.call(memory, body, static)
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
