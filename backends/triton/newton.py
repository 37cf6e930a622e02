"""The schedule of a nonlinear elementwise state by Newton's method: tiles of BT steps, each solved in registers.

A tile's pre-activations are read once and all that does not depend on the state is computed once; then the step and its
slope, which is the step's own derivative at a gradient of one, alternate with a scan of the tile
(`rnnc.runtime.gpu.newton`).  Lanes are spread along time, so that a few channels fill a program where one step after
another would leave it idle.

The backward solves each tile again from the state kept before it, and is then that of any scan: one linear reverse
recurrence with the slopes at the solution.
"""

from __future__ import annotations

from dataclasses import replace

from rnnc.analysis.forms import Group
from rnnc.backends.kernels.program import Program, Result
from rnnc.backends.kernels.specialise import specialised
from rnnc.backends.torch.body import indented
from rnnc.backends.triton.code import Part, number
from rnnc.backends.triton.kernel import Frame, Step
from rnnc.backends.triton.scan import at_one, backward_of_tiles, forward_of_tiles, inside, updates
from rnnc.backends.triton.text import Kernel
from rnnc.ir.graph import CellIR
from rnnc.ir.linearise import structure_of

CAP = 12  # iterations for one tile; a contraction takes 4 to 7


def applies(cell: CellIR, group: Group, step: Step) -> bool:
    """Whether one real state's entries are proved to step by themselves, and no program shares out less than them."""
    found = structure_of(cell, group.states)
    alone = len(step.region.states) == 1 and not step.readings and not step.layout.single
    return alone and not isinstance(found, str) and found.pattern == "diagonal"


def newton_kernels(step: Step) -> tuple[Kernel, Kernel]:
    timed = replace(step, layout=replace(step.layout, timed=True))
    return _forward(timed), _backward(timed)


def _forward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    static = f.hoisted(step.forward, step.backward)

    def solve() -> list[str]:
        before = _solved(f)
        place = "tile * G * blocks + g * blocks + part" if f.layout.grid else "tile * blocks + part"
        f.statements.lines.append(f"tl.store(counts_ptr + {place}, tl.where(wrong > 0, -rounds, rounds))")
        f.given["state", 0, 0] = Part(text=before)
        return [_tile(f, part) for part in f.statements.run(updates(step.forward))]

    return forward_of_tiles(f, static, solve, more=["counts_ptr"])


def _backward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    static = f.hoisted(step.forward, step.backward)

    def solve() -> str:
        f.given["state", 0, 0] = Part(text=_solved(f))
        (slope,) = f.statements.run(_slope(step)) or [number(0)]
        return inside(f, "factor", slope, "1.0", 0)

    return backward_of_tiles(f, static, lambda: [solve()])


def _slope(step: Step) -> Program:
    """dF / dh, at the state given."""
    return specialised(step.backward, at_one, lambda r: r.target == "d_state")


def _solved(f: Frame) -> str:
    """Statements that find the state before each step of a tile; the variable."""
    s, step = f.statements, f.step
    (h,) = f.state_names()[0]
    value, slope = updates(step.forward), _slope(step)
    _outside(f, value)
    _outside(f, slope)
    before, after, following = (f.names.fresh(f"{h}_{word}") for word in ("before", "after", "next"))
    f.given["state", 0, 0] = Part(text=before)
    s.helpers |= {"unsolved", "previous", "linear_before"}
    s.remark(step.comment(step.region.step.states[0].update))
    start = f"{before} = tl.broadcast_to({h}, {f.whole_tile(step.forward.states[0], time=True)})"
    found, a = f.names.fresh(f"{h}_found"), f.names.fresh(f"{h}_slope")
    lines, made = s.lines, dict(s.made)
    s.lines = []
    s.lines.append(f"{found} = {_tile(f, s.run(value)[0])}")
    s.lines.append(f"{a} = {_tile(f, (s.run(slope) or [number(0)])[0])}")
    mask = f.mask(f.held(step.forward.states[0]), True)
    loop = [
        *s.lines,
        f"{following} = linear_before({a}, {found} - {a} * {before}, {h})",
        f"wrong = unsolved({found}, {after}, {following}, {before}, {mask})",
        f"{after} = {found} + {a} * ({following} - {before})",
        f"{before} = {following}",
        "rounds += 1",
    ]
    s.lines, s.made = [], dict(made)
    text = _tile(f, s.run(value)[0])
    again = [*s.lines, f"{before} = previous({text}, {h}, tl.arange(0, BT){f.layout.index('t')})"]
    s.lines, s.made = lines, made
    s.lines += [
        start,
        f"{after} = {before}",
        "wrong, rounds = 1, 0",
        f"while (wrong > 0) & (rounds < {CAP}):",
        *indented(loop),
    ]
    s.lines += [
        "if wrong > 0:  # one step after another",
        f"    {start}",
        "    for _ in range(BT):",
        *indented(indented(again)),
    ]
    return before


def _outside(f: Frame, program: Program) -> None:
    """Compute, before the iterations, whatever does not depend on the state."""
    s = f.statements
    depends: set[int] = set()
    for v in program.values:
        own = v.load is not None and v.load.source == "state"
        if own or any(a in depends for a in v.args):
            depends.add(v.id)
    read = {a for v in program.values if v.id in depends for a in v.args} | {r.value for r in program.results}
    keys = s.keys(program)
    for v in program.values:
        if v.id in depends or v.id not in read or v.op in ("const", "dim") or keys[v.id] in s.made:
            continue
        wanted = Result(target="output", index=0, part=0, axes=(), value=v.id)
        (part,) = s.run(program.pruned([wanted]))
        if not part.text.isidentifier():
            s.made[keys[v.id]] = s.bind(v.title or "fixed", part)


def _tile(f: Frame, value: Part) -> str:
    shape = f.whole_tile(f.step.forward.states[0], time=True)
    if value.number is not None:
        return f"tl.full({shape}, {value.text}, ACC)"
    return f"tl.broadcast_to({value.text}, {shape})"
