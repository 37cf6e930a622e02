"""Every cell of the library, the unlisted and the odd ones as Triton kernels: see triton_sweep.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
UNBUILT = {"gfx942": {"cascades:Bits", "counter:MoreOnes"}}  # by Triton 3.6: docs/roadmap.md
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


def lines(*arguments: str, interpret: bool) -> list[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    command = [sys.executable, str(FOLDER / "triton_sweep.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_every_cell_is_the_oracle() -> None:
    """In the interpreter: outputs, last states, all gradients."""
    found = lines("interpreted", interpret=True)
    assert len(found) > 100
    assert all(" ok: " in line for line in found), "\n".join(line for line in found if " ok: " not in line)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_spills(target: str) -> None:
    found = lines("ahead", target, interpret=False)
    assert sum(" ok: " in line for line in found) > 100
    wrong = {line.partition(" wrong: ")[0] for line in found if " wrong: " in line}
    assert wrong == UNBUILT.get(target, set()), "\n".join(line for line in found if " ok: " not in line)
