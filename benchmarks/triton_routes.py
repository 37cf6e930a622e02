"""Prints which schedule runs each group of states in `backend="triton"`, as docs/kernels.md has it.

python -m benchmarks.triton_routes [FOLDER ...]: by default the library, and the odd and unlisted cells of the tests.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import rnnc.spec
from rnnc.backends.triton.backend import routes
from rnnc.diagnostics import SpecError

ROOT = Path(__file__).parent.parent
FOLDERS = (ROOT / "stdlib", ROOT / "tests" / "stdlib" / "odd", ROOT / "tests" / "stdlib" / "unlisted")


def found(folders: tuple[Path, ...] = FOLDERS) -> Iterator[tuple[str, str, str]]:
    """A cell, the states of one of its groups, and how the group runs."""
    for folder in folders:
        for path in sorted(folder.glob("*.rnn")):
            spec = rnnc.spec.load(path)
            for name in spec.cells:
                try:
                    cell = spec.lower(name)
                except SpecError:  # a cell that needs hyperparameters
                    continue
                for own, states, how in routes(cell):
                    if own == cell.name:
                        yield name, ", ".join(states), how


def table(folders: tuple[Path, ...] = FOLDERS) -> str:
    """One row a schedule or reason: how many groups, and of which cells where PyTorch runs them."""
    groups: dict[str, list[str]] = {}
    for cell, _, how in found(folders):
        groups.setdefault(how, []).append(cell)
    lines = ["| how a group runs | groups | cells that PyTorch runs |", "|---|---|---|"]
    for how in sorted(groups, key=lambda how: (how.startswith("PyTorch"), how)):
        cells = ", ".join(dict.fromkeys(groups[how])) if how.startswith("PyTorch") else ""
        lines.append(f"| {how} | {len(groups[how])} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(tuple(map(Path, sys.argv[1:])) or FOLDERS))
