"""Finite groups as tables: the group axioms, orders, and agreement with sympy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rnnc.groups import UnknownGroup, group

ORDERS = [
    ("z1", 1), ("z2", 2), ("z6", 6), ("s2", 2), ("s3", 6), ("S(4)", 24), ("s5", 120), ("a3", 3), ("a4", 12), ("a5", 60),
    ("d3", 6), ("D(4)", 8), ("q8", 8), ("z2xz2", 4), ("z2xs3", 12), ("(0 1 2), (0 1)", 6),
    ("(0 1)(2 3); (0 2)(1 3)", 4),    ("(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)", 17),
]  # fmt: skip


@pytest.mark.parametrize(("text", "order"), ORDERS)
def test_is_a_group_of_the_right_order(text: str, order: int) -> None:
    found = group(text)
    table = found.table
    assert found.order == order
    everything = np.arange(order)
    assert (table[0] == everything).all()
    assert (table[:, 0] == everything).all()
    assert (
        np.sort(table, axis=0) == everything[:, None]
    ).all()  # each element has an inverse: columns are permutations
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(0, order, (3, 200))
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()


def test_commutative_exactly_where_it_should_be() -> None:
    for text, commutes in [("z6", True), ("z2xz2", True), ("s3", False), ("q8", False), ("d4", False), ("a4", False)]:
        table = group(text).table
        assert bool((table == table.T).all()) is commutes, text


def test_q8_is_not_d4() -> None:
    def involutions(text: str) -> int:
        table = group(text).table
        return int((np.diag(table) == 0).sum()) - 1

    assert involutions("q8") == 1
    assert involutions("d4") == 5


def test_closure_agrees_with_sympy() -> None:
    from sympy.combinatorics import AlternatingGroup, Permutation, PermutationGroup, SymmetricGroup

    assert group("s6").order == SymmetricGroup(6).order() == math.factorial(6)
    assert group("a6").order == AlternatingGroup(6).order()
    assert (
        group("(0 1 2)(3 4), (1 3)").order
        == PermutationGroup(Permutation([[0, 1, 2], [3, 4]], size=5), Permutation([[1, 3]], size=5)).order()
    )


def test_prefix_products_put_the_newest_on_the_left() -> None:
    found = group("s3")
    word = np.array([[1, 2, 3, 4]])
    result = found.prefix_products(word)
    value = 0
    for t, letter in enumerate(word[0]):
        value = int(found.table[letter, value])
        assert result[0, t] == value


@pytest.mark.parametrize("text", ["s", "x5", "s0", "d2", "(0 1", "(0 0)", "(0 1)(1 2)", "(a b)", "s9", "s6xs6", ""])
def test_says_what_is_no_group(text: str) -> None:
    with pytest.raises(UnknownGroup):
        group(text)
