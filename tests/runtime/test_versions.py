"""What the runtime, training and generated modules use of PyTorch, with the version each came with.

Only one version of torch can be installed beside the other packages here, so this is a reading, not a run: the table
says since when PyTorch has a name (releases' notes and documentation; 1 for what is older than 2.0), and the tests say
that nothing is used that is not in the table, and nothing younger than what is declared but in `_compat`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rnnc
from rnnc.runtime import _compat

ROOT = Path(__file__).parents[2]
ROOTS = {"torch": "torch", "F": "torch.nn.functional", "nn": "torch.nn"}
DECLARED = (2, 6)

SINCE: dict[str, str] = {
    "2.7": "torch.compiler.is_exporting",
    "2.5": "torch._library.custom_ops.CustomOpDef.register_vmap",
    "2.4": """torch.amp.is_autocast_available torch.get_autocast_dtype torch.is_autocast_enabled
        torch.library.custom_op torch.nn.RMSNorm torch.nn.functional.rms_norm""",
    "2.1": """torch.compiler.is_compiling torch.compiler.disable torch.compiler.assume_constant_result
        torch._C._are_functorch_transforms_active""",
    "2.0": "torch.nn.functional.scaled_dot_product_attention",
    "1": """torch.backends.cuda.matmul torch.broadcast_shapes torch.cuda.Event torch.cuda.current_device
        torch.cuda.device_of torch.cuda.get_device_capability torch.cuda.get_device_properties
        torch.cuda.is_current_stream_capturing torch.int32 torch.version.hip
        torch.Tensor torch.__version__ torch._assert_async
        torch.abs torch.add torch.addcmul torch.addmm torch.arange torch.atanh
        torch.autocast torch.autograd.Function torch.autograd.grad torch.baddbmm torch.bfloat16 torch.bmm torch.bool
        torch.broadcast_tensors torch.cat torch.complex torch.complex128 torch.complex64 torch.contiguous_format
        torch.cos torch.cuda.get_device_name torch.cuda.is_available torch.device torch.diag_embed torch.dtype
        torch.einsum torch.empty torch.empty_like torch.empty_strided torch.erf torch.exp torch.expm1 torch.eye
        torch._C torch.fft.fft torch.fft.ifft torch.fft.irfft torch.fft.rfft torch.finfo torch.float32 torch.float64
        torch.from_numpy torch.linalg.vector_norm torch.nan_to_num torch._neg_view
        torch.float16 torch.full torch.get_default_dtype torch.get_num_threads torch.int64 torch.is_grad_enabled
        torch.isfinite torch.lerp
        torch.linalg.matrix_exp torch.linalg.solve torch.linalg.solve_triangular torch.log torch.logaddexp
        torch.logit torch.long torch.manual_seed torch.matmul torch.maximum torch.minimum torch.mm torch.movedim
        torch.mul torch.nn.Embedding torch.nn.Identity torch.nn.Linear torch.nn.Module torch.nn.ModuleList
        torch.nn.Parameter
        torch.nn.Sequential torch.nn.functional.embedding torch.nn.functional.gelu torch.nn.functional.layer_norm
        torch.nn.functional.linear torch.nn.functional.logsigmoid torch.nn.functional.one_hot
        torch.nn.functional.pad torch.nn.functional.relu torch.nn.functional.silu torch.nn.functional.softplus
        torch.nn.init.constant_ torch.nn.init.eye_ torch.nn.init.kaiming_uniform_ torch.nn.init.normal_
        torch.nn.init.ones_ torch.nn.init.orthogonal_ torch.nn.init.uniform_ torch.nn.init.xavier_uniform_
        torch.nn.init.zeros_ torch.nn.utils.clip_grad_norm_ torch.no_grad torch.ones torch.ones_like
        torch.optim.AdamW torch.optim.Optimizer torch.promote_types torch.repeat_interleave torch.rsqrt
        torch.searchsorted torch.set_flush_denormal torch.sigmoid torch.sign torch.sin torch.softmax torch.sqrt
        torch.stack torch.sub torch.sum
        torch.tanh torch.tensor torch.uint8 torch.view_as_complex torch.view_as_real torch.where torch.zeros
        torch.zeros_like""",
}
# Methods and properties of tensors; all are older than 2.0, `mT` and `mH` of 1.11 the youngest.
METHODS = """abs add_ addcmul_ all amax any argmax backward ceil chunk clamp clone conj contiguous copy_ cos cpu
    cumprod cumsum detach device diagonal dtype exp expand expand_as flatten flip float imag index_copy
    index_put index_put_ index_select is_complex is_cuda is_floating_point is_meta isfinite item log long mH mT
    masked_fill max mean min movedim mul_ narrow ndim neg neg_ new_empty new_full new_ones new_tensor
    new_zeros nonzero norm numel permute prod real requires_grad requires_grad_ reshape resolve_conj
    resolve_neg scatter_add shape sqrt square squeeze stride sum to tolist transpose tril triu type unbind
    unflatten unsqueeze view view_as"""
# Attributes that tensors have too, of other things: modules, strings, tuples, data types.
OTHERS = {"__init__", "index", "inner", "name", "names", "outer", "split", "values", "size"}
NOT_TENSORS = (
    "native",
    "products.py",
    "compiled.py",
    "training",
    "gpu, not tensors'",
)  # whose attributes are mostly those of arrays, paths and libraries


def version(text: str) -> tuple[int, ...]:
    return tuple(int(x) for x in text.split("."))


def known() -> dict[str, tuple[int, ...]]:
    return {name: version(since) for since, names in SINCE.items() for name in names.split()}


def used(text: str) -> tuple[set[str], set[str]]:
    """The names a program reads off torch, `F` and `nn`, as far as they go, and attributes that tensors have."""
    names: set[str] = set()
    attributes: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Attribute):
            continue
        parts, value = [node.attr], node.value
        while isinstance(value, ast.Attribute):
            parts, value = [value.attr, *parts], value.value
        if isinstance(value, ast.Name) and value.id in ROOTS:
            names.add(".".join([ROOTS[value.id], *parts]))
        elif hasattr(torch.Tensor, node.attr):
            attributes.add(node.attr)
    return {x for x in names if not any(y.startswith(f"{x}.") for y in names)}, attributes


def programs() -> Iterator[tuple[str, str]]:
    """The runtime of the torch backend, training, and every module of the standard library as it is emitted."""
    folders = (ROOT / "rnnc" / "runtime", ROOT / "rnnc" / "training")
    yield from ((str(p.relative_to(ROOT)), p.read_text()) for folder in folders for p in sorted(folder.glob("*.py")))
    gpu = ROOT / "rnnc" / "runtime" / "gpu"  # with tiles, whose attributes tensors have too
    yield from ((f"gpu, not tensors': {p.name}", p.read_text()) for p in sorted(gpu.glob("*.py")))
    for file in sorted((ROOT / "stdlib").glob("*.rnn")):
        spec = rnnc.stdlib(file.stem)
        yield from ((f"{file.name}: {cell}", rnnc.compile(spec, cell).source) for cell in cell_names(spec))


def cell_names(spec: rnnc.Spec) -> list[str]:
    return [getattr(cell, "name", cell) for cell in spec.cells]


def templates() -> set[str]:
    """Names of torch in the strings that the backend is made of: what modules of other cells may contain."""
    texts = [
        node.value
        for file in sorted((ROOT / "backends" / "torch").glob("*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
    ]
    found = {m for text in texts for m in re.findall(r"(?<![\w.])(?:torch|F|nn)(?:\.[A-Za-z_]\w*)+", text)}
    full = {".".join([ROOTS[x.split(".")[0]], *x.split(".")[1:]]) for x in found}
    return {x for x in full if not x.startswith("torch.backends")}


def test_nothing_is_younger_than_the_declared_version() -> None:
    since = known()
    for where, text in programs():
        names, attributes = used(text)
        assert names <= since.keys(), f"{where}: since when has torch {sorted(names - since.keys())}?"
        young = {x for x in names if since[x] > DECLARED}
        assert not young, f"{where} uses {sorted(young)}"
        if not any(x in where for x in NOT_TENSORS):
            new = attributes - {*METHODS.split()} - OTHERS
            assert not new, f"{where}: since when have tensors {sorted(new)}?"
    for name in templates():
        assert any(known_name == name or known_name.startswith(name) for known_name in since), name
        assert since.get(name, (1,)) <= DECLARED, name


def test_the_table_is_of_torch() -> None:
    """Every name of it exists here, and so nothing that is used has been removed since."""
    for name in known():
        value: object = torch
        for part in name.split(".")[1:]:
            value = getattr(value, part)
    assert all(hasattr(torch.Tensor, m) for m in METHODS.split())


def test_the_declared_version_is_what_the_package_asks_for() -> None:
    declared = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert declared is not None
    assert version(declared[1]) == DECLARED


def test_without_what_came_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """On 2.6 a compiled program takes the way of an exported one; the numbers are the same."""
    from rnnc.runtime import MicroStep, Read, _chunk_layout, matrix_scan

    assert _compat.exporting is torch.compiler.is_exporting
    monkeypatch.setattr(_chunk_layout, "exporting", torch.compiler.is_compiling)
    k, v, state = torch.randn(2, 70, 1, 3), torch.randn(2, 70, 1, 4), torch.randn(2, 1, 3, 4)

    def run(k: torch.Tensor, v: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        step = MicroStep(log_decay=-k.square().sum(-1), low_rank=((-0.1 * k, k),), writes=((k, v),))
        (y,), final = matrix_scan(state, (step,), (Read(k),))
        return y.sum(1) + final.sum(2)

    torch.compiler.reset()
    found = torch.compile(run, fullgraph=True, backend="eager")(k, v, state)
    torch.testing.assert_close(found, run(k, v, state))
