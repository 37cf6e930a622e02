"""`rnnc analyze`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option, spec_argument
from rnnc.cli.reports import deliver, report_options


@click.command("analyze", epilog="Example: rnnc analyze deltanet --set d=64 --set reach=2")
@spec_argument
@cell_option
@set_option
@report_options
def analyze_command(file: str, cell: str | None, hyper: Hyper, as_json: bool, html: Path | None) -> int:
    """What a recurrence is: its groups of states, their transition, and the ways it can run, with reasons."""
    from rnnc.analysis.report import analyze
    from rnnc.analysis.report_text import print_to

    spec = load_spec(file)
    report = analyze(spec, choose_cell(spec, cell), **hyper)
    deliver(report, partial(print_to, report=report), as_json=as_json, html=html)
    return 0
