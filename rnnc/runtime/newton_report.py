"""What Newton's method reports, accepts and refuses, in PyTorch and in native kernels alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

import torch

from rnnc.runtime._compat import outside_graphs

__all__ = ["NewtonReport", "NewtonWarning", "between_graphs", "refuse_second", "refuse_tracing", "tolerance"]


class NewtonWarning(RuntimeWarning):
    """Newton's method did not converge, and the steps were taken one after another."""


@dataclass(slots=True)
class NewtonReport:
    """What Newton's method did since the layer was made, or since `reset`.

    `iterations` of all windows; `damped` iterations with damped slopes; `shrunk` windows that were given up for smaller
    ones; `steps` of all sequences' time axes and how many of them were `sequential`.  `residual` and `correction` are
    the largest that were accepted, relative to max(1, |h|).  `reasons`: why steps were taken one by one.
    """

    calls: int = 0
    windows: int = 0
    iterations: int = 0
    damped: int = 0
    shrunk: int = 0
    steps: int = 0
    sequential: int = 0
    residual: float = 0.0
    correction: float = 0.0
    reasons: list[str] = field(default_factory=list)
    window: int | None = None  # that the next call starts with; None: the whole sequence
    warm: int = 32  # steps from which a native kernel guesses where segments of time begin, in the next call

    def reset(self) -> None:
        fresh = NewtonReport()
        for f in fields(self):
            setattr(self, f.name, getattr(fresh, f.name))

    def give_up(self, steps: int, reason: str) -> None:
        """Count steps taken one by one; the first time, say so."""
        self.sequential += steps
        if reason not in self.reasons:
            self.reasons.append(reason)
            warnings.warn(f"Newton's method: {reason}; steps are taken one after another", NewtonWarning, stacklevel=4)


F = TypeVar("F", bound=Callable[..., Any])


def between_graphs(function: F) -> F:
    """A decorator: the number of iterations depends on the numbers, so no graph holds them."""
    reason = (
        "Newton's method iterates until it has converged, which is no fixed program: compile without fullgraph=True, "
        'or the spec with strategy="sequential"'
    )
    return cast(F, outside_graphs(function, reason))


def refuse_tracing() -> RuntimeError:
    return RuntimeError(
        "Newton's method iterates until it has converged, which is no fixed program to export: compile the spec "
        'with strategy="sequential"'
    )


def refuse_second() -> RuntimeError:
    return RuntimeError(
        "a layer run by Newton's method can be differentiated once: for second derivatives compile the spec "
        'with strategy="sequential"'
    )


def tolerance(dtype: torch.dtype) -> float:
    """6e-6 in float32, 2e-12 in float64: what is left after it is the square of that."""
    return float(torch.finfo(dtype).eps ** 0.75)
