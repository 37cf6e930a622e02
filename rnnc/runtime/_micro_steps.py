"""Steps of a matrix state as a problem: what is written into the state, and what is read of it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor


class Update(NamedTuple):
    """S += s u (v + c S^T b)^T with u, b of shape [K], v [V], scalars or numbers c and s (None: one).

    Without b it is a plain write; with b and without v a low-rank term.  For a vector state v has shape [], and None in
    a plain write is one.
    """

    u: Tensor
    v: Tensor | None = None
    b: Tensor | None = None
    c: Tensor | float | None = None
    s: Tensor | float | None = None


class MicroStep(NamedTuple):
    """S <- D S + sum a (b^T S) + sum u v^T + updates, every term reading the same S.

    `log_decay` (preferred: exact near one) or `decay` (any sign, zero allowed) is scalar or [K] per step; with neither
    it is one. `low_rank` holds pairs (a, b), `writes` pairs (u, v).
    """

    decay: Tensor | None = None
    log_decay: Tensor | None = None
    low_rank: tuple[tuple[Tensor, Tensor], ...] = ()
    writes: tuple[tuple[Tensor, Tensor | None], ...] = ()
    updates: tuple[Update, ...] = ()


class Read(NamedTuple):
    """S^T key, of the state before ("old") or after ("new") the whole time step."""

    key: Tensor
    when: Literal["old", "new"] = "new"


def updates_of(step: MicroStep) -> list[Update]:
    """All terms of a micro-step as updates, those that read the state first."""
    low_rank = [Update(u=a, b=b) for a, b in step.low_rank]
    reading = [x for x in step.updates if x.b is not None]
    plain = [x for x in step.updates if x.b is None]
    return [*low_rank, *reading, *(Update(u=u, v=v) for u, v in step.writes), *plain]


def unscaled(step: MicroStep) -> MicroStep:
    """The step with s multiplied into u, and a number c into b."""
    updates = []
    for x in step.updates:
        u = x.u if x.s is None else x.u * (x.s.unsqueeze(-1) if isinstance(x.s, Tensor) else x.s)
        if x.b is not None and isinstance(x.c, (int, float)):
            x = x._replace(b=x.b * x.c if abs(x.c) != 1 else x.b if x.c == 1 else -x.b, c=None)
        updates.append(x._replace(u=u, s=None))
    return step._replace(updates=tuple(updates))
