"""The schedule of steps with products whose matrices do not fit on chip: products by a library, kernels between them.

All products of one vector in one round are a *side*: one product with their matrices side by side.  Between two rounds
one kernel does what is entry by entry, for all of the batch and all entries at once; so a step is as many products and
kernels as it has rounds, and one kernel more where a round's vectors have to be computed before the first product.

A kernel runs ahead of the round `at`, or behind the last one.  A result is computed by the first kernel that has what
it needs, in the backward by the first one behind the products that it needs.  Arrays that go from kernel to kernel are
[g, slot, b, n]: with a slot for every step where the backward reads them, else with two that change places.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rnnc.backends.kernels.program import Array, Program, Result
from rnnc.backends.torch.body import indented
from rnnc.backends.triton.code import Part
from rnnc.backends.triton.coupled import Writer
from rnnc.backends.triton.coupled_step import CoupledStep
from rnnc.backends.triton.gradients import gradient_results
from rnnc.backends.triton.text import Kernel, finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """Products (their places) of one vector, a state before the step or an output of the step program: one round each
    vector.  `kept`: whether the backward reads their results.
    """

    title: str
    round: int
    products: tuple[int, ...]
    state: int | None
    output: int | None
    kept: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A kernel, the round ahead of which it runs (or their number), and the places of the inputs that it reads."""

    at: int
    kernel: Kernel
    inputs: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SteppedStep:
    """A step with products, done step by step.

    `entries`: states that the backward reads entry by entry; `whole`: whether a kernel sums over vectors, hence holds
    them whole.
    """

    coupled: CoupledStep
    sides: tuple[Side, ...]
    entries: tuple[int, ...]
    whole: bool
    forward: tuple[Phase, ...]
    backward: tuple[Phase, ...]


def stepped(c: CoupledStep) -> SteppedStep:
    """The kernels of a step with products."""
    f, b = c.step.forward, c.step.backward
    sides = _sides(c)
    summed = {x for p in (f, b) for over in (*(v.over for v in p.values), *(r.over for r in p.results)) for x in over}
    entries = tuple(k for k in range(len(f.states)) if ("state", k) in _loads(b))
    return SteppedStep(
        coupled=c,
        sides=sides,
        entries=entries,
        whole=bool(summed & {*c.step.layout.inner}),
        forward=tuple(_Phase(c, sides, entries, at).forward(some) for at, some in _forward_phases(c, sides).items()),
        backward=tuple(_Phase(c, sides, entries, at).backward(some) for at, some in _backward_phases(c, sides).items()),
    )


def launches(c: CoupledStep) -> int:
    """Products and kernels of one step, forward and backward together."""
    sides = _sides(c)
    return 2 * (len(sides) + len(_ends(c, sides)))


def _sides(c: CoupledStep) -> tuple[Side, ...]:
    read = _loads(c.step.backward)
    found = []
    for k, ready in enumerate(c.rounds):
        by_vector: dict[tuple[int | None, int | None], list[int]] = {}
        for n in ready:
            by_vector.setdefault((c.products[n].state, c.products[n].output), []).append(n)
        for (state, output), products in by_vector.items():
            arrays = c.step.arrays
            found.append(
                Side(
                    title=arrays.states[state] if state is not None else arrays.outputs[output or 0],
                    round=k,
                    products=tuple(products),
                    state=state,
                    output=output,
                    kept=any(("input", c.products[n].input) in read for n in products),
                )
            )
    return tuple(found)


def _loads(program: Program) -> set[tuple[str, int]]:
    return {(x.source, x.index) for v in program.values if (x := v.load) is not None}


def _ends(c: CoupledStep, sides: Sequence[Side]) -> list[int]:
    """The rounds ahead of which there is a kernel, that of the last one behind all: those with computed vectors."""
    return sorted({s.round for s in sides if s.output is not None} | {len(c.rounds)})


def _forward_phases(c: CoupledStep, sides: Sequence[Side]) -> dict[int, list[Result]]:
    """The results of each kernel, first to last: everything by the first one behind the products that it reads."""
    program = c.step.forward
    behind = {c.products[n].input: s.round + 1 for s in sides for n in s.products}
    found: dict[int, list[Result]] = {at: [] for at in _ends(c, sides)}
    for r in program.results:
        needed = max((behind.get(k, 0) for source, k in _loads(program.pruned([r])) if source == "input"), default=0)
        found[min(at for at in found if at >= needed)].append(r)
    return found


def _backward_phases(c: CoupledStep, sides: Sequence[Side]) -> dict[int, list[Result]]:
    """The results of each kernel, last to first: everything by the first one that has the gradients of the vectors
    that it reads.
    """
    program = c.step.backward
    rounds = {s.output: s.round for s in sides if s.output is not None}
    found: dict[int, list[Result]] = {at: [] for at in reversed(_ends(c, sides))}
    for r in program.results:
        needed = [rounds[k] for source, k in _loads(program.pruned([r])) if source == "d_output" and k in rounds]
        found[min([*needed, len(c.rounds)])].append(r)
    return found


NUMBERS = ("T", "step", "S")


class _Phase(Writer):
    """One kernel."""

    def __init__(self, c: CoupledStep, sides: Sequence[Side], entries: Sequence[int], at: int) -> None:
        super().__init__(c)
        self.sides, self.entries, self.at = sides, entries, at
        self.f.names.taken -= {form.format(n) for n in c.step.arrays.states for form in ("{}", "d_{}")}
        forms = ("{}_steps_ptr", "{}_operand_ptr", "{}_products_ptr", "{}_back_ptr", "d_{}_products_ptr", "d_{}_ptr")
        a = c.step.arrays
        self.f.names.taken |= {form.format(n) for n in (*a.states, *a.outputs, *a.inputs) for form in forms}

    # ------------------------------------------------------------ places

    def indices(self) -> list[str]:
        """From the program's number to the indices b, g, n, ..., their masks, and the step of each sequence."""
        layout = self.step.layout
        lines = ["program = tl.program_id(0).to(tl.int64)", "blocks = tl.cdiv(B, BB)"]
        lines.append(f"b = program % blocks * BB + tl.arange(0, BB){layout.index('b')}")
        lines.append("part = (program // blocks % PARTS).to(tl.int32)")
        lines += ["g = program // blocks // PARTS"] if layout.grid else []
        for n in layout.inner_names:
            lines.append(f"{n} = part * B{n.upper()} + tl.arange(0, B{n.upper()}){layout.index(n)}")
        lines += ["in_b = b < B", *(f"in_{n} = {n} < {n.upper()}" for n in layout.inner_names)]
        self.s.helpers.add("sequences")
        lines += ["at, origin, length = sequences(bounds_ptr, b, in_b, T, PACKED)", "t = origin + step"]
        return [*lines, "alive = step < length"]

    def place(self, array: Array, slot: str = "") -> str:
        """The offset of an entry of a contiguous array [g, slot, b, n], of [g, b, n] without a slot."""
        rest = [a for a in self.f.held(array) if a != "g"]
        return self.f.place((*self.f.whole((), ()), *([slot] if slot else []), "b", *rest))

    def mask(self, array: Array) -> str:
        """What of a tile belongs to a sequence, whether or not that has ended."""
        return self.f.mask(self.f.held(array), False)

    def state_at(self, k: int, new: bool = False) -> str:
        """Where state k stands before the step or (`new`) after it."""
        kept, changing = ("after", "there") if new else ("slot", "here")
        return self.place(self.step.forward.states[k], kept if k in self.entries else changing)

    def product_at(self, n: int, slot: str) -> str:
        """Where product n stands, among those of its side: [g, slot, b, entries of all of the side's]."""
        side = self.side_of(n)
        sizes = [self.c.ends(k)[1].upper() for k in side.products]
        front = self.f.place((*self.f.whole((), ()), slot, "b"))
        whole = _added(sizes)
        ahead = [_added(sizes[: side.products.index(n)])] if n != side.products[0] else []
        return " + ".join([f"({front}) * {whole if whole.isidentifier() else f'({whole})'}", *ahead, self.c.ends(n)[1]])

    def side_of(self, n: int) -> Side:
        return next(s for s in self.sides if n in s.products)

    def operand(self, k: int) -> Side | None:
        """The side of which state k is the vector."""
        return next((s for s in self.sides if s.state == k), None)

    # ------------------------------------------------------------ what a kernel reads

    def give(self, program: Program) -> None:
        """Variables for all that a program reads of states, products and gradients from behind."""
        places = {p.input: n for n, p in enumerate(self.c.products)}
        for source, k in sorted(_loads(program)):
            if source == "state":
                name, array = self.step.arrays.states[k], program.states[k]
                own = self.f.load(f"{name}_steps_ptr", self.state_at(k), self.mask(array))
                self.f.given["state", k, 0] = self.s.bind(name, own)
            elif source == "input" and k in places:
                n, mask = places[k], self.f.mask(self.f.held(program.inputs[k]), True)
                side = self.side_of(n)
                offset = self.product_at(n, "slot" if side.kept else "here")
                own = self.f.load(f"{side.title}_products_ptr", offset, mask)
                self.f.given["input", k, 0] = self.s.bind(self.title(n), own)
            elif source == "d_state":
                self.gradient_behind(k)
            elif source == "d_output" and k >= self.c.coupled.wanted:
                side = next(s for s in self.sides if s.output == k)
                self.f.given["d_output", k, 0] = self.s.bind(f"d_{side.title}", self.back(side, program.outputs[k]))

    def back(self, side: Side, array: Array) -> Part:
        """The gradient of a side's vector by its products."""
        return self.f.load(f"{side.title}_back_ptr", self.place(array), self.mask(array))

    def gradient_behind(self, k: int) -> Part:
        """The gradient of state k after the step: what the step behind it left, and what that one's products did."""
        known = self.f.given.get(("d_state", k, 0))
        if known is None:
            name, array = self.step.arrays.states[k], self.step.forward.states[k]
            own = self.f.load(f"d_{name}_ptr", self.place(array, "there"), self.mask(array)).text
            side = self.operand(k)
            more = "" if side is None else f" + {self.back(side, array).text}"
            known = self.f.given["d_state", k, 0] = self.s.bind(f"d_{name}", Part(text=own + more))
        return known

    # ------------------------------------------------------------ what it writes

    def store(self, pointer: str, offset: str, value: str, array: Array) -> None:
        self.f.store(pointer, offset, value, self.mask(array))

    def moved(self, title: str, value: str, old: str) -> str:
        """A variable for a new value, which sequences that have ended do not take."""
        own = value.isidentifier() and value not in {x.text for x in self.f.given.values()}
        name = value if own else self.s.bind(title, Part(text=value)).text
        lines = [f"old = {old}", f"{name} = tl.where(alive, {name}, old)"]
        if old.isidentifier():
            lines = [f"{name} = tl.where(alive, {name}, {old})"]
        self.s.lines += ["if PACKED:", *indented(lines)]
        return name

    def forward(self, results: Sequence[Result]) -> Phase:
        program = self.step.forward.pruned(results)
        self.give(program)
        arrays = self.step.arrays
        for r, value in zip(program.results, self.s.run(program), strict=True):
            if r.target == "output" and r.index < self.c.coupled.wanted:
                self.f.store_output(r, value)
                continue
            text = self.tile(program, r, value)
            if r.target == "output":
                array = program.outputs[r.index]
                offset = self.place(array, "slot")
                self.store(f"{arrays.outputs[r.index]}_operand_ptr", offset, f"tl.where(alive, {text}, 0.0)", array)
                continue
            name, array, known = arrays.states[r.index], program.states[r.index], ("state", r.index, 0)
            old = self.f.given.get(known) or self.f.load(f"{name}_steps_ptr", self.state_at(r.index), self.mask(array))
            new = self.moved(f"{name}_new", text, old.text)
            self.store(f"{name}_steps_ptr", self.state_at(r.index, new=True), new, array)
            if self.operand(r.index) is not None:
                self.store(f"{name}_operand_ptr", self.place(array, "after"), new, array)
        head = ["here = step % 2", "there = (step + 1) % 2", "slot = step if KEEP else here"]
        arguments = [
            [f"{s.title}_products_ptr" for s in self.sides],
            [f"{n}_steps_ptr" for n in arrays.states],
            [f"{s.title}_operand_ptr" for s in self.sides],
            [f"{n}_ptr" for n in arrays.outputs[: self.c.coupled.wanted]],
        ]
        return self.phase("forward", program, arguments, [*head, "after = step + 1 if KEEP else there"])

    def backward(self, results: Sequence[Result]) -> Phase:
        program = self.step.backward.pruned(results)
        self.give(program)
        places = {p.input: n for n, p in enumerate(self.c.products)}
        arrays = self.step.arrays
        for r, value in zip(program.results, self.s.run(program), strict=True):
            if r.target == "d_state":
                name, array = arrays.states[r.index], program.states[r.index]
                new = self.moved(f"d_{name}_new", self.tile(program, r, value), self.gradient_behind(r.index).text)
                self.store(f"d_{name}_ptr", self.place(array, "here"), new, array)
            elif r.index in places:
                n, array = places[r.index], program.inputs[r.index]
                pointer = f"d_{self.side_of(n).title}_products_ptr"
                text = f"tl.where(alive, {self.tile(program, r, value)}, 0.0)"
                self.store(pointer, self.product_at(n, "slot"), text, array)
            elif program.inputs[r.index].static:
                self.add_up(program, r, value)
            else:
                self.store_gradient(r, value)
        known = dict.fromkeys(r.index for r in gradient_results(self.step.backward))
        arguments = [
            [f"{s.title}_products_ptr" for s in self.sides if s.kept],
            [f"{arrays.states[k]}_steps_ptr" for k in self.entries],
            [f"d_{n}_ptr" for n in arrays.states],
            [f"{s.title}_back_ptr" for s in self.sides],
            [f"d_{s.title}_products_ptr" for s in self.sides],
            [f"d_{n}_ptr" for n in arrays.outputs[: self.c.coupled.wanted]],
            [f"d_{arrays.inputs[k]}_ptr" for k in self.c.given if k in known],
        ]
        return self.phase("backward", program, arguments, ["here = step % 2", "there = (step + 1) % 2", "slot = step"])

    def store_gradient(self, result: Result, value: Part) -> None:
        """The gradient of a sequence."""
        array = self.step.forward.inputs[result.index]
        held = self.f.held(array)
        total, offset = self.f.summed(result, value), self.f.place(self.f.whole(("at", "t"), held))
        self.f.store(f"d_{self.step.arrays.inputs[result.index]}_ptr", offset, total.text, self.f.mask(held, True))

    def add_up(self, program: Program, result: Result, value: Part) -> None:
        """The gradient of a static input, of which each sequence has its own."""
        array = program.inputs[result.index]
        held = self.f.held(array)
        pointer = f"d_{self.step.arrays.inputs[result.index]}_ptr + {self.f.place(self.f.whole(('b',), held))}"
        mask = self.f.mask(held, True) + ("" if {*held} - {"g"} else " & (part == 0)")
        total = self.s.bind(f"d_{self.step.arrays.inputs[result.index]}", self.f.summed(result, value)).text
        self.s.lines.append(f"so_far = tl.load({pointer}, mask={mask}, other=0.0)")
        self.s.lines.append("tl.debug_barrier()")  # loads and stores may be laid out over other threads each
        self.s.lines.append(f"tl.store({pointer}, so_far + {total}, mask={mask})")

    # ------------------------------------------------------------ the kernel

    def phase(self, role: str, program: Program, arguments: list[list[str]], head: list[str]) -> Phase:
        read = {k for source, k in _loads(program) if source == "input"}
        inputs = tuple(k for k in self.c.given if k in read)
        rows = self.f.input_arguments()
        given = [["bounds_ptr"], *(rows[k] for k in inputs), *arguments, ["step", "S"]]
        what = "one step" if role == "forward" else "back through one step"
        rounds = len(self.c.rounds)
        what += ", behind its products" if self.at == rounds else f", ahead of round {self.at + 1} of its products"
        used = [line for line in head if role == "forward" or self.mentions(line.split()[0])]
        lines = [*self.indices(), *used, *self.s.lines]
        constants = ["PARTS", *(["KEEP"] if role == "forward" else [])]
        kernel = finished(self.f, f"{self.step.name}_{role}_{self.at}", what, given, constants, lines, NUMBERS)
        return Phase(at=self.at, kernel=kernel, inputs=inputs)

    def mentions(self, name: str) -> bool:
        return any(name in line for line in self.s.lines)


def _added(sizes: Sequence[str]) -> str:
    """A sum of sizes: ["N", "N", "M"] --> "2 * N + M"."""
    return " + ".join(n if many == 1 else f"{many} * {n}" for n, many in Counter(sizes).items())
