"""Text: exact round trips.  Verifier: good cells pass, every kind of damage is found."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from op_examples import EXAMPLES, Example
from random_cells import build, cells

from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, DimParam, Init, Input, Output, Param, RangeClaim, State
from rnnc.ir.text import TextError, parse_cell, print_cell
from rnnc.ir.types import Disk, HalfPlane, Interval, Type, UnitNorm
from rnnc.ir.verify import IRError, verify_cell


@pytest.mark.parametrize("e", EXAMPLES, ids=str)
def test_examples_round_trip_and_verify(e: Example) -> None:
    assert parse_cell(print_cell(e.cell)) == e.cell
    verify_cell(e.cell)


@given(cells())
@settings(max_examples=60)
def test_random_cells_round_trip_and_verify(cell: CellIR) -> None:
    assert parse_cell(print_cell(cell)) == cell
    verify_cell(cell)


fractions = st.fractions(max_denominator=99)
ends = st.none() | fractions
domains = (
    st.builds(Interval, lo=ends, hi=ends, lo_open=st.booleans(), hi_open=st.booleans())
    | st.builds(Disk, radius=fractions)
    | st.builds(HalfPlane, bound=fractions, strict=st.booleans(), above=st.booleans())
    | st.just(UnitNorm())
)
monomials = st.lists(st.tuples(st.sampled_from(["d", "n", "häds"]), st.sampled_from([-2, -1, 1, 2])), max_size=3)


@st.composite
def dims(draw: Any) -> Dim:
    total = Dim.of(0)
    for c, powers in draw(st.lists(st.tuples(fractions, monomials), max_size=3)):
        term = Dim.of(c)
        for name, p in powers:
            for _ in range(abs(p)):
                term = term * Dim.of(name) if p > 0 else term / Dim.of(name)
        total = total + term
    return total


attrs = st.recursive(
    st.text(max_size=4) | st.booleans() | st.integers() | fractions | dims(),
    lambda x: st.lists(x, max_size=3).map(tuple),
)


@given(domains, dims(), attrs, st.text(min_size=1, max_size=5), st.lists(fractions | dims(), max_size=2))
@settings(max_examples=200)
def test_tables_and_attributes_round_trip(domain: Any, dim: Dim, attr: Any, name: str, args: list[Any]) -> None:
    b = Builder()
    x = b.add("input", name=name, type=Type(dtype="token", shape=(dim,), per=(dim, dim), vocab=dim))
    y = b.add("const", value=attr, type=Type(shape=(dim,)))
    cell = CellIR(
        name=name,
        dims=(DimParam(name="d"), DimParam(name="n", default=dim)),
        hyper=(("reach", Fraction(2)), ("k", 3), ("neg", True)),
        nodes=tuple(b.nodes),
        inputs=(Input(name=name, node=x, domain=domain),),
        params=(
            Param(name="p", node=y, init=Init(kind="normal", args=tuple(args), node=x), domain=domain, constrained=y),
        ),
        states=(State(name="s", node=x, init=y, update=y, domain=domain),),
        outputs=(Output(name="o", node=y),),
        transitions=(("A", y),),
        ranges=(RangeClaim(node=x, domain=domain),),
    )
    assert parse_cell(print_cell(replace(cell, subcells=(cell,)))) == replace(cell, subcells=(cell,))


EMA = """\
cell "Ema" {
  dim d
  %0 "x" = input : real[d]
  %1 "h" = state : real[d]
  %2 = const {value=1/2} : real
  %3 = mul(%1, %2) : real[d]
  %4 = add(%3, %0) : real[d]
  %5 = const {value=0/1} : real[d]
  input "x" %0
  state "h" %1 init %5 update %4
  output "y" %4
}
"""


def test_the_text_is_readable_and_stable() -> None:
    cell = verify_cell(parse_cell(EMA))
    assert print_cell(cell) == EMA
    assert cell.nodes[3].args == (1, 2)


@pytest.mark.parametrize("cut", ["cell", "%0", ": real[d]", "}", "init %5", "= input"])
def test_broken_text_is_said(cut: str) -> None:
    with pytest.raises(TextError, match="expected"):
        parse_cell(EMA.replace(cut, "", 1))


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("add(%3, %0) : real[d]", "add(%3, %0) : real", "inferred"),
        ("add(%3, %0)", "add(%3, %5)", "does not come before"),
        ("%4 = add", "%4 = frobnicate", "no such operation"),
        ("add(%3, %0)", "add(%3)", "1 arguments"),
        ("dim d", "dim e", "dims without declaration"),
        ("init %5", "init %0", "varies"),
        ("update %4", "update %2", "the update of `h`"),
        ('output "y" %4', 'output "y" %44', "has no node"),
        ('input "x" %0', "", "are not those listed"),
        ('input "x" %0', 'input "z" %0', "named `x`"),
        ('output "y" %4', 'output "y" %4\n output "y" %3', "two of output"),
        ("%2 = const {value=1/2} : real", "%2 = const {value=1/2} : real[1, d]", "different ranks"),
        ("%3 = mul(%1, %2)", '%3 = delay(%1) {key="k", n=1}', "reads a state"),
    ],
)
def test_damage_is_found(before: str, after: str, what: str) -> None:
    assert before in EMA
    with pytest.raises(IRError, match=what):
        verify_cell(parse_cell(EMA.replace(before, after)))


def test_ids_are_positions() -> None:
    from random import Random

    cell = build(Random(0), 10)
    with pytest.raises(IRError, match="position"):
        verify_cell(replace(cell, nodes=cell.nodes[1:]))
