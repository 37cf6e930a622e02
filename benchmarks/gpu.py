"""Generated Triton kernels on a GPU: compared with the float64 oracle first, then measured against their peers.

    python -m benchmarks.gpu                        # prepares (needs the compiler), verifies, measures
    python -m benchmarks.gpu --budget 540           # as far as it comes in nine minutes; again: what is left
    python -m benchmarks.gpu --table                # what was measured, as a table
    python -m benchmarks.gpu --prepare FOLDER       # writes what a machine without the compiler needs, no GPU wanted
    python -m benchmarks.gpu --folder FOLDER        # there: torch, triton, numpy and this checkout are enough
    python -m benchmarks.gpu --dry-run              # everything on small sizes in Triton's interpreter: no GPU

Every round runs every competitor once, in turning order, between two events of the device, after a write that empties
its cache.  On a GPU each cell has a process of its own: one that dies leaves the others their numbers, and the cell its
other shapes.  What is done stands in the JSON file, and is not done again on the same machine.  `of limit` is the least
time the device could take (the bytes at the speed of a copy, products, special functions, or the chain of steps) over
the time it took.  Exit codes: 0 done, 1 something is wrong or failed, 2 usage, 3 the time was up.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from triton.errors import TritonError

from benchmarks.gpu_cases import CELLS, SHAPES, Cell, Shape, fitting, prepare
from benchmarks.gpu_peers import Peer, peer

TOLERANCES = {torch.float32: 2e-4, torch.bfloat16: 4e-2}  # of outputs and gradients, in norm
SPECIAL = 28e9  # special functions a second and multiprocessor: 16 a cycle at 1.75 GHz
SLOW = 1.0  # seconds beyond which a competitor runs once
LONGEST = 900.0  # seconds of a cell's process
RESULTS = Path(__file__).parent / "results" / "gpu.json"
DONE, WRONG, USAGE, LATER = 0, 1, 2, 3  # exit codes; LATER: the time was up


# ---------------------------------------------------------------- modules


def load(folder: Path, name: str) -> Any:
    """The class of an emitted module."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"rnnc_benchmark_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # Triton reads the source of its functions
    spec.loader.exec_module(module)
    return getattr(module, module.__all__[0])


# ---------------------------------------------------------------- the oracle


def parts(path: Path) -> dict[str, dict[str, Any]]:
    """A small problem, by part and name."""
    found: dict[str, dict[str, Any]] = {}
    with np.load(path) as data:
        for key in data.files:
            part, name = key.split("/")
            found.setdefault(part, {})[name] = data[key]
    return found


def error(x: Tensor, want: Any) -> float:
    got = x.detach().double().cpu().numpy()
    scale = np.linalg.norm(want)
    return float(np.linalg.norm(got - want) / (scale if scale > 1e-30 else 1.0))


def verify(folder: Path, cell: Cell, device: str, dtype: torch.dtype, steps: int | None) -> dict[str, float]:
    """The largest error of outputs, last states and gradients, in norm; with `steps` of the outputs of a few only."""
    p = parts(folder / f"{cell.name}.npz")
    layer = load(folder, f"{cell.name}_triton")(**cell.small, device=device, dtype=dtype)

    def tensors(part: str) -> dict[str, Tensor]:
        return {k: torch.tensor(v, device=device).to(dtype) for k, v in p.get(part, {}).items()}

    with torch.no_grad():
        own = dict(layer.named_parameters())
        for name, value in tensors("param").items():
            own[name].copy_(value)
    inputs, state = tensors("input"), tensors("state")
    if steps is not None:
        y, _ = layer(**{k: x[:, :steps] for k, x in inputs.items()}, state=state)
        ys = y if isinstance(y, tuple) else (y,)
        return {"output": max(error(a, b[:, :steps]) for a, b in zip(ys, p["output"].values(), strict=True))}
    leaves = [*inputs.values(), *state.values(), *own.values()]
    for x in leaves:
        x.requires_grad_()
    y, final = layer(**inputs, state=state)
    ys = dict(zip(p["output"], y if isinstance(y, tuple) else (y,), strict=True))
    loss = sum((ys[k].float() * w.float()).sum() for k, w in tensors("weight").items())
    loss = loss + sum((final[k].float() * w.float()).sum() for k, w in tensors("end").items())
    loss.backward()  # type: ignore[union-attr]
    found = {"output": max(error(ys[k], v) for k, v in p["output"].items())}
    found["final"] = max(error(final[k], v) for k, v in p["final"].items())
    for part, xs in (("d_param", own), ("d_input", inputs), ("d_state", state)):
        if xs:
            found[part] = max(error(x.grad, p[part][k]) for k, x in xs.items())  # type: ignore[arg-type]
    return found


# ---------------------------------------------------------------- time


@dataclass(slots=True)
class Clock:
    """Times functions on a device; on a CPU (a dry run) by the wall."""

    device: str
    scratch: Tensor | None = None

    def __post_init__(self) -> None:
        if self.device != "cpu":
            self.scratch = torch.empty(256 << 20, dtype=torch.int8, device=self.device)

    def seconds(self, run: Callable[[], object]) -> float:
        if self.scratch is None:
            begun = time.perf_counter()
            run()
            return time.perf_counter() - begun
        self.scratch.zero_()
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return begin.elapsed_time(end) / 1e3

    def interleaved(self, runners: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
        """Median seconds of each; those slower than SLOW run once, the others `rounds` times after two more."""
        first = {n: min(self.seconds(run) for _ in range(2)) for n, run in runners.items()}
        quick = [n for n, s in first.items() if s < SLOW]
        times: dict[str, list[float]] = {n: [] for n in quick}
        for r in range(rounds):
            for i in range(len(quick)):
                name = quick[(i + r) % len(quick)]
                times[name].append(self.seconds(runners[name]))
        return first | {n: statistics.median(ts) for n, ts in times.items()}


def both(run: Callable[[], Tensor], leaves: Sequence[Tensor], weight: Tensor) -> Callable[[], object]:
    """Forward and backward."""

    def go() -> None:
        for x in leaves:
            x.grad = None
        run().backward(weight)

    return go


# ---------------------------------------------------------------- one shape


def given(shape: Shape, axes_by_name: Mapping[str, list[int]], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random inputs, by name."""
    found = {}
    for name, axes in axes_by_name.items():
        x = torch.randn(shape.batch, shape.steps, *axes, device=device)
        found[name] = fitting(shape.cell, name, x).to(dtype).requires_grad_()
    return found


def axes_of(folder: Path, cell: Cell, sizes: Mapping[str, int]) -> dict[str, list[int]]:
    """The axes of each input behind batch and time: those of the small problem, its sizes replaced by these."""
    small = {v: k for k, v in cell.small.items()}
    assert len(small) == len(cell.small), "the sizes of a small problem differ from each other"
    found = {k: x.shape[2:] for k, x in parts(folder / f"{cell.name}.npz")["input"].items()}
    return {k: [sizes[small[n]] for n in shape] for k, shape in found.items()}


def measure(folder: Path, shape: Shape, clock: Clock, rates: Rates, rounds: int, dtype: torch.dtype) -> dict[str, Any]:
    cell, device = CELLS[shape.cell], clock.device
    layers = {
        b: load(folder, f"{cell.name}_{b}")(**shape.sizes, device=device, dtype=dtype) for b in ("triton", "torch")
    }
    layers["torch"].load_state_dict(layers["triton"].state_dict())
    x = given(shape, axes_of(folder, cell, shape.sizes), device, dtype)
    with torch.no_grad():
        y = layers["triton"](**x)[0]
    weight = torch.randn_like(y)
    competitors: dict[str, Peer] = {
        b: Peer(run=lambda layer=layer: layer(**x)[0], leaves=(*x.values(), *layer.parameters()))  # type: ignore[misc]
        for b, layer in layers.items()
    }
    differences, weights, failed = {}, {}, {}
    for name in ("torch", *cell.peers):
        try:
            p = competitors.get(name) or peer(name, x, layers["triton"])
            if p is not None:
                weights[name], differences[name] = tried(p, y)
                competitors[name] = p
        except Exception as problem:  # noqa: BLE001  (packages of others raise anything; ours is measured still)
            failed[name] = said(problem)
            competitors.pop(name, None)
        for t in (*x.values(), *layers["torch"].parameters()):
            t.grad = None
        if device != "cpu":
            torch.cuda.empty_cache()
    bytes_ = sum(t.numel() * t.element_size() for t in (*x.values(), y))
    copied = torch.empty(max(1, bytes_ // 2), dtype=torch.int8, device=device)
    into = torch.empty_like(copied)
    copy: dict[str, Callable[[], object]] = {"copy": lambda: into.copy_(copied)}

    def without(p: Peer) -> Callable[[], object]:
        return torch.no_grad()(p.run)

    forward = clock.interleaved(copy | {n: without(p) for n, p in competitors.items()}, rounds)
    together = clock.interleaved(
        {n: both(p.run, p.leaves, weights.get(n, weight)) for n, p in competitors.items()}, rounds
    )
    limit = rates.limit(cell, shape, forward["copy"])
    return {
        "shape": shape.title,
        "forward_s": forward,
        "forward_backward_s": together,
        "ratio_to": {n: forward[n] / forward["triton"] for n in competitors if n != "triton"},
        "ratio_to_forward_backward": {n: together[n] / together["triton"] for n in competitors if n != "triton"},
        "limit_s": limit,
        "of_limit": limit / forward["triton"],
        "differences": differences,
        "peers_failed": failed,
    }


def tried(p: Peer, y: Tensor) -> tuple[Tensor, float]:
    """A competitor run once, backward too: a weight for its outputs, and how far these are from ours, in norm."""
    other = p.run()
    weight = torch.randn_like(other)
    difference = float((p.output(other.detach()).float() - y.float()).norm() / y.float().norm())
    other.backward(weight)
    if y.is_cuda:
        torch.cuda.synchronize()
    return weight, difference


def said(problem: BaseException) -> str:
    return f"{type(problem).__name__}: {problem}"[:500]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Of the device: products (bfloat16) and special functions a second."""

    products: float
    functions: float

    def limit(self, cell: Cell, shape: Shape, copy: float) -> float:
        """The least seconds of a forward."""
        steps = shape.batch * shape.steps
        arithmetic = steps * cell.flops(shape.sizes) / self.products
        special = steps * cell.functions(shape.sizes) / self.functions
        return max(copy, arithmetic, special, shape.steps * cell.chain * 1e-6)


def rates(clock: Clock) -> Rates:
    """Measured with a large product of random matrices."""
    if clock.scratch is None:
        return Rates(products=1e12, functions=1e10)
    n = 8192
    a, b = (torch.randn(n, n, device=clock.device, dtype=torch.bfloat16) for _ in "ab")
    best = statistics.median(clock.seconds(lambda: a @ b) for _ in range(8))
    count = torch.cuda.get_device_properties(0).multi_processor_count
    return Rates(products=2 * n**3 / best, functions=SPECIAL * count)


# ---------------------------------------------------------------- the command


def machine(device: str) -> dict[str, Any]:
    import triton

    name = torch.cuda.get_device_name() if device != "cpu" else "none: the interpreter"
    return {"device": name, "torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0]}


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
        if options.dry_run or len(chosen) == 1:
            return everything(options, folder, chosen)
        return apart(options, folder, chosen)


# ---------------------------------------------------------------- what is done, and what is left


@dataclass(slots=True)
class Report:
    """The JSON file: the machine, the errors of each cell and dtype, the shapes, and what is being done."""

    path: Path
    data: dict[str, Any]

    @classmethod
    def at(cls, path: Path, device: str, *, retry: bool = False) -> Report:
        """What the file says, if it is of this machine."""
        data: dict[str, Any] = {"machine": machine(device), "errors": {}, "shapes": []}
        if path.exists():
            before = json.loads(path.read_text())
            data = before if before.get("machine") == data["machine"] else data
        data.pop("running", None)
        if retry:
            data["shapes"] = [x for x in data["shapes"] if "failed" not in x]
            data["errors"] = {k: v for k, v in data["errors"].items() if not isinstance(v, str)}
        return cls(path, data)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1) + "\n")

    def begin(self, what: str) -> None:
        """Say what is being done, for whoever finds this process dead."""
        self.data["running"] = what
        self.write()

    def end(self) -> None:
        self.data.pop("running", None)
        self.write()

    def verified(self, cell: str) -> bool:
        """Whether a cell was compared with the oracle, or that ended its process."""
        return any(title.split()[0] == cell for title in self.data["errors"])

    def left(self, cells: Sequence[str]) -> list[Shape]:
        """Shapes without an entry."""
        known = {x["shape"] for x in self.data["shapes"]}
        return [s for s in SHAPES if s.cell in cells and s.title not in known]


def apart(options: argparse.Namespace, folder: Path, chosen: Sequence[str]) -> int:
    """Every cell in a process of its own: an address outside of the arrays ends all work on the GPU in a process."""
    wrong = False
    report = Report.at(options.json, "cuda", retry=options.retry)
    report.write()
    for name in chosen:
        while report.left([name]):
            seconds = options.until - time.monotonic()
            if seconds <= 0:
                return later(report, chosen)
            command = [sys.executable, "-m", "benchmarks.gpu", "--folder", str(folder), "--only", name]
            command += ["--rounds", str(options.rounds), "--json", str(options.json)]
            command += ["--budget", str(seconds)] if seconds < float("inf") else []
            try:
                code = subprocess.run(command, check=False, timeout=LONGEST).returncode
            except subprocess.TimeoutExpired:
                code = -1
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


def line(found: Mapping[str, Any]) -> str:
    if "failed" in found:
        return f"FAILED {found['shape']}: {found['failed'][:200]}"
    forward, together = found["forward_s"]["triton"], found["forward_backward_s"]["triton"]
    ratios = ", ".join(
        f"{n} {r:.2f} / {found['ratio_to_forward_backward'][n]:.2f}" for n, r in found["ratio_to"].items()
    )
    times = f"{1e6 * forward:9.0f} µs, with backward {1e6 * together:9.0f} µs, of limit {found['of_limit']:.2f}"
    without = "".join(f"; {n} failed" for n in found["peers_failed"])
    return f"{found['shape']:44} {times}; ratio to {ratios}{without}"


def table(report: Mapping[str, Any]) -> str:
    """What was measured, for a page of the documentation."""
    rows = ["| shape | forward, µs | with backward, µs | of limit | peer: times slower, forward / with backward |"]
    rows += ["|---|---|---|---|---|"]
    for x in report["shapes"]:
        if "failed" in x:
            rows.append(f"| {x['shape']} | failed: {x['failed'][:60]} | | | |")
            continue
        forward, together = x["forward_s"]["triton"], x["forward_backward_s"]["triton"]
        peers = ", ".join(f"{n} {r:.2f} / {x['ratio_to_forward_backward'][n]:.2f}" for n, r in x["ratio_to"].items())
        rows.append(f"| {x['shape']} | {1e6 * forward:.0f} | {1e6 * together:.0f} | {x['of_limit']:.2f} | {peers} |")
    said_of = ", ".join(f"{k} {v}" for k, v in report["machine"].items())
    return "\n".join([*rows, "", said_of])


if __name__ == "__main__":
    sys.exit(main())
