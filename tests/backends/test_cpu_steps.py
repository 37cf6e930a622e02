"""Single steps and chunks on CPUs: the one function of a whole step, when it serves, and streaming by any pieces."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_support as support
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import rnnc
from rnnc.runtime import NativeStep, _compat, compiled, native_step

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

# a convolution and norms, a short state, complex numbers, recurrent matrices, per blocks
CELLS = [
    ("gated_deltanet", "GatedDeltaNet"),
    ("mamba2", "Mamba2"),
    ("lru", "LRU"),
    ("gru", "GRU"),
    ("slstm", "sLSTM"),
    ("minlstm", "MinLSTM"),
]
ODD = Path(__file__).parents[1] / "stdlib" / "odd"


def whole_step(layer: Any) -> NativeStep:
    scope = type(layer).step.__globals__
    (found,) = [v for v in scope.values() if isinstance(v, NativeStep)]
    return found  # type: ignore[no-any-return]


def served(layer: Any, x: Tensor, state: Any = None) -> bool:
    """Whether a step runs by the one function."""
    step = whole_step(layer)
    step.calls.clear()
    step.held.clear()
    layer.step(x, state=state)
    return any(found is not None for found in step.calls.values())


def same(a: Any, b: Any, tolerance: float = 1e-12) -> None:
    (ya, sa), (yb, sb) = a, b
    support.assert_close(ya, yb.detach(), tolerance)
    assert support.flat(sa).keys() == support.flat(sb).keys()
    for key, value in support.flat(sb).items():
        support.assert_close(support.flat(sa)[key], value.detach(), tolerance)


@pytest.mark.parametrize(("name", "cell"), CELLS)
@torch.no_grad()
def test_one_function_for_a_step(name: str, cell: str) -> None:
    """For one and for several sequences, in any strides; what it does not serve runs as before, to the same result."""
    native, by_torch = support.native_and_torch(name, cell)
    _, state = by_torch(torch.randn(3, 5, native.d, dtype=torch.float64))
    x = torch.randn(3, native.d, dtype=torch.float64)
    turned = torch.randn(native.d, 3, dtype=torch.float64).T
    for inputs in (x, turned, x.flip(0)):
        assert served(native, inputs, state)
        same(native.step(inputs, state=state), by_torch.step(inputs, state=state))
    same(native.step(x[:1]), by_torch.step(x[:1]))
    for count, one in ((9, True), (native_step.AT_ONCE + 6, True), (native_step.MOST_SEQUENCES + 1, False)):
        many = torch.randn(count, native.d, dtype=torch.float64)
        assert served(native, many) == one
        same(native.step(many), by_torch.step(many))
    with torch.enable_grad():
        assert not served(native, x, state)


@pytest.mark.parametrize(("name", "cell"), CELLS)
def test_gradients_of_steps(name: str, cell: str) -> None:
    """Steps that are trained through give the gradients of the whole sequence."""
    native, by_torch = support.native_and_torch(name, cell)
    x = torch.randn(2, 4, native.d, dtype=torch.float64, requires_grad=True)
    state, rows = None, []
    for x_t in x.unbind(1):
        y, state = native.step(x_t, state=state)
        rows.append(y)
    found = torch.autograd.grad(torch.stack(rows, 1).square().sum(), [x, *native.parameters()])
    want = torch.autograd.grad(by_torch(x)[0].square().sum(), [x, *by_torch.parameters()])
    largest = max(float(b.norm()) for b in want)  # one gradient of sLSTM is zero
    for a, b in zip(found, want, strict=True):
        assert float((a - b).norm()) < 1e-12 * largest


@pytest.mark.parametrize("backend", [0, 1])
@pytest.mark.parametrize(("name", "cell"), CELLS)
@torch.no_grad()
def test_pieces_of_any_length(name: str, cell: str, backend: int) -> None:
    """A sequence fed in pieces (none, one, many tokens; steps in between) gives the numbers of the whole run."""
    layer = support.native_and_torch(name, cell)[backend]
    x = torch.randn(2, 40, layer.d, dtype=torch.float64)
    whole, last = support.native_and_torch(name, cell)[1](x)
    state, rows, at = None, [], 0
    for count in (1, 0, 7, None, 2, 16, None, 1, 3, 8):
        if count is None:
            y, state = layer.step(x[:, at], state=state)
            y, count = y[:, None], 1
        else:
            y, state = layer(x[:, at : at + count], state=state)
        rows.append(y)
        at += count
    assert at == 40
    same((torch.cat(rows, 1), state), (whole, last))


@torch.no_grad()
def test_parameters_may_change() -> None:
    """In place, in dtype, as other tensors: a step reads what the layer has now."""
    native, by_torch = (pickle.loads(pickle.dumps(m)) for m in support.native_and_torch("minlstm", "MinLSTM"))
    x = torch.randn(2, native.d, dtype=torch.float64)
    native.step(x)
    for m in (native, by_torch):
        next(m.parameters()).mul_(0.5)
    same(native.step(x), by_torch.step(x))
    for m in (native, by_torch):
        first = next(iter(dict(m.named_parameters())))
        setattr(m, first, torch.nn.Parameter(getattr(m, first).detach().flip(0)))
        m.float()
    assert served(native, x.float())
    same(native.step(x.float()), by_torch.step(x.float()), 1e-6)
    weights = {k: 2 * v for k, v in native.named_parameters()}
    found = torch.func.functional_call(native, weights, (x[:, None].float(),))
    same(found, torch.func.functional_call(by_torch, weights, (x[:, None].float(),)), 1e-6)


def write_through_data(p: Tensor) -> None:
    p.data.mul_(1.25)


def write_through_numpy(p: Tensor) -> None:
    p.detach().numpy()[...] *= 1.25


def write_by_an_optimizer(p: Tensor) -> None:
    p.grad = torch.ones_like(p)
    torch.optim.SGD([p], lr=0.1).step()
    p.grad = None


WAYS = [write_through_data, write_through_numpy, write_by_an_optimizer]


@pytest.mark.parametrize(("name", "cell"), [("mamba2", "Mamba2"), ("lru", "LRU")])
@pytest.mark.parametrize("write", WAYS)
@torch.no_grad()
def test_what_parameters_alone_say_follows_them(name: str, cell: str, write: Callable[[Tensor], None]) -> None:
    """Values that are kept between steps are those of the weights at each step, however these are written."""
    native, by_torch = (copy.deepcopy(m) for m in support.native_and_torch(name, cell))
    x = torch.randn(2, native.d, dtype=torch.float64)
    kept = [memory for held in whole_step(native).held.values() for memory in held.memory.values()]
    for _ in range(2):
        same(native.step(x), by_torch.step(x))
        for m in (native, by_torch):
            for p in m.parameters():
                write(p)
    same(native.step(x), by_torch.step(x))
    held = whole_step(native).held[id(native)].memory
    assert [m.numel() > 128 for free in held.values() for m in free] == [True], kept  # there is such memory, and one


@torch.no_grad()
def test_modules_of_one_class_and_threads_keep_apart_what_they_keep() -> None:
    native, by_torch = support.native_and_torch("mamba2", "Mamba2")
    other, other_by_torch = copy.deepcopy(native), copy.deepcopy(by_torch)
    for m in (other, other_by_torch):
        for p in m.parameters():
            p.mul_(1.5)
    x = torch.randn(3, native.d, dtype=torch.float64)
    pairs = [(native, by_torch.step(x)), (other, other_by_torch.step(x))] * 20
    with ThreadPoolExecutor(4) as pool:
        for found, (_, wanted) in zip(pool.map(lambda pair: pair[0].step(x), pairs), pairs, strict=True):
            same(found, wanted)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "cell"), [c for c in CELLS if c[0] != "lru"])
@torch.no_grad()
def test_half_precision(name: str, cell: str, half: torch.dtype) -> None:
    """Weights, inputs and states of half precision: computed in float32, and rounded once."""
    native, by_torch = (copy.deepcopy(m) for m in support.native_and_torch(name, cell))
    native, exact = native.to(half), by_torch.to(half).double()
    x = torch.randn(5, native.d).to(half)
    _, state = by_torch(torch.randn(5, 4, native.d, dtype=torch.float64))
    low = {k: v.to(half) for k, v in state.items()}
    assert served(native, x, low)
    (y, new), (wanted, after) = (
        native.step(x, state=low),
        exact.step(x.double(), {k: v.double() for k, v in low.items()}),
    )
    epsilon = torch.finfo(half).eps
    for a, b in [(y, wanted), *((new[k], after[k]) for k in after)]:
        assert a.dtype == half
        assert float((a.double() - b).abs().max()) <= 0.52 * epsilon * float(b.abs().max()) + 1e-6


@torch.no_grad()
def test_complex_half_stays_with_the_kernels() -> None:
    native, by_torch = (copy.deepcopy(m).to(torch.bfloat16) for m in support.native_and_torch("lru", "LRU"))
    x = torch.randn(2, native.d, dtype=torch.bfloat16)
    assert not served(native, x)
    (y, state), (y2, state2) = native.step(x), by_torch.step(x)
    assert (y.dtype, state["h"].dtype) == (y2.dtype, state2["h"].dtype)


MATRICES = """
cell Turned(n: dim) {
  input x: real[n]
  param A: real[n, n]
  param B: real[n, n]
  state h: real[n] = 0
  h <- expm(A - A.T) @ h + cayley(B - B.T + outer(x, x)) @ x
  output y = h'
}
cell Singular(n: dim) {
  input x: real[n]
  state h: real[n] = 0
  h <- 0.5 * h + cayley(-outer(x, x)) @ x
  output y = h'
}
"""


@torch.no_grad()
def test_functions_of_matrices() -> None:
    spec = rnnc.parse(MATRICES)
    native, by_torch = (rnnc.compile(spec, "Turned", backend=b)(n=7, dtype=torch.float64) for b in ("cpu", "torch"))
    by_torch.load_state_dict(native.state_dict())
    for scale in (1, 30):
        for m in (native, by_torch):
            m.A.mul_(scale)
        x, state = torch.randn(3, 7, dtype=torch.float64), {"h": torch.randn(3, 7, dtype=torch.float64)}
        assert served(native, x, state)
        same(native.step(x, state=state), by_torch.step(x, state=state), 1e-11)
    native, by_torch = (rnnc.compile(spec, "Singular", backend=b)(n=4) for b in ("cpu", "torch"))
    x = torch.tensor([[1.0, 0, 0, 0]])
    for m in (native, by_torch):
        with pytest.raises(torch.linalg.LinAlgError):
            m.step(x)


@cache
def models() -> tuple[Any, Any]:
    """A character model by both backends: tokens, repeated blocks, cells inside them, nested states."""
    torch.manual_seed(0)
    spec = rnnc.load(Path(__file__).parents[2] / "examples" / "char_lm.rnn")
    native, by_torch = (rnnc.compile(spec, "CharLM", backend=b)(vocab=11, d=12).double() for b in ("cpu", "torch"))
    by_torch.load_state_dict(native.state_dict())
    return native, by_torch


@torch.no_grad()
def test_a_model_is_one_function() -> None:
    native, by_torch = models()
    tokens = torch.randint(11, (2, 9))
    assert served(native, tokens[:, 0])
    states: list[Any] = [None, None]
    for t in range(9):
        (a, states[0]), (b, states[1]) = (m.step(tokens[:, t], state=s) for m, s in zip((native, by_torch), states))
        same((a, states[0]), (b, states[1]))
    same((a, states[0]), (by_torch(tokens)[0][:, -1], by_torch(tokens)[1]))
    for wrong in (11, -1):
        with pytest.raises(IndexError, match="index out of range"):
            native.step(torch.tensor([3, wrong]))
    small = tokens[:, 0].to(torch.int32)  # which PyTorch takes for indices, too
    same(native.step(small), by_torch.step(small))


@torch.no_grad()
def test_parts_of_a_model_may_change() -> None:
    native, by_torch = (copy.deepcopy(m) for m in models())
    token = torch.tensor([3])
    native.step(token)
    for m in (native, by_torch):
        m.h_layers[1], m.h_layers[0] = m.h_layers[0], m.h_layers[1]
    same(native.step(token), by_torch.step(token))
    for m in (native, by_torch):
        torch.nn.utils.parametrize.register_parametrization(m, "logits_linear_weight", torch.nn.Softmax(-1))
    same(native.step(token), by_torch.step(token))


@torch.no_grad()
def test_steps_that_are_refused_say_why() -> None:
    native, _ = support.native_and_torch("minlstm", "MinLSTM")
    with pytest.raises(RuntimeError, match=r"size|shape"):
        native.step(torch.randn(2, native.d + 1, dtype=torch.float64))
    with pytest.raises(KeyError):
        native.step(torch.randn(2, native.d, dtype=torch.float64), state={})


class Wrapped(torch.Tensor):
    """A subclass, as a library may pass."""


class Seen(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_what_stands_ready_is_for_tensors_of_the_same_kind_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one call that recognises the last step's tensors refuses all that has to be looked at; numbers are right."""
    native, by_torch = (copy.deepcopy(m).float() for m in support.native_and_torch("minlstm", "MinLSTM"))
    looked: list[int] = []
    find = NativeStep._find

    def counted(self: NativeStep, *arguments: Any) -> Any:
        looked.append(1)
        return find(self, *arguments)

    monkeypatch.setattr(NativeStep, "_find", counted)
    x, state = torch.randn(3, native.d), by_torch.initial_state(3)
    turned = torch.randn(native.d, 3).T
    halves = torch.complex(torch.randn(3, native.d), torch.randn(3, native.d))

    def ready(x: Tensor, wanted: bool, state: Any = state) -> None:
        looked.clear()
        found = native.step(x, state=state)
        assert (not looked) == wanted
        same(found, by_torch.step(x, state=state), 1e-5)

    def again() -> None:
        native.step(x, state=state)
        ready(x.clone(), True)

    for other in (turned, halves.conj().imag, torch._neg_view(x), x.as_subclass(Wrapped), torch.nn.Parameter(x)):
        again()
        ready(other, False)
    for mode in (Seen(), torch.inference_mode()):
        again()
        with mode:
            ready(x, False)
    again()
    ready(x[:2], False, {k: v[:2] for k, v in state.items()})
    again()
    with pytest.raises(RuntimeError, match=r"size|shape"):
        native.step(x[:, 1:], state=state)
    again()
    mapped = torch.func.vmap(lambda x: native.step(x.expand(3, -1), state=state)[0])(x)
    support.assert_close(mapped[1], by_torch.step(x[1].expand(3, -1), state=state)[0], 1e-5)
    again()
    with torch.enable_grad():
        ready(x, True)  # parameters require gradients: it is known without a look that it does not serve
        assert native.step(x, state=state)[0].requires_grad


@torch.no_grad()
def test_steps_without_the_call_that_recognises_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a version of PyTorch that has none of what is not public: the same numbers."""
    assert _compat.same_layout([torch.zeros(2)]) is not None  # this version has it
    native, by_torch = (copy.deepcopy(m) for m in support.native_and_torch("mamba2", "Mamba2"))
    monkeypatch.setattr(native_step, "same_layout", lambda tensors: None)
    monkeypatch.setattr(native_step, "empty_cpu", _compat._empty_cpu)
    x = torch.randn(2, native.d, dtype=torch.float64)
    for _ in range(2):
        assert served(native, x)
        same(native.step(x), by_torch.step(x))
    assert whole_step(native).held[id(native)].ready is None


@torch.no_grad()
def test_tied_weights() -> None:
    """One tensor in two places: never ready, and right."""
    native, by_torch = (copy.deepcopy(m) for m in support.native_and_torch("gru", "GRU"))
    for m in (native, by_torch):
        m.z_linear_weight = m.r_linear_weight
    x = torch.randn(2, native.d, dtype=torch.float64)
    for _ in range(2):
        assert served(native, x)
        same(native.step(x), by_torch.step(x))
    assert whole_step(native).held[id(native)].ready is None


def test_parameters_are_forgotten_with_their_module() -> None:
    native = copy.deepcopy(support.native_and_torch("minlstm", "MinLSTM")[0])
    held = whole_step(native).held
    before = len(held)
    with torch.no_grad():
        native.step(torch.randn(2, native.d, dtype=torch.float64))
    assert len(held) == before + 1
    del native
    gc.collect()
    assert len(held) == before


@torch.no_grad()
def test_a_step_with_another_default_device() -> None:
    """Memory that C writes is the processor's, whatever tensors are made on otherwise."""
    native, by_torch = support.native_and_torch("mamba2", "Mamba2")
    x, state = torch.randn(2, native.d, dtype=torch.float64), by_torch.initial_state(2)
    wanted = by_torch.step(x, state=state)
    whole_step(native).held.clear()
    with torch.device("meta"):
        found = [native.step(x, state=state) for _ in range(2)]
    for each in found:
        same(each, wanted)


@torch.no_grad()
def test_a_step_under_autocast_has_the_types_of_the_torch_backend() -> None:
    native, by_torch = (copy.deepcopy(m).float() for m in support.native_and_torch("gru", "GRU"))
    x = torch.randn(2, native.d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not served(native, x)
        (y, state), (y2, state2) = native.step(x), by_torch.step(x)
    assert (y.dtype, state["h"].dtype) == (y2.dtype, state2["h"].dtype)
    torch.testing.assert_close(y, y2, rtol=2e-2, atol=2e-2)
    assert served(native, x)
