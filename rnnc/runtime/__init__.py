"""What generated PyTorch modules import: scans, the chunkwise form, and small helpers.  torch only, no compiler."""

from __future__ import annotations

from rnnc.runtime.chunk import MicroStep, Read, Update, matrix_scan, matrix_states
from rnnc.runtime.exported import open_length, open_steps
from rnnc.runtime.functional import (
    causal_attention,
    causal_conv,
    complex_of,
    inside,
    keeping_complex,
    l2norm,
    lerp,
    rmsnorm,
)
from rnnc.runtime.layout import state_dtype
from rnnc.runtime.native import Native, Operand, Product
from rnnc.runtime.native_chunk import matrix_scan as native_matrix_scan
from rnnc.runtime.native_newton import NativeNewton
from rnnc.runtime.native_step import NativeStep
from rnnc.runtime.newton import Blocks, newton_scan
from rnnc.runtime.newton_report import NewtonReport, NewtonWarning
from rnnc.runtime.operators import (
    block_diagonal,
    block_diagonal_transpose,
    cayley,
    circulant,
    circulant_transpose,
    companion,
    matrix_exp,
    rotation_blocks,
    solve,
)
from rnnc.runtime.packed import flipped, last_state, new_past, own_steps, states_before, with_past
from rnnc.runtime.products import linear, linears
from rnnc.runtime.scan import (
    block_scan,
    convolution_scan,
    lerp_scan,
    linear_scan,
    log_plus_scan,
    max_plus_scan,
    min_plus_scan,
)
from rnnc.runtime.varlen import (
    check_shapes,
    no_steps,
    packed_bounds,
    run_packed,
)

__all__ = [
    "Blocks",
    "MicroStep",
    "Native",
    "NativeNewton",
    "NativeStep",
    "NewtonReport",
    "NewtonWarning",
    "Operand",
    "Product",
    "Read",
    "Update",
    "block_diagonal",
    "block_diagonal_transpose",
    "block_scan",
    "causal_attention",
    "causal_conv",
    "cayley",
    "check_shapes",
    "circulant",
    "circulant_transpose",
    "companion",
    "complex_of",
    "convolution_scan",
    "flipped",
    "inside",
    "keeping_complex",
    "l2norm",
    "last_state",
    "lerp",
    "lerp_scan",
    "linear",
    "linear_scan",
    "linears",
    "log_plus_scan",
    "matrix_exp",
    "matrix_scan",
    "matrix_states",
    "max_plus_scan",
    "min_plus_scan",
    "native_matrix_scan",
    "new_past",
    "newton_scan",
    "no_steps",
    "open_length",
    "open_steps",
    "own_steps",
    "packed_bounds",
    "rmsnorm",
    "rotation_blocks",
    "run_packed",
    "solve",
    "state_dtype",
    "states_before",
    "with_past",
]
