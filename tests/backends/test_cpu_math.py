"""The elementary functions of the kernels keep the error bounds that `vector_math.h` states."""

from __future__ import annotations

import ctypes
from functools import cache

import mpmath
import numpy as np
import pytest

from rnnc.runtime.compiled import compiler, load_library

pytestmark = pytest.mark.skipif(compiler() is None, reason="needs a C compiler")

ONE = ("exp", "expm1", "log", "tanh", "sigmoid", "silu", "softplus", "logsigmoid", "sin", "cos", "sqrt", "erf", "gelu")
TWO = ("logaddexp", "pow", "max", "min")


@cache
def library(double: bool) -> ctypes.CDLL:
    lines = ["/* every function over an array, by vectors and one by one */"]
    for name in ONE:
        lines.append(f"void wide_{name}(const T *x, const T *z, T *y, int64_t n) {{")
        lines.append(f"  for (int64_t i = 0; i < n; i += LANES) store(y + i, v_{name}(load(x + i, LANES)), LANES); }}")
        lines.append(f"void one_{name}(const T *x, const T *z, T *y, int64_t n) {{")
        lines.append(f"  for (int64_t i = 0; i < n; i++) y[i] = t_{name}(x[i]); }}")
    for name in TWO:
        lines.append(
            f"void wide_{name}(const T *x, const T *z, T *y, int64_t n) {{ for (int64_t i = 0; i < n; i += LANES)"
        )
        lines.append(f"  store(y + i, v_{name}(load(x + i, LANES), load(z + i, LANES)), LANES); }}")
        lines.append(f"void one_{name}(const T *x, const T *z, T *y, int64_t n) {{")
        lines.append(f"  for (int64_t i = 0; i < n; i++) y[i] = t_{name}(x[i], z[i]); }}")
    return load_library("\n".join(lines), double)


def apply(name: str, dtype: type, x: object, z: object = 0.0) -> np.ndarray:
    """The function over an array; the scalar version gives the same numbers (to a rounding, where it is libm's)."""
    x = np.asarray(x, dtype=dtype)
    padded = np.concatenate([x, np.ones((-len(x)) % 16, dtype=dtype)])
    second = np.concatenate(
        [np.broadcast_to(np.asarray(z, dtype=dtype), x.shape), np.ones((-len(x)) % 16, dtype=dtype)]
    )
    found = []
    for kind in ("wide", "one"):
        y = np.empty_like(padded)
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (padded, second, y)]
        getattr(library(dtype is np.float64), f"{kind}_{name}")(*pointers, ctypes.c_int64(len(padded)))
        found.append(y[: len(x)])
    np.testing.assert_array_equal(*found)
    return found[0]


def ulps(got: np.ndarray, exact: np.ndarray, dtype: type) -> float:
    """The largest error in units in the last place of the exact value."""
    with np.errstate(all="ignore"):
        near = exact.astype(dtype)
        unit = np.spacing(np.abs(near)).astype(np.longdouble)
        normal = np.isfinite(near) & (np.abs(near) >= np.finfo(dtype).tiny)
        return float(np.max(np.abs(got.astype(np.longdouble) - exact)[normal] / unit[normal]))


def exact(name: str, x: np.ndarray) -> np.ndarray:
    x = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        match name:
            case "sigmoid":
                return 1 / (1 + np.exp(-x))
            case "silu":
                return x / (1 + np.exp(-x))
            case "softplus":
                return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
            case "logsigmoid":
                return -(np.maximum(-x, 0) + np.log1p(np.exp(-np.abs(x))))
        return getattr(np, name)(x)


BOUNDS = {
    "exp": (2, -700, 709),
    "expm1": (4, -700, 709),
    "log": (2, 0, 1e30),
    "tanh": (4, -30, 30),
    "sigmoid": (4, -700, 700),
    "silu": (4, -700, 700),
    "softplus": (4, -700, 700),
    "logsigmoid": (4, -700, 700),
    "sin": (2, -8192, 8192),
    "cos": (2, -8192, 8192),
    "sqrt": (0.5, 0, 1e30),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", BOUNDS)
def test_errors_stay_within_the_bounds(name: str, dtype: type) -> None:
    bound, low, high = BOUNDS[name]
    if dtype is np.float32:
        low, high = max(low, -87) if low != -8192 else low, min(high, 88) if high == 709 or high == 700 else high
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(low, high, 40000), rng.normal(size=40000), 1e-3 * rng.normal(size=20000)])
    x = np.concatenate([x, np.exp(rng.uniform(-80, 60, 20000))]).astype(dtype)
    x = x[(x >= low) & (x <= high)]
    assert ulps(apply(name, dtype, x), exact(name, x), dtype) <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "bound"), [("erf", 2), ("gelu", 6)])
def test_the_normal_distribution(name: str, bound: float, dtype: type) -> None:
    """Near zero, where the pieces meet, and far into both tails."""
    rng = np.random.default_rng(2)
    far = 13 if dtype is np.float32 else 36
    parts = [rng.uniform(-6, 6, 300), rng.normal(size=100), np.linspace(-1.01, 1.01, 101), rng.uniform(-far, -5, 100)]
    x = np.concatenate([*parts, 1e-3 * rng.normal(size=50), 1e-30 * rng.normal(size=5)]).astype(dtype)
    with mpmath.workdps(30):
        numbers = [mpmath.mpf(float(v)) for v in x]
        want = [mpmath.erf(v) if name == "erf" else v / 2 * mpmath.erfc(-v / mpmath.sqrt(2)) for v in numbers]
        exact = np.array([float(w) for w in want]) + np.array([float(w - mpmath.mpf(float(w))) for w in want], "g")
    assert ulps(apply(name, dtype, x), exact, dtype) <= bound


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logaddexp(dtype: type) -> None:
    rng = np.random.default_rng(1)
    a, b = (20 * rng.normal(size=20000)).astype(dtype), (20 * rng.normal(size=20000)).astype(dtype)
    want = np.logaddexp(a.astype(np.longdouble), b.astype(np.longdouble))
    scale = np.spacing(np.maximum(np.maximum(np.abs(a), np.abs(b)), np.abs(want).astype(dtype)))
    error = np.abs(apply("logaddexp", dtype, a, b).astype(np.longdouble) - want) / scale
    assert error.max() <= 4


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(dtype: type) -> None:
    inf, nan = np.inf, np.nan
    ends = np.array([inf, -inf, nan, 0.0, -0.0], dtype=dtype)
    table = {
        "exp": [inf, 0, nan, 1, 1],
        "expm1": [inf, -1, nan, 0, 0],
        "log": [inf, nan, nan, -inf, -inf],
        "tanh": [1, -1, nan, 0, 0],
        "sigmoid": [1, 0, nan, 0.5, 0.5],
        "softplus": [inf, 0, nan, np.log(2), np.log(2)],
        "logsigmoid": [0, -inf, nan, -np.log(2), -np.log(2)],
        "sin": [nan, nan, nan, 0, 0],
        "cos": [nan, nan, nan, 1, 1],
        "erf": [1, -1, nan, 0, 0],
    }
    for name, want in table.items():
        np.testing.assert_allclose(apply(name, dtype, ends), np.array(want, dtype=dtype), rtol=1e-6, err_msg=name)
    tiny = np.finfo(dtype).tiny
    small = np.array([tiny / 4, tiny / 1024], dtype=dtype)
    np.testing.assert_allclose(apply("log", dtype, small), np.log(small), rtol=1e-6)
    deep = np.array([-104.5, -95.0, -88.0] if dtype is np.float32 else [-746.0, -730.0, -710.0], dtype=dtype)
    np.testing.assert_allclose(
        apply("exp", dtype, deep), np.exp(deep), rtol=0.5, atol=np.finfo(dtype).smallest_subnormal
    )
    high = np.array([88.9, 100.0] if dtype is np.float32 else [709.9, 1000.0], dtype=dtype)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(apply("exp", dtype, high), np.exp(high))
    np.testing.assert_array_equal(
        apply("logaddexp", dtype, [-inf, inf, inf, 0], [-inf, inf, 0, -inf]), [-inf, inf, inf, 0]
    )
    np.testing.assert_array_equal(apply("max", dtype, [nan, 1, 2], [1, nan, 3]), [nan, nan, 3])
    np.testing.assert_array_equal(apply("min", dtype, [nan, 1, 2], [1, nan, 3]), [nan, nan, 2])
    np.testing.assert_allclose(apply("sin", dtype, [1e6, 3e8]), np.sin(np.array([1e6, 3e8], dtype=dtype)), rtol=1e-6)
