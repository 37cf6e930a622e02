"""`rnnc check-certificate`."""

from __future__ import annotations

from pathlib import Path

import click

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(
    "check-certificate",
    epilog="Example: rnnc check-certificate deltanet.json --spec deltanet.rnn",
)
@click.argument("certificate", metavar="CERT", type=FILE)
@click.option("--spec", type=FILE, metavar="FILE", help="Also make sure that the certificate is about this spec.")
def check_certificate_command(certificate: Path, spec: Path | None) -> int:
    """Establish the claims of a certificate again, with a small checker of its own.

    Exit 0: every claim in it is established; 1: a step fails (the first is printed), or it claims nothing; 2: no such
    file.
    """
    from rnnc.spec import load
    from rnnc.verify.checking import Reject, check
    from rnnc.verify.format import encode_spec

    try:
        files = None if spec is None else encode_spec(load(spec))
        lines = check(certificate.read_text(encoding="utf-8"), files)
    except (Reject, UnicodeDecodeError) as error:
        click.echo(f"rejected: {error}", err=True)
        return 1
    for line in lines:
        click.echo(line)
    if not lines:
        click.echo("nothing is claimed", err=True)
        return 1
    return 0
