"""A whole single step by one native function: its call in `step`, and the state dict made of its results."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

from rnnc.backends.torch.context import dim_name, identifier
from rnnc.backends.torch.signatures import tuple_text
from rnnc.ir.graph import CellIR


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeStep:
    """A native function for a whole single step: its variable, and the names of the inputs, entries of the state dict
    and parameters that it is called with; it gives the outputs, then the new entries.
    """

    name: str
    inputs: tuple[str, ...]
    states: tuple[str, ...]
    params: tuple[str, ...]

    def call(self, cell: CellIR, path: Callable[[str], str]) -> list[str]:
        """The statements that return what the function gives, where it serves; `path` says where a parameter is."""
        names = {identifier(i.name) for i in cell.inputs}
        done = next(name for name in ("done" + "_" * k for k in count()) if name not in names)
        given = [*map(identifier, self.inputs), *(_entry("state", n) for n in self.states)]
        params = [f'"{path(n)}"' for n in self.params]
        dims = tuple_text([f"self.{dim_name(d.name)}" for d in cell.dims]) if cell.dims else "()"
        outputs = [f"{done}[{k}]" for k in range(len(cell.outputs))]
        values = outputs[0] if len(outputs) == 1 else f"({', '.join(outputs)})"
        finals = _nested({n: f"{done}[{len(outputs) + k}]" for k, n in enumerate(self.states)})
        call = [f"{done} = {self.name}(", "    self,", f"    {tuple_text(given)},"]
        lines = textwrap.wrap(", ".join(params), 100, break_long_words=False) or [""]
        lines[-1] += "," * bool(params)
        call += ["    (", *(f"        {line}" for line in lines), "    ),"] if params else ["    (),"]
        call += [f"    {dims},", ")"]
        return [*call, f"if {done} is not None:", f"    return {values}, {finals}"]


def _entry(state: str, name: str) -> str:
    """An entry of the state dict by its name in the cell without calls."""
    return state + "".join(f"[{k}]" if k.isdecimal() else f'["{k}"]' for k in name.split("."))


def _nested(entries: Mapping[str, str]) -> str:
    """A state dict from its entries by their names in the cell without calls.

    before: {"layers.0.h": "a", "layers.1.h": "b"}      -->  after: {"layers": [{"h": a}, {"h": b}]}
    """
    if "" in entries:
        return entries[""]
    parts: dict[str, dict[str, str]] = {}
    for name, text in entries.items():
        first, _, rest = name.partition(".")
        parts.setdefault(first, {})[rest] = text
    texts = {k: _nested(v) for k, v in parts.items()}
    if all(k.isdecimal() for k in texts):
        return f"[{', '.join(texts.values())}]"
    return "{" + ", ".join(f'"{k}": {v}' for k, v in texts.items()) + "}"
