"""`task NAME { kind = "parity"; length = 40 }`: what its settings may be, and their values for `rnnc train`."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import TypeAlias

from rnnc.diagnostics import Diagnostics
from rnnc.frontend import ast
from rnnc.frontend.scope import suggestion

SettingValue: TypeAlias = "str | int | bool | Fraction | tuple[int, ...]"


def _string(e: ast.Expr) -> str | None:
    return e.value if isinstance(e, ast.String) else None


def _whole(least: int) -> Callable[[ast.Expr], int | None]:
    def read(e: ast.Expr) -> int | None:
        fits = isinstance(e, ast.Number) and e.is_integer and e.value >= least
        return int(e.value) if fits and isinstance(e, ast.Number) else None

    return read


def _positive(e: ast.Expr) -> Fraction | None:
    return e.value if isinstance(e, ast.Number) and e.value > 0 else None


def _truth(e: ast.Expr) -> bool | None:
    return e.value if isinstance(e, ast.Bool) else None


def _lengths(e: ast.Expr) -> tuple[int, ...] | None:
    found = [_whole(1)(item) for item in e.items] if isinstance(e, ast.ListExpr) else [None]
    return None if None in found else tuple(n for n in found if n is not None)


# setting -> how its value is read (None: it does not fit), and what it should be
SETTINGS: dict[str, tuple[Callable[[ast.Expr], SettingValue | None], str]] = {
    "kind": (_string, 'the name of a task in quotes, such as "parity"'),
    "text": (_string, "the path of a file in quotes, relative to this one"),
    "lr": (_positive, "a positive number"),
    "seed": (_whole(0), "a whole number"),
    "curriculum": (_truth, "true or false"),
    "test_lengths": (_lengths, "a list such as [40, 80]"),
    **dict.fromkeys(
        ("steps", "batch", "length", "width", "layers", "seeds"), (_whole(1), "a whole number of at least 1")
    ),
}


def read_task(item: ast.TaskDecl, found: Diagnostics) -> dict[str, SettingValue]:
    """The settings of a task by name; what is wrong with them is reported and left out."""
    values: dict[str, SettingValue] = {}
    for setting in item.settings:
        if setting.name not in SETTINGS:
            hint = suggestion(setting.name, SETTINGS) or f"settings are {', '.join(SETTINGS)}"
            found.error("E0701", f"a task has no setting `{setting.name}`", setting.span, help=hint)
        elif setting.name in values:
            found.error("E0202", f"`{setting.name}` is set twice", setting.span)
        else:
            read, form = SETTINGS[setting.name]
            value = read(setting.value)
            if value is None:
                found.error("E0701", f"`{setting.name}` is {form}", setting.value.span)
            else:
                values[setting.name] = value
    if "kind" not in {s.name for s in item.settings}:
        found.error("E0701", f"the task `{item.name}` has no `kind`", item.span, help='for example `kind = "parity"`')
    return values
