"""Packed sequences of different lengths: `[1, L, ...]` with boundaries `cu_seqlens`, as in variable-length attention.

`cu_seqlens` holds N + 1 integers 0 = c_0 <= c_1 <= ... <= c_N = L; sequence i is the steps c_i .. c_{i+1} - 1 and may
be empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from rnnc.runtime.layout import state_dtype

__all__ = ["check_shapes", "no_steps", "packed_bounds", "run_packed"]

Layer = Callable[..., tuple[Any, dict[str, Tensor]]]
Path = tuple[str | int, ...]


def sequence_lengths(cu_seqlens: Tensor, total: int | None = None) -> list[int]:
    """The N lengths.  Raises ValueError when `cu_seqlens` is no list of boundaries, or does not end at `total`."""
    _check_form(cu_seqlens)
    bounds: list[int] = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise ValueError(f"cu_seqlens must start at 0, not at {bounds[0]}")
    lengths = [after - before for before, after in itertools.pairwise(bounds)]
    for i, n in enumerate(lengths):
        if n < 0:
            raise ValueError(f"cu_seqlens must not decrease: {bounds[i]} is followed by {bounds[i + 1]}")
    if total is not None and bounds[-1] != total:
        raise ValueError(f"cu_seqlens ends at {bounds[-1]}, but the packed sequence has {total} steps")
    return lengths


def _check_form(cu_seqlens: Tensor) -> None:
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 2:
        raise ValueError(
            f"cu_seqlens must be a vector of at least 2 boundaries, not of shape {tuple(cu_seqlens.shape)}"
        )
    if cu_seqlens.is_floating_point() or cu_seqlens.is_complex() or cu_seqlens.dtype == torch.bool:
        raise ValueError(f"cu_seqlens must hold integers, not {cu_seqlens.dtype}")


def packed_bounds(cu_seqlens: Tensor, x: Tensor, state: Mapping[str, Any] | None) -> Tensor:
    """The boundaries as kernels read them, int64 on the device of the packed sequence `x` [1, L, ...].

    Raises ValueError as `run_packed` does; but what lies on a GPU is compared there, so that nothing waits for it.
    """
    if x.shape[0] != 1:
        raise ValueError(f"a packed sequence has batch size 1, not {x.shape[0]}")
    _check_form(cu_seqlens)
    waits = cu_seqlens.is_cuda or torch.compiler.is_compiling()
    if not waits:
        sequence_lengths(cu_seqlens, x.shape[1])
    found = cu_seqlens.to(x.device, torch.int64)
    if waits:
        right = (found[0] == 0) & (found[-1] == x.shape[1]) & (found[1:] >= found[:-1]).all()
        torch._assert_async(right, "cu_seqlens must rise from 0 to the number of packed steps")
    _check_batch(_flat(state or {}), found.shape[0] - 1)
    return found


def check_shapes(
    inputs: Sequence[Tensor], ranks: Sequence[int], state: Mapping[str, Any], cu_seqlens: Tensor | None = None
) -> None:
    """Raises ValueError where the arguments of `forward` are no sequences, or not as many as there are states.

    PyTorch would broadcast them.  What is traced is not checked: sizes are symbols there.
    """
    if torch.compiler.is_compiling():
        return
    batch = inputs[0].shape[0]
    for x, rank in zip(inputs, ranks, strict=True):
        if x.ndim != rank:
            raise ValueError(
                f"an input of shape {tuple(x.shape)} has {x.ndim} axes: this layer takes {rank}, [batch, time, ...]"
            )
        if x.shape[0] != batch:
            raise ValueError(f"the inputs have batch sizes {batch} and {x.shape[0]}")
    if cu_seqlens is None:
        for path, value in _flat(state).items():
            if value.shape[0] != batch:
                name = ".".join(map(str, path))
                raise ValueError(f"state {name!r} has batch size {value.shape[0]}, and the inputs have {batch}")


def _check_batch(state: Mapping[Path, Tensor], sequences: int) -> None:
    for path, value in state.items():
        if value.shape[0] != sequences:
            name = ".".join(map(str, path))
            raise ValueError(f"state {name!r} has batch size {value.shape[0]}; cu_seqlens names {sequences} sequences")


def _places(lengths: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """For every packed step, its sequence and its step in that sequence."""
    n = torch.tensor(lengths, device=device)
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), n)
    step = torch.arange(int(n.sum()), device=device) - (n.cumsum(0) - n)[sequence]
    return sequence, step


def pad(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Packed `[1, L, ...]` -> `[N, T, ...]` with T the longest length, zeros behind shorter sequences."""
    if x.shape[0] != 1:
        raise ValueError(f"a packed sequence has batch size 1, not {x.shape[0]}")
    padded = x.new_zeros(len(lengths), max(lengths), *x.shape[2:])
    return padded.index_put(_places(lengths, x.device), x[0])


def pack(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """`[N, T, ...]` -> packed `[1, L, ...]`: the steps inside each length, one sequence after another."""
    return x[_places(lengths, x.device)].unsqueeze(0)


def reverse_each(x: Tensor, lengths: Sequence[int]) -> Tensor:
    """Packed `[1, L, ...]` with every sequence turned back to front in its own place."""
    n = torch.tensor(lengths, device=x.device)
    sequence, step = _places(lengths, x.device)
    start = (n.cumsum(0) - n)[sequence]
    return x[:, start + n[sequence] - 1 - step]


def run_packed(
    layer: Layer,
    inputs: Sequence[Tensor],
    state: Mapping[str, Tensor] | None,
    cu_seqlens: Tensor,
    *,
    reverse: bool = False,
) -> tuple[Any, dict[str, Tensor]]:
    """Run `layer(*inputs, state)` over packed sequences: outputs packed `[1, L, ...]`, states `[N, ...]` at each one's
    end.

    `layer` needs `initial_state(batch)` and knows nothing of lengths.  Sequences are padded to the longest and run
    together as far as the shortest goes; those that have ended drop out with their state, and the others run on from
    theirs.  So no step beyond an end is computed and every state is exact, at the cost of one call for each distinct
    length.
    """
    lengths = sequence_lengths(cu_seqlens, inputs[0].shape[1])
    if reverse:
        inputs = [reverse_each(x, lengths) for x in inputs]
    padded = [pad(x, lengths) for x in inputs]
    if state is None:
        state = _initial_state(layer, inputs, len(lengths))
    flat = _flat(state)
    _check_batch(flat, len(lengths))
    outputs, final = _run_ragged(lambda *args: _call(layer, state, *args), padded, flat, lengths)
    if reverse:
        outputs = [reverse_each(y, lengths) for y in outputs]
    return (outputs[0] if len(outputs) == 1 else tuple(outputs)), _nested(final, state)


def no_steps(layer: Any, inputs: Sequence[Tensor], state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """What `layer` gives for a sequence without a step: outputs `[B, 0, ...]` and the state as it was.

    The outputs' shapes and dtypes are those of one step on zeros.
    """
    with torch.no_grad():
        y, _ = layer.step(*(x.new_zeros(x.shape[0], *x.shape[2:]) for x in inputs), state)
    outputs = [y] if isinstance(y, Tensor) else y
    empty = [o.new_zeros(o.shape[0], 0, *o.shape[1:]) for o in outputs]
    return (empty[0] if isinstance(y, Tensor) else tuple(empty)), state


def _flat(state: Any, path: Path = ()) -> dict[Path, Tensor]:
    """The tensors of a state, which may hold the states of submodules, by their paths."""
    if isinstance(state, Tensor):
        return {path: state}
    entries = state.items() if isinstance(state, Mapping) else enumerate(state)
    return {p: x for key, value in entries for p, x in _flat(value, (*path, key)).items()}


def _nested(flat: Mapping[Path, Any], like: Any, path: Path = ()) -> Any:
    """The inverse of `_flat`, in the nesting of `like`."""
    if isinstance(like, Tensor):
        return flat[path]
    if isinstance(like, Mapping):
        return {key: _nested(flat, value, (*path, key)) for key, value in like.items()}
    return [_nested(flat, value, (*path, i)) for i, value in enumerate(like)]


def _call(layer: Layer, like: Any, *args: Any) -> tuple[Any, dict[Path, Tensor]]:
    """`layer` with its state by paths."""
    *inputs, flat = args
    y, after = layer(*inputs, _nested(flat, like))
    return y, _flat(after)


def _initial_state(layer: Any, inputs: Sequence[Tensor], batch: int) -> dict[str, Tensor]:
    """The layer's own initial state, in the dtype of its parameters or, where it has none, of its first floating
    input."""
    if next(layer.parameters(), None) is not None:
        return layer.initial_state(batch)
    dtype = next((state_dtype(x) for x in inputs if x.is_floating_point()), None)
    return layer.initial_state(batch, device=inputs[0].device, dtype=dtype)


def _run_ragged(
    layer: Callable[..., tuple[Any, dict[Path, Tensor]]],
    padded: Sequence[Tensor],
    state: dict[Path, Tensor],
    lengths: Sequence[int],
) -> tuple[list[Tensor], dict[Path, Any]]:
    """Run from each distinct length to the next; pack the outputs, collect the states in the sequences' order."""
    running = list(range(len(lengths)))
    ended: dict[int, dict[Path, Tensor]] = {i: {k: v[i] for k, v in state.items()} for i in running if lengths[i] == 0}
    pieces: list[list[Tensor]] = []  # of each stretch: its outputs [running, steps, ...]
    owners: list[tuple[list[int], int, int]] = []
    start = 0
    for stop in sorted({n for n in lengths if n > 0} or {0}):
        place = {i: at for at, i in enumerate(running)}
        still = [i for i in running if lengths[i] > start or stop == 0]
        kept = torch.tensor([place[i] for i in still], device=padded[0].device)
        rows = torch.tensor(still, device=padded[0].device)
        state = {k: v[kept] for k, v in state.items()}
        y, state = layer(*(x[rows, start:stop] for x in padded), state)
        pieces.append([y] if isinstance(y, Tensor) else list(y))
        owners.append((still, start, stop))
        running, start = still, stop
        ended |= {i: {k: v[j] for k, v in state.items()} for j, i in enumerate(still) if lengths[i] == stop}
    outputs = []
    for values in zip(*pieces, strict=True):
        full = values[0].new_zeros(len(lengths), max(lengths), *values[0].shape[2:])
        for value, (rows_of, begin, end) in zip(values, owners, strict=True):
            full[torch.tensor(rows_of, device=full.device), begin:end] = value
        outputs.append(pack(full, lengths))
    return outputs, {k: _stacked([ended[i][k] for i in range(len(lengths))]) for k in state}


def _stacked(rows: list[Tensor]) -> Tensor | None:
    """One state of all sequences; None where it has a length of its own in each (the keys and values attention has
    seen)."""
    return torch.stack(rows) if len({x.shape for x in rows}) == 1 else None
