"""`rnnc compile`."""

from __future__ import annotations

from pathlib import Path

import click

from rnnc.backends import BACKENDS
from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option, spec_argument
from rnnc.plan import STRATEGIES

KNOWN_BACKENDS, KNOWN_STRATEGIES = ", ".join(BACKENDS), ", ".join(s.name for s in STRATEGIES)


@click.command("compile", epilog="Example: rnnc compile deltanet --set reach=2 -o deltanet.py")
@spec_argument
@cell_option
@set_option
@click.option("--backend", default="auto", show_default=True, metavar="NAME", help=f"auto, or one of {KNOWN_BACKENDS}.")
@click.option(
    "--strategy", metavar="NAME", help=f"Run the recurrence this way, not the best: one of {KNOWN_STRATEGIES}."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT.py",
    help="Default: stdout. OUT.c with --backend cpu: the C kernels alone.",
)
def compile_command(
    file: str, cell: str | None, hyper: Hyper, backend: str, strategy: str | None, output: Path | None
) -> int:
    """Write a cell as a readable nn.Module that needs torch and rnnc.runtime only."""
    from rnnc.compile import emit, emit_c

    spec = load_spec(file)
    name = choose_cell(spec, cell)
    if output is not None and output.suffix == ".c" and backend == "cpu":
        source = emit_c(spec, name, strategy=strategy, **hyper)
    else:
        source = emit(spec, name, backend=backend, strategy=strategy, **hyper)
    if output is None:
        click.echo(source, nl=False)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(source, encoding="utf-8")
        click.echo(f"wrote {output}", err=True)
    return 0
