"""Scans against loops: values, gradients of everything, extreme coefficients, and PyTorch's transforms."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from runtime_reference import relative, scan_loop
from torch import Tensor

from rnnc.runtime import (
    block_scan,
    convolution_scan,
    last_state,
    lerp_scan,
    linear_scan,
    log_plus_scan,
    max_plus_scan,
    min_plus_scan,
)

# forward-mode differentiation makes PyTorch compile its own decompositions with a deprecated function
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")

LENGTHS = (1, 2, 63, 75, 500)
F64 = torch.float64


def linear(a: Tensor, h: Tensor, b: Tensor) -> Tensor:
    return a * h + b


STEPS: dict[Callable[..., Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    linear_scan: linear,
    lerp_scan: lambda a, h, b: (1 - a) * h + a * b,
    max_plus_scan: lambda a, h, b: torch.maximum(a + h, b),
    min_plus_scan: lambda a, h, b: torch.minimum(a + h, b),
    log_plus_scan: lambda a, h, b: torch.logaddexp(a + h, b),
    block_scan: lambda a, h, b: a @ h + b,
}


def operands(scan: Callable[..., Tensor], steps: int, dtype: torch.dtype = F64) -> list[Tensor]:
    if scan is block_scan:
        return [
            torch.randn(2, steps, 3, 4, 4, dtype=dtype) / 3,
            torch.randn(2, steps, 3, 4, 2, dtype=dtype),
            torch.randn(2, 3, 4, 2, dtype=dtype),
        ]
    first = torch.randn(2, steps, 7, dtype=dtype)
    return [
        first.sigmoid() if scan is lerp_scan else first,
        torch.randn(2, steps, 7, dtype=dtype),
        torch.randn(2, 7, dtype=dtype),
    ]


def gradients(f: Callable[..., Tensor], args: list[Tensor]) -> list[Tensor]:
    """Gradients of a loss over all states, with an extra one on the final state."""
    args = [x.detach().clone().requires_grad_() for x in args]
    h = f(*args)
    torch.manual_seed(1)
    weight = torch.randn(h.shape, dtype=F64)
    loss = (h * weight.to(h.real.dtype)).sum() + 3 * h[:, -1].sum()
    loss.real.backward()
    return [x.grad for x in args if x.grad is not None]


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("scan", STEPS, ids=lambda f: f.__name__)
def test_values_and_gradients_match_the_loop(scan: Callable[..., Tensor], steps: int) -> None:
    args = operands(scan, steps)

    def loop(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        return scan_loop(STEPS[scan], a, b, h0)

    expected = loop(*args)
    # products of 500 random factors: compare where the numbers are not astronomically large
    assert relative(scan(*args), expected) < 1e-10
    for found, wanted in zip(gradients(scan, args), gradients(loop, args), strict=True):
        assert relative(found, wanted) < 1e-10


@pytest.mark.parametrize("scan", STEPS, ids=lambda f: f.__name__)
def test_float32_is_close_to_float64(scan: Callable[..., Tensor]) -> None:
    args = operands(scan, 500)
    args[0] = args[0].sigmoid() if scan in (linear_scan, lerp_scan) else args[0]
    found = scan(*(x.float() for x in args))
    assert found.dtype == torch.float32
    assert relative(found, scan_loop(STEPS[scan], *args)) < 1e-4


@pytest.mark.parametrize("steps", LENGTHS)
def test_complex_scan(steps: int) -> None:
    args = operands(linear_scan, steps, torch.complex128)
    args[0] = args[0] / 2
    assert relative(linear_scan(*args), scan_loop(linear, *args)) < 1e-10
    for found, wanted in zip(
        gradients(linear_scan, args), gradients(lambda *x: scan_loop(linear, *x), args), strict=True
    ):
        assert relative(found, wanted) < 1e-10


def test_real_decay_of_a_complex_state() -> None:
    a, b, h0 = torch.rand(2, 40, 3, dtype=F64), *operands(linear_scan, 40, torch.complex128)[1:]
    b, h0 = b[..., :3], h0[..., :3]
    assert relative(linear_scan(a, b, h0), scan_loop(linear, a, b, h0)) < 1e-10
    for found, wanted in zip(
        gradients(linear_scan, [a, b, h0]), gradients(lambda *x: scan_loop(linear, *x), [a, b, h0]), strict=True
    ):
        assert relative(found, wanted) < 1e-10


@pytest.mark.parametrize("value", [0.0, -0.5, 1e-30, 1e-4, 0.999999, 1.0, 1.01, -1.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_constant_decays(value: float, dtype: torch.dtype) -> None:
    a = torch.full((1, 2000, 3), value, dtype=dtype)
    b, h0 = torch.randn(1, 2000, 3, dtype=dtype), torch.randn(1, 3, dtype=dtype)
    expected = scan_loop(linear, a.double(), b.double(), h0.double())
    assert relative(linear_scan(a, b, h0), expected) < (1e-4 if dtype == torch.float32 else 1e-10)


def test_products_that_overflow_where_the_states_do_not() -> None:
    """1e20 then 1e-30, from a state that is zero: a chunk's product is infinite, the sequence is not."""
    a = torch.full((1, 400, 2), 1e20)
    b, h0 = torch.zeros(1, 400, 2), torch.zeros(1, 2)
    a[:, 200:], b[:, 200:] = 1e-30, 1.0
    found = linear_scan(a, b, h0)
    assert relative(found, scan_loop(linear, a.double(), b.double(), h0.double())) < 1e-6


def test_infinities_of_the_tropical_semirings() -> None:
    for scan, sign in ((max_plus_scan, -1), (min_plus_scan, 1), (log_plus_scan, -1)):
        a, b, h0 = operands(scan, 60)
        h0[:, 0] = sign * math.inf
        b[:, :20] = sign * math.inf
        a[:, 30] = sign * math.inf
        found = scan(a, b, h0)
        expected = scan_loop(STEPS[scan], a, b, h0)
        assert torch.allclose(found, expected, rtol=1e-10)
        for gradient in gradients(lambda *x, f=scan: f(*x).nan_to_num(0, 0, 0), [a, b, h0]):
            assert gradient.isfinite().all()


def test_ties_share_the_gradient() -> None:
    a, b, h0 = torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), torch.zeros(1, 1)
    for gradient in gradients(max_plus_scan, [a, b, h0]):
        assert gradient.abs().max() > 0
    a, b, h0 = (x.requires_grad_() for x in (a, b, h0))
    max_plus_scan(a, b, h0).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.item() == b.grad.item() == 0.5


def test_static_missing_and_broadcast_coefficients() -> None:
    b, h0 = torch.randn(2, 50, 3, 4, dtype=F64), torch.randn(2, 3, 4, dtype=F64)
    for a in (
        torch.rand(3, 4, dtype=F64),
        torch.rand(2, 50, 1, 4, dtype=F64),
        torch.rand(1, 1, 3, 1, dtype=F64),
        torch.tensor(0.5),
    ):
        full = a.to(F64).expand(2, 50, 3, 4)
        assert relative(linear_scan(a.to(F64), b, h0), scan_loop(linear, full, b, h0)) < 1e-10
    assert relative(linear_scan(None, b, h0), h0.unsqueeze(1) + b.cumsum(1)) < 1e-10
    a = torch.rand(3, 4, dtype=F64)
    assert relative(linear_scan(a, None, h0, length=3)[:, 2], a**3 * h0) < 1e-10
    with pytest.raises(ValueError, match="length"):
        linear_scan(a, None, h0)
    with pytest.raises(ValueError, match="neither a sequence"):
        linear_scan(torch.rand(2, 3, 4), b, h0)


def test_no_steps_leave_the_state() -> None:
    h0 = torch.randn(2, 3, requires_grad=True)
    h = linear_scan(torch.rand(2, 0, 3), torch.rand(2, 0, 3), h0)
    assert h.shape == (2, 0, 3)
    assert last_state(h, h0) is h0
    h.sum().backward()


def test_block_scan_of_vectors_and_static_blocks() -> None:
    a, b, h0 = torch.randn(3, 2, 2, dtype=F64) / 2, torch.randn(2, 40, 3, 2, dtype=F64), torch.randn(2, 3, 2, dtype=F64)
    expected = scan_loop(lambda a_t, h, b_t: (a_t @ h.unsqueeze(-1)).squeeze(-1) + b_t, a.expand(2, 40, 3, 2, 2), b, h0)
    assert relative(block_scan(a, b, h0), expected) < 1e-10
    turn = torch.randn(2, 40, 3, 2, 2, dtype=torch.complex128) / 2
    expected = scan_loop(
        lambda a_t, h, b_t: (a_t @ h.unsqueeze(-1)).squeeze(-1) + b_t,
        turn,
        b.to(torch.complex128),
        h0.to(torch.complex128),
    )
    assert relative(block_scan(turn, b.to(torch.complex128), h0.to(torch.complex128)), expected) < 1e-10


@pytest.mark.parametrize(("n", "columns"), [(2, 1), (2, 3), (3, 1), (4, 4)])
@pytest.mark.parametrize("dtype", [F64, torch.complex128])
@pytest.mark.parametrize("static", [False, True])
def test_many_small_blocks(n: int, columns: int, dtype: torch.dtype, static: bool) -> None:
    """At ten positions matrices of up to four rows are multiplied entry by entry."""
    a = torch.randn(*(() if static else (2, 61)), 2, 5, n, n, dtype=dtype) / 2
    args = [a, torch.randn(2, 61, 2, 5, n, columns, dtype=dtype), torch.randn(2, 2, 5, n, columns, dtype=dtype)]

    def loop(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        return scan_loop(STEPS[block_scan], a.expand(2, 61, 2, 5, n, n), b, h0)

    assert relative(block_scan(*args), loop(*args)) < 1e-10
    for found, wanted in zip(gradients(block_scan, args), gradients(loop, args), strict=True):
        assert relative(found, wanted) < 1e-10
    if columns == 1:
        args = [x[:, :5] if x.ndim == 6 else x for x in args]
        args = [x.clone().requires_grad_() for x in args]
        assert torch.autograd.gradgradcheck(block_scan, args, fast_mode=True)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("steps", "width"), [(700, 1024), (1300, 512), (300, 5000)])
def test_windows_and_one_pass(threads: int, steps: int, width: int) -> None:
    """Sequences so wide that the number of threads decides how they are divided."""
    a, b, h0 = torch.rand(1, steps, width), torch.randn(1, steps, width), torch.randn(1, width)
    expected = scan_loop(linear, a.double(), b.double(), h0.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = linear_scan(a, b, h0)
        backwards = linear_scan(a.flip(1), b.flip(1), h0).flip(1)
    finally:
        torch.set_num_threads(before)
    assert relative(found, expected) < 1e-5
    assert relative(backwards[:, 0], scan_loop(linear, a.flip(1), b.flip(1), h0)[:, -1]) < 1e-5


@pytest.mark.parametrize("radius", [0.0, 0.5, 1.0, 1.05])
@pytest.mark.parametrize("dtype", [F64, torch.complex128, torch.float32, torch.complex64])
def test_convolution(radius: float, dtype: torch.dtype) -> None:
    angle = torch.rand(5, dtype=F64) * 6
    wide = torch.complex128 if dtype.is_complex else F64
    a = (torch.polar(torch.full_like(angle, radius), angle) if dtype.is_complex else radius * torch.cos(angle)).to(
        dtype
    )
    b, h0 = torch.randn(2, 300, 5, dtype=dtype), torch.randn(2, 5, dtype=dtype)
    expected = scan_loop(linear, a.to(wide).expand(2, 300, 5), b.to(wide), h0.to(wide))
    tight = dtype in (F64, torch.complex128)
    assert relative(convolution_scan(a, b, h0), expected) < (1e-10 if tight else 1e-4)
    if tight:
        pairs = zip(gradients(convolution_scan, [a, b, h0]), gradients(linear_scan, [a, b, h0]), strict=True)
        assert all(relative(found, wanted) < 1e-9 for found, wanted in pairs)


@pytest.mark.parametrize("scan", [linear_scan, lerp_scan, log_plus_scan, block_scan], ids=lambda f: f.__name__)
@pytest.mark.parametrize("steps", [3, 27])
def test_gradcheck_twice(scan: Callable[..., Tensor], steps: int) -> None:
    args = [x[..., :2] if scan is not block_scan else x for x in operands(scan, steps)]
    if scan is block_scan:
        args = [args[0][:1, :, :1, :2, :2], args[1][:1, :, :1, :2], args[2][:1, :1, :2]]
    args = [x.contiguous().requires_grad_() for x in args]
    assert torch.autograd.gradcheck(scan, args, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(scan, args, fast_mode=True)


def test_complex_gradcheck() -> None:
    args = [x[..., :2].div(2).requires_grad_() for x in operands(linear_scan, 27, torch.complex128)]
    assert torch.autograd.gradcheck(linear_scan, args, fast_mode=True)
    assert torch.autograd.gradgradcheck(linear_scan, args, fast_mode=True)


@pytest.mark.parametrize("scan", STEPS, ids=lambda f: f.__name__)
def test_torch_func(scan: Callable[..., Tensor]) -> None:
    args = operands(scan, 30)

    def loss(a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
        return scan(a, b, h0).sin().sum()

    expected = torch.func.grad(loss, argnums=(0, 1, 2))(*args)
    each = torch.func.vmap(torch.func.grad(lambda *x: loss(*(y.unsqueeze(0) for y in x)), argnums=(0, 1, 2)))(*args)
    for found, wanted in zip(each, expected, strict=True):
        assert relative(found, wanted) < 1e-10
    _, tangent = torch.func.jvp(loss, tuple(args), tuple(torch.ones_like(x) for x in args))
    assert relative(tangent, sum(g.sum() for g in expected)) < 1e-10  # type: ignore[arg-type]
    shared = torch.func.vmap(lambda a: scan(a, *args[1:]))(torch.stack([args[0], args[0]]))
    assert relative(shared[1], scan(*args)) < 1e-10


def test_a_gate_between_the_old_state_and_a_new_value() -> None:
    """`lerp_scan` is a linear scan: of complex states, with gates that broadcast, at 0 and 1, under each need."""
    share, new, h0 = operands(lerp_scan, 40, F64)
    share[:, 5], share[:, 6] = 0.0, 1.0
    pairs = [(share, new, h0), (share[0, 0], new, h0), (share[..., :1], new, h0), (share, new[:1, :1], h0)]
    turn = torch.randn(2, 40, 7, dtype=torch.complex128)
    pairs += [(share, turn, turn[:, 0]), (share[0, 0], new, turn[:, 0])]
    for a, c, h in pairs:
        assert relative(lerp_scan(a, c, h), linear_scan(1 - a, a * c, h)) < 1e-12
    for a in (share[0, 0, :2], share[:, :11, :1]):
        leaves = [x.clone().requires_grad_() for x in (a, turn[:, :11, :2], turn[:, 0, :2])]
        assert torch.autograd.gradcheck(lerp_scan, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(lerp_scan, leaves, fast_mode=True)
    expected = lerp_scan(share, new, h0)
    assert torch.equal(expected[:, 5], expected[:, 4])
    assert torch.equal(expected[:, 6], new[:, 6])
    wanted = gradients(lerp_scan, [share, new, h0])
    for i in range(3):
        args = [x.clone().requires_grad_(i == k) for k, x in enumerate((share, new, h0))]
        torch.manual_seed(1)
        h = lerp_scan(*args)
        ((h * torch.randn(h.shape, dtype=F64)).sum() + 3 * h[:, -1].sum()).backward()
        assert relative(args[i].grad, wanted[i]) < 1e-12  # type: ignore[arg-type]


def test_a_convolution_mapped_over_its_coefficient() -> None:
    """A coefficient that differs within the batch has no kernel: the scan runs."""
    a, b, h0 = torch.rand(3, 4, dtype=F64), torch.randn(2, 30, 4, dtype=F64), torch.randn(2, 4, dtype=F64)
    each = torch.stack([convolution_scan(x, b, h0) for x in a])
    assert relative(torch.func.vmap(lambda x: convolution_scan(x, b, h0))(a), each) < 1e-10
    slopes = torch.func.vmap(torch.func.grad(lambda x: convolution_scan(x, b, h0).sin().sum()))(a)
    wanted = [torch.func.grad(lambda x: linear_scan(x, b, h0).sin().sum())(x) for x in a]
    assert relative(slopes, torch.stack(wanted)) < 1e-10
    shared = torch.func.vmap(lambda x: convolution_scan(a[0], x, h0))(torch.stack([b, 2 * b]))
    assert relative(shared[1], convolution_scan(a[0], 2 * b, h0)) < 1e-10


@pytest.mark.parametrize("scan", STEPS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(("batch", "steps"), [(0, 30), (0, 0), (2, 0), (0, 3)])
def test_nothing_to_do(scan: Callable[..., Tensor], batch: int, steps: int) -> None:
    args = [x[:batch].clone().requires_grad_() for x in operands(scan, max(steps, 1))]
    args = [x[:, :steps] if i < 2 else x for i, x in enumerate(args)]
    h = scan(*args)
    assert h.shape == args[1].shape
    assert all(g.shape == x.shape for g, x in zip(torch.autograd.grad(h.sum(), args), args, strict=True))


def test_wrong_shapes_are_named() -> None:
    h0 = torch.zeros(2, 3)
    for a in (torch.zeros(3, 5, 3), torch.zeros(2, 4, 3), torch.zeros(2, 5, 4), torch.zeros(4)):
        with pytest.raises(ValueError, match="does not broadcast"):
            linear_scan(torch.zeros(2, 5, 3), a, h0)
    with pytest.raises(ValueError, match="real or complex"):
        linear_scan(torch.ones(2, 5, 3, dtype=torch.long), None, torch.ones(2, 3, dtype=torch.long))


def test_half_types_run_in_float32() -> None:
    a, b, h0 = (x.bfloat16() for x in operands(linear_scan, 200))
    a = a.sigmoid()
    found = linear_scan(a, b, h0)
    assert found.dtype == torch.bfloat16
    assert relative(found, scan_loop(linear, a.double(), b.double(), h0.double())) < 1e-2
