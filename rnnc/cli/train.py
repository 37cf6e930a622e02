"""`rnnc train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option, spec_argument

if TYPE_CHECKING:
    from rnnc.spec import Spec
    from rnnc.training.record import Record
    from rnnc.training.session import Session


class Lengths(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """`40,80,160`."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        try:
            lengths = tuple(sorted({int(part) for part in str(value).split(",")}))
        except ValueError:
            self.fail(f"'{value}' is not a list of lengths such as 40,80,160", param, ctx)
        if lengths[0] < 1:
            self.fail("a length is at least 1", param, ctx)
        return lengths


POSITIVE = click.IntRange(min=1)


@click.command(
    "train",
    epilog="Example: rnnc train deltanet --set reach=2 --task parity --steps 300 --set heads=2 --set d=32 --width 32",
)
@spec_argument
@cell_option
@set_option
@click.option(
    "--task",
    required=True,
    help="parity, mod5, s3, a5, z2xs3, '(0 1 2), (0 1)', recall, copying, digits, text, or a `task` of the file.",
)
@click.option("--text", type=click.Path(path_type=Path), metavar="FILE", help="The file of the task text.")
@click.option("--steps", type=POSITIVE, default=1500, show_default=True)
@click.option("--batch", type=POSITIVE, default=64, show_default=True)
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), default=3e-3, show_default=True)
@click.option("--length", type=POSITIVE, default=40, show_default=True, help="The longest training sequence.")
@click.option("--test-lengths", type=Lengths(), default=None, help="Default: 1, 2, 4 and 6 times --length.")
@click.option(
    "--curriculum/--no-curriculum", default=True, show_default=True, help="Grow the length over the first half."
)
@click.option(
    "--width", type=POSITIVE, default=64, show_default=True, help="Size of the residual stream around the cell."
)
@click.option("--layers", type=POSITIVE, default=1, show_default=True, help="How often the cell is stacked.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="The first seed.")
@click.option("--seeds", type=POSITIVE, default=1, show_default=True, help="How many seeds, one after the other.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--dtype", type=click.Choice(["float32", "float64", "bfloat16"]), default="float32", show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Default: out/CELL-TASK.")
@click.option("--save-every", type=POSITIVE, default=200, show_default=True, help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint in --out; the result is that of one whole run.")
@click.pass_context
def train_command(
    ctx: click.Context, /, file: str, cell: str | None, hyper: Hyper, out: Path | None, resume: bool, **options: Any
) -> int:
    """Train a cell on a task, then test it at other lengths.

    A cell that reads `real[d]` is wrapped in a small model; a `model` that reads tokens is trained as it is.
    The settings of a `task` that the file declares stand in for options that are not given.
    Writes record.json, plot.png and checkpoints.
    """
    from rnnc.training.config import TrainConfig
    from rnnc.training.session import prepare

    spec = load_spec(file)
    name = options["task"]
    options |= declared_options(ctx, spec, name)
    options["train_length"] = options.pop("length")
    options["test_lengths"] = options.pop("test_lengths") or ()
    seeds = range(options["seed"], options["seed"] + options.pop("seeds"))
    config = TrainConfig(**options)
    session = prepare(spec, choose_cell(spec, cell), config, dict(hyper))
    folder = out or Path("out") / f"{session.cell.name}-{_as_file_name(name)}"
    if resume and not any(folder.glob("checkpoint*.safetensors")):
        click.echo(f"there is no checkpoint in {folder}/: starting at the first step", err=True)
    record = run_session(session, folder, tuple(seeds), resume)
    report(record, folder)
    return 0


def declared_options(ctx: click.Context, spec: Spec, name: str) -> dict[str, Any]:
    """What the spec's task of this name sets, apart from what the command line says."""
    given = {key for key in ctx.params if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE}
    found: dict[str, Any] = {}
    for key, value in (spec.task(name) or {}).items():
        match key:
            case "kind":
                found["task"] = value
            case "text" if key not in given:
                found[key] = Path(str(value))
            case "lr" if key not in given:
                found[key] = float(value)  # type: ignore[arg-type]  # a Fraction
            case _ if key not in given:
                found[key] = value
    return found


def run_session(session: Session, folder: Path, seeds: tuple[int, ...], resume: bool = False) -> Record:
    """Trains with a progress bar."""
    from rnnc.cli.progress import training_progress

    steps = session.config.steps * len(seeds)
    try:
        with training_progress(f"{session.label} on {session.task.name}", steps) as on_step:
            return session.run(folder, on_step, resume, seeds)
    except KeyboardInterrupt:
        click.echo(f"checkpoints are in {folder}/; the same command with --resume goes on", err=True)
        raise


def report(record: Record, folder: Path) -> None:
    """Prints the table, writes the record and the plot, and says where."""
    from rnnc.training.record import plot, table_text

    record.write(folder / "record.json")
    plot([record], folder / "plot.png")
    click.echo(table_text([record]))
    click.echo(f"{record.parameters} parameters; record.json, plot.png and checkpoints are in {folder}/")


def _as_file_name(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text).strip("_")
