"""Witnesses: weights of the user's own cell, inside its declared domains, that make it recognise a language.

`find_witness` reads what coefficients a recurrence may have off its normal forms, chooses some that simulate the
automaton, and propagates them backwards through the graph to raw parameters.  No witness leaves it unclosed.
"""

from __future__ import annotations

from rnnc.verify.witness.search import Budget, find_witness
from rnnc.verify.witness.witness import Witness

__all__ = ["Budget", "Witness", "find_witness"]
