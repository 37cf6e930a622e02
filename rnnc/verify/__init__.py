"""The verifier: verdicts on a spec's claims, with evidence that can be checked again.

This package can be called: `rnnc.verify(spec, "DeltaNet", reach=2)` is `rnnc.verify.engine.verify`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnc.spec import Spec
    from rnnc.verify.engine import Verification


class _Verifier(ModuleType):
    """`rnnc.verify(...)` beside `rnnc.verify.engine`."""

    def __call__(self, spec: Spec, cell: str | None = None, *, search: bool = True, **hyper: Any) -> Verification:
        from rnnc.verify.engine import verify

        return verify(spec, cell, search=search, **hyper)


sys.modules[__name__].__class__ = _Verifier
