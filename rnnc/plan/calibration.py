"""What this machine was measured to do: the rates of each strategy, kept in the user's cache folder.

`rnnc bench --calibrate` writes the file, the planner reads it.  It is used only if it is this user's, nobody else may
write it, and it is whole and of this version; otherwise it is left alone, with a note, and the defaults of `cost.py`
hold.  `RNNC_CALIBRATION` names another file, or is `off`.
"""

from __future__ import annotations

import json
import math
import os
import platform
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from rnnc.plan.cost import DEVICES, Device
from rnnc.plan.gpu import HOPPER, Gpu
from rnnc.plan.native import NATIVE_DEVICES

VERSION = 3
MOST_BYTES = 1 << 20
WORK = 7  # numbers of a work
MOST_KNOWN, MOST_LATE, MOST_THREADS = 1000, 20.0, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """`rates[device][strategy]`, measured with so many `threads`, those of "cuda" on the device called `gpu`; `note`
    says why there is none ("" where all is well or nothing was measured).
    """

    rates: Mapping[str, Mapping[str, Device]] = field(default_factory=dict)
    machine: str = ""
    note: str = ""
    threads: int = 1
    gpu: str = ""

    def of(self, device: str, strategy: str, gpu: Gpu | None = None) -> Device:
        """The rates of a strategy or of kernels: measured, or those of the device by default."""
        measured = self.rates.get(device, {}).get(strategy) if self.speaks_of(device, gpu) else None
        if measured is not None:
            return measured
        if device == "cuda" and (gpu is not None or strategy.startswith("triton")):
            return (gpu or HOPPER).rates(strategy)
        return NATIVE_DEVICES.get(strategy, DEVICES[device])

    def speaks_of(self, device: str, gpu: Gpu | None = None) -> bool:
        """Whether something was measured on the device; of a GPU, on this one (any, where none is named)."""
        return bool(self.rates.get(device)) and (device != "cuda" or gpu is None or gpu.name == self.gpu)

    @property
    def measured(self) -> bool:
        return bool(self.rates)


def this_machine() -> str:
    """What the numbers depend on: the processor and how many there are."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores"


def path() -> Path | None:
    """Where the file is; None where it is switched off."""
    named = os.environ.get("RNNC_CALIBRATION", "")
    if named == "off":
        return None
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(os.environ.get("RNNC_CACHE") or Path(base) / "rnnc") / "calibration.json"


def calibration() -> Calibration:
    """The measured rates, read again where the file has changed."""
    where = path()
    if where is None:
        return NOTHING
    try:
        found = where.lstat()
    except OSError:
        return NOTHING
    return _read(where, (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_mode))


NOTHING = Calibration()


@lru_cache(maxsize=8)
def _read(where: Path, changed: tuple[int, ...]) -> Calibration:
    """`changed` differs where the file does."""
    found = where.lstat()
    foreign = hasattr(os, "getuid") and found.st_uid != os.getuid()
    if not stat.S_ISREG(found.st_mode) or foreign or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return Calibration(note=f"{where} is ignored: it is not a file of this user alone")
    if found.st_size > MOST_BYTES:
        return Calibration(note=f"{where} is ignored: it is too large")
    try:
        return parsed(json.loads(where.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        return Calibration(note=f"{where} is ignored: {type(problem).__name__} while it was read; calibrate again")


def parsed(record: Mapping[str, object]) -> Calibration:
    """From what a file says.  Raises ValueError, TypeError or KeyError where it is no calibration."""
    if record["version"] != VERSION:
        return Calibration(note=f"the calibration is of version {record['version']}: calibrate again")
    machine = str(record["machine"])
    if machine != this_machine():
        return Calibration(note="the calibration is of another machine: calibrate again")
    threads = int(str(record["threads"]))
    if not 1 <= threads <= MOST_THREADS:
        raise ValueError(threads)
    gpu = str(record.get("gpu", ""))
    return Calibration(rates=rates_of(record["rates"]), machine=machine, threads=threads, gpu=gpu)


def rates_of(record: object) -> dict[str, dict[str, Device]]:
    """Nested mappings to rates: all positive numbers, or ValueError."""
    if not isinstance(record, Mapping):
        raise TypeError("rates are a mapping")
    found: dict[str, dict[str, Device]] = {}
    for device, strategies in record.items():
        if device not in DEVICES:
            raise ValueError(device)
        found[device] = {}
        for name, numbers in strategies.items():
            found[device][str(name)] = _rates(str(name), numbers)
    return found


def _rates(name: str, numbers: Mapping[str, object]) -> Device:
    prices = {k: float(str(v)) for k, v in numbers.items() if k not in ("name", "known")}
    pairs: Any = numbers.get("known", ())
    known = tuple((tuple(float(n) for n in work), float(late)) for work, late in pairs)
    rates = Device(name=name, **prices, known=known)
    whole = all(len(work) == WORK and all(n >= 0 for n in work) and abs(late) < MOST_LATE for work, late in known)
    if not whole or not all(math.isfinite(v) and v >= 0 for v in prices.values()) or len(known) > MOST_KNOWN:
        raise ValueError(name)
    return rates


def write(rates: Mapping[str, Mapping[str, Device]], threads: int = 1, gpu: str = "") -> Path:
    """Keep the rates for later runs, measured with so many threads, those of "cuda" on the device called `gpu`; the
    file appears when it is whole.

    Raises OSError where it cannot be written.
    """
    where = path()
    if where is None:
        raise OSError(0, "RNNC_CALIBRATION is off", "calibration.json")
    where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = {
        "version": VERSION,
        "machine": this_machine(),
        "threads": threads,
        "gpu": gpu,
        "rates": {d: {s: asdict(r) for s, r in found.items()} for d, found in rates.items()},
    }
    handle, name = tempfile.mkstemp(dir=where.parent, prefix="calibration-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(record, out, indent=1)
        os.replace(name, where)
    except BaseException:
        os.unlink(name)
        raise
    return where
