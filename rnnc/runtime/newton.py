"""Newton's method over time: all states of a nonlinear recurrence from a few linear ones.

    h_t = F(h_{t-1}, x_t),   t = 1..T.    With a guess h, its residual r_t = F(h_{t-1}) - h_t and the slopes
    A_t = dF/dh at h_{t-1}, the correction is the linear recurrence   d_t = A_t d_{t-1} + r_t,   h <- h + d.

(DEER, Lim et al. 2024, eq. 5 with this sign of r.)  Nothing is taken on trust:

- a window of steps is accepted where the residual *and* the correction that it causes are below the tolerance.  The
  second is the error of the states themselves, which a small residual alone does not bound where errors grow;
- where the residual grows, the slopes are damped (by 1/2, 1/4, 0: the last is a Picard iteration), as in ELK (Gonzalez
  et al. 2024), which leaves the solution where it is;
- where iterations make no progress any more, or `CAP` were made, the steps up to the first one that is wrong are kept,
  and the rest goes on in windows of a quarter of the size, at last step by step, which is counted and said.

Backward.  With D_t the gradient of h_t, G_t = D_t + A_{t+1}^T G_{t+1} is one linear recurrence that runs backward,
with the exact slopes at the solution; G_t is the gradient of F's value in step t, and of the state before it A_1^T G_1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime._compat import exporting
from rnnc.runtime.layout import common_dtype, compute_dtype
from rnnc.runtime.newton_report import NewtonReport, between_graphs, refuse_second, refuse_tracing, tolerance
from rnnc.runtime.scan import _adjoint_kernel, _scan_kernel

__all__ = ["Blocks", "newton_scan"]

CAP = 50  # iterations for one window; a contraction takes 4 to 7
PATIENCE = 4  # iterations that leave as many entries wrong as before, and no residual half as large
PROGRESS = 0.9
WINDOW = 1 << 19  # numbers of state in a window at most: what an iteration reads and writes stays in the cache
SMALLEST = 16  # steps of a window
STRETCH = 64  # steps taken one by one before the next attempt; doubled each time
DAMPED = (1.0, 0.5, 0.25, 0.0)
MOST_ENTRIES = 32  # of a dense block, as in rnnc.ir.linearise

Tensors = tuple[Tensor, ...]
Step = Callable[[Tensors, Tensors, Tensors], Tensors]
Slopes = Callable[[Tensors, Tensors, Tensors], tuple[Tensors, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """How states make vectors that a matrix of slopes acts on.

    `pattern` diagonal: one state, numbers instead of matrices.  coupled: the states' entries at one position.  dense:
    all entries but for the first `lead` axes behind batch and time; `pull` is the step's backward pass.
    """

    pattern: str
    lead: int = 0
    pull: Callable[[Tensors, Tensors, Tensors, Tensors], Sequence[Tensor | None]] | None = None

    @property
    def ring(self) -> str:
        return "plus_times" if self.pattern == "diagonal" else "matrix"

    def pack(self, states: Sequence[Tensor], front: int) -> Tensor:
        """[*front axes, *S] each, to one tensor."""
        if self.pattern == "diagonal":
            return states[0]
        if self.pattern == "coupled":
            return torch.stack(tuple(states), -1)
        return torch.cat([self._flat(s, front + self.lead) for s in states], -1)

    def _flat(self, x: Tensor, axes: int) -> Tensor:
        return x.unsqueeze(-1) if x.ndim == axes else x.flatten(axes)

    def unpack(self, packed: Tensor, like: Sequence[Tensor]) -> Tensors:
        """The states, in the shapes of the initial ones behind the axes in front of `packed`'s core."""
        if self.pattern == "diagonal":
            return (packed,)
        if self.pattern == "coupled":
            return packed.unbind(-1)
        front = packed.shape[: packed.ndim - 1 - self.lead]
        parts = packed.split([self._flat(s, 1 + self.lead).shape[-1] for s in like], -1)
        return tuple(p.reshape(*front, *s.shape[1:]) for p, s in zip(parts, like))

    def matrices(self, rows: Any, before: Tensors, sequences: Tensors, statics: Tensors, packed: Tensor) -> Tensor:
        """The slopes: [B, T, *S] numbers or [B, T, ..., n, n] matrices, from what the emitted function gives."""
        if self.pattern == "diagonal":
            slope = rows[0][0]
            return torch.zeros_like(packed) if slope is None else slope.expand_as(packed)
        if self.pattern == "coupled":
            shape = packed.shape[:-1]
            zero = packed.new_zeros(()).expand(shape)
            filled = [torch.stack([zero if a is None else a.expand(shape) for a in row], -1) for row in rows]
            return torch.stack(filled, -2)
        return self._pulled(before, sequences, statics, packed)

    def _pulled(self, before: Tensors, sequences: Tensors, statics: Tensors, packed: Tensor) -> Tensor:
        """Row i is the gradient of entry i of the new state: all rows at once, as more batch entries."""
        assert self.pull is not None
        n, batch = packed.shape[-1], packed.shape[0]
        units = torch.eye(n, dtype=packed.dtype, device=packed.device)
        units = units.reshape(n, *(1,) * (packed.ndim - 1), n).expand(n, *packed.shape)
        seeds = self.unpack(units.flatten(0, 1), before_shapes(before))
        found = self.pull(
            tuple(x.expand(n, *x.shape).flatten(0, 1) for x in before),
            tuple(x.expand(n, *x.shape).flatten(0, 1) for x in sequences),
            statics,
            seeds,
        )
        whole = [torch.zeros_like(s) if g is None else g.expand_as(s) for g, s in zip(found, seeds)]
        return self.pack(whole, 2).unflatten(0, (n, batch)).movedim(0, -2)


def before_shapes(before: Tensors) -> Tensors:
    """The states of one step, for their shapes."""
    return tuple(x[:, 0] for x in before)


# ---------------------------------------------------------------- the entry


@between_graphs
def newton_scan(
    step: Step,
    slopes: Slopes | None,
    states: Sequence[Tensor],
    sequences: Sequence[Tensor],
    statics: Sequence[Tensor],
    *,
    length: int,
    blocks: Blocks,
    report: NewtonReport,
) -> Tensors:
    """All states after each step, each [B, T, *S] (T = `length`), of one group.

    `step(before, sequences, statics)` gives the new states for all steps at once, `slopes` also their derivatives by
    the states (rows of columns, None for zero); it is None where `blocks` has a backward pass instead.  `states` are
    [B, *S], `sequences` [B, T, ...], `statics` without both.
    Computed in float32 at least.  Differentiable once, in states, sequences and statics; not by torch.export, since the
    number of iterations depends on the numbers (RuntimeError).
    """
    if exporting():
        raise refuse_tracing()
    dtype = common_dtype(*states, *(x for x in sequences if x.is_floating_point()))
    inner = compute_dtype(dtype)
    given = [tuple(x.to(inner) if x.is_floating_point() else x for x in xs) for xs in (states, sequences, statics)]
    training = torch.is_grad_enabled() and any(x.requires_grad for xs in given for x in xs)
    problem = _Problem(
        step=step,
        slopes=slopes,
        blocks=blocks,
        given=tuple(given),
        length=length,
        report=report,
        training=training,
    )
    with torch.no_grad():
        solution, matrices = problem.solution()
    if training:
        solution = problem.attached(solution, matrices)
    return tuple(x.to(dtype) for x in blocks.unpack(solution, states))


class _Implicit(torch.autograd.Function):
    """The solution as a function of F's values at it and of the initial state, by the linear recurrence backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, start: Tensor, matrices: Tensor, solution: Tensor, ring: str) -> Tensor:
        ctx.save_for_backward(matrices)
        ctx.ring = ring
        return solution.view_as(solution)

    @staticmethod
    def backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # the slopes are constants here, so a second derivative would be wrong
            raise refuse_second()
        (a,) = ctx.saved_tensors
        if ctx.ring == "plus_times":
            g = _adjoint_kernel(a, d, ctx.ring)
            return g, a[:, 0] * g[:, 0], None, None, None
        g = _adjoint_kernel(a, d.unsqueeze(-1), ctx.ring)
        return g.squeeze(-1), (a[:, 0].mT @ g[:, 0]).squeeze(-1), None, None, None


class _Damping:
    """For each sequence how far its slopes are damped, by what its residuals did so far."""

    def __init__(self, h: Tensor) -> None:
        self.level = torch.zeros(h.shape[0], dtype=torch.long, device=h.device)
        self.smallest = torch.full(h.shape[:1], math.inf, dtype=h.dtype, device=h.device)
        self.damped = torch.tensor(DAMPED, dtype=h.dtype, device=h.device)

    def halved(self, r: Tensor) -> Tensor:
        """Which sequences have less than half of the smallest residual that they had before."""
        return r.abs().flatten(1).amax(1) < 0.5 * self.smallest

    def factors(self, r: Tensor) -> Tensor | None:
        """One for each sequence; None where no slopes are damped."""
        residual = r.abs().flatten(1).amax(1)  # NaN where there is one
        calm = (residual <= 2 * self.smallest) & residual.isfinite()
        self.level = (self.level + torch.where(calm, -1, 1)).clamp(0, len(DAMPED) - 1)
        self.smallest = torch.where(residual < self.smallest, residual, self.smallest)
        return self.damped[self.level] if bool(self.level.any()) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """One call: the functions and what they are given."""

    step: Step
    slopes: Slopes | None
    blocks: Blocks
    given: tuple[Tensors, ...]  # initial states, sequences, statics
    length: int
    report: NewtonReport
    training: bool  # whether a gradient will be asked for

    @property
    def start(self) -> Tensor:
        return self.blocks.pack(self.given[0], 1)

    def cut(self, first: int, last: int) -> Tensors:
        return tuple(x[:, first:last] for x in self.given[1])

    def before(self, start: Tensor, h: Tensor) -> Tensors:
        """The states before each step."""
        return self.blocks.unpack(torch.cat((start.unsqueeze(1), h[:, :-1]), 1), self.given[0])

    def attached(self, solution: Tensor, matrices: Tensor) -> Tensor:
        """The solution with its gradient: F once more, recorded, at the states that were found."""
        before = self.before(self.start.detach(), solution)
        value = self.blocks.pack(self.step(before, self.given[1], self.given[2]), 2)
        found: Tensor = _Implicit.apply(value.expand_as(solution), self.start, matrices, solution, self.blocks.ring)  # type: ignore[no-untyped-call]
        return found

    # ------------------------------------------------------------ the solution

    def solution(self) -> tuple[Tensor, Tensor]:
        """All states, and the slopes at them (of no steps where no gradient is wanted)."""
        report, start = self.report, self.start
        report.calls += 1
        report.steps += self.length
        if not start.numel():  # a batch of no sequences: nothing to solve, and no largest residual
            h = start.unsqueeze(1).expand(start.shape[0], self.length, *start.shape[1:])
            return h, self.kept(self.evaluate(start, h, 0, self.length)[1])
        if self.blocks.pattern == "dense" and start.shape[-1] > MOST_ENTRIES:
            report.give_up(self.length, f"blocks of {start.shape[-1]} entries are too large for it")
            return self.one_by_one(start, 0, self.length)
        most = self.most
        h, a, smallest = self.span(start, 0, self.length, min(report.window or most, most, self.length))
        report.window = None if 2 * smallest >= min(self.length, most) else max(2 * smallest, 4 * SMALLEST)
        return h, a

    @property
    def most(self) -> int:
        """Steps of a window at most."""
        return max(SMALLEST, WINDOW // self.start.numel())

    def span(self, start: Tensor, first: int, last: int, size: int) -> tuple[Tensor, Tensor, int]:
        """The steps from `first` up to `last`, and the smallest window that it took; windows have `size` at first."""
        report, most, smallest = self.report, self.most, size
        stretch, at, solved = STRETCH, first, list[tuple[Tensor, Tensor]]()
        while at < last:
            to = min(at + size, last)
            if size >= min(SMALLEST, last - first):
                h, a, done = self.window(start, at, to)
                complete = done == to - at
                if not bool(complete.all()) and bool(complete.any()):  # only some sequences need smaller windows
                    h, a, least = self.mended(start, at, to, size // 4, h, a, ~complete)
                    smallest = min(smallest, least)
                    report.shrunk += 1
                elif not bool(complete.all()):
                    steps = int(done.min())
                    h, a = h[:, :steps], a[:, :steps]
                    size, smallest = size // 4, max(size // 4, 1)
                    report.shrunk += 1
                else:
                    size = min(2 * size, most)
            else:
                to = min(at + stretch, last)
                report.give_up(to - at, "no window of time steps converged")
                h, a = self.one_by_one(start, at, to)
                stretch, size = 2 * stretch, 4 * SMALLEST
            if h.shape[1]:
                solved.append((h, a))
                start, at = h[:, -1], at + h.shape[1]
        if len(solved) == 1:
            return *solved[0], smallest
        return torch.cat([h for h, _ in solved], 1), torch.cat([a for _, a in solved], 1), smallest

    def mended(
        self, start: Tensor, first: int, last: int, size: int, h: Tensor, a: Tensor, wrong: Tensor
    ) -> tuple[Tensor, Tensor, int]:
        """A window whose sequences `wrong` are solved anew, by themselves, in smaller ones."""
        rows = wrong.nonzero().squeeze(1)
        states, sequences, statics = self.given
        given = (tuple(x[rows] for x in states), tuple(x[rows] for x in sequences), statics)
        h_rows, a_rows, smallest = replace(self, given=given).span(start[rows], first, last, size)
        h = h.index_copy(0, rows, h_rows)
        return h, a.index_copy(0, rows, a_rows) if self.training else a, smallest

    def one_by_one(self, start: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """The steps one after another."""
        now, found = start, []
        for t in range(first, last):
            before = self.blocks.unpack(now.unsqueeze(1), self.given[0])
            now = self.blocks.pack(self.step(before, self.cut(t, t + 1), self.given[2]), 2)[:, 0].expand_as(start)
            found.append(now)
        h = torch.stack(found, 1)
        return h, self.evaluate(start, h, first, last)[1] if self.training else h[:, :0]

    def evaluate(self, start: Tensor, h: Tensor, first: int, last: int) -> tuple[Tensor, Tensor]:
        """F at the states before each step, and its slopes there."""
        before, sequences, statics = self.before(start, h), self.cut(first, last), self.given[2]
        rows = None
        if self.slopes is None:
            value = self.step(before, sequences, statics)
        else:
            value, rows = self.slopes(before, sequences, statics)
        packed = self.blocks.pack(value, 2).expand_as(h)
        return packed, self.blocks.matrices(rows, before, sequences, statics, packed)

    def window(self, start: Tensor, first: int, last: int) -> tuple[Tensor, Tensor, Tensor]:
        """The states of the steps from `first` up to `last`, their slopes, and for each sequence how many of these
        steps converged.  Sequences are damped one by one.
        """
        report = self.report
        report.windows += 1
        h = start.unsqueeze(1).expand(start.shape[0], last - first, *start.shape[1:])
        damping, per_row = _Damping(h), h[0].numel()
        left = torch.full(start.shape[:1], per_row, device=h.device)
        idle = torch.zeros_like(left)
        for _ in range(CAP):
            report.iterations += 1
            value, a = self.evaluate(start, h, first, last)
            r = value - h
            d = self.correction(a, r)
            good = _within(r, h) & _within(d, h)
            wrong = per_row - good.flatten(1).sum(1)
            if not bool(wrong.any()):
                self.accept(r, d, h)
                return h + d, self.kept(a), torch.full(start.shape[:1], last - first, device=h.device)
            better = (wrong <= PROGRESS * left) | damping.halved(r)
            idle = torch.where(better, 0, idle + 1)
            left = torch.minimum(left, wrong)
            if bool(((wrong == 0) | (idle > PATIENCE)).all()):
                break
            factors = damping.factors(r)
            if factors is not None:
                report.damped += 1
                d = self.correction(factors.reshape(-1, *(1,) * (a.ndim - 1)) * a, r)
            h = h + torch.nan_to_num(d, nan=0.0, posinf=0.0, neginf=0.0)
        return h, self.kept(a), good.reshape(*good.shape[:2], -1).all(2).long().cumprod(1).sum(1)

    def kept(self, a: Tensor) -> Tensor:
        return a if self.training else a[:, :0]

    def correction(self, a: Tensor, r: Tensor) -> Tensor:
        """d_t = A_t d_{t-1} + r_t from zero."""
        zero = torch.zeros_like(r[:, 0])
        if self.blocks.ring == "plus_times":
            return _scan_kernel(a, r, zero, "plus_times")
        return _scan_kernel(a, r.unsqueeze(-1), zero.unsqueeze(-1), "matrix").squeeze(-1)

    def accept(self, r: Tensor, d: Tensor, h: Tensor) -> None:
        """Count a window that is solved."""
        scale = h.abs().clamp(min=1)
        self.report.residual = max(self.report.residual, float((r.abs() / scale).max()))
        self.report.correction = max(self.report.correction, float((d.abs() / scale).max()))


def _within(x: Tensor, h: Tensor) -> Tensor:
    """Which entries of |x| are below the tolerance times max(1, |h|); a NaN is not."""
    return x.abs() <= h.abs().clamp(min=1) * tolerance(h.dtype)
