"""Comparing functions before they are timed, and the records: what the benchmarks share.

The timing itself is that of `rnnc bench` (`rnnc.bench.timing`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rnnc.bench.timing import Runner, Timing, interleaved, machine

__all__ = ["Runner", "Timing", "check_same", "interleaved", "machine", "measure", "parser", "relative_error", "report"]

RESULTS = Path(__file__).parent / "results"


def forward_backward(f: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Runner:
    """A run of `f` and of the gradients of all arguments."""

    def run() -> tuple[Tensor, ...]:
        y = f(*arguments)
        return torch.autograd.grad(y, arguments, torch.ones_like(y))

    return run


def forward(f: Callable[..., Tensor], arguments: Sequence[Tensor]) -> Runner:
    def run() -> Tensor:
        with torch.no_grad():
            return f(*arguments)

    return run


def check_same(
    functions: Mapping[str, Callable[..., Tensor]], arguments: Sequence[Tensor], *, baseline: str, bound: float = 1e-4
) -> dict[str, float]:
    """Values and gradients against the baseline's, by ||a - b|| / ||b||: nothing is timed before they agree."""
    weight = None
    found: dict[str, list[Tensor]] = {}
    for name, f in functions.items():
        y = f(*arguments)
        weight = torch.randn_like(y) if weight is None else weight
        found[name] = [y.detach(), *torch.autograd.grad(y, arguments, weight)]
    errors = {
        name: max(relative_error(a, b) for a, b in zip(values, found[baseline], strict=True))
        for name, values in found.items()
    }
    for name, error in errors.items():
        if not error < bound:
            raise SystemExit(f"{name} does not agree with {baseline}: relative error {error:.2e}, allowed {bound:.0e}")
    return errors


def relative_error(a: Tensor, b: Tensor) -> float:
    """||a - b|| / ||b||."""
    return float((a - b).norm() / b.norm())


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--rounds", type=int, default=10, help="interleaved rounds")
    p.add_argument("--threads", type=int, default=2, help="PyTorch threads")
    p.add_argument("--output", type=Path, default=RESULTS / f"{name}.json", help="where the JSON result goes")
    return p


def report(rows: Sequence[Mapping[str, Any]], where: Path, before: Mapping[str, Any]) -> None:
    """Print a table and write the JSON record."""
    for row in rows:
        print(f"\n{row['case']}  (largest relative error {max(row['errors'].values()):.1e})")
        for direction in ("forward", "forward_backward"):
            for name, t in row[direction].items():
                low, high = t.quartiles_ms
                print(
                    f"  {direction:17s} {name:24s} {t.median_ms:9.2f} ms [{low:.2f}, {high:.2f}]"
                    f"   x{t.speedup:.2f} [{t.speedup_quartiles[0]:.2f}, {t.speedup_quartiles[1]:.2f}]"
                )
    where.parent.mkdir(parents=True, exist_ok=True)
    where.write_text(json.dumps({"machine": before, "cases": rows}, indent=1, default=asdict) + "\n")
    print(f"\nwritten to {where}")


def measure(
    case: str,
    functions: Mapping[str, Callable[..., Tensor]],
    arguments: Sequence[Tensor],
    *,
    baseline: str,
    rounds: int,
) -> dict[str, Any]:
    """Check that all agree, then time the forward alone and the forward with the backward."""
    errors = check_same(functions, arguments, baseline=baseline)
    both = {
        name: interleaved({n: run(f, arguments) for n, f in functions.items()}, baseline=baseline, rounds=rounds)
        for name, run in (("forward", forward), ("forward_backward", forward_backward))
    }
    return {"case": case, "baseline": baseline, "errors": errors, **both}
