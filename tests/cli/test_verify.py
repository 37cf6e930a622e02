"""`rnnc verify`: exit codes, JSON, and which cells are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rnnc.cli.app import main

TEXT = """
cell Good(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  h <- sigmoid(linear(x)) * h + x
  output y: real[d] = h'
  expect {
    linear in h
    not recognizes parity
  }
}

cell Quiet(d: dim) {
  input x: real[d]
  output y: real[d] = linear(x)
}

cell Wrong(d: dim, size: real = 1) {
  input x: real[d]
  state h: real[d] = 0
  h <- tanh(size * linear(h)) + x
  output y: real[d] = h'
  expect { linear in h }
}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "cells.rnn"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_exit_code_0_when_all_are_proved(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", file, "--cell", "Good"]) == 0
    shown = capsys.readouterr().out
    assert "proved   linear in h" in shown
    assert "2 claims: 2 proved" in shown


def test_exit_code_1_when_some_are_not(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", file]) == 1
    shown = capsys.readouterr().out
    assert "Good" in shown
    assert "Quiet" not in shown  # it claims nothing
    assert "refuted  linear in h" in shown


def test_exit_code_2_when_the_spec_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.rnn"
    path.write_text(TEXT.replace("linear in h", "linear in g"), encoding="utf-8")
    assert main(["verify", str(path)]) == 2
    assert "E0501" in capsys.readouterr().err


def test_json_is_the_contract(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", file, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert [c["verdict"] for c in found["claims"]] == ["proved", "proved", "refuted"]
    for claim in found["claims"]:
        assert claim.keys() >= {"claim", "line", "verdict", "precision", "evidence", "reason"}
        assert TEXT.splitlines()[claim["line"] - 1].count(claim["claim"]) == 1
    assert found["claims"][2]["evidence"]["kind"] == "counterexample"


def test_hyperparameters_go_to_the_cells_that_have_them(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", file, "--set", "size=2"]) == 1
    assert "size = 2" in capsys.readouterr().out
    assert main(["verify", file, "--set", "width=0"]) == 2
    assert "width" in capsys.readouterr().err
