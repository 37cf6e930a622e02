"""The schedule of an elementwise form: tiles of BT steps, scanned in registers, from tile to tile only the state.

Forward: read a tile of pre-activations, compute gates, scan, compute the readout, write outputs.  The state before each
tile is kept.  Backward, last tile first: read the same tile, compute the states before each step again from the state
kept, and scan the other way.  With P_t the gradient of the loss by the state before step t and x_t by outputs alone,

    P_t = J_t P_{t+1} + x_t,    J_t = (dh_t / dh_{t-1})^H,

and the derivative of one step, given P_{t+1} and the gradients of the outputs, is that of the input's tile.  J and x
are the step's own derivative at P_{t+1} = 1 without outputs, and at P_{t+1} = 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from rnnc.backends.kernels.program import Load, Program, Result
from rnnc.backends.kernels.specialise import specialised
from rnnc.backends.torch.body import indented
from rnnc.backends.triton.code import Part, number
from rnnc.backends.triton.frame import Frame
from rnnc.backends.triton.gradients import gradient_pointers, store_accumulators, store_gradients
from rnnc.backends.triton.kernel import Step
from rnnc.backends.triton.text import Kernel, finished

RINGS = {"plus_times": "linear", "max_plus": "max_plus", "min_plus": "min_plus", "log_plus": "log_plus"}
BACK = "for back in tl.range(0, tl.cdiv(stop - start, BT), num_stages=STAGES):"
ONES = {"plus_times": "1.0", "max_plus": "0.0", "min_plus": "0.0", "log_plus": "0.0"}
ZEROS = {"plus_times": "0.0", "max_plus": '-float("inf")', "min_plus": 'float("inf")', "log_plus": '-float("inf")'}


def applies(step: Step) -> bool:
    """Whether a state has an elementwise form; one of numbers alone (a counter) is no work for tiles, and fails to
    compile for AMD's GPUs.
    """
    return step.coefficients is not None and any(v.load is not None for v in step.coefficients.values)


def scan_kernels(step: Step) -> tuple[Kernel, ...]:
    """Forward and backward, then what one split of the steps does to a state and to a gradient."""
    timed = replace(step, layout=replace(step.layout, timed=True))
    return _forward(timed), _backward(timed), _totals(timed), _backward_totals(timed)


def reads_old_state(step: Step) -> bool:
    """Whether an output is computed from the state before the step, other than through the update."""
    update = step.region.step.states[0].update
    wanted = [o.node for o in step.region.step.outputs]
    seen, work = set(), [i for i in wanted if i != update]
    while work:
        i = work.pop()
        if i not in seen and i != update:
            seen.add(i)
            work += step.region.step.nodes[i].args
    return step.region.step.states[0].node in seen


# ---------------------------------------------------------------- forward


def _forward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    assert step.coefficients is not None

    def solve() -> list[str]:
        a, b = _coefficients(f)
        suffix = "before" if reads_old_state(step) else "states"
        title = "{}_before" if suffix == "before" else "{}_new"
        states = _scan(f, suffix, a, b, f.state_names()[0], title)
        if suffix == "before":
            _give(f, "state", states)
            return [p.text for p in f.statements.run(updates(step.forward))]
        _hold(f, step.forward, [r for r in step.forward.results if r.target == "state"], states)
        return states

    return forward_of_tiles(f, f.hoisted(step.coefficients, step.forward), solve)


def forward_of_tiles(f: Frame, static: list[str], solve: Callable[[], list[str]], more: Sequence[str] = ()) -> Kernel:
    """The forward of tiles, one after another: `solve` writes what finds the states of one and gives the variables of
    those after each step.  `more` are arguments behind all others.
    """
    s, step = f.statements, f.step
    before = f.state_names("{}")
    s.lines += _tile_indices(f, "first")
    f.store_states("{}_tiles_ptr", before, ("tile",))
    new = solve()
    wanted = [r for r in step.forward.results if r.target == "output"]
    for result, value in zip(wanted, s.run(step.forward.pruned(wanted)), strict=True):
        f.store_output(result, value)
    s.lines.append("end = step == tl.minimum(BT, length - first) - 1")
    s.helpers.add("last_row")
    held = [x for parts in before for x in parts]
    s.lines += [f"{old} = last_row({x}, length - first, end)" for old, x in zip(held, new, strict=True)]
    loop, s.lines = s.lines, []
    f.load_states("{}_start_ptr", before)
    head, s.lines = s.lines, []
    f.store_states("{}_last_ptr", before)
    lines = [
        *f.indices(),
        *static,
        *head,
        "for first in tl.range(start, stop, BT, num_stages=STAGES):",
        *indented(loop),
        *s.lines,
    ]
    arrays = step.arrays
    arguments = [
        ["bounds_ptr"],
        *f.input_arguments(),
        [f"{n}_start_ptr" for n in arrays.states],
        [f"{n}_ptr" for n in arrays.outputs],
        [f"{n}_last_ptr" for n in arrays.states],
        [f"{n}_tiles_ptr" for n in arrays.states] + [*more],
    ]
    return finished(f, f"{step.name}_forward", "every step", arguments, ["BT", "STAGES"], lines)


def _tile_indices(f: Frame, first: str) -> list[str]:
    row = f.layout.index("t")
    return [
        f"tile = tiles + {first} // BT",
        f"t = origin + {first}",
        f"step = tl.arange(0, BT){row}.to(tl.int64)",
        f"in_t = step < length - {first}",
    ]


def _coefficients(f: Frame) -> tuple[list[str], list[str]]:
    """Variables of a and b (real and imaginary part), as whole tiles."""
    step = f.step
    assert step.coefficients is not None
    assert step.form is not None
    parts = f.statements.run(step.coefficients)
    found: dict[int, list[Part]] = {}
    for r, part in zip(step.coefficients.results, parts, strict=True):
        found.setdefault(r.index, []).append(part)
    given = [n for n, i in (("a", step.form.a), ("b", step.form.b)) if i is not None]
    by_name = {n: found[k] for k, n in enumerate(given)}
    width = 2 if step.complex else 1
    missing = {"a": ONES[step.semiring], "b": ZEROS[step.semiring]}
    result = []
    for n in ("a", "b"):
        values = by_name.get(n, [Part(text=missing[n], number=number(0).number)])
        values = [*values, *[number(0)] * (width - len(values))]
        result.append([_whole(f, f"{step.arrays.states[0]}_{n}", v, p) for p, v in enumerate(values)])
    return result[0], result[1]


def _whole(f: Frame, name: str, value: Part, part: int) -> str:
    """A coefficient as a tile of the state's whole shape."""
    title = name + (("_re", "_im")[part] if f.step.complex else "")
    shape = f.layout.shape(["t", *f.held(f.step.forward.states[0])])
    if value.number is not None:
        return f.statements.bind(title, Part(text=f"tl.full({shape}, {value.text}, ACC)")).text
    return f.statements.bind(title, Part(text=f"tl.broadcast_to({value.text}, {shape})")).text


def _scan(f: Frame, what: str, a: list[str], b: list[str], start: list[str], title: str) -> list[str]:
    """A call of the runtime's scan; the variables of the result."""
    ring = "complex" if len(a) == 2 else "linear" if what == "after" else RINGS[f.step.semiring]
    helper = f"{ring}_{what}"
    f.statements.helpers.add(helper)
    update = f.step.region.step.states[0].update
    if what != "after":
        f.statements.remark(f.step.comment(update))
    names = [f.names.fresh(n) for n in f.state_names(title)[0]]
    f.statements.lines.append(f"{', '.join(names)} = {helper}({', '.join([*a, *b, *start])})")
    return names


def _give(f: Frame, source: str, parts: list[str]) -> None:
    for p, text in enumerate(parts):
        f.given[source, 0, p] = Part(text=text)


def _hold(f: Frame, program: Program, results: list[Result], names: list[str]) -> None:
    """The values of the update are what the scan gave."""
    keys = f.statements.keys(program)
    for r, name in zip(results, names, strict=True):
        f.statements.made[keys[r.value]] = Part(text=name)


def updates(program: Program) -> Program:
    return program.pruned([r for r in program.results if r.target == "state"])


def _totals(step: Step) -> Kernel:
    """What all steps of a split do: h -> factor (x) h (+) total, by the same scan from the semiring's one and zero."""
    f = Frame(step=step, layout=step.layout)
    s = f.statements
    assert step.coefficients is not None
    static = f.hoisted(step.coefficients)
    total, factor = f.state_names("{}_total")[0], f.state_names("{}_product")[0]
    s.lines += _tile_indices(f, "first")
    a, b = _coefficients(f)
    s.lines.append("end = step == tl.minimum(BT, length - first) - 1")
    s.lines += _pass(f, RINGS[step.semiring], a, b, total, factor, reverse=False)
    loop, s.lines = s.lines, []
    starts = [*_filled(f, total, ZEROS[step.semiring]), *_filled(f, factor, ONES[step.semiring])]
    f.store_states("{}_total_ptr", [total])
    f.store_states("{}_factor_ptr", [factor])
    lines = [
        *f.indices(),
        *static,
        *starts,
        "for first in tl.range(start, stop, BT, num_stages=STAGES):",
        *indented(loop),
        *s.lines,
    ]
    names = step.arrays.states
    arguments = [
        ["bounds_ptr"],
        *f.input_arguments(),
        [f"{n}_total_ptr" for n in names] + [f"{n}_factor_ptr" for n in names],
    ]
    return finished(f, f"{step.name}_totals", "what a split does to the state", arguments, ["BT", "STAGES"], lines)


def _pass(
    f: Frame, ring: str, a: list[str], b: list[str], total: list[str], product: list[str], *, reverse: bool
) -> list[str]:
    """All steps of a tile applied to what has been gathered of the steps before it (after it, with `reverse`)."""
    helper = f"{'complex' if len(a) == 2 else ring}_pass"
    f.statements.helpers |= {helper, "first_row" if reverse else "row"}
    held = [*total, *product]
    names = [f.names.fresh(f"{v}_all") for v in held]
    call = f"{helper}({', '.join([*a, *b, *held])}, {reverse})"
    last = "first_row({})" if reverse else "row({}, end)"
    return [f"{', '.join(names)} = {call}", *(f"{v} = {last.format(x)}" for v, x in zip(held, names, strict=True))]


def _filled(f: Frame, variables: list[str], value: str) -> list[str]:
    """State variables that start at a number; imaginary parts at zero."""
    shape = f.layout.shape(f.held(f.step.forward.states[0]))
    return [f"{v} = tl.full({shape}, {value if k == 0 else '0.0'}, ACC)" for k, v in enumerate(variables)]


# ---------------------------------------------------------------- backward


def _backward_totals(step: Step) -> Kernel:
    """What all steps of a split do to a gradient that comes in from behind: g -> factor g + total."""
    f = Frame(step=step, layout=step.layout)
    s = f.statements
    assert step.coefficients is not None
    static = f.hoisted(step.coefficients, step.backward)
    total, product = f.state_names("{}_total")[0], f.state_names("{}_product")[0]
    start = f.state_names("{}")
    s.lines += ["first = start + (tl.cdiv(stop - start, BT) - 1 - back) * BT", *_tile_indices(f, "first")]
    f.load_states("{}_tiles_ptr", start, ("tile",))
    a, b = _coefficients(f)
    _give(f, "state", _scan(f, "before", a, b, start[0], "{}_before"))
    factor, own = _factor(f, a), _own(f)
    s.lines += _pass(f, "linear", factor, own, total, product, reverse=True)
    loop, s.lines = s.lines, []
    starts = [*_filled(f, total, "0.0"), *_filled(f, product, "1.0")]
    f.store_states("{}_total_ptr", [total])
    f.store_states("{}_factor_ptr", [product])
    lines = [*f.indices(), *static, *starts, BACK, *indented(loop), *s.lines]
    names = step.arrays.states
    arguments = [
        ["bounds_ptr"],
        *f.input_arguments(),
        [f"{n}_tiles_ptr" for n in names],
        [f"d_{n}_ptr" for n in step.arrays.outputs],
        [f"{n}_total_ptr" for n in names] + [f"{n}_factor_ptr" for n in names],
    ]
    what = "what a split does to the gradient"
    return finished(f, f"{step.name}_backward_totals", what, arguments, ["BT", "STAGES"], lines)


def _backward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    assert step.coefficients is not None

    def solve() -> list[str]:
        a, b = _coefficients(f)
        _give(f, "state", _scan(f, "before", a, b, f.state_names()[0], "{}_before"))
        return _factor(f, a)

    def behind(factor: list[str], own: list[str], carry: list[str]) -> list[str]:
        return _scan(f, "after", factor, own, carry, "d_{}_after")

    return backward_of_tiles(f, f.hoisted(step.coefficients, step.backward), solve, behind)


Behind = Callable[[list[str], list[str], list[str]], list[str]]


def backward_of_tiles(f: Frame, static: list[str], solve: Callable[[], list[str]], behind: Behind) -> Kernel:
    """The backward of tiles, the last one first: `solve` writes what finds the states before each step of one, makes
    them known, and gives the variables of the slopes there; `behind` the scan of the gradients behind each step from
    the slopes, what outputs add, and the gradients behind the tile.
    """
    s, step = f.statements, f.step
    carry = [x for parts in f.state_names("d_{}") for x in parts]
    start = f.state_names("{}")
    s.lines += ["first = start + (tl.cdiv(stop - start, BT) - 1 - back) * BT", *_tile_indices(f, "first")]
    f.load_states("{}_tiles_ptr", start, ("tile",))
    factor = solve()
    own = _own(f)
    after = iter(behind(factor, own, carry))
    for k, parts in enumerate(f.state_names("d_{}")):
        for p in range(len(parts)):
            f.given["d_state", k, p] = Part(text=next(after))
    accumulators = store_gradients(f, step.backward)
    total = _by_state(f, step.backward)
    s.helpers.add("first_row")
    s.lines += [f"{c} = first_row({_tile_of(f, p)})" for c, p in zip(carry, total, strict=True)]
    loop, s.lines = s.lines, []
    f.load_states("d_{}_last_ptr", f.state_names("d_{}"))
    head, s.lines = s.lines, []
    f.store_states("d_{}_start_ptr", f.state_names("d_{}"))
    store_accumulators(f, accumulators)
    starts = [a.start for a in accumulators]
    lines = [
        *f.indices(),
        *static,
        *head,
        *starts,
        BACK,
        *indented(loop),
        *_places_again(f),
        *s.lines,
    ]
    arrays = step.arrays
    arguments = [
        ["bounds_ptr"],
        *f.input_arguments(),
        [f"{n}_tiles_ptr" for n in arrays.states],
        [f"d_{n}_ptr" for n in arrays.outputs],
        [f"d_{n}_last_ptr" for n in arrays.states],
        gradient_pointers(f, step.backward),
        [f"d_{n}_start_ptr" for n in arrays.states],
    ]
    return finished(f, f"{step.name}_backward", "the gradients of every step", arguments, ["BT", "STAGES"], lines)


def _places_again(f: Frame) -> list[str]:
    """Where a program's channels stand, once more: behind the loop arrays are written where those before it were read,
    and the compiler would take all these addresses through the loop, in two registers each.  What is added is zero, as
    it cannot know.  Where a state has no inner axes they are few.
    """
    if not f.layout.inner:
        return []
    place = f"channels(part + tl.maximum(stop - length, 0), BD, 1){f.layout.index('d')}"
    return ["# worked out again: no address has to be kept through the loop", f"d = {place}", "in_d = d < D"]


def _tile_of(f: Frame, value: Part) -> str:
    shape = f.layout.shape(["t", *f.held(f.step.forward.states[0])])
    return f"tl.full({shape}, {value.text}, ACC)" if value.number is not None else value.text


def _factor(f: Frame, a: list[str]) -> list[str]:
    """J, masked: steps behind the end pass the gradient on as it is."""
    step = f.step
    if step.semiring == "plus_times":
        parts = [Part(text=a[0]), *(Part(text=f"-{x}") for x in a[1:])]
    else:
        derivative = specialised(step.backward, at_one, lambda r: r.target == "d_state")
        parts = f.statements.run(derivative) or [number(0)]
        parts = [Part(text=f"tl.cast({p.text}, ACC)") if p.number is None else p for p in parts]  # a choice of numbers
    return [inside(f, "factor", p, "1.0" if k == 0 else "0.0", k) for k, p in enumerate(parts)]


def _own(f: Frame) -> list[str]:
    """x, the gradient that the outputs of each step give the state before it; zero behind the end."""
    parts = iter(_by_state(f, specialised(f.step.backward, _at_zero, lambda r: r.target == "d_state")))
    width = 2 if f.step.complex else 1
    states = range(len(f.step.arrays.states))
    return [inside(f, "own", next(parts), "0.0", p, state=k) for k in states for p in range(width)]


def _by_state(f: Frame, program: Program) -> list[Part]:
    """The gradients of all states before the step, part by part; zero where there is none."""
    wanted = [r for r in program.results if r.target == "d_state"]
    found = {(r.index, r.part): x for r, x in zip(wanted, f.statements.run(program.pruned(wanted)), strict=True)}
    width = 2 if f.step.complex else 1
    return [found.get((k, p), number(0)) for k in range(len(f.step.arrays.states)) for p in range(width)]


def inside(f: Frame, word: str, value: Part, otherwise: str, part: int, state: int = 0) -> str:
    """A tile of a value, another number in place of it behind the end."""
    title = f"{f.step.arrays.states[state]}_{word}" + (("_re", "_im")[part] if f.step.complex else "")
    shape = f.layout.shape(["t", *f.held(f.step.forward.states[0])])
    if value.number is not None:
        value = Part(text=f"tl.full({shape}, {value.text}, ACC)")
    return f.statements.bind(
        title, Part(text=f"tl.broadcast_to(tl.where(in_t, {value.text}, {otherwise}), {shape})")
    ).text


def at_one(load: Load) -> int | None:
    """The incoming gradient of the state is 1 (its imaginary part 0), those of the outputs are 0."""
    if load.source == "d_state":
        return 1 if load.part == 0 else 0
    return 0 if load.source == "d_output" else None


def _at_zero(load: Load) -> int | None:
    return 0 if load.source == "d_state" else None
