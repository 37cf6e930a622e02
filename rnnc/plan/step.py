"""One call a step: what a decoder does.  Always legal, never chosen for whole sequences."""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import Form
from rnnc.plan.cost import Problem
from rnnc.plan.sequential import Sequential


class Step(Sequential):
    name: ClassVar[str] = "step"
    automatic: ClassVar[bool] = False

    def why(self, problem: Problem, form: Form | None) -> str:
        return "one step at a time, for decoding; it gives the same numbers as every other strategy"
