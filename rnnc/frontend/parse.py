"""Text -> syntax tree: every syntax error of a file at once, and a tree of what could be parsed.

text --tokens--> tokens --outline--> statements and blocks --lalr, build--> ast.Module
"""

from __future__ import annotations

from typing import Any

from rnnc.diagnostics import Diagnostics
from rnnc.frontend import ast
from rnnc.frontend.build import HYPER_KINDS, Parts, nearest
from rnnc.frontend.build_statements import StatementBuilder
from rnnc.frontend.lalr import Unexpected, run
from rnnc.frontend.outline import (
    BLOCK_WORDS,
    CLAIM_WORDS,
    DECLARATION_WORDS,
    ITEM_WORDS,
    MAX_BLOCKS,
    Block,
    Statement,
    outline,
)
from rnnc.frontend.syntax_errors import describe_unexpected
from rnnc.frontend.tokens import MAX_CHARACTERS, Lexer, Token, span_of

_STARTS = {
    "use": "use",
    "fn": "fn_head",
    "cell": "cell_head",
    "model": "cell_head",
    "automaton": "automaton_head",
    "language": "language",
    "task": "task_head",
    "input": "input_decl",
    "param": "param_decl",
    "const": "const_decl",
    "let": "let_decl",
    "gate": "let_decl",
    "transition": "let_decl",
    "state": "state_decl",
    "output": "output_decl",
    "per": "per_head",
    "substep": "substep_head",
    "if": "if_head",
    "repeat": "repeat_head",
}
# what other languages begin a statement with --> what to write
FOREIGN_STATEMENTS = {
    **dict.fromkeys(
        ("for", "while", "loop"),
        "a block for each head is `per heads { }`, small updates in a step are `substep j in 1..n { }`; "
        "the loop over time is not written",
    ),
    **dict.fromkeys(("return", "yield"), "a value leaves a cell by `output y = ...`"),
    **dict.fromkeys(("var", "val", "auto", "def"), "write `let name = ...`; functions are declared outside, `fn`"),
    **dict.fromkeys(("elif", "elseif", "elsif"), "write `else if`"),
    "parameter": "did you mean `param`?",
}
_BODY_WORDS = DECLARATION_WORDS | {"per", "substep", "if", "repeat", "expect"}


def parse_text(text: str, file: str) -> tuple[ast.Module | None, Diagnostics]:
    """Parses a whole spec.

    The module holds whatever could be parsed; statements with errors are left out of it, and the names they would have
    given a meaning to are in `broken_names`, so that later passes need not report them as unknown.  It is None only
    for a text beyond the bounds on size.
    """
    diagnostics = Diagnostics()
    if len(text) > MAX_CHARACTERS:
        diagnostics.error("E0310", f"`{file}` is larger than {MAX_CHARACTERS} characters", None)
        return None, diagnostics
    lexer = Lexer(text.replace("\r\n", "\n").replace("\r", "\n"), file, diagnostics)
    lexer.run()
    if any(d.code == "E0311" for d in diagnostics.items):
        return None, diagnostics
    parser = _Parser(file, diagnostics)
    items = parser.items(outline(lexer.tokens, file, diagnostics))
    module = ast.Module(
        span=span_of(file, lexer.tokens[0], lexer.tokens[-1]),
        file=file,
        items=tuple(items),
        comments=tuple((c.line, c.text) for c in lexer.comments),
        broken_names=frozenset(parser.broken_names),
    )
    return module, diagnostics


class _Parser:
    """Turns outlined statements into nodes."""

    def __init__(self, file: str, diagnostics: Diagnostics) -> None:
        self.file, self.diagnostics = file, diagnostics
        self.broken_names: set[str] = set()
        self.alternatives = 0  # of the `if` chains around the current statement

    # ------------------------------------------------------------ items

    def items(self, statements: list[Statement]) -> list[ast.TopLevel]:
        made: list[ast.TopLevel] = []
        complained = False
        for statement in statements:
            if statement.word in ITEM_WORDS and statement.tokens[0].type == "NAME":
                complained = False
                item = self._item(statement)
                if item is not None:
                    made.append(item)
            else:
                self._outside(statement, quiet=complained)
                complained = True
        return made

    def _outside(self, statement: Statement, *, quiet: bool) -> None:
        """A statement outside of any item: a misspelt item, or the body of a cell whose head is missing."""
        self._note_broken(statement)
        word = statement.word
        if not quiet and not statement.broken:
            if word in _BODY_WORDS:
                message, help_ = f"`{word}` stands outside of any cell", "put it between the braces of a `cell`"
            else:
                message = f"`{word}` does not begin a declaration"
                help_ = nearest(word, sorted(ITEM_WORDS)) or f"a file holds {', '.join(sorted(ITEM_WORDS))}"
            self._error("E0108", message, statement.tokens[0], help_)
        if word == "expect" and statement.block is not None:
            self._expect(statement)
        elif statement.block is not None:
            self._body(statement.block, "cell" if word in _BODY_WORDS else "unknown")

    def _item(self, statement: Statement) -> ast.TopLevel | None:
        head = self._parse(_STARTS[statement.word], statement)
        block = statement.block
        if statement.word in ("use", "language"):
            return head  # type: ignore[no-any-return]
        if block is None:
            return None
        span = span_of(self.file, statement.tokens[0], block.last)
        match statement.word:
            case "cell" | "model":
                head = head or self._guessed_head(statement)
                body = self._body(block, "cell")
                wrong = [d.span for d in self.diagnostics.items if d.span and span.start <= d.span.start <= span.end]
                return ast.CellDecl(span=span, body=body, sound=not wrong, **head.fields) if head is not None else None
            case "fn":
                return self._function(head, block, span)
            case "automaton":
                return self._automaton(head, block, span)
            case _:
                settings = [self._parse("setting", s) for s in self._leaves(block, "a task's setting")]
                kept = tuple(s for s in settings if s is not None)
                return ast.TaskDecl(span=span, settings=kept, **head.fields) if head is not None else None

    def _guessed_head(self, statement: Statement) -> Parts | None:
        """What a cell's head with a syntax error still says, so that its body is checked: its names.

        A kind that is none (`?`) makes the hyperparameter's value unknown, and its use silent.
        """
        tokens = statement.tokens
        if len(tokens) < 2 or tokens[1].type != "NAME":
            return None
        hyper: dict[str, ast.HyperDecl] = {}
        for i in range(2, len(tokens)):
            name, after = tokens[i], [t.word for t in tokens[i + 1 : i + 3]]
            if name.type == "NAME" and tokens[i - 1].word != ":" and name.word not in hyper:
                kind = after[1] if len(after) == 2 and after[0] == ":" and after[1] in HYPER_KINDS else "?"
                span = span_of(self.file, name, name)
                hyper[name.word] = ast.HyperDecl(span=span, name=name.word, kind=kind)
        place = span_of(self.file, tokens[1], tokens[1])
        fields = {"keyword": tokens[0].word, "name": tokens[1].word, "name_span": place}
        return Parts({**fields, "hyper": tuple(hyper.values())})

    def _function(self, head: Parts | None, block: Block, span: Any) -> ast.FnDecl | None:
        lets: list[ast.LetDecl] = []
        value: Any = None
        complete = True
        statements = self._leaves(block, "a statement of a function")
        for i, statement in enumerate(statements):
            keyword = statement.word in _BODY_WORDS and not self._is_plain(statement, "fn")
            if keyword and statement.word != "let":
                self._error("E0108", f"`{statement.word}` cannot stand in a function", statement.tokens[0])
                complete = False
            elif keyword:
                let = self._parse("let_decl", statement)
                complete = complete and let is not None
                if let is not None:
                    lets.append(let)
            elif i < len(statements) - 1:
                help_ = "only the last line of a function is its value; name others with `let`"
                self._error("E0108", "this value is not used", statement.tokens[0], help_)
                complete = False
            else:
                value = self._parse("expr", statement)
                complete = complete and value is not None
        if complete and value is None:
            help_ = "its last line is an expression, the value returned"
            self._error("E0109", "this function has no value", block.open, help_)
        if head is None or value is None or not complete:
            if head is not None:
                self.broken_names.add(head.fields["name"])
            return None
        return ast.FnDecl(span=span, body=tuple(lets), value=value, **head.fields)

    def _automaton(self, head: Parts | None, block: Block, span: Any) -> ast.AutomatonDecl | None:
        rows: list[ast.AutomatonRow] = []
        starts: list[Token] = []
        accept: list[Token] = []
        complete = True
        for statement in self._leaves(block, "a line of an automaton"):
            is_row = len(statement.tokens) > 1 and statement.tokens[1].word == ":"
            word = statement.word if not is_row else ""
            start = {"start": "start_line", "accept": "accept_line"}.get(word, "row")
            parsed = self._parse(start, statement)
            complete = complete and parsed is not None
            if parsed is None:
                continue
            if word == "start":
                starts.append(parsed)
            elif word == "accept":
                accept += parsed
            else:
                rows.append(parsed)
        if complete and len(starts) != 1:
            where, what = (starts[1], "two starts") if starts else (block.open, "no start")
            self._error("E0109", f"this automaton has {what}", where, "one line says `start STATE`")
        if head is None or not complete or len(starts) != 1:
            if head is not None:
                self.broken_names.add(head.fields["name"])
            return None
        return ast.AutomatonDecl(
            span=span, start=starts[0].word, rows=tuple(rows), accept=tuple(t.word for t in accept), **head.fields
        )

    # ------------------------------------------------------------ blocks

    def _leaves(self, block: Block, what: str) -> list[Statement]:
        """The statements of a block in which no further block may stand."""
        kept = []
        for statement in block.statements:
            if statement.block is None:
                kept.append(statement)
                continue
            self._note_broken(statement)
            if not statement.broken:
                self._error("E0108", f"`{statement.word}` is not {what}", statement.tokens[0])
        return kept

    def _body(self, block: Block, context: str) -> tuple[ast.Statement, ...]:
        made: list[ast.Statement] = []
        chain: list[Statement] = []  # an `if` with its `else`s
        for statement in [*block.statements, None]:
            if statement is not None and statement.word == "else" and not self._is_plain(statement, context):
                if not chain:
                    self._error("E0108", "this `else` belongs to no `if`", statement.tokens[0])
                chain.append(statement)
                continue
            if chain:
                made += self._conditional(chain, context)
                chain = []
            if statement is None:
                break
            if statement.word == "if" and statement.block is not None:
                chain = [statement]
                continue
            node = self._statement(statement, context)
            if node is not None:
                made.append(node)
        return tuple(made)

    def _conditional(self, chain: list[Statement], context: str) -> list[ast.If]:
        """`if a { } else if b { } else { }` --> If(a, .., If(b, .., ..))."""
        if self.alternatives + len(chain) > MAX_BLOCKS:
            self._error("E0312", f"more than {MAX_BLOCKS} alternatives are nested", chain[0].tokens[0])
            return []
        self.alternatives += len(chain)
        made = self._alternatives(chain, context)
        self.alternatives -= len(chain)
        return made

    def _alternatives(self, chain: list[Statement], context: str) -> list[ast.If]:
        orelse: tuple[Any, ...] = ()
        last = chain[-1].block.last if chain[-1].block else chain[-1].tokens[-1]
        for position, part in reversed(list(enumerate(chain))):
            block = part.block
            body = self._body(block, context) if block is not None else ()
            tokens = part.tokens[1:] if part.word == "else" else part.tokens
            if not tokens:
                if position < len(chain) - 1:
                    self._error("E0108", "nothing can follow the last `else`", chain[position + 1].tokens[0])
                orelse = body
                continue
            if tokens[0].word != "if":
                self._error("E0102", f"`{{` or `if` is expected after `else`, not `{tokens[0].word}`", tokens[0])
                continue
            head = self._parse("if_head", Statement(tokens, block, part.broken))
            if head is None:
                self._note_dropped(body)
            elif block is not None:
                span = span_of(self.file, tokens[0], last)
                orelse = (ast.If(span=span, then=body, orelse=orelse, **head.fields),)
        return list(orelse) if chain[0].word == "if" else []

    def _is_plain(self, statement: Statement, context: str) -> bool:
        """Whether a statement is an update or an assignment: of something called `gate`, perhaps."""
        if len(statement.tokens) < 2 or statement.tokens[1].type != "LITERAL":
            return False
        sign = statement.tokens[1].word
        return sign == "<-" or (sign == "=" and (context == "repeat" or statement.word not in _BODY_WORDS))

    def _statement(self, statement: Statement, context: str) -> Any:
        tokens, word, block = statement.tokens, statement.word, statement.block
        plain = self._is_plain(statement, context)
        if plain or word not in _BODY_WORDS or tokens[0].type != "NAME":
            return self._plain(statement, context)
        if word == "expect":
            return self._expect(statement)
        head = self._parse(_STARTS[word], statement)
        if word not in BLOCK_WORDS:
            return head
        if block is None:
            return None
        body = self._body(block, "repeat" if word == "repeat" else context)
        if head is None:
            self._note_dropped(body)
            return None
        node = {"per": ast.Per, "substep": ast.Substep, "repeat": ast.Repeat}[word]
        return node(span=span_of(self.file, tokens[0], block.last), body=body, **head.fields)

    def _plain(self, statement: Statement, context: str) -> Any:
        """`S <- e`, `h = e`, or something that is no statement."""
        tokens = statement.tokens
        if statement.block is not None or not self._is_plain(statement, context):
            self._no_statement(statement, context)
            return None
        if tokens[0].type == "PRIMED":
            self._note_broken(statement)
            help_ = f"write `{tokens[0].word} {tokens[1].word} ...`: the left side names the state"
            return self._error("E0102", "a primed name cannot be set", tokens[0], help_)
        if tokens[1].word == "<-":
            return self._parse("update", statement)
        made = self._parse("assign", statement)
        if made is not None and context not in ("repeat", "unknown"):
            self.broken_names.add(tokens[0].word)
            help_ = f"write `let {tokens[0].word} = ...` for a value, `{tokens[0].word} <- ...` for a state"
            return self._error("E0108", "`=` alone sets only the running value of a `repeat`", tokens[1], help_)
        return made

    def _no_statement(self, statement: Statement, context: str) -> None:
        self._note_broken(statement)
        word = statement.word
        if not statement.broken and context != "unknown":
            if word in CLAIM_WORDS and len(statement.tokens) > 1 and statement.tokens[1].type == "NAME":
                help_ = "claims stand in `expect { }`"
            else:
                known = sorted(_BODY_WORDS)
                help_ = FOREIGN_STATEMENTS.get(word, "") or nearest(word, known)
                help_ = help_ or f"a statement begins with {', '.join(known)}, or is an update `S <- e`"
            self._error("E0108", f"`{word}` does not begin a statement", statement.tokens[0], help_)
        if statement.block is not None:
            self._note_dropped(self._body(statement.block, "unknown"))  # what may stand in it is not known

    def _expect(self, statement: Statement) -> ast.Expect | None:
        block = statement.block
        if len(statement.tokens) > 1 and not statement.broken:
            self._error("E0102", "`{` is expected after `expect`", statement.tokens[1])
        if block is None:
            return None
        claims = [self._parse("claim", s) for s in self._leaves(block, "a claim")]
        span = span_of(self.file, statement.tokens[0], block.last)
        return ast.Expect(span=span, claims=tuple(c for c in claims if c is not None))

    # ------------------------------------------------------------ one statement

    def _parse(self, start: str, statement: Statement) -> Any:
        """The node (or Parts) of a statement; None after a diagnostic."""
        tokens = statement.tokens
        if statement.broken:
            self._note_broken(statement)
            return None
        builder = StatementBuilder(self.file, tokens, self.diagnostics)
        result = run(start, tokens, builder.action)
        if isinstance(result, Unexpected) and not builder.failed:
            message, where, help_ = describe_unexpected(start, statement, result)
            self.diagnostics.error("E0102", message, span_of(self.file, where, where), help=help_)
        if isinstance(result, Unexpected) or builder.failed:
            self._note_broken(statement)
            return None
        return result

    def _note_broken(self, statement: Statement) -> None:
        """Remembers the names that a statement with errors may have declared."""
        tokens = statement.tokens
        if len(tokens) > 1 and tokens[1].word == "<-":
            self.broken_names.add(tokens[0].word)
        elif tokens[0].word == "use":
            self.broken_names.update(t.word for t in tokens[1:] if t.type == "NAME")
        elif len(tokens) > 1 and tokens[1].type in ("NAME", "PRIMED"):
            self.broken_names.add(tokens[1].word)
        elif tokens[0].type == "NAME":
            self.broken_names.add(tokens[0].word)

    def _note_dropped(self, body: tuple[ast.Statement, ...]) -> None:
        """Remembers the names that the statements of a block without a head give a meaning to."""
        for statement in body:
            match statement:
                case ast.Per() | ast.Substep() | ast.Repeat():
                    self._note_dropped(statement.body)
                case ast.If():
                    self._note_dropped(statement.then + statement.orelse)
                case ast.Update() | ast.Assign():
                    self.broken_names.add(statement.target.id)
                case ast.Expect():
                    pass
                case _:
                    self.broken_names.add(statement.name)

    def _error(self, code: str, message: str, token: Token, help_: str = "") -> None:
        self.diagnostics.error(code, message, span_of(self.file, token, token), help=help_)
