"""`rnnc compare`: operands, the marked rows, JSON and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import rnnc
from rnnc.analysis.report_compare import Comparison, compare
from rnnc.cli.app import main
from rnnc.cli.compare import split


@pytest.fixture(scope="module")
def reaches() -> Comparison:
    spec = rnnc.stdlib("deltanet")
    return compare(["one", "two"], [rnnc.analyze(spec, "DeltaNet", reach=reach) for reach in (1, 2)])


def test_what_differs_is_marked(reaches: Comparison) -> None:
    marked = {row.label: row.cells for row in reaches.rows if row.differs}
    assert marked["reach"] == ("1", "2")
    assert marked["eigenvalues"] == ("real, in (0, 1]", "real, in (-1, 1]")
    assert marked["beta"] == ("(0, 1)", "(0, 2)")
    assert marked["recognizes parity"][0] == "refuted"
    assert marked["recognizes parity"][1] != "refuted"
    assert set(marked) == {"reach", "eigenvalues", "beta", "recognizes parity"}
    lines = [line for line in reaches.to_text().splitlines() if line.startswith("*")]
    assert len(lines) == 4


def test_equal_reports_mark_nothing() -> None:
    report = rnnc.analyze(rnnc.stdlib("gru"), "GRU")
    assert "*" not in compare(["a", "b"], [report, report]).to_text()


def test_groups_are_set_beside_each_other() -> None:
    reports = [rnnc.analyze(rnnc.stdlib(n), c) for n, c in (("mlstm", "mLSTM"), ("gru", "GRU"))]
    sections = dict(compare(["a", "b"], reports).sections)
    assert [r.cells for r in sections["group 0"] if r.label == "states"] == [("m", "h")]
    assert [r.cells for r in sections["group 2"] if r.label == "states"] == [("n", "")]


def test_operands(tmp_path: Path) -> None:
    assert split("deltanet") == ("deltanet", None, {})
    assert split("deltanet:DeltaOp@heads=2,dk=4") == ("deltanet", "DeltaOp", {"heads": 2, "dk": 4})
    assert split("deltanet@reach=2") == ("deltanet", None, {"reach": 2})
    odd = tmp_path / "a@b=1.rnn"
    odd.write_text("")
    assert split(str(odd)) == (str(odd), None, {})


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    assert main(["compare", "deltanet:DeltaNet", "gla:GLA", "--json", "--html", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["titles"] == ["deltanet:DeltaNet", "gla:GLA"]
    rows = {r["fact"]: r for s in found["sections"] for r in s["rows"]}
    assert rows["transition"]["differs"] is True
    assert rows["transition"]["values"][1] == "A: diagonal, real"
    assert '<tr class="differs">' in page.read_text(encoding="utf-8")
    assert main(["compare", "deltanet:DeltaNet@reach=1", "deltanet:DeltaNet@reach=2"]) == 0
    assert "facts differ" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [["gru"], ["gru", "grv"], ["gru", "gru@x"], ["gru", "gru@heads=2"], ["gru:Nope", "gru"]]
)
def test_mistakes_are_explained(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == 2
    shown = capsys.readouterr().err
    assert shown
    assert "internal error" not in shown
