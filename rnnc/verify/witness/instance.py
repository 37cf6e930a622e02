"""From a solved branch to raw parameters and letters: what the closure is asked about."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from rnnc.exact import I
from rnnc.ir.graph import CellIR
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.domains import into_domain
from rnnc.verify.witness.evaluation import Branch
from rnnc.verify.witness.numbers import ONE, ZERO
from rnnc.verify.witness.solver import Solver


def parameters(cell: CellIR, solver: Solver, branch: Branch) -> dict[str, Any]:
    """Raw parameters as exact arrays: the solution, and for what nothing was wanted of 0 (1 where it starts at 1)."""
    solution = branch.system.solution()
    out = {}
    for p in cell.params:
        shape = solver.shape(p.node)
        array = np.full(shape, ONE if p.init.kind == "ones" else ZERO, dtype=object)
        flat = array.reshape(-1)
        for i in range(flat.size):
            if (p.node, i, 0) in solution or (p.node, i, 1) in solution:
                flat[i] = solution.get((p.node, i, 0), ZERO) + I * solution.get((p.node, i, 1), ZERO)
        out[p.name] = flat.reshape(shape)
    return out


def letter_inputs(cell: CellIR, solver: Solver, branch: Branch, dfa: DFA) -> dict[str, dict[str, Any]] | None:
    """Each letter's value of each input inside its declared domain; None where a wanted value lies outside, or tokens
    are too few.
    """
    counts = [count for _, count in solver.tokens.values()]
    if counts and len(counts) == len(cell.inputs) and math.prod(counts) < len(dfa.alphabet):
        return None
    out: dict[str, dict[str, Any]] = {}
    for k, letter in enumerate(dfa.alphabet):
        context = solver.contexts.letters.index(k)
        given: dict[str, Any] = {}
        for i in cell.inputs:
            shape = solver.shape(i.node)
            if i.node in solver.tokens:
                dtype = bool if cell.nodes[i.node].type.dtype == "bool" else np.int64
                given[i.name] = np.full(shape, solver.token(i.node, k), dtype=dtype)
                continue
            wanted = branch.wanted.get(i.node)
            row = np.full(shape, None, dtype=object)
            if wanted is not None:
                row[...] = wanted[context]
            if not into_domain(row, i.domain):
                return None
            given[i.name] = row
        out[letter] = given
    return out
