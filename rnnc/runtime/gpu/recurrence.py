"""Runs the two kernels of a recurrence: the operator `rnnc::recurrence` around them, their buffers and launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime.gpu import interpreter
from rnnc.runtime.gpu.arrange import Axes, arranged, is_complex, label_sizes, labels_of, lead_of, restored
from rnnc.runtime.gpu.buffers import added_up, divided, empty, gradient_buffers, result_buffers
from rnnc.runtime.gpu.compat import interpreted
from rnnc.runtime.gpu.devices import check_devices
from rnnc.runtime.gpu.newton import NewtonCounts
from rnnc.runtime.gpu.operators import REGISTRY, Call, declare
from rnnc.runtime.gpu.problem import Problem
from rnnc.runtime.gpu.splits import gradients_between, states_between
from rnnc.runtime.gpu.tuning import Config, Live, default_config, power_of_two, turned_fits

__all__ = ["Recurrence"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recurrence:
    """The kernels of a recurrence and the layout of what they read and write.

    `inputs`, `outputs`, `states` are descriptors (see `arrange`); `gradients` are the inputs whose gradient `backward`
    writes; `..._dims` are the places, among the cell's dims, of those that a kernel takes.  `kind` is "scan", "newton",
    "sequential" or "coupled"; `long`: a step computes very much; `full`: its kernels may use all registers.  A scan may
    share out the steps, too: then `totals` says what each split of them does to a state (and `backward_totals` to a
    gradient), and the states between the splits follow from that.  `twins`: labels of inner axes that no state has,
    each with a state's that is as long.
    """

    key: str
    kind: str
    forward: Any
    backward: Any
    axes: Axes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[str, ...]
    gradients: tuple[int, ...]
    totals: Any = None
    backward_totals: Any = None
    semiring: str = "plus_times"
    twins: str = ""
    long: bool = False
    full: bool = False
    forward_dims: tuple[int, ...] = ()
    backward_dims: tuple[int, ...] = ()
    totals_dims: tuple[int, ...] = ()
    backward_totals_dims: tuple[int, ...] = ()
    configs: dict[tuple[Any, ...], Config] = field(default_factory=dict)
    counts: dict[torch.device, Tensor] = field(default_factory=dict)  # of Newton's method, on each device

    def __post_init__(self) -> None:
        REGISTRY[self.key] = self

    def __call__(
        self,
        inputs: Sequence[Tensor],
        states: Sequence[Tensor],
        dims: Sequence[int],
        steps: int | None,
        bounds: Tensor | None = None,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Outputs for all steps, and the states after the last.

        `inputs` are `[batch, time, ...]` (static ones `[...]`); with `steps` None they are those of a single step,
        without a time axis, and so are the outputs.  With `bounds` (int64, on the device) they are packed sequences
        `[1, time, ...]`, one for each row of `states`.  Raises RuntimeError where the tensors are on no GPU, or not all
        on one.
        """
        sizes = self._sizes(states, inputs[len(self.inputs) :])
        single = steps is None
        given = []
        for x, d in zip(inputs, self.inputs):
            stream = bool(lead_of(d))
            given.append(arranged(x.unsqueeze(1) if single and stream else x, d, self.axes, sizes))
        given += self.arrange_more(inputs[len(given) :], sizes)
        start = [arranged(h, d, self.axes, sizes) for h, d in zip(states, self.states, strict=True)]
        self._check_sizes(given, start, 1 if single else steps or 0, bounds)
        check_devices([*start, *given, *([] if bounds is None else [bounds])])
        numbers = [*dims, *(sizes[label] for label in sorted(sizes))]
        found = self.run(given, start, numbers, 1 if single else steps or 0, bounds)
        outputs = [restored(y, d, self.axes, sizes) for y, d in zip(found, self.outputs)]
        last = [restored(h, d, self.axes, sizes) for h, d in zip(found[len(outputs) :], self.states)]
        return tuple(y.squeeze(1) if single else y for y in outputs), tuple(last)

    def _check_sizes(
        self, given: Sequence[Tensor], states: Sequence[Tensor], steps: int, bounds: Tensor | None
    ) -> None:
        """Raises ValueError where inputs have not the sequences and steps that a kernel goes over."""
        if torch.compiler.is_compiling():
            return
        batch = states[0].shape[0]
        streams = [x for x, d in zip(given, self.inputs) if lead_of(d)]
        wanted = [(1 if bounds is not None else batch, steps)] * len(streams)
        if [tuple(x.shape[:2]) for x in streams] != wanted or any(h.shape[0] != batch for h in states):
            raise ValueError(
                f"inputs with [batch, time] of {[tuple(x.shape[:2]) for x in streams]} and states of "
                f"{[h.shape[0] for h in states]} sequences do not belong together"
            )

    def arrange_more(self, inputs: Sequence[Tensor], sizes: dict[str, int]) -> list[Tensor]:
        """What is given behind the inputs that `inputs` describes."""
        assert not inputs, "as many inputs as descriptors"
        return []

    def run(
        self, inputs: list[Tensor], states: list[Tensor], numbers: list[int], steps: int, bounds: Tensor | None
    ) -> list[Tensor]:
        """Outputs, the last states, and perhaps more; all arrays with the kernels' axes."""
        return call_recurrence(self.key, inputs, states, numbers, steps, steps, bounds)

    @property
    def labels(self) -> list[str]:
        """The labels whose sizes a call is told, behind those of the cell's dims."""
        return sorted({x for d in (*self.states, self.twins) for x in d if x.isupper()})

    def _sizes(self, states: Sequence[Tensor], more: Sequence[Tensor]) -> dict[str, int]:
        """Of all labels, from the states and from what is given behind the inputs that `inputs` describes."""
        found: dict[str, int] = {}
        for h, d in zip(states, self.states, strict=True):
            found |= label_sizes(d, h)
        return found | {a: found[b] for a, b in zip(self.twins[::2], self.twins[1::2])}

    def fits(self, state: Tensor, like: Tensor) -> bool:
        """Whether a program holds all of a step whose state is read under several labels; `like` is one of its inputs.

        Requires: `state` is the first of those with the most axes.
        """
        largest = max(self.states, key=lambda d: len(labels_of(d)))
        sizes = label_sizes(largest, state)
        sizes |= {a: sizes[b] for a, b in zip(self.twins[::2], self.twins[1::2])}
        parts = self.parts * (2 if like.dtype == torch.float64 else 1)
        return turned_fits([sizes[x] for x in self.axes.inner], parts)

    @property
    def timed(self) -> bool:
        """Whether a program holds tiles of steps."""
        return self.kind in ("scan", "newton")

    def count(self, found: Tensor) -> None:
        """Add what Newton's method did, one number a tile: its iterations, negative where they did not solve it."""
        more = torch.stack([(found != 0).sum(), found.abs().sum(), (found < 0).sum()])
        at = found.device
        self.counts[at] = more if at not in self.counts else self.counts[at].add_(more)

    def report(self) -> NewtonCounts:
        """What Newton's method did on all devices since the kernel was loaded; waits for them."""
        tiles, iterations, sequential = (sum(int(x[k]) for x in self.counts.values()) for k in range(3))
        return NewtonCounts(tiles=tiles, iterations=iterations, sequential=sequential)

    @property
    def parts(self) -> int:
        """Real numbers an entry of a state."""
        return 2 if any(is_complex(d) for d in self.states) else 1

    def default_config(self, channels: int, inner: Sequence[int], itemsize: int = 2) -> Config:
        """`itemsize`: the bytes of the sequences' numbers."""
        parts = self.parts * len(self.states) ** 2 if self.kind == "newton" else self.parts
        wide = self.semiring == "log_plus" or (self.full and parts == 1 and not inner)
        live = self.live(inner) if self.kind == "scan" else Live()
        found = default_config(
            self.kind, channels, inner, parts=parts, wide=wide, long=self.long, live=live, itemsize=itemsize
        )
        return replace(found, registers=255) if self.full else found

    def live(self, inner: Sequence[int]) -> Live:
        """What a thread of a backward holds at once, where a state has inner axes of these sizes, at most.

        Of a step its factor and the states on both sides of it, what has inner axes as read and, if it is read entry by
        entry, what the step makes of it and its gradient; of anything else seven: these and two addresses.  Through all
        steps a state and a gradient of it, and static inputs with theirs.
        """
        sizes = {x: power_of_two(n) for x, n in zip(self.axes.inner, inner)}

        def held(descriptor: str) -> int:
            return prod(sizes.get(x, 1) for x in labels_of(descriptor)) * (2 if is_complex(descriptor) else 1)

        def whole(descriptor: str) -> bool:
            return not sizes.keys().isdisjoint(labels_of(descriptor))

        entries, tile = held(self.states[0]), {*self.axes.tile}
        steps = [d for d in (*self.inputs, *self.outputs) if lead_of(d)]
        static = [d for d in self.inputs if not lead_of(d)]
        return Live(
            entry=3 + sum(held(d) * (3 if tile.issubset(labels_of(d)) else 1) for d in steps if whole(d)) / entries,
            channel=7.0 * sum(held(d) for d in steps if not whole(d)),
            carried=2 + 2 * sum(held(d) for d in static if whole(d)) / entries,
        )

    # ------------------------------------------------------------ buffers and launches

    def problem(self, batch: int, numbers: Sequence[int], steps: int, packed: bool, itemsize: int = 2) -> Problem:
        labels = self.labels
        count = len(numbers) - len(labels)
        return Problem(
            of=self,
            batch=batch,
            steps=steps,
            packed=packed,
            itemsize=itemsize,
            dims=tuple(numbers[:count]),
            sizes=dict(zip(labels, numbers[count:], strict=True)),
        )


if interpreted():
    interpreter.prepare()


# ---------------------------------------------------------------- the operator


def _buffers(call: Call, inputs: Sequence[Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    """Outputs, last states, and the states before every tile."""
    p = call.p
    kept = [empty(p.shape(d, (p.kept,)), states[0], call.acc) for d in p.of.states]
    return result_buffers(p, inputs, states) + kept


def forward(call: Call, inputs: list[Tensor], states: list[Tensor]) -> list[Tensor]:
    """Outputs, last states, and the states before every tile."""
    dtypes = [x.dtype for x in inputs]
    return call.fastest("forward", dtypes, call.p.neighbours, lambda other: run_forward(other, inputs, states))


def run_forward(call: Call, inputs: list[Tensor], states: list[Tensor]) -> list[Tensor]:
    """`forward`, in the configuration that the call has."""
    p, of, found = call.p, call.p.of, _buffers(call, inputs, states)
    outputs, last, kept = divided(found, len(of.outputs), len(states))
    start = states
    if p.splits > 1:
        total, factor = _totals(call, "totals", inputs, states[0])
        between = empty(total.shape, total, total.dtype)
        start = [states_between(of.semiring, is_complex(of.states[0]), states[0], total, factor, between)]
    ends = [empty(p.shape(d, p.lead), h, h.dtype) for d, h in zip(of.states, states, strict=True)]
    arguments = [call.bounds, *p.arguments(inputs), *(h.contiguous() for h in start), *outputs, *ends, *kept]
    if of.kind == "newton":
        counts = kept[0].new_zeros((p.kept, p.heads * p.blocks("forward")), dtype=torch.int32)
        arguments.append(counts)
    p.launch("forward", arguments, call.acc)
    for whole, part in zip(last, ends, strict=True):
        whole.copy_(part[:, -1] if of.timed else part)
    if of.kind == "newton":
        of.count(counts)
    return found


def _totals(
    call: Call, role: str, inputs: Sequence[Tensor], like: Tensor, more: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    """What each split adds, and by what it multiplies: `[B, splits, ...]`."""
    p = call.p
    total, factor = (empty(p.shape(p.of.states[0], p.lead), like, call.acc) for _ in range(2))
    p.launch(role, [None, *p.arguments(inputs), *more, total, factor], call.acc)
    return total, factor


def backward(
    call: Call, inputs: list[Tensor], kept: list[Tensor], d_outputs: list[Tensor], d_last: list[Tensor]
) -> list[Tensor]:
    """Gradients of the inputs that have one, then of the initial states (in the dtype of the arithmetic)."""
    dtypes = [x.dtype for x in inputs]
    run = lambda other: run_backward(other, inputs, kept, d_outputs, d_last)  # noqa: E731
    return call.fastest("backward", dtypes, call.p.neighbours, run)


def run_backward(
    call: Call, inputs: list[Tensor], kept: list[Tensor], d_outputs: list[Tensor], d_last: list[Tensor]
) -> list[Tensor]:
    """`backward`, in the configuration that the call has."""
    p, of, found = call.p, call.p.of, gradient_buffers(call.p, inputs, kept[0], call.acc)
    outer, ends = [g.contiguous() for g in d_outputs], d_last
    if p.splits > 1:
        total, factor = _totals(call, "backward_totals", inputs, kept[0], [*kept, *outer])
        between = empty(total.shape, total, total.dtype)
        ends = [gradients_between(is_complex(of.states[0]), d_last[0], total, factor, between)]
    arguments = [call.bounds, *p.arguments(inputs), *kept, *outer, *(g.contiguous() for g in ends), *found]
    if of.kind == "sequential":  # the state before each step of the tile in work
        rows = p.config.steps
        arguments += [empty(p.shape(d, (p.batch, rows)), kept[0], call.acc) for d in of.states]
    p.launch("backward", arguments, call.acc)
    return added_up(p, found, inputs)


call_recurrence = declare("recurrence", forward=forward, results=_buffers, backward=backward)
