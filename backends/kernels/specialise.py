"""A program with some of what it loads replaced by numbers, and what becomes trivial left out.

The backward of a step is linear in the gradient that comes in from the step after it.  With 0 for that gradient it
gives what this step adds, with 1 (and 0 for the gradients of the outputs) the factor: the two coefficients of the scan
that runs backward through time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rnnc.backends.kernels.program import Folding, Load, Program, Result, ValueId


def specialised(program: Program, number: Callable[[Load], int | None], keep: Callable[[Result], bool]) -> Program:
    """`program` with each load for which `number` gives one replaced, and only the results for which `keep` holds.

    before: d_h = mul(d_state, a); d_state := 1      -->  after: d_h = a
    """
    b = Folding()
    at: list[ValueId] = []
    for v in program.values:
        known = number(v.load) if v.load is not None else None
        args = tuple(at[a] for a in v.args)
        if known is not None:
            at.append(b.const(known))
        elif v.over and b.number(args[0]) == 0:
            at.append(args[0])
        elif v.args and not v.over:
            at.append(b.op(v.op, *args))
        else:
            facts = {"boolean": v.boolean, "load": v.load, "number": v.number, "size": v.size, "over": v.over}
            at.append(b.value(v.op, *args, labels=v.labels, **facts))
        made = b.values[at[-1]]
        if v.title and made.op == v.op and made.node is None:
            b.values[made.id] = replace(made, node=v.node, title=v.title)
    results = [replace(r, value=at[r.value]) for r in program.results if keep(r)]
    return replace(program, values=tuple(b.values), results=tuple(results)).pruned(results)
