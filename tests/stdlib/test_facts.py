"""What the analysis must say of every cell of the library: a truth table, written by hand from the papers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

import rnnc
from rnnc.analysis.forms import Group
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.stdlib import entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One group of states: what it is, in the order in which the groups run."""

    states: tuple[str, ...]
    kind: str = "affine"
    semiring: str = "plus_times"
    structure: str
    rank: int | None = None
    field: str = "real"
    static: bool = False  # does the transition depend on neither inputs nor other states?
    steps: int = 0  # micro-steps of the matrix form, where there is one
    forms: tuple[str, ...] = ()


def nonlinear(*states: str) -> Row:
    return Row(states=states, kind="nonlinear", structure="dense")


def diagonal(state: str, **facts: object) -> Row:
    return Row(states=(state,), structure="diagonal", forms=("Elementwise",), **facts)  # type: ignore[arg-type]


def memory(state: str, structure: str, **facts: object) -> Row:
    """A matrix state with a scalar or diagonal decay: a scan and a chunkwise form."""
    forms = ("Elementwise", "MatrixState")
    return Row(states=(state,), structure=structure, steps=1, forms=forms, **facts)  # type: ignore[arg-type]


def reflected(state: str, rank: int) -> Row:
    return Row(states=(state,), structure="householder_product", rank=rank, steps=rank, forms=("MatrixState",))


STABILISER = Row(states=("m",), semiring="max_plus", structure="scalar", forms=("Elementwise",))
NORMALISER = Row(states=("n",), structure="scalar", forms=("Elementwise",))
CLOCK = Row(states=("t",), structure="scalar", static=True, forms=("Elementwise",))

TABLE: dict[str, tuple[Row, ...]] = {
    "RNN": (nonlinear("h"),),
    "LSTM": (nonlinear("h", "c"),),
    "GRU": (nonlinear("h"),),
    "MinGRU": (diagonal("h"),),
    "MinLSTM": (diagonal("h"),),
    "LRU": (diagonal("h", field="complex", static=True),),
    "S4D": (diagonal("h", field="complex", static=True),),
    "S5": (diagonal("h", field="complex", static=True),),
    "RetNet": (CLOCK, memory("S", "scalar", static=True)),
    "GLA": (memory("S", "diagonal"),),
    "GLAOp": (memory("S", "diagonal"),),
    "Mamba": (diagonal("h"),),
    "SelectiveScan": (diagonal("h"),),
    "Mamba2": (memory("S", "scalar"),),
    "SSDOp": (memory("S", "scalar"),),
    "RGLRU": (diagonal("h"),),
    "Hawk": (diagonal("h"),),
    "HGRN": (diagonal("h"),),
    "HGRNComplex": (diagonal("h", field="complex"),),
    "HGRN2": (memory("S", "diagonal"),),
    "DeltaNet": (reflected("S", 1),),
    "DeltaOp": (reflected("S", 1),),
    "GatedDeltaNet": (reflected("S", 1),),
    "GatedDeltaOp": (reflected("S", 1),),
    "DeltaProduct": (reflected("S", 2),),
    "mLSTM": (STABILISER, memory("C", "scalar"), NORMALISER),
    "mLSTMOp": (STABILISER, memory("C", "scalar"), NORMALISER),
    "sLSTM": (nonlinear("h", "c", "n", "m"),),
}
FILE_OF = {cell: entry.name for entry in entries() for cell in entry.cells}


def facts(group: Group) -> Row:
    return Row(
        states=group.states,
        kind=group.kind,
        semiring=group.semiring,
        structure=group.structure,
        rank=group.rank,
        field=group.field,
        static=group.transition_static,
        steps=next((len(f.steps) for f in group.forms if type(f).__name__ == "MatrixState"), 0),  # type: ignore[union-attr]
        forms=tuple(type(f).__name__ for f in group.forms),
    )


def test_the_table_has_every_cell() -> None:
    assert TABLE.keys() == FILE_OF.keys()


@pytest.mark.parametrize("cell", sorted(TABLE))
def test_the_groups_of(cell: str) -> None:
    found = analyse_recurrence(rnnc.stdlib(FILE_OF[cell]).lower(cell)).groups
    assert tuple(map(facts, found)) == TABLE[cell]


@pytest.mark.parametrize("cell", sorted(c for c in TABLE if "MatrixState" in TABLE[c][-1].forms))
def test_a_memory_is_only_read_through_keys(cell: str) -> None:
    """Otherwise the chunkwise form would have to build the state of every step."""
    for group in analyse_recurrence(rnnc.stdlib(FILE_OF[cell]).lower(cell)).groups:
        for form in group.forms:
            if type(form).__name__ == "MatrixState":
                assert form.reads  # type: ignore[union-attr]


@pytest.mark.parametrize(("steps", "gated"), [(1, False), (3, True), (5, False)])
def test_deltaproduct_has_one_reflection_a_step(steps: int, gated: bool) -> None:
    cell = rnnc.stdlib("deltaproduct").lower("DeltaProduct", steps=steps, gated=gated)
    assert tuple(map(facts, analyse_recurrence(cell).groups)) == (reflected("S", steps),)


@pytest.mark.parametrize("rectified", [False, True])
def test_both_activations_of_the_rnn_are_nonlinear(rectified: bool) -> None:
    (group,) = analyse_recurrence(rnnc.stdlib("rnn").lower("RNN", rectified=rectified)).groups
    assert group.kind == "nonlinear"
    assert "relu" in group.because[0][0] if rectified else "tanh" in group.because[0][0]


HALF_OPEN, OPEN, CLOSED = [False, True], [False, False], [True, True]

# cell, hyperparameters, state: the interval that holds all eigenvalues, which ends belong to it, a bound of the norm
SPECTRA = [
    ("MinGRU", {}, "h", [0, 1], OPEN),
    ("MinLSTM", {}, "h", [0, 1], OPEN),
    ("GLA", {}, "S", [0, 1], OPEN),
    ("GLAOp", {}, "S", [0, 1], HALF_OPEN),
    ("Mamba", {}, "h", [0, 1], OPEN),
    ("SelectiveScan", {}, "h", [0, 1], OPEN),
    ("Mamba2", {}, "S", [0, 1], OPEN),
    ("RGLRU", {}, "h", [0, 1], OPEN),
    ("Hawk", {}, "h", [0, 1], OPEN),
    ("HGRN", {}, "h", [0.5, 1], OPEN),
    ("HGRN", {"floor": 0.75}, "h", [0.75, 1], OPEN),
    ("HGRN2", {"floor": 0.25}, "S", [0.25, 1], OPEN),
    ("DeltaNet", {}, "S", [0, 1], HALF_OPEN),
    ("DeltaNet", {"reach": 2}, "S", [-1, 1], HALF_OPEN),
    ("DeltaOp", {}, "S", [-1, 1], CLOSED),
    ("GatedDeltaNet", {}, "S", [0, 1], OPEN),
    ("GatedDeltaNet", {"reach": 2}, "S", [-1, 1], OPEN),
]


def group_of(cell: str, state: str, hyper: dict[str, object]) -> dict[str, object]:
    groups = rnnc.analyze(rnnc.stdlib(FILE_OF[cell]), cell, **hyper).to_json()["groups"]
    return next(g for g in groups if state in g["states"])


@pytest.mark.parametrize(("cell", "hyper", "state", "interval", "closed"), SPECTRA)
def test_eigenvalues_of(
    cell: str, hyper: dict[str, object], state: str, interval: list[float], closed: list[bool]
) -> None:
    spectrum = group_of(cell, state, hyper)["spectrum"]
    assert isinstance(spectrum, dict)
    assert spectrum["real"] is True
    assert spectrum["interval"] == interval
    assert spectrum["closed"] == closed
    assert spectrum["norm_bound"] == 1


@pytest.mark.parametrize("cell", ["LRU", "S4D", "S5"])
def test_a_complex_diagonal_inside_the_disk_is_stable(cell: str) -> None:
    group = group_of(cell, "h", {})
    assert group["stability"] == "proved"
    assert group["time_invariant"] is True
    assert group["spectrum"]["modulus"] == [0, 1]  # type: ignore[index]
    assert group["spectrum"]["real"] != True  # noqa: E712  # type: ignore[index]


@pytest.mark.parametrize("hyper", [{"steps": 3, "reach": 1}, {"steps": 2, "reach": 2}])
def test_a_product_of_reflections_is_not_said_to_have_real_eigenvalues(hyper: dict[str, object]) -> None:
    """Three projections at 0, 60 and 120 degrees have the product eigenvalue -1/8, and random triples complex pairs."""
    spectrum = group_of("DeltaProduct", "S", hyper)["spectrum"]
    assert isinstance(spectrum, dict)
    assert spectrum["real"] == "unknown"
    assert spectrum["norm_bound"] == 1
    assert spectrum["modulus"] == [0, 1]


@pytest.mark.parametrize("cell", ["DeltaNet", "GatedDeltaNet"])
def test_products_of_reflections_over_time_are_not_said_to_be_real(cell: str) -> None:
    assert group_of(cell, "S", {})["spectrum"]["products_real"] != True  # noqa: E712  # type: ignore[index]
