"""The schedule of nonlinear elementwise states by Newton's method: tiles of BT steps, each solved in registers.

A tile's pre-activations are read once and all that does not depend on the states is computed once; then the step and
its slopes, which are the step's own derivative at unit gradients, alternate with a scan of the tile
(`rnnc.runtime.gpu.newton`).  K states that meet at each position have K x K slopes there, and the file gets the scan of
such maps.  Lanes are spread along time, so that a few channels fill a program where one step after another would leave
it idle.

The backward solves each tile again from the state kept before it, and is then that of any scan: one linear reverse
recurrence with the slopes at the solution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rnnc.analysis.forms import Group
from rnnc.backends.kernels.program import Load, Program, Result
from rnnc.backends.kernels.specialise import specialised
from rnnc.backends.torch.body import indented
from rnnc.backends.triton.code import Part, number
from rnnc.backends.triton.frame import Frame
from rnnc.backends.triton.kernel import Step
from rnnc.backends.triton.names import unmistakable
from rnnc.backends.triton.scan import backward_of_tiles, forward_of_tiles, inside, updates
from rnnc.backends.triton.text import Kernel
from rnnc.ir.graph import CellIR
from rnnc.ir.linearise import structure_of

CAP = 12  # iterations for one tile; a contraction takes 4 to 7
MOST = 3  # states: a scan carries 2 K (K + 1) tiles


def applies(cell: CellIR, group: Group, step: Step) -> bool:
    """Whether entries of different positions are proved never to meet, and no program shares out less than them."""
    found = structure_of(cell, group.states)
    if isinstance(found, str) or found.pattern == "dense" or step.readings or step.layout.single:
        return False
    alike = {step.layout.held(s.axes) for s in step.forward.states}
    return len(step.region.states) <= MOST and len(alike) == 1


def newton_kernels(step: Step) -> tuple[Kernel, Kernel]:
    timed = replace(step, layout=replace(step.layout, timed=True))
    forward, backward = _forward(timed), _backward(timed)
    if len(step.region.states) > 1:
        forward = replace(forward, text=f"{maps_text(step.name, len(step.region.states))}\n\n{forward.text}")
    return forward, backward


def _forward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    static = f.hoisted(step.forward, step.backward)

    def solve() -> list[str]:
        _give(f, _solved(f))
        place = "tile * G * blocks + g * blocks + part" if f.layout.grid else "tile * blocks + part"
        f.statements.lines.append(f"tl.store(counts_ptr + {place}, tl.where(wrong > 0, -rounds, rounds))")
        return [_tile(f, part) for part in f.statements.run(updates(step.forward))]

    return forward_of_tiles(f, static, solve, more=["counts_ptr"])


def _backward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    static = f.hoisted(step.forward, step.backward)
    states = range(len(step.region.states))

    def solve() -> list[str]:
        """The transposed slopes, row by row."""
        _give(f, _solved(f))
        rows = [_slopes(f, i) for i in states]
        return [inside(f, "factor", rows[j][i], str(float(i == j)), 0, state=i) for i in states for j in states]

    def behind(factor: list[str], own: list[str], carry: list[str]) -> list[str]:
        names = [f.names.fresh(f"d_{n}_after") for n in step.arrays.states]
        f.statements.lines.append(f"{', '.join(names)} = {_map(f, 'after')}({', '.join([*factor, *own, *carry])})")
        return names

    return backward_of_tiles(f, static, solve, behind)


def _map(f: Frame, what: str) -> str:
    """The scan of a tile's linear maps: the runtime's for one state, the file's own for several."""
    if len(f.step.region.states) > 1:
        return f"{f.step.name}_{what}"
    f.statements.helpers.add(f"linear_{what}")
    return f"linear_{what}"


def _give(f: Frame, names: Sequence[str]) -> None:
    for k, name in enumerate(names):
        f.given["state", k, 0] = Part(text=name)


def _slope_program(step: Step, row: int) -> Program:
    """dF_row / dh, at the states given."""

    def unit(load: Load) -> int | None:
        if load.source == "d_state":
            return int(load.index == row)
        return 0 if load.source == "d_output" else None

    return specialised(step.backward, unit, lambda r: r.target == "d_state")


def _slopes(f: Frame, row: int) -> list[Part]:
    program = _slope_program(f.step, row)
    found = {r.index: x for r, x in zip(program.results, f.statements.run(program), strict=True)}
    return [found.get(k, number(0)) for k in range(len(f.step.region.states))]


def _solved(f: Frame) -> list[str]:
    """Statements that find the states before each step of a tile; the variables."""
    s, step = f.statements, f.step
    names = [parts[0] for parts in f.state_names()]
    states = range(len(names))
    value = updates(step.forward)
    for program in (value, *(_slope_program(step, i) for i in states)):
        _outside(f, program)
    before, after, following, found = (
        [f.names.fresh(f"{h}_{word}") for h in names] for word in ("before", "after", "next", "found")
    )
    _give(f, before)
    s.helpers |= {"unsolved", "previous"}
    for state in step.region.step.states:
        s.remark(step.comment(state.update))
    shape = f.whole_tile(step.forward.states[0], time=True)
    starts = [f"{b} = tl.broadcast_to({h}, {shape})" for b, h in zip(before, names, strict=True)]
    lines, made = s.lines, dict(s.made)
    s.lines = []
    s.lines += [f"{x} = {_tile(f, part)}" for x, part in zip(found, s.run(value), strict=True)]
    slope = [[f.names.fresh(f"{names[i]}_slope{f'_{names[j]}' * (len(names) > 1)}") for j in states] for i in states]
    for i in states:
        s.lines += [f"{x} = {_tile(f, part)}" for x, part in zip(slope[i], _slopes(f, i), strict=True)]
    loop = [*s.lines, *_iteration(f, found, slope, before, after, following)]
    s.lines, s.made = [], dict(made)
    again = [f.names.fresh(f"{h}_again") for h in names] if len(names) > 1 else before
    texts = [f"previous({_tile(f, part)}, {h}, {_row(f)})" for part, h in zip(s.run(value), names, strict=True)]
    again_lines = [*s.lines, *(f"{x} = {text}" for x, text in zip(again, texts, strict=True))]
    again_lines += [f"{', '.join(before)} = {', '.join(again)}"] if len(names) > 1 else []
    s.lines, s.made = lines, made
    s.lines += [*starts, *(f"{a} = {b}" for a, b in zip(after, before, strict=True)), "wrong, rounds = 1, 0"]
    s.lines += [f"while (wrong > 0) & (rounds < {CAP}):", *indented(loop)]
    s.lines += ["if wrong > 0:  # one step after another", *indented(starts), "    for _ in range(BT):"]
    s.lines += indented(indented(again_lines))
    return before


def _iteration(
    f: Frame, found: list[str], slope: list[list[str]], before: list[str], after: list[str], following: list[str]
) -> list[str]:
    """From the values and slopes at a guess to the next one, and how many entries are not solved."""
    names = [parts[0] for parts in f.state_names()]
    rows = list(zip(found, slope, strict=True))
    drift = [f"{x} - {_sum([f'{a} * {b}' for a, b in zip(row, before, strict=True)])}" for x, row in rows]
    flat = [a for row in slope for a in row]
    mask = f.mask(f.held(f.step.forward.states[0]), True)
    groups = zip(found, after, following, before, strict=True)
    wrong = " + ".join(f"unsolved({', '.join(group)}, {mask})" for group in groups)
    moves = [f"({n} - {b})" for n, b in zip(following, before, strict=True)]
    return [
        f"{', '.join(following)} = {_map(f, 'before')}({', '.join([*flat, *drift, *names])})",
        f"wrong = {wrong}",
        *(
            f"{a} = {x} + {' + '.join(f'{c} * {m}' for c, m in zip(row, moves, strict=True))}"
            for a, (x, row) in zip(after, rows, strict=True)
        ),
        f"{', '.join(before)} = {', '.join(following)}",
        "rounds += 1",
    ]


def _sum(terms: list[str]) -> str:
    return terms[0] if len(terms) == 1 else f"({' + '.join(terms)})"


def _row(f: Frame) -> str:
    return f"tl.arange(0, BT){f.layout.index('t')}"


def _outside(f: Frame, program: Program) -> None:
    """Compute, before the iterations, whatever does not depend on the states."""
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
        if part.number is None and not part.text.isidentifier():
            s.made[keys[v.id]] = s.bind(unmistakable(v.title or "fixed"), part)


def _tile(f: Frame, value: Part) -> str:
    shape = f.whole_tile(f.step.forward.states[0], time=True)
    if value.number is not None:
        return f"tl.full({shape}, {value.text}, ACC)"
    return f"tl.broadcast_to({value.text}, {shape})"


# ---------------------------------------------------------------- maps of several states


def maps_text(name: str, size: int) -> str:
    """Scans of h -> A h + b with A of `size` x `size` numbers at each position, as `linear_before` and `linear_after`.

    An element carries its own map (A, b) and the composition (P, q) of those before it.
    """
    k = range(size)
    names = {x: [f"{x}{i}{j}" for i in k for j in k] for x in "acpr"} | {x: [f"{x}{i}" for i in k] for x in "bdqsxyhg"}
    left, right = (
        [*names["a"], *names["b"], *names["p"], *names["q"]],
        [*names["c"], *names["d"], *names["r"], *names["s"]],
    )

    def product(x: str, y: str) -> list[str]:
        return [" + ".join(f"{x}{i}{m} * {y}{m}{j}" for m in k) for i in k for j in k]

    def image(x: str, y: str, z: str) -> list[str]:
        return [" + ".join([*(f"{x}{i}{m} * {y}{m}" for m in k), f"{z}{i}"]) for i in k]

    results = [*product("c", "a"), *image("c", "b", "d"), *product("r", "a"), *image("r", "b", "s")]
    ones = ["one" if i == j else "zero" for i in k for j in k]
    lines = ["@triton.jit", f"def {name}_composed({', '.join([*left, *right])}):"]
    lines += [
        '    """(A, b, P, q) of one stretch of steps and then another."""',
        "    return (",
        *_listed(results),
        "    )",
    ]
    for what, start, reverse in (("before", "h", False), ("after", "g", True)):
        given = [*names["a"], *names["b"], *names[start]]
        doc = "The states before each step" if not reverse else "Gradients backward through time, behind each step"
        elements = [*names["a"], *names["b"], *ones, *["zero"] * size]
        targets = [*["_"] * (size * size + size), *names["p"], *names["q"]]
        lines += ["", "", "@triton.jit", f"def {name}_{what}({', '.join(given)}):", f'    """{doc}."""']
        lines += ["    zero = tl.full(a00.shape, 0.0, a00.dtype)", "    one = zero + 1.0"]
        lines += [f"    {', '.join(targets)} = tl.associative_scan(", f"        ({', '.join(elements)}),"]
        lines += [f"        0, {name}_composed, reverse={reverse},", "    )"]
        lines += ["    return (", *_listed(image("p", start, "q")), "    )"]
    return "\n".join(lines) + "\n"


def _listed(items: Sequence[str]) -> list[str]:
    return [f"        {x}," for x in items]
