"""Modules of the CPU backend as a user meets them: options of a call, dtypes, layouts, pickling, what is refused."""

from __future__ import annotations

import copy
import ctypes
import pickle
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_support as support

import rnnc
from rnnc.compile import emit_c
from rnnc.diagnostics import SpecError
from rnnc.runtime import compiled, native_call

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

PAIRS = [("minlstm", "MinLSTM"), ("gated_deltanet", "GatedDeltaNet"), ("lru", "LRU"), ("gru", "GRU")]


def same(a: Any, b: Any, tolerance: float = 1e-10) -> None:
    (ya, sa), (yb, sb) = a, b
    support.assert_close(ya, yb, tolerance)
    for key, value in support.flat(sb).items():
        support.assert_close(support.flat(sa)[key], value, tolerance)


@pytest.mark.parametrize(("name", "cell"), [PAIRS[0], PAIRS[3]])
def test_another_default_device(name: str, cell: str) -> None:
    """Memory that C writes is the processor's, whatever tensors are made on otherwise."""
    native, by_torch = support.native_and_torch(name, cell)
    x, state = torch.randn(2, 40, native.d, dtype=torch.float64, requires_grad=True), by_torch.initial_state(2)
    with torch.device("meta"):
        y, last = native(x, state)
        (found,) = torch.autograd.grad(y.sum() + last["h"].sum(), x)
    y, last = by_torch(x, state)
    support.assert_close(found, torch.autograd.grad(y.sum() + last["h"].sum(), x)[0], 1e-10)


@pytest.mark.parametrize(("name", "cell"), PAIRS)
def test_options_of_a_call(name: str, cell: str) -> None:
    native, by_torch = support.native_and_torch(name, cell)
    x = torch.randn(2, 9, native.d, dtype=torch.float64)
    same(native(x, reverse=True), by_torch(x, reverse=True))
    ends = torch.tensor([0, 4, 5, 9])
    same(native(x[:1], cu_seqlens=ends), by_torch(x[:1], cu_seqlens=ends))
    same(native(x[:, :0]), by_torch(x[:, :0]))
    _, state = native(x[:, :4])
    whole, last = by_torch(x)
    same(native(x[:, 4:], state), (whole[:, 4:], last))


@pytest.mark.parametrize(("name", "cell"), PAIRS)
def test_any_strides(name: str, cell: str) -> None:
    """Inputs and gradients that are transposed, sliced or expanded."""
    native, by_torch = support.native_and_torch(name, cell)
    base = torch.randn(native.d, 9, 2, dtype=torch.float64)
    for x in (
        base.permute(2, 1, 0),
        base.permute(2, 1, 0)[:, ::2],
        base[:, :1].permute(2, 1, 0).expand(2, 9, native.d),
    ):
        found = []
        for layer in (native, by_torch):
            y, _ = layer(x.clone().requires_grad_())
            y.sum().backward()
            found.append([y, *(p.grad.clone() for p in layer.parameters() if p.grad is not None)])
            layer.zero_grad()
        for a, b in zip(*found, strict=True):
            support.assert_close(a, b.detach(), 1e-10)


@pytest.mark.parametrize(("name", "cell"), PAIRS)
def test_gradients_of_a_part(name: str, cell: str) -> None:
    """Only the final state is read, or only one weight is trained."""
    native, by_torch = support.native_and_torch(name, cell)
    x = torch.randn(2, 33, native.d, dtype=torch.float64)
    found = []
    for layer in (native, by_torch):
        _, state = layer(x)
        loss = sum(s.abs().sum() for s in support.flat(state).values())
        found.append(torch.autograd.grad(loss, list(layer.parameters()), allow_unused=True, materialize_grads=True))
    for a, b in zip(*found, strict=True):
        support.assert_close(a, b)
    first = next(iter(native.parameters()))
    for p in native.parameters():
        p.requires_grad_(p is first)
    y, _ = native(x)
    y.sum().backward()
    assert first.grad is not None
    native.zero_grad()
    for p in native.parameters():
        p.requires_grad_(True)


@pytest.mark.parametrize(("name", "cell"), PAIRS)
def test_bfloat16_goes_in_and_out(name: str, cell: str) -> None:
    native, _ = support.native_and_torch(name, cell)
    exact = copy.deepcopy(native).float()
    half = copy.deepcopy(exact).to(torch.bfloat16)
    x = torch.randn(2, 7, native.d)
    y, _ = half(x.to(torch.bfloat16))
    assert y.dtype == torch.bfloat16
    want, _ = exact(x)
    assert (y.float() - want).norm() < 0.05 * want.norm()
    step, _ = half.step(x[:, 0].to(torch.bfloat16))
    assert step.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(p.grad is None or p.grad.dtype == p.dtype for p in half.parameters())


def test_pickles_and_copies() -> None:
    native, _ = support.native_and_torch("minlstm", "MinLSTM")
    x = torch.randn(2, 5, native.d, dtype=torch.float64)
    for again in (copy.deepcopy(native), pickle.loads(pickle.dumps(native))):
        same(again(x), native(x))


def test_a_strategy_by_name() -> None:
    """Strategies that a kernel does the work of keep it; others run by PyTorch."""
    spec = rnnc.stdlib("gated_deltanet")
    assert "Native(" in rnnc.compile(spec, "GatedDeltaOp", backend="cpu", strategy="sequential").source
    assert "Native(" not in rnnc.compile(spec, "GatedDeltaOp", backend="cpu", strategy="chunkwise").source
    with pytest.raises(SpecError) as refused:
        rnnc.compile(rnnc.stdlib("gru"), "GRU", backend="cpu", strategy="scan")
    assert refused.value.diagnostics[0].code == "E0602"


def test_models_run_their_cells_by_kernels() -> None:
    spec = rnnc.load(Path(__file__).parents[2] / "examples" / "char_lm.rnn")
    name = next(iter(spec.models))
    torch.manual_seed(0)
    native = rnnc.compile(spec, name, backend="cpu")
    assert "Native(" in native.source
    dims = {
        k: v for k, v in support.small_dims(spec.lower(name)).items() if k in {d.name for d in spec.lower(name).dims}
    }
    a, b = native(**dims), rnnc.compile(spec, name)(**dims)
    b.load_state_dict(a.state_dict())
    ir = spec.lower(name)
    inputs = support.random_inputs(ir, dims, np.random.default_rng(0), 2, 9)
    xs = [support.tensor(x, torch.float32) for x in inputs.values()]
    support.assert_close(a(*xs)[0], b(*xs)[0], 1e-4)


def test_other_devices_are_refused() -> None:
    native, _ = support.native_and_torch("minlstm", "MinLSTM")
    with pytest.raises(RuntimeError, match=r"compiled for the CPU.*meta.*backend=\"torch\""):
        copy.deepcopy(native).to("meta")(torch.empty(1, 2, native.d, device="meta", dtype=torch.float64))


@pytest.mark.parametrize("strategy", ["sequential", "newton"])
def test_complex_numbers_for_real_ones_are_refused(strategy: str) -> None:
    """A cast would drop their imaginary parts."""
    text = """
    cell Squash(n: dim) {
      input x: real[n]
      state h: real[n] = 0
      h <- 0.5 * tanh(h) + x
      output y: real[n] = h'
    }
    """
    layer = rnnc.compile(rnnc.parse(text), backend="cpu", strategy=strategy)(n=3)
    x = torch.randn(2, 9, 3)
    for given, state in ((x + 0j, None), (x, {"h": torch.zeros(2, 3, dtype=torch.complex64)})):
        with pytest.raises(TypeError, match="takes real numbers where it was given complex ones"):
            layer(given, state=state)


def test_without_a_compiler_the_torch_backend_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    compiled.compiler.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="no C compiler found.*torch backend"):
            found = rnnc.compile(rnnc.stdlib("minlstm"), backend="cpu")
        assert "Native(" not in found.source
    finally:
        monkeypatch.undo()
        compiled.compiler.cache_clear()


def test_threads_share_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of threads gives the same numbers."""
    monkeypatch.setattr("rnnc.runtime.native_call.SMALL", 0)
    found = []
    before = torch.get_num_threads()
    for n in (1, 2, 3):
        torch.set_num_threads(n)
        torch.manual_seed(0)
        for name, cell in PAIRS:
            dims = support.small_dims(rnnc.stdlib(name).lower(cell)) | {"d": 40}
            layer = rnnc.compile(rnnc.stdlib(name), cell, backend="cpu")(d=dims["d"], dtype=torch.float64)
            x = torch.randn(5, 20, 40, dtype=torch.float64, requires_grad=True)
            y, _ = layer(x)
            found.append(torch.autograd.grad(y.square().sum(), [x, *layer.parameters()]))
    torch.set_num_threads(before)
    for k in range(len(PAIRS)):
        for other in (found[k + len(PAIRS)], found[k + 2 * len(PAIRS)]):
            for a, b in zip(found[k], other, strict=True):
                support.assert_close(a, b, 1e-12)


@pytest.mark.parametrize(
    ("file", "cell", "sizes", "flops"),
    [
        ("lstm", "LSTM", {"d": 40}, 8 * 40 * 40),  # four products, a multiplication and an addition for each entry
        ("gla", "GLAOp", {"heads": 3, "dk": 16, "dv": 24}, 5 * 3 * 16 * 24),  # decay, outer product, sum, readout
        ("gru", "GRU", {"d": 40}, 6 * 40 * 40),
    ],
)
def test_threads_are_woken_for_what_a_call_costs(file: str, cell: str, sizes: dict[str, int], flops: int) -> None:
    """The cost that C says is that of the step: about as many FLOPs as its matrices ask for, and more for gates."""
    ir = rnnc.stdlib(file).lower(cell)
    layer = rnnc.compile(rnnc.stdlib(file), cell, backend="cpu", strategy="sequential")(**sizes)
    (kernel,) = [v for k, v in vars(sys.modules[type(layer).__module__]).items() if k.endswith("_kernel")]
    env = {d.name: getattr(layer, d.name) for d in ir.dims}
    dims = [*env.values()]
    effort = getattr(kernel.library(torch.float32, torch.float32), f"{kernel.name}_effort")
    effort.restype = ctypes.c_int64
    found = effort((ctypes.c_int64 * len(dims))(*dims))
    assert flops <= found <= 1.6 * flops + 340 * max(sizes.values())
    steps = native_call.SMALL // found // 2
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    types = [ir.nodes[i.node].type for i in ir.inputs]
    for length, threads in ((steps - 1, 1), (steps + 2, 2)):
        kernel.calls.clear()
        inputs = [torch.rand(2, length, *(int(d.evaluate(env)) for d in (*t.per, *t.shape))) for t in types]
        with torch.no_grad():
            layer(*inputs)
        (fitted,) = kernel.calls.values()
        assert fitted.call.plan[5] == threads
    torch.set_num_threads(before)


def test_one_matrix_state_is_shared_out_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sequence with one head: threads take columns of the state."""
    monkeypatch.setattr("rnnc.runtime.native_call.SMALL", 0)
    spec = rnnc.stdlib("gated_deltanet")
    layer = rnnc.compile(spec, "GatedDeltaOp", backend="cpu", strategy="sequential")(heads=1, dk=5, dv=32)
    torch.manual_seed(0)
    shapes = [(1, 20, 1, 5), (1, 20, 1, 5), (1, 20, 1, 32), (1, 20, 1), (1, 20, 1)]
    inputs = [torch.rand(s, dtype=torch.float64).requires_grad_() for s in shapes]
    kernel = sys.modules[type(layer).__module__].GatedDeltaOp_S_kernel
    kernel.calls.clear()  # other tests run this cell, too
    found, before = [], torch.get_num_threads()
    for n in (1, 2):
        torch.set_num_threads(n)
        y, _ = layer(*inputs)
        found.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    torch.set_num_threads(before)
    for a, b in zip(*found, strict=True):
        support.assert_close(a, b.detach(), 1e-12)
    assert {call.call.plan[2] for call in kernel.calls.values()} == {1, 2}  # tasks


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults")
def test_large_results_take_large_pages() -> None:
    """A result of some megabytes costs few page faults, where the system has large pages for those who ask."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("no large pages here")
    spec = "cell Leak(n: dim) {\n  input x: real[n]\n  state h: real[n] = 0\n  h <- 0.5 * h + x\n  output y = h'\n}"
    layer = rnnc.compile(rnnc.parse(spec), backend="cpu")(n=1024)
    x = torch.ones(2, 1025, 1024)
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        y, _ = layer(x)
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        assert float(y[0, -1, 0]) == 2.0
        del y
    assert min(found) < x.nbytes // 4096 // 2  # fewer than half of the small pages


def test_the_c_is_readable_and_compiles_alone(tmp_path: Path) -> None:
    text = emit_c(rnnc.stdlib("mamba"), "SelectiveScan")
    assert "h_new" in text
    assert "v_exp" in text
    path = tmp_path / "scan.c"
    path.write_text(text)
    command = compiled.compiler()
    assert command is not None
    for option in ("-DRNNC_F64", "-URNNC_F64"):
        flags = [
            "-O0",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-parameter",
            "-Wno-psabi",
            "-Wno-unknown-pragmas",
            option,
        ]
        subprocess.run([*command, *flags, "-c", str(path), "-o", str(tmp_path / "scan.o")], check=True)
    with pytest.raises(SpecError) as none:
        emit_c(rnnc.parse("cell Still(d: dim) {\n  input x: real[d]\n  output y = tanh(x)\n}"))
    assert none.value.diagnostics[0].code == "E0605"


HALVES = """
cell Halves() {
  input x: real
  state h: real = 0.5
  h <- 0.5 * h + x
  output y: real = h'
}
"""


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_numbers_make_states_that_are_none(backend: str, dtype: torch.dtype) -> None:
    """No parameter says the dtype, and the inputs' would cut the states off."""
    layer = rnnc.compile(rnnc.parse(HALVES), backend=backend)()
    x = torch.ones(1, 2, dtype=dtype)
    y, state = layer(x)
    assert torch.equal(y, torch.tensor([[1.25, 1.625]]))
    assert torch.equal(state["h"], torch.tensor([1.625]))
    y, state = layer.step(x[:, 0], state=state)
    assert torch.equal(state["h"], torch.tensor([1.8125]))
    assert torch.equal(layer(x, state=state)[0], torch.tensor([[1.90625, 1.953125]]))
    if backend == "torch":  # which says that it needs real numbers
        return
    y, state = layer(x, state={"h": torch.tensor([3])})
    assert torch.equal(y, torch.tensor([[2.5, 2.25]]))
    assert torch.equal(state["h"], torch.tensor([2.25]))
