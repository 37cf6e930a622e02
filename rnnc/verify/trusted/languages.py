"""What a claim's language or group is: worked out from its declaration, without `rnnc.verify.languages`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import combinations
from typing import Any, NamedTuple

from rnnc.frontend import ast
from rnnc.frontend.languages import LANGUAGES, call_of, cycles_of, numbers
from rnnc.frontend.patterns import read_pattern
from rnnc.frontend.scope import Scope
from rnnc.groups import cycle_notation, from_cycles, standard_generators
from rnnc.verify.trusted.automata import Automaton, explored, minimal, of_expression
from rnnc.verify.trusted.maps import Map, TooMany, composed, generated


class Task(NamedTuple):
    """`actions`: what each letter does, to the states of a minimal automaton or to the points of a group ({} where the
    language is not regular); `automaton()`: the whole, whose states are the group's elements.
    """

    actions: dict[str, Map]
    automaton: Callable[[], Automaton]


def task_of(claim: ast.Claim, scope: Scope) -> Task:
    (expr,) = claim.args
    if claim.kind == "tracks":
        acts = group(expr, "all")
        return Task(acts, lambda: elements(acts))
    found = language(expr, scope)
    return Task({} if found is None else found.actions, lambda: found)  # type: ignore[arg-type, return-value]


# ---------------------------------------------------------------- groups


def group(expr: Any, letters: str) -> dict[str, Map]:
    """The letters of a group as permutations of its points; a product acts on the points of both."""
    if isinstance(expr, ast.Binary):
        left, right = ([*group(e, "generators").values()] for e in (expr.left, expr.right))
        n, m = len(left[0]), len(right[0])
        both = [(*g, *range(n, n + m)) for g in left] + [(*range(n), *(n + q for q in g)) for g in right]
    elif call_of(expr, "generated"):
        cycles = [cycles_of(a.value) for a in expr.args if isinstance(a.value, ast.ListExpr)]
        both = [from_cycles(c, 1 + max((q for one in c for q in one), default=0)) for c in cycles]
        points = max(map(len, both))
        both, letters = [(*g, *range(len(g), points)) for g in both], "generators"
    else:
        both = list(standard_generators(expr.callee.id.lower(), numbers(expr)[0]))
    named = [] if isinstance(expr, ast.Binary) else [a.value.id for a in expr.args if a.name == "letters"]
    match (named or [letters])[0]:
        case "all":
            with suppress(TooMany):  # then the letters that generate it stand for all; it has no automaton here
                both = generated(both)
        case "swaps":
            both = [from_cycles([list(pair)], len(both[0])) for pair in combinations(range(len(both[0])), 2)]
    return {cycle_notation(g): g for g in both}


def elements(acts: dict[str, Map]) -> Automaton:
    """The products of the letters, the newest on the left; the words of the identity are accepted."""
    size = len(next(iter(acts.values())))
    unit = tuple(range(size))
    return explored(tuple(acts), unit, lambda e, a: composed((e, acts[a]), size), lambda e: e == unit)


# ---------------------------------------------------------------- languages


def _bracket(letters: tuple[str, ...], depth: int, stack: str | None, a: str) -> str | None:
    kind, closes = divmod(letters.index(a), 2)
    if stack is None or (closes and stack[-1:] != chr(kind)) or (not closes and len(stack) == depth):
        return None
    return stack[:-1] if closes else stack + chr(kind)


def _precedence(m: int, state: Any, a: str) -> Any:
    """(sum of the terms that are done, the open term, whether a digit may follow)."""
    if state is None or state[2] != a.isdigit():
        return None
    done, term, _ = state
    if a.isdigit():
        return done, term * int(a) % m, False
    return (done, term, True) if a == "*" else ((done + term) % m, (1 if a == "+" else -1) % m, True)


def _in_order(m: int, state: Any, a: str) -> Any:
    """(value, the operator that waits for a digit)."""
    if state is None or bool(state[1]) != a.isdigit():
        return None
    value, waits = state
    return ({"+": value + int(a), "-": value - int(a), "*": value * int(a)}[waits] % m, "") if waits else (value, a)


# start, step and acceptance of the languages that have a name, from their arguments
BUILT_IN: dict[str, Callable[..., tuple[Any, Callable[[Any, str], Any], Callable[[Any], Any]]]] = {
    "parity": lambda: (0, lambda q, a: (q + int(a)) % 2, lambda q: q == 1),
    "mod": lambda m: (0, lambda q, a: (q + int(a)) % m, lambda q: q == 0),
    "unary_mod": lambda m: (0, lambda q, a: (q + 1) % m, lambda q: q == 0),
    "flip_flop": lambda: (False, lambda q, a: {"set": True, "reset": False, "hold": q}[a], bool),
    "alternating": lambda: ("b", lambda q, a: a if {q, a} == {"a", "b"} else "", lambda q: q == "b"),
    "dyck": lambda k, d: ("", lambda q, a: _bracket(LANGUAGES["dyck"].letters(k), d, q, a), lambda q: q == ""),
    "arithmetic": lambda m: (
        (0, 1 % m, True), lambda q, a: _precedence(m, q, a), lambda q: q and not q[2] and (q[0] + q[1]) % m == 0
    ),
    "left_arithmetic": lambda m: ((0, "+"), lambda q, a: _in_order(m, q, a), lambda q: q == (0, "")),
}  # fmt: skip


def language(expr: Any, scope: Scope, letters: Sequence[str] | None = None) -> Automaton | None:
    """The minimal automaton of an expression, its letters called by `letters`; None where it is not regular."""
    if isinstance(expr, ast.Unary):
        a = language(expr.operand, scope, letters)
        return a and minimal(a._replace(accept=frozenset(range(len(a.delta))) - a.accept))
    if isinstance(expr, ast.Binary):
        a, b = language(expr.left, scope, letters), language(expr.right, scope, letters)
        assert a is not None, "`and` and `or` join regular languages"
        assert b is not None, "`and` and `or` join regular languages"
        column, join = {x: k for k, x in enumerate(b.letters)}, all if expr.op == "and" else any
        step = lambda q, x: (a.delta[q[0]][a.letters.index(x)], b.delta[q[1]][column[x]])  # noqa: E731
        return minimal(explored(a.letters, (0, 0), step, lambda q: join((q[0] in a.accept, q[1] in b.accept))))
    name: str = getattr(expr, "callee", expr).id
    binding = scope.lookup(name)
    made: Any = binding.decl if binding else None
    found: Automaton | None
    match made:
        case ast.AutomatonDecl():
            rows = {row.state: dict(row.arrows) for row in made.rows}
            found = minimal(explored(made.alphabet, made.start, lambda q, x: rows[q][x], lambda q: q in made.accept))
        case ast.LanguageDecl():
            value: Any = made.value
            inner = binding.module.scope if binding and binding.module else scope
            name = getattr(getattr(value, "callee", None), "id", "")
            if name == "regex":
                found = minimal(of_expression(read_pattern(value.args[0].value.value, made.alphabet), made.alphabet))
            elif name == "group":
                found = elements(group(value.args[0].value, "generators"))._replace(letters=tuple(made.alphabet))
            else:
                found = language(value, inner, made.alphabet)
        case _:
            args = numbers(expr)
            if name == "dyck" and len(args) == 1:
                return None
            found = minimal(explored(LANGUAGES[name].letters(*args), *BUILT_IN[name](*args)))
    if found is None or letters is None:
        return found
    if set(letters) == set(found.letters):  # the same letters in another order
        at = [found.letters.index(x) for x in letters]
        return found._replace(letters=tuple(letters), delta=tuple(tuple(row[k] for k in at) for row in found.delta))
    return found._replace(letters=tuple(letters))
