"""Every claim of a certificate is established again, or the certificate is rejected with the first step that fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rnnc.frontend import ast
from rnnc.ir.text import print_cell
from rnnc.verify.checking.replay import check_closure
from rnnc.verify.checking.structure import contradicted, established
from rnnc.verify.checking.theorems import excluded
from rnnc.verify.claims import precision_of, text_of
from rnnc.verify.format import FORMAT, beside, decode_hyper, decode_interval, decode_spec
from rnnc.verify.trusted.cells import Cell, Reject, need
from rnnc.verify.trusted.languages import task_of


def check_facts(c: Cell, facts: Any) -> None:
    """Ranges of nodes, eigenvalues and norms of transitions, as stated in the certificate."""
    for fact in facts:
        of, kind = fact["of"], fact["fact"]
        if kind == "range":
            found = c.ranges.of(of)
        else:
            t = c.transition((of,))
            found = t.norm if kind == "norm" else t.eigenvalues  # type: ignore[assignment]
        need(found is not None and found.within(decode_interval(fact["in"])), f"{fact}: what is found is {found}")


def accept(spec: Any, c: Cell, entry: Any) -> str:
    """One claim: read from the spec, established, and its verdict compared.  Raises Reject."""
    claims = [x for x in c.source.expect if isinstance(x, ast.Claim) and x.span.line == entry["line"]]
    claim: Any = next((x for x in claims if text_of(spec, x) == entry["claim"]), None)
    need(claim is not None, "the spec makes no such claim")
    by, data, copies, model = entry["by"], entry["evidence"], claim.layers or 1, precision_of(claim)
    task = task_of(claim, spec._module.scope) if claim.kind in ("recognizes", "tracks") else None
    assuming = ""
    match by:
        case "analysis" if task is None:
            established(c, claim)
        case "numbers" if task is None:
            contradicted(c, claim, data)
        case "theorem" if task:
            assuming = excluded(c, copies, model, task.actions, data)
        case "closure" if task:
            need(len(data["layers"]) <= copies, "more layers than the claim speaks of")
            models = check_closure(c, data, task.automaton())
            need(model in models, f"such a closure is of another precision: {sorted(models)}")
        case _:
            raise Reject(f"no rule `{by}` for this claim")
    need(claim.negated or not assuming, f"it is refuted only if {assuming}")
    proved = "proved_conditional" if assuming else "proved"
    verdict = proved if (by in ("analysis", "closure")) != claim.negated else "refuted"
    need(entry["verdict"] == verdict, f"the claim is {verdict}, not {entry['verdict']}")
    given = ", ".join(f"{name} = {value}" for name, value in c.given.items())
    cell = f"{c.cell.name} ({given})" if given else c.cell.name
    return f"{cell}: {entry['claim']}: {verdict}" + (f", if {assuming}" if assuming else "")


def accepted(spec: Any, c: Cell, entry: Any) -> str:
    """As `accept`: whatever fails does not establish the claim."""
    try:
        return accept(spec, c, entry)
    except Reject:
        raise
    except Exception as error:  # noqa: BLE001 - of a certificate that is malformed, or beyond a bound
        raise Reject(f"malformed: {type(error).__name__}: {error}") from None


def check(text: str, files: Mapping[str, str] | None = None) -> list[str]:
    """A line for each claim; Reject at the first that is not established.

    `files`: the spec as it has to be, with all files that it imports, the main one first; its own name may be another.
    """
    where, lines, cells = "no certificate", [], []
    try:
        data = json.loads(text)
        need(data["format"] == FORMAT, f"the format is not {FORMAT}")
        spec = decode_spec(data["spec"])
        if files is not None:
            (own, *others), (given, *further) = beside(data["spec"]).items(), beside(files).items()
            need(own[1] == given[1] and dict(others) == dict(further), "the spec is not that of the certificate")
        for made in data["cells"]:
            where, hyper = f"cell `{made['cell']}`", decode_hyper(made["given"])
            cell = spec.lower(made["cell"], **hyper)
            need(print_cell(cell) == made["graph"], "the graph is not that of the spec")
            cells.append(Cell(cell, hyper))
            check_facts(cells[-1], made["facts"])
        need(not spec.check().has_errors, "the spec has errors")
        for n, entry in enumerate(data["claims"], 1):
            where = f"claim {n} (`{entry['claim']}`)"
            lines.append(accepted(spec, cells[entry["cell"]], entry))
    except Exception as error:  # noqa: BLE001
        why = f"{error}" if isinstance(error, Reject) else f"malformed: {type(error).__name__}: {error}"
        raise Reject(f"{where}: {why}") from None
    return lines
