"""Steps with products whose matrices do not fit on chip, in Triton's interpreter: products by PyTorch, kernels between.

Sizes are small: `step_by_step` has all heads run as large ones do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
import torch_support as support
import triton_buffers as buffers
import triton_coupled as coupled
import triton_transforms as transforms
from torch import Tensor
from triton_oracle import case_of, is_the_oracle, layer_of, spec_of
from triton_packed import packed_layers

from rnnc.runtime.gpu.coupled import CoupledRecurrence
from rnnc.runtime.gpu.tuning import Config

CELLS = {
    # sums over a vector, a number of each step, and a number that is learned: a program holds vectors whole
    "normed": """cell Normed(d: dim, n: dim) {
  input x: real[d]
  param leak: real init ones
  param p: real[n] init normal(0.5)
  state h: real[n] = 0
  gate f: real in (0, 1) = sigmoid(linear(x))
  h <- f * h + leak * tanh(rmsnorm(linear(h)) * p + linear(x))
  output y: real[n] = h'
  output size: real = sum(h' * h)
}""",
    # a vector that is computed before the first product, and two lengths in one round
    "computed first": """cell First(d: dim, n: dim, p: dim) {
  input x: real[d]
  state h: real[n] = 0
  state m: real[p] = 0
  let v: real[n] = tanh(h) * linear(x)
  h <- 0.5 * h + tanh(linear(v) + linear(m))
  m <- 0.5 * m + tanh(linear(v) + linear(x))
  output y: real[n] = h'
  output z: real[p] = m'
}""",
    # a vector that is as long as no state
    "bottleneck": """cell Bottleneck(d: dim, heads: dim, n: dim, r: dim) {
  input x: real[d]
  per heads {
    param p: real[r] init normal(0.5)
    state h: real[n] = 0
    let m: real[r] = tanh(linear(h) * p + linear(x))
    h <- 0.5 * h + linear(m)
  }
  output y: real[heads*n] = flatten(h')
}""",
    # products one after another, of a state and of what a step computes
    "low rank": """cell LowRank(d: dim, n: dim, r: dim) {
  input x: real[d]
  param U: real[n, r] init normal(0.4)
  param V: real[r, n] init normal(0.4)
  param W: real[r, r] init normal(0.4)
  state h: real[n] = 0
  let c: real[n] = tanh(U @ (W @ (V @ h)) + linear(x))
  h <- 0.5 * h + U @ (U.T @ c)
  output y: real[n] = h'
  output z: real[r] = V @ h'
}""",
}
SIZES: dict[str, tuple[str, dict[str, int], int, int]] = {  # a cell, its sizes, steps, entries that a program holds
    "LSTM": ("lstm", {"d": 3, "n": 37}, 9, 16),
    "GRU": ("gru", {"d": 3, "n": 17}, 7, 16),
    "RNN": ("rnn", {"d": 2, "n": 3}, 1, 16),
    "sLSTM": ("slstm", {"d": 6, "heads": 2, "dh": 19}, 5, 16),
    "reset first": (coupled.CELLS["reset first"], {"d": 3, "n": 21}, 7, 16),
    "peephole": (coupled.CELLS["peephole"], {"d": 3, "n": 23}, 6, 32),
    "projected": (coupled.CELLS["projected"], {"d": 3, "n": 33, "p": 5}, 4, 16),
    "rounds": (coupled.CELLS["rounds"], {"d": 2, "heads": 3, "n": 5}, 4, 16),
    "normed": (CELLS["normed"], {"d": 3, "n": 19}, 6, 32),
    "computed first": (CELLS["computed first"], {"d": 3, "n": 19, "p": 5}, 6, 16),
    "bottleneck": (CELLS["bottleneck"], {"d": 3, "heads": 2, "n": 17, "r": 5}, 4, 16),
    "low rank": (CELLS["low rank"], {"d": 3, "n": 17, "r": 5}, 4, 16),
}
SLOW = ("transforms, step by step", "float16, step by step", "packed heads, step by step")


@contextmanager
def step_by_step(entries: int = 16) -> Iterator[None]:
    """No matrix fits on chip; programs hold two sequences and so many entries."""
    known, made = CoupledRecurrence.on_chip, CoupledRecurrence.__post_init__

    def prepared(self: Any) -> None:
        made(self)
        self.configs["stepped",] = Config(steps=2, channels=entries)

    CoupledRecurrence.on_chip = lambda self, sizes, dtype: False  # type: ignore[method-assign]
    CoupledRecurrence.__post_init__ = prepared  # type: ignore[method-assign]
    try:
        yield
    finally:
        CoupledRecurrence.on_chip = known  # type: ignore[method-assign]
        CoupledRecurrence.__post_init__ = made  # type: ignore[method-assign]


def kernel_of(source: str) -> tuple[Any, Any, Any]:
    ir, layer, (k,) = layer_of(spec_of(source), None, None, Config(steps=4, channels=16))
    return ir, layer, k


def half_precision(source: str, dtype: torch.dtype) -> None:
    """Products in 16 bits, states in float32: as exact as the inputs, outputs and gradients."""
    with step_by_step():
        ir, layer, _ = kernel_of(source)
        case = case_of(ir, {"d": 3, "n": 21}, 15, start=False)
        net = case.module(layer, dtype)
        x = support.tensor(case.inputs["x"], dtype).requires_grad_()
        y, final = net(x)
    assert {v.dtype for v in (y, *final.values())} == {dtype}
    loss = (y.float() * support.tensor(case.d_outputs["y"], torch.float32)).sum()
    for k, v in final.items():
        loss = loss + (v.float() * support.tensor(case.d_final[k], torch.float32)).sum()
    loss.backward()
    eps = torch.finfo(dtype).eps
    assert support.error(y.float(), case.outputs["y"]) < 4 * eps
    assert support.error(x.grad.float(), case.grads.inputs["x"]) < 10 * eps
    for name, p in net.named_parameters():
        assert support.error(p.grad.float(), case.grads.params[name]) < 10 * eps, name


def no_steps(source: str) -> None:
    """A sequence without steps leaves states and their gradients as they are, and matrices without any."""
    with step_by_step():
        _, _, k = kernel_of(source)
        inputs = [torch.randn(3, 0, 7, dtype=torch.float64, requires_grad=True) for _ in k.inputs]
        inputs += [torch.randn(7, 7, dtype=torch.float64, requires_grad=True) for _ in k.products]
        states = [torch.randn(3, 7, dtype=torch.float64, requires_grad=True) for _ in k.states]
        outputs, last = k(inputs, states, [3, 7], 0)
        assert outputs[0].shape == (3, 0, 7)
        assert all(torch.equal(a, b) for a, b in zip(last, states, strict=True))
        weights = [torch.randn_like(h) for h in last]
        loss = sum((h * w).sum() for h, w in zip(last, weights, strict=True))
        found = torch.autograd.grad(loss, [*states, *inputs[-len(k.products) :]])
        assert all(torch.equal(a, b) for a, b in zip(found, weights, strict=False))
        assert not any(g.any() for g in found[len(states) :])


def operator(source: str) -> None:
    """The registration as PyTorch itself checks it, and two runs that give the same bits."""
    with step_by_step():
        _, _, k = kernel_of(source)
        rng = np.random.default_rng(0)

        def random(*shape: int) -> Tensor:
            return torch.tensor(rng.normal(size=shape)).requires_grad_()

        heads = [3] if k.axes.grid else []
        inputs = [random(2, 3, *heads, 5) for _ in k.inputs] + [random(*heads, 5, 5) for _ in k.products]
        states = [random(2, *heads, 5) for _ in k.states]
        arguments = (k.key, inputs, states, [6, 3, 5, *heads, 5], 3, 3, None, True)
        found = []
        for _ in range(2):
            results = torch.ops.rnnc.stepped(*arguments)[: len(k.outputs) + len(k.states)]
            found.append([*results, *torch.autograd.grad(sum(y.square().sum() for y in results), [*inputs, *states])])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
        with buffers.taken(buffers.zeros):  # opcheck compares buffers
            torch.library.opcheck(torch.ops.rnnc.stepped, arguments)


def _case(source: str, dims: dict[str, int], steps: int, entries: int) -> None:
    with step_by_step(entries):
        is_the_oracle(source, kind="coupled", dims=dims, steps=steps, step=True)


def _packed(source: str, dims: dict[str, int]) -> None:
    with step_by_step():
        packed_layers(((source, None, dims),))


def _transformed() -> None:
    with step_by_step():
        transforms.transformed("lstm")


CASES: dict[str, Callable[[], None]] = {
    f"{name}, step by step": partial(_case, *given) for name, given in SIZES.items()
}
CASES |= {
    name: partial(is_the_oracle, text, kind="coupled", dims=SIZES[name][1], steps=4, step=True)
    for name, text in CELLS.items()
}
CASES |= {
    "packed, step by step": partial(_packed, coupled.CELLS["reset first"], {"d": 3, "n": 5}),
    "packed heads, step by step": partial(_packed, "slstm", {"d": 2, "heads": 2, "dh": 3}),
    "transforms, step by step": _transformed,
    "no steps, step by step": partial(no_steps, "lstm"),
    "operator, step by step": partial(operator, "slstm"),
    "bfloat16, step by step": partial(half_precision, "lstm", torch.bfloat16),
    "float16, step by step": partial(half_precision, "lstm", torch.float16),
}
