"""Text -> tokens, with exact positions; comments are kept aside for the formatter."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from rnnc.diagnostics import Diagnostics, Span

MAX_CHARACTERS = 1_000_000
MAX_TOKENS = 200_000
MAX_DIGITS = 200
MAX_EXPONENT = 300

# Words that are never names; all other keywords are keywords only where the grammar expects them.
RESERVED = frozenset({"if", "else", "and", "or", "not", "in", "true", "false"})


@dataclass(slots=True)
class Token:
    """`type`: a terminal of the grammar, `_NL`, `ERROR` (text that is no token) or `EOF`; `word` is its text, in NFKC.

    `first`: it is the first token of its line; `indent`: the width of the white space that line begins with.
    """

    type: str
    word: str
    start: int
    end: int
    line: int
    column: int
    first: bool
    indent: int


@dataclass(frozen=True, slots=True)
class Comment:
    """`# text` at `start` (an offset into the text); `alone` when nothing stands before it on its line."""

    text: str
    start: int
    line: int
    alone: bool


_LETTER = "A-Za-z_\u00b5\u0370-\u0373\u0376-\u037d\u037f-\u0386\u0388-\u03ff\u1f00-\u1fff"
_PATTERN = re.compile(
    rf"""(?P<SPACE>[ \t\r\f\v]+)
    |(?P<NL>\n)
    |(?P<COMMENT>\#[^\n]*)
    |(?P<WORD>[{_LETTER}][{_LETTER}0-9]*'?(?!['\w]))
    |(?P<NUMBER>[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?(?![{_LETTER}0-9]|\.[0-9]))
    |(?P<STRING>"(?:[^"\\\n]|\\[^\n])*")
    |(?P<OP><-|->|\.\.|<=|>=|==|!=|[-+*/@^<>=()\[\]{{}},:;.])
    |(?P<BAD_NUMBER>[0-9](?:\.(?=[0-9])|\w)*)
    |(?P<BAD_WORD>\w+'*)
    |(?P<BAD_STRING>"[^\n]*)
    |(?P<BAD>.)""",
    re.VERBOSE,
)
_OPERATORS = {
    "+": "ADDOP",
    "-": "ADDOP",
    "*": "MULOP",
    "/": "MULOP",
    "@": "MULOP",
    **dict.fromkeys(("<", "<=", ">", ">=", "==", "!="), "COMPARE"),
}
_HELP = {
    "%": "there is no remainder operator",
    "&": "logical and is written `and`",
    "|": "logical or is written `or`; a norm is `sqrt(sum(x^2))`",
    "!": "logical not is written `not`",
    "'": "a prime follows a state's name directly: `S'`; strings are written with double quotes",
    "`": "strings are written with double quotes",
    "\\": "a line that ends in an operator or inside brackets goes on without `\\`",
    "~": "logical not is written `not`",
    "?": "a choice is written `a if c else b`",
    "∈": "write `in`",
    "←": "write `<-`",
    "→": "write `->`",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "≠": "write `!=`",
    "×": "write `*`",
    "·": "write `*` or `@`",
    "−": "this is U+2212; write the ASCII `-`",
    "ᵀ": "a transpose is written `M.T`",
}


class Lexer:
    """One pass over one text; `tokens` ends in `EOF`."""

    def __init__(self, text: str, file: str, diagnostics: Diagnostics) -> None:
        self.text, self.file, self.diagnostics = text, file, diagnostics
        self.tokens: list[Token] = []
        self.comments: list[Comment] = []
        self.line, self.line_start, self.indent, self.first = 1, 0, 0, True

    def run(self) -> None:
        """Fills `tokens` and `comments`."""
        text, position = self.text, 0
        if text.startswith("\ufeff"):
            position = self.line_start = 1
        while position < len(text):
            match = _PATTERN.match(text, position)
            assert match is not None, "the pattern matches any character"
            kind, position = match.lastgroup, match.end()
            if kind == "SPACE":
                if self.first:
                    self.indent = len(match.group().expandtabs(4))
            elif kind == "COMMENT":
                self.comments.append(Comment(match.group().rstrip(), match.start(), self.line, self.first))
            elif kind == "NL":
                self._emit("_NL", "\n", match)
                self.line, self.line_start, self.indent, self.first = self.line + 1, position, 0, True
            else:
                self._token(kind or "", match)
            if len(self.tokens) > MAX_TOKENS:
                self._error("E0311", f"the file has more than {MAX_TOKENS} tokens", self.tokens[-1])
                break
        end = len(text)
        self.tokens.append(Token("_NL", "\n", end, end, self.line, end - self.line_start + 1, False, 0))
        self.tokens.append(Token("EOF", "", end, end, self.line, end - self.line_start + 1, True, 0))

    def _emit(self, kind: str, word: str, match: re.Match[str]) -> Token:
        start = match.start()
        token = Token(kind, word, start, match.end(), self.line, start - self.line_start + 1, self.first, self.indent)
        self.tokens.append(token)
        self.first = False
        return token

    def _token(self, kind: str, match: re.Match[str]) -> None:
        word = match.group()
        match kind:
            case "OP":
                self._emit(_OPERATORS.get(word, "LITERAL"), word, match)
            case "WORD" if word.endswith("'"):
                self._emit("PRIMED", unicodedata.normalize("NFKC", word[:-1]), match)
            case "WORD":
                self._emit("NAME", word if word.isascii() else unicodedata.normalize("NFKC", word), match)
            case "NUMBER":
                token = self._emit("NUMBER", word, match)
                self._check_number(token)
            case "STRING":
                self._emit("STRING", re.sub(r"\\(.)", lambda m: '"' if m[1] == '"' else m[0], word[1:-1]), match)
            case _:
                self._bad(kind, word, match)

    def _check_number(self, token: Token) -> None:
        mantissa, _, exponent = token.word.lower().partition("e")
        if len(mantissa) > MAX_DIGITS:
            token.type = "ERROR"
            message = f"a number has at most {MAX_DIGITS} digits; this one has {len(mantissa.replace('.', ''))}"
            self._error("E0313", message, token)
        elif exponent and (len(exponent) > 5 or abs(int(exponent)) > MAX_EXPONENT):
            token.type = "ERROR"
            self._error("E0313", f"an exponent lies between -{MAX_EXPONENT} and {MAX_EXPONENT}", token)

    def _bad(self, kind: str, word: str, match: re.Match[str]) -> None:
        previous = self.tokens[-1] if self.tokens else None
        if previous is not None and previous.type == "ERROR" and previous.end == match.start():
            previous.end = match.end()  # garbage side by side is one mistake
            return
        token = self._emit("ERROR", word, match)
        match kind:
            case "BAD_NUMBER":
                help_ = "numbers are written `3`, `0.5` or `1e-3`; multiplication needs `*`"
                if word[-1] in "ij" and word[:-1].replace(".", "").isdigit():
                    help_ = f"an imaginary number is written `complex(0, {word[:-1]})`"
                self._error("E0102", f"`{word}` is neither a number nor a name", token, help_)
            case "BAD_WORD" if word.endswith("''"):
                self._error(
                    "E0101", "a name has at most one prime", token, "`S'` is the value of state S after the step"
                )
            case "BAD_WORD":
                self._error(
                    "E0101",
                    f"`{word}` is not a name",
                    token,
                    "names hold the letters A to Z, Greek letters, digits and `_`",
                )
            case "BAD_STRING":
                self._error("E0104", "this string does not end", token, 'close it with `"` on the same line')
            case _:
                shown = f"`{word}`" if word.isprintable() else f"U+{ord(word):04X}"
                self._error("E0101", f"{shown} has no meaning here", token, _HELP.get(word, ""))

    def _error(self, code: str, message: str, token: Token, help_: str = "") -> None:
        self.diagnostics.error(code, message, span_of(self.file, token, token), help=help_)


def span_of(file: str, first: Token, last: Token) -> Span:
    """From the beginning of `first` to the end of `last`.  No token crosses a line, so columns follow from offsets."""
    if last.end < first.end:
        last = first
    end_column = last.column + (last.end - last.start)
    return Span(file, first.start, last.end, first.line, first.column, last.line, end_column)
