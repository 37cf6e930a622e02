"""Exact mode: running a cell over a word in rationals and algebraic numbers.

>>> run = rnnc.run_exact(rnnc.parse(text), "MoreOnes", {"x": [1, 0, 1]})
>>> run.outputs["y"]  # [Fraction(1, 1), Fraction(0, 1), Fraction(1, 1)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rnnc.diagnostics import Diagnostic, SpecError

if TYPE_CHECKING:
    from rnnc.spec import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ExactRun:
    """`outputs[name]`: one value a step; `state[name]`: the last value.  A scalar is a number, else an object array."""

    outputs: dict[str, list[Any]]
    state: dict[str, Any]


def run_exact(
    spec: Spec,
    cell: str | None = None,
    inputs: Mapping[str, Sequence[Any]] | None = None,
    *,
    params: Mapping[str, Any] | None = None,
    steps: int | None = None,
    sizes: Mapping[str, Any] | None = None,
    **hyper: Any,
) -> ExactRun:
    """Runs a cell step by step without rounding.

    `inputs[name]` is a sequence of values, one a step, each a number (int, Fraction, float as the rational it is,
    `rnnc.exact`) or nested lists of the input's shape; `steps` for a cell without inputs.  `params` as
    well.  Hyperparameters and sizes go by name, or in `sizes`.
    Raises SpecError for a wrong spec, wrong inputs, and where an op has no exact value (E0610, with the line).
    """
    from rnnc.analysis.ranges import nonnegative_nodes
    from rnnc.exact import NotExact
    from rnnc.ir.domains.exact import ExactCell

    hyper = {**(sizes or {}), **hyper}
    ir = spec.lower(cell, **hyper)
    given = dict(inputs or {})
    _check_names("input", given, [i.name for i in ir.inputs])
    _check_names("parameter", dict(params or {}), [p.name for p in ir.params])
    lengths = {len(v) for v in given.values()} or {1 if steps is None else steps}
    if len(lengths) > 1:
        raise _wrong(f"the inputs have different numbers of steps: {', '.join(map(str, sorted(lengths)))}")
    dims = {p.name: int(hyper[p.name]) for p in ir.dims if p.name in hyper}
    missing = [p.name for p in ir.dims if p.name not in ir.dim_values(dims)]
    if missing:
        raise _wrong(f"the size `{missing[0]}` has no value", f"give one: --set {missing[0]}=1")
    outputs: dict[str, list[Any]] = {o.name: [] for o in ir.outputs}
    try:
        machine = ExactCell(ir, dims, params or {}, nonnegative_nodes)
        state = machine.start()
        for t in range(lengths.pop()):
            now = {name: values[t] for name, values in given.items()}
            for name, value in machine.outputs(now, state).items():
                outputs[name].append(_plain(value))
            state = machine.step(now, state)
    except NotExact as error:
        raise _wrong(str(error), "`rnnc compile` runs the cell in floating point") from None
    except ValueError as error:
        raise _wrong(str(error)) from None
    return ExactRun(outputs=outputs, state={k: _plain(v) for k, v in state.items()})


def _plain(value: Any) -> Any:
    return value[()] if value.ndim == 0 else value


_HELP = {
    "input": "on the command line `--input x=1,0,1`",
    "parameter": "a program has constants only; `rnnc.run_exact(..., params={...})` takes weights, too",
}


def _check_names(kind: str, given: Mapping[str, Any], declared: Sequence[str]) -> None:
    for name in given:
        if name not in declared:
            listed = ", ".join(f"`{n}`" for n in declared) or "none"
            raise _wrong(f"the cell has no {kind} `{name}`; it has {listed}")
    for name in declared:
        if name not in given:
            raise _wrong(f"no values for the {kind} `{name}`", _HELP[kind])


def _wrong(message: str, help_: str = "") -> SpecError:
    return SpecError((Diagnostic(code="E0610", message=message, span=None, help=help_),))
