"""The low-rank Triton kernels compiled ahead of time; what they compute is among the cases of test_triton_kernels."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from rnnc.backends.triton.ahead import SHARED
from rnnc.backends.triton.ahead_low_rank import KERNELS, KEYED, SIDES, compiled_low_rank

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
OF_KEYS = ("low_rank_pairs", "low_rank_products", "low_rank_keyed_backward")


def fits(which: str, target: str, keys: int, dtype: torch.dtype = torch.bfloat16, **how: bool | int) -> None:
    """No spills, and shared memory that the target has, at the default configuration."""
    for keep in (False, True) if which == "low_rank_walk" else (False,):
        for reads in (False, True) if which in SIDES else (False,):
            found = compiled_low_rank(which, target, keys, keys, dtype, keep=keep, reads=reads, **how)
            assert found.spilled == 0, found
            assert found.shared <= SHARED[target], found


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
@pytest.mark.parametrize("which", [k for k in KERNELS if k != "low_rank_scores"])
def test_ahead_of_time_without_spills(which: str, target: str) -> None:
    fits(which, target, 128)


@pytest.mark.parametrize("which", OF_KEYS)
def test_decays_of_keys_ahead_of_time_without_spills(which: str) -> None:
    fits(which, "sm_90", 128, keyed=True)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [64, 128, 256])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("which", KERNELS)
def test_more_ahead_of_time_without_spills(which: str, target: str, keys: int) -> None:
    fits(which, target, keys)
    fits(which, target, keys, gate=False)


@pytest.mark.slow
@pytest.mark.parametrize("keys", [64, 128, 256])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("which", KEYED)
def test_more_decays_of_keys_ahead_of_time_without_spills(which: str, target: str, keys: int) -> None:
    fits(which, target, keys, keyed=True)
    if which in OF_KEYS:
        fits(which, target, keys, keyed=True, base=64)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("which", KERNELS)
def test_products_ahead_of_time_without_spills(which: str, target: str) -> None:
    """Two rows a step whose reads and writes have vectors of their own."""
    fits(which, target, 128, rows=2, tied=False)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("which", dict.fromkeys((*KERNELS, *KEYED)))
def test_float32_ahead_of_time_without_spills(which: str, target: str) -> None:
    fits(which, target, 128, torch.float32, keyed=which in OF_KEYS)
