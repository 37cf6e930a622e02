"""Names of a spec in kernels: whatever a cell's values are called, each kernel is the same but for their names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

import rnnc.spec
from rnnc.diagnostics import SpecError
from rnnc.ir.rounding import keep_digits

pytest.importorskip("triton")

CELLS = {
    "a scan": """cell Own(size: dim, wide: dim = 3) {
  input inp: real[size]
  param par: real[size, wide] < 0 init -1
  let loc: real[wide] = linear(inp)
  state hid: real[size, wide] = 0
  hid <- exp(par * reshape(inp, size, 1)) * hid + outer(inp, loc)
  output outp: real[size] = hid' @ loc
}""",
    "complex numbers": """cell Own(size: dim) {
  input inp: real[size]
  param par: real[size] init uniform(0, 1)
  state hid: complex[size] = 0
  let loc: complex[size] = complex(inp, par)
  hid <- polar(sigmoid(inp), par) * hid + loc
  output outp: real[size] = re(hid') + im(loc)
}""",
    "a loop": """cell Own(size: dim) {
  input inp: real[size]
  param par: real[size] init normal(0.3)
  state hid: real[size] = 0
  state sec: real[size] = 0
  let loc: real[size] = tanh(par * sec + inp)
  hid <- tanh(par * hid + loc)
  sec <- sec * sigmoid(hid') + loc
  output outp: real[size] = sec' - hid
}""",
    "products": """cell Own(size: dim, wide: dim) {
  input inp: real[size]
  param par: real[size] init normal(0.3)
  state hid: real[size] = 0
  state sec: real[wide] = 0
  let loc: real = linear(hid) + linear(sec)
  sec <- 0.5 * sec + loc * tanh(linear(hid) + linear(inp))
  hid <- tanh(linear(hid) + linear(sec') + linear(inp)) * par + max(hid)
  output outp: real[size] = hid' * loc
}""",
}
USED = ("inp", "par", "hid", "sec", "loc", "outp")


def kernels(cell: str, names: dict[str, str]) -> list[list[tuple[str, str]]]:
    """Of each kernel its nodes in order; a name is ("", name)."""
    from rnnc.backends.triton.backend import emit

    text = re.sub(r"\b(" + "|".join(USED) + r")\b", lambda m: names.get(m[0], m[0]), CELLS[cell])
    spec = rnnc.spec.parse(text)
    source = emit(keep_digits(spec.lower("Own")), dims=None, strategy=None, sources=spec.sources)
    compile(source, "kernels.py", "exec")
    return [list(nodes(f)) for f in ast.parse(source).body if isinstance(f, ast.FunctionDef)]


def nodes(f: ast.FunctionDef) -> Iterator[tuple[str, str]]:
    statements = f.body[1:] if ast.get_docstring(f) is not None else f.body
    for node in [x for part in (f.args, *statements) for x in ast.walk(part)]:
        match node:
            case ast.Name(id=name) | ast.arg(arg=name):
                yield "", name
            case ast.Constant(value=value):
                yield "number", repr(value)
            case _:
                yield type(node).__name__, ""


def merged(before: list[list[tuple[str, str]]], after: list[list[tuple[str, str]]]) -> set[str]:
    """Names of `after` that stand for several of `before`; "" where the kernels differ by more than names."""
    found: set[str] = set()
    if [len(k) for k in before] != [len(k) for k in after]:
        return {""}
    for one, two in zip(before, after, strict=True):
        stands_for: dict[str, str] = {}
        for (kind, was), (now_kind, now) in zip(one, two, strict=True):
            if kind or now_kind:
                found |= {""} if (kind, was) != (now_kind, now) else set()
            elif stands_for.setdefault(now, was) != was:
                found.add(now)
    return found


@pytest.mark.parametrize("cell", CELLS)
def test_no_name_of_a_kernel_can_be_taken(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name that stands in the kernels is given in turn to a value of the cell."""
    from rnnc.backends.triton import frame, statements

    for module in (frame, statements):  # what gets a variable must not depend on the length of names
        monkeypatch.setattr(module, "LONG", 10**6)
    plain = kernels(cell, {})
    used = [u for u in USED if u in CELLS[cell]]
    taken = sorted({name for k in plain for kind, name in k if not kind} - {*used})
    refused = 0
    for at in range(0, len(taken), len(used)):
        names = dict(zip(used, taken[at : at + len(used)], strict=False))
        try:
            assert not merged(plain, kernels(cell, names)), names
        except SpecError:  # a name that specs have for something else
            refused += 1
    assert refused * len(used) < len(taken) / 2


def test_strides_and_gradients_are_no_values() -> None:
    from rnnc.backends.triton.names import unmistakable

    names = ("x_t", "d_h", "in_n", "h_last_2", "a_b_ptr", "x", "d", "t_x", "x_gate", "gate_2")
    made = [unmistakable(n) for n in names]
    assert made == ["x_t_", "d_h_", "in_n_", "h_last_2_", "a_b_ptr_", "x", "d", "t_x", "x_gate", "gate_2"]
