"""What a GPU would be given: launches of layers, recorded, are those that are compiled ahead of time, and do compile.

The interpreter takes any argument and any option; a launch specialises its arguments and refuses what it does not know.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

import triton_layers as cases
from triton.runtime import jit

from rnnc.backends.triton import ahead, ahead_recurrence, launched
from rnnc.compile import load_source
from rnnc.runtime.gpu import recurrence
from rnnc.runtime.gpu.compat import interpreted

if interpreted():
    pytest.skip("launches are recorded where Triton does not interpret them", allow_module_level=True)

SIZES: dict[str, dict[str, int]] = {  # with labels of the kernel's axes, as `ahead_recurrence` asks for them
    "mingru": {"d": 16, "n": 1024},
    "loop": {"d": 16, "n": 64},
    "lru": {"d": 16, "n": 1024},
    "lstm": {"d": 16, "n": 64},
}
LABELS = {"mingru": {"A": 1024}, "loop": {"A": 64}, "lru": {"A": 1024}, "lstm": {"A": 64}}


@cache
def recorded(name: str, offset: int = 0) -> tuple[Any, list[launched.Launch], list[Any]]:
    """The kernel of a layer in bfloat16, what its training launches, and the same by Triton's own hand; with `offset`
    the inputs of the layer's kernels are aligned to nothing.
    """
    from rnnc.backends.triton.backend import emit

    cell, _, strategy = cases.LAYERS[name]
    spec = cases.spec_of(name)
    ir = spec.lower(cell)
    source = emit(ir, dims=None, strategy=strategy, sources=spec.sources)
    layer = getattr(load_source(source, ir.name), ir.name)(**SIZES[name], dtype=torch.bfloat16)
    theirs: list[Any] = []
    own = launched._launch

    def both(kernel: Any, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> launched.Launch:
        theirs.append(by_triton(kernel, target, args, kwargs))
        return own(kernel, target, args, kwargs)

    def run() -> None:
        x = torch.zeros(2 * 40 * 16 + offset, dtype=torch.bfloat16)[offset:].view(2, 40, 16).requires_grad_()
        cases.with_gradients(layer, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launched, "_launch", both)
        patch.setattr(recurrence, "check_devices", lambda *a, **k: None)
        found = launched.launches("sm_90", run)
    return cases.kernel_of(layer), found, theirs


def by_triton(kernel: Any, target: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Types, constants and what is a multiple of 16, as a launch finds them; KeyError for an unknown option."""
    from triton.compiler import make_backend

    backend = make_backend(ahead.TARGETS[target])
    kwargs = kwargs | {"debug": False}
    bind = jit.create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, special, options = bind(*args, **kwargs)
    options, signature, constants, attributes = kernel._pack_args(backend, kwargs, bound, special, options)
    return signature, constants, {k for k, x in attributes.items() if ["tt.divisibility", 16] in x}, options


@pytest.mark.parametrize("name", SIZES)
def test_a_recorded_launch_is_what_triton_makes_of_it(name: str) -> None:
    _, found, theirs = recorded(name)
    assert len(found) == 2, [x.title for x in found]
    for ours, (signature, constants, sixteens, options) in zip(found, theirs, strict=True):
        names = [*dict(ours.signature)]
        assert dict(ours.signature) == signature
        assert {names[k]: x for (k,), x in constants.items()} == dict(ours.constants)
        assert {(k,) for k in ours.sixteens} == sixteens
        for option, value in ours.options:
            assert getattr(options, option) == value


@pytest.mark.parametrize("name", SIZES)
def test_what_is_launched_is_what_was_compiled_ahead_of_time(name: str) -> None:
    """Types of arrays, constants, strides that are 1, warps, stages and registers, for the same sizes."""
    of, found, _ = recorded(name)
    for role, ours in zip(("forward", "backward"), found, strict=True):
        theirs = ahead_recurrence.launched(of, role, "sm_90", LABELS[name], batch=2, steps=40)
        assert theirs.kernel is ours.kernel
        assert dict(theirs.signature) == dict(ours.signature)
        assert dict(theirs.constants) == dict(ours.constants)
        assert theirs == ours, "what is a multiple of 16, too"


@pytest.mark.parametrize("name", ["mingru", pytest.param("lru", marks=pytest.mark.slow)])
def test_compiles_as_launched_with_unaligned_inputs(name: str) -> None:
    """No address is claimed to be a multiple of 16 that is none."""
    _, found, _ = recorded(name)
    for launch in found:
        odd = {n for n, t in launch.signature if t == "*bf16"}
        names = [n for n, _ in launch.signature]
        assert {names[k] for k in launch.sixteens} >= odd, "those of a whole tensor are"
        unaligned = launched.Launch(
            kernel=launch.kernel,
            target=launch.target,
            signature=launch.signature,
            sixteens=(),
            constants=launch.constants,
            options=launch.options,
        )
        assert unaligned.compiled().spilled == 0


@pytest.mark.parametrize("name", ["lstm"])
def test_products_of_float32_are_no_tf32(name: str) -> None:
    """In the machine code's text: PyTorch's switch is off by default."""
    import triton
    from triton.compiler import ASTSource

    _, found, _ = recorded(name)
    for launch in found:
        constants = dict(launch.constants)
        wide = {n: t.replace("bf16", "fp32") for n, t in launch.signature}
        constants["LOW"] = constants["ACC"]
        source = ASTSource(launch.kernel, wide, constexprs=constants, attrs={})
        code = triton.compile(source, target=ahead.TARGETS[launch.target], options=dict(launch.options)).asm
        assert re.search(r"tt\.dot|ttg\.local_load|ttng\.warp_group_dot", code["ttgir"])
        assert "tf32" not in code["ptx"]
