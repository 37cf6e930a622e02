"""From what a claim names to a language or a group: `language_of`, `group_of`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, Literal, NoReturn, TypeAlias

from rnnc.diagnostics import Diagnostics, SpecError
from rnnc.frontend import ast
from rnnc.frontend.languages import (
    LANGUAGES,
    call_of,
    check_automaton,
    check_group,
    check_language,
    check_language_decl,
    cycles_of,
    numbers,
)
from rnnc.frontend.scope import Scope
from rnnc.groups import Permutation, cycle_notation, from_cycles, standard_generators
from rnnc.verify.languages.builtin import BUILDERS
from rnnc.verify.languages.dfa import (
    DFA,
    TooLarge,
    complement,
    minimise,
    product,
    rename,
    reorder,
    without_empty_word,
)
from rnnc.verify.languages.facts import LanguageFacts
from rnnc.verify.languages.groups import GroupTask, all_elements
from rnnc.verify.languages.regex import regex_dfa

if TYPE_CHECKING:
    from rnnc.frontend.modules import LoadedModule
    from rnnc.spec import Spec

Kind = Literal["regular", "group", "context_free"]
Known: TypeAlias = "dict[tuple[int, tuple[str, ...] | None], Language]"  # declarations worked out, by their letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Language:
    """A language that a claim speaks of.

    `dfa` is the minimal automaton, None when the language is not regular (`why_not_regular`).  Of the two languages
    that differ only in the empty word, which no recogniser is asked about, it is the one with fewer states.  `kind` is
    `group` when every letter permutes the states.
    """

    name: str
    alphabet: tuple[str, ...]
    kind: Kind
    dfa: DFA | None
    facts: LanguageFacts | None = field(compare=False, repr=False)
    why_not_regular: str = ""


def language(name: str, dfa: DFA) -> Language:
    """The language of an automaton."""
    minimal = without_empty_word(dfa)
    facts = LanguageFacts(minimal)
    kind: Kind = "group" if facts.is_group else "regular"
    return Language(name=name, alphabet=dfa.alphabet, kind=kind, dfa=minimal, facts=facts)


def _dyck(k: int, alphabet: tuple[str, ...]) -> Language:
    kinds = "one kind" if k == 1 else f"{k} kinds"
    why = (
        f"well-nested brackets of {kinds} may be open in any number, and words with different numbers open are told "
        "apart by what closes them: no finite number of states is enough"
    )
    return Language(
        name=f"dyck({k})", alphabet=alphabet, kind="context_free", dfa=None, facts=None, why_not_regular=why
    )


def automaton_dfa(decl: ast.AutomatonDecl) -> DFA:
    """A declared automaton, as written (it must have been checked)."""
    states = tuple(row.state for row in decl.rows)
    index = {name: i for i, name in enumerate(states)}
    arrows = [dict(row.arrows) for row in decl.rows]
    return DFA(
        alphabet=decl.alphabet,
        states=states,
        delta=tuple(tuple(index[row[letter]] for letter in decl.alphabet) for row in arrows),
        start=index[decl.start],
        accept=frozenset(index[name] for name in decl.accept),
    )


# ---------------------------------------------------------------- languages


def language_of(source: Spec | LoadedModule | None, expr: ast.Expr) -> Language:
    """The language that an expression of a claim names; `source` is where its names are declared.

    Raises SpecError: E0501, E0502 for what is not well defined, E0504 for what is too large to be worked out.
    """
    scope = _scope(source)
    found = Diagnostics()
    check_language(expr, scope, found)
    _stop_at(found, source)
    try:
        if not isinstance(expr, ast.Unary | ast.Binary):
            return _leaf(expr, scope, None, {})
        return language(show(expr), _dfa(expr, scope, None, {}))
    except TooLarge as error:
        found.error("E0504", f"`{show(expr)}` is too large: {error}", expr.span)
        _raise(found, source)
    except _NotRegular as error:
        found.error("E0502", str(error), expr.span, help="give the depth: `dyck(k, depth)`")
        _raise(found, source)


class _NotRegular(ValueError):
    """A Boolean combination of what has no automaton, or another name for it; the message names it."""


def _scope(source: Spec | LoadedModule | None) -> Scope:
    if source is None:
        return Scope()
    module = getattr(source, "_module", source)
    scope = getattr(module, "scope", None)
    return scope if isinstance(scope, Scope) else Scope()


def _stop_at(found: Diagnostics, source: Spec | LoadedModule | None) -> None:
    if found.has_errors:
        _raise(found, source)


def _raise(found: Diagnostics, source: Spec | LoadedModule | None) -> NoReturn:
    raise SpecError(found.sorted(), dict(getattr(source, "sources", {})))


def _leaf(expr: ast.Expr, scope: Scope, alphabet: Sequence[str] | None, known: Known) -> Language:
    """A named or built-in language, its letters called by `alphabet` where that is given."""
    name = expr.callee if isinstance(expr, ast.Call) else expr
    assert isinstance(name, ast.Name)
    binding = scope.lookup(name.id)
    match binding.decl if binding is not None else None:
        case ast.AutomatonDecl() as decl:
            found = Diagnostics()
            check_automaton(decl, found)
            _stop_at(found, None)
            return language(decl.name, _called(automaton_dfa(decl), alphabet))
        case ast.LanguageDecl() as decl:
            assert binding is not None
            inner = binding.module.scope if binding.module is not None else scope
            key = (id(decl), None if alphabet is None else tuple(alphabet))
            if key not in known:
                known[key] = _declared(decl, inner, alphabet, known)
            return known[key]
        case _:
            args = numbers(expr)
            if name.id == "dyck" and len(args) == 1:
                return _dyck(args[0], tuple(alphabet or LANGUAGES["dyck"].letters(*args)))
            return language(show(expr), _called(BUILDERS[name.id](*args), alphabet))


def _declared(decl: ast.LanguageDecl, scope: Scope, alphabet: Sequence[str] | None, known: Known) -> Language:
    found = Diagnostics()
    check_language_decl(decl, scope, found)
    _stop_at(found, None)
    value = decl.value
    if call_of(value, "regex"):
        pattern = value.args[0].value
        assert isinstance(pattern, ast.String)
        return language(decl.name, _called(regex_dfa(pattern.value, decl.alphabet), alphabet))
    if call_of(value, "group"):
        task = _task(value.args[0].value, "generators")
        if len(task.letters) != len(decl.alphabet):
            found.error("E0502", f"`{decl.name}` has two letters for one generator", value.span)
            _stop_at(found, None)
        return language(decl.name, _called(rename(task.dfa, decl.alphabet), alphabet))
    if isinstance(value, ast.Unary | ast.Binary):
        return language(decl.name, _called(_dfa(value, scope, decl.alphabet, known), alphabet))
    other = _leaf(value, scope, decl.alphabet, known)
    if other.dfa is None:
        letters = tuple(alphabet or decl.alphabet)
        return Language(
            name=decl.name,
            alphabet=letters,
            kind=other.kind,
            dfa=None,
            facts=None,
            why_not_regular=other.why_not_regular,
        )
    return language(decl.name, _called(other.dfa, alphabet))


def _called(dfa: DFA, alphabet: Sequence[str] | None) -> DFA:
    """With the letters of `alphabet`: the same letters keep what they do, others are taken in their order."""
    if alphabet is None:
        return dfa
    return reorder(dfa, alphabet) if set(alphabet) == set(dfa.alphabet) else rename(dfa, alphabet)


def _dfa(expr: ast.Expr, scope: Scope, alphabet: Sequence[str] | None, known: Known) -> DFA:
    """A Boolean combination; each language in it over the same letters."""
    match expr:
        case ast.Unary():
            return complement(_dfa(expr.operand, scope, alphabet, known))
        case ast.Binary():
            left, right = (_dfa(e, scope, alphabet, known) for e in (expr.left, expr.right))
            both: Callable[[bool, bool], bool] = (lambda a, b: a and b) if expr.op == "and" else (lambda a, b: a or b)
            return minimise(product(left, right, both))
        case _:
            leaf = _leaf(expr, scope, alphabet, known)
            if leaf.dfa is None:
                raise _NotRegular(f"`{leaf.name}` is not regular: `not`, `and` and `or` join regular languages")
            return leaf.dfa


# ---------------------------------------------------------------- groups


def group_of(expr: ast.Expr) -> GroupTask:
    """The group that `tracks group G` names.  Raises SpecError (E0501, E0304).

    The letters are all elements, if not said otherwise (`S(5, letters = swaps)`); those of `generated(...)` are the
    given permutations.
    """
    found = Diagnostics()
    check_group(expr, found)
    _stop_at(found, None)
    return _task(expr, "")


def _task(expr: ast.Expr, letters: str) -> GroupTask:
    """`letters`: which, when the expression does not say; empty for what is usual."""
    if isinstance(expr, ast.Binary):
        left, right = _task(expr.left, letters), _task(expr.right, letters)
        points, more = tuple(range(left.degree)), tuple(range(left.degree, left.degree + right.degree))
        generators = (
            *((*g, *more) for g in left.generators),
            *((*points, *(left.degree + q for q in g)) for g in right.generators),
        )
        return _with_letters(show(expr), show(expr), generators, letters or "all")
    assert isinstance(expr, ast.Call)
    given = next((a.value.id for a in expr.args if a.name == "letters" and isinstance(a.value, ast.Name)), letters)
    if call_of(expr, "generated"):
        lists = [cycles_of(a.value) for a in expr.args if isinstance(a.value, ast.ListExpr)]
        size = 1 + max((q for cycles in lists for cycle in cycles for q in cycle), default=0)
        permutations = tuple(from_cycles(cycles, size) for cycles in lists)
        return _with_letters(show(expr), show(expr), permutations, given or "generators")
    assert isinstance(expr.callee, ast.Name)
    family, (n,) = expr.callee.id, numbers(expr)
    return _with_letters(show(expr), f"{family}({n})", tuple(standard_generators(family.lower(), n)), given or "all")


def _with_letters(name: str, group: str, generators: tuple[Permutation, ...], letters: str) -> GroupTask:
    def chosen() -> tuple[tuple[str, Permutation], ...]:
        degree = len(generators[0])
        match letters:
            case "all":
                return all_elements(group, generators)
            case "swaps":
                pairs = [from_cycles([list(pair)], degree) for pair in combinations(range(degree), 2)]
                return tuple((cycle_notation(p), p) for p in pairs or generators)
            case _:
                distinct = dict.fromkeys(generators)
                return tuple((cycle_notation(p), p) for p in distinct)

    return GroupTask(name=name, group=group, generators=generators, letter_source=chosen, letters_from=letters)


# ---------------------------------------------------------------- text


def show(expr: ast.Expr) -> str:
    """A language or group as a claim writes it."""
    match expr:
        case ast.Name():
            return expr.id
        case ast.Number():
            return expr.text
        case ast.ListExpr():
            return f"[{', '.join(map(show, expr.items))}]"
        case ast.Unary():
            return f"not {show(expr.operand)}"
        case ast.Binary(op="*"):
            return f"{show(expr.left)} * {show(expr.right)}"  # a product of groups is associative
        case ast.Binary():
            return f"({show(expr.left)} {expr.op} {show(expr.right)})"
        case ast.Call():
            args = (f"{a.name} = {show(a.value)}" if a.name else show(a.value) for a in expr.args)
            return f"{show(expr.callee)}({', '.join(args)})"
        case _:
            return "this expression"
