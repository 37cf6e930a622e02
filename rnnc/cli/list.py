"""`rnnc list`."""

from __future__ import annotations

import json

import click


@click.command("list", epilog="Example: rnnc list; rnnc check deltanet")
@click.option("--json", "as_json", is_flag=True, help="As JSON on stdout, with papers and update equations.")
def list_command(as_json: bool) -> int:
    """The specs of the standard library; each name can stand where a command takes a FILE."""
    from rnnc.stdlib import entries

    found = entries()
    if as_json:
        rows = [
            {
                "name": e.name,
                "cells": list(e.cells),
                "title": e.title,
                "paper": e.paper,
                "update": e.update,
                "path": str(e.path),
            }
            for e in found
        ]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return 0
    width = max((len(e.name) for e in found), default=0)
    for e in found:
        click.echo(f"{e.name:{width}}  {e.title}".rstrip())
    return 0
