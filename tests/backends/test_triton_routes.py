"""Which schedule runs each group in `backend="triton"`, and the table of docs/kernels.md."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rnnc.spec
from rnnc.backends.triton.backend import routes

ROOT = Path(__file__).parents[2]


def test_a_normaliser_goes_with_its_matrix() -> None:
    found = {states: how for _, states, how in routes(rnnc.spec.stdlib("mlstm").lower("mLSTMOp"))}
    assert found[("m",)].startswith("tiles of steps scanned")
    assert found[("C",)].startswith("chunkwise kernels")
    assert found[("n",)] == "one more column of a matrix state, in the same kernels"


OTHERWISE = (  # a normaliser's query, decay and write, and what the matrix state writes
    ("k", "g", "k", "k"),
    ("q", "2 * g", "k", "k"),
    ("q", "g", "q", "k"),
    ("q", "g", "exp(g) * k", "g * k"),
    ("q", "g", "k", "tanh(g) * k"),
    ("q", "g", "k", "k / g"),
)


def test_a_normaliser_that_is_read_otherwise_stays_alone() -> None:
    """Another query, decay or direction, or a weight that may be 0 and that only the matrix has: a scan of its own."""
    for read, decay, write, u in OTHERWISE:
        spec = rnnc.spec.parse(
            "cell C(n: dim) {\n input q: real[n]\n input k: real[n]\n input g: real\n"
            f" state S: real[n, n] = 0\n state z: real[n] = 0\n S <- sigmoid(g) * S + outer({u}, q)\n"
            f" z <- sigmoid({decay}) * z + {write}\n output y: real[n] = S'.T @ q / (1 + abs(dot(z', {read})))\n}}"
        )
        found = {states: how for _, states, how in routes(spec.lower())}
        assert found[("z",)].startswith("tiles of steps scanned"), (read, decay, write, u)


def test_what_has_no_kernel_says_why() -> None:
    spec = rnnc.load(ROOT / "tests" / "stdlib" / "odd" / "resets_and_shifts.rnn")
    ((_, _, how),) = routes(spec.lower("ShiftRegister"))
    assert how.startswith("PyTorch: its step is neither pointwise")


@pytest.mark.slow
def test_the_table_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks.triton_routes import table

    assert "benchmarks.triton_routes" in sys.modules
    assert table() in (ROOT / "docs" / "kernels.md").read_text(encoding="utf-8")
