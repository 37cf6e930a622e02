"""A step program as statements of a kernel: which values get a variable, and under which name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rnnc.backends.kernels.program import Load, Program, Value, ValueId
from rnnc.backends.torch.body import WORDS, Names
from rnnc.backends.torch.expr import dim_text
from rnnc.backends.triton.code import HELPERS, Part, call, expression, number
from rnnc.backends.triton.layout import Layout
from rnnc.backends.triton.names import unmistakable
from rnnc.ir.dims import Dim
from rnnc.ir.graph import NodeId

LONG = 70  # characters beyond which a value that is used once gets a variable all the same
SUMS = {"sum": "sum_over", "amax": "max_over", "amin": "min_over"}


@dataclass(slots=True, kw_only=True)
class Statements:
    """Lines of a kernel in the making.

    `read` says how an array's entry is had: as source, or as the part that holds it already.  `comment` gives the
    spec's line of a node.  `made` are values that are in variables already, by key: programs of one kernel share them.
    """

    layout: Layout
    names: Names
    read: Callable[[Load], Part]
    comment: Callable[[NodeId], str | None]
    lines: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    dims: dict[str, str] = field(default_factory=dict)  # dims of the cell that are used, by kernel argument
    made: dict[int, Part] = field(default_factory=dict)
    numbered: dict[tuple[object, ...], int] = field(default_factory=dict)
    spoken: set[str] = field(default_factory=set)  # comments written

    def run(self, program: Program) -> list[Part]:
        """Statements for all results; their parts, in order."""
        uses = _uses(program)
        owners = _owners(program)
        parts: dict[ValueId, Part] = {}
        keys = self.keys(program)
        needed = self._needed(program, keys)
        for v in program.values:
            if v.id not in needed:
                continue
            part = self.made.get(keys[v.id])
            if part is None:
                part = self._value(v, [parts[a] for a in v.args])
                if part.number is None and not part.text.isidentifier() and self._wants_variable(v, part, uses[v.id]):
                    part = self._bind(v, part, owners.get(v.id))
                if part.text.isidentifier():
                    self.made[keys[v.id]] = part
            parts[v.id] = part
        return [parts[r.value] for r in program.results]

    def keys(self, program: Program) -> dict[ValueId, int]:
        """What is the same in all programs of one kernel has the same key."""
        found: dict[ValueId, int] = {}
        for v in program.values:
            key = (v.op, tuple(found[a] for a in v.args), v.load, v.number, v.size, v.over)
            found[v.id] = self.numbered.setdefault(key, len(self.numbered))
        return found

    def _needed(self, program: Program, keys: Mapping[ValueId, int]) -> set[ValueId]:
        """The values that are not in variables already, and what they are computed from."""
        needed: set[ValueId] = set()
        work = [r.value for r in program.results]
        while work:
            i = work.pop()
            if i not in needed:
                needed.add(i)
                work += () if keys[i] in self.made else program.values[i].args
        return needed

    def _value(self, v: Value, args: list[Part]) -> Part:
        if v.load is not None:
            return self.read(v.load)
        if v.op == "const":
            assert v.number is not None
            return number(v.number)
        if v.op == "dim":
            assert v.size is not None
            return self._size(v.size)
        if v.over:
            return self._reduced(v, args[0])
        part = expression(v.op, args)
        self._needs(part.text)
        return part

    def _needs(self, text: str) -> None:
        name = text.partition("(")[0]
        if name in HELPERS:
            self.helpers.add(name)

    def _size(self, size: Dim) -> Part:
        for name in sorted(size.names):
            self.dims.setdefault(name, f"{name}_size")
        return Part(text=f"tl.cast({dim_text(size, lambda name: self.dims[name])}, ACC)")

    def _reduced(self, v: Value, arg: Part) -> Part:
        """A sum, maximum or minimum over inner axes, one after another, entries outside the array left out."""
        for axis in self.layout.held(v.over):
            arg = self.reduce(v.op, arg, axis)
        return arg

    def reduce(self, op: str, arg: Part, axis: str) -> Part:
        helper = SUMS[op]
        self.helpers.add(helper)
        return call(helper, arg, Part(text=f"in_{axis}"), Part(text=str(self.layout.position(axis))))

    def _wants_variable(self, v: Value, part: Part, uses: int) -> bool:
        return bool(v.title) or uses > 1 or v.load is not None or bool(v.over) or len(part.text) > LONG

    def _bind(self, v: Value, part: Part, owner: Value | None) -> Part:
        named = v if v.title else owner
        if named is not None and named.node is not None:
            self.remark(self.comment(named.node))
        word = WORDS.get(v.op, v.op)
        title = unmistakable(v.title) if v.title else f"{owner.title}_{word}" if owner is not None else f"d_{word}"
        return self.bind(title, part)

    def bind(self, name: str, part: Part) -> Part:
        variable = self.names.fresh(name)
        self.lines += _assignment(variable, part.text)
        return Part(text=variable)

    def remark(self, line: str | None) -> None:
        """A line of the spec as a comment, once."""
        if line and line not in self.spoken:
            self.spoken.add(line)
            self.lines.append(f"# {line}")


def _assignment(variable: str, text: str) -> list[str]:
    """One line, or a long load with its pointer and its mask (where it has one) on lines of their own."""
    line = f"{variable} = {text}"
    if len(line) <= 108 or not text.startswith("tl.load(") or ", mask=" not in text:
        return [line]
    pointer, _, mask = text.removeprefix("tl.load(").partition(", mask=")
    mask, _, rest = mask.partition(")")
    return [f"{variable} = tl.load(", f"    {pointer},", f"    mask={mask},", f"){rest}"]


def _uses(program: Program) -> dict[ValueId, int]:
    uses = {v.id: 0 for v in program.values}
    for v in program.values:
        for a in v.args:
            uses[a] += 1
    for r in program.results:
        uses[r.value] += 1
    return uses


def _owners(program: Program) -> dict[ValueId, Value]:
    """For each value without a name, the nearest value with one that is computed from it."""
    found: dict[ValueId, Value] = {}
    for v in reversed(program.values):
        owner = v if v.title else found.get(v.id)
        for a in v.args:
            if owner is not None:
                found.setdefault(a, owner)
    return found
