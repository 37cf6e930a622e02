"""Native kernels on CPUs: the cells of the library, unlisted and odd ones are what the float64 oracle says."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_support as support

import rnnc
import rnnc.spec
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.cpu.backend import natives
from rnnc.ir.oracle import init_params

LIBRARY = Path(rnnc.spec.stdlib("deltanet").file).parent
TESTS = Path(__file__).parent.parent
ODD = TESTS / "stdlib" / "odd"
UNLISTED = TESTS / "stdlib" / "unlisted"
SIZES = {"d": 5, "vocab": 6}


@cache
def spec_of(path: Path) -> Any:
    return rnnc.spec.load(path)


def cells(*folders: Path) -> list[Any]:
    """Every cell of the folders that is no model."""
    found = [(p, c) for folder in folders for p in sorted(folder.glob("*.rnn")) for c in spec_of(p).cells]
    return [pytest.param(p, c, id=f"{p.stem}-{c}") for p, c in found if c not in spec_of(p).models]


@cache
def compiled(path: Path, cell: str) -> Any:
    return rnnc.compile(spec_of(path), cell, backend="cpu")


@cache
def by_kernels(path: Path, cell: str) -> dict[str, Any]:
    """The cell by each kind of kernel that some group of its has: strategies that are asked for by name."""
    recurrence = analyse_recurrence(spec_of(path).lower(cell))
    kinds = {at: {w.strategy for w in works} for at, works in natives(recurrence).items()}
    found = {}
    for kind in sorted(set().union(*kinds.values())):
        asked = {s: kind for g in recurrence.groups if kind in kinds.get(g.index, ()) for s in g.states}
        found[kind] = rnnc.compile(spec_of(path), cell, backend="cpu", strategy=asked)
    return found


def case(path: Path, cell: str, steps: int, dims: dict[str, int] | None = None) -> support.Case:
    """Random inputs, and an initial state of the size that the state has after some steps."""
    ir = spec_of(path).lower(cell)
    dims = support.small_dims(ir) if dims is None else dims
    rng = np.random.default_rng(steps)
    params = init_params(ir, dims, rng)
    inputs = support.random_inputs(ir, dims, rng, batch=2, steps=steps)
    early = support.random_inputs(ir, dims, rng, batch=2, steps=3)
    for i in ir.inputs:
        match ir.nodes[i.node].type.dtype:
            case "bool":
                inputs[i.name], early[i.name] = inputs[i.name] > 0, early[i.name] > 0
            case "complex":
                inputs[i.name] = inputs[i.name] * np.exp(1j * rng.normal(size=inputs[i.name].shape))
    first = support.Case(ir, dims, params, early, differentiable=False)
    noise = {k: 0 if v.dtype == bool else 0.1 * rng.normal(size=v.shape) for k, v in first.final.items()}
    state = {k: v if v.dtype == bool else v + noise[k] for k, v in first.final.items()}
    return support.Case(ir, dims, params, inputs, state)


def odd_dims(ir: Any) -> dict[str, int]:
    """Sizes of a cell of the folder `odd`."""
    return ir.dim_values({d.name: SIZES.get(d.name, 4) for d in ir.dims if d.default is None or d.name in SIZES})  # type: ignore[no-any-return]


# Truth values as inputs, states or outputs; the Cayley map of complex matrices, the sine of complex numbers.
NO_WHOLE_STEP = {"Letters", "Truths", "DenseHeads", "ComplexMatrices", "ComplexSine"}
EVERY = """
    deltanet-DeltaNet deltanet-DeltaOp deltaproduct-DeltaProduct gated_deltanet-GatedDeltaNet
    gated_deltanet-GatedDeltaOp gla-GLA gla-GLAOp gru-GRU hgrn-HGRN hgrn-HGRNComplex hgrn2-HGRN2 lru-LRU lstm-LSTM
    mamba-Mamba mamba-SelectiveScan mamba2-Mamba2 mamba2-SSDOp mingru-MinGRU minlstm-MinLSTM mlstm-mLSTM
    mlstm-mLSTMOp retnet-RetNet rglru-RGLRU rglru-Hawk rnn-RNN s4d-S4D s5-S5 slstm-sLSTM
    column_eraser-ColumnEraser pendulum-Pendulum phasor-Phasor saturating_memory-SaturatingMemory tide-Tide
"""


def test_no_cell_is_left_out() -> None:
    """What `test_is_the_oracle` runs is all there is in the library and among the unlisted cells."""
    assert sorted(str(p.id) for p in cells(LIBRARY, UNLISTED)) == sorted(EVERY.split())
    files = {f.stem for folder in (LIBRARY, UNLISTED) for f in folder.glob("*.rnn")}
    assert files == {name.split("-")[0] for name in EVERY.split()}


@pytest.mark.parametrize(("path", "cell"), cells(LIBRARY, UNLISTED))
def test_is_the_oracle(path: Path, cell: str) -> None:
    """Outputs, final state and all gradients; step by step the same, by one function."""
    layer = compiled(path, cell)
    assert "_whole_step(" in layer.source
    for steps in (1, 2, 63, 75):
        found = case(path, cell, steps)
        found.check(layer, step=steps == 63)
        found.check(layer, dtype=torch.float32, tolerance=1e-4, step=steps == 2)


@pytest.mark.slow
@pytest.mark.parametrize(("path", "cell"), cells(LIBRARY, UNLISTED, ODD))
def test_every_kind_of_kernel(path: Path, cell: str) -> None:
    """Kernels that the planner may leave aside give the same."""
    ir = spec_of(path).lower(cell)
    if not ir.inputs:
        pytest.skip("a cell without inputs is no module")
    dims = odd_dims(ir) if path.parent == ODD else None
    for kind, layer in by_kernels(path, cell).items():
        tolerance = 1e-6 if kind == "newton" else 1e-9
        for steps in (1, 67):
            case(path, cell, steps, dims).check(layer, tolerance=tolerance, step=False)


@pytest.mark.parametrize(("path", "cell"), cells(LIBRARY, UNLISTED))
def test_long_sequences(path: Path, cell: str) -> None:
    found = case(path, cell, 500)
    found.check(compiled(path, cell), step=False)
    found.check(compiled(path, cell), dtype=torch.float32, tolerance=1e-4, step=False)


@pytest.mark.parametrize(("path", "cell"), cells(ODD))
def test_odd_cells(path: Path, cell: str) -> None:
    ir = spec_of(path).lower(cell)
    if not ir.inputs:
        pytest.skip("a cell without inputs is no module")
    assert ("_whole_step(" in compiled(path, cell).source) == (cell not in NO_WHOLE_STEP)
    case(path, cell, 19, odd_dims(ir)).check(compiled(path, cell))


ODD_SIZES = [
    ("mamba.rnn", "Mamba", {"d": 100, "e": 60, "n": 5, "rank": 3}),
    ("gated_deltanet.rnn", "GatedDeltaNet", {"d": 60, "heads": 3, "dk": 20, "dv": 37}),
    ("gated_deltanet.rnn", "GatedDeltaOp", {"heads": 1, "dk": 9, "dv": 75}),
    ("gla.rnn", "GLA", {"d": 60, "heads": 2, "dk": 7, "dv": 33}),
    ("mlstm.rnn", "mLSTM", {"d": 60, "heads": 3, "dk": 20, "dv": 21}),
    ("lru.rnn", "LRU", {"d": 60, "n": 100}),
    ("minlstm.rnn", "MinLSTM", {"d": 100, "n": 133}),
    ("deltaproduct.rnn", "DeltaProduct", {"d": 20, "heads": 3, "dk": 17, "dv": 35}),
    ("lstm.rnn", "LSTM", {"d": 33, "n": 37}),
    ("gru.rnn", "GRU", {"d": 33, "n": 81}),
    ("slstm.rnn", "sLSTM", {"d": 42, "heads": 3}),
]


@pytest.mark.parametrize(("file", "cell", "dims"), ODD_SIZES)
def test_odd_sizes(file: str, cell: str, dims: dict[str, int]) -> None:
    """Blocks with a last vector in part, several vectors, more than one block."""
    ir = spec_of(LIBRARY / file).lower(cell)
    known = {d.name for d in ir.dims}
    case(LIBRARY / file, cell, 21, ir.dim_values({k: v for k, v in dims.items() if k in known})).check(
        compiled(LIBRARY / file, cell)
    )


@pytest.mark.parametrize(
    ("file", "cell"),
    [("sliced_gates.rnn", "SlicedLSTM"), ("sliced_gates.rnn", "SplitGRU")],
)
def test_these_run_by_kernels(file: str, cell: str) -> None:
    """Forms in which no update is pointwise as it is written."""
    assert "(run by PyTorch)" not in " ".join((compiled(ODD / file, cell).__doc__ or "").split())
