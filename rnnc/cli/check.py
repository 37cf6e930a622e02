"""`rnnc check`."""

from __future__ import annotations

import json

import click

from rnnc.cli.console import diagnostic_json, plural, print_diagnostics
from rnnc.cli.options import open_spec
from rnnc.diagnostics import Diagnostic, SpecError


def check_file(file: str) -> tuple[str, tuple[Diagnostic, ...], dict[str, str], tuple[str, ...]]:
    """The path of a file, all its diagnostics in source order, the sources they point into, and its cells."""
    try:
        spec = open_spec(file)
    except SpecError as missing:
        return file, missing.diagnostics, missing.sources, ()
    return spec.file, spec.check().sorted(), spec.sources, spec.cells


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
        path, diagnostics, sources, cells = check_file(file)
        wrong = any(d.severity == "error" for d in diagnostics)
        failed += wrong
        if as_json:
            found = [diagnostic_json(d) for d in diagnostics]
            records.append({"file": path, "ok": not wrong, "cells": list(cells), "diagnostics": found})
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
