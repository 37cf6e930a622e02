"""Importing this package fills the op table."""

from rnnc.ir.ops import elementwise, shape, special
from rnnc.ir.ops.table import OPS, Attrs, Op, OpTypeError

__all__ = ["OPS", "Attrs", "Op", "OpTypeError", "elementwise", "shape", "special"]
