"""Which axes of a step a program of the grid holds, and how the arrays of a kernel are laid out.

Every label of a step plays one part:

tile    `d`: shared out among programs in blocks of BD; several labels that always stand side by side are one
grid    `g`: one index a program; several are one
inner   `n`, `m`, ...: held whole by every program, because something is summed over them, or because a state is read
        under one label and written under another

Where no label could be shared out, `d` has one entry that belongs to none: a program is a sequence (and an index g).

An array that a kernel reads or writes has the axes `[b, t, g, d, n, m]`, less those it has not (static arrays have no
b and t, states no t).  A sequence that lacks g is expanded to it by the caller (stride 0); one that lacks d is read by
all blocks alike, and its gradient comes out one part a block.

Where a step has products with learned matrices, a program holds the vectors whole (axis `n`) and some sequences of the
batch instead of channels: its tiles are [b, n], and there is no `d`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rnnc.backends.kernels.axes import Label
from rnnc.backends.kernels.program import Array, Program

INNER = "nmlrj"  # names of inner axes


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The parts that labels play.  `letter` names each label in the descriptors of arrays."""

    tile: tuple[Label, ...]
    grid: tuple[Label, ...]
    inner: tuple[Label, ...]
    turned: tuple[tuple[Label, Label], ...] = ()  # labels the largest state has not, each with one that is as long
    timed: bool = False  # whether tiles have a time axis in front
    rows: bool = False  # whether tiles hold sequences of the batch, and no channels

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of a tile: [t, n, ..., d] (a tile of steps), [d, n, ...] (one), or [b, n], where vectors of other
        lengths lie along n, too.

        Triton lays the last axes over the lanes of a warp and keeps the first ones in each thread: with channels last,
        a scan and a sum over n are loops in registers.
        """
        if self.rows:
            return ("b", "n")
        return ("t", *self.inner_names, "d") if self.timed else ("d", *self.inner_names)

    @property
    def inner_names(self) -> tuple[str, ...]:
        return tuple(INNER[: len(self.inner)])

    def held(self, labels: Iterable[Label | None]) -> tuple[str, ...]:
        """The axes, out of (g, d, n, ...), that an array or value with these labels has."""
        own = set(labels)
        found = ["g"] if own & set(self.grid) else []
        found += ["d"] if own & set(self.tile) else []
        return (*found, *(name for label, name in zip(self.inner, INNER) if label in own))

    @property
    def single(self) -> bool:
        """Whether d has one entry only, which every array has."""
        return not self.tile and not self.rows

    def axes_of(self, array: Array) -> tuple[str, ...]:
        """The axes of an array in memory."""
        held = self.held(array.axes)
        if not self.single:
            return held
        return ("g", "d", *held[1:]) if held[:1] == ("g",) else ("d", *held)

    def turn(self, read: Array, state: Array) -> tuple[int, ...] | None:
        """The permutation of a tile's axes that makes a state's tile its reading's; None where they are the same."""
        source = {
            self.position(*self.held([r])): self.position(*self.held([s]))
            for r, s in zip(read.axes, state.axes, strict=True)
            if r is not None and s is not None and r not in self.grid
        }
        rest = iter(p for p in range(len(self.axes)) if p not in source.values())
        found = tuple(source[p] if p in source else next(rest) for p in range(len(self.axes)))
        return None if found == tuple(range(len(self.axes))) else found

    def letters(self, array: Array) -> str:
        """The array's axes behind batch and time, in memory order: A, B, ... for labels, 1 for none."""
        return "".join("1" if a is None else chr(ord("A") + a) for a in array.axes)

    def shape(self, held: Iterable[str], time: bool = True) -> str:
        """A tile's shape: `[BT, BD, 1]` for a value that has t and d."""
        own = set(held)
        axes = self.axes
        if self.rows and own & set(self.inner_names):
            axes = ("b", *(n for n in self.inner_names if n in own))
        sizes = [f"B{a.upper()}" if (a in own and (a != "t" or time)) else "1" for a in axes]
        return f"[{', '.join(sizes)}]"

    def index(self, axis: str) -> str:
        """How a vector along an axis is indexed to stand along that axis of a tile; empty for tiles of one axis."""
        if len(self.axes) == 1:
            return ""
        if self.rows and axis != "b":
            axis = "n"
        return f"[{', '.join(':' if a == axis else 'None' for a in self.axes)}]"

    def position(self, axis: str) -> int:
        return 1 if self.rows and axis != "b" else self.axes.index(axis)


def find_layout(forward: Program, backward: Program, readings: Mapping[int, int]) -> Layout | None:
    """The parts of a step's labels; None where a program would hold too many.

    The tile gets the innermost parallel label, and those in front of it that stand in front of it in every array.
    `readings`: inputs that are a state under other labels; no such label is parallel.
    """
    turned = {
        r: s
        for k, n in readings.items()
        for r, s in zip(forward.inputs[k].axes, forward.states[n].axes, strict=True)
        if r != s and r is not None and s is not None
    }
    parallel = forward.parallel & backward.parallel - {*turned, *turned.values()}
    parallel -= {x for r in forward.results for x in r.over}  # outputs are never in parts
    order = [a for s in forward.states for a in s.axes if a is not None]
    order += [a for a in turned if a not in order]
    candidates = [a for a in dict.fromkeys(order) if a in parallel]
    arrays = [a.axes for a in (*forward.inputs, *forward.outputs, *forward.states)]
    tile = candidates[-1:]
    for label in reversed(candidates[:-1]):
        if not all(_beside(axes, label, tile[0]) for axes in arrays):
            break
        tile.insert(0, label)
    inner = tuple(a for a in dict.fromkeys(order) if a not in parallel)
    used = {x for v in (*forward.values, *backward.values) for x in v.labels}
    if len(inner) > len(INNER) or not used <= {*candidates, *inner}:
        return None
    for r in backward.results:  # an input without the tile's labels gets the sum over them
        if r.target == "d_input" and not set(tile) <= set(r.axes) and not set(tile) <= set(r.over):
            return None
    return Layout(
        tile=tuple(tile),
        grid=tuple(a for a in candidates if a not in tile),
        inner=inner,
        turned=_twins(turned, largest(forward.states)),
    )


def largest(states: Sequence[Array]) -> Array:
    """The first of the states with the most axes."""
    return max(states, key=lambda s: len([a for a in s.axes if a is not None]))


def _twins(turned: Mapping[Label, Label], state: Array) -> tuple[tuple[Label, Label], ...]:
    """Labels of readings, and those they are read from, with a label of `state` that is as long."""
    pairs = [*turned.items(), *((s, r) for r, s in turned.items())]
    found = {a: a for a in state.axes if a is not None}
    for _ in pairs:
        found |= {a: found[b] for a, b in pairs if b in found and a not in found}
    return tuple((a, b) for a, b in found.items() if a != b)


def find_rows(forward: Program, backward: Program, vectors: Sequence[tuple[Label | None, ...]]) -> Layout | None:
    """The parts of the labels of a step with products, whose vectors have the axes `vectors`; None where something
    else than the last of these is summed over, or where a value has two of them.
    """
    ends = {axes[-1] for axes in vectors}
    if not ends or None in ends:
        return None
    outer = (forward.parallel & backward.parallel) - ends
    outer |= {a for axes in vectors for a in axes[:-1] if a is not None}
    outer -= {x for r in (*forward.results, *backward.results) for x in r.over if r in forward.results}
    order = [a for s in forward.states for a in s.axes if a is not None]
    labels = [{*v.labels} for v in (*forward.values, *backward.values)]
    used = {x for own in labels for x in own}
    grid = tuple(a for a in dict.fromkeys(order) if a in outer)
    if not used <= {*ends, *grid} or any(len(own & ends) > 1 for own in labels):
        return None
    if any(not {a for a in axes[:-1] if a is not None} <= set(grid) for axes in vectors):
        return None
    if any(set(v.over) & set(grid) for v in (*forward.values, *backward.values)):
        return None  # programs, one for each index there, never meet
    inner = dict.fromkeys([*order, *(axes[-1] for axes in vectors)])
    return Layout(tile=(), grid=grid, inner=tuple(a for a in inner if a is not None and a in ends), rows=True)


def _beside(axes: tuple[Label | None, ...], left: Label, right: Label) -> bool:
    """Whether an array has both axes side by side, or neither."""
    if left in axes and right in axes:
        return axes.index(left) + 1 == axes.index(right)
    return left not in axes and right not in axes
