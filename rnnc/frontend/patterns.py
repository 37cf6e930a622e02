"""The regular expressions of `language L over {...} = regex "..."`: their tokens, and whether they are well formed.

Letters, `|`, `*`, `+`, `?`, parentheses and classes `[ab]`; `()` is the empty word; white space means nothing.  When
all letters of the alphabet are single characters, each character stands for itself; otherwise letters are set apart by
white space or operators, as in `push (push | pop)* pop`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

MAX_TOKENS = 2_000
MAX_NESTING = 100

OPERATORS = "|*+?()[]"
PatternToken: TypeAlias = int | str  # the index of a letter, or one of `| * + ? ( )`


class PatternError(ValueError):
    """The expression is not well formed; the message says what is wrong with it."""


def read_pattern(text: str, alphabet: Sequence[str]) -> tuple[PatternToken, ...]:
    """The tokens of an expression, a class `[ab]` spelled out as `(a|b)`.  Raises PatternError."""
    pieces = _pieces(text, alphabet)
    unknown = sorted({p for p in pieces if p not in OPERATORS and p not in alphabet})
    if unknown:
        listed = ", ".join(f"`{p}`" for p in unknown)
        raise PatternError(f"{listed} in the expression is no letter")
    tokens = _without_classes(pieces, alphabet)
    if len(tokens) > MAX_TOKENS:
        raise PatternError(f"the expression has more than {MAX_TOKENS} letters and operators")
    _check(tokens)
    return tokens


def _pieces(text: str, alphabet: Sequence[str]) -> list[str]:
    operators = re.escape(OPERATORS)
    letter = rf"[^\s{operators}]" if all(len(a) == 1 for a in alphabet) else rf"[^\s{operators}]+"
    return re.findall(rf"[{operators}]|{letter}", text)


def _without_classes(pieces: list[str], alphabet: Sequence[str]) -> tuple[PatternToken, ...]:
    tokens: list[PatternToken] = []
    inside: list[PatternToken] | None = None
    for piece in pieces:
        if inside is not None:
            if piece == "]":
                if not inside:
                    raise PatternError("an empty class `[]` matches nothing")
                tokens += ["(", *inside[1:], ")"]
                inside = None
            elif piece in OPERATORS:
                raise PatternError(f"`{piece}` stands inside a class; a class lists letters, as in `[ab]`")
            else:
                inside += ["|", alphabet.index(piece)]
        elif piece == "[":
            inside = []
        elif piece == "]":
            raise PatternError("a `]` closes no class")
        else:
            tokens.append(piece if piece in OPERATORS else alphabet.index(piece))
    if inside is not None:
        raise PatternError("a class `[` is not closed")
    return tuple(tokens)


def _check(tokens: tuple[PatternToken, ...]) -> None:
    depth = 0
    before: PatternToken = "start"
    for token in tokens:
        nothing = before in ("start", "(", "|")  # nothing stands yet where an operand must
        match token:
            case "(":
                depth += 1
                if depth > MAX_NESTING:
                    raise PatternError(f"parentheses are nested more than {MAX_NESTING} deep")
            case ")":
                depth -= 1
                if depth < 0:
                    raise PatternError("a `)` closes nothing")
                if nothing and before != "(":
                    raise PatternError("an alternative is empty: write `()` for the empty word")
            case "|":
                if nothing:
                    raise PatternError("an alternative is empty: write `()` for the empty word")
            case "*" | "+" | "?":
                if nothing:
                    raise PatternError(f"there is nothing before `{token}` to repeat")
        before = token
    if depth:
        raise PatternError("a `(` is not closed")
    if before == "|":
        raise PatternError("an alternative is empty: write `()` for the empty word")
