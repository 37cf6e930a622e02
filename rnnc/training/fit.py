"""How a cell meets a task: as a layer inside a small model, or as the whole model.

Decided from types alone: one `token` input and one vector of reals per step makes a whole model; one real input and a
real output makes a layer.  Everything else is an error that says what was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from rnnc.ir.dims import Dim, DimError
from rnnc.ir.graph import CellIR
from rnnc.ir.types import Type
from rnnc.training.config import training_error
from rnnc.training.tasks import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """`dims` are the constructor's arguments; `input_size` and `output_size` count reals per step (role "layer")."""

    role: Literal["layer", "model"]
    dims: dict[str, int]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]


def fit(cell: CellIR, task: Task, dims: Mapping[str, int], width: int) -> Fit:
    """How `cell`, with the `dims` the user gave, is trained on `task`.  Raises SpecError E0702 or E0703."""
    if len(cell.inputs) != 1:
        names = ", ".join(f"`{i.name}`" for i in cell.inputs) or "none"
        raise training_error(
            "E0702",
            f"`{cell.name}` has {len(cell.inputs)} inputs ({names}); training needs a cell with one",
            help="write a cell that computes them from one `input x: real[d]`",
        )
    source = cell[cell.inputs[0].node].type
    target = cell[cell.outputs[0].node].type if cell.outputs else None
    if target is None or target.dtype != "real":
        found = "has no output" if target is None else f"has an output of type `{target}`"
        raise training_error(
            "E0702",
            f"`{cell.name}` {found}; training needs a real one",
            help="for example `output y: real[d] = linear(h')`",
        )
    if source.dtype == "token" and not source.shape and not source.per:
        return _as_model(cell, task, dims, source, target)
    if source.dtype != "real":
        raise training_error(
            "E0702", f"`{cell.name}` reads `{source}`; training needs a cell that reads reals or one token a step"
        )
    values = _dims(cell, {**_single_name(source, width, dims), **dims})
    return Fit(role="layer", dims=values, input_shape=_shape(source, values), output_shape=_shape(target, values))


def _as_model(cell: CellIR, task: Task, dims: Mapping[str, int], source: Type, target: Type) -> Fit:
    if task.vocab is None:
        raise training_error(
            "E0702",
            f"`{cell.name}` reads tokens, the task {task.name} gives {task.features} real number(s) a step",
            help="train a cell with an `input x: real[d]` on it",
        )
    if len(target.shape) != 1 or target.per:
        raise training_error("E0702", f"`{cell.name}` answers with `{target}`; a model needs one score per class")
    need = max(task.vocab, task.classes)
    assert source.vocab is not None
    values = _dims(cell, {**_names(source.vocab, need, dims), **_names(target.shape[0], need, dims), **dims})
    vocab, scores = source.vocab.evaluate(values), target.shape[0].evaluate(values)
    if vocab < task.vocab or scores < task.classes:
        raise training_error(
            "E0702",
            f"`{cell.name}` reads {vocab} tokens and gives {scores} scores; "
            f"{task.name} has {task.vocab} tokens and {task.classes} classes",
            help=f"--set {next(iter(source.vocab.names), 'vocab')}={need}",
        )
    return Fit(role="model", dims=values, input_shape=(), output_shape=(scores,))


def _single_name(source: Type, width: int, given: Mapping[str, int]) -> dict[str, int]:
    """A dim that alone is the input's size gets the width of the residual stream, unless the user gave it."""
    if len(source.shape) != 1:
        return {}
    return _names(source.shape[0], width, given)


def _names(size: Dim, value: int, given: Mapping[str, int]) -> dict[str, int]:
    names = size.names
    if len(names) != 1:
        return {}
    (name,) = names
    return {name: value} if size == Dim.of(name) and name not in given else {}


def _dims(cell: CellIR, given: Mapping[str, int]) -> dict[str, int]:
    known = {p.name for p in cell.dims}
    stray = sorted(given.keys() - known)
    if stray:
        shown = ", ".join(sorted(known)) or "none"
        raise training_error("E0703", f"`{cell.name}` has no dim `{stray[0]}`; its dims are: {shown}")
    values = cell.dim_values(given)
    missing = [p.name for p in cell.dims if p.name not in values]
    if missing:
        raise training_error(
            "E0703",
            f"`{cell.name}` needs a value for {', '.join(f'`{m}`' for m in missing)}",
            help=" ".join(f"--set {m}=64" for m in missing),
        )
    return values


def _shape(type_: Type, dims: Mapping[str, int]) -> tuple[int, ...]:
    try:
        return tuple(d.evaluate(dims) for d in (*type_.per, *type_.shape))
    except DimError as error:
        raise training_error("E0703", str(error)) from None
