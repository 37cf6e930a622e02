"""The two functions of a kernel as C: frames of tasks, steps over the vectors of a block, the walk through time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rnnc.backends.cpu.kernel import CArray, Kernel
from rnnc.backends.cpu.schedule import ABREAST, Schedule
from rnnc.backends.cpu.text import Places, StepText, index, loops, number_c, offset
from rnnc.backends.cpu.walks import back, exported, forth
from rnnc.backends.kernels.program import Program, ValueId


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A program that a function runs once a step."""

    name: str
    program: Program
    schedule: Schedule
    places: Places
    states: tuple[str, ...]  # the pointers that it takes, those it writes marked by *
    beside: int = 1  # vectors that go through the body abreast though it has no loops: its functions take their time
    whole: bool = False  # whether there are never fewer than these

    @property
    def widths(self) -> list[int]:
        """How many vectors go through the body abreast, the most first; one alone besides."""
        if self.beside > 1:
            return [self.beside]
        return [ABREAST, 2] if self.schedule.abreast > 1 else []

    @property
    def arguments(self) -> str:
        return ", ".join(["int64_t t", *(f"T *{s[1:]}" if s[0] == "*" else f"const T *{s}" for s in self.states)])

    @property
    def passed(self) -> str:
        return ", ".join(["t", *(s.lstrip("*") for s in self.states)])

    def text(self, abreast: int = 1) -> StepText:
        return StepText(program=self.program, schedule=self.schedule, places=self.places, abreast=abreast)


@dataclass(slots=True, kw_only=True)
class Function:
    """One function of a kernel in the making."""

    kernel: Kernel
    kind: str
    arrays: list[CArray]
    steps: list[Step]
    lines: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.kernel.name}_{self.kind}"

    def add(self, *lines: str, level: int = 0) -> None:
        self.lines += ["  " * level + line if line else line for line in lines]

    # ------------------------------------------------------------ frame and scratch memory

    def scratch(self) -> list[tuple[str, str]]:
        """Names of scratch memory, and how many numbers each takes."""
        k, found = self.kernel, dict[str, str]()
        for step in self.steps:
            s = step.schedule
            for v in s.values:
                if v.id in s.hoisted:
                    found[f"{step.places.scratch}{v.id}"] = k.numbers(v.labels, "z->np")
                elif v.id in s.kept or (v.over and s.serial(v.labels)):
                    found[f"{step.places.scratch}{v.id}"] = k.numbers(v.labels, f"{s.abreast} * LANES")
            for r in step.text().accumulators():
                found[f"a{r.index}_{r.part}"] = k.numbers(r.axes, "LANES", otherwise="LANES")
        return list(found.items())

    def frame(self) -> None:
        """Pointers of one task, their strides, and scratch memory."""
        self.add(f"struct {self.name} {{", f"  struct {self.kernel.name}_sizes z;", "  const int64_t *dims;")
        self.add("  int64_t lanes;")
        for a in self.arrays:
            strides = "".join(f" int64_t {a.name}_{s};" for s in a.strides)
            kind = "E" if a.name in self.kernel.narrow else "T"
            self.add(f"  {kind} *{a.name};{strides}" + (f" int {a.name}_once;" if a.name[:2] == "dx" else ""))
        self.add(*(f"  T *{n};" for n, _ in self.scratch()), "};")

    def divide(self) -> list[str]:
        """From the number of a task to its block and outer indices; `rest` is what the batch makes of it."""
        lines = ["int64_t rest = task;", "const int64_t at_block = rest % plan[1];", "rest /= plan[1];"]
        for x in reversed(self.kernel.layout.outer):
            lines += [f"const int64_t {index(x)} = rest % z->n{x};", f"rest /= z->n{x};"]
        return lines

    def fill_frame(self) -> list[str]:
        """The frame `f` of batch element b."""
        layout = self.kernel.layout
        length = "1" if layout.vector is None else f"z->n{layout.vector}"
        left = f"{length} - at_block * plan[0]"
        lines = [f"f->lanes = {left} < plan[0] ? {left} : plan[0];"]
        stride = 0
        for n, a in enumerate(self.arrays):
            lines += [f"f->{a.name}_{s} = strides[{stride + m}];" for m, s in enumerate(a.strides)]
            stride += len(a.strides)
            terms = [f"b * f->{a.name}_b"] if a.batch else []
            terms += [f"{index(x)} * f->{a.name}_{x}" for x in layout.outer if x in a.labels]
            if layout.in_lanes(a.labels):
                terms.append(f"at_block * plan[0] * f->{a.name}_{layout.vector}")
            terms += [f"{self.task_index(x)} * f->{a.name}_p{x}" for x in a.parts]
            kind = "E" if a.name in self.kernel.narrow else "T"
            lines.append(f"f->{a.name} = {' + '.join([f'({kind} *)arrays[{n}]', *terms])};")
            if a.name[:2] == "dx":
                missing = [x for x in self.kernel.shared if x not in a.labels and x not in a.parts]
                lines.append(f"f->{a.name}_once = {' && '.join(f'{self.task_index(x)} == 0' for x in missing) or '1'};")
        return lines

    def task_index(self, label: int) -> str:
        return "at_block" if label == self.kernel.layout.vector else index(label)

    def locals(self, body: Sequence[str]) -> list[str]:
        """The sizes and dims that statements read, as variables."""
        words = {w for line in body for w in re.findall(r"[^\W\d]\w*", line)}
        sizes = [f"const int64_t {x} = f->z.{x};" for x in self.kernel.size_names() if x in words]
        dims = enumerate(self.kernel.region.step.dims)
        return sizes + [f"const int64_t d_{d.name} = f->dims[{k}];" for k, d in dims if f"d_{d.name}" in words]

    # ------------------------------------------------------------ steps

    def step(self, step: Step) -> None:
        """One step of all vectors of a block; of the last vector perhaps with fewer lanes."""
        if not step.whole:
            self.body(step, f"{step.name}_at", 1)
        for n in step.widths:
            self.body(step, f"{step.name}_abreast_{n}", n)
        self.add(f"INLINE void {step.name}(const struct {self.name} *f, {step.arguments}) {{")
        if self.kernel.layout.vector is None:
            self.add(f"  {step.name}_at(f, {step.passed}, 0, 1);")
        else:
            self.add("  int64_t j = 0;")
            for n in step.widths:
                head = f"for (; j + {n} * LANES <= f->lanes; j += {n} * LANES)"
                self.add(f"  {head} {step.name}_abreast_{n}(f, {step.passed}, j, LANES);")
            if not step.whole:
                self.add(f"  for (; j + LANES <= f->lanes; j += LANES) {step.name}_at(f, {step.passed}, j, LANES);")
                self.add(f"  if (j < f->lanes) {step.name}_at(f, {step.passed}, j, (int)(f->lanes - j));")
        self.add(*self.write_sums(step.text()), "}")

    def body(self, step: Step, name: str, abreast: int) -> None:
        """The statements for some vectors at once."""
        frame = f"const struct {self.name} *f"
        self.add(f"INLINE void {name}({frame}, {step.arguments}, int64_t j, int n) {{")
        lines = step.text(abreast).text()
        self.add(*self.locals(lines), level=1)
        self.add(*lines, "}")

    def write_sums(self, text: StepText) -> list[str]:
        """Statements that write out what was summed over a step's vectors."""
        lines: list[str] = []
        for r in text.accumulators():
            labels = text.schedule.serial(r.axes)
            sums = f"f->a{r.index}_{r.part} + {offset(labels, 'LANES', 'z->n')}"
            address = text.array_address(r.target, r.index, r.axes)
            address += f" + {r.part}" if r.part else ""
            adds = text.is_static(r.target, r.index)
            if labels and not adds:
                last = labels[-1]
                stride = f"f->{text.places.arrays[r.target]}{r.index}_{last}"
                start = f"const int64_t {index(last)} = 0;"
                lines.append(f"  {loops(labels[:-1], 'z->n')} {{")
                lines.append(f"    {start} totals({sums}, z->n{last}, {address}, {stride});")
                lines.append("  }")
            else:
                one = f"*({address}) {'+=' if adds else '='} total(load({sums}, LANES));"
                lines.append(f"  {loops(labels, 'z->n')} {one}")
        sizes = [f"  const struct {self.kernel.name}_sizes *z = &f->z;", "  (void)z;"]
        return (sizes if lines else []) + lines

    def copy_states(self, name: str, arrays: Sequence[str], out: bool, time: str = "") -> None:
        """A function that copies states between arrays and scratch memory."""
        k = self.kernel
        argument = f", int64_t {time}" if time else ""
        self.add(f"static void {self.name}_{name}(const struct {self.name} *f, T *s{argument}) {{")
        self.add(f"  const struct {k.name}_sizes *z = &f->z;")
        for n, a in enumerate(k.forward.states):
            labels = [x for x in k.layout.serial if x in a.axes]
            wide = k.layout.in_lanes(a.axes)
            base = " + ".join(
                [f"f->{arrays[n]}", *(f"{index(x)} * f->{arrays[n]}_{x}" for x in labels)]
                + ([f"{time} * f->{arrays[n]}_t"] if time else [])
            )
            for part in range(2 if a.dtype == "complex" else 1):
                mine = f"s + z->o{n}_{part} + {offset(labels, 'z->np' if wide else '1', 'z->n')}"
                self.add(f"  {loops(labels, 'z->n')} {_copy(mine, base, wide, a.dtype == 'complex', part, out)}")
        self.add("}")

    def hoist(self, step: Step) -> None:
        """A function that computes what depends on static inputs alone."""
        if not step.schedule.hoisted:
            return
        self.add(f"static void {step.name}_static(const struct {self.name} *f) {{")
        body = [line for v in step.schedule.hoisted for line in _hoisted(step, v)]
        self.add(*self.locals(body), *body, level=1)
        self.add("}")

    # ------------------------------------------------------------ the call

    def begin_task(self) -> list[str]:
        """One task is one batch element."""
        static = [f"{s.name}_static(f);" for s in self.steps if s.schedule.hoisted]
        return [*self.divide(), "const int64_t b = rest;", *self.fill_frame(), *static]

    def call(self, memory: Sequence[tuple[str, str]], body: Sequence[str], frames: int = 1) -> None:
        """The exported function: tasks shared out among threads, each with scratch memory of its own."""
        sizes = self.kernel.name
        self.add(*exported(self.name, sizes, "plan[0]", memory, self.scratch(), body, frames))


def _copy(mine: str, array: str, wide: bool, pairs: bool, part: int, out: bool) -> str:
    if wide and not pairs:
        to, of = (array, mine) if out else (mine, array)
        return f"memcpy({to}, {of}, sizeof(T) * (size_t)f->lanes);"
    here, there = (f"({mine})[j]", f"({array})[2 * j + {part}]") if wide else (f"*({mine})", f"({array})[{part}]")
    loop = "for (int64_t j = 0; j < f->lanes; j++) " if wide else ""
    return f"{loop}{there} = {here};" if out else f"{loop}{here} = {there};"


def _hoisted(step: Step, root: ValueId) -> list[str]:
    """The loops that compute one static value, from its loads on."""
    s, text = step.schedule, step.text()
    needed, work = {root}, [root]
    while work:
        fresh = [a for a in s.values[work.pop()].args if a not in needed]
        needed |= set(fresh)
        work += fresh
    names: dict[ValueId, str] = {}
    body: list[str] = []
    for i in sorted(needed):
        v = s.values[i]
        if v.op == "const":
            assert v.number is not None
            names[i] = number_c(v.number)
        else:
            names[i] = text.name(v)
            body.append(f"const {text.kind(v)} {names[i]} = {text.expression(v, [names[a] for a in v.args])};")
    value = s.values[root]
    wide, labels = text.wide(value), s.serial(value.labels)
    place = f"f->{step.places.scratch}{root} + {offset(labels, 'np' if wide else '1')}"
    if wide:
        body.insert(0, "const int n = f->lanes - j < LANES ? (int)(f->lanes - j) : LANES;")
    body.append(f"store({place} + j, {names[root]}, LANES);" if wide else f"*({place}) = {names[root]};")
    across = "for (int64_t j = 0; j < f->lanes; j += LANES) " if wide else ""
    return [f"{loops(labels)} {across}{{", *(f"  {text.one(line, 0)}" for line in body), "}"]


# ---------------------------------------------------------------- the two functions


def forward_text(kernel: Kernel) -> list[str]:
    name = f"{kernel.name}_forward"
    arrays = {"input": "x", "output": "y"}
    places = Places(arrays=arrays, old={"state": "s0"}, new={"state": "s1"}, narrow=kernel.narrow)
    step = Step(name=f"{name}_step", program=kernel.forward, schedule=kernel.steps, places=places, states=("s0", "*s1"))
    f = Function(kernel=kernel, kind="forward", arrays=kernel.forward_arrays, steps=[step])
    states = range(len(kernel.forward.states))
    f.frame()
    f.step(step)
    f.hoist(step)
    f.copy_states("begin", [f"h{k}" for k in states], out=False)
    f.copy_states("end", [f"e{k}" for k in states], out=True)
    memory, body = forth(name, kernel.steps.in_place)
    f.call(memory, [*f.begin_task(), *body])
    return f.lines


def backward_text(kernel: Kernel) -> list[str]:
    name = f"{kernel.name}_backward"
    arrays = {"input": "x", "output": "y", "d_output": "gy", "d_input": "dx"}
    step = Step(
        name=f"{name}_step",
        program=kernel.backward,
        schedule=kernel.adjoint,
        places=Places(arrays=arrays, old={"state": "s0", "d_state": "d0"}, new={"d_state": "d1"}, narrow=kernel.narrow),
        states=("s0", "d0", "*d1"),
    )
    again = Step(
        name=f"{name}_again",
        program=kernel.forward,
        schedule=kernel.again,
        places=Places(arrays=arrays, old={"state": "s0"}, new={"state": "s1"}, scratch="r", narrow=kernel.narrow),
        states=("s0", "*s1"),
    )
    f = Function(
        kernel=kernel,
        kind="backward",
        arrays=kernel.backward_arrays,
        steps=[step] if kernel.stored else [step, again],
    )
    states = range(len(kernel.forward.states))
    f.frame()
    for s in f.steps:
        f.step(s)
        f.hoist(s)
    f.copy_states("begin", [f"ge{k}" for k in states], out=False)
    f.copy_states("end", [f"dh{k}" for k in states], out=True)
    if kernel.stored:
        f.copy_states("first", [f"h{k}" for k in states], out=False)
        f.copy_states("before", [f"y{k}" for k in kernel.stored], out=False, time="t")
    memory, body = back(name, bool(kernel.stored), kernel.adjoint.in_place)
    f.call(memory, [*f.begin_task(), *body])
    return f.lines


def kernel_text(kernel: Kernel) -> str:
    """Everything of one kernel behind `vector_math.h`."""
    parts = [kernel.sizes_text(), kernel.plan_text(), forward_text(kernel), backward_text(kernel)]
    return "\n\n".join("\n".join(p) for p in parts) + "\n"
