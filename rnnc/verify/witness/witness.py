"""A witness: exact raw parameters of a cell, the inputs that stand for letters, and the closure that proves it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rnnc.exact import Number as ExactNumber
from rnnc.exact import to_float
from rnnc.ir.graph import CellIR
from rnnc.verify.closure import Closure
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import Stack, thaw

Status = Literal["attained", "limit", "saturation"]
TAU = (
    128.0  # float32: sigmoid, softplus and exp of -128 are 0, sigmoid and tanh of 128 are 1, and 128^2 + 1e-6 is 128^2
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """Weights that make a cell (or a stack of layers, this cell on top) recognise an automaton's language.

    `params` are raw parameters by name, [*per, *shape] arrays of exact numbers (in them omega is infinite); `letters`
    gives each letter's value of each input, [*per, *shape].  `status`: "attained" by the exact values; "limit": with
    omega to infinity; "saturation": in the limit, and in float32 with omega = `tau`.  `readout` says what the readout
    reads.  Of a stack, this is the top layer with the closure of the whole; `below` are the witnesses of the layers
    under it, lowest first.  A layer's letters then name the classes of those under it after the step: "letter|class".
    `rounded` is the closure of a stack in float32, where it was found.  `silent` states are left out of the closure:
    with these weights nothing reads them.
    """

    cell: CellIR
    dfa: DFA
    dims: Mapping[str, int]
    params: Mapping[str, Any]
    letters: Mapping[str, Mapping[str, Any]]
    closure: Closure
    construction: str
    source: str
    status: Status
    tau: float | None = None
    readout: str = "the state"
    below: tuple[Witness, ...] = field(default=())
    rounded: Closure | None = field(default=None, compare=False, repr=False)
    silent: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        return 1 + len(self.below)

    @property
    def stack(self) -> tuple[Witness, ...]:
        """All layers, lowest first."""
        return (*self.below, self)

    @property
    def reason(self) -> str:
        """One sentence."""
        how = {
            "attained": "attained exactly",
            "limit": "in the limit only",
            "saturation": f"in the limit, and in float32 by saturation at pre-activation {self.tau:g}"
            if self.tau
            else "",
        }[self.status]
        stack = f" in {self.layers} layers" if self.below else ""
        unread = ", ".join(f"`{s}`" for s in self.silent)
        left_out = f", with {unread} left out: nothing reads that" if unread else ""
        found = f"weights were found{stack}: {self.construction} ({how})"
        what = "sets of states" if self.closure.regions else "states"
        if self.closure.parts:
            what = f"states of {len(self.closure.parts)} blocks that do not read each other"
        return f"{found}; {self.closure.size} {what} close the proof{left_out}"

    def weights(self, tau: float | None = None, dtype: str = "float32") -> dict[str, Any]:
        """Raw parameters as NumPy arrays, omega = tau: the state_dict of the compiled module."""
        return {name: floats(value, tau or self.tau or TAU, dtype) for name, value in self.params.items()}

    def inputs(self, letter: str, tau: float | None = None, dtype: str = "float32") -> dict[str, Any]:
        """The inputs that stand for a letter."""
        given = self.letters[letter].items()
        return {name: floats(value, tau or self.tau or TAU, dtype) for name, value in given}

    def to_safetensors(self, path: str | Path, tau: float | None = None) -> None:
        """Writes `weights` for the torch backend; the letters' inputs are in the metadata.

        Of a stack: layer k's weights as `layers.k.NAME`, and the map to layer k as rows of a table, `maps.k.letter` [R]
        (the letter's number), `maps.k.below.OUTPUT` [R, ...] (what the layers below put out; with several below,
        `maps.k.below.0.OUTPUT`, ...) and `maps.k.above.INPUT` [R, ...].
        """
        import json

        from safetensors.numpy import save_file

        bottom = self.stack[0]
        told = {a: {n: v.tolist() for n, v in bottom.inputs(a, tau).items()} for a in bottom.letters}
        metadata = {
            "letters": json.dumps(told),
            "dims": json.dumps([dict(w.dims) for w in self.stack] if self.below else dict(self.dims)),
            "construction": self.construction,
        }
        tensors = self.weights(tau)
        if self.below:
            tensors = {f"layers.{k}.{n}": v for k, w in enumerate(self.stack) for n, v in w.weights(tau).items()}
            tensors |= _tables(self, tau or self.tau or TAU)
        save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, str(path), metadata=metadata)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; numbers as text, only non-zero entries of parameters."""
        out: dict[str, Any] = {
            "construction": self.construction,
            "source": self.source,
            "status": self.status,
            "tau": self.tau,
            "dims": dict(self.dims),
            "readout": self.readout,
            "weights": {n: _sparse(v) for n, v in self.params.items()},
            "letters": {a: {n: _sparse(v) for n, v in given.items()} for a, given in self.letters.items()},
            "states": self.closure.size,
            "left_out": list(self.silent),
        }
        if self.below:
            out["layers_below"] = [w.to_json() for w in self.below]
        return out


def _tables(w: Witness, tau: float) -> dict[str, Any]:
    """The maps between a stack's layers, as the closure has asked them: one row for each letter and outputs below."""
    machine = w.closure.machine
    assert isinstance(machine, Stack), "several layers"
    out: dict[str, Any] = {}
    for k, table in enumerate(machine.tables, start=1):
        columns: dict[str, list[Any]] = {}
        for (letter, outputs), inputs in table.items():
            columns.setdefault("letter", []).append(np.int64(w.closure.letters.index(letter)))
            for name, value in thaw(outputs).items():
                columns.setdefault(f"below.{name}", []).append(floats(value, tau))
            for name, value in inputs.items():
                columns.setdefault(f"above.{name}", []).append(floats(value, tau))
        out |= {f"maps.{k}.{name}": np.stack(rows) for name, rows in columns.items()}
    return out


def floats(value: Any, tau: float, dtype: str = "float32") -> Any:
    """An array of exact numbers as floats (or of tokens as they are)."""
    array = np.asarray(value)
    if array.dtype != object:
        return array
    out = np.array([_float(x, tau) for x in array.reshape(-1)])
    kind = dtype if not np.iscomplexobj(out) else {"float32": "complex64", "float64": "complex128"}[dtype]
    return out.reshape(array.shape).astype(kind)


def _float(x: ExactNumber, tau: float) -> complex | float:
    z = complex(to_float(x, tau))
    return z if z.imag else z.real


def _sparse(value: Any) -> dict[str, str]:
    """Index -> number, of what is not zero."""
    array = np.asarray(value)
    return {",".join(map(str, at)): str(array[at]) for at in np.ndindex(*array.shape) if array[at] != 0}
