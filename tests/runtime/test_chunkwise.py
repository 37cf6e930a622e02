"""The chunkwise form against the definition: every decay, rank, number of micro-steps; gradients; extreme decays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from runtime_reference import matrix_loop, relative
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rnnc.runtime import MicroStep, Read, Update, matrix_scan, matrix_states

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

F64 = torch.float64
B, H, K, V = 2, 3, 5, 4

DECAYS: dict[str, Callable[[int], dict[str, Tensor]]] = {
    "none": lambda t: {},
    "scalar log": lambda t: {"log_decay": -torch.rand(B, t, H, dtype=F64)},
    "scalar value": lambda t: {"decay": torch.rand(B, t, H, dtype=F64) * 2 - 1},
    "vector log": lambda t: {"log_decay": -torch.rand(B, t, H, K, dtype=F64)},
    "vector value": lambda t: {"decay": torch.rand(B, t, H, K, dtype=F64) * 2 - 1},
    "static scalar log": lambda t: {"log_decay": -torch.rand(H, dtype=F64)},
    "static vector value": lambda t: {"decay": torch.rand(H, K, dtype=F64) * 2 - 1},
    "zeros": lambda t: {"decay": (torch.rand(B, t, H, K, dtype=F64) > 0.3).to(F64)},
}


def unit(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, dtype=F64), dim=-1)


def delta(t: int, **decay: Tensor) -> MicroStep:
    """A gated delta step with an own direction for each of its four vectors."""
    beta = torch.rand(B, t, H, 1, dtype=F64)
    return MicroStep(
        low_rank=((-beta * unit(B, t, H, K), unit(B, t, H, K)),),
        writes=((unit(B, t, H, K), unit(B, t, H, V)),),
        **decay,
    )


def write(t: int, **decay: Tensor) -> MicroStep:
    return MicroStep(writes=((unit(B, t, H, K), unit(B, t, H, V)), (unit(B, t, H, K), unit(B, t, H, V))), **decay)


def fused(t: int, **decay: Tensor) -> MicroStep:
    beta = torch.rand(B, t, H, dtype=F64)
    k = unit(B, t, H, K)
    one = Update(u=beta.unsqueeze(-1) * k, v=unit(B, t, H, V), b=k, c=-beta)
    two = Update(u=unit(B, t, H, K), b=0.3 * unit(B, t, H, K))
    return MicroStep(updates=(one, two, Update(u=unit(B, t, H, K), v=unit(H, V))), **decay)


STEPS: dict[str, Callable[..., tuple[MicroStep, ...]]] = {
    "write": lambda t, d: (write(t, **d),),
    "delta": lambda t, d: (delta(t, **d),),
    "fused": lambda t, d: (fused(t, **d),),
    "product": lambda t, d: (delta(t, **d), delta(t), write(t, **d)),
}


def problem(kind: str, decay: str, t: int) -> tuple[Tensor, tuple[MicroStep, ...], tuple[Read, ...]]:
    reads = (Read(torch.randn(B, t, H, K, dtype=F64)), Read(unit(B, t, H, K), "old"), Read(unit(H, K)))
    return torch.randn(B, H, K, V, dtype=F64), STEPS[kind](t, DECAYS[decay](t)), reads


def leaves(steps: Sequence[MicroStep]) -> list[Tensor]:
    found: list[Tensor] = []

    def walk(x: object) -> None:
        if isinstance(x, Tensor):
            found.append(x)
        elif isinstance(x, tuple):
            for y in x:
                walk(y)

    walk(tuple(steps))
    return found


def cast(x: Any, dtype: torch.dtype) -> Any:
    if isinstance(x, Tensor):
        return x.to(dtype)
    if isinstance(x, tuple):
        parts = [cast(y, dtype) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return x


@pytest.mark.parametrize("t", [1, 2, 63, 75])
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", STEPS)
def test_values(kind: str, decay: str, t: int) -> None:
    state, steps, reads = problem(kind, decay, t)
    expected, final, states = matrix_loop(state, steps, reads, t)
    found, last = matrix_scan(state, steps, reads)
    for x, y in zip((*found, last, matrix_states(state, steps)), (*expected, final, states), strict=True):
        assert relative(x, y) < 1e-10


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("kind", STEPS)
def test_gradients(kind: str, decay: str) -> None:
    """Of the reads and the final state by every coefficient and the initial state."""
    state, steps, reads = problem(kind, decay, 21)
    arguments = [x.requires_grad_() for x in (state, *leaves(steps), *leaves(reads))]

    def loss(outputs: Sequence[Tensor], final: Tensor) -> Tensor:
        torch.manual_seed(1)
        return sum(((o * torch.randn_like(o)).sum() for o in (*outputs, final)), torch.zeros((), dtype=F64))

    expected = torch.autograd.grad(loss(*matrix_loop(state, steps, reads, 21)[:2]), arguments)
    found = torch.autograd.grad(loss(*matrix_scan(state, steps, reads, chunk=8)), arguments)
    for x, y in zip(found, expected, strict=True):
        assert (x - y).norm() <= 1e-10 * max(1.0, float(y.norm()))


@pytest.mark.parametrize("decay", ["none", "scalar log", "vector log", "vector value"])
def test_gradients_of_all_states(decay: str) -> None:
    state, steps, _ = problem("delta", decay, 21)
    arguments = [x.requires_grad_() for x in (state, *leaves(steps))]
    expected = torch.autograd.grad(matrix_loop(state, steps, (), 21)[2].sin().sum(), arguments)
    found = torch.autograd.grad(matrix_states(state, steps, chunk=8).sin().sum(), arguments)
    for x, y in zip(found, expected, strict=True):
        assert relative(x, y) < 1e-10


@pytest.mark.parametrize("t", [63, 500])
@pytest.mark.parametrize("decay", ["none", "scalar log", "vector log", "vector value"])
@pytest.mark.parametrize("kind", STEPS)
def test_float32(kind: str, decay: str, t: int) -> None:
    state, steps, reads = problem(kind, decay, t)
    expected, final, _ = matrix_loop(state, steps, reads, t)
    found, last = matrix_scan(*(cast(x, torch.float32) for x in (state, steps, reads)))
    for x, y in zip((*found, last), (*expected, final), strict=True):
        assert x.dtype == torch.float32
        assert relative(x, y) < 1e-4


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("value", [1e-4, 0.3, 0.999, 0.9999999, 1.0])
@pytest.mark.parametrize("logarithmic", [True, False])
def test_constant_decays(value: float, vector: bool, logarithmic: bool) -> None:
    """float32 against float64, from decays that forget at once to decays that never do."""
    t = 400
    shape = (B, t, H, K) if vector else (B, t, H)
    decay = torch.full(shape, value, dtype=F64).log().float() if logarithmic else torch.full(shape, value)
    given = {"log_decay": decay} if logarithmic else {"decay": decay}
    wide = {name: x.double() for name, x in given.items()}
    steps, state = (delta(t, **wide),), torch.randn(B, H, K, V, dtype=F64)
    reads = (Read(unit(B, t, H, K)),)
    (expected,), final, _ = matrix_loop(state, steps, reads, t)
    arguments = [cast(x, torch.float32) for x in (state, steps, reads)]
    tensors = [x.requires_grad_() for x in leaves(arguments[1])]
    (found,), last = matrix_scan(*arguments)
    assert relative(found, expected) < 1e-4
    assert relative(last, final) < 1e-4
    assert all(g.isfinite().all() for g in torch.autograd.grad(found.sum() + last.sum(), tensors))


def test_mixed_decays_of_a_vector() -> None:
    """Channels that forget in one step beside channels that never forget, and exact zeros."""
    t = 200
    decay = torch.tensor([0.0, 1e-4, 0.5, 0.9999, 1.0], dtype=F64).expand(B, t, H, K)
    for given in ({"log_decay": decay.log()}, {"decay": decay}):
        steps, state, reads = (delta(t, **given),), torch.randn(B, H, K, V, dtype=F64), (Read(unit(B, t, H, K)),)
        (expected,), final, _ = matrix_loop(state, steps, reads, t)
        for dtype, bound in ((F64, 1e-10), (torch.float32, 1e-4)):
            (found,), last = matrix_scan(*(cast(x, dtype) for x in (state, steps, reads)))
            assert relative(found, expected) < bound
            assert relative(last, final) < bound


@pytest.mark.parametrize("given", ["none", "scalar", "vector"])
def test_vector_states(given: str) -> None:
    """No V axis: v is a number or absent, reads are numbers."""
    t = 70
    decay = {"none": {}, "scalar": {"decay": torch.rand(B, t, H)}, "vector": {"log_decay": -torch.rand(B, t, H, K)}}[
        given
    ]
    u, a, b, v = unit(B, t, H, K), 0.5 * unit(B, t, H, K), unit(B, t, H, K), torch.randn(B, t, H, dtype=F64)
    lean = MicroStep(low_rank=((a, b),), writes=((u, v), (a, None)), **{k: x.double() for k, x in decay.items()})
    full = lean._replace(writes=((u, v.unsqueeze(-1)), (a, torch.ones(1, dtype=F64))))
    state, reads = torch.randn(B, H, K, dtype=F64), (Read(unit(B, t, H, K)), Read(unit(B, t, H, K), "old"))
    expected, final, states = matrix_loop(state.unsqueeze(-1), (full,), reads, t)
    found, last = matrix_scan(state, (lean,), reads, vector=True)
    for x, y in zip((*found, last), (*expected, final), strict=True):
        assert relative(x, y.squeeze(-1)) < 1e-10
    assert relative(matrix_states(state, (lean,), vector=True), states.squeeze(-1)) < 1e-10


def test_low_rank_alone_and_decay_alone() -> None:
    t = 40
    state, reads = torch.randn(B, H, K, V, dtype=F64), (Read(unit(B, t, H, K)),)
    alone = MicroStep(low_rank=((0.5 * unit(B, t, H, K), unit(B, t, H, K)),))
    for step in (alone, MicroStep(log_decay=-torch.rand(B, t, H, K, dtype=F64)), MicroStep()):
        (expected,), final, states = matrix_loop(state, (step,), reads, t)
        (found,), last = matrix_scan(state, (step,), reads)
        assert relative(found, expected) < 1e-10
        assert relative(last, final) < 1e-10
        assert relative(matrix_states(state, (step,), length=t), states) < 1e-10


def test_complex_states() -> None:
    t = 50
    state = torch.randn(B, H, K, V, dtype=torch.complex128)
    phase = torch.polar(torch.rand(B, t, H, K, dtype=F64), torch.randn(B, t, H, K, dtype=F64))
    reads = (Read(torch.randn(B, t, H, K, dtype=torch.complex128)),)
    for step in (
        delta(t, decay=phase),
        delta(t, log_decay=phase.log()),
        delta(t, decay=phase[..., 0]),
        write(t, decay=phase),
    ):
        cplx = cast(step, torch.complex128)
        (expected,), final, _ = matrix_loop(state, (cplx,), reads, t)
        (found,), last = matrix_scan(state, (cplx,), reads)
        assert relative(found, expected) < 1e-10
        assert relative(last, final) < 1e-10


def test_sequences_can_be_cut() -> None:
    state, steps, reads = problem("delta", "vector log", 90)
    (whole, *_), final = matrix_scan(state, steps, reads)

    def part(x: Any, cut: slice) -> Any:
        if isinstance(x, Tensor):
            return x[:, cut] if x.ndim > 2 else x
        if isinstance(x, tuple):
            parts = [part(y, cut) for y in x]
            return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
        return x

    pieces = []
    for cut in (slice(0, 37), slice(37, 37), slice(37, 90)):
        (o, *_), state = matrix_scan(state, part(steps, cut), part(reads, cut))
        pieces.append(o)
    assert relative(torch.cat(pieces, 1), whole) < 1e-10
    assert relative(state, final) < 1e-10


@pytest.mark.parametrize("mode", ["log_decay", "decay"])
@pytest.mark.parametrize("vector", [False, True])
def test_gradcheck_twice(mode: str, vector: bool) -> None:
    t = 6

    def f(state: Tensor, k: Tensor, v: Tensor, q: Tensor, beta: Tensor, g: Tensor) -> tuple[Tensor, ...]:
        decay = g if vector else g[..., 0]
        update = Update(u=beta.unsqueeze(-1) * k, v=v, b=k, c=-beta)
        step = MicroStep(updates=(update,), **{mode: -decay.exp() if mode == "log_decay" else decay})
        outputs, final = matrix_scan(state, (step,), (Read(q), Read(q, "old")), chunk=4)
        return (*outputs, final)

    shapes = ((1, 2, 3, 2), (1, t, 2, 3), (1, t, 2, 2), (1, t, 2, 3), (1, t, 2), (1, t, 2, 3))
    arguments = [torch.randn(s, dtype=F64).requires_grad_() for s in shapes]
    assert torch.autograd.gradcheck(f, arguments, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(f, arguments, fast_mode=True)


@pytest.mark.parametrize("vector", [False, True])
def test_torch_func(vector: bool) -> None:
    t = 20

    def loss(state: Tensor, k: Tensor, v: Tensor, g: Tensor) -> Tensor:
        step = MicroStep(log_decay=-g.exp() if vector else -g[..., 0].exp(), updates=(Update(u=k, v=v, b=-0.3 * k),))
        (o,), final = matrix_scan(state, (step,), (Read(k),), chunk=8)
        return o.sin().sum() + final.sum()

    arguments = (
        torch.randn(B, H, K, V, dtype=F64),
        unit(B, t, H, K),
        unit(B, t, H, V),
        torch.randn(B, t, H, K, dtype=F64),
    )
    expected = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*arguments)
    one = torch.func.grad(lambda *x: loss(*(y.unsqueeze(0) for y in x)), argnums=(0, 1, 2, 3))
    for found, wanted in zip(torch.func.vmap(one)(*arguments), expected, strict=True):
        assert relative(found, wanted) < 1e-10
    _, tangent = torch.func.jvp(loss, arguments, tuple(torch.ones_like(x) for x in arguments))
    assert relative(tangent, sum(g.sum() for g in expected)) < 1e-10


def test_autocast_does_not_round_the_state() -> None:
    state, steps, reads = problem("delta", "scalar log", 300)
    (expected, *_), _, _ = matrix_loop(state, steps, reads, 300)
    with torch.autocast("cpu", torch.bfloat16):
        (found, *_), last = matrix_scan(*(cast(x, torch.float32) for x in (state, steps, reads)))
        (half, *_), _ = matrix_scan(*(cast(x, torch.bfloat16) for x in (state, steps, reads)))
    assert last.dtype == found.dtype == torch.float32
    assert relative(found, expected) < 1e-4
    assert half.dtype == torch.bfloat16
    assert relative(half, expected) < 3e-2


def test_wrong_arguments() -> None:
    state, steps, reads = problem("delta", "none", 5)
    with pytest.raises(ValueError, match="power of two"):
        matrix_scan(state, steps, reads, chunk=6)
    with pytest.raises(ValueError, match="neither a sequence"):
        matrix_scan(state, (MicroStep(log_decay=torch.zeros(B, 5, H, K, 1, 1), writes=steps[0].writes),), reads)
    with pytest.raises(ValueError, match="unknown"):
        matrix_scan(state, (MicroStep(decay=torch.rand(H)),), ())
    with pytest.raises(ValueError, match="at least one micro-step"):
        matrix_states(state, ())
    with pytest.raises(ValueError, match="not both"):
        matrix_scan(state, (MicroStep(decay=torch.rand(H), log_decay=torch.rand(H)),), reads)
    with pytest.raises(ValueError, match="after"):
        matrix_scan(state, steps, (Read(reads[0].key, "later"),))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"not \[batch, ..., K, V\]"):
        matrix_scan(state[0, 0], steps, reads)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("batch", "length"), [(0, 0), (0, 1), (0, 70), (2, 0)])
def test_nothing_to_do(decay: str, batch: int, length: int) -> None:
    t = max(length, 1)
    state, steps, reads = problem("delta", decay, t)

    def cut(x: Any) -> Any:
        if isinstance(x, Tensor):
            return x[:batch, :length] if x.shape[:2] == (B, t) else x
        if isinstance(x, tuple):
            return type(x)(*map(cut, x)) if hasattr(x, "_fields") else tuple(map(cut, x))
        return x

    state, steps = state[:batch], cut(steps)
    found, final = matrix_scan(state, steps, cut(reads[:2]))
    assert [y.shape for y in found] == [(batch, length, H, V)] * 2
    if length == 0:
        assert torch.equal(final, state)
    assert final.shape == state.shape
    assert matrix_states(state, steps).shape == (batch, length, H, K, V)


@pytest.mark.parametrize("kernels", [False, True], ids=["products", "kernels"])
def test_what_is_absent_is_on_the_device_of_the_rest(kernels: bool) -> None:
    """Terms without a write beside some with one, of different ranks, on a GPU that is only thought of: nothing is on
    the host, and nothing makes 16-bit numbers wide.
    """
    if kernels:
        low_rank = pytest.importorskip("rnnc.runtime.gpu.low_rank")
    with FakeTensorMode():
        k, a, b, u, v = (torch.empty(2, 9, 8, device="cuda", dtype=torch.bfloat16) for _ in range(5))
        state = torch.empty(2, 8, 8, device="cuda", dtype=torch.bfloat16)
        both = MicroStep(low_rank=((a, b),), writes=((u, v),), updates=(Update(k, v, u, -0.5),))
        for steps in ([both], [MicroStep(low_rank=((a, b),)), MicroStep(updates=(Update(k, v, k, -1),))]):
            scan = low_rank.scan if kernels else matrix_scan
            (o,), last = scan(state, steps, [Read(k, "new")])
            assert o.device == last.device == state.device
            assert o.dtype == last.dtype == torch.bfloat16
