"""A recurrence with sizes: its configuration, the shapes of its buffers, and its launches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.arrange import is_complex, lead_of, near_inside
from rnnc.runtime.gpu.compat import LAUNCH
from rnnc.runtime.gpu.packed import rows_kept
from rnnc.runtime.gpu.tuning import Config, machine, parts_wanted, programs_wanted

if TYPE_CHECKING:
    from rnnc.runtime.gpu.recurrence import Recurrence

__all__ = ["Problem"]


@dataclass(frozen=True, kw_only=True)  # no slots: what is computed is kept, a call asks for it some twenty times
class Problem:
    """A recurrence with sizes: `batch` sequences of `steps` steps each or, packed, together; `itemsize` bytes
    a number of the sequences."""

    of: Recurrence
    batch: int
    steps: int
    packed: bool
    dims: tuple[int, ...]
    sizes: Mapping[str, int]
    chosen: Config | None = None
    itemsize: int = 2

    @cached_property
    def channels(self) -> int:
        return self.of.axes.size("d", self.sizes)

    @cached_property
    def heads(self) -> int:
        return self.of.axes.size("g", self.sizes)

    @cached_property
    def inner(self) -> tuple[int, ...]:
        return tuple(self.sizes[x] for x in self.of.axes.inner)

    @cached_property
    def config(self) -> Config:
        return (
            self.chosen or self.of.configs.get(()) or self.of.default_config(self.channels, self.inner, self.itemsize)
        )

    def tuned(
        self,
        role: str,
        dtypes: Sequence[torch.dtype],
        options: Callable[[], Sequence[Config]],
        run: Callable[[Problem], object],
    ) -> Problem:
        """The same problem with the fastest configuration of a role; `run` does all its work once."""
        if self.of.configs or not tuner.TUNER.works:
            return self
        sizes = (self.channels, self.heads, self.inner, tuner.bucket(self.batch), tuner.bucket(self.steps), self.packed)
        key = (self.of.key, tuner.content(), role, tuner.device_name(), *map(str, dtypes), *sizes)
        return replace(self, chosen=tuner.TUNER.choose(key, options, lambda c: run(replace(self, chosen=c))))

    def neighbours(self) -> list[Config]:
        """Configurations worth a measurement, the default first: the steps divided or not, registers as the assembler
        likes, and other blocks.
        """
        config = self.config
        programs = self.blocks("forward") * self.heads * self.batch * config.warps
        found = [config]
        if self.of.kind == "scan" and not self.packed:
            parts = min(-(-programs_wanted() // max(1, programs)), self.tiles // 4)
            found += [replace(config, splits=n) for n in (1, parts) if n > 0 and n != self.splits][:1]
        if config.registers and machine() != "amd" and self.of.kind != "newton":
            found.append(replace(config, registers=0))
        entries, tasks = prod(self.inner) * self.of.parts, self.heads * self.batch * self.splits
        others = tuner.candidates(self.of.kind, config, self.channels, tasks, entries)
        return [*found, *others[1:]][: tuner.FEW]

    def blocks(self, role: str) -> int:
        return triton.cdiv(self.channels, self.config.width(role))

    @cached_property
    def splits(self) -> int:
        """Into how many parts a scan divides the steps, each of at least four tiles."""
        if self.of.kind != "scan" or self.packed:
            return 1
        warps = self.blocks("forward") * self.heads * self.batch * self.config.warps
        wanted = self.config.splits or parts_wanted(warps)
        return max(1, min(wanted, self.tiles // (1 if self.config.splits else 4)))

    @property
    def span(self) -> int:
        """The steps of one split, whole tiles."""
        return triton.cdiv(self.tiles, self.splits) * self.config.steps

    @cached_property
    def tiles(self) -> int:
        return triton.cdiv(self.steps, self.config.steps)

    @property
    def kept(self) -> int:
        """Rows of kept states."""
        return rows_kept(self.batch, self.steps, self.config.steps, self.packed)

    @property
    def streams(self) -> tuple[int, int]:
        """The first axes of sequences."""
        return (1 if self.packed else self.batch, self.steps)

    def shape(self, descriptor: str, lead: Sequence[int] = (), parts: bool = False) -> list[int]:
        """Of a contiguous array as the kernels write it; with `parts`, one part a block where it has no axis d."""
        held = self.of.axes.held(descriptor)
        sizes = list(lead)
        if "g" in held:
            sizes.append(self.heads)
        if parts and self.of.axes.in_parts(descriptor):
            sizes.append(self.blocks("backward"))
        sizes += [self.of.axes.size(a, self.sizes) for a in held if a not in "btg"]
        return sizes + ([2] if is_complex(descriptor) else [])

    def arguments(self, inputs: Sequence[Tensor]) -> list[Any]:
        """Pointers of the inputs, and the strides of those that vary in time."""
        return [a for x, d in zip(inputs, self.of.inputs, strict=True) for a in self.argument(x, d)]

    def argument(self, x: Tensor, d: str) -> list[Any]:
        """Of one input, which is described by `d`."""
        if not lead_of(d):
            return [x.contiguous()]
        held = self.of.axes.held(d)
        grid = "g" in held and bool(set(self.of.axes.grid) & set(d))
        x = near_inside(x, sum(a not in "btgd" for a in held) + is_complex(d))
        return [x, *(s for a, s in zip(held, x.stride()) if a != "g" or grid)]

    def launch(self, role: str, arguments: Sequence[Any], accumulator: torch.dtype) -> None:
        """One of the kernels, with its arguments up to the sizes."""
        c = self.config
        kernel, dims = getattr(self.of, role), getattr(self.of, f"{role}_dims")
        sizes = [self.steps, *([self.heads] if self.of.axes.grid else []), self.channels]
        if self.of.timed:
            sizes += [self.splits, self.span]
        constants: dict[str, Any] = {"ACC": tl.float64 if accumulator == torch.float64 else tl.float32}
        constants |= {"PACKED": self.packed, "BD": c.width(role)}
        for name, size in zip("NMLRJ", self.inner):
            constants |= {name: size, f"B{name}": triton.next_power_of_2(size)}
        constants |= {"BT": c.steps, "STAGES": c.stages}
        grid = (self.blocks(role) * self.heads * self.batch * self.splits,)
        chosen = [self.dims[k] for k in dims]
        kernel[grid](*arguments, *chosen, *sizes, **constants, **c.launch(role, machine()), **LAUNCH)

    @property
    def lead(self) -> tuple[int, ...]:
        """The axes in front of what there is one of for each program: batch, and for a scan its splits."""
        return (self.batch, self.splits) if self.of.timed else (self.batch,)
