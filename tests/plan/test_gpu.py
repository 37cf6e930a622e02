"""GPUs in the cost model: devices, what kernels pay, what is chosen where, and calibrations of one device."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest

import rnnc
import rnnc.spec
from benchmarks import gpu_cases
from rnnc.analysis.forms import Recurrence
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.bench.calibrate import GPU_SHAPES, Measured, fitted, group_of, regret
from rnnc.bench.candidates import reasons
from rnnc.bench.cells import CELLS
from rnnc.cli.app import main
from rnnc.ir.rounding import keep_digits
from rnnc.plan.calibration import NOTHING, Calibration, calibration
from rnnc.plan.choose import GroupPlan, Plan
from rnnc.plan.cost import DEVICES, Device
from rnnc.plan.gpu import AMD, HOPPER, KNOWN, Gpu, of_properties

pytest.importorskip("triton")

SMALL = KNOWN[8, 6]
CHUNKED = ("SSDOp", "GLAOp", "DeltaOp", "GatedDeltaOp", "DeltaProductOp", "KDAOp")
SCANNED = ("Gated", "SelectiveScan")


@pytest.fixture(autouse=True)
def _hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this machine has."""
    monkeypatch.setattr("rnnc.backends.triton.planning.this_gpu", lambda: HOPPER)


@cache
def recurrence(cell: str) -> Recurrence:
    c = gpu_cases.CELLS.get(cell)
    if c is None:
        return analyse_recurrence(keep_digits(rnnc.spec.parse(CELLS).lower(cell)))
    spec = rnnc.spec.stdlib(c.file) if c.file else rnnc.parse(c.text)
    return analyse_recurrence(keep_digits(spec.lower(c.cell or cell)))


def group(cell: str, gpu: Gpu = HOPPER, rates: Calibration = NOTHING, **dims: int) -> GroupPlan:
    from rnnc.backends.triton.planning import gpu_plan

    (found,) = gpu_plan(recurrence(cell), dims, gpu, rates=rates).groups
    return found


def plan_of(file: str, **dims: int) -> Plan:
    from rnnc.backends.triton.planning import gpu_plan

    found = analyse_recurrence(keep_digits(rnnc.spec.stdlib(file).lower()))
    return gpu_plan(found, {"B": 16, "T": 1024, "d": 64} | dims, HOPPER)


def properties(major: int, minor: int, **more: object) -> SimpleNamespace:
    return SimpleNamespace(name="a GPU", major=major, minor=minor, multi_processor_count=132, **more)


def test_a_device_is_known_by_its_capability_and_what_its_driver_says() -> None:
    stated = of_properties(properties(9, 0, memory_clock_rate=3_201_000, memory_bus_width=6144))
    assert stated.processors == HOPPER.processors
    assert stated.bandwidth == pytest.approx(HOPPER.bandwidth, rel=0.02)
    assert stated.name == "a GPU"
    assert of_properties(properties(9, 0)).bandwidth == HOPPER.bandwidth  # a driver that does not say it
    half = of_properties(SimpleNamespace(name="half", major=9, minor=0, multi_processor_count=66))
    assert half.products == HOPPER.products / 2
    assert of_properties(properties(9, 9)).arithmetic == HOPPER.arithmetic
    newest = KNOWN[max(KNOWN)]
    assert of_properties(properties(99, 0)).products == pytest.approx(newest.products * 132 / newest.processors)
    assert of_properties(properties(7, 5)).functions > 0  # older than all that are known
    assert of_properties(properties(9, 4), hip=True).bandwidth == pytest.approx(AMD.bandwidth * 132 / AMD.processors)


def test_what_a_scan_pays() -> None:
    """Inputs are read twice and their gradients written, the state kept every eight steps; where programs are too few
    they share out the steps.
    """
    found = next(o for o in group("Decay", B=8, T=4096, n=2048).natives if o.name == "scan")
    launches, waiting, _, moved, special, *rest = found.work
    assert (launches, rest) == (2, [0, 0])
    assert special == 0
    assert moved == 8 * 4096 * 2048 * (3 * 2 + 2 + 2 / 8) * 4 / (256 / 528)  # 256 programs of 64 channels
    shared = next(o for o in group("Decay", B=1, T=4096, n=2048).natives if o.name == "scan")
    assert shared.work[0] == 4
    assert shared.work[1] < waiting
    assert shared.work[3] == 1 * 4096 * 2048 * (3 * 2 + 2 + 2 / 8 + 2 * 2) * 4


def test_the_shapes_of_the_benchmark() -> None:
    """A scan where there is one, chunks for matrix states, and a loop in a kernel only for what has neither."""
    for shape in gpu_cases.SHAPES:
        for gpu in (HOPPER, SMALL):
            if shape.cell in ("LSTM", "GRU"):
                continue  # as the heads, with projections
            found = group(shape.cell, gpu, B=shape.batch, T=shape.steps, **shape.sizes).chosen
            want = "chunkwise" if shape.cell in CHUNKED else "scan" if shape.cell in SCANNED else "sequential"
            assert found.title == f"native {want}", (shape, gpu.name)


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_many_channels_of_a_few_numbers_are_scanned(batch: int) -> None:
    """Mamba's states: tiles are walked in registers as a loop is, and need no memory for the states of every step."""
    assert group("SelectiveScan", B=batch, T=4096, e=2048, n=16).strategy == "scan"


@pytest.mark.parametrize("cell", ["SSDOp", "GatedDeltaOp", "Delta"])
def test_no_long_sequence_of_a_matrix_state_runs_step_by_step(cell: str) -> None:
    names = {"SSDOp": ("n", "p"), "GatedDeltaOp": ("dk", "dv"), "Delta": ("n",)}[cell]
    heads = {} if cell == "Delta" else {"heads": 2}
    for size in (16, 64, 256):
        for batch, steps in ((1, 512), (1, 65536), (64, 1024)):
            for gpu in (HOPPER, SMALL, KNOWN[8, 0]):
                found = group(cell, gpu, B=batch, T=steps, **heads, **dict.fromkeys(names, size)).strategy
                short = size == 16 or batch * steps < 1024  # a scan of all entries has fewer launches
                assert found == "chunkwise" or (short and found == "scan"), (size, batch, steps, gpu.name)


def test_a_few_steps_are_one_loop() -> None:
    assert group("GatedDelta", B=8, T=4, n=64).strategy == "sequential"
    assert group("Decay", B=8, T=1, n=64).chosen.native


def test_pytorch_runs_a_group_only_where_that_is_faster_by_far() -> None:
    """A dense transition: a kernel that takes a step after another, or products of matrices over all of time."""
    from rnnc.backends.triton.planning import plans

    ir = keep_digits(rnnc.spec.parse(CELLS).lower("Dense"))

    def chosen(steps: int, n: int, strategy: str | None = None) -> tuple[str, bool]:
        (found,) = plans(ir, {"B": 1, "T": steps, "n": n}, strategy, HOPPER).values()
        return found.groups[0].strategy, found.groups[0].chosen.native

    assert chosen(1024, 16) == ("sequential", True)
    assert chosen(1 << 18, 2) == ("block_scan", False)
    assert chosen(1024, 16, "block_scan") == ("block_scan", False)
    assert chosen(1 << 18, 2, "sequential") == ("sequential", True)


def test_the_text_says_what_is_run_and_by_what() -> None:
    from rnnc.backends.triton.backend import emit

    spec = rnnc.spec.parse(CELLS)
    ir = keep_digits(spec.lower("GatedDelta"))
    short = emit(ir, dims={"B": 8, "T": 4}, strategy=None, sources=spec.sources)
    assert "one step after another in one kernel" in short
    chunks = emit(ir, dims=None, strategy=None, sources=spec.sources)
    assert "chunkwise kernels" in chunks
    assert "from rnnc.runtime.gpu.matrix import matrix_scan" in chunks
    assert "native" not in chunks
    dense = keep_digits(spec.lower("Dense"))
    text = emit(dense, dims={"B": 1, "T": 1 << 18, "n": 2}, strategy=None, sources=spec.sources)
    assert "expected to need more than twice as long" in text


def test_a_measurement_says_what_was_expected() -> None:
    ir = keep_digits(rnnc.spec.parse(CELLS).lower("GatedDelta"))
    (said,) = reasons("triton", ir, {"B": 8, "T": 1024, "n": 64})
    assert said.startswith("triton: S: native chunkwise; Triton kernels, products inside chunks")
    assert f"by default rates of {HOPPER.name}" in said
    assert "native sequential" in said


def test_measured_rates_hold_on_the_device_they_were_measured_on() -> None:
    slow = {"cuda": {"triton chunkwise": Device(name="triton chunkwise", overhead=0.0, flop=0.0, byte=0.0, call=1.0)}}
    here, elsewhere = (Calibration(rates=slow, gpu=name) for name in (HOPPER.name, "another"))
    sizes = {"B": 8, "T": 1024, "n": 64}
    assert group("GatedDelta", rates=here, **sizes).strategy == "sequential"
    assert group("GatedDelta", rates=elsewhere, **sizes).strategy == "chunkwise"
    assert "measured on this machine" in group("GatedDelta", rates=here, **sizes).priced
    assert f"default rates of {HOPPER.name}" in group("GatedDelta", rates=elsewhere, **sizes).priced
    assert elsewhere.of("cpu", "scan") == DEVICES["cpu"]


def measured_by(gpu: Gpu) -> list[Measured]:
    """What a device with exactly the prices of the model would measure."""
    found = []
    for cell, shape in GPU_SHAPES[::3]:
        options = [o for o in group_of(cell, shape, device="cuda").ranked if o.name in ("scan", "sequential")]
        seconds = {o.title: gpu.rates(o.rates).seconds(o.work) for o in options}
        if seconds:
            found.append(Measured(cell=cell, shape=shape, seconds=seconds))
    return found


def test_a_calibration_finds_the_prices_and_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured_by(SMALL)
    rates = fitted(found, "cuda")
    assert set(rates) == {"cuda"}
    assert {"triton scan", "triton sequential", "scan", "sequential"} <= set(rates["cuda"])
    for m in found:
        for o in group_of(m.cell, m.shape, device="cuda").ranked:
            if o.title in m.seconds:
                assert rates["cuda"][o.rates].seconds(o.work) == pytest.approx(m.seconds[o.title], rel=0.1)
    kept = [m for m in found if group_of(m.cell, m.shape, device="cuda").chosen.title in m.seconds]
    assert max(ratio for *_, ratio in regret(kept, rates, device="cuda")) < 1.1


def test_the_command_calibrates_both_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = tmp_path / "calibration.json"
    monkeypatch.setenv("RNNC_CALIBRATION", str(where))
    asked: list[str] = []

    def measured(rounds: int, *, device: str, **_: object) -> list[Measured]:
        asked.append(device)
        return [Measured(cell="Decay", shape=(1, 16, 32), seconds={"scan": 1e-3})]

    monkeypatch.setattr("rnnc.bench.calibrate.measured", measured)
    monkeypatch.setattr("rnnc.bench.calibrate.devices", lambda: ["cpu", "cuda"])
    assert main(["bench", "--calibrate"]) == 0
    assert asked == ["cpu", "cuda"]
    known = calibration()
    assert set(known.rates) == {"cpu", "cuda"}
    assert known.gpu == HOPPER.name  # which stands for one where there is none
    assert known.of("cuda", "scan", HOPPER).known
    assert not known.of("cuda", "scan", SMALL).known


def test_matrices_that_do_not_fit_on_chip_cost_launches() -> None:
    """An LSTM of 512: a product and a kernel for each step, forward and backward; PyTorch's loop has some twenty."""
    (found,) = plan_of("lstm", n=512).groups
    (kernel,) = (o for o in found.natives if o.name == "sequential")
    launches, waiting, _, moved, *_ = kernel.work
    assert (launches, waiting) == (3 + 4 * 1024, 0)
    assert moved > 1024 * 2 * 4 * 512 * 512 * 4  # all matrices twice a step
    assert found.chosen.native
    small = next(o for o in plan_of("lstm", n=64).groups[0].natives if o.name == "sequential")
    assert small.work[0] == 3
    rounds = next(o for o in plan_of("gru", n=512).groups[0].natives if o.name == "sequential")
    assert rounds.work[0] == 3 + 4 * 1024
