"""`rnnc analyze`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option, spec_argument

if TYPE_CHECKING:
    from rnnc.analysis.report import Report


@click.command("analyze", epilog="Example: rnnc analyze deltanet --set d=64 --set reach=2")
@spec_argument
@cell_option
@set_option
@click.option("--json", "as_json", is_flag=True, help="The report as JSON on stdout.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT", help="Also write it as HTML.")
def analyze_command(file: str, cell: str | None, hyper: Hyper, as_json: bool, html: Path | None) -> int:
    """What a recurrence is: its groups of states, their transition, and the ways it can run, with reasons."""
    from rnnc.analysis.report import analyze

    spec = load_spec(file)
    report = analyze(spec, choose_cell(spec, cell), **hyper)
    if html is not None:
        write_page(html, report.to_html())
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        show(report)
    if html is not None:
        click.echo(f"wrote {html}", err=True)
    return 0


def show(report: Report) -> None:
    """With colours and the terminal's width on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        click.echo(report.to_text())
        return
    from rich.console import Console

    from rnnc.analysis.report_text import print_to

    print_to(Console(), report)


def write_page(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
