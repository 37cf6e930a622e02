"""What Triton kernels use, compiled ahead of time for every target, as a table.

Registers a thread / bytes spilled / KiB of shared memory, for bfloat16 sequences.

python -m benchmarks.triton_resources                          # all kernels (minutes)
python -m benchmarks.triton_resources --only LSTM              # those whose title has this text
python -m benchmarks.triton_resources --table docs/kernels.md  # and put into a document's rows with the same titles
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rnnc.backends.triton import ahead
from rnnc.backends.triton.ahead_gated import PASSES, compiled_gated
from rnnc.backends.triton.ahead_low_rank import KERNELS, KEYED, SIDES, compiled_low_rank
from rnnc.backends.triton.ahead_recurrence import compiled
from rnnc.backends.triton.backend import emit
from rnnc.compile import load_source
from rnnc.ir.rounding import keep_digits
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.spec import stdlib

CELLS = {  # file, cell: sizes of the labels of its kernel's axes
    ("mingru", "MinGRU"): {"A": 1024},
    ("lru", "LRU"): {"A": 1024},
    ("mamba", "Mamba"): {"A": 2048, "B": 16},
}
ON_CHIP = {  # with matrices on chip: the title, and sizes
    ("slstm", "sLSTM"): ("sLSTM, 16 heads of 128", {"A": 16, "B": 128}),
    ("lstm", "LSTM"): ("LSTM, 128", {"A": 128}),
    ("gru", "GRU"): ("GRU, 64", {"A": 64}),
    ("rnn", "RNN"): ("RNN, 128", {"A": 128}),
}
STEP_BY_STEP = {  # beside their chunkwise kernels
    ("deltanet", "DeltaNet"): dict.fromkeys("ABC", 64),
    ("gated_deltanet", "GatedDeltaNet"): dict.fromkeys("ABC", 64),
}
COMPILED = Callable[[str], ahead.Resources]  # for a target


def kernel_of(file: str, cell: str) -> Recurrence:
    """The (only) kernel of a cell of the standard library, ready to be compiled."""
    spec = stdlib(file)
    ir = keep_digits(spec.lower(cell))
    strategy = "sequential" if (file, cell) in STEP_BY_STEP else None  # else by kernels that are not in the file
    module = load_source(emit(ir, dims=None, strategy=strategy, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found


def kernels() -> Iterator[tuple[str, COMPILED]]:
    """The title of each row, and what compiles its kernel."""
    given = {key: (key[1], sizes) for key, sizes in CELLS.items()} | ON_CHIP
    given |= {key: (f"{key[1]}, step by step", sizes) for key, sizes in STEP_BY_STEP.items()}
    for key, (title, sizes) in given.items():
        of = kernel_of(*key)
        for role in ("forward", "backward"):
            yield f"{title}, {role}", lambda t, of=of, role=role, sizes=sizes: compiled(of, role, t, sizes)
    for which, title in PASSES.items():
        yield title, lambda t, which=which: compiled_gated(which, t, 64, 64)
    for which in dict.fromkeys((*KERNELS, *KEYED)):
        for keep in (False, True) if which == "low_rank_walk" else (False,):
            for reads in (False, True) if which in SIDES else (False,):
                side = f", of {'reads' if reads else 'rows'}" if which == "low_rank_pairs" else ""
                title = f"`{which}`{', keeping states' * keep}{side}"
                flags = {"keep": keep, "reads": reads, "keyed": which not in KERNELS}
                yield title, lambda t, which=which, flags=flags: compiled_low_rank(which, t, 128, 128, **flags)


def row(title: str, run: COMPILED) -> str:
    found = [run(target) for target in ahead.TARGETS]
    return f"| {title} | {' | '.join(f'{r.registers} / {r.spilled} / {r.shared / 1024:.0f}' for r in found)} |"


def placed(text: str, rows: dict[str, str]) -> str:
    """A document with these rows, by title, in place of those that begin as they do; one that it lacks is said."""
    lines = text.splitlines(keepends=True)
    for title, made in rows.items():
        at = [
            k for k, line in enumerate(lines) if line.startswith(f"| {title} |") and line.count("|") == made.count("|")
        ]
        if len(at) != 1:
            print(f"{title}: {len(at)} rows of the document", file=sys.stderr)
        for k in at:
            lines[k] = made + "\n"
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="kernels whose title has this text")
    parser.add_argument("--table", type=Path, metavar="FILE", help="put the rows into this document")
    options = parser.parse_args()
    print(f"| kernel | {' | '.join(ahead.TARGETS)} |")
    print(f"|---|{'---|' * len(ahead.TARGETS)}")
    rows = {}
    for title, run in kernels():
        if options.only is None or options.only in title:
            rows[title] = row(title, run)
            print(rows[title], flush=True)
    if options.table:
        options.table.write_text(placed(options.table.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
