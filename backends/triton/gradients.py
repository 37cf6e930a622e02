"""Where the gradients of a kernel's inputs go.

A sequence's gradient is written step by step.  A static input's adds up over the steps in registers and over the batch
in one part a program.  What has no axis `d` gets one part a block of channels.  The caller adds up the parts: no
atomics, so the same input gives the same bits.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from rnnc.backends.kernels.program import Program, Result
from rnnc.backends.triton.code import Part
from rnnc.backends.triton.frame import Frame, ending


@dataclass(frozen=True, slots=True, kw_only=True)
class Accumulator:
    """The gradient of a static input (one part of it) in the making: `start` declares it before the loop."""

    result: Result
    variable: str
    start: str


def gradient_results(program: Program, readings: Collection[int] = ()) -> list[Result]:
    """Of the inputs that the caller gives: all but `readings`."""
    return [r for r in program.results if r.target == "d_input" and r.index not in readings]


def gradient_pointers(frame: Frame, program: Program) -> list[str]:
    """The pointers of the inputs that have a gradient, in order."""
    results = gradient_results(program, frame.step.readings)
    return [f"d_{frame.step.arrays.inputs[k]}_ptr" for k in dict.fromkeys(r.index for r in results)]


def store_gradients(frame: Frame, program: Program) -> list[Accumulator]:
    """Statements of one tile (or step) for all gradients of inputs."""
    found = []
    results = gradient_results(program, frame.step.readings)
    for result, value in zip(results, frame.statements.run(program.pruned(results)), strict=True):
        array = program.inputs[result.index]
        if array.static:
            labels = {*program.values[result.value].labels}
            found.append(_accumulate(frame, result, value, frame.layout.held(labels)))
        else:
            held = frame.held(array)
            total = frame.summed(result, value)
            frame.store(_pointer(frame, result), _stream_place(frame, result, held), total.text, frame.mask(held, True))
    return found


def store_accumulators(frame: Frame, accumulators: list[Accumulator]) -> None:
    """After the loop: what has been added up goes out."""
    for a in accumulators:
        held = frame.held(frame.step.backward.inputs[a.result.index])
        total = frame.summed(a.result, Part(text=a.variable))
        frame.store(
            _pointer(frame, a.result), _place(frame, a.result, frame.program, held), total.text, frame.mask(held, False)
        )


def _accumulate(frame: Frame, result: Result, value: Part, held: tuple[str, ...]) -> Accumulator:
    name = f"d_{frame.step.arrays.inputs[result.index]}{ending(frame.step.forward.inputs[result.index], result.part)}"
    variable = frame.names.fresh(name)
    axes = [a for a in held if a != "g"]
    if frame.layout.timed:
        frame.statements.helpers.add("sum_over")
        frame.statements.lines.append(f"{variable} += sum_over({_tile(frame, value)}, in_t, 0)")
    elif frame.layout.rows:
        axes = ["b", *axes]
        frame.statements.lines.append(f"{variable} += tl.where(alive, {value.text}, 0.0)")
    else:
        frame.statements.lines.append(f"{variable} += {value.text}")
    shape = frame.layout.shape(axes, time=False)
    return Accumulator(result=result, variable=variable, start=f"{variable} = tl.full({shape}, 0.0, ACC)")


def _tile(frame: Frame, value: Part) -> str:
    return f"tl.full({frame.layout.shape([])}, {value.text}, ACC)" if value.number is not None else value.text


def _pointer(frame: Frame, result: Result) -> str:
    return f"d_{frame.step.arrays.inputs[result.index]}_ptr"


def _stream_place(frame: Frame, result: Result, held: tuple[str, ...]) -> str:
    axes = (
        held
        if "d" in held or frame.layout.rows
        else (*(a for a in held if a == "g"), "part", *(a for a in held if a != "g"))
    )
    return frame.stream_place(axes, frame.step.forward.inputs[result.index].dtype == "complex", result.part)


def _place(frame: Frame, result: Result, front: tuple[str, ...], held: tuple[str, ...]) -> str:
    axes = frame.whole(front, held)
    if "d" not in held and not frame.layout.rows:
        at = len(front) + (1 if frame.layout.grid else 0)
        axes = (*axes[:at], "part", *axes[at:])
    return frame.place(axes, frame.step.forward.inputs[result.index].dtype == "complex", result.part)
