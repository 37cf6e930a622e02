"""`rnnc check-certificate`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "check-certificate",
    epilog="Example: rnnc check-certificate deltanet.json",
)
@click.argument("certificate", metavar="CERT", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check_certificate_command(certificate: Path) -> int:
    """Replay a certificate with the independent checker.

    Exit 0: every claim in it is established; 1: a step fails (the first is printed), or it claims nothing; 2: no such
    file.
    """
    from rnnc.verify.checking import Reject, check

    try:
        lines = check(certificate.read_text(encoding="utf-8"))
    except (Reject, UnicodeDecodeError) as error:
        click.echo(f"rejected: {error}", err=True)
        return 1
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("nothing is claimed", err=True)
        return 1
    return 0
