"""Compiles the kernels of a generated file ahead of time, for GPUs that need not be there, and reads what they use.

Triton builds machine code for any target it knows.  Registers and spills of an NVIDIA kernel are what the `ptxas` that
Triton ships says of it, of an AMD kernel what the metadata in its assembly say.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rnnc.runtime.gpu.compat import LAUNCH, assembler

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
