"""Names in kernels: those that kernels use themselves, and a spec's own, of which kernels make others."""

from __future__ import annotations

from rnnc.backends.triton.code import HELPERS
from rnnc.backends.triton.layout import INNER

RINGS = ("linear", "complex", "max_plus", "min_plus", "log_plus")
CALLED = (  # functions of `rnnc.runtime.gpu`, of Triton and of Python
    *(
        "row",
        "first_row",
        "last_row",
        "product",
        "sequence",
        "sequences",
        "sum_over",
        "max_over",
        "min_over",
        "previous",
    ),
    *("unsolved", "full", "channels", "tl", "triton", "sum", "max", "min"),
    *HELPERS,
    *(f"{ring}_{what}" for ring in RINGS for what in ("states", "before", "after", "pass")),
)
VARIABLES = (
    *(
        "b",
        "t",
        "g",
        "d",
        *INNER,
        "_",
        "step",
        "at",
        "origin",
        "length",
        "alive",
        "rows",
        *(f"rows_{n}" for n in INNER),
    ),
    *("program", "blocks", "part", "split", "start", "stop", "tile", "tiles", "first", "back", "begin", "end", "whole"),
    *("slot", "after", "here", "there", "old", "so_far", "wrong", "rounds", "counts_ptr", "bounds_ptr"),
)
SIZES = (
    *("B", "T", "G", "D", "S", *INNER.upper(), "BB", "BD", "BT", *(f"B{n}" for n in INNER.upper())),
    *("ACC", "KEEP", "LOW", "PACKED", "STAGES", "SPLITS", "SPAN", "PARTS"),
)
RESERVED = {*CALLED, *VARIABLES, *SIZES}

# What kernels put before and behind a name: `d_x`, the mask `in_n`, `x_ptr`, the stride `x_t`.
BEFORE = ("d", "in")
BEHIND = {
    *("b", "t", "g", "d", *INNER, "i", "o"),
    *("ptr", "last", "start", "all", "before", "kept", "tiles", "total", "product", "factor"),
    *("steps", "operand", "products", "back", "scratch"),
}


def unmistakable(name: str) -> str:
    """A name of the spec that is none which a kernel makes of another: beside an input `x`, `x_t` is its stride.

    >>> unmistakable("x_t"), unmistakable("d_h_2"), unmistakable("x_gate")
    ('x_t_', 'd_h_2_', 'x_gate')
    """
    words = name.rstrip("0123456789").rstrip("_").split("_")
    made = len(words) > 1 and (words[0] in BEFORE or words[-1] in BEHIND)
    return f"{name}_" if made else name
