"""Commands of a later version: they say so, and exit with 2."""

from __future__ import annotations

import click

from rnnc.diagnostics import Diagnostic, SpecError


def _later(name: str, help: str, instead: str) -> click.Command:
    def run(arguments: tuple[str, ...]) -> int:
        message = f"`rnnc {name}` comes in a later version"
        raise SpecError((Diagnostic(code="E0901", message=message, span=None, help=instead),))

    return click.Command(
        name,
        callback=run,
        help=help,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        context_settings={"ignore_unknown_options": True},
    )


realize_command = _later(
    "realize",
    "Write an exact program as the weights of a known layer.  Comes in a later version.",
    "`rnnc compile` runs the program as it stands",
)
