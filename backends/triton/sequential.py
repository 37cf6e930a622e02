"""The schedule of any pointwise step: one after another inside one kernel, the states in registers.

A state that is read under other labels too (`A @ h`) is turned at the start of a step, the gradient of what was turned
turned back at its end.

Forward keeps the states every C steps.  Backward takes C steps at a time, the last first: it runs them again from the
states kept, writes the state before each step to scratch memory, and then walks back over them.
"""

from __future__ import annotations

from rnnc.backends.kernels.program import Result
from rnnc.backends.torch.body import indented
from rnnc.backends.triton.code import RULES, Part, number
from rnnc.backends.triton.descriptor import LONG
from rnnc.backends.triton.frame import Frame, ending
from rnnc.backends.triton.gradients import gradient_pointers, store_accumulators, store_gradients
from rnnc.backends.triton.kernel import Step
from rnnc.backends.triton.text import Kernel, finished

UNROLLED = ", loop_unroll_factor=4"


def sequential_kernels(step: Step) -> tuple[Kernel, Kernel]:
    return _forward(step), _backward(step)


def _short(f: Frame) -> bool:
    """Whether a step is a few operations on numbers: then the loads of several steps start together, which else would
    be waited for at every step.
    """
    return not f.layout.inner and len(f.step.backward.values) <= LONG


def _steps(f: Frame, count: str) -> str:
    """A loop over steps of the backward, which keeps too much in registers to read ahead where steps are not short."""
    return f"tl.range(0, {count}, num_stages=STAGES{UNROLLED})" if _short(f) else f"range(0, {count})"


def _forward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    s = f.statements
    static = f.hoisted(step.forward)
    states = f.state_names()
    _give(f, "state", states)
    f.store_states("{}_tiles_ptr", states, ("tile",))
    keep, s.lines = s.lines, []
    _turn(f, states)
    values = s.run(step.forward)
    new: list[Part] = []
    for result, value in zip(step.forward.results, values, strict=True):
        if result.target == "output":
            f.store_output(result, value)
        else:
            new.append(f.summed(result, value))
    _move(f, states, new)
    loop, s.lines = s.lines, []
    f.load_states("{}_start_ptr", states)
    head, s.lines = s.lines, []
    f.store_states("{}_last_ptr", states)
    lines = [
        *f.indices(),
        *static,
        *head,
        f"for step in tl.range(0, length, num_stages=STAGES{UNROLLED if _short(f) else ''}):",
        "    t = origin + step",
        "    if step % BT == 0:",
        "        tile = tiles + step // BT",
        *indented(keep, 2),
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
        [f"{n}_tiles_ptr" for n in arrays.states],
    ]
    return finished(f, f"{step.name}_forward", "step by step", arguments, ["BT", "STAGES"], lines)


def _give(f: Frame, source: str, variables: list[list[str]]) -> None:
    for k, parts in enumerate(variables):
        for p, text in enumerate(parts):
            f.given[source, k, p] = Part(text=text)


def _turn(f: Frame, states: list[list[str]]) -> None:
    """Variables for the states under the labels of each reading."""
    made: dict[tuple[int, tuple[int, ...]], list[Part]] = {}
    for k, n in f.step.readings.items():
        array = f.step.forward.states[n]
        turn = f.layout.turn(f.step.forward.inputs[k], array)
        if turn is None:
            parts = [Part(text=x) for x in states[n]]
        elif (n, turn) in made:
            parts = made[n, turn]
        else:
            parts = [
                f.statements.bind(
                    f"{f.step.arrays.states[n]}_turned{ending(array, p)}", Part(text=f"tl.permute({x}, {turn})")
                )
                for p, x in enumerate(states[n])
            ]
            made[n, turn] = parts
        for p, part in enumerate(parts):
            f.given["input", k, p] = part


def _turned_back(f: Frame, result: Result, value: Part) -> Part:
    """The gradient of a reading as one of the state."""
    read, state = f.step.forward.inputs[result.index], f.step.forward.states[f.step.readings[result.index]]
    value = f.summed(result, value)
    turn = f.layout.turn(read, state)
    if turn is None or value.number is not None:
        return value
    back = tuple(turn.index(p) for p in range(len(turn)))
    whole = f.layout.shape(f.held(read))
    return Part(text=f"tl.permute(tl.broadcast_to({value.text}, {whole}), {back})")


def _move(f: Frame, variables: list[list[str]], new: list[Part]) -> None:
    """Assign new states all at once, each as a tile of its own whole shape."""
    flat = [v for parts in variables for v in parts]
    arrays = [a for a, parts in zip(f.step.forward.states, variables, strict=True) for _ in parts]
    texts = []
    for array, value in zip(arrays, new, strict=True):
        shape = f.whole_tile(array)
        whole = f"tl.full({shape}, {value.text}, ACC)" if value.number is not None else value.text
        texts.append(f"tl.broadcast_to({whole}, {shape})")
    f.statements.lines.append(f"{', '.join(flat)} = {', '.join(texts)}")


def _backward(step: Step) -> Kernel:
    f = Frame(step=step, layout=step.layout)
    s = f.statements
    static = f.hoisted(step.forward, step.backward)
    states, carry = f.state_names(), f.state_names("d_{}")
    again = _again(f, states)
    _give(f, "state", states)
    _give(f, "d_state", carry)
    f.load_states("{}_scratch_ptr", states, ("b", "row"))
    _turn(f, states)
    accumulators = store_gradients(f, step.backward)
    results = [r for r in step.backward.results if r.target == "d_state" or r.index in step.readings]
    values = s.run(step.backward.pruned(results))
    pairs = list(zip(results, values, strict=True))
    found = {(r.index, r.part): f.summed(r, v) for r, v in pairs if r.target == "d_state"}
    for r, v in pairs:
        if r.target == "d_input":
            place = (step.readings[r.index], r.part)
            found[place] = RULES["add"](found[place], _turned_back(f, r, v))
    _move(f, carry, [found.get((k, p), number(0)) for k, parts in enumerate(carry) for p in range(len(parts))])
    back, s.lines = s.lines, []
    f.load_states("d_{}_last_ptr", carry)
    head, s.lines = s.lines, []
    f.load_states("{}_tiles_ptr", states, ("tile",))
    kept, s.lines = s.lines, []
    f.store_states("d_{}_start_ptr", carry)
    store_accumulators(f, accumulators)
    lines = [
        *f.indices(),
        *static,
        *head,
        *(a.start for a in accumulators),
        "for back in range(0, tl.cdiv(length, BT)):",
        "    first = (tl.cdiv(length, BT) - 1 - back) * BT",
        "    tile = tiles + first // BT",
        *indented(kept),
        f"    for row in {_steps(f, 'tl.minimum(BT, length - first)')}:",
        "        t = origin + first + row",
        *indented(again, 2),
        "    tl.debug_barrier()",
        f"    for step in {_steps(f, 'tl.minimum(BT, length - first)')}:",
        "        row = tl.minimum(BT, length - first) - 1 - step",
        "        t = origin + first + row",
        *indented(back, 2),
        "    tl.debug_barrier()",
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
        [f"{n}_scratch_ptr" for n in arrays.states],
    ]
    return finished(f, f"{step.name}_backward", "back through the steps", arguments, ["BT", "STAGES"], lines)


def _again(f: Frame, states: list[list[str]]) -> list[str]:
    """Statements of one step of the second run: the state before it to scratch, the state after it in the variables."""
    s = f.statements
    known, numbered, spoken = dict(s.made), dict(s.numbered), set(s.spoken)
    _give(f, "state", states)
    f.store_states("{}_scratch_ptr", states, ("b", "row"))
    _turn(f, states)
    update = f.step.forward.pruned([r for r in f.step.forward.results if r.target == "state"])
    _move(f, states, [f.summed(r, v) for r, v in zip(update.results, s.run(update), strict=True)])
    lines, s.lines = s.lines, []
    s.made, s.numbered, s.spoken = known, numbered, spoken
    return lines
