"""From a spec to an `nn.Module` subclass: emit the source, load it under a name made of its content, wrap the class."""

from __future__ import annotations

import builtins
import copyreg
import hashlib
import inspect
import linecache
import math
import operator
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rnnc.diagnostics import Diagnostic, SpecError
from rnnc.ir.dims import Dim

if TYPE_CHECKING:
    from rnnc.analysis.forms import Recurrence
    from rnnc.analysis.report import Report
    from rnnc.backends import Backend
    from rnnc.ir.graph import CellIR
    from rnnc.spec import Spec

__all__ = ["CompiledLayer", "automatic", "compile", "emit", "emit_c", "emit_source"]


def compile(
    spec: Spec,
    cell: str | None = None,
    backend: str = "auto",
    strategy: str | Mapping[str, str] | None = None,
    expect: tuple[int, int] | None = None,
    **hyper: object,
) -> type[Any]:
    """Compile one cell or model to an `nn.Module` subclass.

    `cell` may be left out where the spec has one.  `backend` "auto" is what `automatic` says.  `hyper` fixes
    hyperparameters: dims become the constructor's defaults; int, real and bool ones are compiled in, and a constructor
    call with other values of them compiles and returns the matching specialisation.  `strategy` overrides the planner's
    choice: a name for all groups, or a mapping from state names.  `expect` gives the batch and the length that the
    planner chooses for (the module takes any); ValueError where these are not positive.

    The class has the attributes `source` (the emitted text), `recurrence` and `report`; it and its instances can be
    pickled and copied.  Where this machine cannot run what a backend emits (no GPU for "triton"), a RuntimeWarning says
    so and the torch backend is taken.  Raises SpecError where the spec is wrong (E01xx-E05xx) or the strategy is not
    legal (E06xx).
    """
    if expect is not None and (len(expect) != 2 or min(expect) < 1):
        raise ValueError(f"expect is a batch and a length, both at least 1, not {expect}")
    request = Request(
        spec=spec, cell=cell, backend=backend, strategy=_frozen(strategy), hyper=dict(hyper), expect=expect
    ).here()
    return _build(request, request.emit())


def emit_source(
    spec: Spec,
    cell: str | None = None,
    backend: str = "auto",
    strategy: str | Mapping[str, str] | None = None,
    **hyper: object,
) -> str:
    """The source text that `compile` would load: a standalone file that imports torch and rnnc.runtime only.

    `backend` "auto" is "torch" here: a text may go to another machine than the one that it is written on.
    """
    return Request(spec=spec, cell=cell, backend=backend, strategy=_frozen(strategy), hyper=dict(hyper)).emit()


emit = emit_source


def emit_c(
    spec: Spec, cell: str | None = None, strategy: str | Mapping[str, str] | None = None, **hyper: object
) -> str:
    """The C of the kernels that run a cell with `backend="cpu"`, with all it includes.  SpecError E0605 without any."""
    from rnnc.backends.cpu.backend import emit_c
    from rnnc.ir.rounding import keep_digits

    request = Request(spec=spec, cell=cell, backend="cpu", strategy=_frozen(strategy), hyper=dict(hyper))
    return emit_c(keep_digits(request.lower()), dims=None, strategy=request.strategy)


BACKEND = "RNNC_BACKEND"  # the variable of the environment that says what `backend="auto"` is
PROBE = "int rnnc_probe(void) { return 1; }"


def automatic() -> str:
    """What `backend="auto"` means on this machine: "cpu" where its kernels can be built and no tensor can be elsewhere.

    A module of the CPU backend takes tensors of the CPU only, so where PyTorch finds an accelerator it is "torch",
    whose modules run wherever their tensors are.  Without a compiler that works (one tiny library is built, once for a
    cache) it is "torch", with a RuntimeWarning.  `RNNC_BACKEND` decides it otherwise.  Raises SpecError E0601 where
    that names no backend.
    """
    from rnnc.backends import BACKENDS

    named = os.environ.get(BACKEND, "auto")
    if named != "auto":
        if named not in BACKENDS:
            raise error("E0601", f"{BACKEND} is `{named}`, which is no backend", f"known: {', '.join(BACKENDS)}, auto")
        return named
    import torch

    if torch.accelerator.is_available():
        return "torch"
    problem = _no_kernels()
    if problem is None:
        return "cpu"
    warnings.warn(f"{problem}: layers run by PyTorch instead, more slowly", RuntimeWarning, stacklevel=4)
    return "torch"


@cache
def _no_kernels() -> str | None:
    """Why kernels cannot be built and loaded here; None where they can."""
    from rnnc.runtime.compiled import NativeError, load_library

    try:
        load_library(PROBE, False)
    except (NativeError, OSError) as problem:
        return str(problem)
    return None


def _frozen(strategy: str | Mapping[str, str] | None) -> str | dict[str, str] | None:
    return dict(strategy) if isinstance(strategy, Mapping) else strategy


def error(code: str, message: str, help: str = "") -> SpecError:
    """An error of the compilation itself, which stands at no place of a spec."""
    return SpecError((Diagnostic(code=code, message=message, span=None, help=help),))


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for: enough to compile it again, or a specialisation of it."""

    spec: Spec
    cell: str | None
    backend: str
    strategy: str | dict[str, str] | None
    hyper: dict[str, object] = field(default_factory=dict)
    expect: tuple[int, int] | None = None
    chosen: bool = False  # whether "auto" was asked for, and `backend` is what it was taken for

    def lower(self) -> CellIR:
        """The graph, with the given dims as defaults."""
        cell = self.spec.lower(self.cell, **self.hyper)
        sizes = {d.name: self.hyper[d.name] for d in cell.dims if d.name in self.hyper}
        dims = tuple(replace(d, default=Dim.of(int(str(sizes[d.name])))) if d.name in sizes else d for d in cell.dims)
        return replace(cell, dims=dims)

    def loaded_backend(self) -> Backend:
        from rnnc.backends import BACKENDS, load_backend

        if self.backend != "auto" and self.backend not in BACKENDS:
            known = ", ".join(f"`{b}`" for b in BACKENDS)
            raise error("E0601", f"there is no backend `{self.backend}`", f"known backends: {known}, and `auto`")
        return load_backend(self.backend)

    def here(self) -> Request:
        """The request, with "auto" decided, for the torch backend where this machine cannot run what the one asked for
        emits.
        """
        request = replace(self, backend=automatic(), chosen=True) if self.backend == "auto" else self
        missing = request.loaded_backend().unavailable()
        if missing is None:
            return request
        warnings.warn(f"{missing}: this layer runs by the torch backend instead", RuntimeWarning, stacklevel=3)
        return replace(request, backend="torch")

    def emit(self) -> str:
        from rnnc.ir.rounding import keep_digits

        backend = self.loaded_backend()
        cell = self.lower()
        dims = {d.name: int(str(self.hyper[d.name])) for d in cell.dims if d.name in self.hyper}
        if self.expect is not None:
            dims |= {name: int(n) for name, n in zip(("B", "T"), self.expect, strict=True) if name not in dims}
        return backend.emit(keep_digits(cell), dims=dims or None, strategy=self.strategy, sources=self.spec.sources)


# ---------------------------------------------------------------- loading


def load_source(source: str, title: str) -> ModuleType:
    """The module of an emitted text, under a name made of the text; tracebacks show its lines."""
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    name = f"rnnc_compiled_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    file = f"<rnnc {title} {digest}>"
    module = ModuleType(name)
    module.__file__ = file
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    sys.modules[name] = module
    try:
        exec(builtins.compile(source, file, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]  # or the next request would be given what is half made
        raise
    return module


class CompiledLayer(type):
    """The class of compiled classes: it knows the request and the source, and pickles by them."""

    source: str
    request: Request
    compiled: dict[str, object]
    sizes: frozenset[str]  # the names of the dims

    def __call__(cls, /, *args: Any, **kwargs: Any) -> Any:
        """An instance; hyperparameters that are compiled in may be given, and choose the specialisation."""
        given = {name: kwargs.pop(name) for name in cls.compiled if name in kwargs}
        # A name that Python keeps for itself ends in an underscore there.
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        known = {name: p for name, p in signature.parameters.items() if name != "self"}
        kwargs = {f"{k}_" if k not in known and f"{k}_" in known else k: v for k, v in kwargs.items()}
        for name, value in (*zip(known, args), *kwargs.items()):
            left_out = value is None and name in known and known[name].default is None
            if not left_out and (name in cls.sizes or name.removesuffix("_") in cls.sizes):
                _check_size(name, value)
        if all(cls.compiled[name] == _value(value) for name, value in given.items()):
            return super().__call__(*args, **kwargs)
        other = cls.specialise(given)
        return type.__call__(other, *args, **kwargs)

    def specialise(cls, hyper: Mapping[str, object]) -> CompiledLayer:
        """The class of the same cell with other int, real and bool hyperparameters."""
        request = replace(cls.request, hyper={**cls.request.hyper, **hyper})
        return _build(request, request.emit())

    @property
    def family(cls) -> tuple[str, str]:
        """The same for all specialisations of one cell of one spec."""
        return cls.request.spec.text, cls.__name__

    def __instancecheck__(cls, instance: Any) -> bool:
        kind = type(instance)
        return type.__instancecheck__(cls, instance) or (isinstance(kind, CompiledLayer) and kind.family == cls.family)

    @property
    def recurrence(cls) -> Recurrence:
        """The groups of states and their normal forms."""
        from rnnc.analysis.recurrence import analyse_recurrence

        return analyse_recurrence(cls.request.lower())

    @property
    def report(cls) -> Report:
        """What the analysis says of this cell."""
        from rnnc.analysis.report import analyze

        return analyze(cls.request.spec, cls.request.cell, **cls.request.hyper)


def _value(value: object) -> object:
    """Numbers compare exactly: 0.5 is 1/2, and True is not 1."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return Fraction(str(value)) if math.isfinite(value) else value
    return Fraction(value) if isinstance(value, int) else value


def _build(request: Request, source: str) -> CompiledLayer:
    cell = request.lower()
    module = load_source(source, cell.name)
    made = module.__dict__.setdefault("__rnnc_classes__", {})
    key = (request.spec.text, repr(request.strategy), repr(sorted(request.hyper.items())), request.chosen)
    if key not in made:
        base = module.__dict__[module.__all__[0]]
        body = {
            "__module__": module.__name__,
            "__qualname__": cell.name,
            "__doc__": base.__doc__,
            "source": source,
            "request": request,
            "compiled": {name: _value(value) for name, value in cell.hyper},
            "sizes": frozenset(d.name for d in cell.dims),
        }
        made[key] = CompiledLayer(cell.name, (base,), body)
    found: CompiledLayer = made[key]
    return found


def _check_size(name: str, value: object) -> None:
    if not hasattr(value, "__index__") or isinstance(value, bool):
        raise TypeError(f"`{name}` is a size: a whole number, not {value!r}")
    if operator.index(value) < 1:
        raise ValueError(f"`{name}` is a size, so at least 1, not {value}")


def _restored(request: Request, source: str) -> CompiledLayer:
    """The class as it was written, or what this machine can run where the other one chose by itself."""
    here = replace(request, backend="auto", chosen=False).here() if request.chosen else request
    return _build(here, source if here.backend == request.backend else here.emit())


def _reduce(cls: CompiledLayer) -> tuple[Any, ...]:
    return _restored, (cls.request, cls.source)


copyreg.pickle(CompiledLayer, _reduce)
