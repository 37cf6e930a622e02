"""The JSON file of `benchmarks.gpu`: the machine, what is done and what is left; and its table."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_cases import SHAPES, Shape

PACKAGES = ("fla-core", "flash-linear-attention", "mamba-ssm", "accelerated-scan")


def machine(device: str) -> dict[str, Any]:
    """What numbers depend on; they are of one machine where all of this is the same."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": sys.version.split()[0]}
    if device == "cpu":
        return {"device": "none: the interpreter", **versions}
    of = torch.cuda.get_device_properties(0)
    return {
        "device": of.name,
        "capability": f"{of.major}.{of.minor}",
        "multiprocessors": of.multi_processor_count,
        "memory_gib": round(of.total_memory / 2**30),
        "cuda": torch.version.cuda or f"hip {torch.version.hip}",
        **versions,
        **_peers(),
    }


def _peers() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


@dataclass(slots=True)
class Report:
    """The JSON file: the machine, the errors of each cell and dtype, the shapes, and what is being done."""

    path: Path
    data: dict[str, Any]

    @classmethod
    def at(cls, path: Path, device: str, *, retry: bool = False) -> Report:
        """What the file says, if it is of this machine."""
        data: dict[str, Any] = {"machine": machine(device), "errors": {}, "shapes": []}
        if path.exists():
            before = json.loads(path.read_text())
            data = before if before.get("machine") == data["machine"] else data
        data.pop("running", None)
        if retry:
            data["shapes"] = [x for x in data["shapes"] if "failed" not in x]
            data["errors"] = {k: v for k, v in data["errors"].items() if not isinstance(v, str)}
        return cls(path, data)

    def write(self) -> None:
        self.data["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.data, indent=1) + "\n")

    def begin(self, what: str) -> None:
        """Say what is being done, for whoever finds this process dead."""
        self.data["running"] = what
        self.write()

    def end(self) -> None:
        self.data.pop("running", None)
        self.write()

    def verified(self, cell: str) -> bool:
        """Whether a cell was compared with the oracle, or that ended its process."""
        return any(title.split()[0] == cell for title in self.data["errors"])

    def left(self, cells: Sequence[str]) -> list[Shape]:
        """Shapes without an entry."""
        known = {x["shape"] for x in self.data["shapes"]}
        return [s for s in SHAPES if s.cell in cells and s.title not in known]


def line(found: Mapping[str, Any]) -> str:
    if "failed" in found:
        return f"FAILED {found['shape']}: {found['failed'][:200]}"
    forward, together = found["forward_s"]["triton"], found["forward_backward_s"]["triton"]
    ratios = ", ".join(
        f"{n} {r:.2f} / {found['ratio_to_forward_backward'][n]:.2f}" for n, r in found["ratio_to"].items()
    )
    of = f"of limit {found['of_limit']:.2f} / {found['of_limit_forward_backward']:.2f}"
    times = f"{1e6 * forward:9.0f} µs, with backward {1e6 * together:9.0f} µs, {of}"
    without = "".join(f"; {n} failed" for n in found["peers_failed"])
    return f"{found['shape']:44} {times}; ratio to {ratios}{without}"


def table(report: Mapping[str, Any]) -> str:
    """What was measured, for a page of the documentation."""
    rows = [
        "| shape | forward, µs | with backward, µs | of limit, forward / with backward"
        " | peer: times slower, forward / with backward |",
        "|---|---|---|---|---|",
    ]
    for x in report["shapes"]:
        if "failed" in x:
            rows.append(f"| {x['shape']} | failed: {x['failed'][:60]} | | | |")
            continue
        forward, together = x["forward_s"]["triton"], x["forward_backward_s"]["triton"]
        peers = ", ".join(f"{n} {r:.2f} / {x['ratio_to_forward_backward'][n]:.2f}" for n, r in x["ratio_to"].items())
        limits = f"{x['of_limit']:.2f} / {x['of_limit_forward_backward']:.2f}"
        rows.append(f"| {x['shape']} | {1e6 * forward:.0f} | {1e6 * together:.0f} | {limits} | {peers} |")
    said_of = ", ".join(f"{k} {v}" for k, v in report["machine"].items())
    return "\n".join([*rows, "", said_of])
