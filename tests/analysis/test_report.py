"""The report: the JSON contract, one screen of text, HTML; what it says of cells of the library."""

from __future__ import annotations

import html
import json
import re

import pytest

import rnnc.spec
from rnnc.analysis.report import analyze

STRATEGIES = ["step", "sequential", "scan", "chunkwise", "block_scan", "convolution", "newton"]
TEXT = """cell Gate(d: dim, heads: dim = 4, reach: real = 2) {
  input x: real[d]
  per heads {
    let k: unit[d] = l2norm(linear(x))
    let beta: real = reach * sigmoid(linear(x))
    state S: real[d, d] = 0
    transition A = I - beta * outer(k, k)
    S <- A @ S + outer(k, linear[d](x))
  }
  output y: real[d] = linear(flatten(S'))
}"""


@pytest.fixture(scope="module")
def report():
    return analyze(rnnc.spec.parse(TEXT, "gate.rnn"), "Gate", d=16)


def test_the_contract(report):
    found = json.loads(json.dumps(report.to_json()))
    assert found["cell"] == "Gate"
    assert found["hyperparameters"] == {"d": 16, "heads": 4, "reach": 2}
    assert found["states"] == [{"name": "S", "shape": [4, 16, 16], "dtype": "real", "group": 0}]
    (group,) = found["groups"]
    assert group["states"] == ["S"]
    assert (group["kind"], group["semiring"]) == ("affine", "plus_times")
    assert group["input_dependent"] is True
    assert group["time_invariant"] is False
    assert group["transition"] == {"name": "A", "structure": "householder_product", "rank": 1, "field": "real"}
    assert group["jacobian"] == "low_rank"
    assert group["spectrum"]["interval"] == [-1, 1]
    assert group["spectrum"]["closed"] == [False, True]
    assert group["spectrum"]["norm_bound"] == 1
    assert group["stability"] == "unknown"
    assert [s["name"] for s in group["strategies"]] == STRATEGIES
    assert all(s["why"] for s in group["strategies"])
    assert group["chosen"] in [s["name"] for s in group["strategies"] if s["legal"]]


def test_the_reach_changes_the_interval_and_nothing_else_in_the_spectrum():
    spec = rnnc.spec.stdlib("deltanet")
    one, two = (analyze(spec, "DeltaNet", reach=r).to_json()["groups"][0]["spectrum"] for r in (1, 2))
    assert (one["interval"], two["interval"]) == ([0, 1], [-1, 1])
    assert one["real"] is two["real"] is True


def test_text_fits_a_screen(report):
    text = report.to_text(width=100)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert len(text.splitlines()) <= 40
    for word in ("group 0: S", "householder product of rank 1", "(-1, 1]", "chosen", "chunkwise"):
        assert word in text
    assert not re.search(r"\x1b\[", text)


def test_html_is_a_page(report):
    assert html.escape(report.to_html()) in report._repr_html_()
    assert report.to_html().startswith("<!doctype html>")
    assert "householder product" in report.to_html()


def test_open_dims_stay_symbolic():
    found = analyze(rnnc.spec.parse(TEXT), "Gate").to_json()
    assert found["states"][0]["shape"] == [4, "d", "d"]


def test_a_nonlinear_cell_says_why():
    (group,) = analyze(rnnc.spec.stdlib("gru")).to_json()["groups"]
    assert group["kind"] == "nonlinear"
    assert "sigmoid" in group["because"][0]
    assert group["chosen"] == "sequential"
    assert [s["name"] for s in group["strategies"] if s["legal"]] == ["step", "sequential", "newton"]


def test_names_do_not_matter():
    other = TEXT
    for old, new in (
        ("Gate", "Zed"),
        ("beta", "mamba"),
        ("S", "gru"),
        ("k:", "q:"),
        ("(k, k)", "(q, q)"),
        ("(k, ", "(q, "),
    ):
        other = other.replace(old, new)
    a, b = analyze(rnnc.spec.parse(TEXT), "Gate").to_json(), analyze(rnnc.spec.parse(other), "Zed").to_json()
    for key in ("kind", "transition", "spectrum", "jacobian", "chosen", "stability"):
        assert a["groups"][0][key] == b["groups"][0][key]


def test_a_model_reports_its_parts():
    text = """cell Leak(d: dim) { input x: real[d]; state h: real[d] = 0; h <- 0.5 * h + x; output y: real[d] = h' }
    model Two(d: dim = 8) {
      input x: real[d]
      output y: real[d] = Leak(d)(Leak(d)(x))
    }"""
    found = analyze(rnnc.spec.parse(text), "Two").to_json()
    assert found["groups"] == []
    assert "Leak" in {p["cell"] for p in found["parts"]}


def test_every_library_cell_has_a_report():
    from rnnc.frontend.modules import stdlib_folder

    names = sorted(p.stem for p in stdlib_folder().glob("*.rnn"))
    assert len(names) >= 20
    for name in names:
        spec = rnnc.spec.stdlib(name)
        for cell in spec.cells:
            found = json.loads(json.dumps(analyze(spec, cell).to_json()))
            for group in found["groups"]:
                assert group["chosen"] in STRATEGIES
                assert group["kind"] != "nonlinear" or group["because"]
