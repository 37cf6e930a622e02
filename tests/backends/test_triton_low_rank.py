"""The low-rank Triton kernels compiled ahead of time; what they compute is among the cases of test_triton_kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from triton._C.libtriton import ir
from triton.compiler import ASTSource, make_backend

from rnnc.backends.triton import ahead, ahead_gated, ahead_low_rank
from rnnc.backends.triton.ahead import SHARED, Resources
from rnnc.backends.triton.ahead_gated import PASSES, compiled_gated
from rnnc.backends.triton.ahead_low_rank import KERNELS, KEYED, SIDES, compiled_low_rank
from rnnc.runtime.gpu.compat import LAUNCH
from rnnc.runtime.gpu.gated_tuning import Blocks, Work, candidates
from rnnc.runtime.gpu.low_rank_launch import problem
from rnnc.runtime.gpu.low_rank_sizes import default_way
from rnnc.runtime.gpu.low_rank_tuning import neighbours
from rnnc.runtime.gpu.tuner import FEW

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
OF_KEYS = ("low_rank_pairs", "low_rank_products", "low_rank_keyed_reads", "low_rank_keyed_rows")


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


def parsed(
    kernel: Any, target: str, signature: dict[str, str], attributes: Any, constants: Any, options: Any
) -> Resources:
    """In place of `_built`: as far as Triton's intermediate representation, where all types are known."""
    backend = make_backend(ahead.TARGETS[target])
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    chosen, context = backend.parse_options(options | LAUNCH), ir.context()
    ir.load_dialects(context)
    backend.load_dialects(context)
    functions = backend.get_codegen_implementation(chosen)
    source.make_ir(ahead.TARGETS[target], chosen, functions, backend.get_module_map(), context)
    return Resources(kernel=kernel.__name__, target=target, registers=0, spilled=0, shared=0)


@pytest.mark.parametrize("keyed", [False, True])
def test_a_single_head_is_a_constant(keyed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch makes constants of numbers that are 1, which have no methods of tensors; the interpreter does not."""
    monkeypatch.setattr(ahead_low_rank, "_built", parsed)
    one = {"H", "E", "V", *(f"{x}_{axis}" for x in "qubvscg" for axis in "tnhe")}
    for which in KEYED if keyed else KERNELS:
        found = compiled_low_rank(which, "sm_90", 16, 1, torch.float32, keyed=keyed, ones=one)
        assert found.kernel == which


@pytest.mark.parametrize("packed", [False, True])
def test_a_single_head_of_a_scan_with_decays_is_a_constant(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """States of one number, too: all sizes and strides but those of time are 1."""
    monkeypatch.setattr(ahead_gated, "_built", parsed)
    one = {"H", "V", "SIZE", "S_N", "S_M", *(f"{x}_{axis}" for x in ("x", "y", "z", "g", "r", "w") for axis in "bth")}
    for which in PASSES:
        for old in (False, True):
            compiled_gated(which, "sm_90", 1, 1, torch.float32, old=old, packed=packed, ones=one)


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("role", ["forward", "backward"])
@pytest.mark.parametrize(("values", "heads"), [(3, 1), (64, 5), (128, 3000)])
def test_ways_worth_a_measurement_are_few_and_start_with_the_default(
    role: str, values: int, heads: int, keyed: bool
) -> None:
    rows = torch.empty(2, 70, 1, heads, 1, 24, device="meta")
    numbers = torch.empty(2, 70, 1, heads, 1, device="meta")
    v = torch.empty(2, 70, 1, heads, 1, values, device="meta")
    p = problem(rows[:, :, 0], rows, None, v, numbers, numbers, rows if keyed else numbers, None, 1, False, 1)
    default = default_way(role, 2 * heads, 24, values, torch.bfloat16, "")
    found = neighbours(p, role, default)
    assert found[0] == default
    assert 1 < len(found) == len(set(found)) <= FEW
    assert all(16 <= w.columns <= max(16, 2 * values) for w in found)
    assert role == "forward" or all(w.fused == default.fused for w in found)
    assert not keyed or all(w.scored == default.scored for w in found), "decays of keys need the scores anyway"


@pytest.mark.parametrize(("outer", "runs"), [(16, 1), (64, 5), (128, 3000)])
def test_columns_worth_a_measurement_are_few_and_start_with_the_default(outer: int, runs: int) -> None:
    default = Blocks(inner=0, outer=32 if outer > 16 else 16, warps=4, stages=2)
    sizes = {"C": 64, "N": 64, "BN": 64, "BM": default.outer, "STAGES": 2, "ROW": False, "COLUMN": False}
    work = Work(kernel="walk", constants=sizes, dtype=torch.bfloat16, outer=outer, runs=runs, chunks=7)
    found = candidates(work, default)
    assert found[0] == default
    assert 1 < len(found) == len(set(found)) <= FEW
    assert all(16 <= c.outer <= max(16, outer) and 2 <= c.warps <= 8 for c in found)


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
