"""The algebras a recurrence can be linear over, each as operations on one step's coefficients.

`h <- a (x) h (+) b` composes: applying (a1, b1) and then (a2, b2) is (a2 (x) a1, a2 (x) b1 (+) b2).  A scan needs the
step and the product of coefficients, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

__all__ = ["RINGS", "Ring"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """How a step of a scan is done.

    `step(a, h, b, out)` writes a (x) h (+) b into `out`, which may be `h`.  `times(a, p)` is a (x) p and may reuse the
    memory of p.  `start(a, b)` gives the first step of a chunk as a map of its own: the coefficients `p`, `q` with
    which p (x) h (+) q is that step, in fresh memory.  Chunks reduced to such maps are scanned over `between`, by
    name (None: the same ring).
    """

    step: Callable[[Tensor, Tensor, Tensor, Tensor], object]
    times: Callable[[Tensor, Tensor], Tensor]
    start: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda a, b: (a.clone(), b.clone())
    between: str | None = None
    checks_overflow: bool = True  # whether a chunk's product may become infinite where the sequence itself stays finite


def _tropical(join: Callable[..., Tensor]) -> Ring:
    """(join, +): max or logaddexp in the place of the sum, the sum in the place of the product."""

    def step(a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
        torch.add(a, h, out=out)
        join(out, b, out=out)

    return Ring(step=step, times=lambda a, p: p.add_(a), checks_overflow=False)


def _planar_step(a: Tensor, h: Tensor, b: Tensor, out: Tensor) -> None:
    """a: [..., n, n, P] acting on h: [..., n, m, P] at each of P positions, without products of small matrices.

    h_ik <- b_ik + sum_j a_ij h_jk is n multiplications with P contiguous numbers in a row, for all i and k at once.
    """
    last = a.shape[-2] - 1
    for j in range(last):
        b = torch.addcmul(b, a.narrow(-2, j, 1), h.narrow(-3, j, 1))
    if out is h:
        out.copy_(torch.addcmul(b, a.narrow(-2, last, 1), h.narrow(-3, last, 1)))
    else:
        torch.addcmul(b, a.narrow(-2, last, 1), h.narrow(-3, last, 1), out=out)


def _planar_product(a: Tensor, p: Tensor) -> Tensor:
    product = a.narrow(-2, 0, 1) * p.narrow(-3, 0, 1)
    for j in range(1, a.shape[-2]):
        product.addcmul_(a.narrow(-2, j, 1), p.narrow(-3, j, 1))
    return product


RINGS: Final[dict[str, Ring]] = {
    "plus_times": Ring(step=lambda a, h, b, out: torch.addcmul(b, a, h, out=out), times=lambda a, p: p.mul_(a)),
    # a is the share of the new value: h <- h + a (b - h), one operation where (1 - a) h + a b takes three
    "lerp": Ring(
        step=lambda a, h, b, out: torch.lerp(h, b, a, out=out),
        times=lambda a, p: p.addcmul_(p, a, value=-1),
        start=lambda a, b: (1 - a, a * b),
        between="plus_times",
    ),
    "max_plus": _tropical(torch.maximum),
    "log_plus": _tropical(torch.logaddexp),
    # a: [..., n, n] acting on h: [..., n, m]
    "matrix": Ring(step=lambda a, h, b, out: torch.add(torch.matmul(a, h), b, out=out), times=torch.matmul),
    "planar": Ring(step=_planar_step, times=_planar_product),
}
