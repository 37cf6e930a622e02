"""A GPU that is not there: what an operator would launch on an sm_90 is written down, with the bytes of its tensors.

Operators get tensors on the CPU that nobody has filled (they take no memory).  Launches are recorded and not run; what
PyTorch does between them runs, and its bytes are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from rnnc.backends.triton.ahead import _nvidia
from rnnc.runtime.gpu import decays, devices, low_rank, tuning

PROCESSORS, SHARED = 132, 227 * 1024  # of an H200, by its data sheet
PROGRAMS = 4 * PROCESSORS  # that the runtime wants on it


@dataclass(frozen=True, slots=True, kw_only=True)
class Launched:
    """One launch: its programs, and the bytes of all tensors it is given, each once (what it reads twice counts once).

    Registers and the bytes a thread spills are of its machine code for sm_90; None where none was built.
    """

    kernel: str
    programs: int
    bytes: int
    warps: int
    registers: int | None = None
    spilled: int | None = None
    shared: int | None = None


@dataclass(slots=True)
class Recorded:
    launches: list[Launched] = field(default_factory=list)
    torch: list[tuple[str, int]] = field(default_factory=list)  # operations between launches, and their bytes


def _bytes_of(tensors: list[Tensor]) -> int:
    """Of different places: an expanded tensor has no more than its storage."""
    found: dict[tuple[int, int], int] = {}
    for x in tensors:
        size = min(x.numel() * x.element_size(), x.untyped_storage().nbytes())
        found[x.data_ptr(), size] = size
    return sum(found.values())


class _Between(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what PyTorch reads and writes; looks into the project's own operators."""

    def __init__(self, into: Recorded) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.into = into

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "rnnc":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if func.namespace == "aten" and "empty" not in name:
            given, made = ([x for x in tree_leaves(v) if isinstance(x, Tensor)] for v in ((args, kwargs), found))
            given = [] if name.startswith("new_") or name.endswith("_like") else given  # they take sizes only
            places = {x.untyped_storage().data_ptr() for x in given}
            new = [x for x in made if x.untyped_storage().data_ptr() not in places]
            if (new or func._schema.is_mutable) and _bytes_of([*given, *new]):
                self.into.torch.append((name, _bytes_of([*given, *new])))
        return found


class Driver:
    """As much of a Triton driver as compiling and asking for sizes needs."""

    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": SHARED, "multiprocessor_count": PROCESSORS}
    )

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> Any:
        raise RuntimeError("nothing is measured here")


@contextmanager
def pretended() -> Iterator[None]:
    """An H200 for everybody who asks, peers that look at it when they are imported included."""
    properties = SimpleNamespace(
        name="NVIDIA H200",
        major=9,
        minor=0,
        multi_processor_count=PROCESSORS,
        shared_memory_per_block_optin=SHARED,
        shared_memory_per_block=48 * 1024,
        total_memory=141 * 10**9,
    )
    with ExitStack() as stack:
        for owner, name, value in (
            (torch.cuda, "get_device_capability", lambda *a: (9, 0)),
            (torch.cuda, "get_device_name", lambda *a: "NVIDIA H200"),
            (torch.cuda, "get_device_properties", lambda *a: properties),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "device", lambda *a: ExitStack()),
            (devices, "interpreted", lambda: True),  # tensors of the CPU are taken
            (decays, "INTERPRETED", True),
            (low_rank, "INTERPRETED", True),
            (tuning, "_programs_of", lambda device: PROGRAMS),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(mock.patch.object(triton.runtime.driver, "_active", Driver()))
        yield


@contextmanager
def recorded(*, machine_code: bool) -> Iterator[Recorded]:
    """What is launched inside.  Of a tuner's configurations the first one: bytes of tensors are those of all."""
    found, run = Recorded(), JITFunction.run

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        given = dict(zip(kernel.arg_names, args)) | kwargs
        sizes = grid(given) if callable(grid) else grid
        code = run(kernel, *args, grid=grid, warmup=True, **kwargs) if machine_code else None
        registers, spilled = _nvidia(code.asm["ptx"]) if code is not None else (None, None)
        programs = 1
        for n in sizes:
            programs *= int(n)
        found.launches.append(
            Launched(
                kernel=kernel.__name__,
                programs=programs,
                bytes=_bytes_of([x for x in given.values() if isinstance(x, Tensor)]),
                warps=kwargs.get("num_warps", 4),
                registers=registers,
                spilled=spilled,
                shared=None if code is None else int(code.metadata.shared),
            )
        )

    def first(tuner: Any, *args: Any, **kwargs: Any) -> Any:
        tuner.nargs = dict(zip(tuner.arg_names, args))
        return tuner.fn.run(*args, **kwargs, **tuner.configs[0].all_kwargs())

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(JITFunction, "run", record))
        for kind in (Autotuner, *Autotuner.__subclasses__()):
            if "run" in vars(kind):
                stack.enter_context(mock.patch.object(kind, "run", first))
        stack.enter_context(_Between(found))
        yield found


def both_ways(
    run: Callable[[], Tensor], leaves: tuple[Tensor, ...], *, machine_code: bool
) -> tuple[Recorded, Recorded]:
    """Of a forward, and of its backward."""
    with recorded(machine_code=machine_code) as forward:
        y = run()
    ones = torch.empty_like(y)
    with recorded(machine_code=machine_code) as backward:
        torch.autograd.grad(y, [x for x in leaves if x.requires_grad], ones, allow_unused=True)
    return forward, backward
