"""What generated PyTorch modules import: scans, the chunkwise form, and small helpers.  torch only, no compiler."""

from __future__ import annotations

from rnnc.runtime.chunk import MicroStep, Read, Update, matrix_scan, matrix_states
from rnnc.runtime.convolution import causal_convolution, power_kernel
from rnnc.runtime.functional import (
    causal_attention,
    causal_conv,
    complex_of,
    delayed,
    inside,
    keeping_complex,
    l2norm,
    rmsnorm,
)
from rnnc.runtime.layout import state_dtype
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
from rnnc.runtime.scan import (
    block_scan,
    convolution_scan,
    last_state,
    linear_scan,
    log_plus_scan,
    max_plus_scan,
    min_plus_scan,
)
from rnnc.runtime.varlen import (
    masked_step,
    no_steps,
    pack,
    pad,
    reverse_each,
    run_packed,
    sequence_lengths,
    states_at,
)

__all__ = [
    "MicroStep",
    "Read",
    "Update",
    "block_diagonal",
    "block_diagonal_transpose",
    "block_scan",
    "causal_attention",
    "causal_conv",
    "causal_convolution",
    "cayley",
    "circulant",
    "circulant_transpose",
    "companion",
    "complex_of",
    "convolution_scan",
    "delayed",
    "inside",
    "keeping_complex",
    "l2norm",
    "last_state",
    "linear_scan",
    "log_plus_scan",
    "masked_step",
    "matrix_exp",
    "matrix_scan",
    "matrix_states",
    "max_plus_scan",
    "min_plus_scan",
    "no_steps",
    "pack",
    "pad",
    "power_kernel",
    "reverse_each",
    "rmsnorm",
    "rotation_blocks",
    "run_packed",
    "sequence_lengths",
    "solve",
    "state_dtype",
    "states_at",
]
