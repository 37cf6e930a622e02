"""`rnnc check`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from rnnc.cli.console import diagnostic_json, plural, print_diagnostics
from rnnc.cli.options import find_spec
from rnnc.diagnostics import Diagnostic


def check_file(path: Path) -> tuple[tuple[Diagnostic, ...], dict[str, str], tuple[str, ...]]:
    """All diagnostics of one file in source order, the sources they point into, and the cells of the file."""
    from rnnc.spec import load

    spec = load(path)
    return spec.check().sorted(), spec.sources, tuple(spec.cells)


@click.command(
    "check", short_help="Parse and check specs.", epilog="Example: rnnc check deltanet gru my_cell.rnn --json"
)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--json", "as_json", is_flag=True, help="One JSON list on stdout instead of text.")
def check_command(files: tuple[str, ...], as_json: bool) -> int:
    """Parse and check specs; every error of every file, with a line and a column.

    Exits with 0 when all are right, 2 otherwise.
    """
    records = []
    failed = 0
    for file in files:
        path = Path(file)
        try:
            path = find_spec(file)
            diagnostics, sources, cells = check_file(path)
        except click.BadParameter as missing:
            if len(files) == 1 and not as_json:
                raise
            diagnostics, sources, cells = (Diagnostic(code="E0401", message=missing.message, span=None),), {}, ()
        wrong = any(d.severity == "error" for d in diagnostics)
        failed += wrong
        if as_json:
            found = [diagnostic_json(d) for d in diagnostics]
            records.append({"file": str(path), "ok": not wrong, "cells": list(cells), "diagnostics": found})
            continue
        print_diagnostics(diagnostics, sources)
        if not wrong:
            click.echo(f"{file}: ok ({', '.join(cells) or 'no cells'})")
        else:
            errors = sum(d.severity == "error" for d in diagnostics)
            click.echo(click.style(f"{file}: {plural(errors, 'error')}", fg="red"), err=True)
    if as_json:
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
    return 2 if failed else 0
