"""`rnnc compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnnc.cli.options import Hyper, HyperParameter, cell_option, choose_cell, load_spec, set_option
from rnnc.cli.reports import deliver, report_options

if TYPE_CHECKING:
    from rnnc.analysis.report import Report
    from rnnc.analysis.report_compare import Comparison

EXAMPLE = (
    "Example: rnnc compare deltanet gla; rnnc compare deltanet@reach=1 deltanet@reach=2; rnnc compare mine.rnn:A gru"
)


@click.command("compare", epilog=EXAMPLE)
@click.argument("specs", nargs=-1, required=True, metavar="A B...")
@cell_option
@set_option
@report_options
def compare_command(specs: tuple[str, ...], cell: str | None, hyper: Hyper, as_json: bool, html: Path | None) -> int:
    """Reports beside each other, differences marked.

    Each of A and B is FILE[:CELL][@NAME=VALUE,...]: a spec, its cell, and hyperparameters of this one alone; --cell and
    --set are for all of them.
    """
    from rnnc.analysis.report_compare import compare

    if len(specs) < 2:
        raise click.UsageError("give two specs or more")
    comparison = compare(specs, [_report(operand, cell, hyper) for operand in specs])
    deliver(comparison, comparison.print_to, as_json=as_json, html=html)
    if not as_json:
        click.echo(count_text(comparison))
    return 0


def _report(operand: str, cell: str | None, hyper: Hyper) -> Report:
    from rnnc.analysis.report import analyze

    file, own_cell, own = split(operand)
    spec = load_spec(file)
    return analyze(spec, choose_cell(spec, own_cell or cell), **{**hyper, **own})


def split(operand: str) -> tuple[str, str | None, Hyper]:
    """FILE[:CELL][@NAME=VALUE,...]; a path that exists is taken as it is."""
    if Path(operand).exists():
        return operand, None, {}
    rest, _, settings = operand.partition("@")
    file, colon, cell = rest.rpartition(":")
    if not colon or not cell.isidentifier():
        file, cell = rest, ""
    convert = HyperParameter().convert
    return file, cell or None, dict(convert(s, None, None) for s in settings.split(",") if s)


def count_text(comparison: Comparison) -> str:
    return f"{sum(row.differs for row in comparison.rows)} of {len(comparison.rows)} facts differ"
