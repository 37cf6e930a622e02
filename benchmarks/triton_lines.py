"""How much code operators are: the cell, what is generated for it, and what all operators of a form share.

python -m benchmarks.triton_lines

Lines without blank ones and comments.  Generated are the kernels, forward and backward, with the call that ties them to
a module; shared is what is written once in `rnnc/runtime/gpu`.
"""

from __future__ import annotations

import argparse
import io
import re
import tokenize
from pathlib import Path

from benchmarks.gpu_cases import CELLS
from rnnc.compile import emit_source
from rnnc.spec import Spec, parse, stdlib

RUNTIME = Path(__file__).parents[1] / "rnnc" / "runtime" / "gpu"
EMPTY = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
SHARED = {  # by what the files are for
    "scans of tiles, and of their parts": ("scan", "splits"),
    "decays in chunks": (
        *("decays", "gated", "gated_operator", "gated_sizes", "gated_tuning", "gated_walk", "walk"),
        *("alike", "intra", "gates"),
    ),
    "delta rules in chunks": tuple(p.stem for p in sorted(RUNTIME.glob("low_rank*.py"))),
    "both of these": ("matrix", "exchange", "padding"),
    "products between kernels": ("stepped",),
    "launches, operators, layouts and tuning": (
        *("recurrence", "coupled", "problem", "operators", "buffers", "functional", "arrange", "devices"),
        *("packed", "tuner", "tuning"),
    ),
}
GENERATED = ("Gated", "SelectiveScan", "GRU", "HeadLSTM")


def lines(text: str) -> int:
    """Of Python, those with a word that is no comment."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in EMPTY:
            found |= {*range(token.start[0], token.end[0] + 1)}
    return len(found)


def shared(names: tuple[str, ...]) -> int:
    return sum(lines((RUNTIME / f"{name}.py").read_text(encoding="utf-8")) for name in names)


def generated(name: str) -> dict[str, int]:
    """Lines of the kernels that go over all steps and of those of one step, each with the call."""
    cell = CELLS[name]
    spec: Spec = stdlib(cell.file) if cell.file else parse(cell.text)
    text = emit_source(spec, cell.name, backend="triton", strategy="scan" if name == "SelectiveScan" else None)
    body = text[text.index("@triton.jit") : text.index("\nclass ")]
    parts = re.split(r"^(?=@triton\.jit|\w+ = \w+\()", body, flags=re.M)[1:]
    whole = [p for p in parts if not re.search(r"def \w+_(forward|backward)_\d+\(", p)]
    by_step = [p for p in parts if p not in whole or not p.startswith("@")]
    found = {"": sum(map(lines, whole))}
    return found if len(whole) == len(parts) else {"on chip": found[""], "step by step": sum(map(lines, by_step))}


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name in GENERATED:
        print(f"{name}: {', '.join(f'{n} {how}'.strip() for how, n in generated(name).items())}")
    for what, names in SHARED.items():
        print(f"{what}: {shared(names)}")


if __name__ == "__main__":
    main()
