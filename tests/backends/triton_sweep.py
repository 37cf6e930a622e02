"""Every cell of the library, the unlisted and the odd ones, as Triton kernels: run by the interpreter, or compiled.

`TRITON_INTERPRET=1 python triton_sweep.py interpreted CELLS` compares outputs, last states and all gradients with the
float64 oracle, every buffer filled with NaN beforehand, cells with recurrent matrices once more as large heads run;
`python triton_sweep.py ahead CELLS TARGET` compiles every kernel at its default configuration.  CELLS is `library`
(with the unlisted cells) or `odd`.  Both print a line a cell: its name, "ok" or what is wrong, and how its groups run.
A program of its own, since Triton decides when it is imported whether it interprets.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import test_cpu_cells as cells
import torch_support as support
import triton_interpreted as interpreted
import triton_stepped as stepped

from rnnc.compile import load_source
from rnnc.ir.rounding import keep_digits
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config, turned_fits

FOLDERS = {"library": (cells.LIBRARY, cells.UNLISTED), "odd": (cells.ODD,)}


def every(which: str) -> Iterator[tuple[Path, str]]:
    """All cells that are no models and have inputs."""
    for folder in FOLDERS[which]:
        for parameter in cells.cells(folder):
            path, cell = parameter.values
            if cells.spec_of(path).lower(cell).inputs:
                yield path, cell


def module_of(spec: Any, cell: str) -> tuple[Any, Any, list[Any], str]:
    """The graph, the layer's class, its kernels, and how its groups run."""
    from rnnc.backends.triton.backend import emit

    ir = spec.lower(cell)
    source = emit(keep_digits(ir), dims=None, strategy=None, sources=spec.sources)
    module = load_source(source, ir.name)
    kernels = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    kinds = [k.kind for k in kernels] + ["chunks"] * source.count(" = matrix_scan(")
    loops = source.count("No kernel:")
    how = ", ".join([*kinds, *["PyTorch"] * loops]) or "no state"
    return ir, vars(module)[module.__all__[0]], kernels, how


def is_the_oracle(path: Path, cell: str) -> str:
    ir, layer, kernels, how = module_of(cells.spec_of(path), cell)
    for k in kernels:
        few = Config(steps=4, channels=32, stages=1) if k.kind == "coupled" else Config(steps=4, channels=4)
        k.configs[()] = few
    sizes = cells.odd_dims(ir) if path.parent == cells.ODD else support.small_dims(ir)
    case = cells.case(path, cell, 7, sizes)
    case.check(layer, tolerance=1e-9, step=False)
    if any(k.kind == "coupled" for k in kernels):
        with stepped.step_by_step():
            case.check(module_of(cells.spec_of(path), cell)[1], tolerance=1e-9, step=False)
        how += " (and step by step)"
    return f"ok: {how}"


ROLES = ("forward", "backward", "totals", "backward_totals")


def fits(spec: Any, cell: str, target: str) -> str:
    """Channels 1024, or 4 times as many in rows; inner axes 16, or as many as a program takes of a state read by other
    indices; heads of 64 with matrices on chip.
    """
    from rnnc.backends.triton.ahead import SHARED
    from rnnc.backends.triton.ahead_recurrence import compiled

    _, _, kernels, how = module_of(spec, cell)
    found = []
    for of in kernels:
        axes = of.axes
        sizes = dict.fromkeys((*axes.tile, *axes.grid), 4) | dict.fromkeys(axes.tile[-1:], 64 if axes.inner else 1024)
        inner = 64 if of.kind == "coupled" else 16
        while of.kind == "sequential" and not turned_fits([inner] * len(axes.inner), of.parts):
            inner //= 2
        sizes |= dict.fromkeys(axes.inner, inner)
        found += [compiled(of, role, target, sizes) for role in ROLES if getattr(of, role) is not None]
    wrong = [r for r in found if r.spilled or r.shared > SHARED[target]]
    if wrong:
        return f"wrong: {wrong}"
    return f"ok: {len(found)} kernels ({how})"


def main(what: str, which: str, target: str = "") -> None:
    if what == "interpreted":
        interpreted.prepare()
    for path, cell in every(which):
        begun = time.perf_counter()
        try:
            said = fits(cells.spec_of(path), cell, target) if target else is_the_oracle(path, cell)
        except Exception:  # noqa: BLE001  every cell reports for itself
            said = f"wrong: {traceback.format_exc(limit=-4)}"
        print(f"{path.stem}:{cell} {said} [{time.perf_counter() - begun:.1f} s]", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
