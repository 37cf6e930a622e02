"""One region's kernel: its programs, their layout and schedules, and the arrays of its calls.

A task is one sequence of the batch, one index of each outer label and one block of the vector label; it walks through
time with its states in scratch memory.  For the backward `forward` leaves the states at every `chunk`-th step, from
which the states in between are computed again; where outputs hold every state, they are read from there instead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from rnnc.backends.cpu.layout import Layout, choose_layout
from rnnc.backends.cpu.schedule import Schedule, schedule
from rnnc.backends.cpu.text import dim_c
from rnnc.backends.kernels.axes import Axis, Label
from rnnc.backends.kernels.program import Array, Program, backward, forward
from rnnc.backends.kernels.region import Product, Region

BLOCK_BYTES = 16384  # of the states of one task: they stay in the first-level cache
CHUNK_BYTES = 524288  # of the states of one chunk: they stay in the second
LEAST_CHUNK, MOST_CHUNK = 16, 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CArray:
    """An array of a kernel's call.

    Its strides are those of batch, time (of a sequence), each axis with a label, and each label in `parts`, along
    which the array holds parts that the caller adds up.
    """

    name: str
    array: Array
    sequence: bool = False
    batch: bool = True
    parts: tuple[Label, ...] = ()

    @property
    def labels(self) -> list[Label]:
        return [a for a in self.array.axes if a is not None]

    @property
    def strides(self) -> list[str]:
        """What each stride is called behind the array's name."""
        front = (["b"] if self.batch else []) + (["t"] if self.sequence else [])
        return [*front, *map(str, self.labels), *(f"p{x}" for x in self.parts)]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """`name` begins the names of its functions."""

    name: str
    region: Region

    @cached_property
    def forward(self) -> Program:
        return forward(self.region)

    @cached_property
    def backward(self) -> Program:
        return backward(self.region)

    @cached_property
    def layout(self) -> Layout:
        return choose_layout(self.forward, self.backward)

    @cached_property
    def steps(self) -> Schedule:
        return schedule(self.forward, self.layout)

    @cached_property
    def again(self) -> Schedule:
        """The states alone, for the backward."""
        keep = [r for r in self.forward.results if r.target == "state"]
        return schedule(self.forward.pruned(keep), self.layout)

    @cached_property
    def adjoint(self) -> Schedule:
        return schedule(self.backward, self.layout)

    @property
    def stored(self) -> tuple[int, ...]:
        """For each state, the output that holds it after every step; empty unless all have one."""
        found = [k for k in self.region.stored if k is not None]
        return tuple(found) if len(found) == len(self.region.stored) else ()

    @property
    def differentiated(self) -> tuple[int, ...]:
        """Inputs that have a gradient."""
        return tuple(sorted({r.index for r in self.backward.results if r.target == "d_input"}))

    @property
    def shared(self) -> tuple[Label, ...]:
        """Labels that are shared out among tasks."""
        return tuple(x for x in (self.layout.vector, *self.layout.outer) if x is not None)

    @cached_property
    def narrow(self) -> frozenset[str]:
        """Names of arrays that a build for half precision reads and writes in it: long ones along the vector label.

        Not those that hold states from which the backward goes on, nor parts of sums, nor what products with learned
        matrices read or give.
        """
        learned = {p.input for p in self.products}
        parts = {a.name: a.parts for a in (*self.forward_arrays, *self.backward_arrays)}

        def fits(array: Array, *names: str) -> bool:
            whole = not any(parts.get(n) for n in names)
            return not array.static and array.dtype == "real" and self.layout.in_lanes(array.axes) and whole

        found: set[str] = set()
        for k, a in enumerate(self.forward.inputs):
            found |= {f"x{k}", f"dx{k}"} if fits(a, f"dx{k}") and k not in learned else set()
        for k, a in enumerate(self.forward.outputs[: self.wanted]):
            found |= {f"y{k}", f"gy{k}"} if fits(a, f"y{k}") and k not in self.stored else set()
        return frozenset(found)

    @property
    def wanted(self) -> int:
        """How many of the outputs are the caller's."""
        return len(self.forward.outputs)

    @property
    def products(self) -> tuple[Product, ...]:
        """Learned matrices inside a step; see `coupled`."""
        return ()

    # ------------------------------------------------------------ arrays

    def _states(self, name: str) -> list[CArray]:
        return [CArray(name=f"{name}{k}", array=a) for k, a in enumerate(self.forward.states)]

    def _inputs(self) -> list[CArray]:
        arrays = enumerate(self.forward.inputs)
        return [CArray(name=f"x{k}", array=a, sequence=not a.static, batch=not a.static) for k, a in arrays]

    def _parts(self, program: Program, target: str, k: int) -> tuple[Label, ...]:
        over = {x for r in program.results if r.target == target and r.index == k for x in r.over}
        return tuple(x for x in self.shared if x in over)

    @cached_property
    def forward_arrays(self) -> list[CArray]:
        """Inputs x, initial states h, outputs y, final states e."""
        outputs = [
            CArray(name=f"y{k}", array=a, sequence=True, parts=self._parts(self.forward, "output", k))
            for k, a in enumerate(self.forward.outputs)
        ]
        return [*self._inputs(), *self._states("h"), *outputs, *self._states("e")]

    @cached_property
    def backward_arrays(self) -> list[CArray]:
        """Inputs x, initial states h, outputs y that hold states; gradients gy of outputs, ge of final states, dx of
        inputs, dh of initial states.
        """
        outputs, inputs = self.forward.outputs, self.forward.inputs
        held = [CArray(name=f"y{k}", array=outputs[k], sequence=True) for k in sorted(set(self.stored))]
        given = [CArray(name=f"gy{k}", array=a, sequence=True) for k, a in enumerate(outputs)]
        found = [
            CArray(
                name=f"dx{k}",
                array=inputs[k],
                sequence=not inputs[k].static,
                parts=self._parts(self.backward, "d_input", k),
            )
            for k in self.differentiated
        ]
        states = self._states("h"), self._states("ge"), self._states("dh")
        return [*self._inputs(), *states[0], *held, *given, *states[1], *found, *states[2]]

    # ------------------------------------------------------------ sizes

    def numbers(self, axes: Iterable[Axis], lanes: str, prefix: str = "z->", otherwise: str = "1") -> str:
        """How many numbers of scratch memory a value with these axes takes: `lanes` for the vector label."""
        have = set(axes)
        serial = [f"{prefix}n{x}" for x in self.layout.serial if x in have]
        wide = self.layout.in_lanes(have)
        return " * ".join([*serial, lanes if wide else otherwise])

    def size_names(self) -> list[str]:
        return [*(f"n{x}" for x in range(len(self.forward.sizes))), *(o for o, _ in self.offsets()), "np", "total"]

    def offsets(self) -> list[tuple[str, Array]]:
        """The places of the parts of states in scratch memory."""
        return [
            (f"o{k}_{part}", a)
            for k, a in enumerate(self.forward.states)
            for part in range(2 if a.dtype == "complex" else 1)
        ]

    def sizes_text(self) -> list[str]:
        """Sizes of labels, and where the states are in scratch memory."""
        name, dims = self.name, self.region.step.dims
        lines = [f"struct {name}_sizes {{", f"  int64_t {', '.join(self.size_names())};", "};"]
        lines += [f"static struct {name}_sizes {name}_sizes(const int64_t *dims, int64_t block) {{"]
        lines += [f"  struct {name}_sizes z;", "  int64_t at = 0;"]
        lines += [f"  const int64_t d_{d.name} = dims[{k}];" for k, d in enumerate(dims)]
        lines += [f"  (void)d_{d.name};" for d in dims]
        lines += [f"  z.n{x} = {dim_c(size)};" for x, size in enumerate(self.forward.sizes)]
        lines += ["  z.np = (block + LANES - 1) / LANES * LANES;"]
        for o, a in self.offsets():
            lines += [f"  z.{o} = at;", f"  at += {self.numbers(a.axes, 'z.np', 'z.')};"]
        return [*lines, "  z.total = at;", "  return z;", "}"]

    def plan_text(self) -> list[str]:
        """How a call is divided: out = {block, blocks, tasks, numbers of state a task, chunk, alignment}."""
        outer = "".join(f" * z.n{x}" for x in self.layout.outer)
        v = self.layout.vector
        text = f"""\
void {self.name}_plan(const int64_t *dims, int64_t batch, int64_t threads, int64_t *out) {{
  struct {self.name}_sizes z = {self.name}_sizes(dims, LANES);
  const int64_t length = {"1" if v is None else f"z.n{v}"}, many = batch{outer};
  const int64_t wanted = many > 0 && many < 2 * threads ? (2 * threads + many - 1) / many : 1;
  const int64_t unit = many * (length + 4 * LANES - 1) < threads * 4 * LANES ? 2 * LANES : 4 * LANES;
  const int64_t share = ((length + wanted - 1) / wanted + unit - 1) / unit * unit;
  int64_t block = {BLOCK_BYTES} / (int64_t)sizeof(T) * LANES / z.total / LANES * LANES;
  if (block > share) block = share;
  if (block > length) block = length;
  if (block < LANES) block = length < LANES ? length : LANES;
  z = {self.name}_sizes(dims, block);
  const int64_t chunk = {CHUNK_BYTES} / (int64_t)sizeof(T) / z.total;
  out[0] = block;
  out[1] = (length + block - 1) / block;
  out[2] = many * out[1];
  out[3] = z.total;
  out[4] = chunk < {LEAST_CHUNK} ? {LEAST_CHUNK} : chunk > {MOST_CHUNK} ? {MOST_CHUNK} : chunk;
}}"""
        return text.split("\n")
