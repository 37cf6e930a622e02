"""Cases of triton_interpreted.py for matrix states that decay: the operator alone, and cells written in odd ways."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch_support as support
import triton_buffers as buffers
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read, matrix_scan
from rnnc.runtime.gpu import decays, gated, gated_operator, gated_sizes, gated_tuning, gated_walk, matrix, tuner
from rnnc.runtime.gpu.gated_operator import gated_scan

HEAD = "input q: real[n]\n  input k: real[n]\n  input v: real[m]\n  "
CELLS = {  # a body each, of a cell with dims n and m
    "transposed decay": HEAD + "input g: real[n] <= 0\n  state S: real[m, n] = 0\n"
    "  S <- S @ diag(exp(g)) + outer(v, k)\n  output y: real[m] = S' @ q",
    "two reads": HEAD + "input g: real[n]\n  state S: real[n, m] = 0\n"
    "  S <- outer(sigmoid(g), 1 + 0 * v) * S + outer((1 - sigmoid(g)) * k, v)\n"
    "  output y: real[m] = tanh(S'.T @ q) + S.T @ k",
    "bonus": HEAD + "input g: real[n]\n  param u: real[n] init ones\n  state S: real[n, m] = 0\n"
    "  S <- diag(exp(-exp(g))) @ S + outer(k, v)\n  output y: real[m] = (S + outer(u * k, v)).T @ q",
    "two writes": HEAD + "input g: real[n]\n  state S: real[n, m] = 0\n"
    "  S <- diag(0.5 + 0.5 * sigmoid(g)) @ S + outer(k, v) - outer(q, tanh(v))\n  output y: real[m] = S'.T @ q",
    "decay of values": HEAD + "input g: real[m] <= 0\n  state S: real[n, m] = 0\n"
    "  S <- S @ diag(exp(g)) + outer(k, v)\n  output y: real[m] = S'.T @ q",
    "values, transposed": HEAD + "input g: real[m]\n  state S: real[m, n] = 0\n"
    "  S <- diag(sigmoid(g)) @ S + outer(v, k)\n  output y: real[m] = S @ q + tanh(S' @ k)",
    "scalar, read across": HEAD + "input g: real <= 0\n  state S: real[n, m] = 0\n"
    "  S <- exp(g) * S + outer(k, v)\n  output y: real[n] = S' @ v",
    "normalised by a number": HEAD
    + "input g: real\n  input c: real\n  state z: real[n] = 0\n  state S: real[n, m] = 0\n"
    "  z <- sigmoid(g) * z + c * tanh(c) * k\n  S <- sigmoid(g) * S + outer(tanh(c) * k, v)\n"
    "  output y: real[m] = S'.T @ q / (1 + abs(dot(z', q)))",
    "normalised, transposed": HEAD + "input g: real\n  state S: real[m, n] = 0\n  state z: real[n] = 0\n"
    "  S <- sigmoid(g) * S + outer(v, k)\n  z <- sigmoid(g) * z + k\n"
    "  output y: real[m] = S @ q / (1 + abs(dot(q, z)))",
    "normalised by keys": HEAD + "input g: real[n]\n  state S: real[n, m] = 0\n  state z: real[n] = 0\n"
    "  S <- diag(sigmoid(g)) @ S + outer((1 - sigmoid(g)) * k, v)\n  z <- sigmoid(g) * z + (1 - sigmoid(g)) * k\n"
    "  output y: real[m] = S'.T @ q / (1 + abs(dot(z', q)))",
    "no decay": HEAD + "state S: real[n, m] = 0\n  S <- S + outer(k, v)\n  output y: real[m] = S'.T @ q",
}

BY_ENTRY = {  # no chunks: a decay on both axes, or without a logarithm
    "decay of both": HEAD + "input g: real[n]\n  input f: real[m]\n  state S: real[n, m] = 0\n"
    "  S <- outer(sigmoid(g), sigmoid(f)) * S + outer(k, v)\n  output y: real[m] = S'.T @ q",
    "decay of any sign": HEAD + "input g: real[n]\n  state S: real[n, m] = 0\n"
    "  S <- diag(tanh(g)) @ S + outer(k, v)\n  output y: real[m] = S'.T @ q",
}


def cell(name: str) -> str:
    return f"cell Own(n: dim, m: dim) {{\n  {(CELLS | BY_ENTRY)[name]}\n}}\n"


def problem(axis: str, *, steps: int = 37, mild: bool = False, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v, log decays (some zero, some without end) and a state, with keys 5, values 7."""
    torch.manual_seed(steps)
    q, k, v = (torch.randn(1, steps, 1, n, dtype=dtype) for n in (5, 5, 7))
    g = -torch.rand(1, steps, 1, {"keys": 5, "values": 7, "none": 1}[axis], dtype=dtype)
    if mild:
        g *= 0.3
    else:  # with decays of 1e-30 within a chunk, and of 1e-30 and 0 a step
        g *= torch.randn(1, steps, 1, 1, dtype=dtype).mul(3).exp()
        g[:, 3::17], g[:, 5::29], g[:, 9::31] = 0.0, -70.0, -torch.inf
    return [x.requires_grad_() for x in (q, k, v, g, torch.randn(1, 1, 5, 7, dtype=dtype))]


def one_by_one(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor, old: bool, axis: str
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written."""
    outputs = []
    for t in range(q.shape[1]):
        before = state
        decay = g[:, t].exp()
        decay = decay.unsqueeze(-2) if axis == "values" else decay.unsqueeze(-1)
        state = state * decay + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        outputs.append(((before if old else state) * q[:, t].unsqueeze(-1)).sum(-2))
    return torch.stack(outputs, 1), state


def agrees(given: list[Tensor], ways: list[Callable[..., tuple[Tensor, Tensor]]], tolerance: float = 1e-12) -> None:
    """Outputs, the last state and all gradients of both ways; the gradient of a decay without end is none of theirs."""
    torch.manual_seed(0)
    found: list[list[Tensor]] = []
    weights: list[Tensor] = []
    for way in ways:
        values = way(*given)
        weights = weights or [torch.randn_like(x) for x in values]
        loss = sum(((x * w).sum() for x, w in zip(values, weights, strict=True)), torch.zeros(()))
        found.append([*values, *torch.autograd.grad(loss, given)])
    for want, got in zip(*found, strict=True):
        assert support.error(got, want.detach()) < tolerance, [support.error(b, a.detach()) for a, b in zip(*found)]


def of_axis(
    axis: str, *, mild: bool = False, base: int = 1, steps: int = 37, reads: tuple[bool, ...] = (False, True)
) -> None:
    for old in reads:
        agrees(
            problem(axis, mild=mild, steps=steps),
            [lambda *x, o=old: one_by_one(*x, o, axis), lambda *x, o=old: gated_scan(*x, o, axis, base)[:2]],
        )


def packed() -> None:
    """Sequences of different lengths, empty ones among them, in one row: what each gives by itself."""
    with changed((gated, "KEPT", 32), (gated_sizes, "KEPT", 32), (gated_operator, "KEPT", 32)):
        for axis, old in (("keys", True), ("values", False), ("none", False)):
            several([19, 0, 1, 16, 0, 45], axis, old)


def several(lengths: list[int], axis: str, old: bool) -> None:
    """Packed sequences."""
    bounds = torch.tensor([0, *lengths]).cumsum(0)

    def whole(*x: Tensor) -> tuple[Tensor, Tensor]:
        return gated_scan(*x, old, axis, 1, bounds)[:2]

    def apart(*x: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for i, (first, last) in enumerate(itertools.pairwise(bounds.tolist())):
            own, state = (y[:, first:last] for y in x[:4]), x[4][i : i + 1]
            found.append(one_by_one(*own, state, old, axis) if last > first else (x[2][:, :0], state))
        return torch.cat([o for o, _ in found], 1), torch.cat([h for _, h in found])

    *given, _ = problem(axis, steps=sum(lengths))
    start = torch.randn(len(lengths), 1, 5, 7, dtype=torch.float64, requires_grad=True)
    agrees([*given, start], [apart, whole])


@contextmanager
def changed(*settings: tuple[Any, str, Any]) -> Iterator[None]:
    """Attributes of modules for a while."""
    kept = [(of, name, getattr(of, name)) for of, name, _ in settings]
    try:
        for of, name, value in settings:
            setattr(of, name, value)
        yield
    finally:
        for of, name, value in kept:
            setattr(of, name, value)


def long_chunks() -> None:
    """Chunks of 64 steps, as tensor cores have; gates that need halves and gates that need none."""
    with changed((gated_sizes, "CHUNKS", {})):
        of_axis("keys", steps=67, reads=(True,))
        of_axis("values", steps=67, reads=(False,))
        of_axis("keys", steps=67, mild=True, reads=(False,))


def proven() -> None:
    """Blocks of rows that a lower bound of the gate allows, smaller than the chunk and of its size."""
    assert gated_sizes.base_of(-0.3, torch.float64) == 16
    assert gated_sizes.base_of(-28.0, torch.float32) == 4
    assert gated_sizes.base_of(None, torch.bfloat16) == gated_sizes.base_of(-0.3, torch.float16) == 1
    of_axis("keys", mild=True, base=4, steps=15)
    of_axis("values", mild=True, base=16, steps=15)


def spans() -> None:
    """Few programs: the steps are divided, and the states between the parts follow."""
    kept = ((of, "KEPT", 32) for of in (gated, gated_sizes))
    with changed(*kept, (gated_walk, "programs_wanted", lambda: 40), (gated_walk, "DIVIDING", 0)):
        of_axis("keys", steps=70, reads=(True,))
        of_axis("none", steps=70, reads=(False,))


def front() -> None:
    """Static decays, several writes and reads, keys of several blocks; no decay; reads along the other axis."""
    q, k, v, g, state = problem("keys", mild=True, steps=5)

    def both(decay: Tensor | None, reads: list[str], twice: bool) -> None:
        def run(scan: Any, q: Tensor, k: Tensor, v: Tensor, s: Tensor) -> tuple[Tensor, ...]:
            writes = ((k, v), (v[..., :5], v)) if twice else ((k, v),)
            outputs, last = scan(
                s, [MicroStep(log_decay=decay, writes=writes)], [Read(q + i, w) for i, w in enumerate(reads)]
            )
            return (*outputs, last)

        agrees([q, k, v, state], [lambda *x: run(matrix_scan, *x), lambda *x: run(matrix.matrix_scan, *x)])

    both(g, ["old", "new"], True)
    both(g[0, 0].detach(), ["new"], False)
    both(g[..., 0].detach(), ["new"], False)
    both(None, ["old"], False)
    with changed((gated_sizes, "LARGEST", {8: 4})):
        both(g, ["new"], False)

    step, key = MicroStep(log_decay=g.detach(), writes=((k.detach(), v.detach()),)), v.detach()
    for bounds in (None, torch.tensor([0, 3, 3, g.shape[1]])):
        s = state.detach().expand(1 if bounds is None else 3, *state.shape[1:])
        for when in ("old", "new"):
            reads = [Read(key, when)]
            (want,), last = matrix._across(s, [step], reads, None, bounds)
            (got,), end = decays.scan(s, [step], reads, bounds=bounds, across=True)
            assert support.error(got, want) < 1e-12
            assert support.error(end, last) < 1e-12

    def across(q: Tensor, k: Tensor, v: Tensor, g: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        step = MicroStep(log_decay=g, writes=((k, v),))
        (o,), last = decays.scan(s, [step], [Read(v + q[..., :1])], across=True, least=-0.3)
        return o, last

    agrees([q, k, v, g, state], [lambda q, k, v, g, s: turned(v + q[..., :1], v, k, g, s), across])


def turned(q: Tensor, k: Tensor, v: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    o, last = one_by_one(q, k, v, g, state.mT, False, "values")
    return o, last.mT


def low_precision() -> None:
    """bfloat16, float16 and float32 in and out: as exact as the inputs."""
    for dtype, mild in ((torch.bfloat16, False), (torch.bfloat16, True), (torch.float16, True), (torch.float32, False)):
        for axis in ("keys", "none"):
            if axis == "keys" or mild:
                low(dtype, axis, mild)


def low(dtype: torch.dtype, axis: str, mild: bool) -> None:
    given = [x.detach().to(dtype) for x in problem(axis, mild=mild)]
    given[3], given[4] = given[3].float(), given[4].float()
    want = one_by_one(*(x.double() for x in given), False, axis)
    got = gated_scan(*given, False, axis, 1)
    assert got[0].dtype == dtype
    assert got[1].dtype == torch.float32
    for a, b in zip(want, got, strict=False):
        assert support.error(b.double(), a) < 4 * torch.finfo(dtype).eps, (dtype, axis, mild)


def low_gradients() -> None:
    """bfloat16 and float16: gradients in the dtypes of what they belong to, as exact as these."""
    for dtype, axis in ((torch.bfloat16, "keys"), (torch.bfloat16, "values"), (torch.float16, "values")):
        low = [x.detach().to(dtype) for x in problem(axis, mild=True)]
        low[4] = low[4].float()
        found = []
        for scan in (one_by_one, gated_scan):
            leaves = [x.detach().requires_grad_() for x in low]
            given = [x.double() for x in leaves] if scan is one_by_one else [*leaves]
            o, last = scan(*given, False, axis, *([1] if scan is gated_scan else []))[:2]
            loss = o.double().square().sum() + last.double().square().sum()
            found.append(torch.autograd.grad(loss, leaves))
        errors = [support.error(b.double(), a.double()) / torch.finfo(dtype).eps for a, b in zip(*found, strict=True)]
        assert max(errors) < 8, (dtype, axis, errors)


def wide_state() -> None:
    """Vectors of 16 bits with a state and gates in float32, or under autocast: products have the vectors' dtype, the
    state, sums and results are float32, and gradients as exact as the inputs.
    """
    eps = torch.finfo(torch.bfloat16).eps
    for autocast, axis in ((False, "keys"), (True, "none")):
        q, k, v, g, start = (x.detach().float() for x in problem(axis, mild=True, steps=70))
        low = [x if autocast else x.bfloat16() for x in (q, k, v)]
        found = []
        for scan, wide in ((matrix_scan, torch.float64), (matrix.matrix_scan, None)):
            leaves = [x.detach().requires_grad_() for x in (*low, g, start)]
            q, k, v, decay, state = (x.to(wide) if wide else x for x in leaves)
            decay = decay if axis == "keys" else decay.squeeze(-1)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                (o,), last = scan(state, [MicroStep(log_decay=decay, writes=((k, v),))], [Read(q)])
            assert o.dtype == last.dtype == (wide or torch.float32)
            loss = o.square().sum() + last.square().sum()
            found.append([o, last, *torch.autograd.grad(loss, leaves)])
        errors = [support.error(b.double(), a.detach().double()) / eps for a, b in zip(*found, strict=True)]
        assert 0.05 < max(errors) < 4, errors


def tuned() -> None:
    """Every chunk and every configuration of a kernel that a tuner would measure is run, and with the last of them it
    is the oracle: packed sequences and proven bounds, too.
    """
    measured: list[int] = []

    def timer(run: Callable[[], object]) -> float:
        run()
        measured.append(1)
        return -float(len(measured))

    for last in (32, 8):
        chunks = (gated_tuning, "chunks_of", lambda dtype, last=last: (16, last))
        with changed((tuner, "TUNER", tuner.Tuner(timer=timer, folder=lambda: None, always=True)), chunks):
            if last == 32:
                of_axis("keys", steps=35, reads=(False,))
                low(torch.bfloat16, "keys", True)
                assert {key[1] for key in tuner.TUNER.known} >= {"walk"}
            else:
                of_axis("values", mild=True, base=16, steps=9, reads=(True,))
                several([9, 0, 3], "none", False)
            known = dict(tuner.TUNER.known)
        assert {c.steps for c in known.values() if isinstance(c, gated_tuning.Chunk)} == {last}
        kernels = {"pairs"} if last == 32 else {"alike", "gate_gradient"}  # few channels leave others one way only
        assert {key[1] for key in known} >= kernels
    assert len(measured) >= 4 * 4


def checks() -> None:
    """PyTorch's own checks of the operator."""
    with buffers.taken(buffers.zeros):  # they are compared
        for axis in ("keys",):
            given = [x.detach().requires_grad_() for x in problem(axis, mild=True, steps=3)]
            torch.library.opcheck(gated_scan, (*given, False, axis, 1))
        given = [x.detach().requires_grad_() for x in problem("none", mild=True, steps=3)]
        given[4] = torch.randn(1, 1, 5, 8, dtype=torch.float64, requires_grad=True)
        value = torch.randn(1, 3, 1, dtype=torch.float64, requires_grad=True)
        torch.library.opcheck(gated_scan, (*given, False, "none", 1, None, value))


def wider(bounds: Tensor | None, old: bool, *given: Tensor) -> tuple[Tensor, ...]:
    """A state with one more column, each sequence alone: the read of both parts, and the last state."""
    q, k, v, g, start, c = given
    ends = [0, q.shape[1]] if bounds is None else bounds.tolist()
    values = torch.cat([v, c.unsqueeze(-1)], -1)
    rows = [
        one_by_one(*(x[:, a:b] for x in (q, k, values, g)), start[i : i + 1], old, "none")
        if a < b
        else (values[:, :0], start[i : i + 1])
        for i, (a, b) in enumerate(itertools.pairwise(ends))
    ]
    o = torch.cat([y for y, _ in rows], 1)
    return o[..., :-1], o[..., -1], torch.cat([last for _, last in rows])


def fused(bounds: Tensor | None, old: bool, *given: Tensor) -> tuple[Tensor, ...]:
    q, k, v, g, start, c = given
    o, last, _, dots = gated_scan(q, k, v, g, start, old, "none", 1, bounds, c)
    return o, dots, last


def in_front(bounds: Tensor | None, old: bool, *given: Tensor) -> tuple[Tensor, ...]:
    q, k, v, g, start, c = given
    step, read = MicroStep(log_decay=g, writes=((k, v),)), Read(q, "old" if old else "new")
    (o,), (n,), *last = matrix.normalised_scan(start[..., :-1], start[..., -1], [step], [read], c, bounds=bounds)
    return o, n, torch.cat([last[0], last[1].unsqueeze(-1)], -1)


def normaliser() -> None:
    """One more column whose values are numbers: alone, packed, in parts of the steps, where no kernel serves, and
    without a value given.
    """
    packed = torch.tensor([0, 5, 5, 37])

    def check(way: Callable[..., Any], bounds: Tensor | None, old: bool, steps: int = 37) -> list[Tensor]:
        given = problem("none", mild=bounds is not None, steps=steps)
        shapes = (1 if bounds is None else 3, 1, 5, 8), (1, steps, 1)
        given[4:] = [torch.randn(x, dtype=torch.float64, requires_grad=True) for x in shapes]
        agrees(given, [functools.partial(wider, bounds, old), functools.partial(way, bounds, old)])
        return given

    check(fused, None, False)
    check(fused, packed, False)
    check(in_front, packed, True)
    few = (gated_walk, "programs_wanted", lambda: 40), (gated_walk, "DIVIDING", 0)
    with changed(*((of, "KEPT", 32) for of in (gated, gated_sizes)), *few):
        check(fused, None, False, 70)
    with changed((decays, "one_pass", lambda *_: False)):
        check(in_front, None, True, 5)
    with changed((gated_sizes, "WITH_NORMALISER", 3)):  # more values than one scan takes beside the column
        check(in_front, packed, False)
    q, k, v, g, start, c = check(in_front, None, False)
    (o,), (n,), *_ = matrix.normalised_scan(start[..., :-1], start[..., -1], [MicroStep(writes=((k, v),))], [Read(q)])
    want = wider(None, False, q, k, v, torch.zeros_like(g), start, torch.ones_like(c))
    assert support.error(o, want[0].detach()) < 1e-12
    assert support.error(n, want[1].detach()) < 1e-12


def no_steps() -> None:
    """Without a step, or without a sequence: the state and its gradient pass through, and no kernel divides by zero."""
    for batch, steps in ((2, 0), (0, 3)):
        for axis, gates in (("keys", 5), ("values", 7), ("none", 1)):
            shapes = [(batch, steps, 3, n) for n in (5, 5, 7, gates)] + [(batch, 3, 5, 7)]
            q, k, v, g, state = (torch.randn(s, requires_grad=True) for s in shapes)
            o, last, *_ = gated_scan(q, k, v, g, state, False, axis, 1)
            weight = torch.randn_like(last)
            (o.sum() + (last * weight).sum()).backward()
            assert o.shape == v.shape
            assert last.equal(state)
            assert last.data_ptr() != state.data_ptr() or not last.numel()
            assert state.grad is not None
            assert state.grad.equal(weight)
            assert all(x.grad is not None and x.grad.shape == x.shape for x in (q, k, v, g))


def strange() -> None:
    """Sizes of one; gates that are all zero, one, denormal, growing or as large as numbers go; one gradient alone."""
    of = {"keys": 1, "values": 3, "none": 1}
    for value in (0.0, -torch.inf, -1e-310, 0.05, -1.7e308):
        for axis, n in of.items():
            q, k, v = (torch.randn(1, 17, 1, x, dtype=torch.float64) for x in (1, 1, 3))
            g, start = (
                torch.full((1, 17, 1, n), value, dtype=torch.float64),
                torch.randn(1, 1, 1, 3, dtype=torch.float64),
            )
            given = [x.requires_grad_() for x in (q, k, v, g, start)]
            agrees(
                given, [lambda *x, a=axis: one_by_one(*x, False, a), lambda *x, a=axis: gated_scan(*x, False, a, 1)[:2]]
            )
    given = [x.detach() for x in problem("keys", steps=5)]
    want = one_by_one(*given, False, "keys")
    with torch.inference_mode():
        got = gated_scan(*given, False, "keys", 1)
    assert all(support.error(a, b) < 1e-12 for a, b in zip(got, want, strict=False))
    for k, x in enumerate(given):
        x.requires_grad_()
        for which in (0, 1) if k else (0,):  # of the outputs alone; of the last state alone, which no query touches
            ways = one_by_one(*given, False, "keys"), gated_scan(*given, False, "keys", 1)
            found = [torch.autograd.grad(way[which].sum(), x)[0] for way in ways]
            assert support.error(found[1], found[0]) < 1e-12
        x.requires_grad_(False)


CASES: dict[str, Callable[[], None]] = {
    "no steps, decays": no_steps,
    "strange decays": strange,
    "a decay per key": lambda: of_axis("keys"),
    "a decay per value": lambda: of_axis("values"),
    "one decay": lambda: of_axis("none"),
    "one step, decays": lambda: of_axis("keys", steps=1),
    "long chunks": long_chunks,
    "proven bounds": proven,
    "spans": spans,
    "packed decays": packed,
    "front of decays": front,
    "low precision, decays": low_precision,
    "low gradients, decays": low_gradients,
    "a wide state": wide_state,
    "tuned decays": tuned,
    "checks of decays": checks,
    "normaliser": normaliser,
}
SLOW = ("strange decays",)
