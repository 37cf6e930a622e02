"""Budgets are counted in what a search does: the same on a busy machine, and in every run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

import rnnc
from rnnc.verify import effort
from rnnc.verify.effort import Effort, spend, worked
from rnnc.verify.engine import verify

CELL = """cell Net(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  h <- tanh(linear(x) + linear(h, bias = false))
  output y: real[d] = h'
  expect { recognizes mod(3); tracks group S(3) }
}"""
PROGRAM = """
import rnnc
from rnnc.verify.effort import worked
rnnc.verify(rnnc.parse({cell!r}), "Net")
print(round(worked() * 1e9))
"""


def test_work_is_counted_thread_by_thread() -> None:
    before = worked()
    other = threading.Thread(target=spend, args=("node", 10**6))
    other.start()
    other.join()
    assert worked() == before
    spend("node", 3)
    assert worked() == pytest.approx(before + 3 * effort.PRICES["node"])


def test_time_that_passes_costs_nothing() -> None:
    budget = Effort.of(0.001)
    time.sleep(0.005)
    assert not budget.over
    spend("node", 11)
    assert budget.over
    assert budget.left == 0


def test_a_search_that_does_nothing_that_counts_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effort, "PATIENCE", 1.0)
    budget = Effort.of(0.001)
    time.sleep(0.005)
    assert budget.over
    assert budget.left == 0


def test_the_same_work_in_every_run() -> None:
    """Whatever the order of sets is, and however slow the machine."""
    found = []
    for seed in ("1", "2"):
        run = [sys.executable, "-c", PROGRAM.format(cell=CELL)]
        given = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(run, capture_output=True, text=True, check=True, env=given)
        found.append(int(done.stdout))
    assert found[0] == found[1] > 0


def test_a_budget_ends_a_search_at_the_same_place() -> None:
    """Half of what a verdict took is too little, each time; all of it is enough."""
    spec = rnnc.parse(CELL)
    before = worked()
    assert verify(spec, "Net").ok
    whole = worked() - before
    assert verify(spec, "Net", budget=1.01 * whole).ok
    for _ in range(2):
        assert [r.verdict for r in verify(spec, "Net", budget=whole / 2).results].count("unknown") >= 1
