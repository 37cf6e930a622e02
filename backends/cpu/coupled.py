"""Kernels of groups whose entries meet in products with learned matrices: LSTM, GRU and whatever is written like them.

A task is some sequences of the batch (`rows`) and one index of each outer label.  A step is, for all of them, the
vectors that products need, the products (each matrix is read once for all rows), and then the rest entry by entry.
For the backward the states and the products of all steps are kept: to work them out again would cost the products.
The gradients of the matrices are one product over all steps, which the caller does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rnnc.backends.cpu.functions import Function, Step
from rnnc.backends.cpu.kernel import CArray, Kernel
from rnnc.backends.cpu.schedule import schedule
from rnnc.backends.cpu.text import Places, index
from rnnc.backends.kernels.program import Array, Program, Result, ValueId
from rnnc.backends.kernels.region import Coupled, Product

MOST_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class CoupledKernel(Kernel):
    """A kernel with products between its parts."""

    coupled: Coupled

    @property
    def products(self) -> tuple[Product, ...]:
        return self.coupled.products

    @property
    def wanted(self) -> int:
        return self.coupled.wanted

    @cached_property
    def narrow(self) -> frozenset[str]:
        """Those of a kernel, and what products are added to."""
        own: frozenset[str] = Kernel.narrow.func(self)  # type: ignore[attr-defined]
        return own | {a.name for a in self._starts()}

    @property
    def stored(self) -> tuple[int, ...]:
        """None: the states of all steps are kept beside the outputs."""
        return ()

    @property
    def fits(self) -> bool:
        """Whether everything is laid out along the label of the products' vectors."""
        return self.layout.vector is not None and not self.layout.serial

    @cached_property
    def rounds(self) -> list[list[int]]:
        """Places of products, in rounds: those of one round need only those before it."""
        inputs = {p.input: n for n, p in enumerate(self.products)}
        reads: list[set[int]] = []  # of each product, those its vector is computed from
        for p in self.products:
            roots = [r.value for r in self.forward.results if r.target == "output" and r.index == p.output]
            loads = [self.forward.values[i].load for i in _cone(self.forward, roots)]
            found = {x.index for x in loads if x is not None and x.source == "input"}
            reads.append({inputs[i] for i in found & inputs.keys()})
        rounds: list[list[int]] = []
        done: set[int] = set()
        while len(done) < len(self.products):
            ready = [n for n in range(len(self.products)) if n not in done and reads[n] <= done]
            assert ready, "products of one step depend on each other in no circle"
            rounds.append(ready)
            done |= set(ready)
        return rounds

    def _kept(self) -> list[CArray]:
        return [CArray(name=f"k{k}", array=a, sequence=True) for k, a in enumerate(self.forward.states)]

    def _matrices(self) -> list[CArray]:
        """Panels of the products' matrices: their strides are those of the outer labels."""
        axes = tuple(self.layout.outer)
        array = Array(dtype="real", axes=axes, static=True)
        return [CArray(name=f"m{n}", array=array, batch=False) for n in range(len(self.products))]

    def _starts(self) -> list[CArray]:
        """What products are added to."""
        found = [(n, p) for n, p in enumerate(self.products) if p.start is not None]
        return [CArray(name=f"q{n}", array=self.forward.inputs[p.input], sequence=True) for n, p in found]

    @cached_property
    def forward_arrays(self) -> list[CArray]:
        """Those of a kernel, then k, the states before every step, m, the products' matrices, and q, what they are
        added to.
        """
        own = Kernel.forward_arrays.func(self)  # type: ignore[attr-defined]
        return [*own, *self._kept(), *self._matrices(), *self._starts()]

    @cached_property
    def backward_arrays(self) -> list[CArray]:
        """Those of a kernel, then k, the states before every step, and m, the transposed matrices."""
        return [*Kernel.backward_arrays.func(self), *self._kept(), *self._matrices()]  # type: ignore[attr-defined]

    def plan_text(self) -> list[str]:
        outer = " * ".join(f"z.n{x}" for x in self.layout.outer) or "1"
        text = f"""\
void {self.name}_plan(const int64_t *dims, int64_t batch, int64_t threads, int64_t *out) {{
  struct {self.name}_sizes z = {self.name}_sizes(dims, LANES);
  const int64_t outer = {outer}, wanted = outer >= threads ? 1 : (threads + outer - 1) / outer;
  int64_t rows = (batch + wanted - 1) / wanted;
  if (rows > {MOST_ROWS}) rows = {MOST_ROWS};
  if (rows < 1) rows = 1;
  out[0] = z.n{self.layout.vector};
  out[1] = 1;
  out[2] = (batch + rows - 1) / rows * outer;
  z = {self.name}_sizes(dims, out[0]);
  out[3] = z.total;
  out[4] = rows;
  out[6] = batch;
  out[7] = PANEL;
}}"""
        return text.split("\n")


def _cone(program: Program, roots: Sequence[ValueId]) -> set[ValueId]:
    found, work = set(roots), list(roots)
    while work:
        fresh = [a for a in program.values[work.pop()].args if a not in found]
        found |= set(fresh)
        work += fresh
    return found


# ---------------------------------------------------------------- text


@dataclass(slots=True, kw_only=True)
class _Writer:
    """One of the two functions."""

    kernel: CoupledKernel
    f: Function

    def each_row(self, call: str) -> str:
        return f"for (int r = 0; r < rows; r++) {call}"

    def begin(self) -> list[str]:
        """Frames of all rows of a task."""
        f = self.f
        static = [f"  {s.name}_static(f);" for s in f.steps if s.schedule.hoisted]
        return [
            *f.divide(),
            "const int64_t batch = plan[6], left = batch - rest * plan[4];",
            "const int rows = (int)(left < plan[4] ? left : plan[4]);",
            "for (int r = 0; r < rows; r++) {",
            "  f = frames + r;",
            "  const int64_t b = rest * plan[4] + r;",
            *(f"  {line}" for line in f.fill_frame()),
            *static,
            "}",
            f"T *in[{MOST_ROWS}], *from[{MOST_ROWS}], *out[{MOST_ROWS}];",
            "(void)from;",
        ]

    def product(self, n: int, vector: str, result: str, start: str = "") -> list[str]:
        """A product for all rows, added to `start`; all are the pointers of row r."""
        size = f"z->n{self.kernel.layout.vector}"
        lines = [self.each_row(f"in[r] = {vector}, out[r] = {result};")]
        if f"q{n}" in start:  # of half precision where others are: the result's memory holds it in between
            half = self.each_row(f"from[r] = widened(out[r], {start}, {size});")
            lines += ["#ifdef RNNC_E", half, "#else", self.each_row(f"from[r] = {start};"), "#endif"]
        elif start:
            lines.append(self.each_row(f"from[r] = {start};"))
        given = "from" if start else "NULL"
        return [*lines, f"product(rows, in, {size}, frames[0].m{n}, {given}, out, {size});"]

    def at(self, name: str) -> str:
        """The pointer of row r to an array at step t."""
        return f"frames[r].{name} + t * frames[r].{name}_t"


def _results(program: Program, target: str, indices: Sequence[int]) -> list[Result]:
    return [r for r in program.results if r.target == target and r.index in indices]


def coupled_forward(kernel: CoupledKernel) -> list[str]:
    name = f"{kernel.name}_forward"
    arrays = {"input": "x", "output": "y"}
    places = Places(arrays=arrays, old={"state": "s0"}, new={"state": "s1"}, narrow=kernel.narrow)
    steps: list[Step] = []

    def step(label: str, results: list[Result], states: tuple[str, ...]) -> Step:
        program = kernel.forward.pruned(results)
        made = schedule(program, kernel.layout)
        own = replace(places, scratch=f"w{len(steps)}_")
        steps.append(Step(name=f"{name}_{label}", program=program, schedule=made, places=own, states=states))
        return steps[-1]

    outputs = [r for r in kernel.forward.results if r.target == "state" or r.index < kernel.coupled.wanted]
    last = step("step", outputs, ("s0", "*s1"))
    lines: list[str] = []
    f = Function(kernel=kernel, kind="forward", arrays=kernel.forward_arrays, steps=steps)
    w = _Writer(kernel=kernel, f=f)
    for at, products in enumerate(kernel.rounds):
        needed = sorted({p.output for n in products if (p := kernel.products[n]).output is not None})
        if needed:
            vectors = step(f"vectors{at}", _results(kernel.forward, "output", needed), ("s0",))
            lines.append(w.each_row(f"{vectors.name}(frames + r, t, now + r * z->total);"))
        for n in products:
            p = kernel.products[n]
            vector = f"now + r * z->total + z->o{p.state}_0" if p.state is not None else w.at(f"y{p.output}")
            lines += w.product(n, vector, w.at(f"x{p.input}"), "" if p.start is None else w.at(f"q{n}"))
    states = range(len(kernel.forward.states))
    f.frame()
    for s in steps:
        f.step(s)
        f.hoist(s)
    f.copy_states("begin", [f"h{k}" for k in states], out=False)
    f.copy_states("end", [f"e{k}" for k in states], out=True)
    f.copy_states("keep", [f"k{k}" for k in states], out=True, time="t")
    turn = [] if last.schedule.in_place else ["T *turn = now;", "now = next;", "next = turn;"]
    body = [
        *w.begin(),
        f"T *now = states, *next = states{f' + {MOST_ROWS} * z->total' if turn else ''};",
        w.each_row(f"{name}_begin(frames + r, now + r * z->total);"),
        "for (int64_t t = 0; t < steps; t++) {",
        f"  if (checkpoints) {w.each_row(f'{name}_keep(frames + r, now + r * z->total, t);')}",
        *(f"  {line}" for line in lines),
        f"  {w.each_row(f'{last.name}(frames + r, t, now + r * z->total, next + r * z->total);')}",
        *(f"  {line}" for line in turn),
        "}",
        w.each_row(f"{name}_end(frames + r, now + r * z->total);"),
    ]
    f.call([("states", f"{2 * MOST_ROWS} * z->total")], body, frames=MOST_ROWS)
    return f.lines


def coupled_backward(kernel: CoupledKernel) -> list[str]:
    name = f"{kernel.name}_backward"
    arrays = {"input": "x", "output": "y", "d_output": "gy", "d_input": "dx"}
    old = {"state": "s0", "d_state": "d0"}
    places = Places(arrays=arrays, old=old, new={"d_state": "d1"}, narrow=kernel.narrow)
    steps: list[Step] = []

    def step(label: str, results: list[Result], states: tuple[str, ...]) -> Step:
        program = kernel.backward.pruned(results)
        made = schedule(program, kernel.layout)
        own = replace(places, scratch=f"w{len(steps)}_")
        steps.append(Step(name=f"{name}_{label}", program=program, schedule=made, places=own, states=states))
        return steps[-1]

    f = Function(kernel=kernel, kind="backward", arrays=kernel.backward_arrays, steps=steps)
    w = _Writer(kernel=kernel, f=f)
    early: list[str] = []
    before: set[int] = set()  # products whose gradient is there before the last part
    written: set[int] = set()  # vectors that have a gradient already
    for at, products in reversed(list(enumerate(kernel.rounds))):
        computed = [n for n in products if kernel.products[n].output is not None]
        if not computed:
            continue
        inputs = [kernel.products[n].input for n in computed]
        part = step(f"round{at}", _results(kernel.backward, "d_input", inputs), ("s0", "d0"))
        early.append(w.each_row(f"{part.name}(frames + r, t, states + r * z->total, now + r * z->total);"))
        for n in computed:
            p = kernel.products[n]
            assert p.output is not None
            gradient = w.at(f"gy{p.output}")
            early += w.product(n, w.at(f"dx{p.input}"), gradient, gradient if p.output in written else "")
            written.add(p.output)
        before |= set(inputs)
    rest = [r for r in kernel.backward.results if not (r.target == "d_input" and r.index in before)]
    last = step("step", rest, ("s0", "d0", "*d1"))
    late: list[str] = []
    for n, p in enumerate(kernel.products):
        if p.state is not None:
            gradient = f"next + r * z->total + z->o{p.state}_0"
            late += w.product(n, w.at(f"dx{p.input}"), gradient, gradient)
    states = range(len(kernel.forward.states))
    f.frame()
    for s in steps:
        f.step(s)
        f.hoist(s)
    f.copy_states("begin", [f"ge{k}" for k in states], out=False)
    f.copy_states("end", [f"dh{k}" for k in states], out=True)
    f.copy_states("before", [f"k{k}" for k in states], out=False, time="t")
    turn = [] if last.schedule.in_place else ["T *turn = now;", "now = next;", "next = turn;"]
    now = "states + r * z->total, now + r * z->total"
    body = [
        *w.begin(),
        f"T *now = gradients, *next = gradients{f' + {MOST_ROWS} * z->total' if turn else ''};",
        w.each_row(f"{name}_begin(frames + r, now + r * z->total);"),
        "for (int64_t t = steps - 1; t >= 0; t--) {",
        f"  {w.each_row(f'{name}_before(frames + r, states + r * z->total, t);')}",
        *(f"  {line}" for line in early),
        f"  {w.each_row(f'{last.name}(frames + r, t, {now}, next + r * z->total);')}",
        *(f"  {line}" for line in late),
        *(f"  {line}" for line in turn),
        "}",
        w.each_row(f"{name}_end(frames + r, now + r * z->total);"),
    ]
    size = f"{MOST_ROWS} * z->total"
    f.call([("gradients", f"2 * {size}"), ("states", size)], body, frames=MOST_ROWS)
    return f.lines


def coupled_text(kernel: CoupledKernel) -> str:
    """Everything of one kernel behind `vector_math.h`."""
    parts = [kernel.sizes_text(), kernel.plan_text(), coupled_forward(kernel), coupled_backward(kernel)]
    return "\n\n".join("\n".join(p) for p in parts) + "\n"


__all__ = ["CoupledKernel", "coupled_text", "index"]
