"""`rnnc run`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnnc.cli.app import main

SPEC = """\
cell Mean() {
  input x: real
  state n: real = 0
  state s: real = 0
  n <- n + 1
  s <- s + x
  output mean = s' / n'
  output far = sqrt(2) * x
}
cell Turn(k: int = 1) {
  input v: real[2]
  output w = [[0, -k], [k, 0]] @ v
}
cell Fibonacci() {
  state a: real = 0
  state b: real = 1
  a <- b
  b <- a + b
  output y = a'
}
cell Learned() {
  input x: real
  output y: real = linear(x)
}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "spec.rnn"
    path.write_text(SPEC, encoding="utf-8")
    return str(path)


def test_numbers_are_exact(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", spec, "--input", "x=1,1/2,-0.25,sqrt(2)"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0] == "mean = 1  far = sqrt(2) (about 1.41421356237)"
    assert rows[1] == "mean = 3/4  far = sqrt(1/2) (about 0.707106781187)"
    assert rows[2] == "mean = 5/12  far = -sqrt(1/8) (about -0.353553390593)"
    assert rows[3].startswith("mean = 5/16 + ")
    assert rows[3].endswith("(about 0.666053390593)  far = 2")


def test_vectors_and_hyperparameters(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", spec, "--cell", "Turn", "--set", "k=3", "--input", "v=1,0;0,1/3"]) == 0
    assert capsys.readouterr().out == "w = [0, 3]\nw = [-1, 0]\n"


def test_without_inputs(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", spec, "--cell", "Fibonacci", "--steps", "6"]) == 0
    assert capsys.readouterr().out == "".join(f"y = {n}\n" for n in (1, 1, 2, 3, 5, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "y=1"], "the cell has no input `y`; it has `x`"),
        ([], "= help: on the command line `--input x=1,0,1`"),
        (["--cell", "Learned", "--input", "x=1"], "= help: a program has constants only"),
        (["--input", "x=one"], "a value is a number such as 1, 0.5, 1/3 or sqrt(2)"),
        (["--input", "x"], "not of the form name=1,0,1"),
        (["--cell", "Turn", "--input", "v=1,2,3"], "error[E0610]"),
    ],
)
def test_a_wrong_call_is_explained(
    spec: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", spec, *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert "internal error" not in shown
