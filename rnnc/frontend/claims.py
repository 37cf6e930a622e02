"""Claims, automata, languages and tasks: whether the names in them mean something.

What a claim *says* is the verifier's business; here it is only made sure that it speaks of things that exist, and the
operators it speaks of get their place in the cell's graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import assert_never

from rnnc.diagnostics import Diagnostics
from rnnc.frontend import ast
from rnnc.frontend.calls import FUNCTIONS
from rnnc.frontend.expressions import CONSTANTS, evaluate
from rnnc.frontend.languages import check_automaton, check_group, check_language, check_language_decl
from rnnc.frontend.lowering import Lowering
from rnnc.frontend.scope import Context, Scope, suggestion
from rnnc.frontend.tasks import read_task


def statements(body: Iterable[ast.Statement]) -> Iterator[ast.Statement]:
    """All statements of a cell, those of blocks included."""
    for s in body:
        yield s
        match s:
            case ast.Per() | ast.Substep() | ast.Repeat():
                yield from statements(s.body)
            case ast.If():
                yield from statements(s.then)
                yield from statements(s.orelse)


def check_claims(decl: ast.CellDecl, scope: Scope, found: Diagnostics, broken: frozenset[str] | set[str]) -> None:
    """The names in a cell's `expect` blocks."""
    states: set[str] = set(broken)
    values: set[str] = {*broken, *CONSTANTS, *(h.name for h in decl.hyper)}
    transitions: set[str] = set()
    claims: list[ast.Claim] = []
    for s in statements(decl.body):
        match s:
            case ast.StateDecl():
                states.add(s.name)
            case ast.LetDecl() | ast.ParamDecl() | ast.ConstDecl() | ast.InputDecl() | ast.OutputDecl():
                values.add(s.name)
                if isinstance(s, ast.LetDecl) and s.keyword == "transition":
                    transitions.add(s.name)
            case ast.Expect():
                claims.extend(s.claims)
    for claim in claims:
        _check_claim(claim, states, values, transitions, scope, found, broken)


def _check_claim(
    claim: ast.Claim,
    states: set[str],
    values: set[str],
    transitions: set[str],
    scope: Scope,
    found: Diagnostics,
    broken: frozenset[str] | set[str],
) -> None:
    subject = claim.subject
    match claim.kind:
        case "linear" | "affine" | "contractive":
            if isinstance(subject, ast.Name) and subject.id not in states:
                what = "is not a state" if subject.id in values else "is unknown"
                hint = suggestion(subject.id, states) or f"`{claim.kind} in` speaks of a state"
                found.error("E0501", f"`{subject.id}` {what}", subject.span, help=hint)
        case "eigenvalues" | "norm":
            for name in _names(subject):
                if name.id not in values | states:
                    hint = suggestion(name.id, transitions | values) or f"name it: `transition {name.id} = ...`"
                    found.error("E0501", f"`{name.id}` is unknown", name.span, help=hint)
            _check_domain(claim.domain, values | states, scope, found)
        case "recognizes":
            for arg in claim.args:
                check_language(arg, scope, found, broken)
        case "tracks":
            for arg in claim.args:
                check_group(arg, found)


def _check_domain(domain: ast.Domain | None, names: set[str], scope: Scope, found: Diagnostics) -> None:
    """The names in the set that a claim speaks of, and whether there is anything in it."""
    match domain:
        case None:
            return
        case ast.IntervalDomain():
            ends = [domain.lo, domain.hi]
        case ast.DiskDomain():
            ends = [domain.radius]
        case ast.HalfPlaneDomain():
            ends = [domain.bound]
        case _:
            assert_never(domain)
    for name in (name for end in ends for name in _names(end)):
        if name.id not in names | {"inf"} and name.id not in FUNCTIONS and scope.lookup(name.id) is None:
            found.error("E0501", f"`{name.id}` is unknown", name.span, help=suggestion(name.id, names))
    if isinstance(domain, ast.IntervalDomain) and _is_empty(domain):
        found.error("E0204", "no number lies in this domain", domain.span)


def _is_empty(domain: ast.IntervalDomain) -> bool:
    """Whether the ends are written out, in the wrong order."""
    lo, hi = _literal(domain.lo), _literal(domain.hi)
    if lo is None or hi is None:
        return False
    return lo > hi or (lo == hi and (domain.lo_open or domain.hi_open))


def _literal(expr: ast.Expr | None) -> Fraction | None:
    """A number that is written out; None where it takes more to know it."""
    match expr:
        case ast.Number():
            return expr.value
        case ast.Unary(op="-" | "+", operand=ast.Number(value=value)):
            return -value if expr.op == "-" else value
        case _:
            return None


def lower_subjects(c: Lowering, context: Context) -> None:
    """Gives the operators that claims spell out a place in the graph, under their text as a name.

    eigenvalues(diag(a)) in disk(1)      -->  eigenvalues(`diag(a)`) in disk(1), with the transition `diag(a)`
    """
    c.expect = [_with_named_subject(c, claim, context) for claim in c.expect]


def _with_named_subject(c: Lowering, claim: ast.Claim, context: Context) -> ast.Claim:
    subject = claim.subject
    if claim.kind not in ("eigenvalues", "norm") or subject is None or isinstance(subject, ast.Name):
        return claim
    bound = [context.scope.lookup(name.id) for name in _names(subject) if name.id not in CONSTANTS]
    contexts = [b.context for b in bound if b is not None and b.context is not None]
    if None in bound:
        return claim  # reported, or declared in a `substep`
    per = max((inner.per for inner in contexts), key=len, default=())
    value = evaluate(c, subject, replace(context, per=per, pure=True))
    node = c.to_node(value, subject.span)
    if node is None:
        return claim
    name = c.text_of(subject, limit=len(c.library.sources.get(subject.span.file, "")))
    c.transitions.append((name, node))
    return replace(claim, subject=ast.Name(span=subject.span, id=name))


def _names(expr: ast.Expr | None) -> Iterator[ast.Name]:
    from rnnc.frontend.bindings import walk

    if expr is not None:
        yield from (n for n in walk(expr) if isinstance(n, ast.Name))


# ---------------------------------------------------------------- automata and languages


def check_top_level(item: ast.TopLevel, scope: Scope, found: Diagnostics) -> None:
    """An automaton, language or task in itself."""
    match item:
        case ast.AutomatonDecl():
            check_automaton(item, found)
        case ast.LanguageDecl():
            check_language_decl(item, scope, found)
        case ast.TaskDecl():
            read_task(item, found)
        case _:
            return
