"""The frame around a kernel's loop: arguments, indices, loads and stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from rnnc.backends.kernels.program import Array, Load, Program, Result
from rnnc.backends.torch.body import Names
from rnnc.backends.triton.code import Part
from rnnc.backends.triton.kernel import Step
from rnnc.backends.triton.layout import Layout
from rnnc.backends.triton.names import RESERVED
from rnnc.backends.triton.statements import Statements

LONG = 104  # characters of a store, in a loop
SIZES = {"split": "SPLITS", "part": "blocks", "row": "BT", "slot": "S", "after": "S", "here": "2", "there": "2"}


@dataclass(slots=True, kw_only=True)
class Frame:
    """A kernel's text in the making."""

    step: Step
    layout: Layout
    names: Names = field(default_factory=lambda: Names({*RESERVED}))
    given: dict[tuple[str, int, int], Part] = field(default_factory=dict)  # what loads stand for
    statements: Statements = field(init=False)

    def __post_init__(self) -> None:
        a = self.step.arrays
        self.names.taken |= {f"{n}_ptr" for n in (*a.inputs, *a.outputs, *a.states)}
        for form in ("{}", "d_{}", "{}_total", "{}_product"):  # variables that carry something through the loop
            self.names.taken |= {v for parts in self.state_names(form) for v in parts}
        self.statements = Statements(layout=self.layout, names=self.names, read=self.read, comment=self.step.comment)

    # ------------------------------------------------------------ arguments

    def stream(self, name: str, held: Sequence[str]) -> list[str]:
        """A sequence given by the caller, with any strides."""
        return [f"{name}_ptr", *(f"{name}_{axis}" for axis in ("b", "t", *held))]

    def input_arguments(self) -> list[list[str]]:
        lines = []
        for k in self.step.given:
            name, array = self.step.arrays.inputs[k], self.step.forward.inputs[k]
            held = self.layout.axes_of(array)
            lines.append([f"{name}_ptr"] if array.static else self.stream(name, held))
        return lines

    @property
    def sizes(self) -> list[str]:
        split = ["SPLITS", "SPAN"] if self.layout.timed else []
        return ["T", *(["G"] if self.layout.grid else []), "B" if self.layout.rows else "D", *split]

    @property
    def program(self) -> tuple[str, ...]:
        """The axes of what there is one of for each program, in front of its state's."""
        return ("b", "split") if self.layout.timed else ("b",)

    @property
    def constants(self) -> list[str]:
        """Compile-time arguments besides the blocks."""
        return [
            *(n.upper() for n in self.layout.inner_names),
            "ACC",
            "PACKED",
            "BB" if self.layout.rows else "BD",
            *(f"B{n.upper()}" for n in self.layout.inner_names),
        ]

    # ------------------------------------------------------------ indices

    def indices(self) -> list[str]:
        """From the program's number to the indices b, g, d, n, ..., the masks of what lies inside the arrays, and where
        the sequence's steps are: in row `at` of the inputs, `length` of them behind `origin`.
        """
        at, rows = self.layout.index, self.layout.rows
        lines = ["program = tl.program_id(0).to(tl.int64)", f"blocks = tl.cdiv({'B, BB' if rows else 'D, BD'})"]
        rest = "program // blocks"
        if rows:
            lines.append(f"b = program % blocks * BB + tl.arange(0, BB){at('b')}")
            lines += [f"g = {rest}"] if self.layout.grid else []
        elif self.layout.timed:
            self.statements.helpers.add("channels")
            lines += ["part = program % blocks", f"d = channels(part, BD{', 1' * bool(self.layout.inner)}){at('d')}"]
        else:
            lines += ["part = program % blocks", f"d = part * BD + tl.arange(0, BD){at('d')}"]
        if self.layout.timed:
            lines.append(f"split = {rest} % SPLITS")
            rest += " // SPLITS"
        if self.layout.grid and not rows:
            lines.append(f"g = {rest} % G")
            rest += " // G"
        lines += [] if rows else [f"b = {rest}"]
        for name in self.layout.inner_names:
            lines.append(f"{name} = tl.arange(0, B{name.upper()}){at(name)}")
        lines.append("in_b = b < B" if rows else "in_d = d < D")
        lines += [f"in_{n} = {n} < {n.upper()}" for n in self.layout.inner_names]
        helper = "sequences" if rows else "sequence"
        self.statements.helpers.add(helper)
        if rows:
            lines.append("at, origin, length = sequences(bounds_ptr, b, in_b, T, PACKED)")
        else:
            lines.append("at, origin, length, tiles = sequence(bounds_ptr, b, T, BT, PACKED)")
        if self.layout.timed:
            lines += ["start = (split * SPAN).to(tl.int32)", "stop = tl.minimum(start + SPAN, length)"]
        return lines

    # ------------------------------------------------------------ places

    def mask(self, held: Iterable[str], time: bool, static: bool = False) -> str:
        """What of a tile lies inside an array: one that varies in `time`, or one without batch and time (`static`)."""
        inside = ["in_t"] if time and self.layout.timed else []
        inside += ["alive" if time else "in_b"] if self.layout.rows and not static else []
        inside += [f"in_{a}" for a in held if a != "g"]
        return " & ".join(inside)

    def whole_tile(self, array: Array, time: bool = False) -> str:
        """The shape of a state's tile, of one step or (`time`) of a tile's."""
        return self.layout.shape([*(["t"] if time else []), *(["b"] if self.layout.rows else []), *self.held(array)])

    def place(self, axes: Sequence[str], complex_: bool = False, part: int = 0) -> str:
        """The offset of an entry in a contiguous array with these axes: ((b * T + t) * D + d) * N + n."""
        text = ""
        for axis in axes:
            text = (
                axis
                if not text
                else f"{f'({text})' if '+' in text else text} * {SIZES.get(axis, axis.upper())} + {axis}"
            )
        if not complex_:
            return text or "0"
        double = f"2 * ({text})" if "+" in text else f"2 * {text}" if text else "0"
        return f"{double} + {part}" if part else double

    def stream_place(self, held: Sequence[str], complex_: bool = False, part: int = 0) -> str:
        """The offset of an entry of a contiguous sequence, `[at, t, *held]`; in tiles t is the first step.

        There, what differs within a tile stands apart from what differs between tiles: it is the same for all tiles,
        so that an address is one addition.
        """
        held = self.whole((), held)
        if not self.layout.timed:
            return self.place(("at", "t", *held), complex_, part)
        sizes = [SIZES.get(a, a.upper()) for a in held] + ["2"] * complex_
        tile, inside = " * ".join(["(at * T + t)", *sizes]), self.place(("step", *held), complex_, part)
        return f"{tile} + ({inside})"

    def load(self, pointer: str, offset: str, mask: str) -> Part:
        given = f", mask={mask}, other=0.0" if mask else ""
        return Part(text=f"tl.load({pointer} + {offset}{given}).to(ACC)")

    def store(self, pointer: str, offset: str, value: str, mask: str) -> None:
        given = f", mask={mask}" if mask else ""
        if not mask:  # one entry a program, but the value is a tile
            offset = f"tl.full({self.layout.shape([])}, {offset}, tl.int64)"
        line = f"tl.store({pointer} + {offset}, {value}{given})"
        if len(line) > LONG and not value.isidentifier():
            value = self.statements.bind(pointer.removesuffix("_ptr"), Part(text=value)).text
            line = f"tl.store({pointer} + {offset}, {value}{given})"
        self.statements.lines.append(line)

    def held(self, array: Array) -> tuple[str, ...]:
        return self.layout.axes_of(array)

    # ------------------------------------------------------------ loads of a step program

    def hoisted(self, *programs: Program) -> list[str]:
        """Statements that load the static inputs, to stand before the loop; the programs find them loaded."""
        kept, self.statements.lines = self.statements.lines, []
        for program in programs:
            static = [v for v in program.values if v.load is not None and self._is_static(v.load)]
            keys = self.statements.keys(program)
            for v in static:
                if keys[v.id] not in self.statements.made and v.load is not None:
                    self.statements.made[keys[v.id]] = self.read(v.load)
        lines, self.statements.lines = self.statements.lines, kept
        return lines

    def _is_static(self, load: Load) -> bool:
        return load.source == "input" and self.step.forward.inputs[load.index].static

    def read(self, load: Load) -> Part:
        known = self.given.get((load.source, load.index, load.part))
        if known is not None:
            return known
        match load.source:
            case "input":
                return self._read_input(load)
            case "d_output":
                name = self.step.arrays.outputs[load.index]
                array = self.step.forward.outputs[load.index]
                held = self.held(array)
                offset = self.stream_place(held, array.dtype == "complex", load.part)
                part = self.load(f"d_{name}_ptr", offset, self.mask(held, True))
                return self.statements.bind(f"d_{name}{ending(array, load.part)}", part)
            case _:
                raise AssertionError(f"{load.source} is given by the schedule")

    def _read_input(self, load: Load) -> Part:
        name = self.step.arrays.inputs[load.index]
        array = self.step.forward.inputs[load.index]
        held = self.held(array)
        if array.static:
            offset = self.place(self.whole((), held), array.dtype == "complex", load.part)
            part = self.load(f"{name}_ptr", offset, self.mask(held, False, static=True))
        else:
            inside = [*(["step"] if self.layout.timed else []), *held]
            terms = [f"{axis} * {name}_{'t' if axis == 'step' else axis}" for axis in inside]
            terms += [str(load.part)] if load.part else []
            rest = " + ".join(terms)
            rest = f" + ({rest})" if self.layout.timed and len(terms) > 1 else f" + {rest}" if rest else ""
            offset = f"at * {name}_b + t * {name}_t{rest}"
            part = self.load(f"{name}_ptr", offset, self.mask(held, True))
        return self.statements.bind(f"{name}{ending(array, load.part)}", part)

    def whole(self, front: Sequence[str], held: Sequence[str]) -> tuple[str, ...]:
        """The axes of a contiguous array: grid axes are always there, whether or not the array differs along them."""
        grid = ("g",) if self.layout.grid else ()
        return (*front, *grid, *(a for a in held if a != "g"))

    # ------------------------------------------------------------ states

    def state_axes(self, front: Sequence[str], held: Sequence[str]) -> tuple[str, ...]:
        """The axes of a state in memory.  What tiles keep has channels last, as tiles have: only kernels read it."""
        if tuple(front) != ("tile",):
            return self.whole(front, held)
        return self.whole(front, [*(a for a in held if a != "d"), *(a for a in held if a == "d")])

    def state_names(self, title: str = "{}") -> list[list[str]]:
        """For each state the variables of its parts."""
        return [
            [title.format(name) + ending(array, p) for p in range(2 if array.dtype == "complex" else 1)]
            for name, array in zip(self.step.arrays.states, self.step.forward.states, strict=True)
        ]

    def load_states(self, pointer: str, variables: list[list[str]], front: Sequence[str] | None = None) -> None:
        """All states from contiguous arrays; `pointer` and `front` name them and their leading axes."""
        front = self.program if front is None else front
        for name, array, parts in zip(self.step.arrays.states, self.step.forward.states, variables, strict=True):
            held = self.held(array)
            for p, variable in enumerate(parts):
                offset = self.place(self.state_axes(front, held), array.dtype == "complex", p)
                part = self.load(pointer.format(name), offset, self.mask(held, False))
                self.statements.lines.append(f"{variable} = {part.text}")

    def store_states(self, pointer: str, variables: list[list[str]], front: Sequence[str] | None = None) -> None:
        front = self.program if front is None else front
        for name, array, parts in zip(self.step.arrays.states, self.step.forward.states, variables, strict=True):
            held = self.held(array)
            for p, variable in enumerate(parts):
                offset = self.place(self.state_axes(front, held), array.dtype == "complex", p)
                self.store(pointer.format(name), offset, variable, self.mask(held, False))

    def summed(self, result: Result, value: Part) -> Part:
        """The sums that a result still lacks, but for the grid axis: there the caller adds up."""
        for axis in self.layout.held(result.over):
            if axis != "g":
                value = self.statements.reduce("sum", value, axis)
        return value

    def store_output(self, result: Result, value: Part) -> None:
        value = self.summed(result, value)
        name = self.step.arrays.outputs[result.index]
        array = self.step.forward.outputs[result.index]
        held = self.held(array)
        offset = self.stream_place(held, array.dtype == "complex", result.part)
        self.store(f"{name}_ptr", offset, value.text, self.mask(held, True))


def ending(array: Array, part: int) -> str:
    return ("_re", "_im")[part] if array.dtype == "complex" else ""
