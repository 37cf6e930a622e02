"""`rnnc verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rnnc.cli.options import Hyper, load_spec, set_option, spec_argument

if TYPE_CHECKING:
    from rnnc.spec import Spec


@click.command("verify", epilog="Example: rnnc verify deltanet --set reach=2")
@spec_argument
@click.option("--cell", metavar="NAME", help="Default: every cell of the file that claims something.")
@set_option
@click.option("--json", "as_json", is_flag=True, help="The verdicts as JSON on stdout.")
@click.option(
    "--certificate",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="OUT",
    help="Also write what `rnnc check-certificate` checks again.",
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Ask the claims of these weights (safetensors: a checkpoint of `rnnc train`, or a layer's state_dict).",
)
@click.option(
    "--letters",
    metavar="WHICH",
    help="With --weights: what the letters are, a tensor of the file (a row a letter), or a=0,b=1.",
)
def verify_command(
    file: str,
    cell: str | None,
    hyper: Hyper,
    as_json: bool,
    certificate: Path | None,
    weights: Path | None,
    letters: str | None,
) -> int:
    """Prove or refute the claims of a spec's expect blocks.

    Exit code: 0 when all are proved, 1 when some are refuted or unknown, 2 when the spec is wrong.
    """
    from rnnc.verify.engine import verify
    from rnnc.verify.text import print_to

    spec = load_spec(file)
    given: dict[str, Any] = dict(hyper)
    if weights is not None:
        return _of_weights(spec, cell, weights, letters, given, as_json, certificate)
    if letters is not None:
        raise click.UsageError("--letters says what the letters of --weights are: give both")
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


def _of_weights(
    spec: Spec,
    cell: str | None,
    weights: Path,
    letters: str | None,
    hyper: dict[str, Any],
    as_json: bool,
    certificate: Path | None,
) -> int:
    """The claims about one file of weights; exit codes as without it."""
    from rnnc.verify.weights import verify_weights

    if certificate is not None:
        raise click.UsageError("a certificate is about all weights: leave out --weights or --certificate")
    found = verify_weights(spec, cell, path=weights, letters=letters, **hyper)
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
        return 0 if found.ok else 1
    from rich.console import Console

    from rnnc.verify.text import print_to

    click.echo(f"{weights}\n{found.spectra_text()}")
    print_to(Console(soft_wrap=False), found)
    return 0 if found.ok else 1
