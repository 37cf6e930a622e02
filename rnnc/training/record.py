"""What a run leaves behind: a JSON record and a plot."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rnnc
from rnnc.training.checkpoint import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from rnnc.training.loop import SeedResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One cell on one task, all seeds.  `identity` says what was trained, `parameters` counts the model's."""

    label: str
    task: str
    chance: float
    train_length: int
    identity: dict[str, Any]
    parameters: int
    results: tuple[SeedResult, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "rnnc": rnnc.__version__,
            "label": self.label,
            "task": self.task,
            "chance": self.chance,
            "train_length": self.train_length,
            "run": self.identity,
            "parameters": self.parameters,
            "environment": environment(),
            "seeds": [
                {
                    "seed": r.seed,
                    "steps": r.progress.step,
                    "seconds": round(r.progress.seconds, 3),
                    "diverged_at_step": r.diverged,
                    "curve": {
                        "columns": ["step", "length", "loss_nats", "accuracy"],
                        "rows": [list(row) for row in r.progress.curve],
                    },
                    "table": [asdict(row) for row in r.table],
                }
                for r in self.results
            ],
        }

    def write(self, path: Path) -> None:
        write_atomically(path, (json.dumps(plain(self.to_json()), indent=2, ensure_ascii=False) + "\n").encode())


def plain(value: Any) -> Any:
    """As JSON has it: exact quotients become text, non-finite numbers null."""
    match value:
        case dict():
            return {str(k): plain(v) for k, v in value.items()}
        case list() | tuple():
            return [plain(v) for v in value]
        case Fraction():
            return int(value) if value.denominator == 1 else str(value)
        case float():
            return value if value == value and abs(value) != float("inf") else None
        case Path():
            return str(value)
        case _:
            return value


def environment() -> dict[str, object]:
    """The machine and the versions that the numbers depend on."""
    import numpy
    import torch

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table_text(records: Sequence[Record]) -> str:
    """The length-generalisation table of one or several runs, one row a seed."""
    rows = [(r, result) for r in records for result in r.results]
    lengths = sorted({row.length for _, result in rows for row in result.table})
    labels = [f"{r.label}, seed {result.seed}" for r, result in rows]
    width = max(len("length"), *(len(label) for label in labels))
    lines = ["  ".join([f"{'length':{width}}", *(f"{length:>6}" for length in lengths)])]
    for label, (_, result) in zip(labels, rows):
        found = {row.length: row for row in result.table}
        cells = [f"{found[n].scaled:6.2f}" if n in found else " " * 6 for n in lengths]
        note = f"  (diverged at step {result.diverged})" if result.diverged else ""
        lines.append("  ".join([f"{label:{width}}", *cells]) + note)
    first = records[0]
    lines.append(
        f"scaled accuracy on the last quarter of each sequence: 1 is all right, 0 is chance ({first.chance:.3g}); "
        f"trained up to length {first.train_length}"
    )
    return "\n".join(lines)


_COLOURS = ("#2f6db3", "#c8553d", "#3c8d5a", "#8b5fa8", "#b58900")


def plot(records: Sequence[Record], path: Path) -> None:
    """Left: training accuracy; right: scaled accuracy against length.  One colour a run, one line a seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for record, colour in zip(records, _COLOURS * len(records)):
        for result in record.results:
            label = record.label if result is record.results[0] else None
            rows = result.progress.curve
            left.plot([r[0] for r in rows], _smooth([r[3] for r in rows]), color=colour, lw=1.3, label=label)
            right.plot(
                [r.length for r in result.table],
                [r.scaled for r in result.table],
                "o-",
                color=colour,
                lw=1.3,
                label=label,
            )
    first = records[0]
    _style(left, "step", "training accuracy", first.chance)
    _style(right, "test length", "scaled accuracy", 0.0)
    right.axvline(first.train_length, color="0.6", lw=0.8, ls="--")
    right.annotate(
        " trained up to here", (first.train_length, 0.5), color="0.4", fontsize=8, rotation=90, va="center", ha="right"
    )
    right.legend(frameon=False, fontsize=9)
    figure.suptitle(first.task)
    buffer = BytesIO()
    # no creation time or version in the file: equal runs write equal files
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_atomically(path, buffer.getvalue())


def _style(axes: Axes, x: str, y: str, chance: float) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(-0.08, 1.05)
    axes.axhline(chance, color="0.6", lw=0.8, ls=":")
    axes.spines[["top", "right"]].set_visible(False)


def _smooth(values: list[float], window: int = 5) -> list[float]:
    """A trailing mean, so that batches of different lengths make one line."""
    return [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
