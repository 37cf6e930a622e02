"""One call a step: what a decoder does.  Always legal, never chosen for whole sequences."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from rnnc.analysis.forms import Form
from rnnc.plan.cost import NUMBER, Cost, Problem, per_sequence
from rnnc.plan.sequential import Sequential


class Step(Sequential):
    name: ClassVar[str] = "step"
    automatic: ClassVar[bool] = False

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        memory = per_sequence(problem.state_size * NUMBER)  # one state
        return replace(super().cost(problem, form), memory=memory)

    def why(self, problem: Problem, form: Form | None) -> str:
        return "one step at a time, for decoding; it gives the same numbers as every other strategy"
