"""Chunkwise: inside a chunk all steps at once by matrix products, from chunk to chunk only the state."""

from __future__ import annotations

from typing import ClassVar

from rnnc.analysis.forms import Form, MatrixState
from rnnc.ir.dims import ONE, Dim
from rnnc.plan.cost import NUMBER, STEPS, Cost, Problem, per_step
from rnnc.plan.safety import chunk_safety
from rnnc.plan.strategy import Strategy, names, not_linear, structure

CHUNK = 64  # micro-steps


class Chunkwise(Strategy):
    name: ClassVar[str] = "chunkwise"

    def form(self, problem: Problem) -> Form | str | None:
        found = next((f for f in problem.group.forms if isinstance(f, MatrixState)), None)
        if found is None:
            return not_linear(problem) or (
                f"{names(problem)} is no state with a diagonal plus low-rank transition and rank-one writes"
            )
        return found

    def _sizes(self, problem: Problem, form: MatrixState) -> tuple[Dim, Dim, Dim]:
        """Heads, K and V."""
        t = problem.cell.nodes[problem.cell.state(form.state).node].type
        heads = ONE
        for d in t.per:
            heads = heads * d
        if t.rank == 1:
            return heads, t.shape[0], ONE
        return (heads, t.shape[0], t.shape[1]) if form.side == "left" else (heads, t.shape[1], t.shape[0])

    def cost(self, problem: Problem, form: Form | None) -> Cost:
        assert isinstance(form, MatrixState)
        heads, k, v = self._sizes(problem, form)
        rank = sum(len(s.low_rank) for s in form.steps)
        rows = max(1, sum(max(len(s.low_rank), len(s.writes)) for s in form.steps))
        inside = (k + v) * (4 * rows * CHUNK) + k * v * (4 * rows)  # products within the chunk, and with its state
        solve = (k + v) * (2 * rows * CHUNK) if rank else Dim.of(0)
        moved = (k + v) * (8 * rows) + k * v * Dim.of(1) / (CHUNK // 4)
        if form.reads is None:  # every state is formed
            moved = moved + k * v * 6
            inside = inside + k * v * 4
        steps = problem.number(Dim.of(STEPS))
        chunks = steps * len(form.steps) / CHUNK
        whole = 6 * steps**0.5 if form.reads is None else 0.0
        return Cost(
            depth=f"{STEPS}/C",
            flops=per_step(heads, inside + solve),
            bytes=per_step(heads, moved * NUMBER),
            memory=self._memory(heads, k, v, rows, whole > 0),
            launches=80 + 3 * chunks + whole,
        )

    def _memory(self, heads: Dim, k: Dim, v: Dim, rows: int, whole: bool) -> Dim:
        """The vectors of all micro-steps and the chunk's products; one state a chunk, or a step where it is read
        whole.
        """
        states = k * v if whole else k * v / CHUNK
        return per_step(heads, ((k + v) * (2 * rows) + Dim.of(CHUNK * rows) + states) * NUMBER)

    def safety(self, problem: Problem, form: Form | None) -> str:
        assert isinstance(form, MatrixState)
        return chunk_safety(problem, form)

    def why(self, problem: Problem, form: Form | None) -> str:
        assert isinstance(form, MatrixState)
        rank = sum(len(s.low_rank) for s in form.steps)
        kind = f"a {structure(problem)} of rank {rank}" if rank else f"a {structure(problem)} decay"
        reads = (
            "only vectors are read from it"
            if form.reads is not None
            else "it is read as a whole, so every state is formed"
        )
        return f"{names(problem)} moves under {kind}; {reads}"

    def remedy(self, problem: Problem) -> str:
        return (
            f"a transition of {names(problem)} that is diagonal plus low rank, with outer products written, would run "
            "by chunks"
        )
