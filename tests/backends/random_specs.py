"""Random specs: recurrences that nobody thought of, for every backend to be compared with the oracle.

python tests/backends/random_specs.py --seeds 0 100 --backends torch,cpu   # prints those that differ, and their text
TRITON_INTERPRET=1 python tests/backends/random_specs.py --seeds 0 100 --backends triton
python tests/backends/random_specs.py --seeds 0 100 --backends sm_90      # compiles their kernels
"""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections import Counter
from typing import Any

from random_writer import random_spec


def compare(text: str, backend: str, *, steps: int = 6, tolerance: float = 1e-8) -> str:
    """Outputs, last states and all gradients of a cell's layer in float64, from random states and step by step, too.

    Returns how it ran, or "no scale": values or gradients are huge, or nearly but not quite zero, so that rounding is
    all there is to see, and on which side of a threshold a number falls.  Raises AssertionError where they differ.
    """
    import numpy as np
    import torch_support as support

    import rnnc
    from rnnc.ir.oracle import init_params

    spec = rnnc.parse(text)
    ir = spec.lower("R")
    dims = ir.dim_values({"d": 3})
    rng = np.random.default_rng(steps)
    params = init_params(ir, dims, rng)
    inputs, early = (support.random_inputs(ir, dims, rng, batch=2, steps=n) for n in (steps, 3))
    first = support.Case(ir, dims, params, early, differentiable=False).final
    state = {k: v + 0.1 * rng.normal(size=v.shape) for k, v in first.items()}
    case = support.Case(ir, dims, params, inputs, state)
    g = case.grads
    assert g is not None
    found = [*case.final.values(), *case.outputs.values()]
    found += [*g.params.values(), *g.inputs.values(), *g.state.values()]
    if not all(x == 0 or 1e-6 < x < 1e5 for x in map(np.linalg.norm, found)):  # nor of NaN
        return "no scale"
    if backend != "triton":
        case.check(rnnc.compile(spec, "R", backend=backend), tolerance=tolerance)
        return backend
    return _by_triton(text, case, tolerance)


def _by_triton(text: str, case: Any, tolerance: float) -> str:
    """In the interpreter; matrices on chip, and products between kernels."""
    import triton_stepped as stepped
    from triton_sweep import module_of

    import rnnc
    from rnnc.runtime.gpu.tuning import Config

    _, layer, kernels, how = module_of(rnnc.parse(text), "R")
    for k in kernels:
        k.configs[()] = Config(steps=4, channels=32, stages=1) if k.kind == "coupled" else Config(steps=4, channels=4)
    case.check(layer, tolerance=tolerance)
    if any(k.kind == "coupled" for k in kernels):
        with stepped.step_by_step():
            case.check(module_of(rnnc.parse(text), "R")[1], tolerance=tolerance, step=False)
    return how


def ahead(text: str, target: str) -> str:
    """Compiles the kernels for a GPU, as `triton_sweep` does: what the interpreter takes, the compiler need not."""
    from triton_sweep import fits

    import rnnc

    said = fits(rnnc.parse(text), "R", target)
    assert said.startswith("ok"), said
    return "compiled"


def differences(seeds: range, backends: list[str], seconds: int = 240) -> tuple[Counter[str], list[str]]:
    """How the layers ran, and what was wrong with which, with its text; that is printed, too.

    A target of Triton's (sm_90, ...) counts as a backend whose kernels are compiled only.
    """
    from rnnc.diagnostics import SpecError

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    ran: Counter[str] = Counter()
    wrong = []
    for seed in seeds:
        text = random_spec(seed)
        for backend in backends:
            signal.alarm(seconds)
            try:
                how = ahead(text, backend) if backend[:2] in ("sm", "gf") else compare(text, backend)
                ran.update(how.split(", "))
            except SpecError:
                ran["no spec"] += 1
            except Exception:  # noqa: BLE001  whatever happens is a finding
                wrong.append(f"seed {seed}, {backend}: {traceback.format_exc(limit=-3)}\n{text}")
                print(wrong[-1], flush=True)
            finally:
                signal.alarm(0)
    return ran, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 50), metavar=("FIRST", "END"))
    parser.add_argument("--backends", default="torch", help="torch, cpu, triton (in the interpreter), or a target")
    parser.add_argument("--show", action="store_true", help="only print the specs")
    options = parser.parse_args()
    seeds, backends = range(*options.seeds), options.backends.split(",")
    if options.show:
        print("\n".join(map(random_spec, seeds)))
        return
    if "triton" in backends:
        from triton_interpreted import prepare

        prepare()
    ran, wrong = differences(seeds, backends)
    print(dict(ran))
    empty = ran["no spec"] + ran["no scale"]
    if 4 * empty > len(seeds) * len(backends):
        sys.exit(f"{empty} of {len(seeds) * len(backends)} say nothing: the writer has to be mended")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
