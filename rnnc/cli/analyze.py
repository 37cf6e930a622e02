"""`rnnc analyze`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option, spec_argument


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
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(report.to_html(), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        click.echo(report.to_text())
    if html is not None:
        click.echo(f"wrote {html}", err=True)
    return 0
