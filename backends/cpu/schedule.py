"""The order of work inside one step of one vector: loops over the serial labels, and what each of them does.

Everything that is not a plain value (a sum over serial labels, a store) is an *effect*.  Effects over the same labels
that wait for the same sums share one loop nest, a `Phase`; plain values are computed where a phase needs them, again
in each where they are cheap.  The delta rule has two phases: k^T S over the keys, then the update and the readout.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rnnc.backends.cpu.layout import Layout
from rnnc.backends.kernels.axes import Label
from rnnc.backends.kernels.program import Program, Result, Value, ValueId
from rnnc.ir.ops import OPS

ABREAST = 4  # measured, see docs/cpu.md


@dataclass(slots=True, kw_only=True)
class Phase:
    """One loop nest over `labels`: the sums it fills, then the results it stores."""

    labels: tuple[Label, ...]
    sums: list[ValueId] = field(default_factory=list)
    stores: list[int] = field(default_factory=list)  # places in `Schedule.results`
    values: set[ValueId] = field(default_factory=set)  # plain values it needs

    @property
    def roots(self) -> list[ValueId]:
        return [*self.sums, *self.stores]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """`values` and `results` are the program's with sums over serial labels taken out of the results' `over`.

    `kept` are values that one phase stores for later ones; `hoisted` are special functions of static values, computed
    once before the first step; `in_place`: whether the new states may overwrite the old ones.
    """

    layout: Layout
    values: tuple[Value, ...]
    results: tuple[Result, ...]
    phases: tuple[Phase, ...]
    kept: frozenset[ValueId]
    hoisted: tuple[ValueId, ...]
    in_place: bool

    @property
    def abreast(self) -> int:
        """How many vectors one body takes: several where it has loops, none of them with special functions."""
        if self.layout.vector is None:
            return 1
        inside = [v for p in self.phases if p.labels for v in p.values]
        dear = any(_dear(self.values[v]) for v in inside)
        return ABREAST if inside and not dear else 1

    def serial(self, labels: Iterable[Label | None]) -> tuple[Label, ...]:
        have = set(labels)
        return tuple(x for x in self.layout.serial if x in have)


def schedule(program: Program, layout: Layout) -> Schedule:
    values = list(program.values)
    results = [_split(values, r, layout) for r in program.results]
    serial = set(layout.serial)

    def loop(labels: Iterable[Label | None]) -> tuple[Label, ...]:
        have = set(labels)
        return tuple(x for x in layout.serial if x in have)

    need: list[int] = []  # how many sums one after the other a value waits for
    for v in values:
        waits = max((need[a] for a in v.args), default=0)
        need.append(waits + 1 if v.over else waits)
    phases: dict[tuple[int, tuple[Label, ...]], Phase] = {}
    for v in values:
        if v.over:
            key = (need[v.id] - 1, loop(values[v.args[0]].labels))
            phases.setdefault(key, Phase(labels=key[1])).sums.append(v.id)
    for k, r in enumerate(results):
        key = (need[r.value], loop({*r.axes, *values[r.value].labels}))
        phases.setdefault(key, Phase(labels=key[1])).stores.append(k)
    ordered = [phases[k] for k in sorted(phases, key=lambda k: (k[0], len(k[1]), k[1]))]
    hoisted = tuple(_static_specials(program, values))
    states = {r.value: k for k, r in enumerate(results) if r.target in ("state", "d_state")}
    kept: set[ValueId] = set()
    for _ in range(2):  # the second time with what is kept known
        seen: dict[ValueId, int] = {}
        for at, phase in enumerate(ordered):
            roots = [values[s].args[0] for s in phase.sums] + [results[k].value for k in phase.stores]
            stop = {v for v, first in seen.items() if v in kept and first < at} | set(hoisted)
            stop |= {v for v, k in states.items() if v in seen and any(k in p.stores for p in ordered[:at])}
            phase.values = _plain(values, roots, stop)
            for i in phase.values:
                again = seen.setdefault(i, at) < at
                if again and i not in states and _dear(values[i]) and serial & set(values[i].labels):
                    kept.add(i)
    return Schedule(
        layout=layout,
        values=tuple(values),
        results=tuple(results),
        phases=tuple(ordered),
        kept=frozenset(kept),
        hoisted=hoisted,
        in_place=_in_place(values, results, ordered),
    )


def _split(values: list[Value], r: Result, layout: Layout) -> Result:
    """The serial part of a sum on the way out becomes a value."""
    inner = tuple(x for x in r.over if x in layout.serial)
    if not inner:
        return r
    old = values[r.value]
    labels = tuple(x for x in old.labels if x not in inner)
    same = (v.id for v in values if v.op == "sum" and v.args == (old.id,) and v.over == inner)
    place = next(same, len(values))
    if place == len(values):
        values.append(Value(id=place, op="sum", args=(old.id,), labels=labels, over=inner))
    return replace(r, value=place, over=tuple(x for x in r.over if x not in inner))


def _plain(values: list[Value], roots: Iterable[ValueId], stop: set[ValueId]) -> set[ValueId]:
    """The plain values between sums (or what is in `stop`) and the roots."""
    found: set[ValueId] = set()
    work = [r for r in roots if not values[r].over]
    while work:
        i = work.pop()
        if i in found or i in stop:
            continue
        found.add(i)
        work += [a for a in values[i].args if not values[a].over]
    return found


def _dear(v: Value) -> bool:
    """Whether a value costs more than to store it and read it again."""
    return v.op in OPS and (OPS[v.op].special > 0 or v.op == "div")


def _static_specials(program: Program, values: list[Value]) -> list[ValueId]:
    """Static values that take special functions, where something else reads them."""
    fixed: dict[ValueId, bool] = {}  # whether special functions go into it
    for v in values:
        if v.load is not None:
            if v.load.source == "input" and program.inputs[v.load.index].static:
                fixed[v.id] = False
        elif not v.over and all(a in fixed for a in v.args):
            fixed[v.id] = _dear(v) or any(fixed[a] for a in v.args)
    used = {a for v in values if v.id not in fixed for a in v.args} | {r.value for r in program.results}
    return [i for i, dear in sorted(fixed.items()) if dear and values[i].labels and i in used and not values[i].boolean]


def _in_place(values: list[Value], results: list[Result], phases: list[Phase]) -> bool:
    """Whether no phase reads an old state after another has stored the new one."""
    stored: set[str] = set()
    for phase in phases:
        loads = (values[i].load for i in phase.values)
        if any(x is not None and x.source in stored for x in loads):
            return False
        stored |= {results[k].target for k in phase.stores if results[k].target in ("state", "d_state")}
    return True
