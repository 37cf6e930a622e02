"""The checker alone accepts what `verify` wrote, and rejects every change that matters, with the first failing step."""

from __future__ import annotations

import ast
import json
import random
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from certificates import SPEC, SPECS, at, changed, closing, leaves, made, nested, of_closure
from test_closure import _cascade
from witness_cells import CLOSED_PARITY, ONE_HOT, OPEN_PARITY, PARITY

import rnnc
from rnnc.cli import main
from rnnc.exact import omega, pi, root
from rnnc.stdlib import entries
from rnnc.verify import checking
from rnnc.verify.certificate import certificate
from rnnc.verify.checking import Reject, check
from rnnc.verify.closure import close_machine
from rnnc.verify.engine import verify
from rnnc.verify.format import encode_spec
from rnnc.verify.target import target_of

VERIFY = Path(str(checking.__file__)).parent.parent
TRUSTED = VERIFY / "trusted"
SETTINGS = [(e.name, {}) for e in entries()] + [("deltanet", {"reach": 2}), ("gated_deltanet", {"reach": 2})]


def lines(data: Any) -> list[str]:
    return check(json.dumps(data))


def rejected(data: Any, says: str = "") -> None:
    with pytest.raises(Reject) as error:
        lines(data)
    assert says in str(error.value), error.value


def established(data: Any) -> list[str]:
    """The claims that are accepted; [] for a certificate that is rejected, which says where."""
    try:
        return lines(data)
    except Reject as error:
        where = str(error)
    assert where.startswith(("claim ", "cell ", "no certificate"))
    return []


# ---------------------------------------------------------------- what is accepted


@pytest.mark.parametrize(("name", "hyper"), SETTINGS, ids=[n + "-reach" * bool(h) for n, h in SETTINGS])
def test_every_claim_of_the_library_is_established_again(name: str, hyper: dict[str, int]) -> None:
    spec = rnnc.stdlib(name)
    found = verify(spec, budget=60, **hyper)
    data = certificate(found, spec)
    assert not data["not_certified"]
    assert len(lines(data)) == len(found.results)


@pytest.mark.parametrize("cell", SPEC.cells)
def test_other_claims_are_established_again(cell: str) -> None:
    data = made(cell)
    assert [c["claim"] for c in data["not_certified"] if c["verdict"] != "unknown"] == []
    assert len(lines(data)) == len(data["claims"])


def test_closures_of_all_kinds_are_accepted() -> None:
    five = target_of(SPEC, SPEC.lower("Turn").expect[0]).dfa  # type: ignore[arg-type]
    pairs = target_of(SPEC, SPEC.lower("Memory").expect[0]).dfa  # type: ignore[arg-type]
    assert five is not None
    assert pairs is not None
    irrational = CLOSED_PARITY | {"1": {"a": [-1], "b": [root(37) + root(2)]}}
    mirror = {"0": {"v": [0, 0]}, "1": {"v": [1, 0]}}
    for data in (
        closing("Closed", {}, CLOSED_PARITY, PARITY),
        closing("Closed", {}, irrational, PARITY),
        closing("Open", OPEN_PARITY, ONE_HOT, PARITY),
        closing("Turn", {}, {"0": {"theta": [0]}, "1": {"theta": [pi * 2 / 5]}}, five),
        closing("Reflections", {}, mirror, PARITY),
        of_closure("Memory", close_machine(_cascade("old"), pairs), pairs),
    ):
        assert [c["reason"] for c in data["not_certified"]] == []
        assert len(lines(data)) == 1


def test_letters_are_finite() -> None:
    """An input is a number: omega may stand in weights only."""
    weights = {"h_conv_weight": [[0, 0, 0, 1]] * 2, "h_conv_bias": [0, 0]}
    last = target_of(SPEC, SPEC.lower("Short").expect[0]).dfa  # type: ignore[arg-type]
    assert last is not None
    data = closing("Short", weights, {"0": {"x": [omega, 0]}, "1": {"x": [0, omega]}}, last)
    assert [c["reason"] for c in data["not_certified"]] == [
        "the checker does not establish it: letter `0` is not finite"
    ]


# ---------------------------------------------------------------- what is rejected

CLOSURE = ("claims", 0, "evidence")


def entry(name: str, *path: Any) -> tuple[Any, ...]:
    return (*CLOSURE, name, *path)


PERTURBED: list[tuple[str, tuple[Any, ...], Any, str]] = [
    ("Closed", entry("letters", "1", "a", "entries", 0), "-999/1000", "letter `1`"),
    ("Closed", entry("letters", "1", "a", "entries", 0), "-1001/1000", "lies outside of [-1, 1]"),
    ("Closed", entry("letters", "1", "a", "shape"), [], "is no real"),
    ("Closed", entry("letters", "1", "b", "entries", 0), "2/1", "letter `1`"),
    ("Closed", entry("letters", "1", "b", "entries", 0), True, "is no real"),
    ("Closed", entry("steps", 1, 1), 1, "state 1, letter `1`"),
    ("Closed", entry("g"), [0, 0], "g of"),
    ("Closed", entry("states", 1, 0, "h", "entries", 0), "2/1", "state 0, letter `1`"),
    ("Closed", entry("states", 0, 0, "h", "entries", 0), "1/1", "not the initial state"),
    ("Closed", entry("automaton", "delta", 0), [0, 0], "automaton"),
    ("Closed", entry("automaton", "accept"), [], "automaton"),
    ("Closed", entry("layers", 0, "sizes", "n"), 2, "are not sizes"),
    ("Closed", entry("layers", 0, "sizes", "n"), 0, "are not sizes"),
    ("Closed", entry("arithmetic"), "float32", "another precision"),
    ("Closed", ("claims", 3, "evidence", "arithmetic"), "exact", "another precision"),
    ("Closed", ("claims", 3, "evidence", "letters", "1", "b", "entries", 0), "1/3", "no number of float32"),
    ("Closed", ("claims", 2, "evidence", "word"), ["0"], "has period 1"),
    ("Closed", ("claims", 2, "evidence", "word"), [], "words"),
    ("Closed", ("claims", 0, "verdict"), "refuted", "is proved, not refuted"),
    ("Closed", ("claims", 0, "claim"), "not recognizes parity", "no such claim"),
    ("Closed", ("claims", 1, "claim"), "eigenvalues(a) in [0, 1]", "no such claim"),
    ("Closed", ("claims", 0, "by"), "analysis", "no rule"),
    ("Closed", ("claims", 1, "by"), "numbers", "malformed"),
    ("Closed", ("cells", 0, "facts", 0, "in", 0), "0/1", "what is found"),
    ("Closed", ("cells", 0, "facts", 0, "in", 3), True, "what is found"),
    ("Open", ("cells", 0, "facts", 0, "in", 0), "-999/1000", "what is found"),
    ("Open", ("cells", 0, "facts", 0, "of"), 0, "what is found"),
    ("Delta", ("cells", 0, "facts", 0, "in", 1), "999/1000", "what is found"),
    ("Delta", ("claims", 4, "evidence", "word"), ["0"], "has period 1"),
    ("Fixed", ("claims", 2, "evidence", "theorem"), "N1", "may not be real"),
    ("Squashed", (*CLOSURE, "states", 1), None, "malformed"),
    ("Squashed", (*CLOSURE, "states"), [], "malformed"),
    ("Squashed", ("claims", 1, "evidence", "state"), "x", "malformed"),
    ("Fade", (*CLOSURE, "theorem"), "N5", "says nothing under finite_precision"),
    ("Fade", (*CLOSURE, "theorem"), "N9", "malformed"),
    ("Fade", (*CLOSURE, "word"), ["2"], "malformed"),
    ("Fade", ("claims", 1, "evidence", "word"), ["0"], "have no period"),
    ("Fade", ("claims", 2, "evidence", "theorem"), "N1", "says nothing under eta_finite"),
    ("Fade", ("claims", 3, "evidence", "word"), ["0"], "has no period"),
    ("Fade", ("claims", 4, "evidence", "theorem"), "N5", "words of a regular language"),
    ("Fade", ("claims", 7, "evidence", "assuming"), "", "it holds if TC0 != NC1"),
    ("Fade", ("claims", 7, "verdict"), "proved", "is proved_conditional, not proved"),
    ("Fade", ("claims", 7, "evidence", "word"), [["(0 1 2)"]], "the group is solvable"),
    ("Fade", ("claims", 8, "evidence", "inputs", 1), None, "malformed"),
    ("Fade", ("claims", 9, "by"), "analysis", "what is found is"),
    ("Fade", ("claims", 9, "evidence", "inputs", 0, "x", "entries", 0), True, "is no real"),
    ("Fade", ("claims", 11, "by"), "theorem", "no rule"),
    ("Counter", (*CLOSURE, "inputs", 0, "x", "entries", 0), "0/1", "does not move on"),
    ("Counter", (*CLOSURE, "exact"), False, "no such growth"),
    ("Doubled", (*CLOSURE, "exact"), True, "does not move on"),
    ("Doubled", ("claims", 1, "evidence", "states", 1, "h", "entries"), None, "malformed"),
    ("Coupled", (*CLOSURE, "word"), ["0"], "has period 1"),
    ("Coupled", (*CLOSURE, "theorem"), "N3", "may not be diagonal"),
    ("Bounded", (*CLOSURE, "theorem"), "N3", "is not linear"),
    ("Bounded", ("claims", 2, "by"), "analysis", "nonlinearly"),
    ("Beside", entry("left_out"), [], "malformed"),
    ("Beside", entry("left_out"), ["h", "t"], "are equal in the limit"),
    ("Latch", entry("regions", 1, 0, "in", 0), "2/1", "outside of its own box"),
    ("Latch", entry("regions", 1, 0, "in", 0), "0/1", "may have a state in common"),
    ("Latch", entry("regions", 1, 0, "in", 1), "100/1", "not what is stated"),
    ("Latch", entry("regions", 1, 0, "in", 0), None, "may have a state in common"),
    ("Latch", entry("regions", 1, 0, "index"), 7, "malformed"),
    ("Latch", entry("regions", 1, 0, "part"), "im", ""),
    ("Average", entry("regions", 1, 0, "in", 1), "-1/2", "not what is stated"),
    ("Swing", (*CLOSURE, "theorem"), "N1", "the theorem speaks of words"),
    ("Swing", ("claims", 1, "evidence", "theorem"), "N4", "says nothing"),
    ("Swing", ("claims", 2, "evidence", "word"), [["(0 1)"], ["(0 1 2)"]], "the group is solvable"),
    ("Swing", ("claims", 2, "evidence", "assuming"), "P != NP", "it holds if"),
]


@pytest.mark.parametrize(("cell", "path", "value", "says"), PERTURBED, ids=range(len(PERTURBED)))
def test_a_change_is_rejected_with_the_step(cell: str, path: tuple[Any, ...], value: Any, says: str) -> None:
    data = made(cell)
    assert at(data, path) != value
    rejected(changed(data, path, value), says)


@pytest.mark.parametrize(
    ("cell", "claim", "path", "like", "says"),
    [
        ("Squashed", 0, ("states", 1), ("states", 0), "are in line"),
        ("Fade", 8, ("inputs", 1), ("inputs", 0), "fares alike under both inputs"),
        ("Fade", 9, ("params", "a_linear_weight", "entries", 0), ("params", "a_linear_weight", "entries", 1), ""),
        ("Doubled", 1, ("states", 1), ("states", 0), "do not move apart"),
    ],
)
def test_numbers_that_contradict_nothing(cell: str, claim: int, path: Any, like: Any, says: str) -> None:
    data = made(cell)
    evidence = data["claims"][claim]["evidence"]
    other = changed(data, ("claims", claim, "evidence", *path), at(evidence, like))
    rejected(other, says) if says else established(other)
    still = {k: changed(v, ("entries",), ["0/1"] * len(v["entries"])) for k, v in evidence["params"].items()}
    if cell == "Fade":  # a gate of 1/2
        rejected(changed(data, ("claims", claim, "evidence", "params"), still), f"claim {claim + 1}")


def _others(value: Any, rng: random.Random) -> list[Any]:
    """Other values of one kind."""
    match value:
        case bool():
            return [not value]
        case int():
            return [value + 1, value - 1, -value if value else 7]
        case None:
            return [0, "1/1"]
        case str() if re.fullmatch(r"-?\d+/\d+", value):
            number = Fraction(value)
            return [
                str(number + 1),
                str(-number if number else Fraction(1, 7)),
                str(number * Fraction(999, 1000) + Fraction(1, 997)),
            ]
        case str():
            return [value + "x", "", rng.choice(["exact", "float32", "N1", "range", "norm", "h"])]
    return [0]


@pytest.mark.parametrize("cell", ["Closed", "Open", "Turn", "Squashed", "Delta", "Fixed", "Fade", "Latch", "Average"])
def test_no_single_change_makes_a_false_certificate(cell: str) -> None:
    """What is still accepted says what is true: the same claims with the same verdicts, all of them proved before."""
    rng = random.Random(cell)
    data = made(cell)
    before = lines(data)
    paths = [p for p in leaves(data) if p[0] not in ("not_certified", "spec") and p[-1] != "graph"]
    chosen = rng.sample(paths, min(len(paths), 24))
    kept = []
    for path in chosen:
        value = at(data, path)
        other = rng.choice([x for x in _others(value, rng) if x != value])
        after = established(changed(data, path, other))
        assert after in ([], before), path
        kept += [path] if after else []
    assert len(kept) <= 0.6 * len(chosen)  # names, wider ranges, weights and states that nothing reads


def test_a_closure_has_no_slack() -> None:
    """Of all numbers in a closure, each one moved: none is accepted."""
    data = made("Closed")
    for path in leaves(at(data, CLOSURE)):
        value = at(data, (*CLOSURE, *path))
        if path[0] in ("states", "letters", "steps", "g", "automaton") and path[-2] != "alphabet":
            for other in _others(value, random.Random(0))[:2]:
                rejected(changed(data, (*CLOSURE, *path), other))


def test_parts_that_are_missing() -> None:
    data = made("Closed")
    for key in ("format", "spec", "cells", "claims"):
        rejected({k: v for k, v in data.items() if k != key})
    for key in data["claims"][0]["evidence"]:
        less = {k: v for k, v in data["claims"][0]["evidence"].items() if k != key}
        rejected(changed(data, CLOSURE, less), "claim 1")
    states = data["claims"][0]["evidence"]["states"]
    rejected(changed(data, entry("states"), states[:1]), "claim 1")


def test_a_limit_is_not_attained() -> None:
    data = made("Open")
    spec = next(iter(data["spec"]))
    text = SPECS.replace(
        "expect { recognizes parity; recognizes parity under eta_finite", "expect { recognizes parity under exact"
    )
    moved = changed(changed(data, ("spec", spec), text), ("claims", 0, "claim"), "recognizes parity under exact")
    moved["claims"] = moved["claims"][:1]
    rejected(moved, "another precision")


def test_a_bound_on_what_is_left_out_cannot_be_tightened() -> None:
    data = made("Open")
    path = next(p for p in leaves(at(data, CLOSURE)) if p[0] == "states" and p[-1] == "error")
    rejected(changed(data, (*CLOSURE, *path), None))


# ---------------------------------------------------------------- the spec


def test_the_graph_is_that_of_the_spec() -> None:
    data = made("Closed")
    graph = data["cells"][0]["graph"]
    rejected(changed(data, ("cells", 0, "graph"), graph.replace("mul(", "add(")), "the graph is not that of the spec")
    name = next(iter(data["spec"]))
    other = SPECS.replace("h <- a * h + b\n  output y: real[n]", "h <- a * h - b\n  output y: real[n]")
    assert other != SPECS
    rejected(changed(data, ("spec", name), other), "the graph is not that of the spec")
    rejected(changed(data, ("spec", name), SPECS.replace("recognizes parity;", "recognizes mod(3);")), "no such claim")
    with pytest.raises(Reject, match="the spec is not that"):
        check(json.dumps(data), {"other.rnn": SPECS + "\n"})
    assert check(json.dumps(data), {"other.rnn": SPECS})


def test_specs_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "gates.rnn").write_text("fn gate(x: real) -> real in (0, 1) { sigmoid(x) }\n")
    main_file = tmp_path / "deep" / "main.rnn"
    main_file.write_text(
        'use "../gates.rnn" { gate }\ncell C(n: dim = 2) {\n  input x: real[n]\n  state h: real[n] = 0\n'
        "  h <- gate(linear(x)) * h + x\n  output y: real[n] = h'\n  expect { linear in h; not recognizes parity }\n}\n"
    )
    spec = rnnc.load(main_file)
    assert not spec.check().has_errors, [d.message for d in spec.check().items]
    data = certificate(verify(spec), spec)
    files = encode_spec(spec)
    assert check(json.dumps(data), files)
    with pytest.raises(Reject, match="the spec is not that"):  # an imported file counts, too
        check(json.dumps(data), {f: t.replace("sigmoid(x)", "sigmoid(-x)") for f, t in files.items()})
    main_file.unlink()
    (tmp_path / "gates.rnn").unlink()
    assert len(lines(data)) == 2
    elsewhere = {k.replace("gates.rnn", "doors.rnn"): v for k, v in data["spec"].items()}
    rejected(data | {"spec": elsewhere}, "cell `C`")
    outside = {k.replace(str(tmp_path), "/nowhere/.."): v for k, v in data["spec"].items()}
    assert len(lines(data | {"spec": outside})) == 2  # written nowhere but below a folder of its own
    assert not Path("/gates.rnn").exists()


def imports(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and (n.module or "").startswith("rnnc")}


def test_the_checker_is_independent_and_small() -> None:
    """It and what it stands on import nothing that finds proofs, and nothing else imports them."""
    rules, base = (sorted(f.glob("*.py")) for f in (Path(str(checking.__file__)).parent, TRUSTED))
    assert sum(len(p.read_text(encoding="utf-8").splitlines()) for p in rules) < 600
    imported = set().union(*map(imports, [*rules, *base, VERIFY / "claims.py", VERIFY / "format.py"]))
    assert not [m for m in imported if m.startswith(("rnnc.analysis", "rnnc.ir.domains", "rnnc.plan"))]
    own = {m for m in imported if m.startswith("rnnc.verify")}
    shared = {"rnnc.verify.claims", "rnnc.verify.format", "rnnc.verify.results"}  # what a claim says, the file's format
    assert {m for m in own if not m.startswith(("rnnc.verify.checking", "rnnc.verify.trusted"))} == shared
    outside = [p for p in VERIFY.parent.rglob("*.py") if p not in (*rules, *base) and p.name != "certificate.py"]
    users = [p.name for p in outside if any(m.startswith("rnnc.verify.trusted") for m in imports(p))]
    assert users == []


def test_the_trusted_base_is_as_the_document_says() -> None:
    """docs/verification.md lists every file that the checker stands on, with its lines, rounded up to tens."""
    text = (VERIFY.parent.parent / "docs" / "verification.md").read_text(encoding="utf-8")
    files = [*TRUSTED.glob("*.py"), VERIFY / "claims.py", VERIFY / "format.py", *(VERIFY.parent / "exact").glob("*.py")]
    for path in files:
        lines = -(-len(path.read_text(encoding="utf-8").splitlines()) // 10) * 10
        name = f"{path.parent.name}/{path.name}"
        assert path.name == "__init__.py" or f"| `{name}` | {lines} |" in text, f"| `{name}` | {lines} |"


def test_what_is_no_certificate_is_rejected() -> None:
    for text in ("", "[]", "{}", "1", "{", '{"format": "rnnc certificate 1", "claims": []}', "[" * 100_000):
        with pytest.raises(Reject):
            check(text)


JUNK: list[Any] = [
    None,
    True,
    -1,
    10**40,
    1e308,
    float("nan"),
    "",
    "x",
    "1/0",
    [],
    {},
    [[]],
    {"terms": [[]]},
    "a" * 9999,
]


@pytest.mark.parametrize("cell", ["Closed", "Memory", "Fade", "Latch", "Beside"])
def test_malformed_certificates_give_a_diagnostic(cell: str) -> None:
    """Any part replaced by anything: the certificate is rejected, or what it says is still true; never a traceback."""
    rng = random.Random(cell)
    data = made(cell)
    before = lines(data)
    parts = [p for p in nested(data) if p[0] not in ("not_certified",)]
    for path in rng.sample(parts, min(len(parts), 25)):
        assert established(changed(data, path, rng.choice(JUNK))) in ([], before[:0], before) or path[0] == "claims", (
            path
        )


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec, out = tmp_path / "specs.rnn", tmp_path / "out.json"
    spec.write_text(SPECS, encoding="utf-8")
    assert main(["verify", str(spec), "--cell", "Delta", "--certificate", str(out)]) == 0
    capsys.readouterr()
    assert main(["check-certificate", str(out)]) == 0
    assert "Delta: not recognizes parity: proved" in capsys.readouterr().out
    assert main(["check-certificate", str(out), "--spec", str(spec)]) == 0
    spec.write_text(SPECS + "# changed", encoding="utf-8")
    capsys.readouterr()
    assert main(["check-certificate", str(out), "--spec", str(spec)]) == 1
    assert "the spec is not that of the certificate" in capsys.readouterr().err
    data = json.loads(out.read_text(encoding="utf-8"))
    out.write_text(json.dumps(changed(data, ("claims", 4, "evidence", "word"), ["0"])), encoding="utf-8")
    assert main(["check-certificate", str(out)]) == 1
    assert "rejected: claim 5" in capsys.readouterr().err
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
