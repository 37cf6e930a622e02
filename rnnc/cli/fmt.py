"""`rnnc fmt`."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from rnnc.cli.console import print_diagnostics
from rnnc.cli.options import STDIN, read_stdin
from rnnc.diagnostics import SpecError


@click.command("fmt", epilog="Example: rnnc fmt --diff my_cell.rnn")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Change nothing; exit with 2 where a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
def fmt_command(files: tuple[str, ...], check: bool, diff: bool) -> int:
    """Format specs in place: comments stay, nothing but layout changes.  A file with syntax errors is left alone.

    FILE is a path, or - for standard input, which is formatted to standard output.
    """
    code = 0
    for file in files:
        try:
            before, after = _formatted(file)
        except SpecError as error:
            print_diagnostics(error.diagnostics, error.sources)
            code = 2
            continue
        if file == STDIN and not check and not diff:
            click.echo(after, nl=False)
        elif before != after:
            if diff:
                lines = difflib.unified_diff(before.splitlines(), after.splitlines(), file, file, lineterm="")
                click.echo("\n".join(lines))
            if check:
                click.echo(f"would reformat {file}", err=True)
                code = 2
            elif not diff:
                Path(file).write_text(after, encoding="utf-8", newline="\n")
                click.echo(f"reformatted {file}", err=True)
    return code


def _formatted(file: str) -> tuple[str, str]:
    """The text as it is (its line ends included) and as it should be.  Raises SpecError."""
    from rnnc.frontend.format import format_source
    from rnnc.frontend.source import read_source

    text, problems = read_stdin() if file == STDIN else read_source(file)
    if text is None:
        raise SpecError(problems.sorted())
    before = text if file == STDIN else Path(file).read_bytes().decode("utf-8")
    return before, format_source(text, file)
