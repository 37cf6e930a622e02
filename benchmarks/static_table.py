"""The record of `benchmarks.triton_static`, and the table of docs/kernels.md that is made of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["RECORD", "merged", "placed", "read", "table"]

RECORD = Path(__file__).parent / "results" / "triton_static.json"
OURS, PEER = "rnnc", "fla"  # what the columns are of: the second stands for all peers whose name begins so
HEADER = "| bfloat16; GB, launches + PyTorch's operations | ours forward | fla forward | ours backward | fla backward |"

Ways = Mapping[str, Any]  # "forward" and "backward" of one operator, as `triton_static.summary` has them


def read(path: Path) -> dict[str, Any]:
    """A record; one that is not there has no shapes."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"shapes": {}}
    return found


def merged(old: Mapping[str, Mapping[str, Ways]], new: Mapping[str, Mapping[str, Ways]]) -> dict[str, dict[str, Ways]]:
    """Counted anew what `new` has; other shapes, and peers that are not installed today, as they were."""
    return {title: {**old.get(title, {}), **new.get(title, {})} for title in {**old, **new}}


def _cell(ways: Ways | None, way: str) -> str:
    if ways is None:
        return ""
    w = ways[way]
    return f"{(w['bytes'] + w['torch_bytes']) / 1e9:.2f} ({w['launches']} + {w['torch_operations']})"


def table(shapes: Mapping[str, Mapping[str, Ways]]) -> str:
    """Markdown: a row for each shape, as they stand in the record."""
    rows = [HEADER, f"|{'---|' * HEADER[1:].count('|')}"]
    for title, found in shapes.items():
        both = found[OURS], next((w for name, w in found.items() if name.startswith(PEER)), None)
        cells = [_cell(ways, way) for way in ("forward", "backward") for ways in both]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def placed(text: str, made: str) -> str:
    """The document `text` with the table `made` where it has one with this header.  Raises ValueError if not once."""
    if text.count(HEADER) != 1:
        raise ValueError(f"{text.count(HEADER)} tables begin with {HEADER!r}: the document must have one")
    before, _, behind = text.partition(HEADER)
    rest = behind.splitlines(keepends=True)
    count = next((k for k, line in enumerate(rest[1:], 1) if not line.startswith("|")), len(rest))
    return before + made + "\n" + "".join(rest[count:])
