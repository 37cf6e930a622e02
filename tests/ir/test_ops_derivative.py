"""Every op's derivative: against finite differences, and against torch.autograd of a second implementation of the
op.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_examples import EXAMPLES, Example, N, example, real

from rnnc.ir.autodiff import backward
from rnnc.ir.builder import Builder
from rnnc.ir.domains.concrete import Concrete, resolve
from rnnc.ir.evaluate import evaluate
from rnnc.ir.ops import OPS

NUMBERS = ("real", "complex")


def differentiable(e: Example) -> bool:
    return OPS[e.op].vjp is not None and e.cell.nodes[e.node].type.dtype in NUMBERS


SMOOTH = [e for e in EXAMPLES if differentiable(e)]


def leaves(e: Example) -> dict[str, int]:
    return {leaf.name: leaf.node for leaf in (*e.cell.inputs, *e.cell.params)}


def gradient_of(e: Example, arrays: dict[str, Any], g: Any) -> dict[str, Any]:
    """Gradients of re(sum(conj(g) y)), those of static leaves summed over the batch."""
    names = leaves(e)
    wanted = [n for n in names.values() if e.cell.nodes[n].type.dtype in NUMBERS]
    rule = backward(e.cell, [e.node], wanted)
    given = {node: arrays[name] for name, node in names.items()}
    found = evaluate(rule.cell, Concrete(rule.cell, e.dims, {**given, rule.seeds[e.node]: g}))
    out = {}
    for name, node in names.items():
        if node in wanted:
            grad = found[rule.grads[node]]
            assert rule.cell.nodes[rule.grads[node]].type == e.cell.nodes[node].type
            grad = np.broadcast_to(grad, np.broadcast_shapes(grad.shape, arrays[name].shape))
            out[name] = grad.sum(axis=0) if grad.ndim > arrays[name].ndim else grad
    return out


def value_of(e: Example, arrays: dict[str, Any]) -> Any:
    given = {node: arrays[name] for name, node in leaves(e).items()}
    return evaluate(e.cell, Concrete(e.cell, e.dims, given))[e.node]


def random_like(rng: np.random.Generator, x: Any) -> Any:
    z = rng.normal(size=x.shape)
    return z + 1j * rng.normal(size=x.shape) if np.iscomplexobj(x) else z


@pytest.mark.parametrize("e", SMOOTH, ids=str)
def test_derivative_matches_finite_differences(e: Example) -> None:
    """Along a random direction v of every argument, dL = re(sum(conj(gradient) v)); L = re(sum(conj(g) y))."""
    rng = np.random.default_rng(5)
    arrays = e.sample(rng, (2,))
    g = random_like(rng, value_of(e, arrays))
    found = gradient_of(e, arrays, g)
    assert found.keys() == {name for name, node in leaves(e).items() if e.cell.nodes[node].type.dtype in NUMBERS}
    for name, grad in found.items():
        assert grad.shape == arrays[name].shape
        v, h = random_like(rng, arrays[name]), 1e-6
        up = value_of(e, arrays | {name: arrays[name] + h * v})
        down = value_of(e, arrays | {name: arrays[name] - h * v})
        expect = np.real(np.sum(np.conj(g) * (up - down))) / (2 * h)
        np.testing.assert_allclose(np.real(np.sum(np.conj(grad) * v)), expect, rtol=2e-7, atol=2e-7)


# ---------------------------------------------------------------- torch

T = torch.Tensor


def _layout(kind: str) -> Callable[[T], T]:
    def one(x: T) -> T:
        n = x.shape[-1]
        match kind:
            case "diag":
                return torch.diag_embed(x)
            case "circulant":
                i = torch.arange(n)
                return x[..., (i[:, None] - i[None, :]) % n]
            case "companion":
                ones = torch.diag(torch.ones(n - 1, dtype=x.dtype), -1)[:, : n - 1]
                return torch.cat([ones.expand(*x.shape[:-1], n, n - 1), x[..., :, None]], -1)
            case _:
                rows = [
                    [x[..., i, :, :] if i == j else 0 * x[..., 0, :, :] for j in range(x.shape[-3])]
                    for i in range(x.shape[-3])
                ]
                return torch.cat([torch.cat(r, -1) for r in rows], -2)

    return one


def _layout_transpose(kind: str, shape: tuple[int, ...]) -> Callable[[T], T]:
    def one(x: T) -> T:
        match kind:
            case "diag":
                return x.diagonal(dim1=-2, dim2=-1)
            case "circulant":
                i = torch.arange(shape[0])
                return torch.stack([x[..., (i + k) % shape[0], i].sum(-1) for k in range(shape[0])], -1)
            case "companion":
                return x[..., :, -1]
            case _:
                b, n, _ = shape
                return torch.stack([x[..., k * n : (k + 1) * n, k * n : (k + 1) * n] for k in range(b)], -3)

    return one


def _rotation(theta: T) -> T:
    c, s = theta.cos(), theta.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _cayley(m: T) -> T:
    eye = torch.eye(m.shape[-1], dtype=m.dtype)
    return torch.linalg.inv(eye + m) @ (eye - m)


def _core(x: T, rank: int) -> tuple[int, ...]:
    return tuple(x.shape[: x.ndim - rank])


ELEMENTWISE: dict[str, Callable[..., T]] = {
    **{
        name: getattr(torch, name)
        for name in [
            "neg",
            "exp",
            "expm1",
            "log",
            "sqrt",
            "sin",
            "cos",
            "sign",
            "tanh",
            "erf",
            "relu",
            "sigmoid",
            "abs",
            "add",
            "sub",
            "mul",
            "div",
            "pow",
        ]
    },
    "conj": lambda z: torch.conj(z).resolve_conj(),
    "re": lambda z: z.real if z.is_complex() else z,
    "im": lambda z: z.imag if z.is_complex() else 0 * z,
    "gelu": F.gelu,
    "silu": F.silu,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
    "max": torch.maximum,
    "min": torch.minimum,
    "logaddexp": torch.logaddexp,
    "select": lambda c, x, y: torch.where(c, x, y.to(x.dtype)),
    "polar": lambda r, theta: torch.complex(r * theta.cos(), r * theta.sin()),
    "complex": lambda x, y: torch.complex(*torch.broadcast_tensors(x, y)),
}


def torch_of(e: Example) -> Callable[..., T]:
    """The op at this example as a function of torch tensors with one batch axis on the varying ones."""
    node = e.cell.nodes[e.node]
    a = {k: resolve(v, e.dims) for k, v in node.attrs}
    rank = e.args[0].type.rank
    shape = resolve(node.type.shape, e.dims)
    per = resolve(node.type.per, e.dims)
    batch = () if all(x.static for x in e.args) else (2,)
    match e.op:
        case "lift":
            inner = resolve((*e.args[0].type.per, *e.args[0].type.shape), e.dims)
            return lambda x: x.reshape(*batch, *(1 for _ in a["per"]), *inner).expand(*batch, *a["per"], *inner)
        case "merge" | "split_per":
            return lambda x: x * 1
        case "expand" | "reshape":
            return lambda x: x.reshape(*_core(x, rank), *shape)
        case "broadcast":
            return lambda x: (
                x.expand(*batch, *per, *shape) if x.ndim == 1 + len(per) + len(shape) else x[:, None].expand(2, *shape)
            )
        case "transpose":
            return lambda x: x.permute(*range(x.ndim - rank), *(x.ndim - rank + p for p in a["perm"]))
        case "slice":
            return lambda x: x.narrow(a["axis"], a["start"], a["stop"] - a["start"])
        case "concat":
            wide = torch.complex128 if node.type.dtype == "complex" else torch.float64
            return lambda *xs: torch.cat(
                [x.to(wide).expand(*batch, *x.shape[-len(shape) - len(per) :]) for x in xs], a["axis"]
            )
        case "einsum":
            i, o = a["spec"].split("->")
            l, r = i.split(",")
            wide = torch.complex128 if node.type.dtype == "complex" else torch.float64
            return lambda x, y: torch.einsum(f"...{l},...{r}->...{o}", x.to(wide), y.to(wide))
        case "sum" | "mean" | "amax" | "amin":
            return lambda x: getattr(torch, e.op)(x, dim=a["axes"])
        case "take":
            if e.args[1].type.per:
                return lambda table, t: torch.stack([table[h][t[:, h]] for h in range(table.shape[0])], 1)
            if e.args[0].static:
                return lambda table, t: table[t]
            return lambda table, t: table[torch.arange(2), t]
        case "layout":
            return _layout(a["kind"])
        case "layout_transpose":
            return _layout_transpose(a["kind"], shape)
        case "rotation_blocks":
            return _rotation
        case "expm":
            return torch.linalg.matrix_exp
        case "cayley":
            return _cayley
        case "solve":
            wide = torch.complex128 if node.type.dtype == "complex" else torch.float64
            return lambda m, x: torch.linalg.solve(m.to(wide), x.to(wide))
        case "softmax":
            return lambda x: torch.softmax(x, -1)
        case "layernorm":
            return lambda x: F.layer_norm(x, x.shape[-1:], eps=a["eps"])
        case "l2norm":
            return lambda x: x / ((x * x.conj()).real.sum(-1, keepdim=True) + a["eps"]).sqrt()
        case "rmsnorm":
            return lambda x: x / ((x * x.conj()).real.mean(-1, keepdim=True) + a["eps"]).sqrt()
        case _:
            return ELEMENTWISE[e.op]


@pytest.mark.parametrize("e", SMOOTH, ids=str)
def test_value_and_derivative_match_torch(e: Example) -> None:
    rng = np.random.default_rng(6)
    arrays = e.sample(rng, (2,))
    expect = value_of(e, arrays)
    g = random_like(rng, expect)
    tensors = {k: torch.tensor(v) for k, v in arrays.items()}
    for t in tensors.values():
        t.requires_grad_(t.is_floating_point() or t.is_complex())
    y = torch_of(e)(*tensors.values())
    np.testing.assert_allclose(y.detach().numpy(), expect, rtol=1e-12, atol=1e-13)
    y.backward(torch.tensor(g))
    for name, grad in gradient_of(e, arrays, g).items():
        theirs = tensors[name].grad
        np.testing.assert_allclose(grad, 0 if theirs is None else theirs.resolve_conj().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("op", ["max", "min", "amax", "amin", "relu", "abs", "sqrt", "l2norm", "pow"])
def test_points_of_choice_follow_torch(op: str) -> None:
    """Ties and kinks: the subgradient chosen is PyTorch's."""
    x = np.array([[0.0, 1.0, 1.0], [0.0, 0.0, -1.0]])
    y = np.array([[0.0, 1.0, 2.0], [1.0, -1.0, 2.0]])
    match op:
        case "max" | "min":
            e, arrays = example(op, real(N), real(N)), {"x0": x, "x1": y}
        case "pow":
            e, arrays = example(op, real(N), real(N)), {"x0": np.abs(x), "x1": np.abs(y)}
        case "amax" | "amin":
            e, arrays = example(op, real(N), axes=(-1,)), {"x0": x}
        case "l2norm":
            e, arrays = example(op, real(N), eps=N), {"x0": 0 * x}
        case _:
            e, arrays = example(op, real(N)), {"x0": np.abs(x) if op == "sqrt" else x}
    with np.errstate(all="ignore"):
        g = np.ones_like(value_of(e, arrays))
        found = gradient_of(e, arrays, g)
    tensors = {k: torch.tensor(v, requires_grad=True) for k, v in arrays.items()}
    torch_of(e)(*tensors.values()).sum().backward()
    for name, grad in found.items():
        np.testing.assert_allclose(grad, tensors[name].grad.numpy())


def test_integer_powers_and_shared_nodes() -> None:
    """x^3, x^2, x^1, x^0 with constant powers, at negative x and at 0."""
    b = Builder()
    e = example("add", real(N), real(N))
    x = b.leaf("input", "x", e.args[0].type)
    total = b.const(0)
    for n in range(4):
        total = b.map("add", total, b.map("pow", x, b.const(n)))
    cell = e.cell.__class__(name="P", nodes=tuple(b.nodes))
    rule = backward(cell, [total], [x])
    at = np.array([-1.5, 0.0, 2.0])
    values = evaluate(rule.cell, Concrete(rule.cell, {"n": 3}, {x: at, rule.seeds[total]: np.ones(3)}), [rule.grads[x]])
    np.testing.assert_allclose(values[rule.grads[x]], 1 + 2 * at + 3 * at**2)


def test_time_operations_must_be_unfolded_first() -> None:
    e = next(e for e in EXAMPLES if e.op == "conv")
    with pytest.raises(ValueError, match="unfold"):
        backward(e.cell, [e.node], [e.cell.inputs[0].node])
