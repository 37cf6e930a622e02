"""Circles of bindings against networkx, on random graphs; and chains of pasts in no time."""

from __future__ import annotations

import random
import time

import networkx as nx
import pytest

from rnnc.diagnostics import Span
from rnnc.frontend.circles import circle_of
from rnnc.frontend.scope import Binding
from rnnc.spec import parse

SPAN = Span("f", 0, 0, 1, 1, 1, 1)


@pytest.mark.parametrize("seed", range(40))
def test_circles_are_strongly_connected_components(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randrange(1, 30)
    bindings = [Binding(str(i), "let", SPAN) for i in range(count)]
    edges = [(rng.randrange(count), rng.randrange(count)) for _ in range(rng.randrange(3 * count))]
    graph = nx.DiGraph(edges)
    graph.add_nodes_from(range(count))
    wanted = {i: component for component in nx.strongly_connected_components(graph) for i in component}
    for i in rng.sample(range(count), count):
        found = circle_of(bindings[i], lambda b: (bindings[j] for j in graph.successors(int(b.name))))
        assert {int(b.name) for b in found} == wanted[i]


def test_a_long_chain_of_pasts_takes_no_time() -> None:
    lets = "\n".join(f"  let a{i} = prev(a{i + 1}) + x" for i in range(300))
    text = f"cell A() {{\n  input x: real\n{lets}\n  let a300 = x + prev(a0)\n  output y = a0\n}}"
    started = time.process_time()
    assert parse(text).check().items == []
    assert time.process_time() - started < 2
