"""What generated Triton kernels import: helpers for register tiles, and the launch.  torch and triton only."""

from __future__ import annotations

from rnnc.runtime.gpu.arrange import Axes
from rnnc.runtime.gpu.math import (
    expm1,
    gelu,
    log_add,
    log_sigmoid,
    power,
    relu,
    sigmoid,
    sign,
    silu,
    softplus,
    tanh,
)
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.scan import (
    complex_after,
    complex_before,
    complex_states,
    linear_after,
    linear_before,
    linear_states,
    log_plus_before,
    log_plus_states,
    max_over,
    max_plus_before,
    max_plus_states,
    min_over,
    min_plus_before,
    min_plus_states,
    row,
    sum_over,
)

__all__ = [
    "Axes",
    "Recurrence",
    "complex_after",
    "complex_before",
    "complex_states",
    "expm1",
    "gelu",
    "linear_after",
    "linear_before",
    "linear_states",
    "log_add",
    "log_plus_before",
    "log_plus_states",
    "log_sigmoid",
    "max_over",
    "max_plus_before",
    "max_plus_states",
    "min_over",
    "min_plus_before",
    "min_plus_states",
    "power",
    "relu",
    "row",
    "sigmoid",
    "sign",
    "silu",
    "softplus",
    "sum_over",
    "tanh",
]
