"""Cells against the modules of `transformers` (their plain PyTorch paths), in float32, weights copied over."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = pytest.mark.conformance

BATCH, TIME = 2, 75


@pytest.fixture(autouse=True, scope="module")
def _quiet_import() -> None:
    """Their import warns about its own dependencies, which is not what is tested here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("transformers")
        from transformers.models.mamba import modeling_mamba  # noqa: F401
        from transformers.models.mamba2 import modeling_mamba2  # noqa: F401
        from transformers.models.qwen3_next import modeling_qwen3_next  # noqa: F401
        from transformers.models.recurrent_gemma import modeling_recurrent_gemma  # noqa: F401


def shaken(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """A peer with every parameter moved by a random amount, so that none sits at a special value.

    Some parameters of these modules are left unset until a whole model is initialised; they are NaN here, whatever the
    memory held before, and start from zero.
    """
    torch.manual_seed(5)
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    try:
        module = make()
    finally:
        torch.use_deterministic_algorithms(False)
    for parameter in module.parameters():
        start = parameter.data if torch.isfinite(parameter.data).all() else 0
        parameter.data = start + 0.2 * torch.randn_like(parameter)
    return module


def test_mamba(stdlib_layer: Any, conform: Any) -> None:
    from transformers import MambaConfig
    from transformers.models.mamba.modeling_mamba import MambaMixer

    d, e, n, rank = 8, 16, 5, 3
    config = MambaConfig(
        hidden_size=d,
        intermediate_size=e,
        expand=2,
        state_size=n,
        time_step_rank=rank,
        conv_kernel=4,
        num_hidden_layers=1,
    )
    peer = shaken(lambda: MambaMixer(config, layer_idx=0))

    def weights(p: dict[str, Tensor]) -> dict[str, Tensor]:
        u, z = p["in_proj.weight"].split(e)
        low, b, c = p["x_proj.weight"].split([rank, n, n])
        return {
            "u_linear_weight": u,
            "u_conv_weight": p["conv1d.weight"][:, 0],
            "u_conv_bias": p["conv1d.bias"],
            "z_linear_weight": z,
            "low_linear_weight": low,
            "B_linear_weight": b,
            "C_linear_weight": c,
            "dt_linear_weight": p["dt_proj.weight"],
            "dt_bias": p["dt_proj.bias"],
            "A_log": p["A_log"],
            "D": p["D"],
            "y_linear_weight": p["out_proj.weight"],
        }

    conform(stdlib_layer("Mamba", d=d, e=e, n=n, rank=rank), peer, weights, (torch.randn(BATCH, TIME, d),), peer)


def test_mamba2(stdlib_layer: Any, conform: Any) -> None:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    d, heads, p_dim, n = 8, 4, 4, 6
    e = heads * p_dim
    config = Mamba2Config(
        hidden_size=d,
        expand=2,
        num_heads=heads,
        head_dim=p_dim,
        state_size=n,
        n_groups=1,
        conv_kernel=4,
        chunk_size=16,
        num_hidden_layers=1,
    )
    peer = shaken(lambda: Mamba2Mixer(config, layer_idx=0))

    def weights(p: dict[str, Tensor]) -> dict[str, Tensor]:
        z, u, b, c, dt = p["in_proj.weight"].split([e, e, n, n, heads])
        conv_u, conv_b, conv_c = p["conv1d.weight"][:, 0].split([e, n, n])
        bias_u, bias_b, bias_c = p["conv1d.bias"].split([e, n, n])
        return {
            "z_linear_weight": z,
            "u_linear_weight": u.reshape(heads, p_dim, d),
            "u_conv_weight": conv_u.reshape(heads, p_dim, 4),
            "u_conv_bias": bias_u.reshape(heads, p_dim),
            "B_linear_weight": b,
            "B_conv_weight": conv_b,
            "B_conv_bias": bias_b,
            "C_linear_weight": c,
            "C_conv_weight": conv_c,
            "C_conv_bias": bias_c,
            "dt_linear_weight": dt,
            "dt_bias": p["dt_bias"],
            "A_log": p["A_log"],
            "D": p["D"],
            "y_rmsnorm_weight": p["norm.weight"],
            "y_linear_weight": p["out_proj.weight"],
        }

    layer = stdlib_layer("Mamba2", d=d, heads=heads, p=p_dim, n=n)
    conform(layer, peer, weights, (torch.randn(BATCH, TIME, d),), peer)


def recurrent_gemma(heads: int, w: int, d: int) -> Any:
    from transformers import RecurrentGemmaConfig

    return RecurrentGemmaConfig(
        hidden_size=d,
        lru_width=heads * w,
        num_attention_heads=heads,
        conv1d_width=4,
        hidden_activation="gelu",
        num_hidden_layers=1,
        vocab_size=8,
    )


def gate_weights(p: dict[str, Tensor], prefix: str, heads: int, w: int) -> dict[str, Tensor]:
    """Their gates multiply from the right (x W), ours from the left (W x)."""
    return {
        "i_linear_weight": p[f"{prefix}input_gate_weight"].transpose(1, 2),
        "i_linear_bias": p[f"{prefix}input_gate_bias"],
        "r_linear_weight": p[f"{prefix}recurrent_gate_weight"].transpose(1, 2),
        "r_linear_bias": p[f"{prefix}recurrent_gate_bias"],
        "Lambda": p[f"{prefix}recurrent_param"].reshape(heads, w),
    }


# Positions count from 1: they take position 0 for the start of a document and leave the normaliser out there.
POSITIONS = torch.arange(1, TIME + 1).expand(BATCH, TIME)


def test_rglru(stdlib_layer: Any, conform: Any) -> None:
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRglru

    heads, w = 2, 4
    peer = shaken(lambda: RecurrentGemmaRglru(recurrent_gemma(heads, w, 8)))
    layer = stdlib_layer("RGLRU", heads=heads, w=w)
    u = torch.randn(BATCH, TIME, heads, w)
    conform(layer, peer, lambda p: gate_weights(p, "", heads, w), (u,), lambda u: peer(u.flatten(2), POSITIONS))


def test_hawk(stdlib_layer: Any, conform: Any) -> None:
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

    heads, w, d = 2, 4, 6
    peer = shaken(lambda: RecurrentGemmaRecurrentBlock(recurrent_gemma(heads, w, d), layer_idx=0))

    def weights(p: dict[str, Tensor]) -> dict[str, Tensor]:
        return gate_weights(p, "rg_lru.", heads, w) | {
            "u_linear_weight": p["linear_x.weight"].reshape(heads, w, d),
            "u_linear_bias": p["linear_x.bias"].reshape(heads, w),
            "u_conv_weight": p["conv_1d.weight"][:, 0].reshape(heads, w, 4),
            "u_conv_bias": p["conv_1d.bias"].reshape(heads, w),
            "gated_linear_weight": p["linear_y.weight"].reshape(heads, w, d),
            "gated_linear_bias": p["linear_y.bias"].reshape(heads, w),
            "y_linear_weight": p["linear_out.weight"],
            "y_linear_bias": p["linear_out.bias"],
        }

    layer = stdlib_layer("Hawk", d=d, heads=heads, w=w)
    run = lambda x: peer(x, POSITIONS, None, use_cache=False)[0]  # noqa: E731
    conform(layer, peer, weights, (torch.randn(BATCH, TIME, d),), run)


@pytest.mark.parametrize("form", ["chunk", "recurrent"])
def test_gated_delta_rule(form: str, stdlib_layer: Any, agree: Any) -> None:
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    theirs = getattr(qwen, f"torch_{form}_gated_delta_rule")
    torch.manual_seed(6)
    heads, k_dim, v_dim = 3, 4, 5
    q = torch.randn(BATCH, TIME, heads, k_dim)
    k = torch.nn.functional.normalize(torch.randn(BATCH, TIME, heads, k_dim), dim=-1)
    v = torch.randn(BATCH, TIME, heads, v_dim)
    g, beta = -torch.rand(BATCH, TIME, heads), torch.rand(BATCH, TIME, heads)
    start = torch.randn(BATCH, heads, k_dim, v_dim)
    values = (q, k, v, g, beta, start)
    a = [x.clone().requires_grad_() for x in values]
    b = [x.clone().requires_grad_() for x in values]
    op = stdlib_layer("GatedDeltaOp", heads=heads, dk=k_dim, dv=v_dim)
    o, state = op(a[0] * k_dim**-0.5, *a[1:5], state={"S": a[5]})
    o_peer, end = theirs(*b[:5], initial_state=b[5], output_final_state=True)
    do, ds = torch.randn_like(o), torch.randn_like(end)
    ((o * do).sum() + (state["S"] * ds).sum()).backward()
    ((o_peer * do).sum() + (end * ds).sum()).backward()
    agree(o, o_peer, 1e-5, "output")
    agree(state["S"], end, 1e-5, "final state")
    for name, x, y in zip(["q", "k", "v", "g", "beta", "start"], a, b, strict=True):
        agree(x.grad, y.grad, 1e-5, f"gradient of {name}")


def test_gated_deltanet_block(stdlib_layer: Any, conform: Any) -> None:
    from transformers import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    d, heads, k_dim, v_dim = 8, 2, 4, 6
    config = Qwen3NextConfig(
        hidden_size=d,
        linear_num_key_heads=heads,
        linear_num_value_heads=heads,
        linear_key_head_dim=k_dim,
        linear_value_head_dim=v_dim,
        linear_conv_kernel_dim=4,
        num_hidden_layers=1,
        vocab_size=8,
    )
    peer = shaken(lambda: Qwen3NextGatedDeltaNet(config, layer_idx=0))

    def weights(p: dict[str, Tensor]) -> dict[str, Tensor]:
        q, k, v, z = p["in_proj_qkvz.weight"].reshape(heads, -1, d).split([k_dim, k_dim, v_dim, v_dim], dim=1)
        b, a = p["in_proj_ba.weight"].reshape(heads, 2, d).unbind(1)
        cq, ck, cv = p["conv1d.weight"][:, 0].split([heads * k_dim, heads * k_dim, heads * v_dim])
        return {
            "q_linear_weight": q,
            "k_linear_weight": k,
            "v_linear_weight": v,
            "z_linear_weight": z,
            "q_conv_weight": cq.reshape(heads, k_dim, 4),
            "k_conv_weight": ck.reshape(heads, k_dim, 4),
            "v_conv_weight": cv.reshape(heads, v_dim, 4),
            "beta_linear_weight": b,
            "alpha_linear_weight": a,
            "A_log": p["A_log"],
            "dt_bias": p["dt_bias"],
            "scale": p["norm.weight"],
            "y_linear_weight": p["out_proj.weight"],
        }

    layer = stdlib_layer("GatedDeltaNet", d=d, heads=heads, dk=k_dim, dv=v_dim)
    conform(layer, peer, weights, (torch.randn(BATCH, TIME, d),), peer)
