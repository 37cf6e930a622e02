"""NumPy values that need more than one call: stable forms, views of the core axes, placements in a matrix.

`np` is numpy, handed in.  Values may have any axes in front of `[*per, *shape]`; all axes are counted from the right.
"""

from __future__ import annotations

import math
from typing import Any

from rnnc.ir.ops.table import Site

# ---------------------------------------------------------------- elementwise, stable


def sigmoid(np: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)) without overflow: exp is taken of -|x| only."""
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + z), z / (1 + z))


def softplus(np: Any, x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def erf(np: Any, x: Any) -> Any:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), dtype=float)


def gelu(np: Any, x: Any) -> Any:
    """x Phi(x), with Phi by erfc so that it keeps its digits far to the left."""
    return x * 0.5 * np.asarray(np.frompyfunc(math.erfc, 1, 1)(-x / math.sqrt(2)), dtype=float)


def softmax(np: Any, site: Site, x: Any) -> Any:
    z = np.exp(x - x.max(axis=-1, keepdims=True))
    return z / z.sum(axis=-1, keepdims=True)


# ---------------------------------------------------------------- views


def front(x: Any, rank: int) -> tuple[int, ...]:
    """The sizes of all axes in front of the last `rank`."""
    return tuple(x.shape[: x.ndim - rank])


def lift(np: Any, site: Site, x: Any) -> Any:
    t = site.types[0]
    inner = len(t.per) + t.rank
    outer = front(x, inner)
    new = tuple(site.attrs["per"])
    return np.broadcast_to(
        x.reshape(outer + (1,) * len(new) + x.shape[len(outer) :]), outer + new + x.shape[len(outer) :]
    )


def resize(np: Any, site: Site, x: Any) -> Any:
    """Row-major reshape of the core axes (also expand)."""
    return x.reshape(front(x, site.rank()) + site.shape)


def broadcast(np: Any, site: Site, x: Any) -> Any:
    outer = front(x, site.rank())
    ones = (1,) * (len(site.shape) - site.rank())
    return np.broadcast_to(x.reshape(outer + ones + x.shape[len(outer) :]), outer + site.shape)


def transpose(np: Any, site: Site, x: Any) -> Any:
    outer = x.ndim - site.rank()
    return x.transpose(*range(outer), *(outer + p for p in site.attrs["perm"]))


def slice_(np: Any, site: Site, x: Any) -> Any:
    at = slice(site.attrs["start"], site.attrs["stop"])
    return x[(..., at, *(slice(None),) * (-site.attrs["axis"] - 1))]


def concat(np: Any, site: Site, *xs: Any) -> Any:
    """Joins along one core axis; the axes in front of the core may differ (static beside varying) and are broadcast."""
    rank = site.rank()
    outer = np.broadcast_shapes(*(front(x, rank) for x in xs))
    return np.concatenate([np.broadcast_to(x, outer + x.shape[x.ndim - rank :]) for x in xs], axis=site.attrs["axis"])


def einsum(np: Any, site: Site, a: Any, b: Any) -> Any:
    inputs, output = site.attrs["spec"].split("->")
    left, right = inputs.split(",")
    return np.einsum(f"...{left},...{right}->...{output}", a, b)


# ---------------------------------------------------------------- structured


def _places(np: Any, kind: str, shape: tuple[int, ...]) -> Any:
    """For each entry of the square matrix, the flat index of the argument's entry there, or -1."""
    if kind == "blockdiag":
        b, n, _ = shape
        at = np.full((b * n, b * n), -1)
        for k in range(b):
            at[k * n : (k + 1) * n, k * n : (k + 1) * n] = k * n * n + np.arange(n * n).reshape(n, n)
        return at
    n = shape[0]
    i, j = np.indices((n, n))
    match kind:
        case "diag":
            return np.where(i == j, i, -1)
        case "circulant":
            return (i - j) % n
        case "companion":
            return np.where(j == n - 1, i, -1)
    raise AssertionError(f"unknown layout {kind!r}")


def layout(np: Any, site: Site, x: Any) -> Any:
    core = x.shape[x.ndim - site.rank() :]
    at = _places(np, site.attrs["kind"], core)
    flat = x.reshape((*front(x, len(core)), -1))
    out = np.where(at >= 0, flat[..., np.maximum(at, 0)], 0)
    if site.attrs["kind"] == "companion":
        out = out + np.eye(core[0], k=-1) * (at < 0)
    return out


def layout_transpose(np: Any, site: Site, x: Any) -> Any:
    at = _places(np, site.attrs["kind"], site.shape).reshape(-1)
    size = math.prod(site.shape)
    gather = (at[:, None] == np.arange(size)[None, :]).astype(float)
    return (x.reshape((*front(x, 2), -1)) @ gather).reshape(front(x, 2) + site.shape)


def rotation_blocks(np: Any, site: Site, theta: Any) -> Any:
    c, s = np.cos(theta), np.sin(theta)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)


def expm(np: Any, site: Site, a: Any) -> Any:
    """Scaling and squaring with a Taylor polynomial of degree 18 at norm <= 1/2 (remainder below 1e-22)."""
    norm = np.abs(a).sum(axis=-1).max(initial=0.0)
    if not np.isfinite(norm):
        return np.full_like(a, np.nan)
    squarings = max(0, math.frexp(float(norm))[1] + 1)
    scaled = a / 2.0**squarings
    eye = np.eye(a.shape[-1])
    out = eye + scaled * 0
    for k in range(18, 0, -1):
        out = eye + scaled @ out / k
    for _ in range(squarings):
        out = out @ out
    return out


def cayley(np: Any, site: Site, m: Any) -> Any:
    eye = np.eye(m.shape[-1])
    return np.linalg.solve(eye + m, eye - m)


def take(np: Any, site: Site, table: Any, token: Any) -> Any:
    rank = site.rank(0)
    rows = table.reshape((*front(table, rank), table.shape[table.ndim - rank], -1))
    hot = (token[..., None] == np.arange(rows.shape[-2])).astype(float)
    out = np.einsum("...v,...vd->...d", hot, rows)
    return out.reshape(out.shape[:-1] + site.shape)


def one_hot(np: Any, site: Site, token: Any) -> Any:
    return (token[..., None] == np.arange(site.shape[-1])).astype(float)


# ---------------------------------------------------------------- norms over the last axis


def l2norm(np: Any, site: Site, x: Any) -> Any:
    return x / np.sqrt((np.abs(x) ** 2).sum(axis=-1, keepdims=True) + site.attrs["eps"])


def rmsnorm(np: Any, site: Site, x: Any) -> Any:
    return x / np.sqrt((np.abs(x) ** 2).mean(axis=-1, keepdims=True) + site.attrs["eps"])


def layernorm(np: Any, site: Site, x: Any) -> Any:
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + site.attrs["eps"])


# ---------------------------------------------------------------- leaves


def const(np: Any, site: Site) -> Any:
    """attrs value: a number, nested tuples of numbers, a truth value, "pi" or "e"; broadcast to the declared type."""
    value, declared = site.attrs["value"], site.attrs["type"]
    named = {"pi": math.pi, "e": math.e}
    kinds = {"real": float, "complex": complex, "bool": bool, "token": int}
    array = np.array(named[value] if isinstance(value, str) else value, dtype=kinds[declared.dtype])
    return np.broadcast_to(array, site.per + site.shape)
