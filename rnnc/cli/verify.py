"""`rnnc verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from rnnc.cli.options import Hyper, cell_option, load_spec, set_option, spec_argument


@click.command("verify", epilog="Example: rnnc verify deltanet --set reach=2")
@spec_argument
@cell_option
@set_option
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON on stdout.")
@click.option(
    "--certificate",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT",
    help="Also write what `rnnc check-certificate` checks again.",
)
def verify_command(file: str, cell: str | None, hyper: Hyper, as_json: bool, certificate: Path | None) -> int:
    """Prove or refute the claims of a spec's expect blocks.

    Exit code: 0 when all are proved, 1 when some are refuted or unknown, 2 when the spec is wrong.
    """
    from rnnc.verify.engine import verify
    from rnnc.verify.text import print_to

    spec = load_spec(file)
    given: dict[str, Any] = dict(hyper)
    found = verify(spec, cell, **given)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        from rich.console import Console

        print_to(Console(soft_wrap=False), found)
    if certificate is not None:
        from rnnc.verify.certificate import write

        certificate.parent.mkdir(parents=True, exist_ok=True)
        write(certificate, found, spec)
        click.echo(f"wrote {certificate}", err=True)
    return 0 if found.ok else 1
