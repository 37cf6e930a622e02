"""Progress of a training run: a bar on a terminal, a line every tenth otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

OnStep = Callable[[int, int, float, float], None]


@contextmanager
def training_progress(label: str, steps: int) -> Iterator[OnStep]:
    """Gives the function that a training loop calls with (step, length, loss, accuracy)."""
    if not sys.stderr.isatty():
        yield _lines(label, steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        row = bar.add_task(label, total=steps, figures="")
        recent: list[float] = []

        def on_step(step: int, length: int, loss: float, accuracy: float) -> None:
            recent.append(accuracy)
            del recent[:-20]
            bar.update(row, completed=step, figures=f"loss {loss:.3f}  accuracy {sum(recent) / len(recent):.3f}")

        yield on_step


def _lines(label: str, steps: int) -> OnStep:
    recent: list[float] = []

    def on_step(step: int, length: int, loss: float, accuracy: float) -> None:
        recent.append(accuracy)
        del recent[:-20]
        if step % max(1, steps // 10) == 0 or step == steps:
            mean = sum(recent) / len(recent)
            click.echo(f"{label}: step {step}/{steps}  loss {loss:.3f}  accuracy {mean:.3f}", err=True)

    return on_step
