"""Calls of C kernels with products of learned matrices inside a step: LSTM, GRU and whatever is written like them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime.native_call import Call, layout, summed
from rnnc.runtime.native_frame import Arranged, Frame
from rnnc.runtime.products import joined, product

__all__ = ["CoupledCall"]


def _panels(m: Tensor, columns: int) -> Tensor:
    """[..., k, n] as [..., panels, k, columns], the last panel filled with zeros."""
    n = m.shape[-1]
    whole = torch.nn.functional.pad(m, (0, -n % columns))
    return whole.unflatten(-1, (-1, columns)).transpose(-3, -2).contiguous()


@dataclass(kw_only=True, eq=False)
class CoupledCall(Call):
    """A call of a kernel with products: its tensors are inputs, matrices, states.

    Between them, in the order of the C function, stand products and vectors of all steps, which `backward` needs.
    """

    def _parted(self, tensors: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
        """Inputs by their place (None: a product), what products are added to, matrices, states."""
        k = self.kernel
        places = {p.input for p in k.products}
        rest = iter(tensors)
        inputs = [None if i in places else next(rest) for i in range(len(k.inputs))]
        starts = [next(rest) for p in k.products if p.start]
        return inputs, starts, [next(rest) for _ in k.products], list(rest)

    def _matrices(self, matrices: Sequence[Tensor], backward: bool) -> list[Tensor]:
        made = []
        for p, m in zip(self.kernel.products, matrices, strict=True):
            made.append(_panels(m.detach() if p.turned != backward else m.detach().mT, self.plan[7]))
        return made

    def forward(self, tensors: Sequence[Tensor], training: bool) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Outputs and final states; then products, vectors and states of all steps, which `backward` needs."""
        k = self.kernel
        inputs, starts, matrices, states = self._parted(tensors)
        panels = self._matrices(matrices, backward=False)
        frame = self.arranged.get(training)
        if frame is None:
            frame = self._remember(training, Arranged.of(self._coupled_frame(training, panels)))
        arrays, fresh = frame.arrays([*(x for x in inputs if x is not None), *states, *panels, *starts])
        kept, found = self._sorted(fresh)
        self.run("forward", frame, arrays, kept[-1] if training else None)
        if k.summed:
            outputs = (*k.outputs[: k.wanted], *k.states)
            found = [summed(x, len(o.parts)) for x, o in zip(found, outputs, strict=True)]
        return found, tuple(kept)

    def _sorted(self, fresh: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """What `backward` needs (products, vectors, states), and what the caller gets (outputs, final states)."""
        k = self.kernel
        first = len(k.products)
        wanted = first + (len(k.outputs) if k.wanted is None else k.wanted)
        vectors = first + len(k.outputs)
        finals = vectors + len(k.states)
        kept = [*fresh[:first], *fresh[wanted:vectors], *fresh[finals:]]
        return kept, [*fresh[first:wanted], *fresh[vectors:finals]]

    def _coupled_frame(self, training: bool, panels: Sequence[Tensor]) -> Frame:
        k, frame = self.kernel, self._frame()
        inputs, starts, _, states = self._parted(self.layouts)
        for given, o in zip(inputs, k.inputs, strict=True):
            if given is None:
                frame.rows(self.batch, self.steps, self.shape(o), o, training)
            else:
                frame.give(given[0], given[1], o, 0 if o.static else 2)
        for given, o in zip(states, k.states, strict=True):
            frame.give(given[0], given[1], o, 1)
        for at, o in enumerate(k.outputs):
            if k.wanted is not None and at >= k.wanted:
                frame.rows(self.batch, self.steps, self.shape(o), o, training)
            else:
                frame.take((*self.lead(), *self.shape(o)), o, 2, self.parts(o.parts))
        for o in k.states:
            frame.take((self.batch, *self.shape(o)), o, 1)
        self._keep(frame, training)
        for panel in panels:
            frame.panels(panel.stride())
        for (shape, stride), p in zip(starts, (p for p in k.products if p.start), strict=True):
            frame.give(shape, stride, k.inputs[p.input], 2)
        return frame

    def _keep(self, frame: Frame, training: bool) -> None:
        """The states before every step; of one step only where no backward reads them."""
        whole = Frame(dtype=frame.dtype, narrow=frame.narrow, vector=frame.vector)
        for o in self.kernel.states:
            whole.take((self.batch, self.steps if training else 1, *self.shape(o)), o, 2)
        for f in whole.fresh:
            frame.add_fresh(f)
        frame.strides += whole.strides

    def backward(
        self, tensors: Sequence[Tensor], held: Sequence[Tensor], given: Sequence[Tensor | None], checkpoints: Any
    ) -> list[Tensor | None]:
        k = self.kernel
        inputs, _, matrices, states = self._parted(tensors)
        wanted = len(k.outputs) if k.wanted is None else k.wanted
        kept = iter(checkpoints)
        whole = [next(kept) if x is None else x for x in inputs]
        vectors = {at: next(kept) for at in range(wanted, len(k.outputs))}
        before, gradients = list(kept), self.gradients(given)
        panels = self._matrices(matrices, backward=True)
        extra = [*whole, *states, *gradients, *before]
        key = ("backward", *map(layout, gradients))
        frame = self.arranged.get(key) or self._remember(key, Arranged.of(self._coupled_adjoint(extra, panels)))
        arrays, fresh = frame.arrays([*extra, *panels])
        self.run("backward", frame, arrays, None)
        found = fresh[len(k.outputs) - wanted :]
        count = len(found) - len(k.states)
        total = self._totals(found[:count])
        weights = self._weights(total, before, vectors)
        starts = [x.to(self.narrow) for p in k.products if p.start and (x := total[p.input]) is not None]
        return [*(total[i] for i, x in enumerate(inputs) if x is not None), *starts, *weights, *found[count:]]

    def _weights(
        self, total: Sequence[Tensor | None], before: Sequence[Tensor], vectors: dict[int, Tensor]
    ) -> list[Tensor]:
        """The gradients of the matrices: one product for those in a row that multiply the same vector."""
        found: list[Tensor] = []
        for (state, output, turned), group in groupby(self.kernel.products, lambda p: (p.state, p.output, p.turned)):
            vector = before[state] if state is not None else vectors[output]
            outs = [x for p in group if (x := total[p.input]) is not None]
            whole = joined(outs) if len(outs) > 1 else outs[0]
            made = _outer_products(vector, whole) if turned else _outer_products(whole, vector)
            found += made.split(outs[0].shape[-1], -1 if turned else -2)
        return found

    def _take_gradients(self, frame: Frame) -> None:
        """Those of products that stand in a row side by side: what reads them reads all of them by one product."""
        k = self.kernel
        learned = {p.input for p in k.products}
        places = range(len(k.inputs))
        for (together, axes), group in groupby(places, lambda i: (i in learned, k.inputs[i].axes)):
            run = list(group)
            if together and len(run) > 1 and axes[-1] == k.vector:
                shape = (*self.lead(), *self.shape(k.inputs[run[0]]))
                frame.take_together(shape, [k.inputs[i] for i in run])
                continue
            for i in run:
                self._take_gradient(frame, k.inputs[i], k.gradients[i])
        for o in k.states:
            frame.take((self.batch, *self.shape(o)), o, 1)

    def _coupled_adjoint(self, extra: Sequence[Tensor], panels: Sequence[Tensor]) -> Frame:
        k, frame = self.kernel, self._frame()
        given = iter(extra)
        wanted = len(k.outputs) if k.wanted is None else k.wanted
        for o in k.inputs:
            frame.give(*layout(next(given)), o, 0 if o.static else 2)
        for o in k.states:
            frame.give(*layout(next(given)), o, 1)
        for at, o in enumerate(k.outputs):
            if at >= wanted:
                frame.rows(self.batch, self.steps, self.shape(o), o, every=False)
            else:
                frame.give(*layout(next(given)), o, 2)
        for o in k.states:
            frame.give(*layout(next(given)), o, 1)
        self._take_gradients(frame)
        for o in k.states:
            frame.give(*layout(next(given)), o, 2)
        for p in panels:
            frame.panels(p.stride())
        return frame


def _outer_products(a: Tensor, b: Tensor) -> Tensor:
    """sum over batch and time of a b^T: [B, T, *per, n] and [B, T, *per, m] to [*per, n, m]."""
    a, b = a.flatten(0, 1), b.flatten(0, 1)
    if a.ndim == 2:
        return product(a.T, b)
    return torch.movedim(a, 0, -1) @ torch.movedim(b, 0, -2)
