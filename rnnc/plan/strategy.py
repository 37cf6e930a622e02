"""What every strategy answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rnnc.analysis.forms import Form
from rnnc.plan.cost import Cost, Problem


class Strategy(ABC):
    """A way to run one group of states over a sequence."""

    name: ClassVar[str]
    automatic: ClassVar[bool] = True  # whether it may be chosen without being asked for
    margin: ClassVar[float] = 1.0  # by how much its estimate has to be below another's

    @abstractmethod
    def form(self, problem: Problem) -> Form | str | None:
        """The normal form it would run; None where it needs none; a sentence that says why it is illegal."""

    def may_choose(self, problem: Problem) -> bool:
        """Whether it may be chosen for this problem without being asked for.  Requires: legal."""
        return self.automatic

    @abstractmethod
    def cost(self, problem: Problem, form: Form | None) -> Cost:
        """Requires: legal, with that form."""

    @abstractmethod
    def why(self, problem: Problem, form: Form | None) -> str:
        """One sentence: what makes it legal and what it does."""

    def safety(self, problem: Problem, form: Form | None) -> str:
        """What the proven bounds make safe (chunk size, precision), or what is missing; "" where nothing can go wrong
        that does not go wrong step by step.  Requires: legal, with that form.
        """
        return ""

    def remedy(self, problem: Problem) -> str:
        """A change of a *linear* group that would make this legal, or "".  Requires: illegal."""
        return ""


def names(problem: Problem) -> str:
    return " and ".join(f"`{n}`" for n in problem.group.states)


def not_linear(problem: Problem) -> str | None:
    """Why the group has no linear form at all, or None."""
    group = problem.group
    if group.kind == "nonlinear":
        return f"not linear: {group.because[0][0]}" if group.because else "not linear"
    return group.because[0][0] if not group.forms and group.because else None


def structure(problem: Problem) -> str:
    return problem.group.structure.replace("_", " ")
