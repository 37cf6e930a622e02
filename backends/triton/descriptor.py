"""The call that ties two kernels to what they read and write: `NAME = Recurrence(...)`."""

from __future__ import annotations

from rnnc.backends.kernels.program import Array
from rnnc.backends.triton.coupled_step import CoupledStep
from rnnc.backends.triton.gradients import gradient_results
from rnnc.backends.triton.kernel import Step
from rnnc.backends.triton.layout import Layout
from rnnc.backends.triton.stepped import Phase, Side, SteppedStep
from rnnc.backends.triton.text import Kernel

SPECIAL = {"exp", "log", "sigmoid", "tanh", "softplus", "logsigmoid", "silu", "gelu", "expm1", "log1p", "sin", "cos"}
MANY = 3  # of these from which the assembler, left to itself, may save a register and spill
LONG = 100  # operations of a step and its derivative beyond which the tiles of the usual size fill the registers


def descriptor(layout: Layout, array: Array, lead: str) -> str:
    """An array's axes in memory order, as `rnnc.runtime.gpu.arrange` reads them."""
    return lead + layout.letters(array) + ("*" if array.dtype == "complex" else "")


def recurrence_text(step: Step, kind: str, kernels: tuple[Kernel, ...], key: str) -> str:
    layout, forward = step.layout, step.forward
    inputs = [descriptor(layout, a, "" if a.static else "bt") for a in (forward.inputs[k] for k in step.given)]
    outputs = [descriptor(layout, a, "bt") for a in forward.outputs]
    results = gradient_results(step.backward, step.readings)
    gradients = tuple(dict.fromkeys(step.given.index(r.index) for r in results))
    more = [f'semiring="{step.semiring}",'] if step.semiring != "plus_times" and kind == "scan" else []
    twins = "".join(_labels(pair) for pair in layout.turned)
    more += [f'twins="{twins}",'] if twins else []
    many = sum(v.op in SPECIAL for v in forward.values) >= MANY
    more += ["long=True,"] if len(step.backward.values) > LONG or (step.complex and many) else []
    more += ["full=True,"] if (step.complex or many) and kind == "scan" else []
    return _text("Recurrence", step, kind, kernels, key, (inputs, outputs, gradients), more)


def coupled_text(stepped: SteppedStep, kernels: tuple[Kernel, ...], key: str) -> str:
    c = stepped.coupled
    step, layout, forward = c.step, c.step.layout, c.step.forward
    inputs = [descriptor(layout, a, "" if a.static else "bt") for k, a in enumerate(forward.inputs) if k in c.given]
    outputs = [descriptor(layout, a, "bt") for a in forward.outputs[: c.coupled.wanted]]
    known = dict.fromkeys(r.index for r in gradient_results(step.backward))
    gradients = tuple(c.given.index(k) for k in known if k in c.given)
    products = []
    for n, p in enumerate(c.products):
        axes = descriptor(layout, forward.inputs[p.input], "bt")
        shared = c.shared(n)
        facts = {
            "weight": axes[2:-1] + ("io" if p.turned else "oi"),
            "axes": axes,
            "state": p.state,
            "vector": None if p.output is None else p.output - c.coupled.wanted,
            "shared": None if shared is None else c.given.index(shared),
            "kept": None if n in c.kept else False,
        }
        text = ", ".join(f"{k}={_quoted(v)}" for k, v in facts.items() if v is not None)
        products.append(f"    Product({text}),")
    vectors = [descriptor(layout, forward.outputs[k], "bt") for k in c.vectors]
    more = ["products=(", *products, "),", f"kept={c.states!r},"]
    more += [f"vectors={_strings(vectors)},"] if vectors else []
    more += ["sides=(", *(f"    {_side(s)}," for s in stepped.sides), "),", f"entries={stepped.entries!r},"]
    for name, phases in (("steps", stepped.forward), ("steps_back", stepped.backward)):
        more += [f"{name}=(", *(f"    {_phase(c, p)}," for p in phases), "),"]
    more += ["whole=True,"] if stepped.whole else []
    return _text("CoupledRecurrence", step, "coupled", kernels, key, (inputs, outputs, gradients), more)


def _side(s: Side) -> str:
    return f"Side(products={s.products!r}, round={s.round}{', kept=True' if s.kept else ''})"


def _phase(c: CoupledStep, p: Phase) -> str:
    names = [d.name for d in c.step.dims]
    dims = tuple(names.index(n) for n in p.kernel.dims)
    inputs = tuple(c.given.index(k) for k in p.inputs)
    return f"Phase(at={p.at}, kernel={p.kernel.name}, inputs={inputs!r}{f', dims={dims!r}' if dims else ''})"


def _text(
    kind_of: str,
    step: Step,
    kind: str,
    kernels: tuple[Kernel, ...],
    key: str,
    arrays: tuple[list[str], list[str], tuple[int, ...]],
    more: list[str],
) -> str:
    layout = step.layout
    inputs, outputs, gradients = arrays
    states = [descriptor(layout, a, "b") for a in step.forward.states]
    roles = dict(zip(("forward", "backward", "totals", "backward_totals"), kernels))
    axes = [f'tile="{_labels(layout.tile)}"'] if layout.tile else ["single=True"] if layout.single else []
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
        *more,
    ]
    names = [d.name for d in step.dims]
    for role, k in roles.items():
        if k.dims:
            lines.append(f"{role}_dims={tuple(names.index(n) for n in k.dims)},")
    body = "\n".join(f"    {line}" for line in lines)
    return f"{step.name} = {kind_of}(\n{body}\n)\n"


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _labels(labels: tuple[int, ...]) -> str:
    return "".join(chr(ord("A") + x) for x in labels)


def _strings(items: list[str]) -> str:
    if not items:
        return "()"
    return "(" + "".join(f'"{x}", ' for x in items).rstrip(" " if len(items) == 1 else ", ") + ")"
