"""What generated Triton kernels use, compiled ahead of time for every target, as a table.

python -m benchmarks.triton_resources
"""

from __future__ import annotations

from rnnc.backends.triton import ahead
from rnnc.backends.triton.ahead_gated import PASSES, compiled_gated
from rnnc.backends.triton.ahead_low_rank import KERNELS, KEYED, SIDES, compiled_low_rank
from rnnc.backends.triton.backend import emit
from rnnc.compile import load_source
from rnnc.ir.rounding import keep_digits
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.spec import stdlib

CELLS = {  # file, cell: sizes of the labels of its kernel's axes
    ("mingru", "MinGRU"): {"A": 1024},
    ("lru", "LRU"): {"A": 1024},
    ("mamba", "Mamba"): {"A": 2048, "B": 16},
    ("deltanet", "DeltaNet"): dict.fromkeys("ABC", 64),
    ("gated_deltanet", "GatedDeltaNet"): dict.fromkeys("ABC", 64),
}

STEP_BY_STEP = {"deltanet", "gated_deltanet"}  # beside their chunkwise kernels


def kernel_of(file: str, cell: str) -> Recurrence:
    """The (only) kernel of a cell of the standard library, ready to be compiled."""
    spec = stdlib(file)
    ir = keep_digits(spec.lower(cell))
    strategy = "sequential" if "delta" in file else None  # else chunkwise, by kernels that are not in the file
    module = load_source(emit(ir, dims=None, strategy=strategy, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found


def rows() -> list[tuple[str, list[ahead.Resources]]]:
    """For each kernel its resources on every target, in the order of `ahead.TARGETS`."""
    found = []
    for (file, cell), sizes in CELLS.items():
        of = kernel_of(file, cell)
        for role in ("forward", "backward"):
            title = f"{cell}{', step by step' * ('delta' in file)}, {role}"
            found.append((title, [ahead.compiled(of, role, t, sizes) for t in ahead.TARGETS]))
    for which, title in PASSES.items():
        found.append((title, [compiled_gated(which, t, 64, 64) for t in ahead.TARGETS]))
    for which in dict.fromkeys((*KERNELS, *KEYED)):
        keyed = which not in KERNELS
        for keep in (False, True) if which == "low_rank_walk" else (False,):
            for reads in (False, True) if which in SIDES else (False,):
                title = f"`{which}`{', keeping states' * keep}{', of reads' * reads}"
                flags = {"keep": keep, "reads": reads, "keyed": keyed}
                found.append((title, [compiled_low_rank(which, t, 128, 128, **flags) for t in ahead.TARGETS]))
    return found


def main() -> None:
    print(f"| kernel | {' | '.join(ahead.TARGETS)} |")
    print(f"|---|{'---|' * len(ahead.TARGETS)}")
    for name, resources in rows():
        cells = [f"{r.registers} / {r.spilled} / {r.shared / 1024:.0f}" for r in resources]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
