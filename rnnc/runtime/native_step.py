"""A whole single step of a layer as one C function, for inference: what `layer.step` calls first.

A call answers None where it does not serve (gradients are wanted, a tracer looks on, dtypes are mixed, there are very
many sequences), and the module goes on with its other way.  What depends on shapes and dtypes alone is worked out at
the first call with them; what follows from parameters alone, in memory that is kept for each module, whenever these are
not what they were.

A token of a small layer takes a few microseconds, so what Python does around the C counts.  The layouts of a module's
last step are recognised by one call (`same_layout`), everything else stands ready: memory of known sizes is asked for,
and addresses and numbers are one string of bytes, the only argument of the C function.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import is_
from struct import Struct
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from rnnc.runtime._compat import empty_cpu, same_layout, traced
from rnnc.runtime.compiled import NativeError, load_library
from rnnc.runtime.native_frame import HALF

__all__ = ["NativeStep"]

AT_ONCE = 64  # sequences that go through a step together, as its C says
MOST_CALLS = 100  # layouts that a step remembers
MOST_SEQUENCES = 256  # up to which it was measured to be faster (docs/cpu.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fitted:
    """A call for tensors of one layout."""

    function: Any
    addresses: Callable[..., bytes]  # of all arrays and of the memory for parameters, and the number of threads
    sizes: bytes  # the batch and the dims
    copied: tuple[int, ...]  # places of tensors that are not contiguous, or lazily negated
    results: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]  # sizes, strides, dtypes
    kind: tuple[tuple[int, ...], torch.dtype]  # what the memory for a set of parameters depends on
    kept: int  # its bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """The call of a module's last step; `alike` says whether tensors are like those, `learns` whether some of them
    require gradients.
    """

    fitted: _Fitted
    dims: tuple[int, ...]
    alike: Callable[..., bool]
    learns: bool


@dataclass(slots=True, kw_only=True)
class _Held:
    """Parameters of a module, and the entries of its dictionaries (of parameters, of submodules) that lead to them:
    dictionaries, names, and what they held.

    `memory`: what follows from them, by `_Fitted.kind`; calls that run at once have each their own.
    """

    module: ReferenceType[torch.nn.Module]
    tensors: tuple[Tensor, ...]
    owners: tuple[dict[str, Any], ...]
    names: tuple[str, ...]
    values: tuple[Any, ...]
    memory: dict[Any, list[Tensor]] = field(default_factory=dict)
    ready: _Ready | None = None

    def stands(self) -> bool:
        """Whether the module has these parameters still."""
        return all(map(is_, map(dict.get, self.owners, self.names), self.values))

    def take(self, fitted: _Fitted) -> Tensor:
        """Memory that no other call uses: zeros, or as a call left it."""
        free = self.memory.setdefault(fitted.kind, [])
        try:
            return free.pop()
        except IndexError:
            return torch.zeros(fitted.kept, dtype=torch.uint8, device="cpu")

    def give(self, fitted: _Fitted, memory: Tensor) -> None:
        self.memory[fitted.kind].append(memory)


ADDRESS = Tensor.data_ptr
UNKNOWN: Any = object()  # no call was tried for a layout; None: it does not serve


def plain(x: Tensor) -> Tensor:
    """Without gaps, and nothing left to do when it is read."""
    return x.resolve_conj().resolve_neg().contiguous()


def _hold(module: torch.nn.Module, names: tuple[str, ...], forget: Callable[[Any], object]) -> _Held:
    """`forget` is called when the module is gone.  Raises AttributeError where the module has no such parameter."""
    tensors: list[Tensor] = []
    entries: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
    for path in names:
        *parts, last = path.split(".")
        at = module
        for part in parts:
            entries[id(at._modules), part] = (at._modules, part, at.get_submodule(part))
            at = at.get_submodule(part)
        found = getattr(at, last)
        if last in at._parameters:  # not so where it is parametrised: then it is computed at each call
            entries[id(at._parameters), last] = (at._parameters, last, found)
        else:
            entries[id(at), last] = ({}, last, found)
        tensors.append(found)
    owners, keys, values = zip(*entries.values(), strict=True) if entries else ((), (), ())
    return _Held(module=ref(module, forget), tensors=tuple(tensors), owners=owners, names=keys, values=values)


@dataclass(frozen=True, kw_only=True)
class NativeStep:
    """The functions NAME_step and NAME_shapes of a C source.

    `given` and `results` are the ranks of the arrays without the batch; the last `static` of the given ones have none
    (parameters).  `tokens`: places of the given ones that hold tokens; `complex_`: places, of the given ones and then
    of the results, that hold complex numbers.  `halves`: whether all may be of half precision.
    """

    source: str
    name: str
    given: tuple[int, ...]
    static: int
    results: tuple[int, ...]
    tokens: tuple[int, ...] = ()
    complex_: tuple[int, ...] = ()
    halves: bool = True
    held: dict[int, _Held] = field(init=False, default_factory=dict, compare=False, repr=False)  # by id of the module
    calls: dict[Any, _Fitted | None] = field(init=False, default_factory=dict, compare=False, repr=False)

    def __call__(
        self, module: torch.nn.Module, varying: Sequence[Tensor], params: tuple[str, ...], dims: tuple[int, ...]
    ) -> list[Tensor] | None:
        """The outputs [B, ...] and the new states, or None where the caller has to run the step itself.

        `varying` are inputs and states [B, ...], `params` says where the module has its parameters.
        """
        if torch.compiler.is_compiling():
            return None
        held = self.held.get(id(module))
        if held is None or not held.stands():
            held = self._hold(module, params)
        tensors: Sequence[Tensor] = (*varying, *held.tensors)
        ready = held.ready
        if ready is None or ready.dims != dims or not ready.alike(*tensors):
            fitted = self._find(held, tensors, dims)
        else:
            fitted = None if ready.learns and torch.is_grad_enabled() else ready.fitted
        if fitted is None:
            return None
        if fitted.copied:
            tensors = [plain(x) if k in fitted.copied else x for k, x in enumerate(tensors)]
        found = [empty_cpu(size, stride, dtype) for size, stride, dtype in fitted.results]
        return self._run(held, fitted, tensors, found)

    def _run(self, held: _Held, fitted: _Fitted, tensors: Sequence[Tensor], found: list[Tensor]) -> list[Tensor] | None:
        places = map(ADDRESS, (*tensors, *found))
        threads = torch.get_num_threads()
        if fitted.kept:
            memory = held.take(fitted)
            failed = fitted.function(fitted.addresses(*places, memory.data_ptr(), threads) + fitted.sizes)
            held.give(fitted, memory)
        else:
            failed = fitted.function(fitted.addresses(*places, 0, threads) + fitted.sizes)
        match failed:
            case 0:
                return found
            case 1:
                raise MemoryError(f"no memory for a step of `{self.name}`")
            case 2:
                raise IndexError("index out of range in self: a token is not below the size of the vocabulary")
        return None  # a matrix without an inverse, which PyTorch says

    def _find(self, held: _Held, tensors: Sequence[Tensor], dims: tuple[int, ...]) -> _Fitted | None:
        """The call for tensors of other layouts than at the module's last step, in which it is ready from now on."""
        if traced(tensors) or torch.is_autocast_enabled("cpu"):  # which lowers the precision of products only
            return None
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return None
        key = (dims, *[(x.dtype, x.shape, x.is_contiguous(), x.is_cpu, x.is_neg(), x.is_conj()) for x in tensors])
        fitted = self.calls.get(key, UNKNOWN)  # one look: another thread may clear them between two
        if fitted is UNKNOWN:
            fitted = self._remember(key, tensors, dims)
        distinct = len(set(map(id, tensors))) == len(
            tensors
        )  # the call says no where one is given twice (tied weights)
        alike = same_layout(tensors) if fitted is not None and distinct else None
        if fitted is not None and alike is not None:
            learns = any(x.requires_grad for x in tensors)
            held.ready = _Ready(fitted=fitted, dims=dims, alike=alike, learns=learns)
        return fitted

    def _hold(self, module: torch.nn.Module, names: tuple[str, ...]) -> _Held:
        """The module's parameters.  To look them up costs more than many a step: they are remembered, with what each
        part of the module held then, which is compared."""
        key, known = id(module), self.held
        self.held[key] = held = _hold(module, names, lambda _: known.pop(key, None))
        return held

    def _remember(self, key: Any, tensors: Sequence[Tensor], dims: tuple[int, ...]) -> _Fitted | None:
        if len(self.calls) >= MOST_CALLS:
            self.calls.clear()
        self.calls[key] = found = self._fit(tensors, dims)
        return found

    def _fit(self, tensors: Sequence[Tensor], dims: tuple[int, ...]) -> _Fitted | None:
        """The call; None where the function does not serve, or the sizes are wrong (which the module then says)."""
        batch = tensors[0].shape[0] if tensors[0].ndim else 0
        count = len(tensors)
        dtype = next((x.dtype for k, x in enumerate(tensors) if k not in (*self.tokens, *self.complex_)), None)
        dtype = dtype or tensors[self.complex_[0]].real.dtype
        wide = torch.promote_types(dtype, torch.complex64)
        kinds = [dtype if k not in self.complex_ else wide for k in range(count + len(self.results))]
        wanted_kinds = [torch.int64 if k in self.tokens else kind for k, kind in enumerate(kinds[:count])]
        alike = all(x.dtype == kind and x.device.type == "cpu" for x, kind in zip(tensors, wanted_kinds, strict=True))
        if not alike or not 0 < batch <= MOST_SEQUENCES:
            return None
        library = self._library(dtype)
        if library is None:
            return None
        sizes_of = iter(self._shapes(library, dims))
        wanted = [tuple(next(sizes_of) for _ in range(rank)) for rank in (*self.given, *self.results)]
        varying = len(self.given) - self.static
        shapes = [(batch, *s) if k < varying else s for k, s in enumerate(wanted[:count])]
        if any(tuple(x.shape) != s for x, s in zip(tensors, shapes, strict=True)):
            return None
        results = [torch.empty(batch, *s, device="cpu") for s in wanted[count:]]
        function, held = (getattr(library, f"{self.name}_{kind}") for kind in ("step", "held"))
        function.argtypes = (ctypes.c_void_p,)
        held.restype = ctypes.c_int64
        sizes = (ctypes.c_int64 * max(1, len(dims)))(*dims)
        return _Fitted(
            function=function,
            addresses=Struct(f"{count + len(results) + 1}Pq").pack,
            sizes=Struct(f"{1 + len(dims)}q").pack(batch, *dims),
            copied=tuple(k for k, x in enumerate(tensors) if not x.is_contiguous() or x.is_neg() or x.is_conj()),
            results=tuple((tuple(x.shape), x.stride(), kind) for x, kind in zip(results, kinds[count:], strict=True)),
            kind=(dims, dtype),
            kept=held(sizes),
        )

    def _library(self, dtype: torch.dtype) -> ctypes.CDLL | None:
        """The library for numbers of a dtype; None where there is none, or the compiler does not know them."""
        if dtype in (torch.float32, torch.float64):
            return load_library(self.source, dtype == torch.float64)
        if dtype not in HALF or not self.halves:
            return None
        try:
            return load_library(self.source, False, HALF[dtype])
        except NativeError:
            return None

    def _shapes(self, library: ctypes.CDLL, dims: tuple[int, ...]) -> list[int]:
        out = (ctypes.c_int64 * (sum(self.given) + sum(self.results) + 1))()
        getattr(library, f"{self.name}_shapes")((ctypes.c_int64 * max(1, len(dims)))(*dims), out)
        return list(out)

    def __reduce__(self) -> Any:
        return _again, tuple(getattr(self, name) for name in FIELDS)


FIELDS = ("source", "name", "given", "static", "results", "tokens", "complex_", "halves")


def _again(*values: Any) -> NativeStep:
    return NativeStep(**dict(zip(FIELDS, values, strict=True)))
