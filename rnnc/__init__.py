"""rnnc: a compiler and a small declarative language for recurrent neural architectures.

>>> import rnnc
>>> spec = rnnc.stdlib("deltanet")  # or rnnc.load("mine.rnn"), rnnc.parse(text)
>>> print(rnnc.analyze(spec, d=64))  # what the recurrence can do and how it can run
>>> print(rnnc.verify(spec))  # the claims of its expect blocks, proved or refuted
>>> Layer = rnnc.compile(spec)  # an nn.Module subclass
>>> y, state = Layer(d=64)(x)  # x: [batch, time, 64]

Importing `rnnc` loads nothing else: torch, numpy, sympy and networkx come with the function that needs them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rnnc.analysis.report import Report as Report
    from rnnc.analysis.report import analyze as analyze
    from rnnc.compile import compile as compile
    from rnnc.diagnostics import Diagnostic as Diagnostic
    from rnnc.diagnostics import SpecError as SpecError
    from rnnc.programs import run_exact as run_exact
    from rnnc.spec import Spec as Spec
    from rnnc.spec import load as load
    from rnnc.spec import parse as parse
    from rnnc.spec import stdlib as stdlib
    from rnnc.verify.engine import Verification as Verification
    from rnnc.verify.engine import verify as verify

__version__ = "0.1.0"

_HOME = {
    "Diagnostic": "rnnc.diagnostics",
    "Report": "rnnc.analysis.report",
    "Spec": "rnnc.spec",
    "SpecError": "rnnc.diagnostics",
    "Verification": "rnnc.verify.engine",
    "analyze": "rnnc.analysis.report",
    "compile": "rnnc.compile",
    "load": "rnnc.spec",
    "parse": "rnnc.spec",
    "run_exact": "rnnc.programs",
}

__all__ = [
    "Diagnostic",
    "Report",
    "Spec",
    "SpecError",
    "Verification",
    "__version__",
    "analyze",
    "compile",
    "load",
    "parse",
    "run_exact",
    "stdlib",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in ("stdlib", "verify"):  # packages that can be called
        return import_module(f"rnnc.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'rnnc' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Api(ModuleType):
    """The package: `rnnc.compile` stays the function when the submodule of that name is imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _HOME and isinstance(value, ModuleType):
            return
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Api
