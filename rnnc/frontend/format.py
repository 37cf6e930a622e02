"""`rnnc fmt`: the canonical layout of a spec.

Only white space changes: tokens, their order, comments and the line breaks inside a statement stay.  One statement a
line, two spaces a block, one space around binary operators (none around `^` and `..`, in slices, in quotients of
numbers and in the products of a shape, `real[2*d]`), at most one blank line.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from rnnc.diagnostics import Diagnostics, SpecError
from rnnc.frontend.outline import Block, Statement, outline
from rnnc.frontend.parse import parse_text
from rnnc.frontend.tokens import RESERVED, Comment, Lexer, Token

INDENT = 2


def format_source(text: str, file: str) -> str:
    """The text in canonical layout, ending in one newline (an empty text stays empty).

    Raises SpecError, with all diagnostics, for a text that does not parse.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    before, diagnostics = parse_text(text, file)
    if diagnostics.has_errors or before is None:
        raise SpecError(diagnostics.sorted(), {file: text})
    ignored = Diagnostics()  # parse_text has just found the text free of errors
    lexer = Lexer(text, file, ignored)
    lexer.run()
    printer = _Printer(lexer.comments, lexer.tokens)
    printer.statements(outline(lexer.tokens, file, ignored), 0)
    printer.comments_before(len(text), 0)
    result = "".join(line.rstrip() + "\n" for line in printer.lines)
    after, _ = parse_text(result, file)
    assert after == before, f"formatting changed the meaning of {file}"
    return result


class _Printer:
    """Prints statements in order, putting each comment back where it stood among the tokens."""

    def __init__(self, comments: Sequence[Comment], tokens: Sequence[Token]) -> None:
        self.comments = list(reversed(comments))
        starts = [t.start for t in tokens if t.type != "_NL" and t.word != ";"]
        # where the token that a comment stands behind begins, for each comment that does not stand alone
        self.behind = {c.start: starts[bisect_left(starts, c.start) - 1] for c in comments if not c.alone}
        self.lines: list[str] = []
        self.just_closed = False  # is the last printed thing the brace of a block, with no comment behind it?
        self.last_line = 0  # line of the source that the last printed thing ended on

    # ------------------------------------------------------------ lines

    def _blank(self, line: int, *, forced: bool = False) -> None:
        """A blank line, if the source has one here, or one is due."""
        if self.lines and self.lines[-1] and not self.lines[-1].endswith("{") and (forced or line - self.last_line > 1):
            self.lines.append("")

    def comments_before(self, offset: int, indent: int, *, forced: bool = False) -> bool:
        """Prints the comments that start before `offset`, each on a line of its own; says whether there were any."""
        printed = False
        while self.comments and self.comments[-1].start < offset:
            comment = self.comments.pop()
            self._blank(comment.line, forced=forced and not printed)
            self.lines.append(" " * indent + comment.text)
            self.last_line = comment.line
            printed = True
        return printed

    def _trailing_comment(self, token: Token) -> None:
        """The comment behind a token, where the source has one on the token's line."""
        if self.comments and self.behind.get(self.comments[-1].start) == token.start:
            self.lines[-1] += "  " + self.comments.pop().text

    # ------------------------------------------------------------ statements

    def statements(self, statements: Sequence[Statement], indent: int) -> None:
        """Prints the statements of a block, or of the file."""
        previous: Statement | None = None
        for statement in statements:
            first = statement.tokens[0]
            due = indent == 0 and previous is not None and (previous.block is not None or statement.block is not None)
            goes_on = first.word == "else" and self.just_closed
            if self.comments_before(first.start, indent, forced=due):
                due = goes_on = False
            if goes_on:
                self._tokens(statement, indent, joined=True)
            else:
                self._blank(first.line, forced=due)
                self._tokens(statement, indent, joined=False)
            if statement.block is not None:
                self._block(statement.block, indent)
            previous = statement

    def _block(self, block: Block, indent: int) -> None:
        has_comment = bool(self.comments) and self.comments[-1].start < block.last.start
        if not block.statements and not has_comment:
            self.lines[-1] += " {}"
        else:
            self.lines[-1] += " {"
            self.last_line = block.open.line
            self._trailing_comment(block.open)
            self.statements(block.statements, indent + INDENT)
            self.comments_before(block.last.start, indent + INDENT)
            self.lines.append(" " * indent + "}")
        self.last_line = block.last.line
        left = len(self.comments)
        self._trailing_comment(block.last)
        self.just_closed = left == len(self.comments)

    def _tokens(self, statement: Statement, indent: int, *, joined: bool) -> None:
        """One statement (or head), with the line breaks it has inside."""
        tokens = statement.tokens
        self.just_closed = False
        if joined:
            self.lines[-1] += " " + tokens[0].word
        else:
            self.lines.append(" " * indent + tokens[0].word)
        brackets: list[str] = []
        for i in range(1, len(tokens)):
            token = tokens[i]
            if token.line > tokens[i - 1].line:
                self._trailing_comment(tokens[i - 1])
                deeper = indent + INDENT * max(1, len(brackets))
                self.comments_before(token.start, deeper)
                if token.word in (")", "]", "}") and token.type == "LITERAL":
                    deeper -= INDENT * bool(brackets)
                self.lines.append(" " * deeper + _spelling(token))
            else:
                self.lines[-1] += " " * _space(tokens, i, brackets) + _spelling(token)
            self.last_line = token.line
            _track(tokens, i, brackets)
        self.last_line = tokens[-1].line
        if statement.block is None:
            self._trailing_comment(tokens[-1])


def _spelling(token: Token) -> str:
    match token.type:
        case "PRIMED":
            return token.word + "'"
        case "STRING":
            return '"' + _quoted(token.word) + '"'
        case _:
            return token.word


def _quoted(value: str) -> str:
    """Undoes the lexer's unquoting: only a bare double quote needs its backslash back."""
    parts: list[str] = []
    i = 0
    while i < len(value):
        step = 2 if value[i] == "\\" else 1
        parts.append('\\"' if value[i] == '"' else value[i : i + step])
        i += step
    return "".join(parts)


def _track(tokens: Sequence[Token], i: int, brackets: list[str]) -> None:
    """Keeps the stack of open brackets; braces are kept as `{` (spaced) or `{,` (an alphabet, tight)."""
    token = tokens[i]
    if token.type != "LITERAL":
        return
    if token.word in ("(", "["):
        brackets.append(token.word)
    elif token.word == "{":
        brackets.append("{," if tokens[i - 1].word == "over" else "{")
    elif token.word in (")", "]", "}") and brackets:
        brackets.pop()


def _ends_value(tokens: Sequence[Token], i: int) -> bool:
    """Whether token i ends a value, so that an opening bracket after it belongs to it and a sign is binary."""
    token = tokens[i]
    if token.type in ("NUMBER", "PRIMED", "STRING") or token.word in (")", "]", "}"):
        return True
    if token.type != "NAME" or token.word in RESERVED:
        return False
    words = {"param": {"init"}, "repeat": {"repeat", "as", "from"}}.get(tokens[0].word, set())
    return token.word not in words


def _space(tokens: Sequence[Token], i: int, brackets: Sequence[str]) -> int:
    """0 or 1 spaces between tokens i-1 and i of one line."""
    left, right = tokens[i - 1], tokens[i]
    a = left.word if left.type in ("LITERAL", "ADDOP", "MULOP", "COMPARE") else ""
    b = right.word if right.type in ("LITERAL", "ADDOP", "MULOP", "COMPARE") else ""
    in_slice = bool(brackets) and brackets[-1] == "["
    if a in ("(", "[") or b in (")", "]", ",") or {a, b} & {".", "..", "^"}:
        return 0
    if (in_slice and {a, b} & {"*", "/"}) or _is_quotient(tokens, i):
        return 0
    if (a == ":" and in_slice) or b == ":":
        return 0 if b != ":" or not in_slice or a != "," else 1
    if a == "{" or b == "}":
        return 0 if brackets and brackets[-1] == "{," else 1
    if b in ("(", "["):
        return 0 if a not in ("+", "-") and _ends_value(tokens, i - 1) else _after_sign(tokens, i - 1)
    return _after_sign(tokens, i - 1)


def _is_quotient(tokens: Sequence[Token], i: int) -> bool:
    """Whether tokens i-1 and i stand in a quotient of two numbers, `1/3`."""
    for slash in (i - 1, i):
        around = tokens[slash - 1 : slash + 2] if slash > 0 else ()
        if len(around) == 3 and around[1].word == "/" and around[0].type == around[2].type == "NUMBER":
            return True
    return False


def _after_sign(tokens: Sequence[Token], i: int) -> int:
    """No space after a sign that is not a binary operator, one after anything else."""
    if tokens[i].type != "ADDOP":
        return 1
    return int(i > 0 and _ends_value(tokens, i - 1))
