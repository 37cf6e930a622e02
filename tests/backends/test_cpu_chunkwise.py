"""Matrix states chunk by chunk in C: cells against the float64 oracle, the function itself against PyTorch's form."""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any

import pytest
import test_cpu_cells as cells
import test_cpu_sanitised as sanitised
import torch

import rnnc
from rnnc.runtime import chunk, compiled, native_chunk
from rnnc.runtime.chunk import MicroStep, Read, Update

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")

CELLS = [
    ("mamba2.rnn", "SSDOp", {"heads": 2, "n": 17, "p": 9}, "S"),
    ("gated_deltanet.rnn", "GatedDeltaOp", {"heads": 3, "dk": 9, "dv": 35}, "S"),
    ("deltanet.rnn", "DeltaOp", {"heads": 1, "dk": 33, "dv": 16}, "S"),
    ("retnet.rnn", "RetNet", {"d": 20, "heads": 2, "dk": 6, "dv": 18}, "S"),
    ("mlstm.rnn", "mLSTM", {"d": 12, "heads": 3, "dk": 7, "dv": 5}, "C"),
    ("gla.rnn", "GLAOp", {"heads": 3, "dk": 18, "dv": 5}, "S"),
    ("hgrn2.rnn", "HGRN2", {"d": 9, "heads": 3, "dk": 7, "dv": 3}, "S"),
    ("deltaproduct.rnn", "DeltaProduct", {"d": 6, "heads": 1, "dk": 17, "dv": 6, "steps": 3}, "S"),
    ("rwkv_like.rnn", "RwkvLike", {"d": 6, "heads": 3, "k": 5, "v": 7}, "S"),
]


def layer_of(file: str, cell: str, state: str) -> tuple[Any, Path]:
    path = next(p for p in (cells.LIBRARY / file, cells.ODD / file) if p.exists())
    return rnnc.compile(cells.spec_of(path), cell, backend="cpu", strategy={state: "chunkwise"}), path


@pytest.mark.parametrize(("file", "cell", "dims", "state"), CELLS)
def test_is_the_oracle(file: str, cell: str, dims: dict[str, int], state: str) -> None:
    layer, path = layer_of(file, cell, state)
    assert "products of matrices in C, chunk by chunk" in " ".join(layer.__doc__.split())
    ir = cells.spec_of(path).lower(cell)
    known = {d.name for d in ir.dims}
    sizes = ir.dim_values({k: v for k, v in dims.items() if k in known})
    for steps in (1, 75):
        found = cells.case(path, cell, steps, sizes)
        found.check(layer, step=steps == 1)
        found.check(layer, dtype=torch.float32, tolerance=2e-4, step=False)


def test_decays_of_values_in_a_cell(tmp_path: Path) -> None:
    path = tmp_path / "across.rnn"
    path.write_text("""
cell Across(n: dim, m: dim, heads: dim = 3) {
  per heads {
    input k: real[n]
    input b: real[m]
    input q: real[n]
    gate a: real[m] in (0, 1) = sigmoid(b)
    state S: real[n, m] = 0
    S <- S @ diag(a) + outer(k, b)
    output y: real[m] = S.T @ q + b
  }
}
""")
    layer, _ = layer_of(str(path), "Across", "S")
    assert "across=True" in layer.source
    found = cells.case(path, "Across", 70, {"n": 5, "m": 18, "heads": 3})
    found.check(layer)
    found.check(layer, dtype=torch.float32, tolerance=1e-4, step=False)


class Problem:
    """One problem of the function, its tensors leaves with gradients: `per` updates a step, each with a decay (of one
    number, of `keys`, of `values`, or none), `delta` rules or plain writes, or low-rank terms beside a write in another
    direction ("two"); read behind the step or before it (`old`).
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        kind: str = "",
        decay: str = "",
        dtype: torch.dtype = torch.float64,
        *,
        per: int = 1,
        old: bool = False,
    ) -> None:
        b, t, h, k, v = sizes
        self.kind, self.per, self.old, self.across = kind, per, old, decay == "values"
        self.xs = {"q": torch.randn(b, t, h, k, dtype=dtype), "state": torch.randn(b, h, k, v, dtype=dtype)}
        for i in range(per):
            self.xs[f"u{i}"] = torch.randn(b, t, h, k, dtype=dtype) / k**0.5
            self.xs[f"v{i}"] = torch.randn(b, t, h, v, dtype=dtype)
            if decay:
                of = {"keys": (k,), "values": (v,)}.get(decay, ())
                self.xs[f"log_decay{i}"] = -3 * torch.rand(b, t, h, *of, dtype=dtype)
            if kind:
                self.xs[f"b{i}"] = torch.randn(b, t, h, k, dtype=dtype) / k**0.5
                self.xs[f"c{i}"] = -torch.rand(b, t, h, dtype=dtype)
            if kind == "two":
                self.xs[f"a{i}"] = torch.randn(b, t, h, k, dtype=dtype) / k**0.5
        for x in self.xs.values():
            x.requires_grad_()
        self.weights = torch.randn(b, t, h, v, dtype=dtype), torch.randn(b, h, k, v, dtype=dtype)

    def steps(self) -> list[MicroStep]:
        return [self.step({name.removesuffix(str(i)): x for name, x in self.xs.items()}) for i in range(self.per)]

    def step(self, x: dict[str, Any]) -> MicroStep:
        write = (x["v"], x["u"]) if self.across else (x["u"], x["v"])
        if self.kind == "two":
            pair = (x["a"] * x["c"].unsqueeze(-1), x["b"])
            return MicroStep(log_decay=x.get("log_decay"), low_rank=(pair,), writes=(write,))
        return MicroStep(log_decay=x.get("log_decay"), updates=(Update(*write, x.get("b"), x.get("c")),))

    def run(self, scan: Any) -> list[torch.Tensor]:
        return self.with_gradients(*self.outputs(scan))

    def outputs(self, scan: Any) -> tuple[torch.Tensor, torch.Tensor]:
        read, state = Read(self.xs["q"], "old" if self.old else "new"), self.xs["state"]
        if self.across:
            (y,), final = scan(state.mT, self.steps(), [read], across=True)
            return y, final.mT
        (y,), final = scan(state, self.steps(), [read])
        return y, final

    def with_gradients(self, y: torch.Tensor, final: torch.Tensor) -> list[torch.Tensor]:
        loss = (y.double() * self.weights[0]).sum() + (final.double() * self.weights[1]).sum()
        return [y, final, *torch.autograd.grad(loss, list(self.xs.values()))]

    def by_steps(self) -> list[torch.Tensor]:
        """What it means, one step after the other."""
        x, ys = self.xs, []
        S = x["state"]
        for t in range(x["q"].shape[1]):
            before = S
            for i in range(self.per):
                u, v = x[f"u{i}"][:, t], x[f"v{i}"][:, t]
                decay = x[f"log_decay{i}"][:, t].exp() if f"log_decay{i}" in x else torch.ones(())
                if self.across:
                    decay = decay.unsqueeze(-2)
                elif decay.ndim:
                    decay = decay.reshape(*decay.shape, *[1] * (S.ndim - decay.ndim))
                new = decay * S + u.unsqueeze(-1) * v.unsqueeze(-2)
                if self.kind:
                    seen = torch.einsum("bhkv,bhk->bhv", S, x[f"b{i}"][:, t]) * x[f"c{i}"][:, t].unsqueeze(-1)
                    new = new + (x[f"a{i}"][:, t] if self.kind == "two" else u).unsqueeze(-1) * seen.unsqueeze(-2)
                S = new
            ys.append(torch.einsum("bhkv,bhk->bhv", before if self.old else S, x["q"][:, t]))
        return self.with_gradients(torch.stack(ys, 1), S)

    def in_float32(self) -> Problem:
        other = copy(self)
        other.xs = {name: x.detach().float().requires_grad_() for name, x in self.xs.items()}
        return other


SIZES = [(1, 1, 1, 1, 1), (2, 31, 3, 5, 7), (1, 64, 2, 17, 33), (2, 100, 1, 64, 20)]


def check(problem: Problem, monkeypatch: pytest.MonkeyPatch, single: float = 3e-5) -> None:
    """The function in C, and not what it falls back to, is the loop: outputs, last state and all gradients."""
    want = problem.by_steps()
    with monkeypatch.context() as alone:
        alone.setattr(native_chunk, "by_torch", None)
        found, in_single = problem.run(native_chunk.matrix_scan), problem.in_float32().run(native_chunk.matrix_scan)
    for a, b, c in zip(found, in_single, want, strict=True):
        torch.testing.assert_close(a, c, rtol=1e-9, atol=1e-9)
        assert (b - c).norm() <= single * max(1.0, float(c.detach().norm()))


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("decay", ["", "number", "keys"])
def test_is_the_loop(sizes: tuple[int, ...], decay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    for kind in ("", "delta"):
        check(Problem(sizes, kind, decay), monkeypatch)


@pytest.mark.parametrize("sizes", SIZES)
def test_decays_of_values(sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the other axis than the one that reads contract; several writes a step, read before and behind it."""
    torch.manual_seed(0)
    for per, old in ((1, False), (1, True), (3, False)):
        problem = Problem(sizes, "", "values", per=per, old=old)
        check(problem, monkeypatch)
    for a, b in zip(problem.run(chunk_across), problem.by_steps(), strict=True):  # what it falls back to
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def chunk_across(state: torch.Tensor, steps: Any, reads: Any, *, across: bool) -> Any:
    assert across
    return chunk.matrix_scan_across(state, steps, reads)


@pytest.mark.parametrize("decay", ["", "number", "keys"])
@pytest.mark.parametrize(("kind", "per"), [("", 2), ("delta", 2), ("delta", 3), ("two", 1), ("two", 2), ("delta", 33)])
def test_several_updates_a_step(kind: str, per: int, decay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks that begin and end inside of a step, read before and behind it."""
    torch.manual_seed(0)
    for old in (False, True):
        check(Problem((2, 3 if per > 3 else 35, 1, 6, 3), kind, decay, per=per, old=old), monkeypatch)


@pytest.mark.parametrize("decay", ["number", "keys", "values"])
def test_no_steps_no_sequences_and_another_default_device(decay: str) -> None:
    torch.manual_seed(0)
    for sizes in ((2, 0, 3, 4, 5), (0, 7, 3, 4, 5)):
        problem = Problem(sizes, "", decay, per=2)
        y, final = problem.outputs(native_chunk.matrix_scan)
        assert y.shape == (*sizes[:3], 5)
        assert torch.equal(final, problem.xs["state"])
    problem = Problem((1, 40, 2, 5, 5), "" if decay == "values" else "two", decay)
    want = problem.run(native_chunk.matrix_scan)
    with torch.device("meta"):
        found = problem.run(native_chunk.matrix_scan)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@pytest.mark.parametrize(("kind", "decay"), [("", "keys"), ("delta", "keys"), ("", "values")])
def test_strong_decays_of_vectors(kind: str, decay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gates of exactly 0 (minus infinity) and 1 (0) beside each other, and so strong ones that every factor of two
    vectors would overflow or vanish; their gradients are numbers.
    """
    torch.manual_seed(0)
    problem = Problem((2, 70, 2, 19, 5) if decay == "keys" else (2, 70, 2, 5, 19), kind, decay)
    gates = problem.xs["log_decay0"].detach()
    chosen = torch.rand(gates.shape)
    gates = torch.where(chosen < 0.1, -torch.inf, torch.where(chosen < 0.5, 1e-6 * gates, 60 * gates))
    gates[:, 40:50] = 0
    gates[:, 20, :, 3:] = -torch.inf
    problem.xs["log_decay0"] = gates.requires_grad_()
    check(problem, monkeypatch)


def test_decays_of_zero_and_one_and_long_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logarithms of minus infinity, of zero, and so small that a product of float32 decays would lose them."""
    torch.manual_seed(0)
    for decay in ("number", "keys"):
        problem = Problem((1, 300, 1, 4, 4), "", decay)
        log_decay = torch.full_like(problem.xs["log_decay0"], -1e-8)
        log_decay[:, 200] = -torch.inf
        log_decay[:, 210:] = 0
        problem.xs["log_decay0"] = log_decay.requires_grad_()
        check(problem, monkeypatch)


def test_long_memories_by_keys() -> None:
    """32,000 factors of e^-1e-6, each of which float32 rounds by 1 % of its distance from one."""
    nothing = Update(torch.zeros(1, 1), torch.zeros(1, 1))
    step = MicroStep(log_decay=torch.full((1, 32000, 1, 1), -1e-6), updates=(nothing,))
    _, kept = native_chunk.matrix_scan(torch.ones(1, 1, 1, 1), [step], [Read(torch.ones(1, 32000, 1, 1))])
    assert abs(float(kept) - 0.96850658) < 3e-5  # 1,000 products of chunks; step by step it would be 4e-4


@pytest.mark.parametrize(("decay", "per", "old"), [("number", 1, False), ("keys", 2, True), ("values", 1, False)])
def test_second_derivatives(decay: str, per: int, old: bool) -> None:
    torch.manual_seed(0)
    problem = Problem((1, 3, 1, 1, 2), "" if decay == "values" else "delta", decay, per=per, old=old)
    names = list(problem.xs)

    def both(*given: torch.Tensor) -> Any:
        problem.xs = dict(zip(names, given, strict=True))
        return problem.outputs(native_chunk.matrix_scan)

    assert torch.autograd.gradgradcheck(both, tuple(problem.xs.values()))


@pytest.mark.parametrize("decay", ["number", "keys"])
def test_half_types(decay: str) -> None:
    torch.manual_seed(0)
    half = Problem((1, 40, 2, 8, 8), "delta", decay, dtype=torch.bfloat16, per=2)
    found, want = half.run(native_chunk.matrix_scan), half.run(chunk.matrix_scan)
    for a, b in zip(found, want, strict=True):
        assert a.dtype == b.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_what_is_left_to_pytorch() -> None:
    """Decays by values, and two terms of a micro-step that read the same state."""
    torch.manual_seed(0)
    write = (torch.randn(1, 40, 2, 8), torch.randn(1, 40, 2, 8))
    state, read = torch.randn(1, 2, 8, 8), Read(torch.randn(1, 40, 2, 8))
    pair = (torch.randn(1, 40, 2, 8) / 8, torch.randn(1, 40, 2, 8) / 8)
    for step in (
        MicroStep(decay=torch.rand(1, 40, 2, 8), writes=(write,)),
        MicroStep(low_rank=(pair, pair[::-1]), writes=(write,)),
    ):
        (a,), _ = native_chunk.matrix_scan(state, [step], [read])
        (b,), _ = chunk.matrix_scan(state, [step], [read])
        assert torch.equal(a, b)


SCRIPT = """
import test_cpu_chunkwise as mine
PLAIN = (("", "number", 1), ("", "values", 2), ("", "keys", 1))
KINDS = (*PLAIN, ("delta", "keys", 3), ("two", "keys", 1), ("delta", "", 2))
for sizes in ((1, 1, 1, 1, 1), (2, 31, 3, 5, 7), (1, 65, 2, 17, 33)):
    for dtype in (torch.float32, torch.float64):
        for kind, decay, per in KINDS:
            for x in mine.Problem(sizes, kind, decay, dtype, per=per).run(mine.native_chunk.matrix_scan):
                assert torch.isfinite(x).all()
"""


@pytest.mark.slow
def test_sanitised(tmp_path: Path) -> None:
    sanitised.run(SCRIPT, tmp_path)


def test_exported_for_any_length() -> None:
    """Sizes that are symbols are not looked at: an exported program has PyTorch's form."""
    layer = rnnc.compile(rnnc.stdlib("gated_deltanet"), "GatedDeltaNet", backend="cpu", strategy="chunkwise")(d=8)
    x = torch.randn(2, 40, 8)
    with torch.no_grad():
        lengths = ({0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("time", min=2)},)
        program = torch.export.export(layer, (x,), dynamic_shapes=lengths).module()
        for other in (x, torch.randn(3, 70, 8)):
            torch.testing.assert_close(program(other)[0], layer(other)[0], rtol=1e-4, atol=1e-4)
