"""Generated Triton kernels on a GPU: compared with the float64 oracle first, then measured against their peers.

    python -m benchmarks.gpu                        # prepares, verifies, measures
    python -m benchmarks.gpu --budget 540           # as far as it comes in nine minutes; again: what is left
    python -m benchmarks.gpu --table                # what was measured, as a table
    python -m benchmarks.gpu --prepare FOLDER       # writes what a machine without the compiler needs, no GPU wanted
    python -m benchmarks.gpu --folder FOLDER        # there: torch, triton, numpy and this checkout are enough
    python -m benchmarks.gpu --dry-run              # everything on small sizes in Triton's interpreter: no GPU

Every round runs every competitor once, in turning order, between two events of the device, after writes that empty its
cache and let the host get ahead.  On a GPU several processes first compile at once what will be launched
(`--processes`), then each cell has a process of its own: one that dies leaves the others their numbers, and the cell
its other shapes.  What is done stands in the JSON file, and is not done again on the same machine.  `of limit` is the
least time the device could take (the bytes at the speed of a copy, products, special functions, or the chain of steps)
over the time it took.  Exit codes: 0 done, 1 something is wrong or failed, 2 usage, 3 the time was up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from triton.errors import TritonError

from benchmarks.gpu_cases import CELLS, Shape, prepare
from benchmarks.gpu_clock import Clock, rates
from benchmarks.gpu_measure import TOLERANCES, measure, said, verify
from benchmarks.gpu_report import Report, line, table
from benchmarks.gpu_warm import compiled, warm

LONGEST = 900.0  # seconds of a cell's process
WARM = 300.0  # seconds of compiling beforehand, at most
GRACE = 45.0  # seconds that a process gets beyond the budget, to end what it has begun
RESULTS = Path(__file__).parent / "results" / "gpu.json"
DONE, WRONG, USAGE, LATER = 0, 1, 2, 3  # exit codes; LATER: the time was up


def small(shape: Shape) -> Shape:
    """The same shape for a dry run."""
    return Shape(cell=shape.cell, batch=1, steps=5, sizes=CELLS[shape.cell].small)


def interpreted_again(arguments: Sequence[str]) -> int:
    """Triton decides when it is imported whether it interprets."""
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "1"}, check=False).returncode


def main(arguments: Sequence[str] | None = None) -> int:
    given_ = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--prepare", type=Path, metavar="FOLDER", help="only write what a machine without the compiler needs"
    )
    parser.add_argument("--folder", type=Path, help="read what --prepare wrote there")
    parser.add_argument("--dry-run", action="store_true", help="small sizes in Triton's interpreter, on the CPU")
    parser.add_argument("--only", default="", help="cells, separated by commas")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which nothing is begun")
    parser.add_argument("--retry", action="store_true", help="do once more what failed")
    parser.add_argument("--warm", action="store_true", help="only compile what measuring would launch")
    parser.add_argument(
        "--processes", type=int, default=min(8, (os.cpu_count() or 2) // 2), help="that compile at once; 0: none"
    )
    parser.add_argument("--table", action="store_true", help="only print what the JSON file says")
    parser.add_argument("--json", type=Path, help=f"where the numbers go; {RESULTS} unless it is a dry run")
    options = parser.parse_args(given_)
    chosen = [n for n in options.only.split(",") if n] or list(CELLS)
    if unknown := set(chosen) - set(CELLS):
        print(f"no cell {', '.join(sorted(unknown))}; there are {', '.join(CELLS)}", file=sys.stderr)
        return USAGE
    options.json = options.json or (Path(tempfile.gettempdir()) / "gpu_dry_run.json" if options.dry_run else RESULTS)
    if options.table:
        print(table(json.loads(options.json.read_text())))
        return DONE
    if options.prepare is not None:
        prepare(options.prepare, chosen)
        return DONE
    if options.dry_run and os.environ.get("TRITON_INTERPRET") != "1":
        return interpreted_again(given_)
    if not options.dry_run and not torch.cuda.is_available():
        print("no CUDA or HIP device: `--dry-run` runs everything on small sizes without one", file=sys.stderr)
        return USAGE
    options.until = time.monotonic() + options.budget
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            prepare(folder, chosen)
        if options.dry_run:
            options.json.unlink(missing_ok=True)
        if options.warm:
            done = Report.at(options.json, "cuda")
            compiled(folder, {name: done.left([name]) for name in chosen}, "cuda", torch.bfloat16)
            return DONE
        if options.dry_run or len(chosen) == 1:
            return everything(options, folder, chosen)
        return apart(options, folder, chosen)


# ---------------------------------------------------------------- what is done, and what is left


def apart(options: argparse.Namespace, folder: Path, chosen: Sequence[str]) -> int:
    """Every cell in a process of its own: an address outside of the arrays ends all work on the GPU in a process."""
    wrong = False
    report = Report.at(options.json, "cuda", retry=options.retry)
    report.write()
    if options.processes > 0:
        left = [name for name in chosen if report.left([name])]
        warm(folder, options.json, left, options.processes, min(options.until, time.monotonic() + WARM))
    for name in chosen:
        while report.left([name]):
            seconds = options.until - time.monotonic()
            if seconds <= 0:
                return later(report, chosen)
            command = [sys.executable, "-m", "benchmarks.gpu", "--folder", str(folder), "--only", name]
            command += ["--rounds", str(options.rounds), "--json", str(options.json)]
            command += ["--budget", str(seconds)] if seconds < float("inf") else []
            longest = min(LONGEST, seconds + GRACE)
            try:
                code = subprocess.run(command, check=False, timeout=longest).returncode
            except subprocess.TimeoutExpired:
                code = -1 if longest == LONGEST else LATER
            running = json.loads(options.json.read_text()).get("running")
            report = Report.at(options.json, "cuda")
            wrong |= code not in (DONE, LATER)
            if code == LATER:
                return later(report, chosen)
            if code in (DONE, WRONG):
                break
            dead = f"its process ended with {code}"
            if running is None or running == name:  # while it was compared, or before
                report.data["errors"][name] = dead
                report.data["shapes"] += [{"shape": s.title, "failed": dead} for s in report.left([name])]
            else:
                report.data["shapes"].append({"shape": running, "failed": dead})
            report.write()
    return WRONG if wrong else DONE


def later(report: Report, chosen: Sequence[str]) -> int:
    print(f"the time is up: the same command goes on with {len(report.left(chosen))} more shapes", flush=True)
    return LATER


def everything(options: argparse.Namespace, folder: Path, chosen: Sequence[str]) -> int:
    device = "cpu" if options.dry_run else "cuda"
    if options.dry_run:
        np.seterr(all="ignore")  # entries outside of the arrays may divide by zero
    report = Report.at(options.json, device, retry=options.retry)
    wrong = False
    for name in chosen:
        if not report.verified(name):
            report.begin(name)
            wrong |= check_all(report.data["errors"], folder, [name], device, 5 if options.dry_run else None)
            report.end()
    clock = Clock(device)
    speed = rates(clock)
    shapes = list({small(s).title: small(s) for s in report.left(chosen)}.values()) if options.dry_run else None
    for shape in report.left(chosen) if shapes is None else shapes:
        if time.monotonic() > options.until:
            return later(report, chosen)
        report.begin(shape.title)
        dtype = torch.float32 if options.dry_run else torch.bfloat16
        try:
            found = measure(folder, shape, clock, speed, 1 if options.dry_run else options.rounds, dtype)
        except (RuntimeError, AssertionError, TritonError) as problem:  # one that fails leaves the others their numbers
            found = {"shape": shape.title, "failed": said(problem)}
            wrong = True
        report.data["shapes"].append(found)
        print(line(found), flush=True)
        report.end()
    return WRONG if wrong else DONE


def check_all(found: dict[str, Any], folder: Path, cells: Sequence[str], device: str, steps: int | None) -> bool:
    """Compare every cell, with the default sizes of blocks, with the oracle; whether some error is too large."""
    wrong = False
    tune = os.environ.get("RNNC_TUNE")
    os.environ["RNNC_TUNE"] = "0"  # compiling five candidates for every small problem would take minutes
    for cell in (c for c in CELLS.values() if c.name in cells):
        for dtype in (torch.float32,) if steps else tuple(TOLERANCES):
            title = f"{cell.name} {str(dtype).removeprefix('torch.')}"
            try:
                found[title] = verify(folder, cell, device, dtype, steps)
            except (RuntimeError, AssertionError, TritonError) as problem:
                found[title], wrong = said(problem), True
                print(f"FAILED {title}: {found[title]}", flush=True)
                continue
            worst = max(found[title].values())
            bad = any(not e < TOLERANCES[dtype] for e in found[title].values())
            wrong |= bad
            print(f"{'WRONG' if bad else 'right'}  {cell.name:16} {str(dtype)[6:]:9} {worst:.1e}", flush=True)
    os.environ.pop("RNNC_TUNE")
    os.environ |= {} if tune is None else {"RNNC_TUNE": tune}
    return wrong


if __name__ == "__main__":
    sys.exit(main())
