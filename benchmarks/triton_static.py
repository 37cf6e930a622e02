"""What operators and their peers launch, counted without a GPU.  THESE ARE COUNTS AND LOWER BOUNDS, NO MEASUREMENT.

python -m benchmarks.triton_static                          # all operators and shapes
python -m benchmarks.triton_static --only GLAOp --kernels   # each launch
python -m benchmarks.triton_static --machine-code           # with registers and spills of each launch (minutes)
python -m benchmarks.triton_static --peers FOLDER           # peers' packages that are not installed, in a folder
python -m benchmarks.triton_static --only GLAOp --record    # counts are put into the committed record, other rows stay
python -m benchmarks.triton_static --table docs/kernels.md  # the record's table, put into a document; counts nothing

A launch has to read or write every tensor it is given once, and an operation of PyTorch between launches its arguments
and results: their bytes over those of a copy are the least time of an operator as it is divided into launches.  A
peer that is not installed leaves its columns empty, or in a record as they were.  Of the configurations a peer's tuner
chooses from, the first is taken: registers and spills are of that one.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import triton

from benchmarks.gpu_cases import CELLS, GRIDS, SHAPES, Shape, prepare
from benchmarks.gpu_measure import axes_of, load
from benchmarks.gpu_peers import peer
from benchmarks.static_record import Recorded, both_ways, pretended
from benchmarks.static_table import RECORD, merged, placed, read, table

COPY = 4.3e12  # bytes a second of a copy on an H200
OPERATORS = {  # and the peers of each: what is compared is divided into Triton launches
    "Gated": ("accelerated_scan_triton",),
    "SelectiveScan": (),
    "SSDOp": ("fla_simple",),
    "GLAOp": ("fla_gla",),
    "DeltaOp": ("fla_delta",),
    "GatedDeltaOp": ("fla_gated_delta",),
    "DeltaProductOp": ("fla_gated_product",),
    "KDAOp": ("fla_kda",),
}
NOTE = "counts and lower bounds by data sheets; nothing was run or measured"


def given(folder: Path, shape: Shape) -> dict[str, torch.Tensor]:
    axes = axes_of(folder, CELLS[shape.cell], shape.sizes)
    sizes = {n: (shape.batch, shape.steps, *a) for n, a in axes.items()}
    return {n: torch.empty(s, dtype=torch.bfloat16, requires_grad=True) for n, s in sizes.items()}


def rows_of(folder: Path, shape: Shape, *, machine_code: bool) -> dict[str, Any]:
    """Of ours and of every peer that is there: forward and backward."""
    x = given(folder, shape)
    layer = load(folder, f"{shape.cell}_triton")(**shape.sizes, dtype=torch.bfloat16)
    runs = {"rnnc": (lambda: layer(**x)[0], (*x.values(), *layer.parameters()))}
    for name in OPERATORS[shape.cell]:
        found = peer(name, x, layer)
        if found is not None:
            runs[name] = (found.run, found.leaves)
    _as_with_a_newer_triton()
    result: dict[str, Any] = {}
    for name, (run, leaves) in runs.items():
        try:
            forward, backward = both_ways(run, leaves, machine_code=machine_code)
        except Exception as reason:
            if name == "rnnc":
                raise
            print(f"{name} is left out: {type(reason).__name__}: {reason}", file=sys.stderr)
            continue
        result[name] = {"forward": summary(forward), "backward": summary(backward)}
    return result


def _as_with_a_newer_triton() -> None:
    """fla refuses one kernel on this GPU, whose results Triton 3.4 to 3.7 gets wrong; here it is only counted."""
    chunks = sys.modules.get("fla.ops.common.chunk_o")
    if chunks is not None:
        chunks.TRITON_ABOVE_3_7_1 = True  # type: ignore[attr-defined]


def summary(found: Recorded) -> dict[str, Any]:
    kernels, between = sum(k.bytes for k in found.launches), sum(n for _, n in found.torch)
    return {
        "launches": len(found.launches),
        "bytes": kernels,
        "torch_operations": len(found.torch),
        "torch_bytes": between,
        "least_ms": (kernels + between) / COPY * 1e3,
        "kernels": [asdict(k) for k in found.launches],
        "torch": [{"operation": n, "bytes": b} for n, b in found.torch],
    }


def line(title: str, name: str, ways: dict[str, Any]) -> str:
    cells = []
    for way in ("forward", "backward"):
        w = ways[way]
        cells += [f"{w['launches']} + {w['torch_operations']}", f"{(w['bytes'] + w['torch_bytes']) / 1e9:.2f}"]
        cells.append(f"{w['least_ms']:.2f}")
    return f"| {title} | {name} | {' | '.join(cells)} |"


def details(ways: dict[str, Any]) -> None:
    for way in ("forward", "backward"):
        for k in ways[way]["kernels"]:
            more = "" if k["registers"] is None else f", {k['registers']} registers, {k['spilled']} bytes spilled"
            print(
                f"    {way}: {k['kernel']}: {k['programs']} programs of {k['warps']} warps, "
                f"{k['bytes'] / 1e9:.3f} GB{more}"
            )
        for k in ways[way]["torch"]:
            if k["bytes"] > 1e6:
                print(f"    {way}: PyTorch's {k['operation']}: {k['bytes'] / 1e9:.3f} GB")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=sorted(OPERATORS), help="an operator, more than once for more"
    )
    parser.add_argument("--size", type=int, action="append", help="shapes with heads of this size only")
    parser.add_argument("--kernels", action="store_true", help="print each launch")
    parser.add_argument("--machine-code", action="store_true", help="build each launch for sm_90")
    parser.add_argument("--peers", type=Path, help="a folder with the peers' packages")
    parser.add_argument(
        "--record", type=Path, nargs="?", const=RECORD, help=f"JSON to put counts into, by default {RECORD.name}"
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help=f"put the table of {RECORD.name} into this document and stop"
    )
    return parser.parse_args()


def wanted(shape: Shape, operators: list[str] | None, sizes: list[int] | None) -> bool:
    """Whether the options ask for this shape; those that have no heads are of any size."""
    heads = [n for name, n in shape.sizes.items() if name in ("dv", "p")]
    return shape.cell in (operators or OPERATORS) and (not sizes or not heads or heads[0] in sizes)


def counted(shapes: list[Shape], options: argparse.Namespace) -> dict[str, Any]:
    """Of each shape, by its title; printed as they are found."""
    found: dict[str, Any] = {}
    print(f"{NOTE}.\n")
    print(
        "| operator | who | launches + PyTorch's operations, forward | GB | ms at least | backward | GB | ms at least |"
    )
    print(f"|{'---|' * 8}")
    with tempfile.TemporaryDirectory() as name, pretended():
        folder = Path(name)
        prepare(folder, dict.fromkeys(s.cell for s in shapes))
        for shape in shapes:
            found[shape.title] = rows_of(folder, shape, machine_code=options.machine_code)
            for who, ways in found[shape.title].items():
                print(line(shape.title, who, ways), flush=True)
                if options.kernels:
                    details(ways)
    return found


def main() -> None:
    options = arguments()
    try:
        old = read(options.record or RECORD)
        text = placed(options.table.read_text(encoding="utf-8"), table(old["shapes"])) if options.table else None
    except (OSError, ValueError) as reason:
        sys.exit(f"error: {reason}")
    if text is not None:
        options.table.write_text(text, encoding="utf-8")
        return
    if options.peers:
        if not options.peers.is_dir():
            sys.exit(f"error: {options.peers} is no folder")
        sys.path.append(str(options.peers))
    shapes = [s for s in SHAPES if wanted(s, options.only, options.size)]
    if not shapes:
        sys.exit(f"error: no shape has heads of {options.size}; there are {sorted({n for *_, n in GRIDS})}")
    found = counted(shapes, options)
    if options.record:
        made = {
            "note": NOTE,
            "torch": torch.__version__,
            "triton": triton.__version__,
            "python": platform.python_version(),
            "copy": COPY,
            "shapes": merged(old["shapes"], found),
        }
        options.record.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
