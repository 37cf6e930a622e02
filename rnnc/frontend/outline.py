"""Finds the structure of a file before anything is parsed: items, their blocks, and the tokens of each statement.

A mistake in one statement then stays in that statement.  Braces are matched strictly first; an item whose braces do not
match is outlined again by its indentation, which says which brace is missing or too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from rnnc.diagnostics import Diagnostic, Diagnostics
from rnnc.frontend.tokens import Token, span_of

MAX_BRACKETS = 100
MAX_BLOCKS = 24

ITEM_WORDS = frozenset({"use", "fn", "cell", "model", "automaton", "language", "task"})
BLOCK_WORDS = frozenset(
    {"fn", "cell", "model", "automaton", "task", "per", "substep", "if", "else", "repeat", "expect"}
)
DECLARATION_WORDS = frozenset({"input", "param", "const", "let", "gate", "state", "transition", "output"})
CLAIM_WORDS = frozenset(
    {"linear", "affine", "time_invariant", "eigenvalues", "norm", "stable", "contractive", "parallel"}
    | {"recognizes", "tracks", "not"}
)
_OPEN = {"(": ")", "[": "]", "{": "}"}
# A line that ends in one of these goes on ...
_UNFINISHED = frozenset({"=", "<-", "->", ",", "and", "or", "not", "^", ".", ".."})
# ... and so does the line before one that begins with one of these (`+` and `-` may begin a function's value).
_CONTINUING = frozenset({"=", "<-", "->", "and", "or", "^", ",", ".", "..", ")", "]", ":"})


@dataclass(slots=True)
class Statement:
    """The tokens of a statement, or of a block's head; `broken` says that a diagnostic was already given for it."""

    tokens: list[Token]
    block: Block | None = None
    broken: bool = False

    @property
    def word(self) -> str:
        return self.tokens[0].word


@dataclass(slots=True)
class Block:
    """`{ ... }`; `last` is the closing brace, or the last token before where it should stand."""

    open: Token
    last: Token
    statements: list[Statement] = field(default_factory=list)


@dataclass(slots=True)
class _Frame:
    head: Token
    block: Block
    indent: int
    indented: bool | None = None  # is the body indented deeper than the head? None until its first line is seen
    lines: bool = False


class Outliner:
    """Outlines one item's tokens: `tokens[start:stop]`, where `tokens[stop]` begins the next item or is the end."""

    def __init__(self, tokens: Sequence[Token], file: str, *, start: int, stop: int, by_indent: bool) -> None:
        self.tokens, self.file, self.i, self.stop, self.by_indent = tokens, file, start, stop, by_indent
        self.diagnostics = Diagnostics()
        self.top: list[Statement] = []
        self.frames: list[_Frame] = []
        self.balanced = True
        self.outside = False  # has a `}` too many ended the item?

    # ------------------------------------------------------------ blocks

    def run(self) -> list[Statement]:
        while True:
            self._skip_separators()
            if self.i >= self.stop:
                break
            token = self.tokens[self.i]
            if self.by_indent and token.first and (token.word == "if" or self._begins_statement(token)):
                self._close_by_indent(token)
            if token.word == "}" and token.type == "LITERAL":
                self._close(token)
                continue
            self._note_indent(token)
            self._statement()
        for frame in reversed(self.frames):
            self._missing_brace(frame)
        return self.top

    def _statement(self) -> None:
        token = self.tokens[self.i]
        if not self.frames and self.top and not self.by_indent and self.top[0].word in BLOCK_WORDS:
            self.balanced = False  # something follows the item's closing brace: perhaps that brace is one too many
        statement = self._read()
        (self.frames[-1].block.statements if self.frames else self.top).append(statement)
        if statement.block is None:
            return
        if len(self.frames) >= MAX_BLOCKS:
            statement.broken = True
            self._error("E0312", f"blocks are nested more than {MAX_BLOCKS} levels deep", token, token)
            self.i, self.frames = self.stop, []
            return
        self.frames.append(_Frame(token, statement.block, token.indent))

    def _note_indent(self, token: Token) -> None:
        if self.frames and token.first and self.frames[-1].indented is None:
            self.frames[-1].indented = token.indent > self.frames[-1].indent
        elif self.frames and self.frames[-1].indented is None:
            self.frames[-1].indented = False

    def _close(self, brace: Token) -> None:
        self.i += 1
        if not self.frames:
            if not self.outside:  # more of them follow from the first
                self._error(
                    "E0103", "this `}` closes nothing", brace, brace, help_="remove it, or open the block it ends"
                )
            self.balanced, self.outside = False, True
            return
        frame = self.frames[-1]
        if self.by_indent and brace.first and frame.indented and brace.indent > frame.indent:
            self._error("E0103", "this `}` closes nothing", brace, brace, help_="remove it, or open the block it ends")
            return
        self.frames.pop()
        frame.block.last = brace

    def _close_by_indent(self, token: Token) -> None:
        """Ends the blocks that this line's indentation has left without a closing brace."""
        while self.frames and self.frames[-1].indented:
            frame = self.frames[-1]
            closes = token.word == "}" and token.type == "LITERAL" and token.indent == frame.indent
            if token.indent > frame.indent or closes:
                return
            self._missing_brace(self.frames.pop())

    def _missing_brace(self, frame: _Frame) -> None:
        self.balanced = False
        frame.block.last = self.tokens[max(self.i - 1, 0)]
        line = next((t.line for t in reversed(self.tokens[: self.i]) if t.type not in ("_NL", "EOF")), 1)
        message = f"the block of `{frame.head.word}` has no closing `}}`"
        self._error("E0103", message, frame.block.open, frame.block.open, help_=f"`}}` is expected after line {line}")

    # ------------------------------------------------------------ statements

    def _read(self) -> Statement:
        """The statement at `i`, which then points past it (and past the `{` of its block)."""
        taken: list[Token] = []
        brackets: list[Token] = []
        statement = Statement(taken)
        braces_owed = 0  # braces that belong to an expression (`product j in 1..n { }`) or an alphabet
        while self.i < self.stop:
            token = self.tokens[self.i]
            word = token.word if token.type != "STRING" else ""
            if token.type == "_NL":
                if not brackets and not self._goes_on(taken):
                    break
                if brackets and self._begins_statement(self._after_newlines()):
                    break
                if brackets and taken[0].word == "automaton" and self._after_newlines().indent > taken[0].indent:
                    break  # the body begins: an alphabet stands on one line
                self.i += 1
                continue
            if word == ";" or (word == "}" and not any(b.word == "{" for b in brackets)):
                break
            if word == "{" and braces_owed == 0 and self._opens_block(taken, brackets):
                self._unclosed(statement, brackets)
                statement.block = Block(token, token)
                self.i += 1
                return statement
            taken.append(token)
            self.i += 1
            if token.type == "ERROR":
                statement.broken = True
            elif token.type == "NAME" and word in ("product", "sum") and self._begins_fold():
                token.type = "FOLD"
                braces_owed += 1
            elif token.type == "NAME" and word == "over" and taken[0].word in ("automaton", "language"):
                braces_owed += 1
            elif word in _OPEN and token.type == "LITERAL":
                braces_owed -= word == "{" and braces_owed > 0
                brackets.append(token)
                if len(brackets) > MAX_BRACKETS:
                    self._too_many_brackets(statement, token)
                    return statement
            elif word in (")", "]", "}") and token.type == "LITERAL":
                self._match(statement, brackets, token)
        self._unclosed(statement, brackets)
        if taken[0].word in BLOCK_WORDS and self._is_keyword(taken):
            self._no_block(statement)
        return statement

    def _is_keyword(self, taken: list[Token]) -> bool:
        """`gate <- x` and `task = x` speak of things with these names."""
        return not (len(taken) > 1 and taken[1].word in ("<-", "=", ":") and taken[1].type == "LITERAL")

    def _no_block(self, statement: Statement) -> None:
        """A head without `{`: the lines below it that are indented deeper are taken for its block."""
        head, last = statement.tokens[0], statement.tokens[-1]
        following = self._after_newlines()
        if following.word == "{" and following.type == "LITERAL":
            while self.tokens[self.i].type == "_NL":
                self.i += 1
            self.i += 1
            statement.block = Block(following, following)
            return
        end = span_of(self.file, last, last)
        point = Token("", "", end.end, end.end, end.end_line, end.end_column, False, 0)
        if not statement.broken:
            self._error("E0103", f"`{{` is expected after the head of `{head.word}`", point, point)
        if following.indent > head.indent and following.type != "EOF" and following.first:
            statement.block = Block(last, last)
        else:
            statement.broken = True

    def _opens_block(self, taken: list[Token], brackets: list[Token]) -> bool:
        if not taken or any(b.word == "{" for b in brackets):
            return False
        word = taken[0].word
        if word == "automaton" and self.tokens[self.i + 2].word in (",", "}"):
            return False  # an alphabet whose `over` is missing
        if word in BLOCK_WORDS and self._is_keyword(taken):
            return True
        if word in ("use", "language") or word in DECLARATION_WORDS or brackets:
            return False
        following = self.tokens[self.i + 1]
        return following.type == "_NL" or self._begins_statement(following, self.i + 1)

    def _begins_fold(self) -> bool:
        after = self.tokens[self.i : self.i + 2]
        return len(after) == 2 and after[0].type == "NAME" and after[1].word == "in"

    def _goes_on(self, taken: list[Token]) -> bool:
        if not taken:
            return True
        last, following = taken[-1], self._after_newlines()
        if last.type in ("ADDOP", "MULOP", "COMPARE") or (last.word in _UNFINISHED and last.type != "STRING"):
            return not self._begins_statement(following) and following.type != "EOF"
        if last.word in ("if", "else") and len(taken) > 1:
            return True
        if following.type in ("MULOP", "COMPARE"):
            return True
        if following.type == "ADDOP":
            return not (self.frames and self.frames[0].head.word == "fn")
        if following.word == "else" and following.type == "NAME":
            return any(t.word == "if" for t in taken[1:])
        return following.word in _CONTINUING and following.type in ("LITERAL", "NAME")

    def _after_newlines(self) -> Token:
        i = self.i
        while self.tokens[i].type == "_NL":
            i += 1
        return self.tokens[i]

    def _begins_statement(self, token: Token, i: int | None = None) -> bool:
        """Whether `token`, the next after a newline, can only be the beginning of another statement."""
        if i is None:
            i = self.i
            while self.tokens[i].type == "_NL":
                i += 1
        if i >= self.stop or token.type == "EOF":
            return True
        following = self.tokens[i + 1]
        if token.type in ("NAME", "PRIMED") and following.word == "<-" and following.type == "LITERAL":
            return True
        if token.type != "NAME":
            return token.word == "}" and token.type != "STRING"
        if token.word in DECLARATION_WORDS or token.word in ("per", "substep", "repeat"):
            return following.type == "NAME"
        if self.frames and self.frames[-1].head.word == "expect":
            return token.word in CLAIM_WORDS and (following.type in ("NAME", "_NL") or following.word == "(")
        return token.word == "expect" and following.word == "{"

    # ------------------------------------------------------------ brackets

    def _match(self, statement: Statement, brackets: list[Token], closer: Token) -> None:
        if not brackets:
            if not statement.broken:
                self._error("E0103", f"this `{closer.word}` closes nothing", closer, closer)
            statement.broken = True
            return
        opener = brackets.pop()
        if _OPEN[opener.word] == closer.word or self._is_interval(opener, closer):
            return
        if not statement.broken:
            message = f"`{opener.word}` is closed by `{closer.word}`"
            self._error("E0103", message, closer, closer, help_=f"`{_OPEN[opener.word]}` is expected here")
        statement.broken = True

    def _is_interval(self, opener: Token, closer: Token) -> bool:
        """`in (0, 1]`: an opener directly after `in` may be closed by either of `)` and `]`."""
        if opener.word == "{" or closer.word == "}":
            return False
        index = next(i for i in range(self.i - 1, -1, -1) if self.tokens[i] is opener)
        return index > 0 and self.tokens[index - 1].word == "in"

    def _unclosed(self, statement: Statement, brackets: list[Token]) -> None:
        if brackets and not statement.broken:
            opener = brackets[-1]
            self._error(
                "E0103",
                f"this `{opener.word}` is not closed",
                opener,
                opener,
                help_=f"`{_OPEN[opener.word]}` is missing",
            )
        statement.broken = statement.broken or bool(brackets)

    def _too_many_brackets(self, statement: Statement, token: Token) -> None:
        self._error("E0312", f"brackets are nested more than {MAX_BRACKETS} levels deep", token, token)
        statement.broken = True
        braces = 0
        while self.i < self.stop:
            skipped = self.tokens[self.i]
            braces += (skipped.word == "{") - (skipped.word == "}")
            if braces < 0 or (skipped.type == "_NL" and self._begins_statement(self._after_newlines())):
                return
            self.i += 1

    def _skip_separators(self) -> None:
        while self.i < self.stop and (self.tokens[self.i].type == "_NL" or self.tokens[self.i].word == ";"):
            self.i += 1

    def _error(self, code: str, message: str, first: Token, last: Token, *, help_: str = "") -> None:
        self.diagnostics.add(Diagnostic(code=code, message=message, span=span_of(self.file, first, last), help=help_))


def outline(tokens: Sequence[Token], file: str, diagnostics: Diagnostics) -> list[Statement]:
    """The items of a file (and statements that stand outside of any item), in order."""
    bounds = [i for i in range(len(tokens)) if _begins_item(tokens, i)]
    starts = bounds if bounds and bounds[0] == 0 else [0, *bounds]
    found: list[Statement] = []
    for start, stop in zip(starts, [*starts[1:], len(tokens) - 1], strict=True):
        strict = Outliner(tokens, file, start=start, stop=stop, by_indent=False)
        result, chosen = strict.run(), strict
        if not strict.balanced:
            again = Outliner(tokens, file, start=start, stop=stop, by_indent=True)
            result, chosen = again.run(), again
        found += result
        for d in chosen.diagnostics.items:
            diagnostics.add(d)
    return found


def _begins_item(tokens: Sequence[Token], i: int) -> bool:
    token = tokens[i]
    if token.type != "NAME" or token.word not in ITEM_WORDS:
        return False
    previous = tokens[i - 1] if i else None
    if not (previous is None or previous.type == "_NL" or previous.word in (";", "}")):
        return False
    following = tokens[i + 1]
    return following.type in ("NAME", "ERROR") or (token.word == "use" and following.type == "STRING")
