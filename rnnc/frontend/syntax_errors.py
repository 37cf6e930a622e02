"""Says in the user's terms what was found and what was expected where a statement's tokens fit no rule."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from rnnc.frontend.lalr import Unexpected, table
from rnnc.frontend.outline import Statement
from rnnc.frontend.tokens import RESERVED, Token

_EXPRESSION = frozenset({"NUMBER", "LPAR", "LSQB", "FOLD"})
_NAMES = {"NAME": "a name", "STRING": "a string", "NUMBER": "a number", "$END": "the end of the statement"}
_OPERATORS = frozenset({"ADDOP", "MULOP", "COMPARE", "CIRCUMFLEX", "AND", "OR", "IF", "DOT", "LPAR", "LSQB"})

# how each claim is written, by its first word
CLAIM_FORMS = {
    "linear": "linear in S",
    "affine": "affine in S",
    "time_invariant": "time_invariant",
    "eigenvalues": "eigenvalues(A) in [-1, 1]` or `eigenvalues(A) real",
    "norm": "norm(A) <= 1",
    "stable": "stable",
    "contractive": "contractive in S",
    "parallel": "parallel by scan",
    "recognizes": "recognizes parity` or `recognizes mod(3)",
    "tracks": "tracks group S(3)",
}


def describe_unexpected(start: str, statement: Statement, found: Unexpected) -> tuple[str, Token, str]:
    """Message, place (a token, or the point after the last) and help."""
    tokens, block = statement.tokens, statement.block
    if found.index >= len(tokens) and block is not None and block.open.word == "{":
        where, what = block.open, "unexpected `{`"
    elif found.index >= len(tokens):
        last = tokens[-1]
        column = last.column + last.end - last.start
        where = Token("", "", last.end, last.end, last.line, column, False, 0)
        what = "this statement ends too early"
    else:
        where = tokens[found.index]
        what = f"unexpected `{_spelling(where)}`"
    expected = _expected(found.expected)
    message = f"{what}: {expected} is expected" if expected else what
    return message, where, (_claim_help(tokens, found) if start == "claim" else _help(tokens, found, start))


def _spelling(token: Token) -> str:
    match token.type:
        case "PRIMED":
            return f"{token.word}'"
        case "STRING":
            return f'"{token.word}"'
        case _:
            return token.word


def _expected(terminals: frozenset[str]) -> str:
    """The terminals as words; an empty string when the list would be too long to help."""
    if terminals >= _EXPRESSION:
        return "an expression"
    spelled = {name: f"`{literal}`" for literal, name in table().literals.items()}
    if "$END" in terminals:
        terminals -= {"RBRACE"}  # ends a statement, as `$END` does
    after_value = terminals & _OPERATORS
    kept = terminals - _OPERATORS if len(after_value) > 4 else terminals
    words = sorted({_NAMES.get(name, spelled.get(name, "")) for name in kept} - {""})
    if len(after_value) > 4:
        words.append("an operator")
    if not words or len(words) > 5:
        return ""
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _claim_help(tokens: Sequence[Token], found: Unexpected) -> str:
    """The form of the claim that is meant."""
    words = [t.word for t in tokens if t.word != "not"]
    suffix = next((t.word for t in reversed(tokens[: found.index]) if t.word in ("under", "with")), "")
    if suffix:
        return "for example `under finite_precision`" if suffix == "under" else "for example `with layers = 2`"
    if words and words[0] in CLAIM_FORMS and words[-1] != "not":
        return f"this claim is written `{CLAIM_FORMS[words[0]]}`"
    near = get_close_matches(words[0], CLAIM_FORMS, n=1, cutoff=0.6) if words else []
    near = near or [form for form in CLAIM_FORMS if words and form.startswith(words[0])]
    return f"did you mean `{near[0]}`?" if near else f"a claim begins with {', '.join(CLAIM_FORMS)}"


def _help(tokens: Sequence[Token], found: Unexpected, start: str) -> str:
    if found.index >= len(tokens):
        lacks = tokens and tokens[0].word == "state" and all(t.word != "=" for t in tokens)
        return "say what it is before the first step: `= 0`" if lacks else ""
    token = tokens[found.index]
    previous = tokens[found.index - 1] if found.index else None
    adjacent = previous is not None and previous.end == token.start
    if adjacent and previous is not None:
        pair = previous.word + token.word
        known = {"**": "a power is written `^`", "//": "there is no whole-number division; `/` divides"}
        if pair in known:
            return known[pair]
    if token.word == "if" and found.expected >= _EXPRESSION:
        return "a choice between values is written `a if c else b`"
    if token.word in RESERVED and "NAME" in found.expected and token.type == "NAME":
        return f"`{token.word}` is reserved and cannot be a name"
    if token.word == "=" and "COMPARE" in found.expected:
        return "equality is written `==`"
    if token.word == "<-":
        return "`<-` updates a state; for less than minus write `< -`"
    if token.word == ":" and start == "update":
        return "an update has no type; the state's declaration has it"
    ends_value = previous is not None and (previous.type in ("NUMBER", "NAME", "PRIMED") or previous.word in (")", "]"))
    if ends_value and token.type in ("NUMBER", "NAME", "PRIMED") and "MULOP" in found.expected:
        return "multiplication needs `*`; statements are separated by a new line or `;`"
    if token.type == "NAME":
        words = sorted(w for w, name in table().literals.items() if name in found.expected and w.isidentifier())
        near = get_close_matches(token.word, words, n=1, cutoff=0.6)
        if near:
            return f"did you mean `{near[0]}`?"
    if token.word.isidentifier() and "$END" in found.expected:
        return "statements are separated by a new line or `;`"
    if token.type == "STRING":
        return "strings are only file names and regular expressions"
    return ""
