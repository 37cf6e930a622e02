"""One step of some vectors of a kernel as C: the statements of a schedule's phases.

Several vectors go through a body abreast where it has loops of its own: the sums of a loop then do not wait for each
other, and what all vectors read alike is read once.  A statement is written once, with `@` behind what belongs to one
vector; `StepText.emit` repeats it for each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from rnnc.backends.cpu.schedule import Phase, Schedule
from rnnc.backends.kernels.axes import Label
from rnnc.backends.kernels.program import Load, Program, Result, Value, ValueId
from rnnc.backends.torch.expr import dim_text
from rnnc.ir.dims import Dim

INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "eq": "==", "ne": "!="}
LOGICAL = {"and": "&", "or": "|"}
START = {"sum": "0", "amax": "-(T)INFINITY", "amin": "(T)INFINITY"}
EACH = "@"  # the statement it stands in is one vector's
LANE = "j@"  # the first lane of that vector
PLACE = "#@"  # its number among those abreast
NAMED_NUMBERS = {"pi": "(T)3.14159265358979323846", "e": "(T)2.71828182845904523536"}


def dim_c(dim: Dim) -> str:
    """A size in C's integer arithmetic; divisions of sizes leave no remainder."""
    return dim_text(dim, lambda name: f"d_{name}", prec=11).replace("//", "/")


def number_c(value: Fraction | str) -> str:
    if isinstance(value, str):
        return NAMED_NUMBERS[value]
    if value.denominator == 1 and abs(value) < 2**24:
        return f"(T){value.numerator}" if value >= 0 else f"(T)({value.numerator})"
    return f"(T)({float(value)!r})"


def index(i: Label) -> str:
    return f"i{i}"


def offset(labels: Iterable[Label], lanes: str, sizes: str = "n") -> str:
    """The place in scratch memory laid out as [labels..., lanes]."""
    text = ""
    for x in labels:
        text = f"({text}) * {sizes}{x} + {index(x)}" if text else index(x)
    if not text:
        return "0"
    return f"({text}) * {lanes}" if lanes != "1" else text


def loops(labels: Iterable[Label], sizes: str = "n") -> str:
    """The heads of loops over labels, each inside the one before it."""
    return " ".join(f"for (int64_t {index(x)} = 0; {index(x)} < {sizes}{x}; {index(x)}++)" for x in labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are in C: what the frame's pointers to arrays begin with (they belong to the task's sequence, outer
    indices and block), the pointers to states before and after, and what scratch memory of this program begins with.
    """

    arrays: Mapping[str, str]
    old: Mapping[str, str]
    new: Mapping[str, str]
    scratch: str = "w"
    narrow: frozenset[str] = frozenset()  # names of arrays that may be of half precision


@dataclass(slots=True, kw_only=True)
class StepText:
    """The body of one program."""

    program: Program
    schedule: Schedule
    places: Places
    abreast: int = 1  # vectors
    lines: list[str] = field(default_factory=list)
    known: dict[ValueId, str] = field(default_factory=dict)  # values in scope of the vector's body
    depth: int = 1

    # ------------------------------------------------------------ kinds and names

    @property
    def vector(self) -> Label | None:
        return self.schedule.layout.vector

    def wide(self, v: Value) -> bool:
        return self.schedule.layout.in_lanes(v.labels)

    def kind(self, v: Value) -> str:
        return ("M" if v.boolean else "V") if self.wide(v) else ("int" if v.boolean else "T")

    def name(self, v: Value) -> str:
        title = re.sub(r"\W", "_", v.title)
        return (f"{title}_{v.id}" if title else f"v{v.id}") + (EACH if self.wide(v) else "")

    def serial(self, v: Value) -> tuple[Label, ...]:
        return self.schedule.serial(v.labels)

    # ------------------------------------------------------------ phases

    def text(self) -> list[str]:
        """The statements for vectors from lane j of the block on, with n lanes in use of each."""
        for at, phase in enumerate(self.schedule.phases):
            self.phase(at, phase)
        return self.lines

    def emit(self, line: str, depth: int) -> None:
        for at in range(self.abreast if EACH in line else 1):
            self.lines.append("  " * (self.depth + depth) + self.one(line, at))

    def one(self, text: str, at: int) -> str:
        """The text of the vector with number `at`."""
        if self.abreast == 1:
            return text.replace(EACH, "")
        lane = f"(j + {at} * LANES)" if at else "j"
        return text.replace(LANE, lane).replace(PLACE, str(at)).replace(EACH, f"_{at}")

    def phase(self, at: int, phase: Phase) -> None:
        values, schedule = self.schedule.values, self.schedule
        self.start_sums(phase)
        local: dict[ValueId, str] = dict(self.known)
        blocks: list[list[str]] = [[] for _ in range(len(phase.labels) + 1)]
        for v in sorted(phase.values):
            self.plain(at, phase, values[v], local, blocks)
        inner = blocks[-1]
        for s in phase.sums:
            inner.append(self.accumulate(values[s], self.read(at, values[values[s].args[0]], local, blocks)))
        for k in phase.stores:
            inner += self.store(schedule.results[k], self.read(at, values[schedule.results[k].value], local, blocks))
        for depth, block in enumerate(blocks):
            for line in block:
                self.emit(line, depth)
            if depth < len(phase.labels):
                x = phase.labels[depth]
                self.emit(f"{loops([x])} {{", depth)
        for depth in reversed(range(len(phase.labels))):
            self.emit("}", depth)
        self.known |= {v: name for v, name in local.items() if not self.serial(values[v])}
        for s in phase.sums:
            if not self.serial(values[s]):
                self.known[s] = self.name(values[s])

    def start_sums(self, phase: Phase) -> None:
        """Accumulators: a variable, or an array in scratch memory where the sum keeps serial labels."""
        for s in phase.sums:
            v = self.schedule.values[s]
            start = f"splat({START[v.op]})" if self.wide(v) else f"(T)({START[v.op]})"
            labels = self.serial(v)
            if not labels:
                self.emit(f"{self.kind(v)} {self.name(v)} = {start};", 0)
                continue
            self.emit(f"{loops(labels)} {self.put(self.kept_address(v), v, start)}", 0)

    def kept_address(self, v: Value) -> str:
        """Where scratch memory holds a value between phases."""
        labels, place = self.serial(v), f"f->{self.places.scratch}{v.id}"
        if not self.wide(v) or self.abreast == 1:
            return f"{place} + {offset(labels, 'LANES' if self.wide(v) else '1')}"
        return f"{place} + {offset(labels, f'({self.abreast} * LANES)')} + {PLACE} * LANES"

    def put(self, address: str, v: Value, text: str) -> str:
        return f"store({address}, {text}, LANES);" if self.wide(v) else f"*({address}) = {text};"

    def get(self, address: str, v: Value) -> str:
        return f"load({address}, LANES)" if self.wide(v) else f"*({address})"

    def accumulate(self, v: Value, arg: str) -> str:
        labels, place = self.serial(v), self.kept_address(v)
        now = self.get(place, v) if labels else self.name(v)
        prefix = "v" if self.wide(v) else "t"
        total = f"{now} + {arg}" if v.op == "sum" else f"{prefix}_{v.op[1:]}({now}, {arg})"
        return self.put(place, v, total) if labels else f"{now} = {total};"

    # ------------------------------------------------------------ values

    def plain(self, at: int, phase: Phase, v: Value, local: dict[ValueId, str], blocks: list[list[str]]) -> None:
        if v.id in local:
            return
        serial = self.serial(v)
        depth = max((phase.labels.index(x) + 1 for x in serial), default=0)
        if v.op == "const":
            assert v.number is not None
            local[v.id] = number_c(v.number)
            return
        args = [self.read(at, self.schedule.values[a], local, blocks) for a in v.args]
        local[v.id] = name = self.name(v)
        blocks[depth].append(f"const {self.kind(v)} {name} = {self.expression(v, args)};")
        if v.id in self.schedule.kept:
            blocks[depth].append(self.put(self.kept_address(v), v, name))

    def read(self, at: int, v: Value, local: dict[ValueId, str], blocks: list[list[str]]) -> str:
        """A value that is known where it is used: a variable of this phase, or something kept before."""
        if v.id in local:
            return local[v.id]
        serial = self.serial(v)
        if v.id in self.schedule.hoisted:
            here = f"{offset(serial, 'np')} + {LANE}" if self.wide(v) else offset(serial, "1")
            text = self.get(f"f->{self.places.scratch}{v.id} + {here}", v)
        elif v.over or v.id in self.schedule.kept:
            text = self.get(self.kept_address(v), v)
        else:
            text = self.new_state(v)
        labels = self.schedule.phases[at].labels
        depth = max((labels.index(x) + 1 for x in serial), default=0)
        local[v.id] = self.name(v)
        blocks[depth].append(f"const {self.kind(v)} {self.name(v)} = {text};")
        return local[v.id]

    def new_state(self, v: Value) -> str:
        """A new state that an earlier phase has stored."""
        r = next(r for r in self.schedule.results if r.value == v.id and r.target in ("state", "d_state"))
        address = self.state_address(self.places.new[r.target], r.target, r.index, r.part, r.axes)
        wide = self.schedule.layout.in_lanes(r.axes)
        text = f"load({address}, LANES)" if wide else f"*({address})"
        return text if wide == self.wide(v) else f"{text.replace(LANE, 'j')}[0]"

    def state_address(self, pointer: str, kind: str, k: int, part: int, axes: tuple[Label | None, ...]) -> str:
        labels = self.schedule.serial(axes)
        wide = self.schedule.layout.in_lanes(axes)
        return f"{pointer} + o{k}_{part} + {offset(labels, 'np' if wide else '1')}" + (f" + {LANE}" if wide else "")

    def array_address(self, source: str, k: int, axes: tuple[Label | None, ...]) -> str:
        name = f"{self.places.arrays[source]}{k}"
        terms = [f"f->{name}"]
        if not self.is_static(source, k):
            terms.append(f"t * f->{name}_t")
        terms += [f"{index(x)} * f->{name}_{x}" for x in self.schedule.serial(axes)]
        return " + ".join(terms)

    def is_static(self, source: str, k: int) -> bool:
        return source in ("input", "d_input") and self.program.inputs[k].static

    def is_complex(self, source: str, k: int) -> bool:
        arrays = self.program.outputs if source in ("output", "d_output") else self.program.inputs
        return arrays[k].dtype == "complex"

    def loaded(self, load: Load) -> str:
        wide = self.schedule.layout.in_lanes(load.axes)
        if load.source in ("state", "d_state"):
            address = self.state_address(self.places.old[load.source], load.source, load.index, load.part, load.axes)
            return f"load({address}, LANES)" if wide else f"*({address})"
        address = self.array_address(load.source, load.index, load.axes)
        if self.is_complex(load.source, load.index):
            return f"load_part({address} + 2 * {LANE}, {load.part}, n)" if wide else f"*({address} + {load.part})"
        if self.is_narrow(load.source, load.index):
            return f"load_e({address} + {LANE}, n)" if wide else f"from_e(*({address}))"
        return f"load({address} + {LANE}, n)" if wide else f"*({address})"

    def is_narrow(self, source: str, k: int) -> bool:
        return f"{self.places.arrays[source]}{k}" in self.places.narrow

    def expression(self, v: Value, args: list[str]) -> str:
        if v.load is not None:
            return self.loaded(v.load)
        if v.op == "dim":
            assert v.size is not None
            return f"(T)({dim_c(v.size)})"
        kinds = [self.kind(self.schedule.values[a]) for a in v.args]
        wide = self.wide(v)
        if v.op in INFIX:
            text = f"{args[0]} {INFIX[v.op]} {args[1]}"
            if any(k in "VM" for k in kinds):
                args = [f"splat({a})" if k == "T" and v.boolean else a for a, k in zip(args, kinds)]
                text = f"{args[0]} {INFIX[v.op]} {args[1]}"
            return text
        match v.op:
            case "neg":
                return f"-{args[0]}"
            case "not":
                return f"~{args[0]}" if wide else f"!{args[0]}"
            case "and" | "or":
                spread = [f"splat_mask({a})" if wide and k == "int" else a for a, k in zip(args, kinds)]
                return f"{spread[0]} {LOGICAL[v.op]} {spread[1]}"
            case "real":
                return f"pick({args[0]}, splat(1), splat(0))" if wide else f"(T)({args[0]})"
            case "select":
                if not wide:
                    return f"{args[0]} ? {args[1]} : {args[2]}"
                spread = [f"splat_mask({args[0]})" if kinds[0] == "int" else args[0]]
                spread += [f"splat({a})" if k == "T" else a for a, k in zip(args[1:], kinds[1:])]
                return f"pick({', '.join(spread)})"
        if wide:
            args = [f"splat({a})" if k == "T" else a for a, k in zip(args, kinds)]
        return f"{'v' if wide else 't'}_{v.op}({', '.join(args)})"

    # ------------------------------------------------------------ results

    def store(self, r: Result, text: str) -> list[str]:
        v = self.schedule.values[r.value]
        wide = self.schedule.layout.in_lanes(r.axes)
        if wide and not self.wide(v):
            text = f"splat({text})"
        if r.target in ("state", "d_state"):
            address = self.state_address(self.places.new[r.target], r.target, r.index, r.part, r.axes)
            return [f"store({address}, {text}, LANES);" if wide else f"*({address}) = {text};"]
        if not wide and self.schedule.layout.in_lanes(r.over):
            place = f"f->a{r.index}_{r.part} + {offset(self.schedule.serial(r.axes), 'LANES')}"
            parts = [self.one(f"first({text}, n)", at) for at in range(self.abreast if self.wide(v) else 1)]
            return [f"store({place}, (j ? load({place}, LANES) : splat(0)) + {_sum(parts)}, LANES);"]
        line = self._to_array(r, text, wide)
        lacking = self.lacking(r)
        if not lacking:
            return [line]
        name = f"{self.places.arrays[r.target]}{r.index}"
        return [f"if (f->{name}_once{' && j == 0' if self.schedule.layout.in_lanes(lacking) else ''}) {line}"]

    def _to_array(self, r: Result, text: str, wide: bool) -> str:
        """Into an array; what belongs to a static input adds up over time."""
        address = self.array_address(r.target, r.index, r.axes)
        adds = self.is_static(r.target, r.index)
        pairs = self.is_complex(r.target, r.index)
        if not wide:
            address += f" + {r.part}" if r.part else ""
            return f"*({address}) {'+=' if adds else '='} {text};"
        at = f"{address} + 2 * {LANE}, {r.part}" if pairs else f"{address} + {LANE}"
        suffix = "_part" if pairs else "_e" if self.is_narrow(r.target, r.index) else ""
        value = f"load{suffix}({at}, n) + {text}" if adds else text
        return f"store{suffix}({at}, {value}, n);"

    def lacking(self, r: Result) -> tuple[Label, ...]:
        """Labels shared out among tasks that neither the array nor the sum on the way out has: one task writes."""
        shared = [x for x in (self.vector, *self.schedule.layout.outer) if x is not None]
        return tuple(x for x in shared if x not in r.axes and x not in r.over)

    def accumulators(self) -> list[Result]:
        """Results summed over the vector label, at the end of each step."""
        return [r for r in self.schedule.results if self.schedule.layout.in_lanes(r.over)]


def _sum(terms: list[str]) -> str:
    """A sum as a tree."""
    if len(terms) == 1:
        return terms[0]
    half = len(terms) // 2
    return f"({_sum(terms[:half])} + {_sum(terms[half:])})"
