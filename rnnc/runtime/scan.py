"""Scans: all states of a recurrence that is linear over (+, x), (max, +), (min, +), (logaddexp, +) or matrices.

    h_t = a_t (x) h_{t-1} (+) b_t,    t = 1..T,    result [B, T, *S] with every h_t; h_T is the last.

`lerp_scan` is (+, x) with a_t = 1 - z_t and b_t = z_t c_t, computed from z and c.

Backward of the linear scan.  With G_t the total derivative of the loss with respect to h_t and D_t the direct one,

    G_t = D_t + conj(a_{t+1}) G_{t+1},    db_t = G_t,    da_t = G_t conj(h_{t-1}),    dh_0 = conj(a_1) G_1,

so the backward is one scan that runs the other way (`adjoint`), whose own backward is a forward scan again.  A scan
over (max, +) or (logaddexp, +) has the same adjoint with a_{t+1} replaced by the weight of its left branch, and so has
`lerp_scan`.

The work is done by two operators, `rnnc::scan` and `rnnc::scan_adjoint`, registered with PyTorch: `torch.compile`,
`torch.export` and `torch.func` see each as one differentiable operation.  Neither divides by products of coefficients,
so any coefficient is allowed: zero, negative, tiny, above one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime._compat import operator
from rnnc.runtime._tiles import SMALL, run_scan
from rnnc.runtime.layout import common_dtype, compute_dtype, real_dtype, sequence_length, spread
from rnnc.runtime.packed import restarted

__all__ = [
    "block_scan",
    "convolution_scan",
    "lerp_scan",
    "linear_scan",
    "log_plus_scan",
    "max_plus_scan",
    "min_plus_scan",
]

BRANCHING = ("max_plus", "log_plus", "lerp")  # h_t is a weighted choice between h_{t-1} and b_t
SHORT = 8  # steps up to which a plain loop is faster


def linear_scan(
    a: Tensor | None, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """All states of `h_t = a_t * h_{t-1} + b_t`.

    `h0` is `[B, *S]`; `a` (None: one) and `b` (None: zero) are coefficients, real or complex.  Returns `[B, T, *S]` in
    the promoted dtype (half types are computed in float32).  `length` gives T where every coefficient is static.

    With `bounds` (see `rnnc.runtime.packed`) N sequences are packed: coefficients and result are `[1, L, ...]`, `h0` is
    `[N, *S]`.  So for all scans here.
    """
    a, b, h0, dtype = _prepare(a, b, h0, length, bounds, one=1.0, zero=0.0)
    if h0.is_complex() and not a.is_complex():  # a real factor acts on real and imaginary parts alike
        real = linear_scan(a.unsqueeze(-1), torch.view_as_real(b), torch.view_as_real(h0), bounds=bounds)
        return torch.view_as_complex(real)
    return _run(a, b, h0, "plus_times", bounds).to(dtype)


def lerp_scan(
    share: Tensor, new: Tensor, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """All states of `h_t = h_{t-1} + share_t * (new_t - h_{t-1})`, a gate between the old state and a new value.

    The same as `linear_scan(1 - share, share * new, h0)` without forming either coefficient: two sequences less to
    write, and four less in the backward.  `share` is real; shapes as in `linear_scan`.
    """
    if bounds is not None:
        return linear_scan(1 - share, share * new, h0, length=length, bounds=bounds)
    share, new, h0, dtype = _prepare(share, new, h0, length, None, one=1.0, zero=0.0)
    if not h0.is_complex():
        return _scan(share, new, h0, "lerp").to(dtype)
    parts = lerp_scan(share.unsqueeze(-1), torch.view_as_real(new), torch.view_as_real(h0), length=length)
    return torch.view_as_complex(parts)


def convolution_scan(
    a: Tensor, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """`linear_scan` for a static coefficient `a` `[*S]`, as a convolution by FFT.

    Where some |a| exceeds one the powers of `a` would drown the rest in rounding errors, and the scan runs instead.
    """
    if a.ndim >= h0.ndim:
        raise ValueError(f"a convolution needs a static coefficient, not one of shape {tuple(a.shape)}")
    if bounds is not None:  # a sequence's first step has a coefficient of its own
        return linear_scan(a, b, h0, length=length, bounds=bounds)
    if h0.is_complex() or (b is not None and b.is_complex()):
        a = a.to(torch.promote_types(a.dtype, torch.complex64))
    a, b, h0, dtype = _prepare(a, b, h0, length, None, one=1.0, zero=0.0)
    return _scan(a, b, h0, "convolution").to(dtype)


def max_plus_scan(
    a: Tensor | None, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """All states of `h_t = max(a_t + h_{t-1}, b_t)`; shapes as in `linear_scan`, -inf allowed everywhere.

    Where the branches tie each gets half of the gradient, as with `torch.maximum`.
    """
    a, b, h0, dtype = _prepare(a, b, h0, length, bounds, one=0.0, zero=-math.inf)
    return _run(a, b, h0, "max_plus", bounds).to(dtype)


def min_plus_scan(
    a: Tensor | None, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """All states of `h_t = min(a_t + h_{t-1}, b_t)`; see `max_plus_scan`."""
    return -max_plus_scan(None if a is None else -a, None if b is None else -b, -h0, length=length, bounds=bounds)


def log_plus_scan(
    a: Tensor | None, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """All states of `h_t = log(exp(a_t + h_{t-1}) + exp(b_t))`; shapes as in `linear_scan`, -inf allowed everywhere."""
    a, b, h0, dtype = _prepare(a, b, h0, length, bounds, one=0.0, zero=-math.inf)
    return _run(a, b, h0, "log_plus", bounds).to(dtype)


def block_scan(
    a: Tensor, b: Tensor | None, h0: Tensor, *, length: int | None = None, bounds: Tensor | None = None
) -> Tensor:
    """All states of `h_t = a_t @ h_{t-1} + b_t` for small matrices.

    `a` is `[B, T, *P, n, n]` (or broadcastable, or static `[*P, n, n]`); `h0` and `b` (None: zero) are vectors `[B, *P,
    n]`, `[B, T, *P, n]`, or matrices with one more axis m.  Which of the two is read from `h0`: it is a vector when its
    rank is one less than that of `a`'s core.  Returns all states in the layout of `b`.
    """
    core_rank = _block_core_rank(a, h0)
    vector = h0.ndim == core_rank
    if vector:
        h0 = h0.unsqueeze(-1)
        b = None if b is None else b.unsqueeze(-1)
    elif h0.ndim != core_rank + 1:
        raise ValueError(f"a state of shape {tuple(h0.shape)} does not fit blocks of shape {tuple(a.shape)}")
    dtype = common_dtype(a, b, h0)
    steps = sequence_length(core_rank, (a, b), length)
    entries, *core = h0.shape
    batch = entries if bounds is None else 1
    zero = h0.new_zeros(()) if b is None else b
    inner = compute_dtype(dtype)
    a = spread(a.to(inner), batch, steps, (*core[:-1], core[-2]))
    h = _run(a, spread(zero.to(inner), batch, steps, core), h0.to(inner), "matrix", bounds).to(dtype)
    return h.squeeze(-1) if vector else h


def _block_core_rank(a: Tensor, h0: Tensor) -> int:
    """The rank of `[*P, n, n]`: `a` has two axes more when it is a sequence, and `h0` tells which."""
    for core_rank in (a.ndim - 2, a.ndim):
        if core_rank >= 2 and h0.ndim in (core_rank, core_rank + 1) and h0.shape[core_rank - 1] == a.shape[-1]:
            return core_rank
    raise ValueError(f"a state of shape {tuple(h0.shape)} does not fit blocks of shape {tuple(a.shape)}")


def _prepare(
    a: Tensor | None,
    b: Tensor | None,
    h0: Tensor,
    length: int | None,
    bounds: Tensor | None,
    *,
    one: float,
    zero: float,
) -> tuple[Tensor, Tensor, Tensor, torch.dtype]:
    """Broadcast the coefficients to `[B, T, *S]` in the dtype of the arithmetic; also the dtype of the result."""
    dtype = common_dtype(a, b, h0)
    inner = compute_dtype(dtype)
    entries, *core = h0.shape
    batch = entries if bounds is None else 1
    steps = sequence_length(len(core), (a, b), length)
    real = inner if a is not None and a.is_complex() else real_dtype(inner)
    a = h0.new_full((), one, dtype=real) if a is None else a.to(real)
    b = h0.new_full((), zero, dtype=inner) if b is None else b.to(inner)
    return spread(a, batch, steps, core), spread(b, batch, steps, core), h0.to(inner), dtype


# -- the two operators ------------------------------------------------------------------------------------------------
#
# Each exists twice with one set of formulas: as an operator of `torch.library`, which `torch.compile` and
# `torch.export` keep as one node, and as an `autograd.Function`, which `torch.func` can differentiate.


def _scan(a: Tensor, b: Tensor, h0: Tensor, ring: str) -> Tensor:
    """All states; `a`, `b` are `[B, T, ...]` expanded to the state's shape (matrices for the ring "matrix")."""
    if torch.compiler.is_compiling():
        return scan_operator(a, b, h0, ring)
    if ring in SHORT_STEPS and 0 < b.shape[1] <= SHORT:
        return _short_scan(SHORT_STEPS[ring], a, b, h0)
    return _Scan.apply(a, b, h0, ring)


def _run(a: Tensor, b: Tensor, h0: Tensor, ring: str, bounds: Tensor | None) -> Tensor:
    return _scan(*((a, b, h0) if bounds is None else restarted(a, b, h0, bounds, ring)), ring)


Step = Callable[[Tensor, Tensor, Tensor], Tensor]
SHORT_STEPS: dict[str, Step] = {
    "plus_times": lambda a, h, b: torch.addcmul(b, a, h),
    "lerp": lambda a, h, b: torch.lerp(h, b, a),
}


def _short_scan(step: Step, a: Tensor, b: Tensor, h0: Tensor) -> Tensor:
    """A few steps, differentiated by autograd: less to set up than one operation with its own backward."""
    states = []
    for a_t, b_t in zip(a.unbind(1), b.unbind(1), strict=True):
        h0 = step(a_t, h0, b_t)
        states.append(h0)
    return torch.stack(states, 1)


def _adjoint(a: Tensor, d: Tensor, ring: str) -> Tensor:
    """`g_t = d_t + adjoint(a_{t+1}) g_{t+1}` with `g_T = d_T`; the first coefficient is not used."""
    run: Callable[..., Tensor] = adjoint_operator if torch.compiler.is_compiling() else _Adjoint.apply
    return run(a, d, ring)


def _scan_kernel(a: Tensor, b: Tensor, h0: Tensor, ring: str) -> Tensor:
    h = torch.empty_like(b)
    run_scan(ring, _plain(a), _plain(b), _plain(h0), h, reverse=False)
    return h


def _adjoint_kernel(a: Tensor, d: Tensor, ring: str) -> Tensor:
    g = torch.empty_like(d)
    if d.shape[1]:
        a, d = _plain(a.mH if ring == "matrix" else a.conj()), _plain(d)
        g[:, -1] = d[:, -1]
        run_scan(ring, a[:, 1:], d[:, :-1], d[:, -1], g[:, :-1], reverse=True)
    return g


scan_operator = operator("scan", "(Tensor a, Tensor b, Tensor h0, str ring) -> Tensor", _scan_kernel)
adjoint_operator = operator("scan_adjoint", "(Tensor a, Tensor d, str ring) -> Tensor", _adjoint_kernel)


def _is_plain(x: Tensor) -> bool:
    """Whether no tracer looks on: then the kernel is called without the operator around it (20 us a call)."""
    return type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta


@scan_operator.register_fake
def _(a: Tensor, b: Tensor, h0: Tensor, ring: str) -> Tensor:
    return torch.empty_like(b)


@adjoint_operator.register_fake
def _(a: Tensor, d: Tensor, ring: str) -> Tensor:
    return torch.empty_like(d)


def _plain(x: Tensor) -> Tensor:
    """`x` without lazy conjugation or negation, which every step would have to undo again."""
    return x.resolve_conj().resolve_neg()


def _shifted(h: Tensor, h0: Tensor) -> Tensor:
    """The state before each step: h_0 .. h_{T-1}."""
    return torch.cat((h0.unsqueeze(1), h[:, :-1]), 1)


def _product(ring: str, a: Tensor, h: Tensor) -> Tensor:
    return a @ h if ring == "matrix" else a * h


def _outer(g: Tensor, h: Tensor) -> Tensor:
    """g h^H; for small matrices entry by entry, which is faster than a product for each."""
    n = g.shape[-2]
    if n > SMALL or not _is_plain(g) or torch.is_grad_enabled():
        return g @ h.mH
    result, h = g.new_empty(*g.shape[:-1], n), h.conj()
    for i in range(n):
        for j in range(n):
            entry = torch.mul(g[..., i, 0], h[..., j, 0], out=result[..., i, j])
            for k in range(1, g.shape[-1]):
                entry.addcmul_(g[..., i, k], h[..., j, k])
    return result


def _branch_weights(a: Tensor, b: Tensor, before: Tensor, h: Tensor, ring: str) -> tuple[Tensor, Tensor]:
    """The derivatives of h_t by h_{t-1} and by `b_t` for the rings in which they are not `a_t` and one."""
    if ring == "lerp":
        return 1 - a, a
    if ring == "max_plus":
        left = a + before
        weight = ((left > b).to(h.dtype) + (left >= b).to(h.dtype)) / 2
        return weight, 1 - weight
    empty = h == -math.inf  # no branch has any mass: both shares are zero
    log_mass = torch.where(empty, 0.0, h)
    shares = (torch.where(empty, 0.0, torch.exp(x - log_mass)) for x in (a + before, b))
    return next(shares), next(shares)


def _scan_setup(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, str], output: Tensor) -> None:
    a, b, h0, ring = inputs
    ctx.ring = ring
    kept = (a, b if ring in BRANCHING else None, h0, output)
    ctx.save_for_backward(*kept)
    ctx.save_for_forward(*kept)


def _scan_backward(ctx: Any, d: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
    a, b, h0, h = ctx.saved_tensors
    ring = ctx.ring
    if h.shape[1] == 0:
        return torch.zeros_like(a), torch.zeros_like(h), torch.zeros_like(h0), None
    if ring in ("plus_times", "convolution") and _is_plain(d) and not torch.is_grad_enabled():
        g = _adjoint_kernel(a, d, ring)
        grad_a = _by_state_before(g, h, h0) if ctx.needs_input_grad[0] else None
        return grad_a, g, a[:, 0].conj() * g[:, 0], None
    if ring == "lerp" and _is_plain(d) and not torch.is_grad_enabled():
        return *_lerp_backward(a, b, h0, h, d), None
    before = _shifted(h, h0)
    if ring in BRANCHING:
        left, right = _branch_weights(a, b, before, h, ring)
        g = _adjoint(left, d, "plus_times")
        grad_h = left * g  # of the state before; in a tropical ring `a` stands beside it
        return g * (b - before) if ring == "lerp" else grad_h, right * g, grad_h[:, 0], None
    g = _adjoint(a, d, ring)
    if ring == "matrix":
        return _outer(g, before), g, a[:, 0].mH @ g[:, 0], None
    return g * before.conj(), g, a[:, 0].conj() * g[:, 0], None


def _lerp_backward(share: Tensor, new: Tensor, h0: Tensor, h: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The derivatives by `share`, `new` and `h0`, in the memory of two sequences."""
    keep = 1 - share
    g = _adjoint_kernel(keep, d, "plus_times")
    grad_h0 = keep[:, 0] * g[:, 0]
    torch.sub(new[:, 0], h0, out=keep[:, 0])
    torch.sub(new[:, 1:], h[:, :-1], out=keep[:, 1:])
    return keep.mul_(g), g.mul_(share), grad_h0


def _by_state_before(g: Tensor, h: Tensor, h0: Tensor) -> Tensor:
    """g_t conj(h_{t-1}) without a copy of the states shifted by one step."""
    result = torch.empty_like(g)
    torch.mul(g[:, 0], h0.conj(), out=result[:, 0])
    torch.mul(g[:, 1:], h[:, :-1].conj(), out=result[:, 1:])
    return result


def _adjoint_setup(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
    a, _, ring = inputs
    ctx.ring = ring
    ctx.save_for_backward(a, output)
    ctx.save_for_forward(a, output)


def _adjoint_backward(ctx: Any, d: Tensor) -> tuple[Tensor, Tensor, None]:
    """The cotangent of `d` is L_t = d_t + a_t L_{t-1}, a forward scan from zero; that of `a_t` is L_{t-1} conj(g_t),
    transposed."""
    a, g = ctx.saved_tensors
    if g.shape[1] == 0:
        return torch.zeros_like(a), torch.zeros_like(g), None
    zero = torch.zeros_like(d[:, 0])
    through = _scan(a, d, zero, ctx.ring)
    before = _shifted(through, zero)
    return _outer(g, before) if ctx.ring == "matrix" else g * before.conj(), through, None


scan_operator.register_autograd(_scan_backward, setup_context=_scan_setup)
adjoint_operator.register_autograd(_adjoint_backward, setup_context=_adjoint_setup)


def _fold(x: Tensor, dim: int | None, size: int) -> Tensor:
    """Merge a vmapped axis into the batch axis."""
    x = x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.reshape(size * x.shape[1], *x.shape[2:])


def _unfold(x: Tensor, size: int) -> Tensor:
    return x.unflatten(0, (size, x.shape[0] // size))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, b: Tensor, h0: Tensor, ring: str) -> Tensor:
        return (_scan_kernel if _is_plain(b) else scan_operator)(a, b, h0, ring)

    setup_context = staticmethod(_scan_setup)
    backward = staticmethod(_scan_backward)

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, db: Tensor | None, dh0: Tensor | None, _: None) -> Tensor:
        """Forward mode is the same recurrence, with the coefficients' tangents as its input."""
        a, b, h0, h = ctx.saved_tensors
        before = _shifted(h, h0)
        source = torch.zeros_like(h)
        dh0 = torch.zeros_like(h0) if dh0 is None else dh0
        if ctx.ring in BRANCHING:
            left, right = _branch_weights(a, b, before, h, ctx.ring)
            by_a = b - before if ctx.ring == "lerp" else left
            source = source + (0 if da is None else by_a * da) + (0 if db is None else right * db)
            return _scan(left, source, dh0, "plus_times")
        source = source + (0 if da is None else _product(ctx.ring, da, before)) + (0 if db is None else db)
        return _scan(a, source, dh0, ctx.ring)

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], a: Tensor, b: Tensor, h0: Tensor, ring: str) -> tuple[Tensor, int]:
        n = info.batch_size
        folded = [_fold(x, dim, n) for x, dim in zip((a, b, h0), dims[:3], strict=True)]
        if dims[0] is not None and ring == "convolution":  # the coefficient is no longer the same in the whole batch
            ring = "plus_times"
        return _unfold(_scan(folded[0], folded[1], folded[2], ring), n), 0


class _Adjoint(torch.autograd.Function):
    @staticmethod
    def forward(a: Tensor, d: Tensor, ring: str) -> Tensor:
        return (_adjoint_kernel if _is_plain(d) else adjoint_operator)(a, d, ring)

    setup_context = staticmethod(_adjoint_setup)
    backward = staticmethod(_adjoint_backward)

    @staticmethod
    def jvp(ctx: Any, da: Tensor | None, dd: Tensor | None, _: None) -> Tensor:
        a, g = ctx.saved_tensors
        source = torch.zeros_like(g) if dd is None else dd
        if da is not None:
            through = _product(ctx.ring, da.mH if ctx.ring == "matrix" else da.conj(), g)
            source = source + torch.cat((through[:, 1:], torch.zeros_like(through[:, :1])), 1)
        return _adjoint(a, source, ctx.ring)

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], a: Tensor, d: Tensor, ring: str) -> tuple[Tensor, int]:
        n = info.batch_size
        if dims[0] is not None and ring == "convolution":
            ring = "plus_times"
        return _unfold(_adjoint(_fold(a, dims[0], n), _fold(d, dims[1], n), ring), n), 0


for _operator, _function in ((scan_operator, _Scan), (adjoint_operator, _Adjoint)):
    _operator.register_vmap(_function.vmap)
