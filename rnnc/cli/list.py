"""`rnnc list`."""

from __future__ import annotations

import json
from importlib import resources

import click

from rnnc.cli.options import stdlib_names


def summary(text: str) -> str:
    """The first comment line of a spec: by convention it says what the architecture is."""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("#"):
            return stripped.lstrip("# ").rstrip()
        if stripped:
            break
    return ""


@click.command("list", epilog="Example: rnnc list; rnnc check deltanet")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout.")
def list_command(as_json: bool) -> int:
    """The specs of the standard library; each name can stand where a command takes a FILE."""
    folder = resources.files("rnnc.stdlib")
    rows = [(name, summary((folder / f"{name}.rnn").read_text(encoding="utf-8"))) for name in stdlib_names()]
    if as_json:
        click.echo(json.dumps([{"name": name, "summary": text} for name, text in rows], indent=2, ensure_ascii=False))
        return 0
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        click.echo(f"{name:{width}}  {text}".rstrip())
    return 0
