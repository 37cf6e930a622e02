"""What the commands that end in a report share: its options, and where it goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from rich.console import Console

F = TypeVar("F", bound=Callable[..., Any])


class Shown(Protocol):
    """A report, or several beside each other."""

    def to_json(self) -> Any: ...
    def to_html(self) -> str: ...
    def to_text(self) -> str: ...


def report_options(function: F) -> F:
    """`--json` and `--html OUT`."""
    html = click.option(
        "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="OUT", help="Also write it as HTML."
    )
    return click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")(html(function))


def deliver(found: Shown, print_to: Callable[[Console], None], *, as_json: bool, html: Path | None) -> None:
    """Writes the page, and prints the rest to stdout."""
    if html is not None:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(found.to_html(), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(found.to_json(), indent=2, ensure_ascii=False))
    else:
        show(found, print_to)
    if html is not None:
        click.echo(f"wrote {html}", err=True)


def show(found: Shown, print_to: Callable[[Console], None]) -> None:
    """With colours and the terminal's width on a terminal, as plain text elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console

        print_to(Console())
    else:
        click.echo(found.to_text())
