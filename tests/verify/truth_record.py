"""The truth table, run to its end with the search for weights: what was found, and how long it took.

`python tests/verify/truth_record.py [SECONDS] [CELL ...]` runs all entries (those of some cells), and writes the record
and docs/truth_table.md.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import rnnc
from rnnc.frontend import ast
from rnnc.verify.engine import Engine
from rnnc.verify.structural import Subject as Cell
from rnnc.verify.target import Target, target_of

sys.path.insert(0, str(Path(__file__).parent))
from truth_table import CLAIMS, DECLARATIONS, NOT_FOUND, SOURCES, TABLE, Entry, Subject

STORED = Path(__file__).with_name("truth_record.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "truth_table.md"
SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """`by`: the theorem, or how the weights do it; `states` of the closure; `seconds` it took, one decimal."""

    cell: str
    claim: str
    verdict: str
    by: str
    states: int
    layers: int
    seconds: float


@cache
def target(claim: str) -> Target:
    body = "state s: real = 0; s <- s; output y: real = s'"
    spec = rnnc.parse(f"{DECLARATIONS}\ncell Ask() {{ {body}; expect {{ {claim} }} }}")
    (asked,) = spec.lower("Ask").expect
    assert isinstance(asked, ast.Claim)
    return target_of(spec, asked)


def engine(subject: Subject, seconds: float) -> Engine:
    cell = rnnc.stdlib(subject.file).lower(subject.cell, **dict(subject.hyper))
    return Engine(Cell(cell=cell), budget=seconds)


def record(entry: Entry, seconds: float) -> Record:
    """Asks the verifier."""
    begun = time.monotonic()
    result = engine(entry.subject, seconds).decide(target(entry.claim), copies=entry.layers)
    data = result.evidence.data if result.evidence is not None else {}
    return Record(
        cell=entry.subject.name,
        claim=entry.text,
        verdict=result.verdict,
        by=str(data.get("theorem") or data.get("status") or ""),
        states=int(data.get("states", 0)),
        layers=1 + len(data.get("layers_below", ())),
        seconds=round(time.monotonic() - begun, 1),
    )


def stored() -> list[Record]:
    return [Record(**row) for row in json.loads(STORED.read_text(encoding="utf-8"))]


# ---------------------------------------------------------------- the document

HEAD = """# What each cell can and cannot do

Made by `python tests/verify/truth_record.py`: every entry of the truth table (`tests/verify/truth_table.py`, where each
has its source or derivation), with what `rnnc verify` says under `finite_precision` when the search for weights has
{seconds} seconds' worth of work for each; none takes more than eight.

**no**: ruled out by a theorem. **yes**: weights were found, and their states, or sets of these, close exactly (in the
limit, where not *attained*). *yes*: possible, but no weights are found; the reason stands below. **?**: open, no
theorem and no weights, here or in the sources. No verdict contradicts an entry. The columns are languages and groups;
the letters of a group are all its elements, with g its generators.
"""
COLUMNS = {
    "recognizes parity": "parity",
    "recognizes mod(3)": "mod 3",
    "recognizes mod(4)": "mod 4",
    "recognizes flip_flop": "flip-flop",
    "recognizes SeenB": "some b",
    "recognizes alternating": "(ab)\\*",
    "tracks group S(3)": "S3",
    "tracks group S(5)": "S5",
    "tracks group S(3, letters = generators)": "S3 g",
    "tracks group S(5, letters = generators)": "S5 g",
}


def rendered(records: Sequence[Record]) -> str:
    """docs/truth_table.md."""
    assert set(COLUMNS) == set(CLAIMS)
    by_key = {(r.cell, r.claim): r for r in records}
    lines = [HEAD.format(seconds=int(SECONDS))]
    for layers, title in ((1, "One layer"), (2, "Two layers, where something is known")):
        lines += [f"## {title}", "", "| cell | " + " | ".join(COLUMNS.values()) + " |"]
        lines.append("|---" * (len(COLUMNS) + 1) + "|")
        for subject in dict.fromkeys(e.subject for e in TABLE if e.layers == layers):
            entries = {e.claim: e for e in TABLE if e.subject == subject and e.layers == layers}
            cells = [_shown(entries[c], by_key) if c in entries else "" for c in CLAIMS]
            lines.append(f"| {subject.name} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Weights that exist and are not found", ""]
    for subjects, claims, why in NOT_FOUND:
        names = ", ".join(s.name for s in subjects)
        lines.append(f"- {names}: {', '.join(COLUMNS[c] for c in claims)}. Missing: {why}.")
    lines += [] if NOT_FOUND else ["None."]
    lines += ["", "## Sources", ""]
    used = dict.fromkeys(e.source for e in TABLE)
    lines += [f"- **{name}**: {' '.join(SOURCES[name].split())}" for name in used]
    return "\n".join(lines) + "\n"


def _shown(entry: Entry, records: dict[tuple[str, str], Record]) -> str:
    r = records[entry.subject.name, entry.text]
    match entry.truth:
        case "no":
            return f"**no** ({r.by})"
        case "yes" if r.verdict == "proved":
            return f"**yes**{', attained' if r.by == 'attained' else ''}"
        case "yes":
            return "*yes*"
        case _:
            return "?"


def main(arguments: Sequence[str]) -> None:
    seconds = float(arguments[0]) if arguments else SECONDS
    known = {(r.cell, r.claim): r for r in stored()} if STORED.exists() else {}
    for entry in TABLE:
        if not arguments[1:] or entry.subject.cell in arguments[1:]:
            found = record(entry, seconds)
            known[found.cell, found.claim] = found
            print(found, "WRONG" if entry.contradicted_by(found.verdict) else "", flush=True)
    rows = [known[e.subject.name, e.text] for e in TABLE if (e.subject.name, e.text) in known]
    STORED.write_text(json.dumps([asdict(r) for r in rows], indent=0) + "\n", encoding="utf-8")
    if len(rows) == len(TABLE):
        DOCUMENT.write_text(rendered(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
