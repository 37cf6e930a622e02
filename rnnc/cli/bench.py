"""`rnnc bench`."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option

if TYPE_CHECKING:
    from rnnc.bench.calibrate import Measured
    from rnnc.bench.settings import OnRun
    from rnnc.plan.cost import Device

MOST = {"batch": 1 << 16, "steps": 1 << 20, "size": 1 << 16}  # of one number of a shape


class Shape(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """`4,1024,64`: batch, time, and values for the cell's dims in their order."""

    name = "B,T,D,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is not a list of sizes such as 4,1024,64", param, ctx)
        if len(sizes) < 2:
            self.fail(f"'{value}' has to give batch and time at least, such as 4,1024", param, ctx)
        limits = [MOST["batch"], MOST["steps"], *(MOST["size"] for _ in sizes[2:])]
        for size, most in zip(sizes, limits):
            if not 1 <= size <= most:
                self.fail(f"{size} is not between 1 and {most}", param, ctx)
        return sizes


class Seconds(click.FloatRange):
    """A time limit: NaN, which no comparison finds outside a range, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = super().convert(value, param, ctx)
        if found != found:
            self.fail(f"{value} is no number of seconds", param, ctx)
        return found


EXAMPLES = """\b
Example: rnnc bench mingru --shape 2,512,32 --rounds 3
\b
More:
  rnnc bench gru --shape 2,64,16 --rounds 2 --against eager-peers --plot gru.svg
  rnnc bench gated_deltanet --cell GatedDeltaOp --shape 1,128,2,16,16 --backend cpu --json
  rnnc bench --calibrate --rounds 3
"""


@click.command("bench", epilog=EXAMPLES)
@click.argument("file", metavar="[FILE]", required=False)
@cell_option
@set_option
@click.option("--shape", type=Shape(), default=(4, 1024), help="Default: 4,1024, and 64 for dims without a value.")
@click.option(
    "--threads", type=click.IntRange(1, 1024), default=None, help="PyTorch's threads. Default: as many as it takes."
)
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Interleaved rounds.")
@click.option("--seconds", type=Seconds(1, 86400), default=60.0, show_default=True, help="Time limit for all runs.")
@click.option("--backend", "backends", multiple=True, metavar="NAME", help="May be repeated. Default: torch and cpu.")
@click.option(
    "--against",
    type=click.Choice(["peers", "eager-peers"]),
    default=None,
    help="Also what PyTorch and transformers have that computes the same; peers: also compiled (up to a minute more).",
)
@click.option("--json", "as_json", is_flag=True, help="The record on stdout instead of the table.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT.svg|OUT.png")
@click.option("--calibrate", is_flag=True, help="Measure what the planner ranks by, once for this machine.")
def bench_command(file: str | None, calibrate: bool, **options: Any) -> int:
    """Measure a cell: all legal strategies, backends and the loop over steps, side by side.

    Every round runs each of them once; the table has medians with quartiles, the ratio to the loop and the part of what
    the machine allows, and behind it what each backend chose and what it expected.  With --calibrate and no FILE the
    planner's rates are measured and kept.
    """
    if calibrate:
        return _calibrate(options["rounds"], options["threads"], options["seconds"], file)
    if file is None:
        raise click.UsageError("a FILE is missing (or --calibrate)")
    return _bench(file, **options)


def _bench(
    file: str,
    *,
    cell: str | None,
    hyper: Hyper,
    shape: tuple[int, ...],
    as_json: bool,
    plot: Path | None,
    against: str | None,
    backends: tuple[str, ...],
    **settings: Any,
) -> int:
    if plot is not None and plot.suffix not in (".svg", ".png"):
        raise click.BadParameter(f"'{plot}' ends neither in .svg nor in .png", param_hint="--plot")
    if plot is not None:
        _writable(plot.parent)
    spec = load_spec(file)
    name = choose_cell(spec, cell)
    batch, steps, *sizes = shape
    dims = spec.lower(name, **hyper).dims
    if len(sizes) > len(dims):
        known = ", ".join(d.name for d in dims) or "none"
        raise click.BadParameter(
            f"{len(sizes)} sizes behind batch and time; the dims are: {known}", param_hint="--shape"
        )
    given: dict[str, Any] = {**{d.name: n for d, n in zip(dims, sizes)}, **hyper}
    from rnnc.bench.run import Settings, bench
    from rnnc.bench.show import plot as draw
    from rnnc.bench.show import table

    chosen = {**settings, **({"backends": backends} if backends else {}), "against": against}
    with _progress(f"bench {name or file}") as on_run:
        result = bench(spec, name, given, Settings(batch=batch, steps=steps, **chosen), on_run)
    click.echo(json.dumps(result.to_json(), indent=1) if as_json else table(result))
    if plot is not None:
        draw(result, plot)
        click.echo(f"wrote {plot}", err=True)
    return 1 if any("differ from" in why for _, why in result.left_out) else 0


def _calibrate(rounds: int, threads: int | None, seconds: float, file: str | None) -> int:
    if file is not None:
        raise click.UsageError("--calibrate measures cells of its own: leave out FILE")
    import time

    import torch

    from rnnc.bench.calibrate import devices, fitted, measured, regret, this_gpu
    from rnnc.plan.calibration import path, write

    where = path()
    if where is None:
        raise click.UsageError("RNNC_CALIBRATION is off: there is nowhere to keep what is measured")
    _writable(where.parent)
    if threads is not None:
        torch.set_num_threads(threads)
    used, there = torch.get_num_threads(), devices()
    rates: dict[str, dict[str, Device]] = {}
    for device in there:
        deadline = time.monotonic() + seconds / len(there)
        with _progress(f"calibrate {device}") as on_run:
            on_case = lambda k, n, title, say=on_run: say(title, k, n)  # noqa: E731
            found = measured(rounds, on_case=on_case, deadline=deadline, device=device)
        rates |= fitted(found, device)
        for m, chosen, ratio in regret(found, rates, threads=used, device=device):
            click.echo(_line(m, chosen, ratio))
    gpu = this_gpu(there[-1])
    where = write(rates, used, "" if gpu is None else gpu.name)
    click.echo(f"wrote {where}", err=True)
    return 0


def _writable(folder: Path) -> None:
    """OSError where nothing can be written there: to be said before anything is measured."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _line(m: Measured, chosen: str, ratio: float) -> str:
    times = "  ".join(f"{name} {1e3 * t:.3g} ms" for name, t in m.seconds.items())
    return f"{m.cell:10s} {list(m.shape)!s:18s} {chosen:12s} x{ratio:.2f} of the best   ({times})"


@contextmanager
def _progress(label: str) -> Iterator[OnRun]:
    """What is running: a bar on a terminal, a line for each stage and every tenth of it otherwise."""
    import sys

    if not sys.stderr.isatty():
        yield _lines(label)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(label, total=None)
        yield lambda name, done, total: bar.update(
            row, description=f"{label}: {name}", completed=done, total=total or None
        )


def _lines(label: str) -> OnRun:
    said: set[tuple[str, int]] = set()

    def say(name: str, done: int, total: int) -> None:
        stage = name.split(":")[0] if total == 0 or name.startswith(("forward", "compile")) else "running"
        part = 10 * done // total if total else 0
        if (stage, part) not in said:
            said.add((stage, part))
            click.echo(f"{label}: {stage}" + (f" {10 * part} %" if total else ""), err=True)

    return say
