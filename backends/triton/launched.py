"""Kernels compiled ahead of time exactly as an operator launches them: its launches are recorded, and nothing is run.

An operator is called with tensors on the CPU, which sets sizes, strides and alignment; every kernel it would launch is
written down with its arguments, specialised as Triton specialises a launch (numbers that are 1 become constants, others
are known to be multiples of 16 where they are), and can be compiled for any target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from triton.runtime.jit import JITFunction

from rnnc.backends.triton.ahead import TYPES, Resources, _built, machine_of
from rnnc.runtime.gpu import tuning

__all__ = ["Launch", "launches"]

OTHER_TYPES = {"torch.int64": "i64", "torch.int32": "i32", "torch.bool": "i1"}
INT32 = range(-(1 << 31), 1 << 31)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One kernel with its specialised arguments; equal for launches that share machine code."""

    kernel: Any
    target: str
    signature: tuple[tuple[str, str], ...]
    sixteens: tuple[int, ...]  # arguments that are multiples of 16
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    @property
    def title(self) -> str:
        """The kernel, and what its launch chose."""
        chosen = [f"{n}={x}" for n, x in self.constants if isinstance(x, (bool, int)) and n.isupper()]
        return f"{self.kernel.__name__}({', '.join(chosen)}, warps={dict(self.options).get('num_warps')})"

    def compiled(self) -> Resources:
        attributes: dict[tuple[int, ...], list[list[Any]]] = {(k,): [["tt.divisibility", 16]] for k in self.sixteens}
        constants, options = dict(self.constants), dict(self.options)
        return _built(self.kernel, self.target, dict(self.signature), attributes, constants, options)


def launches(target: str, run: Callable[[], object]) -> list[Launch]:
    """What `run` launches on a GPU like `target`, each machine code once; `run` computes nothing of worth.

    Not where Triton interprets its kernels.
    """
    found: dict[Launch, None] = {}

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found[_launch(kernel, target, args, kwargs)] = None

    with _recording(record, machine_of(target)):
        run()
    return [*found]


@contextmanager
def _recording(record: Callable[..., None], machine: str) -> Iterator[None]:
    """Launches go to `record`, and the current device is a `machine` (see `rnnc.runtime.gpu.tuning`)."""
    run, kind = JITFunction.run, tuning._machine_of
    JITFunction.run, tuning._machine_of = record, lambda device: machine  # type: ignore[assignment]
    try:
        yield
    finally:
        JITFunction.run, tuning._machine_of = run, kind


def _launch(kernel: Any, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Launch:
    names = [p.name for p in kernel.params]
    given = dict(zip(names, args)) | {n: x for n, x in kwargs.items() if n in names}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    sixteens: list[int] = []
    for k, p in enumerate(kernel.params):
        x = given[p.name]
        if p.is_constexpr or x is None or (type(x) is int and x == 1 and not p.do_not_specialize):
            signature[p.name], constants[p.name] = "constexpr", x
            continue
        if isinstance(x, Tensor):
            signature[p.name] = "*" + (TYPES.get(x.dtype) or OTHER_TYPES[str(x.dtype)])
            whole = x.data_ptr() % 16 == 0
        else:
            signature[p.name] = "i32" if x in INT32 else "i64"
            whole = x % 16 == 0 and not p.do_not_specialize
        sixteens += [k] if whole else []
    return Launch(
        kernel=kernel,
        target=target,
        signature=tuple(signature.items()),
        sixteens=tuple(sixteens),
        constants=tuple(constants.items()),
        options=tuple(sorted((n, x) for n, x in kwargs.items() if n not in names)),
    )
