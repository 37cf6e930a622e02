"""The kernels that docs/kernels.md shows are those that are emitted."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from pathlib import Path

import pytest

import rnnc.spec
from benchmarks import triton_lines
from rnnc.compile import emit_source

pytest.importorskip("triton")

DOCUMENT = Path(__file__).parents[2] / "docs" / "kernels.md"
TURNED = """cell Turned(n: dim) {
  input x: real[n]
  input A: real[n, n]
  state h: real[n] = 0
  h <- tanh(A @ h + x)
  output y: real[n] = h'
}"""
FROM = {  # what a shown text begins with: the cell's name, and where it comes from
    "(o_product,), S = matrix_scan(": ("GatedDeltaNet", "gated_deltanet"),
    "(h_product,), (n_dot,), C, n = normalised_scan(": ("mLSTMOp", "mlstm"),
    '@triton.jit(do_not_specialize=["T"])\ndef mingru_h_forward(': ("MinGRU", "mingru"),
    '@triton.jit(do_not_specialize=["T"])\ndef mingru_h_backward(': ("MinGRU", "mingru"),
    '@triton.jit(do_not_specialize=["T"])\ndef gru_h_forward(': ("GRU", "gru"),
    "mingru_h = Recurrence(": ("MinGRU", "mingru"),
    "for step in tl.range(0, length, num_stages=STAGES):": ("Turned", TURNED),
}


@cache
def emitted(cell: str, source: str) -> str:
    spec = rnnc.spec.parse(source) if source.startswith("cell ") else rnnc.spec.stdlib(source)
    return emit_source(spec, cell, backend="triton")


def test_every_shown_kernel_is_the_emitted_one() -> None:
    shown = re.findall(r"^```py\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.M | re.S)
    assert len(shown) == len(FROM)
    for text in shown:
        (given,) = (given for begin, given in FROM.items() if text.startswith(begin))
        whole = emitted(*given)
        assert any(textwrap.indent(text, " " * n) in whole for n in (0, 4, 8)), text


def test_lines_are_counted_of_every_file_once() -> None:
    counted = [name for names in triton_lines.SHARED.values() for name in names]
    helpers = {"__init__", "math", "newton", "compat", "interpreter"}  # functions of numbers, versions
    files = {p.stem for p in triton_lines.RUNTIME.glob("*.py")} - helpers
    assert sorted(counted) == sorted(files), "name a new file in benchmarks/triton_lines.py: SHARED"
    assert triton_lines.lines('x = 1  # a\n\n# b\ny = """c\nd"""\n') == 3
    assert {*triton_lines.generated("GRU")} == {"on chip", "step by step"}


def test_rows_go_where_their_titles_stand(capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.triton_resources import kernels, placed

    made = "| GRU, forward | 2 / 0 / 2 |"
    text = "| kernel | sm_90 |\n|---|---|\n| GRU | 9 / 9 |\n| GRU, forward | 1 / 0 / 1 |\n| GRU, forward | 3 | 4 |\n"
    assert placed(text, {"GRU, forward": made, "LSTM, forward": made}) == text.replace("1 / 0 / 1", "2 / 0 / 2")
    assert capsys.readouterr().err == "LSTM, forward: 0 rows of the document\n"
    titles = [title for title, _ in kernels()]
    assert len({*titles}) == len(titles)
