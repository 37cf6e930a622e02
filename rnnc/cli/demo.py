"""`rnnc demo`: one hyperparameter of DeltaNet decides whether it can track a parity, and the compiler says so first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rnnc.spec import Spec
    from rnnc.training.record import Record
    from rnnc.training.session import Session

REACHES = (1, 2)
CELL = "DeltaNet"
# Keys that depend on one token only (`width` of the short convolution): the sharpest form of the question.
HYPER: dict[str, Any] = {"heads": 4, "width": 1}
LEARNING_RATE = 4e-2


@click.command("demo", epilog="Example: rnnc demo --out out/demo")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("out/demo"),
    show_default=True,
    metavar="DIR",
)
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Training steps of each.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many runs of each.")
def demo_command(out: Path, steps: int, seeds: int) -> int:
    """Check, analyse, compile and train DeltaNet on parity, with eigenvalues in (0, 1) and in (-1, 1)."""
    import rnnc
    from rnnc.cli.options import load_spec
    from rnnc.training.record import plot, table_text

    started = time.perf_counter()
    _title("1. check")
    spec = load_spec("deltanet")
    click.echo(f"deltanet: ok ({', '.join(spec.cells)}), from {spec.file}")

    _title("2. analyse: what changes with the reach of the gate beta")
    _analyse(spec)

    _title("3. compile")
    for reach in REACHES:
        path = out / f"deltanet_reach{reach}.py"
        _emit(spec, reach, path)
        click.echo(f"reach {reach}: {len(path.read_text(encoding='utf-8').splitlines())} lines of PyTorch in {path}")

    _title("4. train both on parity: at every step, is the number of ones so far odd?")
    records = [_train(_prepare(spec, reach, steps), out / f"reach{reach}", seeds) for reach in REACHES]

    _title("5. length generalisation")
    click.echo(table_text(records))
    for record in records:
        click.echo(_verdict(record))
    for record, reach in zip(records, REACHES):
        record.write(out / f"reach{reach}" / "record.json")
    plot(records, out / "plot.png")

    _title("written")
    click.echo(f"{out}/plot.png                   the training curves and the table above")
    click.echo(f"{out}/deltanet_reach2.py         the emitted module: it needs torch and rnnc.runtime only")
    click.echo(f"{out}/reach2/record.json         everything measured; checkpoints beside it")
    click.echo(f"rnnc {rnnc.__version__}, {time.perf_counter() - started:.0f} s in all")
    return 0


def _title(text: str) -> None:
    click.echo(click.style(f"\n{text}", bold=True))


def _analyse(spec: Spec) -> None:
    from rnnc.analysis.report import analyze
    from rnnc.analysis.report_compare import compare
    from rnnc.cli.compare import count_text
    from rnnc.cli.reports import show

    reports = [analyze(spec, CELL, **{**HYPER, "reach": reach}) for reach in REACHES]
    comparison = compare([f"reach {reach}" for reach in REACHES], reports)
    show(comparison, comparison.print_to)
    click.echo(count_text(comparison))
    click.echo("(* differs; `rnnc analyze deltanet --set reach=2` gives the whole report)")


def _emit(spec: Spec, reach: int, path: Path) -> None:
    from rnnc.compile import emit
    from rnnc.training.checkpoint import write_atomically

    write_atomically(path, emit(spec, CELL, **{**HYPER, "reach": reach}).encode())


def _prepare(spec: Spec, reach: int, steps: int) -> Session:
    from rnnc.training.config import TrainConfig
    from rnnc.training.session import prepare

    config = TrainConfig(task="parity", steps=steps, lr=LEARNING_RATE, width=32)
    return prepare(spec, CELL, config, {**HYPER, "reach": reach}, label=f"reach {reach}")


def _train(session: Session, folder: Path, seeds: int) -> Record:
    from rnnc.cli.train import run_session

    return run_session(session, folder, tuple(range(seeds)))


def _verdict(record: Record) -> str:
    """One sentence that says what the numbers say, whatever they are."""
    rows = [result.table[-1] for result in record.results]
    times = rows[0].length // record.train_length
    solved = sum(row.scaled > 0.99 for row in rows)
    if solved:
        outcome = f"solves parity in {solved} of {len(rows)} runs"
    elif all(row.scaled < 0.1 for row in rows):
        outcome = f"is at chance in all of {len(rows)} runs"
    else:
        outcome = f"solves parity in part only in {len(rows)} runs"
    figures = ", ".join(f"{row.scaled:.2f}" for row in rows)
    return f"{record.label} {outcome}, at {times} times the training length (scaled accuracy {figures})"
