"""Certificates: what `rnnc verify --certificate` writes and `rnnc check-certificate` establishes again.

A claim is certified if the checker, run here once, accepts it; the others stand with the reason under "not_certified".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.exact import NotExact
from rnnc.ir.domains.exact import exact_array
from rnnc.ir.graph import CellIR
from rnnc.ir.text import print_cell
from rnnc.ir.types import Interval
from rnnc.verify.answers import Subject
from rnnc.verify.checking import Reject
from rnnc.verify.checking.rules import accepted, check_facts
from rnnc.verify.closure import Closure, Part
from rnnc.verify.format import (
    FORMAT,
    encode,
    encode_array,
    encode_hyper,
    encode_interval,
    encode_spec,
)
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import DTYPES, ExactLayer, FloatLayer, Stack, Values, float_array
from rnnc.verify.results import ClaimResult, Evidence
from rnnc.verify.trusted.cells import Cell

if TYPE_CHECKING:
    from rnnc.spec import Spec
    from rnnc.verify.engine import Verification
    from rnnc.verify.regions import Region

# ---------------------------------------------------------------- closures


def _values(values: Values, cell: CellIR, states: bool) -> dict[str, Any]:
    """Frozen values of states (or of what has no other kinds than real and complex) as arrays of the file."""
    found = {}
    for name, shape, entries in values:
        if isinstance(entries, bytes):
            node = (
                cell.state(name).node if states else next(o.node for o in cell.outputs if o.name == name.split(".")[-1])
            )
            real, complex_ = DTYPES["float32"]
            kinds = {"real": real, "complex": complex_, "bool": np.bool_, "token": np.int64}
            found[name] = encode_array(np.frombuffer(entries, dtype=kinds[cell.nodes[node].type.dtype]).reshape(shape))
        else:
            array = np.empty(len(entries), dtype=object)
            array[:] = list(entries)
            found[name] = encode_array(array.reshape(shape))
    return found


def _rows(layer: ExactLayer | FloatLayer, cell: CellIR, given: Mapping[str, Any], nodes: Mapping[str, int]) -> Any:
    """Parameters or inputs as the layer reads them."""
    found = {}
    for name, node in nodes.items():
        t = cell.nodes[node].type
        value = given[name]
        if t.dtype in ("real", "complex"):
            value = exact_array(value)
            if isinstance(layer, FloatLayer):
                value = layer.domain.cast(float_array(value, layer.tau))
        shape = tuple(d.evaluate(_sizes(layer)) for d in (*t.per, *t.shape))
        found[name] = encode_array(np.broadcast_to(value, shape))
    return found


def encode_automaton(dfa: DFA) -> dict[str, Any]:
    return {
        "alphabet": list(dfa.alphabet),
        "delta": [list(row) for row in dfa.delta],
        "start": dfa.start,
        "accept": sorted(dfa.accept),
    }


def _sizes(layer: ExactLayer | FloatLayer) -> dict[str, int]:
    return dict(layer.body.dims if isinstance(layer, ExactLayer) else layer.domain.dims)


def closure_json(cell: CellIR, closure: Closure, dfa: DFA) -> dict[str, Any]:
    """A closure of the cell as plain JSON, all that the checker needs.  Raises NotExact for other machines."""
    machine = closure.machine
    if not isinstance(machine, Stack):
        raise NotExact("only closures of cells are certified")
    layers = [layer for layer in machine.layers if isinstance(layer, (ExactLayer, FloatLayer))]
    cells = [layer.body.cell if isinstance(layer, ExactLayer) else layer.cell for layer in layers]
    weights = [
        layer.params if isinstance(layer, ExactLayer) else {p.name: layer.domain.given[p.node] for p in cell.params}
        for layer, cell in zip(layers, cells, strict=True)
    ]
    hidden = {s.name for s in cell.states} & {i.name for body in cells for i in body.inputs}  # inputs there
    inputs = [{i.name: i.node for i in body.inputs if i.name not in hidden} for body in cells]
    found: dict[str, Any] = {
        "arithmetic": closure.arithmetic,
        "left_out": sorted(hidden),
        "automaton": encode_automaton(dfa),
        "letters": {k: _rows(layers[0], cells[0], v, inputs[0]) for k, v in machine.inputs.items()},
        "layers": [
            {
                "sizes": _sizes(layer),
                "params": _rows(layer, cell, params, {p.name: p.node for p in cell.params}),
            }
            for layer, cell, params in zip(layers, cells, weights, strict=True)
        ],
        "tables": [
            [
                {
                    "letter": letter,
                    "output": _values(output, cells[k], states=False),
                    "inputs": _rows(layers[k + 1], cells[k + 1], given, inputs[k + 1]),
                }
                for (letter, output), given in table.items()
            ]
            for k, table in enumerate(machine.tables)
        ],
        "states": [
            [_values(values, cell, states=True) for values, cell in zip(state, cells, strict=True)]
            for state in closure.states
        ],
        "steps": [list(row) for row in closure.steps],
        "g": list(closure.g),
    }
    if closure.parts:
        found["blocks"] = [_block(part) for part in closure.parts]
    if closure.regions:
        found["regions"] = [_spans(region) for region in closure.regions]
    return found


def _block(part: Part) -> dict[str, Any]:
    """A part of the state, its automaton, and its closure."""
    return {
        "entries": {name: list(at) for name, at in part.entries.items()},
        "delta": [list(row) for row in part.automaton.delta],
        "start": part.automaton.start,
        "states": [{name: _objects(row) for name, _, row in state} for state in part.states],
        "steps": [list(row) for row in part.steps],
        "g": list(part.g),
    }


def _objects(row: Any) -> dict[str, Any]:
    array = np.empty(len(row), dtype=object)
    array[:] = list(row)
    return encode_array(array)


def _spans(region: Region) -> list[dict[str, Any]]:
    """The numbers of a state that range over an interval; an end that is null is unbounded."""
    return [
        {"state": name, "index": index, "part": part, "in": [None if x is None else encode(x) for x in ends]}
        for (name, index, part), ends in region.spans
    ]


# ---------------------------------------------------------------- other evidence


def _numbers(cell: CellIR, evidence: Evidence) -> dict[str, Any] | None:
    """Numbers at which a claim fails: weights, one or two inputs, and two states or none."""
    at = evidence.data.get("at")
    if at is None:
        return None
    places = {i.name: i.node for i in cell.inputs} | {s.name: s.node for s in cell.states}
    types = {name: cell.nodes[node].type.dtype for name, node in places.items()}

    def rows(values: Mapping[str, Any], *place: int) -> dict[str, Any]:
        """The entries at one place in a batch."""
        found = {}
        for name, value in values.items():
            parts = [np.asarray(v) for v in (value.values() if isinstance(value, dict) else [value])]
            array = parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
            kind = {"token": np.int64, "bool": np.bool_}.get(types.get(name, ""))
            found[name] = encode_array(array[place] if kind is None else array[place].astype(kind))
        return found

    batch = max((len(v["re"] if isinstance(v, dict) else v) for v in at["inputs"].values()), default=1)
    return {
        "sizes": at["dims"],
        "params": rows(at["parameters"]),
        "inputs": [rows(at["inputs"], row, 0) for row in ((0, 2) if batch > 2 else (0,))],
        "states": [rows(at["state"], row) for row in (0, 1)] if at["state"] else [],
        "state": evidence.data.get("state", ""),
        "exact": "move" in evidence.data,
    }


def _evidence(cell: CellIR, result: ClaimResult) -> tuple[str, dict[str, Any]]:
    """The rule that a result rests on, and what it needs.  Raises NotExact where there is none."""
    e = result.evidence
    if result.verdict == "unknown" or e is None:
        raise NotExact("nothing is claimed")
    if e.proof is not None:
        return "closure", closure_json(cell, *e.proof)
    match e.kind:
        case "analysis" if (result.verdict == "proved") != result.claim.startswith("not "):
            return "analysis", {}
        case "theorem":
            word = e.data.get("word") or [x for x in [e.data.get("letter")] if x]
            return "theorem", {"theorem": e.data["theorem"], "word": word, "assuming": e.data["assuming"]}
        case "counterexample":
            numbers = _numbers(cell, e)
            if numbers is not None:
                return "numbers", numbers
    raise NotExact("that no strategy of the compiler fits is no statement about the cell alone")


def _facts(subject: Subject, checked: Cell) -> Iterator[dict[str, Any]]:
    """Proven ranges of declared values and spectra of states that the checker finds, too."""
    from rnnc.analysis.ranges import Ranges

    cell = subject.layers.cell
    ranges = Ranges.of(cell)
    facts: list[dict[str, Any]] = [
        {"fact": "range", "of": r.node, "name": cell.nodes[r.node].name, "in": encode_interval(ranges.real(r.node))}
        for r in cell.ranges
        if cell.nodes[r.node].type.dtype == "real" and isinstance(r.domain, Interval)
    ]
    for layer in subject.layers.layers:
        s = layer.spectrum
        for kind, found in (("eigenvalues", s.interval if s.real else None), ("norm", s.norm)):
            if found is not None and len(layer.group.states) == 1:
                facts.append({"fact": kind, "of": layer.group.states[0], "in": encode_interval(found)})
    for fact in facts:
        try:
            check_facts(checked, [fact])
        except Reject:
            continue
        yield fact


# ---------------------------------------------------------------- files


def certificate(verification: Verification, spec: Spec) -> dict[str, Any]:
    """The certificate of a verification: all of its verdicts that the checker establishes again."""
    cells: list[dict[str, Any]] = []
    claims: list[dict[str, Any]] = []
    rest: list[dict[str, Any]] = []
    for n, found in enumerate(verification.cells):
        cell = spec.lower(found.cell, **found.hyper)
        checked, subject = Cell(cell, found.hyper), Subject(cell=cell)
        facts = list(_facts(subject, checked))
        cells.append(
            {"cell": found.cell, "given": encode_hyper(found.hyper), "graph": print_cell(cell), "facts": facts}
        )
        for result in found.results:
            entry = {"cell": n, "line": result.line, "claim": result.claim, "verdict": result.verdict}
            try:
                by, evidence = _evidence(subject.layers.cell, result)
                whole = json.loads(json.dumps(entry | {"by": by, "evidence": evidence}))
                accepted(spec, checked, whole)
            except (Reject, NotExact) as error:
                why = (
                    "nothing is claimed"
                    if result.verdict == "unknown"
                    else f"the checker does not establish it: {error}"
                )
                rest.append(entry | {"cell": found.cell, "reason": why})
            else:
                claims.append(whole)
    files = encode_spec(spec)
    return {"format": FORMAT, "spec": files, "cells": cells, "claims": claims, "not_certified": rest}


def write(path: str | Path, verification: Verification, spec: Spec) -> dict[str, Any]:
    """Writes the certificate and returns it."""
    data = certificate(verification, spec)
    Path(path).write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return data
