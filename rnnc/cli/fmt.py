"""`rnnc fmt`."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from rnnc.cli.console import print_diagnostics
from rnnc.diagnostics import SpecError


@click.command("fmt", epilog="Example: rnnc fmt --diff my_cell.rnn")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--check", is_flag=True, help="Change nothing; exit with 2 where a file would change.")
@click.option("--diff", is_flag=True, help="Change nothing; print what would change.")
def fmt_command(files: tuple[Path, ...], check: bool, diff: bool) -> int:
    """Format specs in place: comments stay, nothing but layout changes.  A file with syntax errors is left alone."""
    code = 0
    for path in files:
        try:
            before, after = _formatted(path)
        except SpecError as error:
            print_diagnostics(error.diagnostics, error.sources)
            code = 2
            continue
        if before == after:
            continue
        if diff:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), str(path), str(path), lineterm="")
            click.echo("\n".join(lines))
        if check:
            click.echo(f"would reformat {path}", err=True)
            code = 2
        elif not diff:
            path.write_text(after, encoding="utf-8", newline="\n")
            click.echo(f"reformatted {path}", err=True)
    return code


def _formatted(path: Path) -> tuple[str, str]:
    from rnnc.frontend.format import format_source

    try:
        before = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise click.ClickException(f"{path} is not UTF-8 text (byte {error.start})") from None
    return before, format_source(before, str(path))
