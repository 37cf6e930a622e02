"""The algebras a recurrence can be linear over, each as two in-place operations on one step's coefficients.

`h <- a (x) h (+) b` composes: applying (a1, b1) and then (a2, b2) is (a2 (x) a1, a2 (x) b1 (+) b2).  A scan needs the
step and the product of coefficients, nothing else.
"""

from __future__ import annotations

from typing import Final, Protocol

import torch
from torch import Tensor


class Ring(Protocol):
    """`step` writes a (x) h (+) b into `out` (which may be `h`); `times` returns a (x) p (and may reuse p's memory)."""

    checks_overflow: bool  # whether a chunk's product may become infinite where the sequence itself stays finite

    def step(self, a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None: ...

    def times(self, a: Tensor, p: Tensor) -> Tensor: ...


class _PlusTimes:
    checks_overflow = True

    def step(self, a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
        torch.addcmul(b, a, h, out=out)

    def times(self, a: Tensor, p: Tensor) -> Tensor:
        return p.mul_(a)


class _MaxPlus:
    checks_overflow = False

    def step(self, a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
        torch.add(a, h, out=out)
        torch.maximum(out, b, out=out)

    def times(self, a: Tensor, p: Tensor) -> Tensor:
        return p.add_(a)


class _LogPlus:
    checks_overflow = False

    def step(self, a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
        torch.add(a, h, out=out)
        torch.logaddexp(out, b, out=out)

    def times(self, a: Tensor, p: Tensor) -> Tensor:
        return p.add_(a)


class _Matrix:
    """a: [..., n, n] acting on h: [..., n, m]."""

    checks_overflow = True

    def step(self, a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
        torch.add(torch.matmul(a, h), b, out=out)

    def times(self, a: Tensor, p: Tensor) -> Tensor:
        return torch.matmul(a, p)


class _Planar:
    """a: [..., n, n, P] acting on h: [..., n, m, P] at each of P positions, without products of small matrices.

    h_ik <- b_ik + sum_j a_ij h_jk is n multiplications with P contiguous numbers in a row, for all i and k at once.
    """

    checks_overflow = True

    def step(self, a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
        last = a.shape[-2] - 1
        for j in range(last):
            b = torch.addcmul(b, a.narrow(-2, j, 1), h.narrow(-3, j, 1))
        if out is h:
            out.copy_(torch.addcmul(b, a.narrow(-2, last, 1), h.narrow(-3, last, 1)))
        else:
            torch.addcmul(b, a.narrow(-2, last, 1), h.narrow(-3, last, 1), out=out)

    def times(self, a: Tensor, p: Tensor) -> Tensor:
        product = a.narrow(-2, 0, 1) * p.narrow(-3, 0, 1)
        for j in range(1, a.shape[-2]):
            product.addcmul_(a.narrow(-2, j, 1), p.narrow(-3, j, 1))
        return product


RINGS: Final[dict[str, Ring]] = {
    "plus_times": _PlusTimes(),
    "max_plus": _MaxPlus(),
    "log_plus": _LogPlus(),
    "matrix": _Matrix(),
    "planar": _Planar(),
}
