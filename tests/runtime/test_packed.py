"""Packed sequences of different lengths against one call for each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import rnnc
import rnnc.runtime as runtime
import rnnc.spec
from rnnc.runtime import MicroStep, Read, Update, causal_conv, last_state, linear_scan, matrix_scan, run_packed
from rnnc.runtime.packed import flipped, new_past, own_steps, states_before, with_past
from rnnc.runtime.varlen import pack, pad, reverse_each, sequence_lengths

F64 = torch.float64
LENGTHS = [3, 0, 7, 3, 1, 0, 4]
BOUNDS = torch.tensor([0, *LENGTHS]).cumsum(0)


class Layer(nn.Module):
    """A convolution and a scan: a state and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, dtype=F64))

    def initial_state(self, batch: int, *, device: object = None, dtype: object = None) -> dict[str, Tensor]:
        return {"h": torch.ones(batch, 3, dtype=F64), "past": torch.zeros(batch, 3, 3, dtype=F64)}

    def forward(
        self, x: Tensor, gate: Tensor, state: dict[str, Tensor] | None = None
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        state = self.initial_state(x.shape[0]) if state is None else state
        window = torch.cat((state["past"], x), 1)
        u = causal_conv(window, self.weight)
        h = linear_scan(gate.sigmoid(), u, state["h"])
        return (h.sin(), u), {"h": last_state(h, state["h"]), "past": window[:, -3:]}


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("reverse", [True, False])
def test_run_packed(given: bool, reverse: bool) -> None:
    layer, total = Layer(), int(BOUNDS[-1])
    x, gate = torch.randn(1, total, 3, dtype=F64), torch.randn(1, total, 3, dtype=F64)
    h0 = torch.randn(len(LENGTHS), 3, dtype=F64)
    leaves = [t.requires_grad_() for t in (x, gate, h0, layer.weight)]
    state = {"h": h0, "past": torch.randn(len(LENGTHS), 3, 3, dtype=F64)} if given else None

    (y, u), final = run_packed(layer, (x, gate), state, BOUNDS, reverse=reverse)
    found = torch.autograd.grad((y**2).sum() + u.sum() + final["h"].sin().sum(), leaves, allow_unused=not given)

    loss = torch.zeros((), dtype=F64)
    for i, n in enumerate(LENGTHS):
        own = {k: v[i : i + 1] for k, v in state.items()} if state else layer.initial_state(1)
        parts = [t[:, BOUNDS[i] : BOUNDS[i] + n] for t in (x, gate)]
        (y_i, u_i), s_i = layer(*(p.flip(1) if reverse else p for p in parts), own)
        y_i, u_i = (o.flip(1) if reverse else o for o in (y_i, u_i))
        assert torch.allclose(y[:, BOUNDS[i] : BOUNDS[i] + n], y_i)
        assert torch.allclose(u[:, BOUNDS[i] : BOUNDS[i] + n], u_i)
        for k, v in s_i.items():
            assert torch.allclose(final[k][i], v[0])
        loss = loss + (y_i**2).sum() + u_i.sum() + s_i["h"].sin().sum()
    expected = torch.autograd.grad(loss, leaves, allow_unused=not given)
    for a, b in zip(found, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b)


def test_pad_pack_and_reverse() -> None:
    x = torch.randn(1, int(BOUNDS[-1]), 2)
    padded = pad(x, LENGTHS)
    assert padded.shape == (7, 7, 2)
    assert padded[0, 3:].abs().sum() == 0
    assert torch.equal(pack(padded, LENGTHS), x)
    turned = reverse_each(x, LENGTHS)
    assert torch.equal(turned[:, :3], x[:, :3].flip(1))
    assert torch.equal(turned[:, 3:10], x[:, 3:10].flip(1))
    assert torch.equal(reverse_each(turned, LENGTHS), x)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        (torch.tensor([1, 5]), "start at 0"),
        (torch.tensor([0, 4, 3, 5]), "4 is followed by 3"),
        (torch.tensor([0, 4]), "ends at 4"),
        (torch.tensor([0.0, 5.0]), "integers"),
        (torch.tensor([0]), "at least 2"),
        (torch.tensor([[0, 5]]), "vector"),
    ],
)
def test_wrong_boundaries(bounds: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence_lengths(bounds, 5)


def test_wrong_batch_sizes() -> None:
    layer, x = Layer(), torch.randn(1, int(BOUNDS[-1]), 3, dtype=F64)
    with pytest.raises(ValueError, match="names 7 sequences"):
        run_packed(layer, (x, x), layer.initial_state(1), BOUNDS)
    with pytest.raises(ValueError, match="batch size 1"):
        run_packed(layer, (x.expand(2, -1, -1), x), None, BOUNDS)


# ---------------------------------------------------------------- without lengths on the host

Tensors = tuple[Tensor, ...]


def agrees(leaves: Sequence[Tensor], run: Callable[..., Tensors], moving: int) -> None:
    """`run(..., bounds)` of all sequences at once against one call each: values and gradients.

    The first `moving` leaves are packed, the last has an entry for each sequence, those between are static; so is the
    last value that `run` gives, and the others are packed.
    """

    def apart() -> Tensors:
        pairs = itertools.pairwise(BOUNDS.tolist())
        found = [
            run(*(x[:, a:b] for x in leaves[:moving]), *leaves[moving:-1], leaves[-1][i : i + 1], None)
            for i, (a, b) in enumerate(pairs)
        ]
        *values, last = zip(*found, strict=True)
        return *(torch.cat(v, 1) for v in values), torch.cat(last)

    ways = [run(*leaves, BOUNDS), apart()]
    weights = [torch.randn_like(x) for x in ways[0]]
    losses = [sum((x * w).real.sum() for x, w in zip(way, weights, strict=True)) for way in ways]
    found = [[*way, *torch.autograd.grad(loss, leaves)] for way, loss in zip(ways, losses, strict=True)]
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-11)


def random(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


TOTAL = sum(LENGTHS)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((f"{n}_scan", F64) for n in ("linear", "lerp", "max_plus", "min_plus", "log_plus", "convolution")),
        *((f"{n}_scan", torch.complex128) for n in ("linear", "lerp")),
    ],
)
def test_scans_start_anew(name: str, dtype: torch.dtype) -> None:
    static = name == "convolution_scan"

    def run(a: Tensor, b: Tensor, h: Tensor, bounds: Tensor | None) -> Tensors:
        a, b = (b, a) if static else (a, b)  # packed first
        y = getattr(runtime, name)(a, b, h, bounds=bounds)
        return y, states_before(y, h, bounds)[:, : y.shape[1]], last_state(y, h, bounds)

    factor = torch.rand((2, 3) if static else (1, TOTAL, 2, 3), dtype=F64, requires_grad=True)
    given = [factor, random(1, TOTAL, 2, 3, dtype=dtype)]
    agrees([*(given[::-1] if static else given), random(7, 2, 3, dtype=dtype)], run, 1 if static else 2)


def test_block_scans_start_anew() -> None:
    def run(a: Tensor, b: Tensor, h: Tensor, bounds: Tensor | None) -> Tensors:
        y = runtime.block_scan(a, b, h, bounds=bounds)
        return y, last_state(y, h, bounds)

    agrees([random(1, TOTAL, 2, 3, 3), random(1, TOTAL, 2, 3), random(7, 2, 3)], run, 2)


def test_windows_stop_at_the_ends() -> None:
    """Convolutions and delays look back into the values before their own sequence."""

    def run(x: Tensor, weight: Tensor, past: Tensor, bounds: Tensor | None) -> Tensors:
        window = with_past(past, x, bounds)
        y = own_steps(causal_conv(window, weight), 3, bounds)
        return y, own_steps(window[:, :-3], 3, bounds), new_past(window, 3, bounds)

    agrees([random(1, TOTAL, 2), random(2, 4), random(7, 3, 2)], run, 1)
    x = torch.randn(1, TOTAL, 2)
    assert torch.equal(flipped(x, BOUNDS), reverse_each(x, LENGTHS))


@pytest.mark.parametrize("decay", ["log_decay", "decay"])
def test_matrix_states_side_by_side(decay: str) -> None:
    """Static decays and vectors, updates that read the state, low rank, two micro-steps, the old state read."""

    def run(
        k: Tensor, q: Tensor, v: Tensor, beta: Tensor, g: Tensor, u: Tensor, h: Tensor, at: Tensor | None
    ) -> Tensors:
        first = MicroStep(**{decay: g}, updates=(Update(k, v, k, -1.0, s=beta),), writes=((u, v),))
        steps = [first, MicroStep(low_rank=((u, k),))]
        (o,), last = matrix_scan(h, steps, [Read(q, "old")], bounds=at, length=q.shape[1])
        return o, last

    vectors = [random(1, TOTAL, 2, n) for n in (3, 3, 4)]
    agrees([*vectors, random(1, TOTAL, 2), random(2), random(2, 3), random(7, 2, 3, 4)], run, 4)


def test_a_layer_of_layers_in_one_call() -> None:
    """A convolution, a previous value, a call and a scan: no length of a sequence decides about any shape, so
    torch.compile sees one graph; outputs, states and gradients are those of one call each.
    """
    spec = rnnc.parse("""
cell Inner(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  h <- sigmoid(linear(x)) * h + prev(x)
  output y: real[d] = h'
}
cell Outer(d: dim) {
  input x: real[d]
  let u: real[d] = conv(x, width = 3) + prev(prev(x))
  let v: real[d] = Inner(d = d)(u)
  state s: real[d] = 0
  s <- max(s - 1, v)
  output y: real[d] = s' * u
}""")
    layer = rnnc.compile(spec, "Outer", backend="torch")(d=3, dtype=F64)
    x = random(1, TOTAL, 3)
    few = {k: v.detach() for k, v in layer(torch.randn(7, 4, 3, dtype=F64))[1].items()}
    few["s"].requires_grad_()
    found = []
    for reverse in (False, True):
        whole = torch.compile(layer, backend="eager", fullgraph=True)
        ways = [
            layer(x, few, cu_seqlens=BOUNDS, reverse=reverse),
            whole(x, few, cu_seqlens=BOUNDS, reverse=reverse),
            run_packed(layer, (x,), few, BOUNDS, reverse=reverse),
        ]
        for y, final in ways:
            loss = y.sin().sum() + final["s"].sin().sum()
            leaves = [x, few["s"], *layer.parameters()]
            found.append([y, final["s"], final["inner_h"], *torch.autograd.grad(loss, leaves, retain_graph=True)])
    for first, second, want in (found[:3], found[3:]):
        for got in (first, second):
            for a, b in zip(got, want, strict=True):
                torch.testing.assert_close(a, b)
