"""Construct by construct: the tree that each piece of syntax gives, with exact spans."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from syntax_samples import EVERYTHING, spec_files, valid_texts

from rnnc.diagnostics import render
from rnnc.frontend import ast
from rnnc.frontend.lalr import Unexpected, run
from rnnc.frontend.parse import parse_text
from rnnc.frontend.tokens import Lexer


def module_of(text: str) -> ast.Module:
    module, diagnostics = parse_text(text, "f")
    assert not diagnostics.items, "\n".join(render(d, {"f": text}) for d in diagnostics.sorted())
    assert module is not None
    return module


def statement(text: str) -> Any:
    """The only statement of a cell."""
    (item,) = module_of(f"cell A() {{\n{text}\n}}").items
    assert isinstance(item, ast.CellDecl)
    assert len(item.body) == 1
    return item.body[0]


def expr(text: str) -> Any:
    return statement(f"let a = {text}").value


def show(e: Any) -> str:
    """Fully parenthesised."""
    match e:
        case ast.Number(text=text):
            return text
        case ast.Name(id=name, primed=primed):
            return name + "'" * primed
        case ast.Bool(value=value):
            return str(value).lower()
        case ast.Unary(op=op, operand=x):
            return f"({op} {show(x)})"
        case ast.Binary(op=op, left=a, right=b):
            return f"({show(a)} {op} {show(b)})"
        case ast.IfElse(condition=c, then=a, orelse=b):
            return f"({show(a)} if {show(c)} else {show(b)})"
        case ast.Call(callee=f, args=args, sizes=sizes):
            size = f"[{', '.join(map(show, sizes))}]" if sizes else ""
            return f"{show(f)}{size}({', '.join(map(show, args))})"
        case ast.Argument(name=name, value=v):
            return f"{name}={show(v)}" if name else show(v)
        case ast.Attribute(value=v, name=name):
            return f"{show(v)}.{name}"
        case ast.Subscript(value=v, slices=slices):
            return f"{show(v)}[{', '.join(map(show, slices))}]"
        case ast.Slice(lo=lo, hi=hi, single=single):
            return show(lo) if single else f"{show(lo) if lo else ''}:{show(hi) if hi else ''}"
        case ast.ListExpr(items=items):
            return f"[{', '.join(map(show, items))}]"
        case ast.Fold(kind=kind, index=j, lo=lo, hi=hi, body=body):
            return f"{kind} {j} in {show(lo)}..{show(hi)} {{ {show(body)} }}"
    raise AssertionError(e)


PRECEDENCE = [
    ("a + b * c", "(a + (b * c))"),
    ("a - b - c", "((a - b) - c)"),
    ("a @ b @ c / d", "(((a @ b) @ c) / d)"),
    ("-x^2", "(- (x ^ 2))"),
    ("2^-1", "(2 ^ (- 1))"),
    ("a^b^c", "(a ^ (b ^ c))"),
    ("-a * b", "((- a) * b)"),
    ("a * -b", "(a * (- b))"),
    ("+a - -b", "((+ a) - (- b))"),
    ("not a == b", "(not (a == b))"),
    ("a and b or not c and d", "((a and b) or ((not c) and d))"),
    ("a < b <= c", "((a < b) and (b <= c))"),
    ("a + 1 < b * 2", "((a + 1) < (b * 2))"),
    ("a if b else c if d else e", "(a if b else (c if d else e))"),
    ("a if b or c else -d", "(a if (b or c) else (- d))"),
    ("M.T @ S'.T^2", "(M.T @ (S'.T ^ 2))"),
    ("linear[n, 2](x, bias = false)", "linear[n, 2](x, bias=false)"),
    ("GatedDeltaNet(d)(rmsnorm(h))", "GatedDeltaNet(d)(rmsnorm(h))"),
    ("x[0:n]", "x[0:n]"),
    ("M[:, 1:, :2, j]", "M[:, 1:, :2, j]"),
    ("[[0, 1], [1, 0],]", "[[0, 1], [1, 0]]"),
    ("product j in 1..n { householder(k[j], 2) } @ S", "(product j in 1..n { householder(k[j], 2) } @ S)"),
    ("sum j in 1..n-1 { j } + sum(x)", "(sum j in 1..(n - 1) { j } + sum(x))"),
    ("product(x)", "product(x)"),
    ("step(zeros' - 1)", "step((zeros' - 1))"),
    ("grad(0.5 * sum((S.T @ k - v)^2), S)", "grad((0.5 * sum((((S.T @ k) - v) ^ 2))), S)"),
]


@pytest.mark.parametrize(("text", "shown"), PRECEDENCE)
def test_expressions(text: str, shown: str) -> None:
    assert show(expr(text)) == shown


def test_numbers_are_exact() -> None:
    value = expr("0.1")
    assert (value.value, value.is_integer) == (Fraction(1, 10), False)
    assert expr("1e-3").value == Fraction(1, 1000)
    assert (expr("12").value, expr("12").is_integer) == (12, True)


DOMAINS = [
    ("real in (0, 1)", ("0", "1", True, True)),
    ("real in (0, 1]", ("0", "1", True, False)),
    ("real in [-1, 1)", ("(- 1)", "1", False, True)),
    ("real in [0, reach]", ("0", "reach", False, False)),
    ("real in [0, inf]", ("0", None, False, True)),
    ("real in (-inf, 0]", (None, "0", True, False)),
    ("real > 0", ("0", None, True, True)),
    ("real >= 0", ("0", None, False, True)),
    ("real < 2*a", (None, "(2 * a)", True, True)),
    ("real <= 0", (None, "0", True, False)),
]


@pytest.mark.parametrize(("text", "expected"), DOMAINS)
def test_intervals(text: str, expected: tuple[str | None, str | None, bool, bool]) -> None:
    d = statement(f"gate g: {text} = x").type.domain
    ends = (d.lo and show(d.lo), d.hi and show(d.hi))
    assert (*ends, d.lo_open, d.hi_open) == expected


def test_types() -> None:
    t = statement("input x: complex[2*d, d/heads] in disk(1)").type
    assert (t.kind, [show(s) for s in t.shape], show(t.domain.radius)) == ("complex", ["(2 * d)", "(d / heads)"], "1")
    t = statement("input x: complex in re < 0").type
    assert (t.shape, t.domain.op, show(t.domain.bound)) == ((), "<", "0")
    assert [statement(f"input x: {k}").type.kind for k in ("bool", "token[V]", "unit[n]")] == ["bool", "token", "unit"]


def test_declarations() -> None:
    p = statement("param W: real[n, d] in (0, 1) init normal(0.02)")
    assert (type(p), p.name, show(p.init)) == (ast.ParamDecl, "W", "normal(0.02)")
    p = statement("param init: real > a init init")
    assert (p.name, show(p.type.domain.lo), show(p.init)) == ("init", "a", "init")
    for keyword in ("let", "gate", "transition"):
        made = statement(f"{keyword} a: real = 1")
        assert (type(made), made.keyword, made.name) == (ast.LetDecl, keyword, "a")
    assert statement("const R = [1, 2]").type is None
    assert statement("state S: real[n] = 0").name == "S"
    assert statement("output y = x").type is None
    assert show(statement("S <- A @ S").value) == "(A @ S)"


def test_words_are_keywords_only_in_their_place() -> None:
    made = statement("gate <- start + layers * from + real + linear + init + regex")
    assert (type(made), made.target.id) == (ast.Update, "gate")
    assert statement("let state = gate + input").name == "state"


def test_blocks() -> None:
    made = statement("per heads { substep j in 1..2*k { let a = j\nlet b = a }; expect { stable; linear in S } }")
    assert made.axis.id == "heads"
    inner, expect = made.body
    assert (inner.index, show(inner.lo), show(inner.hi)) == ("j", "1", "(2 * k)")
    assert [s.name for s in inner.body] == ["a", "b"]
    assert [c.kind for c in expect.claims] == ["stable", "linear"]
    made = statement("if a > 1 { let b = 1 }\n\nelse if c { let d = 1 } else {\n let e = 1\n let f = 1 }")
    assert show(made.condition) == "(a > 1)"
    assert [s.name for s in made.then] == ["b"]
    (nested,) = made.orelse
    assert [s.name for s in nested.orelse] == ["e", "f"]
    assert statement("if a\n{\n}").orelse == ()


def test_repeat() -> None:
    made = statement("repeat 2 * layers as h from f(x) { h = h + 1 }")
    assert (show(made.count), made.name, show(made.start)) == ("(2 * layers)", "h", "f(x)")
    assert made.body[0].target.id == "h"


def test_lines_go_on() -> None:
    assert show(expr("a +\n  b\n  * c")) == "(a + (b * c))"
    assert show(expr("\n a")) == "a"
    assert show(expr("f(a,\n# comment\nb\n)")) == "f(a, b)"
    assert show(expr("a if b\nelse c")) == "(a if b else c)"
    assert show(statement("S <-\n  a").value) == "a"
    assert show(statement("S\n <- a").value) == "a"
    (fn,) = module_of("fn f(x: real) {\n let y = x\n -y\n}").items
    assert show(fn.value) == "(- y)"  # type: ignore[union-attr]


def test_claims() -> None:
    def claim(text: str) -> ast.Claim:
        (made,) = statement(f"expect {{ {text} }}").claims
        assert isinstance(made, ast.Claim)
        return made

    c = claim("not recognizes mod(3) under finite_precision with layers = 2")
    assert (c.kind, show(c.args[0]), c.negated) == ("recognizes", "mod(3)", True)
    assert (c.precision, c.layers) == ("finite_precision", 2)
    c = claim("eigenvalues(A @ B) in [-1, 1]")
    assert (c.kind, show(c.subject), isinstance(c.domain, ast.IntervalDomain)) == ("eigenvalues", "(A @ B)", True)
    assert claim("eigenvalues(A) real").real
    assert isinstance(claim("eigenvalues(A) in re <= 0").domain, ast.HalfPlaneDomain)
    c = claim("norm(A) <= 1")
    assert isinstance(c.domain, ast.IntervalDomain)
    assert (c.domain.lo, show(c.domain.hi), c.domain.hi_open) == (None, "1", False)
    c = claim("tracks group S(3)")
    assert (c.kind, show(c.args[0])) == ("tracks", "S(3)")
    assert [claim(t).kind for t in ("stable", "time_invariant")] == ["stable", "time_invariant"]
    assert show(claim("parallel by convolution").args[0]) == "convolution"
    assert [show(claim(f"{k} in S").subject) for k in ("linear", "affine", "contractive")] == ["S"] * 3


def test_top_level() -> None:
    module = module_of(EVERYTHING)
    kinds = [type(i).__name__ for i in module.items]
    assert kinds == [
        "Use",
        "Use",
        "FnDecl",
        "CellDecl",
        "AutomatonDecl",
        "LanguageDecl",
        "CellDecl",
        "CellDecl",
        "TaskDecl",
    ]
    use, file_use, fn, _, automaton, language, _, delta, task = module.items
    assert use == ast.Use(span=use.span, path="std.gates", is_file=False, names=use.names)  # type: ignore[union-attr]
    assert (file_use.path, file_use.is_file) == ("./mine.rnn", True)  # type: ignore[union-attr]
    assert [p[0] for p in fn.params] == ["x", "eps"]  # type: ignore[union-attr]
    assert [s.name for s in fn.body] == ["y", "z"]  # type: ignore[union-attr]
    assert isinstance(automaton, ast.AutomatonDecl)
    assert (automaton.alphabet, automaton.start, automaton.accept) == (("0", "1"), "even", ("odd",))
    assert automaton.rows[0].arrows == (("0", "even"), ("1", "odd"))
    assert isinstance(language, ast.LanguageDecl)
    assert isinstance(language.value, ast.Call)
    assert language.value.args[0].value == ast.String(span=language.span, value='(a[ab]*a|b[ab]*b)?"\\\\')
    assert (delta.name, delta.hyper[0].name) == ("δelta", "η")  # type: ignore[union-attr]
    assert [s.name for s in task.settings] == ["length", "kind"]  # type: ignore[union-attr]


def walk(node: Any) -> Any:
    todo = [node]
    while todo:
        current = todo.pop()
        if isinstance(current, ast.Located):
            yield current
            todo += [getattr(current, f) for f in current.__dataclass_fields__ if f not in ("span", "name_span")]
        elif isinstance(current, tuple):
            todo += current


def test_spans_cover_exactly_the_text() -> None:
    lines = EVERYTHING.split("\n")
    texts = set()
    for node in walk(module_of(EVERYTHING)):
        s = node.span
        text = EVERYTHING[s.start : s.end]
        texts.add(text)
        first = lines[s.line - 1][s.column - 1 :]
        assert first.startswith(text.split("\n")[0])
        assert lines[s.end_line - 1][: s.end_column - 1].endswith(text.split("\n")[-1])
        if isinstance(node, ast.Name):
            assert text == node.id + "'" * node.primed
        if isinstance(node, ast.Number):
            assert text == node.text
    assert {"alpha * (I - beta * outer(q, q))", "real[d] in (-1, 1]", "S' .T".replace(" ", ""), "k: int = 2"} <= texts
    assert {"not recognizes mod(3) under finite_precision", "0: 0 -> even"} & texts


def test_parenthesised_operands_belong_to_the_span_of_the_operation() -> None:
    e = expr("(a + b) * c")
    text = "let a = (a + b) * c"
    assert (e.span.column, e.span.end_column) == (9, len(text) + 1)
    assert (e.left.span.column, e.left.span.end_column) == (10, 15)


def test_carriage_returns_tabs_byte_order_mark_and_missing_last_newline() -> None:
    unix = module_of("cell A() {\n\tlet a = 1\n}\n")
    assert module_of("\ufeffcell A() {\r\n\tlet a = 1\r\n}") == unix
    assert unix.items[0].body[0].span.column == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("name", list(valid_texts()))
def test_the_grammar_of_a_whole_file_accepts_what_the_pieces_accept(name: str) -> None:
    """`module` in rnn.lark is the language's grammar; the parser itself starts from the heads and statements."""
    from rnnc.diagnostics import Diagnostics
    from rnnc.frontend.outline import outline

    text = valid_texts()[name]
    lexer = Lexer(text, name, Diagnostics())
    lexer.run()
    tokens: list[Any] = []

    def flatten(statements: list[Any]) -> None:
        for s in statements:
            if s.word == "else":
                tokens.pop()  # no new line before an else
            tokens.extend(s.tokens)
            if s.block is not None:
                tokens.append(s.block.open)
                flatten(s.block.statements)
                tokens.append(s.block.last)
            tokens.append(newline)

    newline = next(t for t in lexer.tokens if t.type == "_NL")
    flatten(outline(lexer.tokens, name, Diagnostics()))
    result = run("module", tokens, lambda _: None)
    assert not isinstance(result, Unexpected), tokens[result.index]


def test_every_spec_of_the_tree_is_found() -> None:
    assert len(spec_files()) > 15
