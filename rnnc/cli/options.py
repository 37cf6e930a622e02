"""Arguments and options that several commands share, and finding the spec that is meant."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from rnnc.diagnostics import Diagnostics
    from rnnc.spec import Spec

STDIN = "-"

Hyper = dict[str, int | bool | Fraction]
MAX_DIGITS = 200  # of a number on the command line, as in a spec
EXPONENT = re.compile(r"[eE][+-]?0*(\d*)$")
F = TypeVar("F", bound=Callable[..., Any])


class HyperParameter(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """`name=value`, the value an int, a real (kept exact: `0.5`, `1/3`), or `true` / `false`."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | bool | Fraction]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip().isidentifier():
            self.fail(f"'{value}' is not of the form name=value", param, ctx)
        return name.strip(), self._value(text.strip(), str(value), param, ctx)

    def _value(
        self, text: str, whole: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | bool | Fraction:
        if text in ("true", "false"):
            return text == "true"
        exponent = EXPONENT.search(text)
        if len(text) > MAX_DIGITS or (exponent is not None and len(exponent[1]) > 3):
            self.fail(f"'{whole[:40]}': a number has at most {MAX_DIGITS} digits and an exponent of three", param, ctx)
        try:
            return int(text)
        except ValueError:
            pass
        try:
            return Fraction(text)
        except (ValueError, ZeroDivisionError):
            self.fail(f"'{whole}': a value is a number, such as 2, 0.5 or 1/3, or true or false", param, ctx)


def _collect(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, int | bool | Fraction], ...]) -> Hyper:
    return dict(pairs)


def spec_argument(function: F) -> F:
    return click.argument("file", metavar="FILE")(function)


def cell_option(function: F) -> F:
    """`--cell NAME`, for the commands that ask `choose_cell`."""
    return click.option("--cell", metavar="NAME", help="Default: the file's model, else its first cell.")(function)


def set_option(function: F) -> F:
    option = click.option(
        "--set",
        "hyper",
        metavar="NAME=VALUE",
        type=HyperParameter(),
        multiple=True,
        callback=_collect,
        help="A hyperparameter or dim of the cell; may be repeated.",
    )
    return option(function)


def find_spec(file: str) -> Path:
    """The path that FILE means: itself, or a spec of the standard library of that name.

    Raises SpecError E0401, with the nearest name, where there is neither.
    """
    path = Path(file)
    if file and (path.exists() or path.is_symlink()):
        return path
    from rnnc.diagnostics import Diagnostic, SpecError
    from rnnc.stdlib import FOLDER

    known = {p.stem: p for p in FOLDER.glob("*.rnn")}
    if file in known:
        return known[file]
    close = get_close_matches(file.removesuffix(".rnn"), known, n=1, cutoff=0.7)
    message = f"there is no file `{file}`" if file else "the name of a spec is empty"
    hint = f"did you mean `{close[0]}` of the standard library?" if close else "`rnnc list` shows the standard library"
    raise SpecError((Diagnostic(code="E0401", message=message, span=None, help=hint),))


def open_spec(file: str) -> Spec:
    """The spec that FILE means, which may have errors; `-` is standard input.  Raises SpecError where there is none."""
    from rnnc.diagnostics import SpecError
    from rnnc.spec import load, parse

    if file != STDIN:
        return load(find_spec(file))
    text, problems = read_stdin()
    if text is None:
        raise SpecError(problems.sorted())
    return parse(text, "<stdin>", folder=".")


def read_stdin() -> tuple[str | None, Diagnostics]:
    """The spec on standard input, or None with what is wrong with its bytes."""
    from rnnc.frontend.source import MAX_BYTES, decode_source

    return decode_source(sys.stdin.buffer.read(MAX_BYTES), "<stdin>")


def choose_cell(spec: Spec, cell: str | None) -> str | None:
    """The cell that is meant: the one named, else the file's only model, else its first cell, with a word about it."""
    if cell is not None or len(spec.cells) < 2 or len(spec.models) == 1:
        return cell
    first, *others = spec.cells
    click.echo(f"using the first cell, {first} (--cell chooses; there is also {', '.join(others)})", err=True)
    return first


def load_spec(file: str) -> Spec:
    """The checked spec; raises SpecError with everything that is wrong in it."""
    from rnnc.diagnostics import SpecError

    spec = open_spec(file)
    found = spec.check()
    if found.has_errors:
        raise SpecError(found.sorted(), spec.sources)
    return spec
