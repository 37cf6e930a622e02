"""`rnnc explain`."""

from __future__ import annotations

import click


@click.command("explain", epilog="Example: rnnc explain E0203")
@click.argument("code", required=False)
def explain_command(code: str | None) -> int:
    """A page on an error code, with a wrong and a right example; without a code, the list of all codes."""
    from rnnc.frontend.codes import CODES, UnknownCode, explain

    if code is None:
        for known in sorted(CODES):
            click.echo(f"{known}  {explain(known).splitlines()[0].lstrip('# ').removeprefix(known).lstrip(': ')}")
        return 0
    try:
        click.echo(explain(code))
    except UnknownCode as error:
        raise click.BadParameter(str(error), param_hint="CODE") from None
    return 0
