"""What the form of a transition and the ranges of its coefficients prove of one step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import assert_never

from rnnc.analysis.coupled import coupled_facts
from rnnc.analysis.forms import BlockLinear, Coupled, Dense, Elementwise, Form, Group, MatrixState
from rnnc.analysis.intervals import exactly
from rnnc.analysis.matrices import Matrices
from rnnc.analysis.matrix_facts import MatrixFacts, complex_diagonal, diagonal, product
from rnnc.analysis.microsteps import micro_step_facts
from rnnc.analysis.ranges import Ranges
from rnnc.ir.graph import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStep:
    """Facts of one step's transition, from the form that says most.

    `entries`: the node whose entries are the eigenvalues, for a diagonal transition.
    """

    facts: MatrixFacts
    form: Form
    entries: NodeId | None = None


def one_step(group: Group, ranges: Ranges) -> OneStep:
    """Requires: the group has a form over (+, x)."""
    form = group.forms[0]
    match form:
        case Elementwise():
            return OneStep(facts=_diagonal(form, ranges), form=form, entries=form.a)
        case MatrixState():
            return OneStep(facts=_micro_steps(form, ranges), form=form)
        case Coupled():
            return OneStep(facts=coupled_facts(ranges, form), form=form)
        case BlockLinear():
            return OneStep(facts=Matrices(ranges).facts(form.blocks), form=form)
        case Dense():
            return OneStep(facts=Matrices(ranges).facts(form.a), form=form)
        case _:
            assert_never(form)


def _diagonal(form: Elementwise, ranges: Ranges) -> MatrixFacts:
    if form.a is None:
        return replace(diagonal(exactly(1), "the transition is the identity"), orthogonal=True)
    modulus = ranges.modulus(form.a)
    missing = f"a bound for the coefficient `{ranges.name(form.a)}`" if modulus.hi is None else ""
    if ranges.nodes[form.a].type.dtype != "complex":
        return replace(diagonal(ranges.real(form.a)), orthogonal=modulus == exactly(1), missing=missing)
    return complex_diagonal(modulus, missing or "the transition is a complex diagonal")


def _micro_steps(form: MatrixState, ranges: Ranges) -> MatrixFacts:
    """A product of the micro-steps' transitions, the last one leftmost."""
    facts = [micro_step_facts(ranges, step) for step in form.steps]
    found = facts[0]
    for later in facts[1:]:
        found = product(later, found)
    return found
