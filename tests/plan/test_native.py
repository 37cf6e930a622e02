"""C kernels in the cost model: what is counted, what is chosen, what was asked for, what the report says."""

from __future__ import annotations

from dataclasses import replace

import pytest

import rnnc
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.backends.cpu.backend import native_plans, natives
from rnnc.bench.calibrate import job
from rnnc.plan import plan
from rnnc.plan.calibration import Calibration
from rnnc.plan.choose import GroupPlan
from rnnc.plan.cost import Problem
from rnnc.plan.native import NATIVE_DEVICES, paid

GRU = """
cell Diagonal(n: dim) {
  input x: real[n]
  param u: real[n] init normal(0.3)
  state h: real[n] = 0
  gate z: real[n] in (0, 1) = sigmoid(x + u * h)
  h <- (1 - z) * tanh(x + u * h) + z * h
  output y: real[n] = h'
}
"""


def group(cell: str, shape: tuple[int, int, int], known: Calibration | None = None) -> GroupPlan:
    return job(cell, shape).plan(known or Calibration())


def paid_by(cell: str, shape: tuple[int, int, int], threads: int = 1) -> tuple[float, ...]:
    one = job(cell, shape)
    recurrence = analyse_recurrence(one.spec.lower(cell))
    (work, *_) = natives(recurrence)[0]
    dims = {**one.sizes, "B": one.batch, "T": one.steps}
    return paid(work, Problem(cell=recurrence.cell, group=recurrence.groups[0], dims=dims), threads)


def test_what_a_kernel_does_is_counted_from_its_programs() -> None:
    calls, waiting, flops, moved, special, _, strided = paid_by("Decay", (2, 100, 32))
    assert calls == 1
    assert waiting == 2 * 100 * 2  # two sequences, a product and a sum a step
    assert special == strided == 0
    # a h + b forward, and not again, since y holds the states; the derivative: g a, g h, and the sum of two gradients
    assert flops == 2 * 100 * 32 * (2 + 3)
    assert moved == 2 * 100 * 32 * 6 * 4  # a, b, y and their gradients
    *_, special, _, _ = paid_by("Entrywise", (2, 100, 32))
    assert special == 2 * 100 * 32 * 2 * 2  # a sigmoid and a tanh, forward and in the derivative's own step


def test_states_in_memory_and_the_strides_of_heads_are_counted() -> None:
    *_, moved, _, _, strided = paid_by("GatedDelta", (8, 100, 16))
    assert strided == 0
    sequences, near = 10 * 16 + 4, 6 * 16 * 16
    assert moved == pytest.approx(4 * 8 * 100 * (sequences + near), rel=0.05)
    *_, headed, _, _, strided = paid_by("Headed", (2, 100, 16))  # as many states, four in a sequence
    assert headed == moved
    assert 0 < strided < headed


def test_lanes_that_nothing_uses_cost_as_much() -> None:
    assert paid_by("Decay", (1, 100, 1))[2] == paid_by("Decay", (1, 100, 16))[2] < paid_by("Decay", (1, 100, 17))[2]


def test_threads_help_as_far_as_there_are_tasks() -> None:
    alone, two, many = (paid_by("Decay", (2, 100, 16), n) for n in (1, 2, 8))
    assert alone[2] == 2 * two[2]
    assert two[2] == many[2]
    assert alone[1] == 2 * two[1] == 2 * many[1]


def test_a_state_too_large_for_a_task_reads_keys_again() -> None:
    small, large = (paid_by("Delta", (1, 10, n))[3] / n for n in (32, 256))
    assert large > 4 * small


def test_the_faster_one_is_chosen() -> None:
    assert group("Decay", (4, 1024, 64)).chosen.title == "native sequential"
    slow = {"native sequential": replace(NATIVE_DEVICES["native sequential"], call=100.0)}
    chosen = group("Decay", (4, 1024, 64), Calibration(rates={"cpu": slow}))
    assert chosen.chosen.title == "scan"
    assert chosen.ranked[0].title == "scan"
    assert chosen.ranked[-1].title == "native sequential"


def test_newton_in_c_only_for_few_channels_and_many_steps() -> None:
    def chosen(batch: int, steps: int, n: int) -> str:
        (p,) = native_plans(rnnc.parse(GRU).lower(), {"n": n, "B": batch, "T": steps})
        return p.groups[0].chosen.title

    assert chosen(1, 8192, 4) == "native newton"
    assert chosen(1, 8192, 64) == "native sequential"
    assert chosen(1, 32, 4) == "native sequential"
    expanding = rnnc.parse(GRU.replace("normal(0.3)", "normal(30)"))
    (p,) = native_plans(expanding.lower(), {"n": 4, "B": 1, "T": 8192})
    assert p.groups[0].chosen.title == "native sequential"  # errors grow: nothing says that the iterations converge


@pytest.mark.parametrize(
    ("strategy", "title"),
    [("scan", "native scan"), ("sequential", "native sequential"), ("step", "native step"), ("convolution", None)],
)
def test_what_is_asked_for_runs_by_a_kernel_that_does_the_same(strategy: str, title: str | None) -> None:
    recurrence = analyse_recurrence(job("Decay", (1, 1, 1)).spec.lower("Decay"))
    works = natives(recurrence)
    if title is None:
        with pytest.raises(rnnc.SpecError, match="cannot run by"):
            plan(recurrence, None, strategy, natives=works)
        return
    (found,) = plan(recurrence, None, strategy, natives=works).groups
    assert found.chosen.title == title
    assert found.strategy == strategy
    (without,) = plan(recurrence, None, strategy).groups
    assert without.chosen.title == strategy


def test_gates_that_a_kernel_does_along_are_counted_for_the_others() -> None:
    spec = rnnc.parse(
        "cell Gated(n: dim) { input x: real[n]; state h: real[n] = 0;"
        " gate z: real[n] in (0, 1) = sigmoid(x); h <- z * h + (1 - z) * tanh(x); output y: real[n] = h' }"
    )
    recurrence = analyse_recurrence(spec.lower())
    (alone,) = plan(recurrence, {"n": 64}).groups
    (beside,) = plan(recurrence, {"n": 64}, natives=natives(recurrence)).groups
    seconds = {o.name: o.seconds for o in alone.options}
    for o in beside.options:
        if o.seconds is not None:
            assert o.apart > 0
            assert o.seconds == pytest.approx(seconds[o.name] + o.apart)


def test_the_report_says_what_was_expected_of_each() -> None:
    report = rnnc.analyze(rnnc.stdlib("mingru"), d=32, B=2, T=512)
    text = report.to_text()
    assert "expected    native sequential" in text
    assert "on a CPU    sequential by a C kernel" in text
    (found,) = report.to_json()["groups"]
    assert found["chosen"] == "scan"  # PyTorch's
    assert found["native"]["kernel"]
    seconds = [e["seconds"] for e in found["native"]["expected"]]
    assert seconds == sorted(seconds)
    assert found["native"]["expected"][0] == {"name": "sequential", "kernel": True, "seconds": seconds[0]}
    assert "sequential in C (chosen on a CPU)" in report.to_html()
