"""Small groups worked out element by element, against sympy.combinatorics."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import pytest

from rnnc.groups import Permutation, closure, standard_generators
from rnnc.verify.languages.groups import MAX_LISTED, _large, _listed


def cycles(*sizes: int) -> list[Permutation]:
    """Generators of a product of cyclic groups, each on points of its own."""
    found, total = [], sum(sizes)
    for i, n in enumerate(sizes):
        first = sum(sizes[:i])
        found.append((*range(first), *range(first + 1, first + n), first, *range(first + n, total)))
    return found


def swapped(rng: random.Random, n: int) -> Permutation:
    points = list(range(n))
    for _ in range(rng.randint(1, 4)):
        i, j = rng.randrange(n), rng.randrange(n)
        points[i], points[j] = points[j], points[i]
    return tuple(points)


def examples() -> list[list[Permutation]]:
    rng = random.Random(1)
    named = [("s", range(1, 7)), ("d", range(3, 9)), ("z", (1, 4, 6, 12))]
    found = [
        *(list(standard_generators(family, n)) for family, sizes in named for n in sizes),
        *(cycles(*sizes) for sizes in itertools.product((2, 4, 3), (4, 6), (2, 9))),
        *([swapped(rng, n) for _ in range(rng.randint(1, 3))] for n in range(2, 9) for _ in range(5)),
    ]
    return [generators for generators in found if closure(generators, MAX_LISTED) is not None]


@pytest.mark.parametrize("generators", examples(), ids=str)
def test_structure(generators: list[Permutation]) -> None:
    elements = closure(generators, MAX_LISTED)
    assert elements is not None
    listed, large = _listed(generators, elements), _large(generators)
    assert listed.derived_orders == large.derived_orders
    assert listed.nilpotent == large.nilpotent
    assert listed.abelian == large.abelian
    assert listed.invariants == large.invariants


def test_an_analysis_imports_neither_sympy_nor_torch() -> None:
    """Their imports alone would take longer than the analysis."""
    code = "import sys, rnnc; s = rnnc.stdlib('gru'); rnnc.analyze(s, s.cells[0]).to_json(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"sympy", "torch"} & set(done.stdout.split())
