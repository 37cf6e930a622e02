"""Which dims a search tries: those given and the defaults; free ones of a size that holds letters and states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rnnc.ir.dims import DimError
from rnnc.ir.graph import CellIR
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.witness.nonlinear import units_needed

MAX_SIZE = 256  # of a dim that the search chooses


def candidate_dims(cell: CellIR, dfa: DFA, given: dict[str, int]) -> Iterator[dict[str, int]]:
    """Dims to try, small ones first: the least that hold the letters and a few coordinates, a unit for each of the
    automaton's states, and as many units as threshold automata need.
    """
    per = {name for n in cell.nodes for d in n.type.per for name in d.names}
    free = [p.name for p in cell.dims if p.name not in given and p.default is None]
    if not free:
        if _sizes(cell, given, frozenset()) is not None:
            yield cell.dim_values(given)
        return
    tried: list[dict[str, int]] = []
    letters = len(dfa.alphabet)
    for need in sorted({max(2, min(4, len(dfa.states))), 5, len(dfa.states), units_needed(dfa)}):
        for size in range(1, MAX_SIZE + 1):
            chosen = given | {name: 1 if name in per else size for name in free}
            least = _sizes(cell, chosen, frozenset(free))
            if least is not None and least[0] >= min(letters, MAX_SIZE) and least[1] >= need:
                sizes = cell.dim_values(chosen)
                if sizes not in tried:
                    tried.append(sizes)
                    yield sizes
                break


def _sizes(cell: CellIR, given: Mapping[str, int], free: frozenset[str]) -> tuple[int, int] | None:
    """The least last axis of an input vector, and the least size of a state along its largest axis, of those that
    depend on free dims; None for dims that do not fit.
    """
    try:
        dims = cell.dim_values(given)
        shapes = [[d.evaluate(dims) for d in (*n.type.per, *n.type.shape)] for n in cell.nodes]
    except DimError:
        return None
    if any(d == 0 for shape in shapes for d in shape):
        return None
    depends = set(free)
    for p in cell.dims:
        if p.name not in given and p.default is not None and p.default.names & depends:
            depends.add(p.name)
    inputs, states = [MAX_SIZE], [MAX_SIZE]
    for i in cell.inputs:
        t = cell.nodes[i.node].type
        if t.dtype == "token" and t.vocab is not None and t.vocab.names & depends:
            inputs.append(t.vocab.evaluate(dims))
        elif t.shape and t.shape[-1].names & depends:
            inputs.append(shapes[i.node][-1])
    for s in cell.states:
        t = cell.nodes[s.node].type
        sizes = [n for d, n in zip(t.shape, shapes[s.node][len(t.per) :], strict=True) if d.names & depends]
        if sizes:
            states.append(max(sizes))
    return min(inputs), min(states)
