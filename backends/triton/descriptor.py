"""The call that ties two kernels to what they read and write: `NAME = Recurrence(...)`."""

from __future__ import annotations

from rnnc.backends.kernels.program import Array
from rnnc.backends.triton.gradients import gradient_results
from rnnc.backends.triton.kernel import Step
from rnnc.backends.triton.layout import Layout
from rnnc.backends.triton.text import Kernel


def descriptor(layout: Layout, array: Array, lead: str) -> str:
    """An array's axes in memory order, as `rnnc.runtime.gpu.arrange` reads them."""
    return lead + layout.letters(array) + ("*" if array.dtype == "complex" else "")


def recurrence_text(step: Step, kind: str, kernels: tuple[Kernel, ...], key: str) -> str:
    layout = step.layout
    roles = dict(zip(("forward", "backward", "totals", "backward_totals"), kernels))
    inputs = [descriptor(layout, a, "" if a.static else "bt") for a in step.forward.inputs]
    outputs = [descriptor(layout, a, "bt") for a in step.forward.outputs]
    states = [descriptor(layout, a, "b") for a in step.forward.states]
    gradients = tuple(dict.fromkeys(r.index for r in gradient_results(step.backward)))
    axes = [f'tile="{_labels(layout.tile)}"']
    axes += [f'grid="{_labels(layout.grid)}"'] if layout.grid else []
    axes += [f'inner="{_labels(layout.inner)}"'] if layout.inner else []
    lines = [
        f'key="{key}",',
        f'kind="{kind}",',
        *(f"{role}={k.name}," for role, k in roles.items()),
        f"axes=Axes({', '.join(axes)}),",
        f"inputs={_strings(inputs)},",
        f"outputs={_strings(outputs)},",
        f"states={_strings(states)},",
        f"gradients={gradients},",
        *([f'semiring="{step.semiring}",'] if step.semiring != "plus_times" and kind == "scan" else []),
    ]
    names = [d.name for d in step.dims]
    for role, k in roles.items():
        if k.dims:
            lines.append(f"{role}_dims={tuple(names.index(n) for n in k.dims)},")
    body = "\n".join(f"    {line}" for line in lines)
    return f"{step.name} = Recurrence(\n{body}\n)\n"


def _labels(labels: tuple[int, ...]) -> str:
    return "".join(chr(ord("A") + x) for x in labels)


def _strings(items: list[str]) -> str:
    return "(" + "".join(f'"{x}", ' for x in items).rstrip(" " if len(items) == 1 else ", ") + ")"
