"""Certificates: what `rnnc verify --certificate` writes and `rnnc check-certificate` replays.

Plain JSON (docs/verification.md, "Certificates").  A claim is certified if the checker, run here once, accepts it; the
others are listed with the reason under "not_certified".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.exact import Algebraic, NotExact
from rnnc.exact.asymptotic import wide
from rnnc.ir.dims import Dim
from rnnc.ir.domains.exact import ExactCell, exact_array
from rnnc.ir.graph import CellIR
from rnnc.ir.text import print_cell
from rnnc.ir.types import Type
from rnnc.verify.closure import Closure, equivalent_states
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import ExactLayer, Stack, Values
from rnnc.verify.results import ClaimResult

if TYPE_CHECKING:
    from rnnc.spec import Spec
    from rnnc.verify.engine import Verification

FORMAT = "rnnc certificate 1"


# ---------------------------------------------------------------- numbers and arrays


def encode(x: Any) -> Any:
    """A number: "p/q", or its terms [coefficient, turns of the root of unity, radicand, power of omega, atoms]."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    if isinstance(x, (int, np.integer)):
        return int(x)
    if isinstance(x, Fraction):
        return f"{x.numerator}/{x.denominator}"
    y = wide(x)
    terms = []
    for (power, atoms), c in y.terms.items():
        named = [[a.kind, encode(a.value), p] for a, p in atoms]
        parts = c.terms if isinstance(c, Algebraic) else {1: (1, {0: c})}
        for radicand, (n, inner) in parts.items():
            terms += [[str(v), str(Fraction(k, n)), radicand, power, named] for k, v in inner.items()]
    return {"terms": terms, "error": y.error}


def encode_array(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    array = exact_array(value) if array.dtype.kind not in "b" else array
    return {"shape": list(array.shape), "entries": [encode(x) for x in array.reshape(-1).tolist()]}


def _encode_inputs(cell: CellIR, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of one step; tokens and truth values stay plain."""
    found = {}
    for i in cell.inputs:
        plain = cell.nodes[i.node].type.dtype in ("bool", "token")
        array = np.asarray(inputs[i.name])
        found[i.name] = (
            {"shape": list(array.shape), "entries": [encode(x) for x in array.reshape(-1).tolist()]}
            if plain
            else encode_array(inputs[i.name])
        )
    return found


def _encode_values(values: Values) -> dict[str, Any]:
    return {name: {"shape": list(shape), "entries": [encode(x) for x in entries]} for name, shape, entries in values}


# ---------------------------------------------------------------- cells


def _attr(value: Any, dims: Mapping[str, int]) -> Any:
    match value:
        case Dim():
            return value.evaluate(dims)
        case Fraction():
            return str(value)
        case tuple():
            return [_attr(v, dims) for v in value]
        case Type():
            return str(value)
        case _:
            return value


def cell_json(body: ExactCell) -> dict[str, Any]:
    """The unfolded graph with sizes as numbers, and its text for people."""
    cell, dims = body.cell, body.dims
    nodes = [
        {
            "op": n.op,
            "args": list(n.args),
            "attrs": {k: _attr(v, dims) for k, v in n.attrs},
            "type": {
                "dtype": n.type.dtype,
                "shape": [d.evaluate(dims) for d in n.type.shape],
                "per": [d.evaluate(dims) for d in n.type.per],
            },
        }
        for n in cell.nodes
    ]
    return {
        "name": cell.name,
        "text": print_cell(cell),
        "dims": dict(dims),
        "nodes": nodes,
        "inputs": {i.name: i.node for i in cell.inputs},
        "params": {p.name: p.node for p in cell.params},
        "states": {s.name: [s.node, s.init, s.update] for s in cell.states},
        "outputs": {o.name: o.node for o in cell.outputs},
    }


def closure_json(closure: Closure, dfa: DFA) -> dict[str, Any]:
    """A closure in exact arithmetic as plain JSON, complete for the checker.  Raises NotExact for floats."""
    machine = closure.machine
    if closure.arithmetic != "exact" or not isinstance(machine, Stack):
        raise NotExact("only closures of cells in exact arithmetic are certified")
    layers = [layer for layer in machine.layers if isinstance(layer, ExactLayer)]
    same = equivalent_states(dfa)
    return {
        "automaton": {
            "alphabet": list(dfa.alphabet),
            "states": list(dfa.states),
            "delta": [[same[q] for q in row] for row in dfa.delta],
            "start": same[dfa.start],
            "accept": sorted(dfa.accept),
        },
        "letters": {k: _encode_inputs(layers[0].body.cell, v) for k, v in machine.inputs.items()},
        "layers": [
            {
                "cell": cell_json(layer.body),
                "params": {p.name: encode_array(layer.params[p.name]) for p in layer.body.cell.params},
            }
            for layer in layers
        ],
        "tables": [
            [
                {
                    "letter": letter,
                    "output": _encode_values(output),
                    "inputs": _encode_inputs(layers[k + 1].body.cell, inputs),
                }
                for (letter, output), inputs in table.items()
            ]
            for k, table in enumerate(machine.tables)
        ],
        "states": [[_encode_values(layer) for layer in state] for state in closure.states],
        "steps": [list(row) for row in closure.steps],
        "g": list(closure.g),
        "attained": closure.attained,
        "readout": closure.readout.through,
    }


# ---------------------------------------------------------------- files


def certificate(verification: Verification) -> dict[str, Any]:
    """The certificate of a verification: every claim that a closure proves and that the checker accepts."""
    from rnnc.verify.checker import Reject, check

    claims: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for cell in verification.cells:
        for result in cell.results:
            entry: dict[str, Any] = {
                "cell": cell.cell,
                "claim": result.claim,
                "verdict": result.verdict,
                "precision": result.precision,
            }
            closure = _closure_of(result)
            if closure is None:
                rest.append(entry | {"reason": _why_not(result)})
                continue
            entry["closure"] = closure
            try:
                check(json.dumps({"format": FORMAT, "claims": [entry]}))
            except Reject as error:
                del entry["closure"]
                rest.append(entry | {"reason": f"the checker does not re-establish it: {error}"})
            else:
                claims.append(entry)
    return {"format": FORMAT, "file": verification.file, "claims": claims, "not_certified": rest}


def _closure_of(result: ClaimResult) -> dict[str, Any] | None:
    proof = None if result.evidence is None else result.evidence.proof
    if proof is None:
        return None
    closure, dfa = proof
    return closure_json(closure, dfa)


def _why_not(result: ClaimResult) -> str:
    if result.verdict == "unknown":
        return "nothing is claimed"
    kind = "nothing" if result.evidence is None else result.evidence.kind
    what = {"theorem": "a theorem", "analysis": "an analysis", "witness": "a witness of several layers"}.get(kind, kind)
    return f"it rests on {what}, which the checker has no rule for"


def write(path: str | Path, verification: Verification, spec: Spec | None = None) -> dict[str, Any]:
    """Writes the certificate and returns it."""
    data = certificate(verification)
    Path(path).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return data
