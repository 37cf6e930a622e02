"""Products of closures: blocks of the state that do not read each other; found, certified, and forged."""

from __future__ import annotations

import copy
import json
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from test_forged import UNKNOWN, closing, forged, row

import rnnc
from rnnc.exact import NotExact
from rnnc.exact.tables import Table
from rnnc.ir.unfold import inline_calls
from rnnc.verify.blocks import Block, close_blocks, told_by
from rnnc.verify.certificate import certificate
from rnnc.verify.checking import Reject, check
from rnnc.verify.closure import Closure
from rnnc.verify.languages import GroupTask, group_of
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.machines import ExactLayer
from rnnc.verify.witness import Budget, Witness, find_witness
from rnnc.verify.witness.pieces import actions, combined, pieces, renamed, spanning

TASKS = {
    "S(5)": "tracks group S(5)",
    "S(5) g": "tracks group S(5, letters = generators)",
    "S(3)": "tracks group S(3)",
    "Z(2)*S(3)": "tracks group Z(2) * S(3)",
}


def task(name: str) -> DFA:
    from rnnc.frontend import ast

    spec = rnnc.parse(f"cell C() {{ state s: real = 0; s <- s; output y: real = s'; expect {{ {TASKS[name]} }} }}")
    (claim,) = (x for x in spec.lower("C").expect if isinstance(x, ast.Claim))
    found = group_of(claim.args[0])
    assert isinstance(found, GroupTask)
    assert found.dfa is not None
    return found.dfa


def witness(file: str, cell: str, name: str, **hyper: Any) -> Witness | None:
    return find_witness(rnnc.stdlib(file).lower(cell, **hyper), task(name), budget=Budget(seconds=40.0))


# ---------------------------------------------------------------- automata in pieces


@pytest.mark.parametrize(("name", "sizes"), [("S(5)", (5,) * 4), ("S(3)", (2, 3)), ("Z(2)*S(3)", (2, 2, 3))])
def test_pieces_tell_the_automaton(name: str, sizes: tuple[int, ...]) -> None:
    dfa = task(name)
    for way in pieces(dfa):
        assert told_by(way, dfa)
        assert not any(told_by([*way[:k], *way[k + 1 :]], dfa) for k in range(len(way)))
        assert all(piece.alphabet == dfa.alphabet for piece in way)
    assert tuple(len(p.states) for p in next(iter(pieces(dfa)))) == sizes


def test_few_letters_span_all() -> None:
    """Of 120 permutations 17 span the matrices of all (dimension (5 - 1)^2 + 1)."""
    piece = next(iter(pieces(task("S(5)"))))[1]
    base = spanning(actions(piece))
    assert len(base) == 17
    for action in actions(piece)[::7]:
        weights = combined(action, base)
        assert weights is not None
        assert sum(weights) == 1
        for q in range(5):
            for r in range(5):
                assert sum(w for w, b in zip(weights, base, strict=True) if b[q] == r) == int(action[q] == r)


def test_pieces_with_other_names_are_one() -> None:
    way = next(iter(pieces(task("S(5)"))))
    for piece in way[1:]:
        names = renamed(piece, way[0])
        assert names is not None
        assert set(names.letters) <= set(actions(way[0]))


# ---------------------------------------------------------------- found, and certified


@cache
def large() -> Witness:
    found = witness("rnn", "RNN", "S(5)", rectified=True)
    assert found is not None
    return found


def test_a_group_with_all_its_elements_for_letters() -> None:
    """120 states and 120 letters: 26 states in each of four blocks, which NumPy's steps go through as well."""
    w = large()
    assert w.status == "attained"
    assert w.closure.size == 104
    assert "blocks that do not read each other" in w.reason
    weights = w.weights()
    a, bias, u = (weights[f"drive_linear_{n}"] for n in ("weight", "bias", "2_weight"))
    rng = np.random.default_rng(0)
    for length in (1, 2, 9):
        word = [w.dfa.alphabet[k] for k in rng.integers(0, 120, length)]
        h = np.zeros(w.dims["n"])
        for letter in word:
            h = np.maximum(a @ w.inputs(letter)["x"] + bias + u @ h, 0)
        told = []
        for part in w.closure.parts:
            mine = h[list(part.entries["h"])].tolist()
            (near,) = (k for k, (row_,) in enumerate(part.states) if [float(x) for x in row_[2]] == mine)
            assert part.g[near] == part.automaton.run(word)
            told.append(part.g[near])
        assert len(told) == 4


@pytest.mark.parametrize(
    ("file", "cell", "name"),
    [("rnn", "RNN", "S(5) g"), ("gru", "GRU", "S(3)"), ("lstm", "LSTM", "S(3)"), ("slstm", "sLSTM", "S(3)")],
)
def test_weights_of_blocks_work_in_float32(file: str, cell: str, name: str) -> None:
    w = witness(file, cell, name)
    assert w is not None
    assert w.closure.parts
    assert w.status == "saturation"


NETWORK = """cell Net(d: dim, n: dim = d) {
  input x: real[d]
  state h: real[n] = 0
  h <- FUNCTION(linear(x) + linear(h, bias = false))
  output y: real[n] = h'
  expect { tracks group S(3); tracks group S(3) under exact }
}"""


@cache
def certified(function: str) -> Any:
    spec = rnnc.parse(NETWORK.replace("FUNCTION", function))
    found = certificate(rnnc.verify(spec, "Net"), spec)
    return json.loads(json.dumps(found))


def test_products_are_certified() -> None:
    assert len(check(json.dumps(certified("relu")))) == 2
    tanh = certified("tanh")
    assert check(json.dumps(tanh)) == ["Net: tracks group S(3): proved"]  # under exact they are limits
    false = copy.deepcopy(tanh)
    false["claims"].append(false["claims"][0] | {"claim": "tracks group S(3) under exact"})
    with pytest.raises(Reject, match="another precision"):
        check(json.dumps(false))


def blocks(data: Any) -> Any:
    return data["claims"][0]["evidence"]["blocks"]


def changed(change: Any) -> str:
    data = copy.deepcopy(certified("relu"))
    change(data["claims"][0]["evidence"])
    return json.dumps(data)


def _trivial(evidence: Any) -> None:
    """The second block is said to carry nothing."""
    b = evidence["blocks"][1]
    b |= {"delta": [[0] * 6], "start": 0, "g": [0] * len(b["g"])}


def _swapped(evidence: Any) -> None:
    first, second = (b["entries"]["h"] for b in evidence["blocks"])
    first[0], second[0] = second[0], first[0]


def _one_letter(evidence: Any) -> None:
    for b in evidence["blocks"]:
        b["steps"] = [steps[:1] for steps in b["steps"]]


def _true(evidence: Any) -> None:
    for b in evidence["blocks"]:
        b["entries"]["h"] = [bool(k) if k < 2 else k for k in b["entries"]["h"]]


FORGERIES: dict[str, tuple[Any, str]] = {
    "automata that do not tell the group": (_trivial, "do not tell that of the claim"),
    "one block for both": (lambda e: e["blocks"].pop(), "hold each entry once"),
    "an entry of another block": (_swapped, "not what is stated"),
    "steps for one letter only": (_one_letter, "a step is missing"),
    "steps from one state only": (lambda e: e["blocks"][0]["steps"].pop(), "a step is missing"),
    "steps that are truth values": (
        lambda e: e["blocks"][0].update(steps=[[True] * 6] * len(e["blocks"][0]["steps"])), "a step is missing"
    ),
    "entries that are truth values": (_true, "hold each entry once"),
    "a step elsewhere": (lambda e: e["blocks"][0]["steps"][3].__setitem__(2, 0), "not what is stated"),
    "a letter that is missing": (lambda e: e["letters"].popitem(), "malformed"),
    "a letter like another": (
        lambda e: e["letters"].update(dict.fromkeys(e["letters"], next(iter(e["letters"].values())))), "what is stated"
    ),
    "another g": (lambda e: e["blocks"][1]["g"].__setitem__(2, 0), "the automaton goes to"),
    "another start": (lambda e: e["blocks"][0].update(start=1), "automat"),
    "a state that may be anything": (
        lambda e: e["blocks"][0]["states"].__setitem__(0, {"h": row(*[UNKNOWN] * len(e["blocks"][0]["entries"]["h"]))}),
        "block 1",
    ),
    "an initial state that is another": (
        lambda e: e["blocks"][0]["states"][0]["h"]["entries"].__setitem__(0, "1/1"), "not the initial one"
    ),
    "rounding": (lambda e: e.update(arithmetic="float32"), "blocks are exact"),
    "states that are left out": (lambda e: e.update(left_out=["h"]), "nothing is left out"),
    "two layers": (lambda e: e.update(layers=e["layers"] * 2), "malformed|more layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_blocks_are_rejected(name: str) -> None:
    change, says = FORGERIES[name]
    with pytest.raises(Reject, match=says):
        check(changed(change))


def _numbers(evidence: Any) -> list[tuple[Any, int]]:
    """Entries of weights and letters: (list, place)."""
    rows = [*evidence["layers"][0]["params"].values(), *(x["x"] for x in evidence["letters"].values())]
    return [(r["entries"], k) for r in rows for k in range(len(r["entries"]))]


def _runs(evidence: Any, rng: np.random.Generator) -> bool:
    """Whether NumPy's steps lead each block to the state that its automaton is in."""

    def array(x: Any) -> Any:
        return np.array([float(Fraction(v)) for v in x["entries"]]).reshape(x["shape"])

    weights = [array(x) for _, x in sorted(evidence["layers"][0]["params"].items())]
    bias, u, a = sorted(weights, key=lambda w: w.ndim)[0], *[w for w in weights if w.ndim == 2]
    for word in rng.integers(0, 6, (20, 6)):
        h, at = np.zeros(len(bias)), [b["start"] for b in evidence["blocks"]]
        for letter in word:
            x = array(list(evidence["letters"].values())[letter]["x"])
            h = np.maximum(a @ x + bias + u @ h, 0)
            at = [b["delta"][q][letter] for b, q in zip(evidence["blocks"], at, strict=True)]
        for b, q in zip(evidence["blocks"], at, strict=True):
            near = [k for k, x in enumerate(b["states"]) if (array(x["h"]) == h[b["entries"]["h"]]).all()]
            if not near or b["g"][near[0]] != q:
                return False
    return True


@pytest.mark.parametrize("by", ["1/1000", "-2/1", "1/1"])
def test_a_number_that_is_another(by: str) -> None:
    """Whatever change of a weight or letter is accepted changes no step."""
    rng = np.random.default_rng(1)
    whole = certified("relu")
    assert _runs(whole["claims"][0]["evidence"], rng)
    accepted = 0
    for _ in range(20):
        data = copy.deepcopy(whole)
        numbers = _numbers(data["claims"][0]["evidence"])
        entries, k = numbers[int(rng.integers(0, len(numbers)))]
        entries[k] = by if entries[k] != by else "0/1"
        try:
            check(json.dumps(data))
        except Reject:
            continue
        accepted += 1
        assert _runs(data["claims"][0]["evidence"], rng)
    assert accepted < 20


# ---------------------------------------------------------------- by hand

TWO = """  input x: real[1]
  param p: real[1]
  state u: real[1] = 0
  state v: real[1] = 0
  u <- {u}
  v <- {v}
  output y: real[1] = v'"""
FLIP = {"delta": [[0, 1], [1, 0]], "start": 0, "g": [0, 1]}
STILL = {"delta": [[0, 0]], "start": 0}


def product(u: str, v: str, p: Any, of_u: dict[str, Any], of_v: dict[str, Any]) -> str:
    """A certificate of two scalar states in a block each."""
    held = [{"entries": {name: [0]}} | b for name, b in (("u", of_u), ("v", of_v))]
    evidence = {
        "arithmetic": "exact",
        "left_out": [],
        "automaton": {"alphabet": ["0", "1"], "delta": [[0, 1], [1, 0]], "start": 0, "accept": [1]},
        "letters": {"0": {"x": row("0/1")}, "1": {"x": row("1/1")}},
        "layers": [{"sizes": {}, "params": {"p": row(p)}}],
        "tables": [],
        "blocks": held,
        "states": [],
        "steps": [],
        "g": [],
    }
    return forged(TWO.format(u=u, v=v), "recognizes parity", "closure", evidence)


def of(name: str, *numbers: str) -> list[Any]:
    return [{name: row(x)} for x in numbers]


def test_two_blocks_by_hand() -> None:
    last = STILL | {"g": [0, 0], "states": of("u", "0/1", "1/1"), "steps": [[0, 1], [0, 1]]}
    bit = FLIP | {"states": of("v", "0/1", "1/1"), "steps": [[0, 1], [1, 0]]}
    assert check(product("x", "(v - x) * (v - x) + p * u", "0/1", last, bit)) == ["C: recognizes parity: proved"]
    for p in ("1/1", "1/1000", {"terms": [["1", "0", 1, -1, []]], "error": None}):
        with pytest.raises(Reject, match="not what is stated"):
            check(product("x", "(v - x) * (v - x) + p * u", p, last, bit))


def test_a_block_that_reads_another_in_secret() -> None:
    """v is the parity of all letters but the last, told by u: each block alone is no machine."""
    last = STILL | {"g": [0, 0], "states": of("u", "0/1", "1/1"), "steps": [[0, 1], [0, 1]]}
    bit = FLIP | {"states": of("v", "0/1", "1/1"), "steps": [[0, 1], [1, 0]]}
    with pytest.raises(Reject, match="not what is stated"):
        check(product("x", "(v - u) * (v - u)", "0/1", last, bit))


def test_what_cancels_is_not_known() -> None:
    """u - u is zero, but not by what is known of u."""
    last = STILL | {"g": [0, 0], "states": of("u", "0/1", "1/1"), "steps": [[0, 1], [0, 1]]}
    bit = FLIP | {"states": of("v", "0/1", "1/1"), "steps": [[0, 1], [1, 0]]}
    with pytest.raises(Reject, match="not what is stated"):
        check(product("x", "(v - x) * (v - x) + (u - u)", "0/1", last, bit))


@pytest.mark.parametrize("term", ["1 / (u - v)", "log(u + v)", "1 / (u - u)"])
def test_zero_times_what_may_have_no_value(term: str) -> None:
    """Nothing is known of the term in either block, and where u = v it has no value: zero times that is none."""
    last = STILL | {"g": [0, 0], "states": of("u", "0/1", "1/1"), "steps": [[0, 1], [0, 1]]}
    bit = FLIP | {"states": of("v", "0/1", "1/1"), "steps": [[0, 1], [1, 0]]}
    with pytest.raises(Reject, match=r"no block alone determines|ZeroDivision"):
        check(product("x", f"(v - x) * (v - x) + p * ({term})", "0/1", last, bit))


def test_truth_values_are_no_numbers() -> None:
    """True + True would be True: with u = w = 1 the bit is lost, which other states are to hide."""
    one, half = ("1/1", "1/1"), ("1/2", "1/2")
    body = TWO.format(u="u", v="(v - x) * (v - x) * (2 - (u + w))").replace("= 0\n  state v", "= 1\n  state v")
    body = body.replace("  u <-", "  state w: real[1] = 1\n  w <- w\n  u <-")

    def claim(first: Any) -> str:
        data = json.loads(product("x", "v", "0/1", {}, {}))
        states = [
            {"u": {"shape": [1], "entries": [u]}, "w": {"shape": [1], "entries": [w]}, "v": row(v)}
            for u, w in (first, half)
            for v in ("0/1", "1/1")
        ]
        held = {"u": [0], "w": [0], "v": [0]}
        block = FLIP | {"entries": held, "states": states, "g": [0, 1] * 2, "steps": [[0, 1], [1, 0], [2, 3], [3, 2]]}
        evidence = data["claims"][0]["evidence"] | {"blocks": [block]}
        return forged(body, "recognizes parity", "closure", evidence)

    with pytest.raises(Reject, match="truth values for numbers"):
        check(claim((True, True)))
    with pytest.raises(Reject, match="not what is stated"):
        check(claim(one))


@pytest.mark.parametrize("parts", [True, False])
def test_sizes_do_not_fill_the_memory(parts: bool) -> None:
    """Of 2000^3 entries none is listed."""
    body = "  input x: real[1]\n  state h: real[a, b, c] = 0\n  h <- h + x[0]\n  output y: real[1] = x"
    made = closing([[0, 0]], [{"x": "0/1"}, {"x": "1/1"}], [], [], [])
    made["layers"][0]["sizes"] = dict.fromkeys("abc", 2000)
    made["automaton"]["accept"] = [0]
    if parts:
        made["blocks"] = [STILL | {"entries": {"h": [0]}, "g": [0], "states": of("h", "0/1"), "steps": [[0, 0]]}]
    text = forged(body, "recognizes Every", "closure", made, "a: dim, b: dim, c: dim")
    with pytest.raises(Reject, match="too large a node"):
        check(text)


def test_a_table_of_too_many_numbers() -> None:
    """Three arguments of so many different numbers have more choices than int64 counts."""
    table = Table()
    table.values = range(2**21)  # type: ignore[assignment]  # as if so many were in it
    with pytest.raises(NotExact, match="too many"):
        table.each(lambda a, b, c: a, *[np.array([1])] * 3)


def test_what_a_choice_does_not_take() -> None:
    last = STILL | {"g": [0, 0], "states": of("u", "0/1", "1/1"), "steps": [[0, 1], [0, 1]]}
    bit = FLIP | {"states": of("v", "0/1", "1/1"), "steps": [[0, 1], [1, 0]]}
    taken = "u if x > 2 else (v - x) * (v - x)"
    assert check(product("x", taken, "0/1", last, bit)) == ["C: recognizes parity: proved"]
    with pytest.raises(Reject, match="not what is stated"):
        check(product("x", "(v - x) * (v - x) if u > 2 else v", "0/1", last, bit))


# ---------------------------------------------------------------- the search's own


def parts_of(u: str, v: str, automata: tuple[DFA, DFA], dfa: DFA) -> Any:
    spec = rnnc.parse(f"cell C() {{\n{TWO.format(u=u, v=v)}\n}}\n")
    cell = inline_calls(spec.lower("C"))
    layer = ExactLayer(cell, {}, {"p": [Fraction(0)]})
    letters = {a: {"x": np.array([Fraction(int(a))], dtype=object)} for a in dfa.alphabet}
    named = [Block(entries={n: (0,)}, automaton=a) for n, a in zip("uv", automata, strict=True)]
    return close_blocks(layer, letters, dfa, named)


def dfa_of(*delta: tuple[int, int]) -> DFA:
    names = tuple(map(str, range(len(delta))))
    return DFA(alphabet=("0", "1"), states=names, delta=delta, start=0, accept=frozenset({0}))


@pytest.mark.parametrize(
    ("u", "v", "says"),
    [
        ("x", "(v - x) * (v - x)", ""),
        ("x", "(v - x) * (v - x) + p * u", ""),
        ("x", "(v - u) * (v - u)", "reads another"),
        ("x", "(v - x) * (v - x) + p * (1 / (u - v))", "no block alone determines"),
        ("x", "v + x", "states of one block"),
        ("x", "x", "two of its automaton"),
    ],
)
def test_the_search_closes_blocks_as_the_checker_does(u: str, v: str, says: str) -> None:
    parity = dfa_of((0, 1), (1, 0))
    found = parts_of(u, v, (dfa_of((0, 0)), parity), parity)
    if says:
        assert not found
        assert says in found.reason
    else:
        assert isinstance(found, Closure)
        assert [len(p.states) for p in found.parts] == [2, 2]


def test_blocks_have_to_tell_the_automaton() -> None:
    parity = dfa_of((0, 1), (1, 0))
    found = parts_of("x", "(v - x) * (v - x)", (dfa_of((0, 0)), dfa_of((0, 0))), parity)
    assert not found
    assert "do not tell" in found.reason
