"""The graph, the op table and the passes load without numpy: `rnnc check` must answer at once."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "builder graph text verify simplify rewrite unfold autodiff evaluate ops "
    "domains.dependence domains.sparsity domains.jacobian domains.cost"
)


def test_no_numpy() -> None:
    names = ", ".join(f"rnnc.ir.{m}" for m in MODULES.split())
    code = f"import sys, {names}; print([m for m in ('numpy', 'torch', 'sympy', 'networkx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
