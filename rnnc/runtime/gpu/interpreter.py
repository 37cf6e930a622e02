"""Triton's interpreter (TRITON_INTERPRET=1) as the kernels' tests need it.

Four things are set right, so that it computes what a GPU does:

- NumPy 2.4 converts only 0-dimensional arrays to Python numbers; Triton up to 3.6 keeps scalars as arrays of one entry.
- A scan or reduction with a function of its own runs entry by entry, a millisecond each; here it takes whole slices.
- bfloat16 numbers are kept as the integers of their bits, and `tl.dot` multiplies those integers.
- The larger of a number and NaN is the number on a GPU (unless `propagate_nan` asks for NaN), and is NaN in NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

__all__ = ["prepare"]

done: list[bool] = []


def prepare() -> None:
    """Patch the interpreter of this process, once."""
    if done:
        return
    done.append(True)
    import numpy as np
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        scope.set_attr(tensor, "__int__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
    interpreter.ScanOps.generic_scan = _scan
    interpreter.ReduceOps.generic_reduce = _reduce
    multiply = interpreter.InterpreterBuilder.create_dot

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, _numbers(a), _numbers(b), *rest)

    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpreterBuilder.create_maxnumf = lambda self, a, b: self.binary_op(a, b, np.fmax)
    interpreter.InterpreterBuilder.create_minnumf = lambda self, a, b: self.binary_op(a, b, np.fmin)


def _numbers(x: Any) -> Any:
    """A tile of bfloat16 as float32."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter

    if x.dtype.scalar != tl.bfloat16:
        return x
    data = interpreter._convert_float(x.data, tl.bfloat16, tl.float32, None).view(np.float32)
    return interpreter.TensorHandle(data, tl.float32)


def _scan(self: Any, inputs: Any) -> list[Any]:
    """All entries with one index along the axis at once."""
    import numpy as np

    found = [*_combined(self, inputs)]
    types = [x.dtype for x in inputs]
    return [self.to_tensor(np.concatenate([r[k] for r in found], self.axis), t) for k, t in enumerate(types)]


def _reduce(self: Any, inputs: Any) -> Any:
    """Likewise; the last of a scan."""
    import numpy as np

    found = [self.to_tensor(np.squeeze(r, self.axis), x.dtype) for r, x in zip([*_combined(self, inputs)][-1], inputs)]
    if self.keep_dims:
        found = [self.to_tensor(np.expand_dims(x.handle.data, self.axis), x.dtype) for x in found]
    return found[0] if len(found) == 1 else tuple(found)


def _combined(self: Any, inputs: Any) -> Iterator[list[Any]]:
    """What a function of two makes of the first entries along the axis, of one more at a time."""
    import numpy as np

    data = [x.handle.data for x in inputs]
    types = [x.dtype for x in inputs]
    now: list[Any] = []
    for t in range(data[0].shape[self.axis]):
        row = [np.take(d, [t], self.axis) for d in data]
        if now:
            before = [self.to_tensor(x, t) for x, t in zip(now, types)]
            after = [self.to_tensor(x, t) for x, t in zip(row, types)]
            combined = self.combine_fn.fn(*before, *after)
            combined = combined if isinstance(combined, tuple) else (combined,)
            now = [x.handle.data for x in combined]
        else:
            now = row
        yield now
