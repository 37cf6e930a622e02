"""Every cell of the library, the unlisted and the odd ones as Triton kernels: see triton_sweep.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


def lines(*arguments: str, interpret: bool) -> list[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"TRITON_INTERPRET": "1"} if interpret else {})
    command = [sys.executable, str(FOLDER / "triton_sweep.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LIBRARY, ODD = 33, 87  # cells: none is left out silently


@pytest.mark.parametrize(("cells", "count"), [("library", LIBRARY), ("odd", ODD)])
def test_every_cell_is_the_oracle(cells: str, count: int) -> None:
    """In the interpreter: outputs, last states, all gradients."""
    found = lines("interpreted", cells, interpret=True)
    assert len(found) >= count
    assert all(" ok: " in line for line in found), "\n".join(line for line in found if " ok: " not in line)


@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_of_the_library_spills(target: str) -> None:
    found = lines("ahead", "library", target, interpret=False)
    assert len(found) >= LIBRARY
    assert all(" ok: " in line for line in found), "\n".join(line for line in found if " ok: " not in line)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_of_odd_cells_spills(target: str) -> None:
    found = lines("ahead", "odd", target, interpret=False)
    assert len(found) >= ODD
    assert all(" ok: " in line for line in found), "\n".join(line for line in found if " ok: " not in line)
