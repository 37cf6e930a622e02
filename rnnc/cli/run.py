"""`rnnc run`."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import click

from rnnc.cli.options import Hyper, cell_option, choose_cell, load_spec, set_option, spec_argument

if TYPE_CHECKING:
    from rnnc.exact import Number


class Sequence(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.5 on
    """`x=1,0,1/3`: one number a step; with vectors the steps are divided by `;`: `x=1,0;0,1`."""

    name = "name=values"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, list[Any]]:
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name.strip().isidentifier():
            self.fail(f"'{value}' is not of the form name=1,0,1", param, ctx)
        try:
            if ";" in text:
                rows: list[Any] = [[_number(x) for x in row.split(",")] for row in text.split(";") if row.strip()]
            else:
                rows = [_number(x) for x in text.split(",") if x.strip()]
        except (ValueError, ZeroDivisionError):
            self.fail(f"'{value}': a value is a number such as 1, 0.5, 1/3 or sqrt(2)", param, ctx)
        return name.strip(), rows


def _number(text: str) -> Any:
    from rnnc.exact import root

    text = text.strip()
    if text.startswith("sqrt(") and text.endswith(")"):
        return root(Fraction(text[5:-1]))
    return Fraction(text)


def shown(value: Any) -> str:
    """A number: exactly, where it is irrational with its float (z8 is exp(2 pi i / 8)); an array as nested brackets."""
    from rnnc.exact import to_float

    if getattr(value, "shape", ()):
        return "[" + ", ".join(shown(v) for v in value) + "]"
    if isinstance(value, (bool, int, Fraction)):
        return str(value)
    number: Number = value
    near = to_float(number)
    digits = f"{near:.12g}" if isinstance(near, float) else f"{near.real:.12g}{near.imag:+.12g}i"
    return f"{_as_root(number, near) or repr(number)} (about {digits})"


def _as_root(number: Number, near: float | complex) -> str:
    """`-sqrt(2)` for a real number whose square is rational; empty for another."""
    square = number * number
    if not isinstance(square, Fraction) or square < 0 or not isinstance(near, float):
        return ""
    return f"{'-' if near < 0 else ''}sqrt({square})"


@click.command("run", epilog="Example: rnnc run more_ones.rnn --cell MoreOnes --input x=1,0,1,1")
@spec_argument
@cell_option
@set_option
@click.option(
    "--input",
    "inputs",
    type=Sequence(),
    multiple=True,
    metavar="NAME=VALUES",
    help="The values of an input, one a step: x=1,0,1/3; of vectors x=1,0;0,1. May be repeated.",
)
@click.option("--steps", type=click.IntRange(min=1), help="How many steps, for a cell without inputs.")
def run_command(
    file: str, cell: str | None, hyper: Hyper, inputs: tuple[tuple[str, list[Any]], ...], steps: int | None
) -> int:
    """Run a cell without parameters exactly, in rationals and algebraic numbers: its outputs, one line a step."""
    from rnnc.programs import run_exact

    spec = load_spec(file)
    found = run_exact(spec, choose_cell(spec, cell), dict(inputs), steps=steps, sizes=hyper)
    count = max((len(v) for v in found.outputs.values()), default=0)
    for t in range(count):
        click.echo("  ".join(f"{name} = {shown(values[t])}" for name, values in found.outputs.items()))
    return 0
