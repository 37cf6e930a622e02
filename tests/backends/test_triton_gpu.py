"""The acceptance of the kernels on a GPU: `pytest -m gpu tests/backends/test_triton_gpu.py`, some minutes.

Layers of every kind of kernel against PyTorch's in float64 on the CPU, and what Triton's interpreter cannot show: races
(the same bits again and again), reads of what nobody wrote, writes outside of buffers, odd alignments, tensors of more
than 2^31 numbers, streams, CUDA graphs, several devices.  Needs torch, triton, numpy and pytest; no lark.

Without a GPU everything is skipped, but under TRITON_INTERPRET=1 what needs no CUDA is run on the CPU, and small.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

import triton_buffers as buffers
import triton_nan as no_number
from triton_layers import BOUNDS, DEVICE, LAYERS, SMALL, error, kernel_of, layers, with_gradients

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.compat import interpreted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),  # those of the PyTorch that is there are not ours
]
FEW = ("mingru", "mamba", "gla", "gated_deltanet", "lstm", "gru")
HALF = {torch.bfloat16: 3e-2, torch.float16: 5e-3}
cuda = pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No measuring of block sizes but where a test asks for it: that takes most of the time."""
    if DEVICE != "cuda" and not interpreted():
        pytest.skip("there is no CUDA device, and Triton does not interpret its kernels (TRITON_INTERPRET=1)")
    monkeypatch.setenv("RNNC_TUNE", "0")
    with np.errstate(all="ignore"):
        yield


def moved(x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return x.to(DEVICE, dtype)


# ---------------------------------------------------------------- the numbers


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("packed", [False, True])
def test_is_the_layer_of_the_cpu(name: str, packed: bool) -> None:
    """Outputs, states and gradients; with `packed` of sequences of different lengths, an empty one among them.

    All buffers are poisoned: a number that nobody wrote would show.
    """
    ours, plain, x = layers(name)
    bounds = {"cu_seqlens": torch.tensor(BOUNDS)} if packed else {}
    want = with_gradients(plain, x, **bounds)
    with buffers.poisoned():
        got = with_gradients(ours, moved(x), **{k: v.to(DEVICE) for k, v in bounds.items()})
    assert error(got, want) < 1e-3


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("dtype", HALF)
def test_in_half_precision(name: str, dtype: torch.dtype) -> None:
    ours, plain, x = layers(name, dtype)
    plain.load_state_dict(ours.state_dict())  # the parameters as they were rounded
    want = plain(moved(x, dtype).cpu().double())[0]
    found = with_gradients(ours, moved(x, dtype))
    assert found[0].dtype == dtype
    assert all(g.isfinite().all() for g in found)
    assert error([found[0]], [want]) < HALF[dtype]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (1, 1), (3, 2)])
def test_of_any_size(name: str, shape: tuple[int, int]) -> None:
    """No sequence, no step, one of each: sizes that are 1 are constants to Triton, and a launch of no programs none."""
    ours, plain, x = layers(name)
    x = x[0, 0].expand(*shape, -1).contiguous()
    y, _ = ours(moved(x))
    want, _ = plain(x)
    assert y.shape == want.shape
    if y.numel():
        assert error(with_gradients(ours, moved(x)), with_gradients(plain, x)) < 1e-3


@pytest.mark.parametrize("name", no_number.CASES)
def test_what_is_no_number_stays_one(name: str) -> None:
    with torch.device(DEVICE):
        no_number.CASES[name]()


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("name", LAYERS)
def test_writes_into_its_buffers_only(name: str) -> None:
    ours, _, x = layers(name)
    with buffers.fenced():
        with_gradients(ours, moved(x))
        with_gradients(ours, moved(x), cu_seqlens=torch.tensor(BOUNDS, device=DEVICE))


def placed(x: Tensor) -> dict[str, Tensor]:
    """The same numbers elsewhere in memory: aligned to nothing, with other strides, behind each other or far apart."""
    one_off = x.new_empty(x.numel() + 1)[1:].view(x.shape)
    apart = x.new_full((*x.shape[:-1], 3 * x.shape[-1] + 1), float("nan"))[..., 1:-1:3][..., : x.shape[-1]]
    return {"one off": one_off.copy_(x), "apart": apart.copy_(x), "time last": x.mT.contiguous().mT}


@pytest.mark.parametrize("name", LAYERS)
def test_wherever_its_inputs_lie(name: str) -> None:
    """Layers, and scans right from inputs that are views: odd addresses cannot be loaded sixteen bytes at a time."""
    ours, _, x = layers(name)
    want = with_gradients(ours, moved(x))
    for how, elsewhere in placed(moved(x)).items():
        assert error(with_gradients(ours, elsewhere), want) < 1e-5, how


def test_kernels_read_views() -> None:
    """Of a scan: every input unaligned, strided, or one number for all."""
    kernel = kernel_of(layers("mingru")[0])
    z, c, h = (torch.randn(2, *t, 7, device=DEVICE) for t in ((9,), (9,), ()))
    (want,), _ = kernel((z, c), (h,), (3, 7), 9)
    for how in placed(z):
        (found,), _ = kernel((placed(z)[how], placed(c)[how]), (placed(h.unsqueeze(1))[how].squeeze(1),), (3, 7), 9)
        assert torch.equal(found, want), how
    same = z[:, :1, :1].expand(2, 9, 7)
    (found,), _ = kernel((same, c), (h,), (3, 7), 9)
    (want,), _ = kernel((same.contiguous(), c), (h,), (3, 7), 9)
    assert torch.equal(found, want)


@cuda
@pytest.mark.parametrize(("name", "bytes_needed"), [("mingru", 60 << 30), ("gla", 110 << 30)])
def test_more_numbers_than_31_bits_count(name: str, bytes_needed: int) -> None:
    """The last sequence, whose numbers end far behind the 2^31st, is what it is by itself."""
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < bytes_needed:
        pytest.skip(f"needs {bytes_needed >> 30} GiB of free memory")
    ours, _, _ = layers(name, torch.bfloat16)
    wide = (ours.n if name == "mingru" else ours.heads * ours.dv) * 2
    batch, steps = 3, (1 << 31) // wide + 1000  # 1.5 times 2^31 numbers
    x = torch.randn(batch, steps, ours.d, device=DEVICE, dtype=torch.bfloat16)
    with torch.no_grad():
        whole = ours(x)[0][-1, -1000:].clone()
        alone = ours(x[-1:])[0][0, -1000:]
    assert error([whole], [alone]) < 2e-2  # steps may be divided otherwise, in 16 bits


# ---------------------------------------------------------------- order


@pytest.mark.parametrize("name", LAYERS)
def test_has_the_same_bits_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads and programs that raced would not always end in one order; other work on the GPU shakes them."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    ours, _, x = layers(name)
    x = moved(x.expand(2 if SMALL else 16, -1, -1).contiguous())
    want = with_gradients(ours, x)
    for _ in range(2 if SMALL else 25):
        noise = torch.randn(8 if SMALL else 2048, 2048, device=DEVICE)
        found = with_gradients(ours, x)
        noise @ noise.mT
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@cuda
@pytest.mark.parametrize("name", LAYERS)
def test_in_a_cuda_graph(name: str) -> None:
    """Recorded once, forward and backward, packed sequences included; replayed with other numbers in their place."""
    ours, _, x = layers(name)
    held, bounds = moved(x), torch.tensor(BOUNDS, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiled outside of the graph
            with_gradients(ours, held, cu_seqlens=bounds)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = with_gradients(ours, held, cu_seqlens=bounds)
    for _ in range(3):
        held.copy_(torch.randn_like(held))
        graph.replay()
        want = with_gradients(ours, held, cu_seqlens=bounds)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b)


@cuda
@pytest.mark.parametrize("name", LAYERS)
def test_on_another_stream(name: str) -> None:
    """A kernel launched on the default stream would be too early there."""
    ours, _, x = layers(name)
    want = with_gradients(ours, moved(x))
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # what comes next on this stream is late
        late = moved(torch.zeros_like(x)).copy_(moved(x))
        aside = with_gradients(ours, late)
    torch.cuda.current_stream().wait_stream(stream)
    assert error(aside, want) < 1e-5


# ---------------------------------------------------------------- a training loop's ways


@pytest.mark.parametrize("name", FEW)
def test_compiled_and_under_autocast(name: str) -> None:
    """Autocast computes in bfloat16: no further off than twice what PyTorch's layer is."""
    ours, plain, x = layers(name)
    x, plain = moved(x), plain.to(DEVICE, torch.float32)
    want = with_gradients(ours, x)
    torch._dynamo.reset()
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    assert error(with_gradients(torch.compile(ours, fullgraph=True, backend=backend), x), want) < 1e-5
    with torch.autocast(DEVICE, torch.bfloat16):
        low, theirs = with_gradients(ours, x), with_gradients(plain, x)
    assert error(low, want) < 2 * max(1e-2, error(theirs, want))


@cuda
@pytest.mark.parametrize("name", ["mingru", "gla"])
def test_whichever_sizes_of_blocks_are_chosen(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every candidate compiles, runs, and says the same; what was chosen is remembered."""
    ours, plain, x = layers(name)
    monkeypatch.delenv("RNNC_TUNE")
    measured: list[float] = []
    folder = tmp_path_factory.mktemp("tuned")

    def timer(run: Callable[[], object]) -> float:
        measured.append(tuner.device_seconds(run))
        return -float(len(measured))  # the last one is taken

    monkeypatch.setattr(tuner, "TUNER", tuner.Tuner(timer=timer, folder=lambda: folder))
    assert error(with_gradients(ours, moved(x)), with_gradients(plain, x)) < 1e-3
    assert len(measured) > 2
    assert [*folder.iterdir()]


@cuda
@pytest.mark.parametrize("name", ["mingru", "gla", "gated_deltanet", "lstm"])
def test_a_state_on_the_cpu_is_named(name: str) -> None:
    ours, _, x = layers(name)
    _, state = ours(moved(x))
    with pytest.raises(RuntimeError, match=r"to one device|same device"):
        ours(moved(x), state={k: v.cpu() for k, v in state.items()})


@cuda
@pytest.mark.parametrize("name", FEW)
def test_on_a_device_that_is_not_the_current_one(name: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU")
    ours, _, x = layers(name)
    want = with_gradients(ours, moved(x))
    found = with_gradients(ours.to("cuda:1"), moved(x).to("cuda:1"))
    assert error(found, want) < 1e-5


def test_the_operators_as_pytorch_checks_them() -> None:
    """Shapes, strides and dtypes that tracing is told are those of the kernels; nothing is changed that should not."""
    kernel = kernel_of(layers("mingru")[0])
    xs = [torch.randn(2, *t, 5, device=DEVICE, requires_grad=True) for t in ((9,), (9,), ())]
    with buffers.taken(buffers.zeros):  # buffers are compared
        torch.library.opcheck(torch.ops.rnnc.recurrence, (kernel.key, xs[:2], [xs[2]], [3, 5, 5], 9, 9, None, True))
