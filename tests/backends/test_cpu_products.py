"""Products of matrices in C: the values and gradients of PyTorch's, for every layout and odd sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import test_cpu_cells as cells
import torch
import torch.nn.functional as F
from torch import Tensor

from rnnc.runtime import compiled, products

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="needs a C compiler")


@pytest.fixture(autouse=True)
def _by_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_PRODUCTS", "c")
    monkeypatch.setattr(products, "LEAST", 0)


def layouts(rows: int, columns: int, dtype: torch.dtype) -> Iterator[Tensor]:
    yield torch.randn(rows, columns, dtype=dtype)
    yield torch.randn(columns, rows, dtype=dtype).T
    yield torch.randn(2 * rows, 3 * columns, dtype=dtype)[::2, ::3]
    yield torch.randn(1, columns, dtype=dtype).expand(rows, columns)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize(
    ("size", "threads"),
    [((1, 1, 1), 1), ((13, 33, 7), 1), ((97, 65, 300), 1), ((30, 40, 4200), 1), ((5, 1, 513), 1), ((300, 129, 66), 2)],
)
def test_is_the_product(size: tuple[int, int, int], dtype: torch.dtype, tolerance: float, threads: int) -> None:
    """Tiles, panels and slabs with a last one in part; a bias; results that were not zero before."""
    m, n, k = size
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        for a in layouts(m, k, dtype):
            for b in layouts(k, n, dtype):
                bias = torch.randn(2 * n, dtype=dtype)[::2]
                for start in (None, bias):
                    want = a.double() @ b.double() + (0 if start is None else start.double())
                    scale = a.double().abs() @ b.double().abs() + 1
                    assert ((products.run(a, b, start) - want).abs() <= tolerance * k**0.5 * scale).all()
    finally:
        torch.set_num_threads(before)


def test_empty_products() -> None:
    bias = torch.randn(3)
    assert torch.equal(products.run(torch.empty(2, 0), torch.empty(0, 3), bias), bias.expand(2, 3))
    assert products.run(torch.empty(0, 4), torch.empty(4, 3)).shape == (0, 3)
    assert products.run(torch.empty(2, 4), torch.empty(4, 0)).shape == (2, 0)


def test_gradients_of_any_order() -> None:
    x, w, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((3, 5, 7), (4, 7), (4,)))
    assert torch.autograd.gradcheck(products.linear, (x, w, b))
    assert torch.autograd.gradgradcheck(products.linear, (x, w, b))
    assert torch.autograd.gradcheck(products.linear, (x, w))


def test_several_products_of_one_matrix() -> None:
    sizes = (4, 3, 6)
    x = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(n, 7, dtype=torch.float64, requires_grad=True) for n in sizes]
    biases = [torch.randn(n, dtype=torch.float64, requires_grad=True) for n in sizes]

    def call(x: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        return products.linears(x, given[:3], given[3:])

    for found, w, b in zip(call(x, *weights, *biases), weights, biases, strict=True):
        assert torch.allclose(found, F.linear(x, w, b))
    assert torch.autograd.gradcheck(call, (x, *weights, *biases))
    assert torch.autograd.gradgradcheck(call, (x, *weights, *biases))
    assert torch.autograd.gradcheck(call, (x, *weights))


def test_joined_copies_only_what_lies_apart() -> None:
    whole = torch.randn(2, 3, 12)
    parts = whole.split([5, 4, 3], -1)
    with torch.no_grad():
        assert products.joined(parts).data_ptr() == whole.data_ptr()
        assert torch.equal(products.joined(parts), whole)
        for other in (
            (parts[1], parts[0]),
            (parts[0], parts[2]),
            (parts[0], parts[1].clone()),
            (parts[0].mT, parts[0].mT),
        ):
            assert torch.equal(products.joined(other), torch.cat(list(other), -1))
    assert products.joined(parts).data_ptr() != whole.data_ptr()  # a gradient may be asked for


@pytest.mark.parametrize(("file", "cell"), [("lstm.rnn", "LSTM"), ("gru.rnn", "GRU"), ("slstm.rnn", "sLSTM")])
def test_in_a_cell(file: str, cell: str) -> None:
    path = cells.LIBRARY / file
    cells.case(path, cell, 19).check(cells.compiled(path, cell), step=False)


@pytest.mark.parametrize("shape", [(4, 4), (6, 6), (5, 1), (5, 5, 1), (1, 5, 5)])
def test_matrices_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    """Those inside the steps: C would read behind the memory."""
    layer = cells.compiled(cells.LIBRARY / "lstm.rnn", "LSTM")(d=3, n=5)
    name = next(k for k, p in layer.named_parameters() if p.shape == (5, 5))
    setattr(layer, name, torch.nn.Parameter(torch.zeros(shape)))
    with pytest.raises((ValueError, RuntimeError), match=r"a matrix of shape|must match|number of dimensions"):
        layer(torch.zeros(2, 4, 3))


def test_stays_out_of_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed and half types, transforms, autocast and the choice of PyTorch's product."""
    monkeypatch.setattr(products, "run", lambda *_: pytest.fail("by the kernel"))
    x, w = torch.randn(4, 3), torch.randn(2, 3)
    for kind in (torch.bfloat16, torch.float16):
        assert products.linear(x.to(kind), w.to(kind)).dtype == kind
    assert torch.equal(torch.func.vmap(lambda v: products.linear(v, w))(x[:, None])[:, 0], F.linear(x, w))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert products.linear(x, w).dtype == torch.bfloat16
    monkeypatch.setenv("RNNC_PRODUCTS", "torch")
    assert torch.equal(products.linear(x, w), F.linear(x, w))


def test_without_a_compiler_products_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.delenv("RNNC_PRODUCTS")
    for cached in (compiled.compiler, products._preferred, products._function, compiled.load_library):
        cached.cache_clear()
    try:
        x, w = torch.randn(4, 3), torch.randn(2, 3)
        assert torch.equal(products.linear(x, w), F.linear(x, w))
    finally:
        monkeypatch.undo()
        for cached in (compiled.compiler, products._preferred, products._function, compiled.load_library):
            cached.cache_clear()


def test_wrong_shapes_are_pytorchs_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel has no shapes to compare: it would read behind the memory."""
    monkeypatch.setattr(products, "run", lambda *_: pytest.fail("by the kernel"))
    x, w, bias = torch.randn(4, 3), torch.randn(2, 3), torch.randn(2)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        products.linear(torch.randn(4, 5), w)
    with pytest.raises(RuntimeError):
        products.linear(x, w, torch.randn(5))
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        products.linears(torch.randn(4, 5), [w, w])
    with pytest.raises(RuntimeError):
        products.linears(x, [w, w], [bias, torch.randn(3)])
    with pytest.raises(RuntimeError):
        products.product(x, w)


def test_results_side_by_side_may_change_in_place() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (2, 4)]
    a, b = products.linears(x, weights)
    a2, b2 = (F.linear(x, w) for w in weights)
    squares = [b.square(), b2.square()]  # which keep b, and a is not b
    found = [(p.relu_() * q).sum() for p, q in ((a, squares[0].sum()), (a2, squares[1].sum()))]
    for got, want in zip(*(torch.autograd.grad(y, [x, *weights]) for y in found), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
