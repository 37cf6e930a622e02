"""Block sizes by measurement: a few configurations are timed once, and the fastest is remembered on disk.

What a cache entry belongs to is in its key: the kernels' content, the device, Triton's version, dtypes, and the sizes,
those of batch and time by powers of two only.  Entries are written beside their place and renamed into it, so processes
that tune at once do not disturb each other.  Candidates are compiled before any is timed, and one that spills or does
not fit the device is not timed.  An entry that is not this user's own, that is damaged, or that names a
configuration which is no candidate is measured anew: whatever stands in the cache, it chooses among candidates only.

    RNNC_TUNE    0: no measuring, the default configurations (which spill nowhere) are used
    RNNC_CACHE   where the cache is (see `rnnc.runtime.compiled`)
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch

from rnnc.runtime.compiled import cache_folder, own_path
from rnnc.runtime.gpu.compat import Built, built_by, interpreted, version
from rnnc.runtime.gpu.tuning import HELD, HELD_BY_THREAD, Config, current, power_of_two, programs_wanted

__all__ = ["TUNER", "Tuner", "bucket", "candidates", "content", "device_name"]

Timer = Callable[[Callable[[], object]], float]
C = TypeVar("C")  # a configuration: a frozen dataclass of numbers, `Config` or another kernel's own
FEW = 5  # configurations that are measured, the default among them
TIMES = 5  # runs of each, after one that does not count


def bucket(n: int) -> int:
    """Sizes of batch and time that share a configuration."""
    return power_of_two(max(1, n))


def device_seconds(run: Callable[[], object]) -> float:
    """The median over a few runs on the GPU, compiling not counted."""
    run()
    times = []
    for _ in range(TIMES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in "ab")
        begin.record()
        run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


@dataclass(slots=True)
class Tuner:
    """Chooses configurations.  `timer` says how many seconds a run takes, `built` what its kernels are compiled to (see
    `compat.built_by`); a test gives its own, and `always`.
    """

    timer: Timer = device_seconds
    built: Callable[[Callable[[], object]], list[Built]] = built_by
    folder: Callable[[], Path | None] = lambda: cache_folder("triton")
    always: bool = False
    known: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    @property
    def works(self) -> bool:
        """Whether there is anything to tune here."""
        if self.always:
            return True
        return os.environ.get("RNNC_TUNE") != "0" and not interpreted() and torch.cuda.is_available()

    def choose(self, key: tuple[Any, ...], options: Callable[[], Sequence[C]], run: Callable[[C], object]) -> C:
        """The configuration for a problem: remembered, or the fastest of `options`, whose first is the default.

        Where that is the only one, nothing is run: runs count (`Recurrence.report`).  One that spills or cannot be run
        (too much shared memory, say) is left out; the default has to run.  While a CUDA graph is captured nothing can
        be timed, and the default is taken where none is remembered.
        """
        found = self.known.get(key)
        return self._chosen(key, options(), run) if found is None else found

    def _chosen(self, key: tuple[Any, ...], options: Sequence[C], run: Callable[[C], object]) -> C:
        if len(options) == 1:
            return options[0]
        name = self.name(key)
        found = self.read(name, key, options)
        if found is None:
            if not self.always and torch.cuda.is_current_stream_capturing():
                return options[0]
            times = {c: self.timer(lambda c=c: run(c)) for c in self.sound(options, run)}  # type: ignore[misc]
            found = min(times, key=lambda c: times[c])
            self.write(name, key, found, times[found])
        self.known[key] = found
        return found

    def sound(self, options: Sequence[C], run: Callable[[C], object]) -> list[C]:
        """The default, and of the others those that the device can run and that spill nothing.

        What the default's kernels have in memory are arrays of library functions (sin, say): others may have as much.
        """
        arrays: dict[str, int] = {}
        for x in self.built(lambda: run(options[0])):
            arrays[x.kernel] = max(x.spilled, arrays.get(x.kernel, 0))

        def spares(c: C) -> bool:
            found = self._built(c, run)
            return found is not None and all(x.spilled <= arrays.get(x.kernel, 0) for x in found)

        return [options[0], *(c for c in options[1:] if spares(c))]

    def _built(self, config: C, run: Callable[[C], object]) -> list[Built] | None:
        """None where the device cannot run it."""
        from triton.runtime.errors import OutOfResources, PTXASError

        try:
            return self.built(lambda: run(config))
        except (OutOfResources, PTXASError):
            return None

    # ------------------------------------------------------------ on disk

    def name(self, key: tuple[Any, ...]) -> str:
        return hashlib.sha256(repr(key).encode()).hexdigest()

    def read(self, name: str, key: tuple[Any, ...], options: Sequence[C]) -> C | None:
        """A sound entry's configuration, if it is one of the options."""
        folder = self.folder()
        if folder is None:
            return None
        path = folder / f"{name}.json"
        try:
            if not own_path(path, stat.S_ISREG):
                return None
            entry = json.loads(path.read_text())
        except (OSError, ValueError):
            return None
        if not isinstance(entry, dict) or entry.get("key") != repr(key):
            return None
        return next((c for c in options if _values(c) == entry.get("config")), None)

    def write(self, name: str, key: tuple[Any, ...], config: Any, seconds: float) -> None:
        """A cache that cannot be written is none: it is a convenience."""
        folder = self.folder()
        if folder is None:
            return
        entry = {"key": repr(key), "config": asdict(config), "seconds": seconds}
        try:
            with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as file:
                json.dump(entry, file)
            os.replace(file.name, folder / f"{name}.json")
        except OSError:
            return


def _values(config: Any) -> dict[str, Any]:
    found: dict[str, Any] = asdict(config)
    return found


TUNER = Tuner()


def device_name() -> str:
    """The current device and Triton's version."""
    return _name_of(current())


@cache
def _name_of(index: int | None) -> str:
    if index is None:
        return f"none, triton {version()}"
    return f"{torch.cuda.get_device_name(index)} {torch.cuda.get_device_capability(index)}, triton {version()}"


@cache
def content() -> str:
    """Of all kernels that are written once and of what launches them: another version is measured anew."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


# ---------------------------------------------------------------- which are worth a measurement


def candidates(kind: str, default: Config, channels: int, tasks: int, entries: int) -> list[Config]:
    """The default and up to FEW - 1 of its neighbours, those for which a model of the time is least.

    `channels` are shared out among programs, `tasks` are the other axes' programs, `entries` the numbers a channel
    holds.  The steps of a tile stay: buffers have their shape.  The model: a step takes a fixed time and then as long
    as a thread has entries; warps beyond sixteen a multiprocessor wait for a place.
    """
    if kind == "newton":
        return [default]
    room = 32 * HELD_BY_THREAD * default.warps if kind == "scan" else HELD
    rows = default.steps if kind == "scan" else 1
    most = default.channels / default.warps  # channels a warp: with more, registers spill
    found = []
    for width in {default.channels // 2, default.channels, 2 * default.channels}:
        for warps in {max(1, default.warps // 2), default.warps, 2 * default.warps}:
            for stages in {default.stages, 1 if kind == "sequential" else 6 if entries == 1 else 3}:
                held = rows * width * entries
                fits = 32 * warps <= held <= 2 * room and width <= most * warps
                fits = fits and (kind == "sequential" or width * default.warps >= default.channels * warps)
                if 1 <= width <= power_of_two(channels) and fits:
                    backward = min(width, default.backward_channels) if default.backward_channels else 0
                    changes = {"channels": width, "warps": warps, "stages": stages, "backward_channels": backward}
                    found.append(replace(default, **changes))
    found = [c for c in dict.fromkeys(found) if c != default]

    def seconds(c: Config) -> float:
        programs = -(-channels // c.channels) * tasks
        waves = -(-programs * c.warps // (4 * programs_wanted()))
        return waves * (c.channels * entries / (32 * c.warps) + 4.0)

    return [default, *sorted(found, key=seconds)[: FEW - 1]]
