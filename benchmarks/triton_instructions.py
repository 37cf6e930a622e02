"""How many instructions scans issue for each entry, read off their machine code (no GPU is needed).

python -m benchmarks.triton_instructions

A multiprocessor issues four warp instructions a clock.  Where a tile's loop has more of them than fit into the time its
bytes take, a scan cannot run at the speed of a copy, however its loads are arranged; that bound is printed beside.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import triton.backends.nvidia

from benchmarks.triton_resources import CELLS, kernel_of
from rnnc.backends.triton.ahead_recurrence import compiled
from rnnc.runtime.gpu.recurrence import Recurrence

DISASSEMBLER = Path(triton.backends.nvidia.__file__).parent / "bin" / "nvdisasm"
TARGET = "sm_90"
CLOCK, PROCESSORS, BANDWIDTH = 1.75e9, 132, 4.8e12  # an H200: hertz, multiprocessors, bytes a second, by its datasheet
ISSUED = 4  # warp instructions a clock and multiprocessor
BYTES = {"forward": 6, "backward": 10}  # an entry of h = a h + b in 16 bits: two inputs and an output; three and two


def loop_of(code: bytes) -> Counter[str]:
    """The instructions of the longest loop, by name."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = subprocess.run([DISASSEMBLER, "-c", file.name], capture_output=True, text=True, check=True).stdout
    labels: dict[str, int] = {}
    names: list[str] = []
    loops: list[tuple[int, int]] = []
    for line in text.splitlines():
        if label := re.match(r"(\.L_x_\d+):", line.strip()):
            labels[label[1]] = len(names)
        elif found := re.match(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9]+)(.*)", line.strip()):
            names.append(found[1])
            back = re.search(r"\.L_x_\d+", found[2]) if found[1] == "BRA" else None
            if back and back[0] in labels:
                loops.append((labels[back[0]], len(names)))
    start, stop = max(loops, key=lambda pair: pair[1] - pair[0])
    return Counter(names[start:stop])


def row(name: str, of: Recurrence, role: str, sizes: dict[str, int]) -> str:
    inner = tuple(sizes[x] for x in of.axes.inner)
    config = of.default_config(of.axes.size("d", sizes), inner)
    entries = config.steps * config.width(role)
    for size in inner:
        entries *= size
    found = loop_of(compiled(of, role, TARGET, sizes).code)
    issued = found.total() * config.launch(role)["num_warps"] / entries
    bound = ""
    if name == "MinGRU":
        copied = BYTES[role] / (BANDWIDTH / PROCESSORS / CLOCK)  # clocks that an entry's bytes take
        bound = f"{min(1.0, copied / (issued / ISSUED)):.0%}"
    tile = f"{config.steps} x {config.width(role)}, warps {config.launch(role)['num_warps']}"
    return f"| {name}, {role} | {tile} | {issued:.2f} | {found['SHFL']} | {found['BAR']} | {bound} |"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| kernel | tile | warp instructions an entry | shuffles a tile | barriers | most of a copy's speed |")
    print("|---|---|---|---|---|---|")
    for (file, cell), sizes in CELLS.items():
        if "delta" not in file:
            of = kernel_of(file, cell)
            for role in BYTES:
                print(row(cell, of, role, sizes))


if __name__ == "__main__":
    main()
