"""The checker accepts what was closed, and rejects every change that matters with the first step that fails."""

from __future__ import annotations

import ast
import copy
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from test_closure import COUNT_SR, _cascade
from witness_cells import CLOSED_PARITY, ONE_HOT, OPEN_PARITY, PARITY, cell, modulo

import rnnc
from rnnc.cli import main
from rnnc.exact import omega, pi, root
from rnnc.verify import checker
from rnnc.verify.certificate import FORMAT, certificate, closure_json
from rnnc.verify.checker import Reject, check
from rnnc.verify.closure import Closure, close, close_machine
from rnnc.verify.engine import CellResults, Verification
from rnnc.verify.languages.dfa import DFA
from rnnc.verify.results import ClaimResult, Evidence


def of(closure: Any, dfa: DFA, precision: str = "finite_precision") -> dict[str, Any]:
    assert isinstance(closure, Closure), closure
    claim = {"cell": "C", "claim": "recognizes L", "verdict": "proved", "precision": precision}
    return {"format": FORMAT, "claims": [claim | {"closure": closure_json(closure, dfa)}]}


def parity(name: str) -> dict[str, Any]:
    if name == "Open":
        return of(close(cell("Open"), {}, OPEN_PARITY, ONE_HOT, PARITY), PARITY)
    return of(close(cell("Closed"), {}, {}, CLOSED_PARITY, PARITY), PARITY)


def test_closures_are_accepted() -> None:
    assert check(json.dumps(parity("Open"))) == ["C: recognizes L: proved under finite_precision"]
    assert len(check(json.dumps(parity("Closed")))) == 1
    turned = close(cell("Turn"), {}, {}, {"0": {"theta": [0]}, "1": {"theta": [pi * 2 / 5]}}, modulo(5))
    assert len(check(json.dumps(of(turned, modulo(5))))) == 1
    mirror = {"0": {"v": [0, 0]}, "1": {"v": [1, 0]}}
    assert len(check(json.dumps(of(close(cell("Reflections"), {}, {}, mirror, PARITY), PARITY)))) == 1
    irrational = CLOSED_PARITY | {"1": {"a": [-1], "b": [root(37) + root(2)]}}
    assert len(check(json.dumps(of(close(cell("Closed"), {}, {}, irrational, PARITY), PARITY)))) == 1
    assert len(check(json.dumps(of(close_machine(_cascade("old"), COUNT_SR), COUNT_SR)))) == 1


def test_unread_buffers_are_accepted() -> None:
    weights = {"h_conv_weight": [[0, 0, 0, 1]] * 2, "h_conv_bias": [0, 0]}
    last = DFA(alphabet=("0", "1"), states=("a", "b"), delta=((0, 1), (0, 1)), start=0, accept=frozenset({1}))
    letters = {"0": {"x": [omega, 0]}, "1": {"x": [0, omega]}}
    assert len(check(json.dumps(of(close(cell("Short"), {}, weights, letters, last), last)))) == 1


Change = Callable[[dict[str, Any]], None]


def _first(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["claims"][0]["closure"]
    return found


def _replace_letter(data: dict[str, Any]) -> None:
    _first(data)["letters"]["1"]["a"]["entries"][0] = "-999/1000"


def _move_step(data: dict[str, Any]) -> None:
    _first(data)["steps"][1][1] = 1


def _swap_g(data: dict[str, Any]) -> None:
    _first(data)["g"] = _first(data)["g"][::-1]


def _other_state(data: dict[str, Any]) -> None:
    _first(data)["states"][1][0]["h"]["entries"][0] = "2/1"


def _other_start(data: dict[str, Any]) -> None:
    _first(data)["states"][0][0]["h"]["entries"][0] = "1/1"


def _other_automaton(data: dict[str, Any]) -> None:
    _first(data)["automaton"]["delta"][0] = [0, 0]


def _other_graph(data: dict[str, Any]) -> None:
    node = next(n for n in _first(data)["layers"][0]["cell"]["nodes"] if n["op"] == "mul")
    node["op"] = "add"


def _other_verdict(data: dict[str, Any]) -> None:
    data["claims"][0]["verdict"] = "refuted"


def _negated(data: dict[str, Any]) -> None:
    data["claims"][0]["claim"] = "not recognizes L"


def _cut(data: dict[str, Any]) -> None:
    del _first(data)["states"][1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_replace_letter, "state 1, letter `1`: `h`"),
        (_move_step, "state 1, letter `1`"),
        (_swap_g, "the automaton goes"),
        (_other_state, "state 0, letter `1`"),
        (_other_start, "not the initial state"),
        (_other_automaton, "the automaton goes"),
        (_other_graph, "state "),
        (_other_verdict, "makes the claim proved"),
        (_negated, "makes the claim refuted"),
        (_cut, "malformed"),
    ],
)
def test_tampering_is_rejected_with_the_step(change: Change, says: str) -> None:
    data = parity("Closed")
    changed = copy.deepcopy(data)
    change(changed)
    with pytest.raises(Reject, match="claim 1") as error:
        check(json.dumps(changed))
    assert says in str(error.value)
    assert check(json.dumps(data))


def test_a_limit_is_not_attained() -> None:
    data = parity("Open")
    _first(data)["attained"] = True
    with pytest.raises(Reject, match="in the limit only"):
        check(json.dumps(data))
    data = parity("Open")
    data["claims"][0]["precision"] = "exact"
    with pytest.raises(Reject, match="in the limit only"):
        check(json.dumps(data))


def test_a_bound_on_what_is_left_out_cannot_be_tightened() -> None:
    data = parity("Open")
    states = _first(data)["states"]
    limit = next(s for s in states if isinstance(s[0]["h"]["entries"][0], dict))
    limit[0]["h"]["entries"][0]["error"] = None
    with pytest.raises(Reject):
        check(json.dumps(data))


def test_the_checker_is_independent_and_small() -> None:
    source = Path(checker.__file__).read_text(encoding="utf-8")
    assert len([line for line in source.splitlines() if line.strip()]) < 600
    names = [
        a.name if isinstance(n, ast.Import) else n.module or ""
        for n in ast.walk(ast.parse(source))
        if isinstance(n, (ast.Import, ast.ImportFrom))
        for a in n.names
    ]
    assert not [n for n in names if n.startswith("rnnc")]


def test_what_is_no_certificate_is_rejected() -> None:
    for text in ("", "[]", "{}", '{"format": "rnnc certificate 0", "claims": []}'):
        with pytest.raises(Reject):
            check(text)


def test_claims_without_a_closure_are_listed() -> None:
    closure = close(cell("Closed"), {}, {}, CLOSED_PARITY, PARITY)
    assert isinstance(closure, Closure)

    def result(claim: str, evidence: Evidence | None) -> ClaimResult:
        return ClaimResult(
            claim=claim, line=1, verdict="proved", precision="finite_precision", reason="", evidence=evidence
        )

    witness = Evidence(kind="witness", proof=(closure, PARITY))
    results = (result("recognizes parity", witness), result("stable", Evidence(kind="analysis")))
    data = certificate(Verification(file="x.rnn", cells=(CellResults(cell="Closed", hyper={}, results=results),)))
    assert [c["claim"] for c in data["claims"]] == ["recognizes parity"]
    assert [c["claim"] for c in data["not_certified"]] == ["stable"]


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    data = parity("Closed")
    good.write_text(json.dumps(data))
    _move_step(data)
    bad.write_text(json.dumps(data))
    assert main(["check-certificate", str(good)]) == 0
    assert "recognizes L: proved" in capsys.readouterr().out
    assert main(["check-certificate", str(bad)]) == 1
    assert "rejected: claim 1" in capsys.readouterr().err
    assert main(["check-certificate", str(tmp_path / "none.json")]) == 2


MORE_ONES = """
cell MoreOnes() {
  input x: real
  state ones: real = 0
  state zeros: real = 0
  ones  <- ones + x
  zeros <- zeros + (1 - x)
  output y: real = step(ones' - zeros')
}
cell Diagonal() {
  input x: real
  state h: real = 0
  h <- h + sqrt(2) * x
  output y: real = h' * h'
}
cell Smooth() {
  input x: real
  state h: real = 0
  h <- sigmoid(h + x)
  output y: real = h'
}
"""


def test_programs_run_exactly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = rnnc.parse(MORE_ONES)
    found = rnnc.run_exact(spec, "MoreOnes", {"x": [1, 0, Fraction(1, 2), Fraction(2, 3)]})
    assert found.outputs["y"] == [1, 0, 0, 1]
    assert found.state == {"ones": Fraction(13, 6), "zeros": Fraction(11, 6)}
    assert rnnc.run_exact(spec, "Diagonal", {"x": [1, 2]}).outputs["y"] == [2, 18]
    with pytest.raises(rnnc.SpecError, match="sigmoid"):
        rnnc.run_exact(spec, "Smooth", {"x": [1]})
    for wrong in ({}, {"z": [1]}, {"x": [[1, 2]]}):
        with pytest.raises(rnnc.SpecError):
            rnnc.run_exact(spec, "MoreOnes", wrong)
    file = tmp_path / "ones.rnn"
    file.write_text(MORE_ONES)
    assert main(["run", str(file), "--cell", "MoreOnes", "--input", "x=1,0,1/2"]) == 0
    assert capsys.readouterr().out.split() == ["y", "=", "1", "y", "=", "0", "y", "=", "0"]
    assert main(["run", str(file), "--cell", "Smooth", "--input", "x=1"]) == 2
    assert "E0610" in capsys.readouterr().err
