"""Generated Triton kernels: interpreted, against the float64 oracle, and compiled for GPUs ahead of time.

Neither needs a GPU.  The interpreted cases are in triton_interpreted.py, which runs as a program of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import triton_decays as decays
import triton_low_rank as low_rank
import triton_nan as no_number
import triton_newton as newton
import triton_rows as rows
import triton_stepped as stepped
import triton_turned as turned

import rnnc
import rnnc.spec
from rnnc.compile import emit_source, load_source

pytest.importorskip("triton")

FOLDER = Path(__file__).parent
ACROSS = ("decay of values", "values, transposed", "scalar, read across")
NORMALISED = ("normalised by a number", "normalised, transposed", "normalised by keys")
SPLITS = ("MinGRU", "SelectiveScan", "HGRNComplex", "GLA", "old_state", "max_plus", "log_plus")
LOW_RANK = tuple(name for name in low_rank.CASES if name not in low_rank.SLOW)
GROUPS = {
    "scans": (
        *("MinGRU", "MinGRU, one step", "Mamba", "LRU", "RGLRU", "S4D", "MinGRU, sequential"),
        *("max_plus", "min_plus", "log_plus", "old_state", "nonlinear", "coupled", "ops"),
    ),
    "matrix states": (
        *("GLA, scan", "DeltaNet, sequential", "GatedDeltaNet, sequential", "DeltaProduct, sequential", "Mamba2, scan"),
        *("mLSTM", "Mamba2", "RetNet", "SSDOp"),
    ),
    "decays": (
        *(name for name in decays.CASES if name not in decays.SLOW),
        "transposed decay",
        "two reads",
        "bonus",
        "two writes",
        *ACROSS,
        *NORMALISED,
        "GLA",
    ),
    "recurrent matrices": (
        "LSTM",
        "GRU",
        "RNN",
        "sLSTM",
        "Pendulum",
        "reset first",
        "peephole",
        "rounds",
        "projected",
        "coupled operators",
    ),
    "step by step": tuple(n for n in stepped.CASES if n not in stepped.SLOW),
    "packed and tuned": ("packed", "packed layers", "tuned", "coupled operators"),
    "turned": tuple(name for name in turned.CASES if name not in turned.SLOW),
    "transforms": ("transforms, mingru", "transforms, gla", "transforms, lstm"),
    "newton": (*newton.SIZES, *newton.CASES),
    "unlisted": ("Phasor", "SaturatingMemory", "Tide", "ColumnEraser"),
    "low rank": (*low_rank.MODULES, *LOW_RANK[::2]),
    "low rank, more": LOW_RANK[1::2],
    "low rank, cells": tuple(name for name in (*low_rank.CELLS, *low_rank.STEP_BY_STEP) if name not in low_rank.SLOW),
    "no numbers": tuple(no_number.CASES),
    "rows": tuple(rows.CASES),
    "operators and splits": (
        *("bfloat16", "float16", "strides", "operators", "same bits", "hazards"),
        *(f"{name}, split" for name in SPLITS),
    ),
}
SLOW = (
    "packed delta rule",
    "transforms, mamba",
    "transforms, gated_deltanet",
    "transforms, heads of entries",
    "RGLRU, split",
    "min_plus, split",
    "S5",
    "Hawk",
    "HGRN",
    "HGRNComplex",
    "HGRN2",
    "MinLSTM",
    "no decay",
    "decay of both",
    "decay of any sign",
    *turned.SLOW,
    *stepped.SLOW,
    *decays.SLOW,
)


def interpreted(names: tuple[str, ...]) -> None:
    """Every case says "ok"."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / "triton_interpreted.py"), *names]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    said = done.stdout.splitlines()
    failed = [line for line in said if not any(line.startswith(f"{name}: ok") for name in names)]
    assert not failed, done.stdout + done.stderr
    assert len(said) == len(names), done.stderr


@pytest.mark.parametrize("group", GROUPS)
def test_interpreted_kernels_are_the_oracle(group: str) -> None:
    interpreted(GROUPS[group])


def acceptance(only: str) -> None:
    """Tests for a GPU, on the CPU: what needs no CUDA passes, the rest says that it does."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-k", only, "-p", "no:cacheprovider"]
    command.append(str(FOLDER / "test_triton_gpu.py"))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_the_acceptance_on_a_gpu_interpreted() -> None:
    acceptance("(mingru or views or relu) and not autocast")


@pytest.mark.slow
def test_all_of_the_acceptance_on_a_gpu_interpreted() -> None:
    acceptance("not mingru")


@pytest.mark.slow
@pytest.mark.parametrize("names", [SLOW, low_rank.SLOW], ids=["others", "low rank"])
def test_more_cells_interpreted(names: tuple[str, ...]) -> None:
    interpreted(names)


# ---------------------------------------------------------------- ahead of time

SIZES = {"mingru": {"A": 1024}, "mamba": {"A": 2048, "B": 16}, "deltanet": dict.fromkeys("ABC", 64)}
MORE = {
    "lru": {"A": 1024},
    "s4d": {"A": 512, "B": 32},
    "gla": dict.fromkeys("ABC", 64),
    "gated_deltanet": dict.fromkeys("ABC", 64),
}
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")


@cache
def kernels(file: str) -> Any:
    from rnnc.backends.triton.backend import emit
    from rnnc.runtime.gpu import Recurrence

    spec = rnnc.spec.stdlib(file)
    ir = spec.lower(spec.cells[0])
    strategy = {"gla": "scan", "deltanet": "sequential", "gated_deltanet": "sequential"}.get(file)
    module = load_source(emit(ir, dims=None, strategy=strategy, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found


@pytest.mark.parametrize("file", SIZES)
@pytest.mark.parametrize("target", TARGETS)
def test_compiled_ahead_of_time_without_spills(file: str, target: str) -> None:
    """At the default configuration, for bfloat16 sequences."""
    fits(kernels(file), ("forward", "backward"), target, SIZES[file])


GATED = ("pairs", "outputs", "keys", "normalised outputs", "normalised keys")


@pytest.mark.parametrize("target", TARGETS)
def test_chunkwise_kernels_ahead_of_time(target: str) -> None:
    for which in GATED:
        gated_fits(which, target, 64, 64, torch.bfloat16, old=False, base=1)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("keys", "values", "dtype"),
    [
        *((16, 128, "bfloat16"), (128, 128, "bfloat16"), (64, 64, "float32"), (128, 128, "float32")),
        *((64, 64, "float16"), (256, 256, "bfloat16"), (32, 32, "float64")),
    ],
)
def test_more_chunkwise_kernels_ahead_of_time(target: str, keys: int, values: int, dtype: str) -> None:
    from rnnc.backends.triton.ahead_gated import PASSES

    for which in PASSES:
        for old, base in ((False, 1), (True, 1), (False, 64)):
            if base == 1 or which in ("pairs", "spread"):
                gated_fits(which, target, keys, values, getattr(torch, dtype), old=old, base=base)


def test_the_largest_blocks_are_those_compiled_ahead_of_time() -> None:
    from rnnc.runtime.gpu.gated_sizes import largest

    assert [largest(getattr(torch, x)) for x in ("bfloat16", "float16", "float32", "float64")] == [256, 256, 128, 32]
    assert [largest(x, normaliser=True) for x in (torch.bfloat16, torch.float64)] == [128, 32]


def gated_fits(which: str, target: str, keys: int, values: int, dtype: torch.dtype, *, old: bool, base: int) -> None:
    from rnnc.backends.triton import ahead
    from rnnc.backends.triton.ahead_gated import compiled_gated
    from rnnc.runtime.gpu.gated_sizes import largest

    if which.startswith("normalised"):
        values = min(values, largest(dtype, normaliser=True))
    found = compiled_gated(which, target, keys, values, dtype, old=old, base=base)
    assert found.spilled == 0, (which, old, base, found)
    assert found.shared <= ahead.SHARED[target], (which, old, base, found)


@pytest.mark.slow
@pytest.mark.parametrize("file", MORE)
@pytest.mark.parametrize("target", TARGETS)
def test_more_kernels_ahead_of_time(file: str, target: str) -> None:
    of = kernels(file)
    roles = ("forward", "backward", "totals", "backward_totals")
    fits(of, tuple(r for r in roles if getattr(of, r) is not None), target, MORE[file])


@cache
def turned_kernel(name: str) -> Any:
    from rnnc.backends.triton.backend import emit
    from rnnc.runtime.gpu import Recurrence

    spec = rnnc.spec.parse(turned.cell(name))
    ir = spec.lower()
    module = load_source(emit(ir, dims=None, strategy=None, sources=spec.sources), ir.name)
    (found,) = [v for v in vars(module).values() if isinstance(v, Recurrence)]
    return found


def test_a_matrix_that_varies_in_time_ahead_of_time() -> None:
    fits(turned_kernel("dense"), ("forward", "backward"), "sm_90", dict.fromkeys("AB", 16))


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_more_matrices_that_vary_in_time_ahead_of_time(target: str) -> None:
    """At the largest sizes that kernels take."""
    fits(turned_kernel("dense"), ("forward", "backward"), target, dict.fromkeys("AB", 64))
    fits(turned_kernel("dense matrix"), ("forward", "backward"), target, dict.fromkeys("ABC", 64))


def fits(of: Any, roles: tuple[str, ...], target: str, sizes: dict[str, int]) -> None:
    from rnnc.backends.triton.ahead import SHARED
    from rnnc.backends.triton.ahead_recurrence import compiled

    for role in roles:
        found = compiled(of, role, target, sizes)
        assert found.spilled == 0, found
        assert found.shared <= SHARED[target], found


# ---------------------------------------------------------------- on a machine without a GPU


def test_without_a_gpu_the_torch_backend_runs() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.warns(RuntimeWarning, match=r"need a CUDA or HIP device.*torch backend instead"):
        layer = rnnc.compile(rnnc.spec.stdlib("mingru"), backend="triton")
    y, _ = layer(d=3)(torch.ones(1, 2, 3))
    assert y.shape == (1, 2, 3)


def test_kernels_on_cpu_tensors_say_what_to_do() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    of = kernels("mingru")
    x = torch.ones(1, 2, 3)
    with pytest.raises(RuntimeError, match=r'need a CUDA or HIP device.*backend="torch"'):
        of((x, x), (x[:, 0],), (3, 3), 2)


def test_kernels_read_as_many_sequences_as_there_are() -> None:
    """More states than inputs, or fewer steps than said, would be reads of memory that is somebody else's."""
    of = kernels("mingru")
    x = torch.ones(2, 3, 4)
    for state, steps in ((torch.ones(3, 4), 3), (torch.ones(1, 4), 3), (torch.ones(2, 4), 4)):
        with pytest.raises(ValueError, match="do not belong together"):
            of((x, x), (state,), (4, 4), steps)


def test_a_group_without_a_kernel_says_so() -> None:
    """A register of values that move on: PyTorch runs it, and the docstring says why."""
    spec = rnnc.spec.parse(
        "cell Moving(n: dim = 5) {\ninput x: real\nstate h: real[n] = 0\n"
        "h <- tanh(concat(h[1:n], [x]))\noutput y: real = h[0]\n}"
    )
    source = emit_source(spec, "Moving", backend="triton")
    assert "import triton" not in source
    assert "No kernel: its step is neither pointwise nor" in " ".join(source.split())


def test_states_too_large_for_registers_are_run_by_the_loop() -> None:
    """A matrix that depends on the input: with more than 64 rows PyTorch multiplies, step by step."""
    spec = rnnc.spec.parse(
        "cell Turned(n: dim) {\ninput x: real[n]\ninput A: real[n, n]\nstate h: real[n] = 0\n"
        "h <- tanh(A @ h + x)\noutput y: real[n] = h'\n}"
    )
    module = load_source(emit_source(spec, "Turned", backend="triton"), "Turned")
    x, a = torch.randn(2, 3, 70), torch.randn(2, 3, 70, 70) / 9
    for size, fits in ((64, True), (65, False)):
        assert module.turned_h.fits(torch.empty(1, size, device="meta"), torch.empty(1, device="meta")) is fits
    plain = rnnc.compile(spec, backend="torch")(n=70)
    torch.testing.assert_close(module.Turned(n=70)(x, a)[0], plain(x, a)[0])


def test_matrices_too_large_for_the_chip_are_run_step_by_step() -> None:
    """The kernel says which; an emitted module has no loop of PyTorch's besides."""
    of = kernels("lstm")
    for size, dtype, on_chip in ((128, torch.bfloat16, True), (64, torch.float32, True), (256, torch.bfloat16, False)):
        assert of.on_chip({"A": size}, dtype) is on_chip
    source = emit_source(rnnc.spec.stdlib("lstm"), "LSTM", backend="triton")
    assert "for t in range" not in source
    assert "No kernel" not in source


def test_a_strategy_without_a_kernel_is_run_by_torch() -> None:
    """A strategy asked for by name is the one that runs: chunks of a decay that may be negative have no kernel."""
    body = "input k: real[n]; input v: real[n]; state S: real[n, n] = 0; S <- diag(tanh(k)) @ S + outer(k, v)"
    spec = rnnc.spec.parse(f"cell C(n: dim) {{ {body}; output y: real[n] = S'.T @ k }}")
    source = emit_source(spec, "C", backend="triton", strategy="chunkwise")
    assert "matrix_scan(" in source
    assert "No kernel: the strategy chunkwise was asked for" in " ".join(source.split())
    assert "import triton" not in source


def test_a_proven_bound_of_the_gate_reaches_the_kernels() -> None:
    """HGRN2's gates stay above 1/2: a chunk is one product.  What is only declared of an input proves nothing."""
    assert "least=-0.6931471805" in emit_source(rnnc.spec.stdlib("hgrn2"), backend="triton")
    assert "least=" not in emit_source(rnnc.spec.stdlib("gla"), "GLAOp", backend="triton")
