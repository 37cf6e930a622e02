"""Cases of triton_interpreted.py: what is no number stays one, in the very places where PyTorch's layer has it.

The larger of NaN and a number is, on a GPU, the number: a diverged run would go on with a relu's zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

import rnnc
from rnnc.compile import load_source
from rnnc.runtime.chunk import MicroStep, Read, Update
from rnnc.runtime.gpu import matrix

UPDATES = {  # of h by a and c
    "relu": "relu(a) * 0.5 + 0.25 * h",
    "softplus": "softplus(a) + 0.25 * h",
    "gates": "sigmoid(a) * h + tanh(c)",
    "max and min": "0.5 * h + max(a, c) - min(a, 2 * c)",
    "logaddexp": "0.5 * h + logaddexp(a, c)",
    "amax": "tanh(a + max(h + a) - min(c - h))",
    "max_plus": "max(h + a, c)",
    "min_plus": "min(h + a, c)",
    "log_plus": "logaddexp(h + a, c)",
    "loop": "tanh(relu(h) + max(a, c))",
}


def _places(x: torch.Tensor) -> list[list[int]]:
    return torch.isnan(x).nonzero().tolist()


def _cell(update: str, strategy: str | None = None) -> None:
    from rnnc.backends.triton.backend import emit

    text = f"cell Own(n: dim) {{\ninput a: real[n]\ninput c: real[n]\nstate h: real[n] = 0\nh <- {update}\n"
    spec = rnnc.parse(text + "output y: real[n] = h'\n}")
    ours = load_source(emit(spec.lower(), dims=None, strategy=strategy, sources=spec.sources), "Own").Own(n=5)
    plain = rnnc.compile(spec, backend="torch", strategy=strategy)(n=5)
    for which in range(2 if " c" in update or ", c" in update else 1):
        xs = [torch.randn(2, 9, 5) for _ in range(2)]
        xs[which][1, 6, 2] = torch.nan
        (y, final), (want, last) = ours(*xs), plain(*xs)
        assert _places(want), "the layer lets nothing through"
        assert _places(y) == _places(want), (_places(y), _places(want))
        assert _places(final["h"]) == _places(last["h"])


def _matrix(kind: str) -> None:
    """A decay, or a value, that is no number, in the second of two chunks."""
    for at in ("g", "v"):
        k, v = torch.nn.functional.normalize(torch.randn(1, 21, 2, 3), dim=-1), torch.randn(1, 21, 2, 4)
        g, start = -torch.rand(1, 21, 2, *((3,) if "keys" in kind else ())), torch.randn(1, 2, 3, 4)
        (g if at == "g" else v)[0, 18, 1] = torch.nan
        write = {"updates": (Update(k, v, k, -1, s=0.5),)} if "delta" in kind else {"writes": ((k, v),)}
        (y,), last = matrix.matrix_scan(start, [MicroStep(log_decay=g, **write)], [Read(k)])
        assert not _places(y[:, :16]), "of the chunk before"
        assert not _places(y[:, :, :1]), "of another head"
        assert torch.isnan(y[0, 18:, 1]).all(), f"{at}: {_places(y)}"
        assert torch.isnan(last[0, 1]).all()


CASES: dict[str, Callable[[], None]] = {
    f"no number, {name}": partial(_cell, update, "sequential" if name == "loop" else None)
    for name, update in UPDATES.items()
} | {
    f"no number, {kind}": partial(_matrix, kind)
    for kind in ("decays", "decays of keys", "delta rule", "delta rule, decays of keys")
}
