"""Causal attention of one step, in NumPy: the query of this step over the keys and values so far."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def _weights(q: Array, k: Array) -> Array:
    """softmax over the steps: q [B, *per, dk], k [B, n, *per, dk] -> [B, n, *per]."""
    scores = (q[:, None] * k).sum(-1) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def attend(q: Array, k: Array, v: Array) -> Array:
    """softmax(q kT / sqrt(dk)) v: v [B, n, *per, dv] -> [B, *per, dv]."""
    return (_weights(q, k)[..., None] * v).sum(axis=1)


def attend_backward(q: Array, k: Array, v: Array, g: Array) -> tuple[Array, Array, Array]:
    """Gradients of q, and of all keys and values, from that of the result, g [B, *per, dv]."""
    w = _weights(q, k)
    d_w = (g[:, None] * v).sum(-1)
    d_scores = w * (d_w - (w * d_w).sum(axis=1, keepdims=True)) / np.sqrt(q.shape[-1])
    d_q = (d_scores[..., None] * k).sum(axis=1)
    return d_q, d_scores[..., None] * q[:, None], w[..., None] * g[:, None]
