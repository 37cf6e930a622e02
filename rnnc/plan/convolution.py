"""Convolution: a time-invariant transition makes the states a convolution of the inputs with its powers (by FFT).

Not chosen by itself: all states of such a recurrence cost less as a scan, whose error is relative to each value and not
to the largest one.
"""

from __future__ import annotations

from math import log2
from typing import ClassVar

from rnnc.analysis.forms import Elementwise, Form
from rnnc.ir.dims import Dim
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, per_step
from rnnc.plan.strategy import Strategy, names, not_linear, structure


class Convolution(Strategy):
    name: ClassVar[str] = "convolution"
    automatic: ClassVar[bool] = False

    def form(self, problem: Problem) -> Form | str | None:
        group = problem.group
        found = next((f for f in group.forms if isinstance(f, Elementwise)), None)
        if found is None:
            return not_linear(problem) or f"the transition of {names(problem)} is {structure(problem)}, not elementwise"
        if group.semiring != "plus_times":
            return f"{names(problem)} is linear over {group.semiring}, which has no Fourier transform"
        if not group.transition_static or found.a is None:
            return (
                f"the transition of {names(problem)} changes from step to step"
                if found.a
                else "the transition is the identity"
            )
        if found.b is None:
            return f"nothing is added to {names(problem)}, so there is nothing to convolve"
        return found

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        size = problem.state_size
        log = int(log2(max(2.0, problem.number(Dim.of(STEPS))))) + 1
        return Cost(
            depth=f"log {STEPS}",
            flops=per_step(size * (20 * log)),
            bytes=per_step(size * (16 * NUMBER)),
            memory=per_step(size * (6 * NUMBER)),  # two padded transforms and their product
            launches=40,
        )

    def why(self, problem: Problem, form: Form | None) -> str:
        return f"the transition of {names(problem)} is the same at every step, so its states are a convolution"

    def safety(self, problem: Problem, form: Form | None) -> str:
        return "the error is relative to the largest value of the sequence, not to each: float32 at least"

    def remedy(self, problem: Problem) -> str:
        if problem.group.semiring != "plus_times" or not problem.group.forms:
            return ""
        return (
            f"a diagonal transition of {names(problem)} made of parameters and constants alone would be a convolution"
        )
