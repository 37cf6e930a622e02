"""The low-rank Triton kernels compiled ahead of time; what they compute is among the cases of test_triton_kernels."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from rnnc.backends.triton.ahead import SHARED
from rnnc.backends.triton.ahead_low_rank import KERNELS, compiled_low_rank


def fits(which: str, target: str, keys: int, **how: bool | int) -> None:
    """No spills, and shared memory that the target has, at the default configuration for bfloat16."""
    for keep in (False, True) if which == "low_rank_walk" else (False,):
        if target == "sm_80" and which == "low_rank_walk" and keys > 64 and not keep:
            continue  # outputs are written by a kernel of their own there
        found = compiled_low_rank(which, target, keys, keys, keep=keep, **how)
        assert found.spilled == 0, found
        assert found.shared <= SHARED[target], found


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("which", KERNELS)
def test_ahead_of_time_without_spills(which: str, target: str) -> None:
    fits(which, target, 128)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [64, 128, 256])
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("which", KERNELS)
def test_more_ahead_of_time_without_spills(which: str, target: str, keys: int) -> None:
    if target == "sm_80" and keys > 128:
        pytest.skip("its registers do not hold 256 keys: docs/kernels.md says so")
    fits(which, target, keys)
    if (target, which, keys) != ("sm_80", "low_rank_walk_back", 128):  # 52 bytes: docs/kernels.md says so
        fits(which, target, keys, gate=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("which", KERNELS)
def test_products_ahead_of_time_without_spills(which: str, target: str) -> None:
    """Two rows a step whose reads and writes have vectors of their own."""
    fits(which, target, 128, rows=2, tied=False)
