"""Newton's method over time in C: what is emitted of one kernel for the solver in `rnnc/runtime/newton.h`.

Around the steps of its two frames stand functions that bring windows of the call's arrays into lanes and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rnnc.backends.cpu.functions import Function, Step
from rnnc.backends.cpu.kernel import CArray
from rnnc.backends.cpu.lanes import LaneKernel, in_lanes
from rnnc.backends.cpu.newton import NewtonKernel
from rnnc.backends.cpu.schedule import schedule
from rnnc.backends.cpu.text import Places, loops
from rnnc.backends.kernels.program import Program
from rnnc.runtime.native_newton import VECTORS

__all__ = ["newton_text"]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """One of the two frames, and its functions' text."""

    kernel: NewtonKernel
    lanes: LaneKernel
    outer: Sequence[CArray]  # the arrays of the call, with batch and parts
    inner: Sequence[CArray]  # their copies in lanes
    steps: Sequence[Step]
    aliases: Sequence[tuple[str, str]] = ()  # arrays of the frame that are others under a second name

    @cached_property
    def function(self) -> Function:
        return Function(kernel=self.lanes, kind="frame", arrays=list(self.inner), steps=list(self.steps))

    @property
    def name(self) -> str:
        return self.lanes.name

    @property
    def struct(self) -> str:
        return f"struct {self.function.name}"

    @cached_property
    def scratch(self) -> list[tuple[str, str]]:
        spare = [] if all(s.schedule.in_place for s in self.steps) else [("spare", "z->total")]
        return [*self.function.scratch(), *spare]

    # ------------------------------------------------------------ memory

    def declarations(self) -> list[str]:
        f = Function(kernel=self.lanes, kind="frame", arrays=list(self.inner), steps=list(self.steps))
        f.frame()
        if any(n == "spare" for n, _ in self.scratch):
            f.lines.insert(len(f.lines) - 1, "  T *spare;")
        for s in self.steps:
            f.step(s)
            f.hoist(s)
        return f.lines

    def numbers(self, a: CArray) -> str:
        """How many numbers a window's copy of an array takes."""
        real = next(x for x in self.inner if x.name == a.name)
        return f"{'size * ' if a.sequence else ''}{self.lanes.numbers(real.array.axes, 'np')}"

    def owned(self) -> list[CArray]:
        second = {name for name, _ in self.aliases}
        return [a for a in self.inner if a.name not in second]

    def memory(self) -> list[str]:
        parts = [self.numbers(a) for a in self.owned()] + [size for _, size in self.scratch]
        return [
            f"static int64_t {self.name}_memory(const int64_t *dims, int64_t np, int64_t size) {{",
            f"  const struct {self.name}_sizes sizes = {self.name}_sizes(dims, np), *z = &sizes;",
            "  (void)z;",
            f"  return {' + '.join(['0', *parts])};",
            "}",
        ]

    def bind(self) -> list[str]:
        lines = [
            f"static void {self.name}_bind(void *frame, const int64_t *dims, int64_t np, int64_t size, T *part) {{",
            f"  {self.struct} *f = frame;",
            f"  f->z = {self.name}_sizes(dims, np);",
            f"  const struct {self.name}_sizes *z = &f->z;",
            "  (void)z;",
            "  f->dims = dims;",
            "  f->lanes = np;",
        ]
        for a in self.owned():
            lines.append(f"  f->{a.name} = part;")
            lines += [f"  f->{a.name}_{s} = {length};" for s, length in self._strides(a)]
            lines += [f"  f->{a.name}_once = 1;"] if a.name[:2] == "dx" else []
            if not a.sequence:  # gradients add up, and lanes of no segment are read
                lines.append(f"  memset(part, 0, sizeof(T) * (size_t)({self.numbers(a)}));")
            lines.append(f"  part += {self.numbers(a)};")
        for name, size in self.scratch:
            lines += [f"  f->{name} = part;", f"  part += {size};"]
        for second, first in self.aliases:
            a = next(x for x in self.inner if x.name == second)
            lines.append(f"  f->{second} = f->{first};")
            lines += [f"  f->{second}_{s} = f->{first}_{s};" for s in a.strides]
        return [*lines, "}"]

    def _strides(self, a: CArray) -> list[tuple[str, str]]:
        """Of a copy: the lanes of one step lie together, for each index of the serial labels in their order."""
        serial = [x for x in self.lanes.layout.serial if x in a.labels]
        found = [(str(self.lanes.lane), "1")]
        for at, x in enumerate(serial):
            found.append((str(x), " * ".join([*(f"z->n{y}" for y in serial[at + 1 :]), "np"])))
        if a.sequence:
            found.append(("t", " * ".join([*(f"z->n{y}" for y in serial), "np"])))
        return found

    # ------------------------------------------------------------ windows

    def place(self, a: CArray) -> tuple[str, str, str, str]:
        """Of an array of the call: the address of the first step of a block, its strides in time and along channels,
        and the address of the copy; inside loops over the serial labels.
        """
        names = [x.name for x in self.outer]
        at = sum(len(x.strides) for x in self.outer[: names.index(a.name)])
        stride = {s: f"w->strides[{at + k}]" for k, s in enumerate(a.strides)}
        folded = self.kernel.folded
        serial = [x for x in self.lanes.layout.serial if x in a.labels]
        terms = [f"(T *)w->arrays[{names.index(a.name)}]"]
        terms += [f"w->b * {stride['b']}"] if a.batch else []
        terms += [f"i{x} * {stride[str(x)]}" for x in serial]
        terms += [f"w->block * {stride[f'p{x}']}" for x in a.parts]
        along = "0"
        if folded is not None and folded in a.labels:
            along = stride[str(folded)]
            terms.append(f"w->c0 * {along}")
        copy = " + ".join([f"f->{a.name}", *(f"i{x} * f->{a.name}_{x}" for x in serial)])
        return " + ".join(terms), stride.get("t", "0"), along, copy

    def over(self, arrays: Iterable[CArray], line: str) -> list[str]:
        """A statement for each array and index of its serial labels."""
        found = []
        for a in arrays:
            address, time, along, copy = self.place(a)
            serial = [x for x in self.lanes.layout.serial if x in a.labels]
            text = line.format(name=a.name, address=address, time=time, along=along, copy=copy)
            found.append(f"  {loops(serial, 'z->n')} {text}")
        return found

    def about(self, kind: str, arguments: str, lines: Sequence[str], w: bool = True) -> list[str]:
        """A function of the frame."""
        return [
            f"static void {self.name}_{kind}(void *frame, {arguments}) {{",
            f"  {self.struct} *f = frame;",
            f"  const struct {self.name}_sizes *z = &f->z;",
            f"  (void)f, (void)z{', (void)w' if w else ''};",
            *lines,
            "}",
        ]

    def windows(self, static: Sequence[CArray], read: Sequence[CArray], written: Sequence[CArray]) -> list[str]:
        place = "const struct newton_place *w"
        first = self.over(static, "newton_spread(w, {copy}, {address}, {along});")
        first += [f"  {s.name}_static(f);" for s in self.steps if s.schedule.hoisted]
        into = self.over(read, "newton_gather(w, 1, {copy}, f->{name}_t, {address}, {time}, {along});")
        out = self.over(written, "newton_scatter(w, 1, {copy}, f->{name}_t, {address}, {time}, {along});")
        lines = self.about("fixed", place, first)
        return [*lines, *self.about("pack", place, into), *self.about("unpack", place, out)]

    def rows(self) -> list[str]:
        axes = self.lanes.forward.states[0].axes
        return [
            f"static int64_t {self.name}_rows(const int64_t *dims) {{",
            f"  const struct {self.name}_sizes sizes = {self.name}_sizes(dims, LANES), *z = &sizes;",
            "  (void)z;",
            f"  return {self.lanes.numbers(axes, '1')};",
            "}",
        ]

    def state_rows(self, kind: str, arrays: Sequence[CArray], out: bool) -> list[str]:
        """States of a block between arrays of the call and rows [K, rows, channels]."""
        kept = "const T *rows" if out else "T *rows"
        lines = [
            f"static void {self.name}_{kind}(const struct newton_place *w, {kept}) {{",
            f"  const struct {self.name}_sizes sizes = {self.name}_sizes(w->dims, LANES), *z = &sizes;",
            "  (void)z;",
        ]
        for a in arrays:
            address, _, along, _ = self.place(a)
            serial = [x for x in self.lanes.layout.serial if x in a.labels]
            there = f"({address})[j * {along}]"
            text = f"{there} = *rows++;" if out else f"*rows++ = {there};"
            lines.append(f"  {loops(serial, 'z->n')} for (int64_t j = 0; j < w->c; j++) {text}")
        return [*lines, "}"]

    def walking(self, kind: str, step: Step) -> list[str]:
        """Steps in order, of states that are overwritten."""
        body = [f"  for (int64_t t = from; t < to; t++) {step.name}(f, t, now, now);"]
        if not step.schedule.in_place:
            body = [
                "  for (int64_t t = from; t < to; t++) {",
                f"    {step.name}(f, t, now, f->spare);",
                f"    memcpy(now, f->spare, sizeof(T) * (size_t){self.walked(step)});",
                "  }",
            ]
        return self.about(kind, "T *now, int64_t from, int64_t to", body, w=False)

    def walked(self, step: Step) -> str:
        """How many numbers a step writes of the states."""
        count = len({r.index for r in step.schedule.results if r.target in ("state", "d_state")})
        return f"({count} * {self.lanes.numbers(self.lanes.forward.states[0].axes, 'z->np')})"

    @property
    def kept(self) -> str:
        """How many numbers the group's own states take in lanes."""
        return f"({self.kernel.many} * {self.lanes.numbers(self.lanes.forward.states[0].axes, 'z->np')})"

    def common(self) -> list[str]:
        return [*self.lanes.sizes_text(), *self.declarations(), *self.memory(), *self.bind(), *self.rows()]

    def table(self, functions: Sequence[str]) -> list[str]:
        """The structure that the solver reads."""
        named = [f".{n} = {self.name}_{n}" for n in ("rows", "memory", "bind", "fixed", "pack", "unpack", *functions)]
        return [
            f"static const struct newton_kernel {self.name}_kernel = {{",
            f"  .states = {self.kernel.many}, .frame = sizeof({self.struct}),",
            f"  {', '.join(named)},",
            "};",
        ]


def _step(
    lanes: LaneKernel, name: str, program: Program, places: Places, states: tuple[str, ...], *, alone: bool = False
) -> Step:
    """A program as a step; of one vector, too, where single steps are taken by it (`alone`)."""
    beside = 1 if lanes.layout.serial else VECTORS
    return Step(
        name=f"{lanes.name}_{name}",
        program=program,
        schedule=schedule(program, lanes.layout),
        places=places,
        states=states,
        beside=beside,
        whole=beside > 1 and not alone,
    )


def _static(arrays: Iterable[CArray]) -> list[CArray]:
    return [a for a in arrays if not a.sequence and a.name[0] == "x"]


def _walk(kernel: NewtonKernel) -> list[str]:
    lanes, n = kernel.walk, kernel.many
    p = lanes.program
    inputs = [CArray(name=f"x{k}", array=a, sequence=not a.static, batch=False) for k, a in enumerate(p.inputs)]
    outputs = [CArray(name=f"y{k}", array=a, sequence=True, batch=False) for k, a in enumerate(p.outputs)]
    arrays = {"input": "x", "output": "y"}
    alone = p.pruned([r for r in p.results if r.target == "state" and r.index < n])
    whole = Places(arrays=arrays, old={"state": "s0"}, new={"state": "s1"})
    ahead = Places(arrays=arrays, old={"state": "s0"}, new={"state": "s1"}, scratch="r")
    steps = [
        _step(lanes, "through", p, whole, ("s0", "*s1"), alone=True),
        _step(lanes, "alone", alone, ahead, ("s0", "*s1")),
    ]
    f = _Frame(kernel=kernel, lanes=lanes, outer=kernel.solve_arrays, inner=[*inputs, *outputs], steps=steps)
    call = {a.name: a for a in kernel.solve_arrays}
    given = [call[a.name] for a in inputs]
    text = [*f.common()]
    text += f.windows(_static(given), [a for a in given if a.sequence], [call[a.name] for a in outputs])
    text += f.state_rows("begin", [call[f"h{k}"] for k in range(n)], out=False)
    text += f.state_rows("end", [call[f"e{k}"] for k in range(n)], out=True)
    text += [*f.walking("walk", steps[0]), *f.walking("ahead", steps[1])]
    return [*text, *f.table(("begin", "end", "ahead", "walk"))]


def _pull(kernel: NewtonKernel) -> list[str]:
    lanes, n = kernel.pull, kernel.many
    again, adjoint = lanes.program, in_lanes(kernel.backward, kernel.folded)
    count = len(adjoint.inputs)
    inputs = [CArray(name=f"x{k}", array=a, sequence=not a.static, batch=False) for k, a in enumerate(again.inputs)]
    given = [CArray(name=f"gy{k}", array=a, sequence=True, batch=False) for k, a in enumerate(adjoint.outputs)]
    found = [
        CArray(name=f"dx{k}", array=adjoint.inputs[k], sequence=not adjoint.inputs[k].static, batch=False)
        for k in kernel.differentiated
    ]
    arrays = {"input": "x", "output": "y", "d_output": "gy", "d_input": "dx"}
    forth = Places(arrays=arrays, old={"state": "s0"}, new={"state": "s1"}, scratch="r")
    back = Places(arrays=arrays, old={"state": "s0", "d_state": "d0"}, new={"d_state": "d1"})
    steps = [
        _step(lanes, "forth", again, forth, ("s0", "*s1")),
        _step(lanes, "back", adjoint, back, ("s0", "d0", "*d1")),
    ]
    f = _Frame(
        kernel=kernel,
        lanes=lanes,
        outer=kernel.pull_arrays,
        inner=[*inputs, *given, *found],
        steps=steps,
        aliases=[(f"x{count + n}", f"gy{k}") for n, k in enumerate(kernel.sending)],
    )
    call = {a.name: a for a in kernel.pull_arrays}
    results = [call[a.name] for a in found]
    moving = [call[a.name] for a in (*inputs[:count], *given) if a.sequence]
    text = [*f.common()]
    text += f.windows(_static(call[a.name] for a in inputs[:count]), moving, [a for a in results if a.sequence])
    text += f.state_rows("begin", [call[f"ge{k}"] for k in range(n)], out=False)
    text += f.state_rows("end", [call[f"dh{k}"] for k in range(n)], out=True)
    text += _backward_walks(f, steps)
    fixed = [a for a in results if not a.sequence]
    place = "const struct newton_place *w"
    text += f.about("totals", place, f.over(fixed, "newton_total(w, {copy}, {address}, {along});"))
    cleared = f.over(fixed, "newton_clear(w, segment, {copy});")
    text += f.about("clear", f"{place}, int64_t segment", ["  (void)segment;", *cleared])
    return [*text, *f.table(("begin", "end", "again", "adjoint", "totals", "clear"))]


def _backward_walks(f: _Frame, steps: Sequence[Step]) -> list[str]:
    forth, back = steps
    after = "now" if forth.schedule.in_place else "f->spare"
    copy = f"    memcpy(now, f->spare, sizeof(T) * (size_t){f.walked(forth)});"
    lines = [
        "  for (int64_t t = from; t < to; t++) {",
        f"    memcpy(before + t * {f.kept}, now, sizeof(T) * (size_t){f.kept});",
        f"    {forth.name}(f, t, now, {after});",
        *([] if forth.schedule.in_place else [copy]),
        "  }",
    ]
    text = f.about("again", "T *now, T *before, int64_t from, int64_t to", lines, w=False)
    after = "now" if back.schedule.in_place else "f->spare"
    copy = f"    memcpy(now, f->spare, sizeof(T) * (size_t){f.kept});"
    lines = [
        "  for (int64_t t = to - 1; t >= from; t--) {",
        f"    {back.name}(f, t, before + t * {f.kept}, now, {after});",
        *([] if back.schedule.in_place else [copy]),
        "  }",
    ]
    return [*text, *f.about("adjoint", "const T *before, T *now, int64_t from, int64_t to", lines, w=False)]


# ---------------------------------------------------------------- the call


def newton_text(kernel: NewtonKernel) -> str:
    """Everything of one kernel behind `vector_math.h` and `newton.h`: two functions and the lengths of labels.

    `NAME_solve` and `NAME_pull` take a call's arrays, strides, dims and settings {steps, batch, vectors, size, threads,
    warm}, and give what happened in {windows, walks, damped, shrunk, sequential, warm} and {residual, correction}.
    """
    channels = "1" if kernel.folded is None else f"z.n{kernel.folded}"
    parts = [kernel.sizes_text(), _lengths(kernel), _walk(kernel), _pull(kernel)]
    for kind, solver, lanes in (("solve", "newton_solve_block", "walk"), ("pull", "newton_pull_block", "pull")):
        parts.append(_entry(kernel.name, kind, solver, lanes, channels))
    return "\n\n".join("\n".join(p) for p in parts) + "\n"


def _lengths(kernel: NewtonKernel) -> list[str]:
    """How long the axis of each label is; then how many lanes a vector has."""
    count = len(kernel.forward.sizes)
    sizes = [*(f"  out[{x}] = z.n{x};" for x in range(count)), f"  out[{count}] = LANES;"]
    head = f"void {kernel.name}_lengths(const int64_t *dims, int64_t *out) {{"
    return [head, f"  struct {kernel.name}_sizes z = {kernel.name}_sizes(dims, LANES);", "  (void)z;", *sizes, "}"]


def _entry(name: str, kind: str, solver: str, lanes: str, channels: str) -> list[str]:
    text = f"""\
int {name}_{kind}(void *const *arrays, const int64_t *strides, const int64_t *dims, const int64_t *settings,
    double tolerance, T *kept, int64_t *counts, double *found) {{
  const struct {name}_sizes z = {name}_sizes(dims, LANES);
  (void)z;
  const int64_t channels = {channels};
  const struct newton_call call = {{
    arrays, strides, dims, .steps = settings[0], .batch = settings[1], .channels = channels,
    .blocks = (channels + LANES - 1) / LANES, .vectors = settings[2], .size = settings[3], .threads = settings[4],
    .tolerance = (T)tolerance, .kept = kept,
  }};
  struct newton_report report = {{.warm = settings[5]}};
  const int failed = newton_blocks({solver}, &{name}_{lanes}_kernel, &call, &report);
  const int64_t all[] = {{
    report.windows, report.walks, report.damped, report.shrunk, report.sequential, report.warm,
  }};
  memcpy(counts, all, sizeof all);
  found[0] = report.residual, found[1] = report.correction;
  return failed;
}}"""
    return text.split("\n")
