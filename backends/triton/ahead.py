"""Compiles the kernels of a generated file ahead of time, for GPUs that need not be there, and reads what they use.

Triton builds machine code for any target it knows.  Registers and spills of an NVIDIA kernel are what the `ptxas` that
Triton ships says of it, of an AMD kernel what the metadata in its assembly say.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rnnc.runtime.gpu.arrange import is_complex, lead_of
from rnnc.runtime.gpu.compat import LAUNCH, assembler
from rnnc.runtime.gpu.coupled import LOW, CoupledRecurrence
from rnnc.runtime.gpu.recurrence import Recurrence
from rnnc.runtime.gpu.tuning import Config

TARGETS: dict[str, GPUTarget] = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED = {
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "gfx942": 64 * 1024,
}  # bytes a program may use
TYPES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.float64: "fp64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """Of one kernel on one target: registers a thread, bytes a thread spilled to memory, bytes of shared memory; for
    NVIDIA's targets the machine code.
    """

    kernel: str
    target: str
    registers: int
    spilled: int
    shared: int
    code: bytes = field(default=b"", repr=False, compare=False)


def compiled(
    of: Recurrence,
    which: str,
    target: str,
    sizes: Mapping[str, int],
    dtype: torch.dtype = torch.bfloat16,
    config: Config | None = None,
    *,
    packed: bool = False,
    ones: Collection[str] = (),
) -> Resources:
    """Compile one kernel ("forward", "backward", "totals", "backward_totals") for sequences of `dtype`.

    `sizes` are those of its labels; `ones`: numbers that are 1, of which a launch makes constants.
    """
    kernel = getattr(of, which)
    inner = tuple(sizes[x] for x in of.axes.inner)
    constants: dict[str, Any] = {"ACC": tl.float64 if dtype == torch.float64 else tl.float32}
    constants |= {"PACKED": True} if packed else {"PACKED": False, "bounds_ptr": None}
    constants |= {n: 1 for n in kernel.arg_names if n in ones}
    for name, size in zip("NMLRJ", inner):
        constants |= {name: size, f"B{name}": triton.next_power_of_2(size)}
    if isinstance(of, CoupledRecurrence):
        config = config or of.config(which, sizes, dtype.itemsize, machine_of(target))
        constants |= {**of.blocks(sizes), "BB": config.steps, "STAGES": config.stages, "LOW": LOW[dtype]}
        constants |= {"KEEP": True} if which == "forward" else {}
    else:
        config = config or of.default_config(of.axes.size("d", sizes), inner)
        constants |= {"BD": config.width(which), "BT": config.steps, "STAGES": config.stages}
    signature, attributes = _signature(of, kernel, constants, TYPES[dtype])
    options = config.launch(which, "" if target.startswith("sm") else "amd")
    return _built(kernel, target, signature, attributes, constants, options)


def machine_of(target: str) -> str:
    """As `rnnc.runtime.gpu.tuning` names machines: "amd", or "old" for NVIDIA's before sm_90, or ""."""
    return "old" if target == "sm_80" else "" if target.startswith("sm") else "amd"


def _built(
    kernel: Any,
    target: str,
    signature: dict[str, str],
    attributes: dict[tuple[int, ...], list[list[Any]]],
    constants: dict[str, Any],
    options: dict[str, int],
) -> Resources:
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    found = triton.compile(source, target=TARGETS[target], options=options | LAUNCH)
    registers, spilled = _nvidia(found.asm["ptx"]) if target.startswith("sm") else _amd(found.asm["amdgcn"])
    shared = int(found.metadata.shared)
    code = found.asm.get("cubin", b"")
    name = kernel.__name__
    return Resources(kernel=name, target=target, registers=registers, spilled=spilled, shared=shared, code=code)


def _signature(
    of: Recurrence, kernel: Any, constants: dict[str, Any], dtype: str
) -> tuple[dict[str, str], dict[tuple[int, ...], list[list[Any]]]]:
    """Types of the arguments; pointers and strides divisible by 16, the stride of the last axis one."""
    names: list[str] = list(kernel.arg_names)
    streams = [n.removesuffix("_ptr") for n in names if n.endswith("_ptr") and f"{n.removesuffix('_ptr')}_t" in names]
    wide = ("_start_ptr", "_last_ptr", "_tiles_ptr", "_kept_ptr", "_scratch_ptr", "_total_ptr", "_factor_ptr")
    precise = "fp64" if dtype == "fp64" else "fp32"
    static = _named(of, names, lambda d: not lead_of(d))
    pairs = _named(of, names, is_complex)  # PyTorch has no complex numbers of 16 bits
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    last = {f"{s}_{_last_axis(names, s)}" for s in streams} | {n for n in names if n.endswith("_weight_i")}
    for k, name in enumerate(names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in last:
            signature[name] = "constexpr"
            constants[name] = 1
        elif name in ("counts_ptr", "bounds_ptr"):
            signature[name] = "*i32" if name == "counts_ptr" else "*i64"
        elif name.endswith("_ptr"):
            plain = name.removeprefix("d_").removesuffix("_ptr")
            low = plain in streams or not (name.endswith(wide) or plain in static)
            low = low and plain not in pairs
            signature[name] = f"*{dtype if low else precise}"
            attributes[k,] = [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
            if name not in ("T", "G", "B", "SPLITS"):
                attributes[k,] = [["tt.divisibility", 16]]
    return signature, attributes


def _last_axis(names: list[str], stream: str) -> str:
    return [n.removeprefix(f"{stream}_") for n in names if re.fullmatch(rf"{re.escape(stream)}_[btgdnmlrj]", n)][-1]


STATES = ("_start", "_last", "_tiles", "_scratch")


def _named(of: Recurrence, names: list[str], holds: Callable[[str], bool]) -> set[str]:
    """The names of the inputs and outputs with such descriptors: the first pointers are the inputs, in order, and then
    outputs stand among the arrays of states and gradients.
    """
    pointers = [n.removesuffix("_ptr") for n in names if n.endswith("_ptr")][1:]
    given, rest = pointers[: len(of.inputs)], [n.removeprefix("d_") for n in pointers[len(of.inputs) :]]
    outputs = [n for n in rest if not n.endswith(STATES) and n not in given]
    return {n for n, d in zip([*given, *outputs], [*of.inputs, *of.outputs]) if holds(d)}


def _nvidia(code: str) -> tuple[int, int]:
    """Registers and bytes spilled, by assembling once more: the binary alone does not tell spills from arrays that a
    library function (sin, for one) keeps on the stack.
    """
    target = re.findall(r"^\.target (\w+)", code, re.MULTILINE)[0]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(code)
        file.flush()
        command: list[str | Path] = [
            assembler(int(re.findall(r"\d+", target)[0])),
            "-v",
            f"--gpu-name={target}",
            file.name,
            "-o",
            "/dev/null",
        ]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = int(re.findall(r"Used (\d+) registers", said)[-1])
    return registers, sum(int(n) for n in re.findall(r"(\d+) bytes spill stores", said))


def _amd(assembly: str) -> tuple[int, int]:
    registers = re.findall(r"\.vgpr_count:\s+(\d+)", assembly)[-1]
    return int(registers), 4 * int(re.findall(r"\.vgpr_spill_count:\s+(\d+)", assembly)[-1])
