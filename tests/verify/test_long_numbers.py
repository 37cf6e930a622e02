"""Numbers and products that double their length with every line: nothing hangs, and what is proved is certified."""

from __future__ import annotations

import json

import pytest

import rnnc
from rnnc.verify.certificate import certificate
from rnnc.verify.checking import check
from rnnc.verify.engine import verify


def squared(first: str, times: int = 40) -> str:
    """A cell with `first` squared again and again: 2^40 factors, or a number of 2^40 digits."""
    lets = "\n".join(f"  let a{i + 1} = a{i} * a{i}" for i in range(times))
    return f"""
cell Squares(d: dim) {{
  input x: real[d]
  gate g: real[d] in (0, 1) = sigmoid(linear(x))
  {first}
{lets}
  state h: real[d] = 0
  h <- g * h + a{times} * x
  output y = h'
  expect {{ stable; recognizes flip_flop; not recognizes parity }}
}}
"""


def test_a_number_beyond_all_floats_is_an_error() -> None:
    with pytest.raises(rnnc.SpecError, match="E0313"):
        rnnc.analyze(rnnc.parse(squared("let a0 = 1.5")))


@pytest.mark.parametrize(
    "first",
    [
        "let a0 = 3 + 0 * x",
        "gate a0: real[d] in (0, 0.9) = 0.9 * sigmoid(linear(x))",
        "gate a0: real[d] in (0, 3) = 3 * sigmoid(linear(x))",
    ],
)
def test_squares_of_squares_end(first: str) -> None:
    spec = rnnc.parse(squared(first))
    str(rnnc.analyze(spec))
    found = verify(spec)
    assert [r.verdict for r in found.results][::2] == ["proved", "proved"]
    assert len(check(json.dumps(certificate(found, spec)))) >= 2
