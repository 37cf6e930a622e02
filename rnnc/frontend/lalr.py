"""Runs the LALR(1) table of `grammar/rnn.lark` (built by lark, see grammar/build.py) over a statement's tokens.

The driver is iterative, so nesting costs no stack, and importing it costs no lark: that keeps a cold `rnnc check` fast.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rnnc.frontend.tokens import RESERVED, Token

Action = Callable[[list[Any], int, int], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """See `rnnc.grammar.build.build_table`."""

    literals: dict[str, str]
    starts: dict[str, list[int]]
    rules: list[tuple[str, str, int, tuple[int, ...], bool]]
    states: list[dict[str, int]]


@dataclass(frozen=True, slots=True)
class Unexpected:
    """The token at `index` (one past the last at the end) fits nowhere; `expected` are the terminals that would."""

    index: int
    expected: frozenset[str]


class _Spliced(list[Any]):
    """The children of a helper rule (`_name` or lark's own for `*`), spliced into the rule around it."""


@cache
def table() -> Table:
    """The table, read once: from the installed package `rnnc.grammar`, or from the source tree beside it."""
    data = json.loads(_table_path().read_text(encoding="utf-8"))
    rules = [(o, a, n, tuple(kept), unwrap) for o, a, n, kept, unwrap in data["rules"]]
    return Table(data["literals"], data["starts"], rules, data["states"])


def _table_path() -> Any:
    here = Path(__file__).resolve()
    for folder in (here.parents[1], here.parents[2]):  # installed, source tree: quicker than the import system's search
        if (path := folder / "grammar" / "table.json").is_file():
            return path
    from importlib.resources import files

    return files("rnnc.grammar") / "table.json"


def run(start: str, tokens: Sequence[Token], actions: Callable[[str], Action | None]) -> Any | Unexpected:
    """Parses `tokens` from the start symbol `start`.

    `actions(name)` gives what to call for a rule: `action(children, first, last)` with the indices of its first and
    last token (`last < first` for an empty rule).  A rule without an action gives the list of its children.
    """
    grammar = table()
    literals, states, rules = grammar.literals, grammar.states, grammar.rules
    state, accept = grammar.starts[start]
    stack, values, origins = [state], list[Any](), list[int]()
    count = len(tokens)
    index = 0
    while True:
        row = states[stack[-1]]
        step: int | None
        if index < count:
            token = tokens[index]
            kind = token.type
            if kind == "NAME" or kind == "LITERAL":
                literal = literals.get(token.word)
                step = row.get(literal) if literal is not None else None
                if step is None and kind == "NAME" and token.word not in RESERVED:
                    step = row.get("NAME")
            else:
                step = row.get(kind)
        else:
            step = row.get("$END")
        if step is None:
            return Unexpected(index, frozenset(name for name in row if not name[0].islower() and name[:2] != "__"))
        if step >= 0:
            stack.append(step)
            values.append(tokens[index])
            origins.append(index)
            index += 1
            continue
        origin, name, length, kept, unwrap = rules[-step - 1]
        first = origins[-length] if length else index
        if length:
            children = _children(values[-length:], kept)
            del stack[-length:], values[-length:], origins[-length:]
        else:
            children = []
        if unwrap and len(children) == 1:
            value = children[0]
        elif origin[0] == "_":
            value = _Spliced(children)
        else:
            action = actions(name)
            value = action(children, first, index - 1) if action is not None else children
        stack.append(states[stack[-1]][origin])
        values.append(value)
        origins.append(first)
        if index == count and stack[-1] == accept and len(stack) == 2:
            return value


def _children(values: list[Any], kept: tuple[int, ...]) -> list[Any]:
    children: list[Any] = []
    for i in kept:
        value = values[i]
        if isinstance(value, _Spliced):
            children.extend(value)
        else:
            children.append(value)
    return children
