"""The gated delta rule, chunkwise, against the PyTorch fallback that transformers runs on a CPU (Qwen3-Next)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import machine, measure, parser, report
from rnnc.runtime import MicroStep, Read, Update, matrix_scan


def rnnc(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """S <- exp(g) (I - beta k k^T) S + beta k v^T, read by q / sqrt(K)."""
    batch, _, heads, keys = q.shape
    state = q.new_zeros(batch, heads, keys, v.shape[-1])
    update = Update(u=beta.unsqueeze(-1) * k, v=v, b=k, c=-g.exp())
    (o,), _ = matrix_scan(state, [MicroStep(log_decay=g, updates=(update,))], [Read(q * keys**-0.5)])
    return o


def rnnc_separate(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
    """The same with the low-rank term and the write as two terms."""
    batch, _, heads, keys = q.shape
    state = q.new_zeros(batch, heads, keys, v.shape[-1])
    u = beta.unsqueeze(-1) * k
    step = MicroStep(log_decay=g, low_rank=((-g.exp().unsqueeze(-1) * u, k),), writes=((u, v),))
    (o,), _ = matrix_scan(state, [step], [Read(q * keys**-0.5)])
    return o


def main() -> None:
    p = parser(__doc__ or "", "gated_delta")
    p.add_argument("--shape", type=int, nargs=4, action="append", metavar=("B", "T", "HEADS", "K"), help="sizes; V = K")
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    def transformers(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        return torch_chunk_gated_delta_rule(q, k, v, g, beta, output_final_state=True)[0]  # type: ignore[no-any-return]

    before = machine()
    functions = {"transformers": transformers, "rnnc": rnnc, "rnnc, separate terms": rnnc_separate}
    rows = []
    for batch, steps, heads, keys in options.shape or ((2, 1024, 4, 64), (1, 4096, 4, 64), (2, 1000, 2, 128)):
        size = (batch, steps, heads)
        q, k, v = (torch.randn(*size, keys) for _ in range(3))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        arguments = [x.requires_grad_() for x in (q, k, v, -0.1 * torch.rand(size), torch.rand(size))]
        case = f"[{batch}, {steps}, {heads} heads, {keys}, {keys}]"
        rows.append(measure(case, functions, arguments, baseline="transformers", rounds=options.rounds))
    report(rows, options.output, before)


if __name__ == "__main__":
    main()
