"""Triton's interpreter (TRITON_INTERPRET=1) as the kernels' tests need it.

Three things are set right, without touching what is computed:

- NumPy 2.4 converts only 0-dimensional arrays to Python numbers; Triton up to 3.6 keeps scalars as arrays of one entry.
- A scan or reduction with a function of its own runs entry by entry, a millisecond each; here it takes whole slices.
- bfloat16 numbers are kept as the integers of their bits, and `tl.dot` multiplies those integers.
"""

from __future__ import annotations

from typing import Any

__all__ = ["prepare"]

done: list[bool] = []


def prepare() -> None:
    """Patch the interpreter of this process, once."""
    if done:
        return
    done.append(True)
    from triton.runtime import interpreter

    original = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))
        scope.set_attr(tensor, "__int__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched
    interpreter.ScanOps.generic_scan = _scan
    multiply = interpreter.InterpreterBuilder.create_dot

    def dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return multiply(self, _numbers(a), _numbers(b), *rest)

    interpreter.InterpreterBuilder.create_dot = dot


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

    data = [x.handle.data for x in inputs]
    types = [x.dtype for x in inputs]
    steps = data[0].shape[self.axis]
    rows = [[np.take(d, [t], self.axis) for d in data] for t in range(steps)]
    found = [rows[0]]
    for row in rows[1:]:
        before = [self.to_tensor(x, t) for x, t in zip(found[-1], types)]
        now = [self.to_tensor(x, t) for x, t in zip(row, types)]
        combined = self.combine_fn.fn(*before, *now)
        combined = combined if isinstance(combined, tuple) else (combined,)
        found.append([x.handle.data for x in combined])
    return [self.to_tensor(np.concatenate([r[k] for r in found], self.axis), t) for k, t in enumerate(types)]
