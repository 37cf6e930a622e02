"""The schedule of steps with products of learned matrices: one step after another, states and matrices on chip.

A program holds some sequences of the batch (rows) and, of one head, whole states and whole matrices.  A step is the
vectors that products need, the products, and then the rest entry by entry.  Products are done in rounds where one needs
another's result (a reset gate applied before the product).

For the backward the states before every step and the results of the products are kept: then it needs the transposed
matrices only, and the gradients of the matrices are one product over all steps, which the caller does.
"""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.backends.kernels.program import Array, Program, Result
from rnnc.backends.torch.body import indented
from rnnc.backends.triton.code import Part
from rnnc.backends.triton.coupled_step import CoupledStep
from rnnc.backends.triton.frame import Frame
from rnnc.backends.triton.gradients import gradient_results, store_accumulators, store_gradients
from rnnc.backends.triton.text import Kernel, finished


def coupled_kernels(c: CoupledStep) -> tuple[Kernel, Kernel]:
    return _OnChip(c).forward(), _OnChip(c).backward()


LOOP = "for step in tl.range(0, tl.max(length), num_stages=STAGES):"
BACK = "for back in tl.range(0, tl.max(length), num_stages=STAGES):"


class Writer:
    """A kernel of a step with products in the making."""

    def __init__(self, c: CoupledStep) -> None:
        self.c, self.step = c, c.step
        self.f = Frame(step=c.step, layout=c.step.layout)
        self.s = self.f.statements

    def title(self, n: int) -> str:
        """The name of a product's result: that of the array that takes it."""
        return self.step.arrays.inputs[self.c.products[n].input]

    def tile(self, program: Program, result: Result, value: Part) -> str:
        """A result as a whole tile of its array, axes that the value lacks included."""
        shape = self.f.layout.shape(["b", *self.f.layout.held(result.axes)])
        if value.number is not None:
            return f"tl.full({shape}, {value.text}, ACC)"
        own = {*program.values[result.value].labels}
        return (
            value.text
            if {a for a in result.axes if a is not None} <= own
            else f"tl.broadcast_to({value.text}, {shape})"
        )


class _OnChip(Writer):
    """One of the two kernels that take all steps."""

    def __init__(self, c: CoupledStep) -> None:
        super().__init__(c)
        self.f.names.taken |= {f"{w}{end}" for w in c.weights for end in ("", "_ptr", "_g", "_i", "_o")}

    # ------------------------------------------------------------ arguments and matrices

    def inputs(self) -> list[list[str]]:
        rows = self.f.input_arguments()
        grid = ["g"] if self.step.layout.grid else []
        return [
            *(rows[k] for k in self.c.given),
            *([f"{w}_ptr", *(f"{w}_{axis}" for axis in (*grid, "o", "i"))] for w in self.c.weights),
        ]

    def matrices(self, *, turned: bool) -> list[str]:
        """All matrices, [in, out] or (`turned`, for gradients) [out, in]."""
        grid = "g * {0}_g + " if self.step.layout.grid else ""
        first, last = ("o", "i") if turned else ("i", "o")
        pairs = [self.c.ends(n)[::-1] if turned else self.c.ends(n) for n in range(len(self.c.products))]
        several = len(self.step.layout.inner) > 1
        lines = []
        for x in dict.fromkeys(x for x, _ in pairs):
            lines.append(f"{self.rows(x)} = tl.arange(0, B{x.upper()})[:, None]")
        if not several:
            lines.append("whole = (rows < N) & in_n")
        for w, (x, y) in zip(self.c.weights, pairs, strict=True):
            place = f"{grid}{self.rows(x)} * {{0}}_{first} + {y} * {{0}}_{last}".format(w)
            mask = f"({self.rows(x)} < {x.upper()}) & in_{y}" if several else "whole"
            lines.append(f"{w} = tl.load({w}_ptr + {place}, mask={mask}, other=0.0).to(LOW)")
        return lines

    def rows(self, axis: str) -> str:
        return f"rows_{axis}" if len(self.step.layout.inner) > 1 else "rows"

    def arrays(self, of: Sequence[str], places: Sequence[int], form: str) -> list[str]:
        return [form.format(of[k]) for k in places]

    def product(self, vector: str, n: int, turned: bool = False) -> str:
        self.s.helpers.add("product")
        return f"product({vector}, {self.c.weights[n]}, in_{self.c.ends(n)[turned]})"

    def tiles(self, program: Program, results: list[Result]) -> list[str]:
        values = self.s.run(program.pruned(results))
        return [self.tile(program, r, v) for r, v in zip(results, values, strict=True)]

    # ------------------------------------------------------------ parts of a step

    def results(self, program: Program, target: str, places: Sequence[int]) -> list[Result]:
        return [r for r in program.results if r.target == target and r.index in places]

    def give(self, source: str, names: Sequence[str], places: Sequence[int]) -> None:
        for k in places:
            self.f.given[source, k, 0] = Part(text=names[k])

    def vector(self, n: int) -> str:
        """What product n multiplies: a state, or a value that the step computes."""
        p = self.c.products[n]
        if p.state is not None:
            return self.step.arrays.states[p.state]
        return self.tiles(self.step.forward, self.results(self.step.forward, "output", [p.output or 0]))[0]

    def load(self, pointer: str, array: Array) -> Part:
        """A sequence [at, t, ...] in the precision of the arithmetic or of the products."""
        held = self.f.held(array)
        return self.f.load(pointer, self.f.place(self.f.whole(("at", "t"), held)), self.f.mask(held, True))

    def save(self, pointer: str, array: Array, value: str) -> str:
        held = self.f.held(array)
        offset = self.f.place(self.f.whole(("at", "t"), held))
        return f"tl.store({pointer} + {offset}, {value}, mask={self.f.mask(held, True)})"

    def keep(self, lines: Sequence[str]) -> None:
        """Stores for the backward, at once: until the end of the step they would hold on to registers."""
        self.s.lines += ["if KEEP:", *indented(lines)] if lines else []

    def move(self, names: Sequence[str], new: Sequence[str]) -> None:
        """New states all at once; packed sequences that have ended keep theirs, others end together."""
        kept = ", ".join(f"tl.where(alive, {x}, {h})" for h, x in zip(names, new, strict=True))
        states = ", ".join(names)
        self.s.lines += ["if PACKED:", f"    {states} = {kept}", "else:", f"    {states} = {', '.join(new)}"]

    # ------------------------------------------------------------ the kernels

    def forward(self) -> Kernel:
        c, f, s = self.c, self.f, self.s
        program, arrays = self.step.forward, self.step.arrays
        static = f.hoisted(program)
        states = [parts[0] for parts in f.state_names()]
        self.give("state", states, range(len(states)))
        self.keep([self.save(f"{states[k]}_kept_ptr", program.states[k], states[k]) for k in c.states])
        for ready in c.rounds:
            keep = []
            for n in ready:
                p = c.products[n]
                name = s.bind(self.title(n), Part(text=self.product(self.vector(n), n))).text
                f.given["input", p.input, 0] = Part(text=name)
                if n in c.kept:
                    keep.append(self.save(f"{self.title(n)}_kept_ptr", program.inputs[p.input], name))
            self.keep(keep)
        wanted = [r for r in program.results if r.target == "state" or r.index < c.coupled.wanted]
        new: list[str] = []
        for result, value in zip(wanted, s.run(program.pruned(wanted)), strict=True):
            if result.target == "output":
                f.store_output(result, value)
            else:
                new.append(self.tile(program, result, value))
        self.move(states, new)
        loop, s.lines = s.lines, []
        f.load_states("{}_start_ptr", [[x] for x in states])
        head, s.lines = s.lines, []
        f.store_states("{}_last_ptr", [[x] for x in states])
        lines = [*f.indices(), *self.matrices(turned=False), *static, *head, LOOP]
        lines += ["    t = origin + step", "    alive = step < length", *indented(loop), *s.lines]
        titles = [self.title(n) for n in range(len(c.products))]
        arguments = [
            ["bounds_ptr"],
            *self.inputs(),
            [f"{n}_start_ptr" for n in arrays.states],
            [f"{n}_ptr" for n in arrays.outputs[: c.coupled.wanted]],
            [f"{n}_last_ptr" for n in arrays.states],
            self.arrays(arrays.states, c.states, "{}_kept_ptr") + self.arrays(titles, c.kept, "{}_kept_ptr"),
        ]
        constants = ["LOW", "KEEP", "STAGES"]
        return finished(f, f"{self.step.name}_forward", "every step", arguments, constants, lines)

    def backward(self) -> Kernel:
        c, f, s = self.c, self.f, self.s
        program, arrays = self.step.backward, self.step.arrays
        static = f.hoisted(self.step.forward, program)
        states = [parts[0] for parts in f.state_names()]
        carry = [parts[0] for parts in f.state_names("d_{}")]
        for k in c.states:
            part = self.load(f"{states[k]}_kept_ptr", program.states[k])
            s.lines.append(f"{states[k]} = {part.text}")
        self.give("state", states, range(len(states)))
        self.give("d_state", carry, range(len(carry)))
        for n in c.kept:
            own = self.load(f"{self.title(n)}_kept_ptr", program.inputs[c.products[n].input])
            f.given["input", c.products[n].input, 0] = s.bind(self.title(n), own)
        for at in c.vectors:
            (text,) = self.tiles(self.step.forward, self.results(self.step.forward, "output", [at]))
            s.lines.append(self.save(f"{arrays.outputs[at]}_ptr", self.step.forward.outputs[at], text))
        gradients, stored = self.rounds_behind()
        rest = [k for k in c.given if k not in stored]
        accumulators = store_gradients(f, program.pruned(self.results(program, "d_input", rest)))
        self.move(carry, self.new_gradients(gradients))
        loop, s.lines = s.lines, []
        if c.crowded:  # static inputs are read anew at every step
            static, loop = [], [*static, *loop]
        f.load_states("d_{}_last_ptr", [[x] for x in carry])
        head, s.lines = s.lines, []
        f.store_states("d_{}_start_ptr", [[x] for x in carry])
        store_accumulators(f, accumulators)
        lines = [*f.indices(), *self.matrices(turned=True), *static, *head, *(a.start for a in accumulators), BACK]
        lines += ["    step = tl.max(length) - 1 - back", "    t = origin + step", "    alive = step < length"]
        lines += [*indented(loop), *s.lines]
        titles = [self.title(n) for n in range(len(c.products))]
        with_gradient = dict.fromkeys(r.index for r in gradient_results(program))
        arguments = [
            ["bounds_ptr"],
            *self.inputs(),
            self.arrays(arrays.states, c.states, "{}_kept_ptr") + self.arrays(titles, c.kept, "{}_kept_ptr"),
            [f"d_{n}_ptr" for n in arrays.outputs[: c.coupled.wanted]],
            [f"d_{n}_last_ptr" for n in arrays.states],
            self.arrays(arrays.inputs, [k for k in c.given if k in with_gradient], "d_{}_ptr"),
            [f"d_{n}_start_ptr" for n in arrays.states],
            self.arrays(titles, c.own, "d_{}_ptr") + self.arrays(arrays.outputs, c.vectors, "{}_ptr"),
        ]
        return finished(f, f"{self.step.name}_backward", "back through the steps", arguments, ["LOW", "STAGES"], lines)

    def rounds_behind(self) -> tuple[dict[int, str], set[int]]:
        """The gradient of every product, the last round first: those of computed vectors feed the round before.

        Each is stored at once, as what is kept is; returns also the places of the inputs whose gradients those are.
        """
        c, s, program = self.c, self.s, self.step.backward
        found: dict[int, str] = {}
        stored: set[int] = set()
        sums: dict[int, str] = {}
        for n in [n for ready in reversed(c.rounds) for n in ready]:
            p = c.products[n]
            (text,) = self.tiles(program, self.results(program, "d_input", [p.input]))
            found[n] = text if text.isidentifier() else s.bind(f"d_{self.title(n)}", Part(text=text)).text
            shared = c.shared(n)
            at = p.input if shared is None else shared
            if at not in stored:
                stored.add(at)
                name, array = self.step.arrays.inputs[at], self.step.forward.inputs[at]
                s.lines.append(self.save(f"d_{name}_ptr", array, found[n]))
            if p.output is not None:
                text = self.product(found[n], n, turned=True)
                text = f"{sums[p.output]} + {text}" if p.output in sums else text
                sums[p.output] = s.bind(f"d_{self.step.arrays.outputs[p.output]}", Part(text=text)).text
                self.f.given["d_output", p.output, 0] = Part(text=sums[p.output])
        return found, stored

    def new_gradients(self, gradients: dict[int, str]) -> list[str]:
        """The gradients of the states before the step."""
        c, program = self.c, self.step.backward
        results = self.results(program, "d_state", range(len(program.states)))
        values = self.s.run(program.pruned(results))
        found = []
        for r, value in zip(results, values, strict=True):
            products = [
                self.product(gradients[n], n, turned=True) for n, p in enumerate(c.products) if p.state == r.index
            ]
            terms = [*([] if value.number == 0 and products else [self.tile(program, r, value)]), *products]
            name = self.s.bind(f"d_{self.step.arrays.states[r.index]}_new", Part(text=terms[0])).text
            self.s.lines += [f"{name} += {x}" for x in terms[1:]]
            found.append(name)
        return found
