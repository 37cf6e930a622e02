"""The CPU backend's entry: analyse, find kernels, emit the torch backend's module around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count

from rnnc.backends.cpu.functions import kernel_text
from rnnc.backends.cpu.kernel import Kernel
from rnnc.backends.kernels.pointwise import pointwise
from rnnc.backends.kernels.program import Array
from rnnc.backends.kernels.region import find_region
from rnnc.backends.torch.backend import Strategies, explanation, for_cell, plan_all, require_inputs
from rnnc.backends.torch.emit import Kernels, emit_file
from rnnc.backends.torch.kernels import Kernel as Call
from rnnc.backends.torch.strategies import Choice
from rnnc.ir.graph import CellIR
from rnnc.plan.choose import GroupPlan, Plan, plan
from rnnc.runtime.compiled import compiler

SERVED = frozenset({"step", "sequential", "scan"})  # strategies that a kernel does the work of when asked for


def emit(cell: CellIR, *, dims: Mapping[str, int] | None, strategy: Strategies, sources: Mapping[str, str]) -> str:
    """The source text of a standalone module; see `rnnc.backends.Backend`."""
    require_inputs(cell)
    made = {}
    kernels: list[Kernel] = []
    for c, p in plan_all(cell, dims, strategy).items():
        graph, choices, why = _plan_cell(c, p, for_cell(c, cell, strategy), dims if c == cell else None, kernels)
        made[c] = (graph, choices, why)
    return emit_file(cell, made, sources, definitions(kernels))


def unavailable() -> str | None:
    """None: without a compiler `emit` falls back by itself."""
    return None


def unavailable() -> str | None:
    """Why the emitted text cannot be run on this machine; None where it can."""
    return None if compiler() else "no C compiler found (CC, cc, gcc, clang)"


def _plan_cell(
    cell: CellIR, p: Plan, override: Strategies, dims: Mapping[str, int] | None, kernels: list[Kernel]
) -> tuple[CellIR, tuple[Choice, ...], tuple[str, ...]]:
    """The graph that is emitted, how each group runs, and what to say of it; appends the kernels to `kernels`."""
    recurrence = pointwise(p.recurrence)
    asked = {s: g.strategy for g in p.groups for s in g.group.states if _is_asked(g, override)}
    p = p if recurrence is p.recurrence else plan(recurrence, dims, asked or None)
    choices, why = [], []
    for at, (g, sentence) in enumerate(zip(p.groups, explanation(p), strict=True)):
        later = [s for other in p.groups[at + 1 :] for s in other.group.states]
        serves = g.group.states[0] not in asked or g.strategy in SERVED
        region = find_region(recurrence.cell, g.group, later) if serves else None
        call = None
        if region is not None:
            name = _fresh("_".join([cell.name, *g.group.states]), {k.name for k in kernels})
            kernels.append(Kernel(name=name, region=region))
            call = Call(name=variable(name), states=region.states, inputs=region.inputs, outputs=region.outputs)
            sentence = f"{' and '.join(g.group.states)}: a native kernel, one step after the other; entries never meet"
        else:
            sentence += " (run by PyTorch)"
        choices.append(Choice(group=g.group, strategy=g.strategy, form=g.form, kernel=call))
        why.append(sentence)
    return recurrence.cell, tuple(choices), tuple(why)


def _fresh(name: str, taken: set[str]) -> str:
    return next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)


def _is_asked(g: GroupPlan, override: Strategies) -> bool:
    """Whether the user named this group's strategy."""
    if isinstance(override, str):
        return g.strategy == override
    return override is not None and bool(set(g.group.states) & set(override))


# ---------------------------------------------------------------- text


def variable(kernel: str) -> str:
    """The variable of the emitted file that holds a kernel."""
    return f"{kernel}_kernel"


def c_text(kernels: Sequence[Kernel]) -> str:
    return "\n\n".join(kernel_text(k) for k in kernels)


def definitions(kernels: Sequence[Kernel]) -> Kernels:
    """The C source and the kernels' objects, in front of the classes."""
    if not kernels:
        return Kernels()
    source = c_text(kernels)
    assert '"""' not in source
    assert "\\" not in source
    texts = [f'SOURCE = """\n{source}"""\n', *(_object(k) for k in kernels)]
    return Kernels(texts=tuple(texts), imports=frozenset({"Native", "Operand"}))


def _object(k: Kernel) -> str:
    gradients = {a.name: a.parts for a in k.backward_arrays}
    lines = [
        f"{variable(k.name)} = Native(",
        "    source=SOURCE,",
        f'    name="{k.name}",',
        f"    vector={k.layout.vector},",
        f"    inputs={_operands([(a, ()) for a in k.forward.inputs])},",
        f"    outputs={_operands([(a.array, a.parts) for a in k.forward_arrays if a.name[0] == 'y'])},",
        f"    states={_operands([(a, ()) for a in k.forward.states])},",
        f"    stored={k.stored!r},",
        f"    gradients={tuple(gradients.get(f'dx{i}') for i in range(len(k.forward.inputs)))!r},",
        ")",
    ]
    return "\n".join(lines) + "\n"


def _operands(arrays: Sequence[tuple[Array, tuple[int, ...]]]) -> str:
    texts = []
    for a, parts in arrays:
        options = [repr(a.axes)]
        options += ["static=True"] if a.static else []
        options += ["complex=True"] if a.dtype == "complex" else []
        options += [f"parts={parts!r}"] if parts else []
        texts.append(f"Operand({', '.join(options)})")
    return f"({', '.join(texts)}{',' if len(texts) == 1 else ''})"
