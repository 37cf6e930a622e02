"""Automata, languages and groups: whether what a spec says of them is well defined.

Which words a language has, and how a group multiplies, is worked out by the verifier (rnnc/verify/languages).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import TypeGuard

from rnnc.diagnostics import Diagnostics
from rnnc.frontend import ast
from rnnc.frontend.patterns import PatternError, read_pattern
from rnnc.frontend.scope import Scope, suggestion

MAX_LETTERS, MAX_STATES = 64, 1000
MAX_PARTS = 100  # other languages that one is made of
MAX_POINTS = 64  # that a permutation of `generated(...)` moves

# family -> least and greatest argument; below, a group is trivial or goes by another name
GROUPS = {"S": (2, 12), "A": (3, 12), "Z": (2, 1000), "D": (3, 1000)}
GROUP_LETTERS = ("all", "generators", "swaps")
_GROUP_HELP = "one of S(n), A(n), Z(n), D(n), a product such as S(3) * Z(2), or generated([[0, 1, 2]], [[0, 1]])"

BRACKETS = ("(", ")", "[", "]", "{", "}", "<", ">")


@dataclass(frozen=True, slots=True, kw_only=True)
class Builtin:
    """A language that needs no declaration.

    `form` shows how it is written; `ranges`: least and greatest value of each argument, of which the last `optional`
    may be left out; `letters`: its alphabet, from the arguments.
    """

    form: str
    letters: Callable[..., tuple[str, ...]]
    ranges: tuple[tuple[int, int], ...] = ()
    optional: int = 0


def bracket_letters(k: int, depth: int = 0) -> tuple[str, ...]:
    """The 2k letters of `dyck(k)`: each opening one is followed by its closing one."""
    numbered = tuple(b + str(i) for i in range(len(BRACKETS) // 2, k) for b in "()")
    return (*BRACKETS[: 2 * k], *numbered)


def _digits(m: int) -> tuple[str, ...]:
    return (*map(str, range(m)), "+", "-", "*")


LANGUAGES = {
    "parity": Builtin(form="`parity`", letters=lambda: ("0", "1")),
    "mod": Builtin(form="`mod(m)` with a number from 2 to 1000", letters=lambda m: ("0", "1"), ranges=((2, 1000),)),
    "unary_mod": Builtin(
        form="`unary_mod(m)` with a number from 2 to 1000", letters=lambda m: ("1",), ranges=((2, 1000),)
    ),
    "flip_flop": Builtin(form="`flip_flop`", letters=lambda: ("set", "reset", "hold")),
    "alternating": Builtin(form="`alternating`", letters=lambda: ("a", "b")),
    "dyck": Builtin(
        form="`dyck(k)` or `dyck(k, depth)` with k from 1 to 32",
        letters=bracket_letters,
        ranges=((1, 32), (1, 998)),
        optional=1,
    ),
    "arithmetic": Builtin(form="`arithmetic(m)` with a number from 2 to 16", letters=_digits, ranges=((2, 16),)),
    "left_arithmetic": Builtin(
        form="`left_arithmetic(m)` with a number from 2 to 16", letters=_digits, ranges=((2, 16),)
    ),
}


def whole(expr: ast.Expr, least: int, most: int) -> TypeGuard[ast.Number]:
    return isinstance(expr, ast.Number) and expr.is_integer and least <= expr.value <= most


def call_of(expr: ast.Expr, name: str) -> TypeGuard[ast.Call]:
    """Whether an expression is a call `name(...)`."""
    return isinstance(expr, ast.Call) and isinstance(expr.callee, ast.Name) and expr.callee.id == name


def numbers(expr: ast.Expr) -> tuple[int, ...]:
    """The arguments of a built-in language or group, once checked."""
    given = expr.args if isinstance(expr, ast.Call) else ()
    return tuple(int(a.value.value) for a in given if isinstance(a.value, ast.Number) and not a.name)


# ---------------------------------------------------------------- languages


def check_language(
    expr: ast.Expr, scope: Scope, found: Diagnostics, broken: Set[str] = frozenset()
) -> tuple[str, ...] | None:
    """A language as claims name it -> its letters; None after a report (here, or where it is declared)."""
    match expr:
        case ast.Unary(op="not"):
            return check_language(expr.operand, scope, found, broken)
        case ast.Binary(op="and" | "or"):
            left = check_language(expr.left, scope, found, broken)
            right = check_language(expr.right, scope, found, broken)
            if left is not None and right is not None and set(left) != set(right):
                found.error("E0502", f"`{expr.op}` joins languages over the same letters only", expr.span)
            return left if left is not None and right is not None else None
        case ast.Name() | ast.Call(callee=ast.Name()):
            return _check_named(expr, scope, found, broken)
        case _:
            found.error("E0501", "name a language", expr.span, help="for example `recognizes parity`")
            return None


def _check_named(
    expr: ast.Name | ast.Call, scope: Scope, found: Diagnostics, broken: Set[str]
) -> tuple[str, ...] | None:
    name = expr.callee if isinstance(expr, ast.Call) else expr
    assert isinstance(name, ast.Name)
    binding = scope.lookup(name.id)
    declared = binding.decl if binding is not None else None
    if isinstance(declared, ast.AutomatonDecl | ast.LanguageDecl) and not isinstance(expr, ast.Call):
        return declared.alphabet
    if name.id in LANGUAGES:
        return _check_builtin(expr, LANGUAGES[name.id], found)
    if name.id in broken or (binding is not None and binding.kind == "value"):
        return None  # reported where it is declared or imported
    if isinstance(declared, ast.AutomatonDecl | ast.LanguageDecl):
        found.error("E0501", f"`{name.id}` takes no arguments", expr.span)
        return None
    known = [n for s in scope.chain() for n, b in s.bindings.items() if b.kind in ("automaton", "language")]
    what = "is not a language" if binding is not None else "is an unknown language"
    hint = suggestion(name.id, [*known, *LANGUAGES]) or "declare it with `automaton` or `language`, or import it"
    found.error("E0501", f"`{name.id}` {what}", name.span, help=hint)
    return None


def _check_builtin(expr: ast.Name | ast.Call, builtin: Builtin, found: Diagnostics) -> tuple[str, ...] | None:
    given = expr.args if isinstance(expr, ast.Call) else ()
    least = len(builtin.ranges) - builtin.optional
    fits = (
        (isinstance(expr, ast.Name) or len(given) > 0)
        and least <= len(given) <= len(builtin.ranges)
        and all(not a.name and whole(a.value, *bounds) for a, bounds in zip(given, builtin.ranges))
    )
    if not fits:
        found.error("E0501", f"this language is written {builtin.form}", expr.span)
        return None
    args = numbers(expr)
    if call_of(expr, "dyck") and len(args) == 2 and dyck_states(*args) > MAX_STATES:
        found.error("E0304", f"an automaton of this language has more than {MAX_STATES} states", expr.span)
        return None
    return builtin.letters(*args)


def dyck_states(k: int, depth: int) -> int:
    """How many stacks of at most `depth` brackets of k kinds there are, and one state for errors."""
    return 1 + (depth + 1 if k == 1 else (k ** (depth + 1) - 1) // (k - 1))


def check_language_decl(item: ast.LanguageDecl, scope: Scope, found: Diagnostics) -> None:
    """`language NAME over {...} = VALUE`."""
    _check_alphabet(item.alphabet, item, found)
    value = item.value
    if call_of(value, "regex"):
        pattern = value.args[0].value if value.args else None
        if isinstance(pattern, ast.String):
            try:
                read_pattern(pattern.value, item.alphabet)
            except PatternError as error:
                found.error("E0502", f"`{item.name}`: {error}", pattern.span)
        return
    if call_of(value, "group"):
        generators = check_group(value.args[0].value, found)
        if generators is not None and generators != len(item.alphabet):
            letters_text = _some(len(item.alphabet), "letter")
            message = f"this group has {_some(generators, 'generator')}, and `{item.name}` {letters_text}"
            found.error("E0502", message, value.span, help="one letter for each generator, in their order")
        return
    if not _founded(item, scope, found):
        return
    for leaf in leaves(value):
        letters = check_language(leaf, scope, found)
        if letters is not None and len(letters) != len(item.alphabet):
            message = f"`{item.name}` has {_some(len(item.alphabet), 'letter')}, and this language {len(letters)}"
            found.error("E0502", message, leaf.span, help=f"its letters are {', '.join(f'`{a}`' for a in letters)}")


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def leaves(expr: ast.Expr) -> Iterator[ast.Expr]:
    """The languages that `not`, `and` and `or` join."""
    match expr:
        case ast.Unary(op="not"):
            yield from leaves(expr.operand)
        case ast.Binary(op="and" | "or"):
            yield from leaves(expr.left)
            yield from leaves(expr.right)
        case _:
            yield expr


def _founded(item: ast.LanguageDecl, scope: Scope, found: Diagnostics) -> bool:
    """Whether a language's value does not lead back to it, nor through too many others; else it is reported.

    Imports form no circle, so only names of this file count.
    """
    seen: set[str] = set()
    open_ = [item]
    while open_:
        for leaf in leaves(open_.pop().value):
            if not isinstance(leaf, ast.Name) or leaf.id in seen:
                continue
            seen.add(leaf.id)
            binding = scope.lookup(leaf.id)
            declared = binding.decl if binding is not None else None
            if declared is item:
                found.error("E0206", f"`{item.name}` is defined by itself", item.value.span)
                return False
            if isinstance(declared, ast.LanguageDecl):
                open_.append(declared)
        if len(seen) > MAX_PARTS:
            found.error("E0304", f"`{item.name}` is made of more than {MAX_PARTS} languages", item.value.span)
            return False
    return True


# ---------------------------------------------------------------- groups


def check_group(expr: ast.Expr, found: Diagnostics) -> int | None:
    """A group as claims name it -> how many generators it has; None after a report."""
    if isinstance(expr, ast.Binary) and expr.op == "*":
        left, right = check_group(expr.left, found), check_group(expr.right, found)
        for side in (expr.left, expr.right):
            if isinstance(side, ast.Call) and any(a.name for a in side.args):
                found.error("E0501", "the letters of a product are all its elements", side.span)
                return None
        return None if left is None or right is None else left + right
    if call_of(expr, "generated"):
        return _check_generated(expr, found)
    if isinstance(expr, ast.Call) and isinstance(expr.callee, ast.Name) and expr.callee.id in GROUPS:
        family = expr.callee.id
        least, most = GROUPS[family]
        positional = [a for a in expr.args if not a.name]
        if len(positional) != 1 or not whole(positional[0].value, least, most):
            found.error("E0501", f"`{family}(n)` needs a number from {least} to {most}", expr.span)
            return None
        return _standard_count(family, numbers(expr)[0]) if _check_letters(expr, family, found) else None
    found.error("E0501", "this is not a known group", expr.span, help=_GROUP_HELP)
    return None


def _standard_count(family: str, n: int) -> int:
    match family:
        case "S":
            return 2 if n > 2 else 1
        case "D":
            return 2
        case "A":
            return n - 2
        case _:
            return 1


def _check_letters(expr: ast.Call, family: str, found: Diagnostics) -> bool:
    """`letters = all | generators | swaps`, at most once."""
    named = [a for a in expr.args if a.name]
    known = GROUP_LETTERS if family == "S" else GROUP_LETTERS[:2]
    for a in named:
        if a.name != "letters" or not isinstance(a.value, ast.Name) or a.value.id not in known or len(named) > 1:
            hint = f"the one option is `letters = {' | '.join(known)}`"
            found.error("E0501", "this is no option of the group", a.span, help=hint)
            return False
    return True


def _check_generated(expr: ast.Call, found: Diagnostics) -> int | None:
    """`generated([[0, 1, 2], [3, 4]], [[0, 1]])`: each argument is a permutation, as a list of its cycles."""
    permutations = [a for a in expr.args if not a.name]
    if not permutations or not all(_is_cycles(a.value) for a in permutations):
        message = "a permutation is written as a list of cycles, such as [[0, 1, 2], [3, 4]]"
        help_ = f"cycles of one permutation share no points; points are numbers from 0 to {MAX_POINTS - 1}"
        found.error("E0501", message, expr.span, help=help_)
        return None
    if len(permutations) > MAX_LETTERS:
        found.error("E0304", f"an alphabet has at most {MAX_LETTERS} letters", expr.span)
        return None
    return len(permutations) if _check_letters(expr, "generated", found) else None


def _is_cycles(expr: ast.Expr) -> bool:
    if not isinstance(expr, ast.ListExpr) or not all(isinstance(c, ast.ListExpr) for c in expr.items):
        return False
    points = [p for c in cycles_of(expr) for p in c]
    count = sum(len(c.items) for c in expr.items if isinstance(c, ast.ListExpr))
    return len(points) == count == len(set(points))


def cycles_of(expr: ast.ListExpr) -> list[list[int]]:
    """[[0, 1, 2], [3, 4]] as numbers; what is no point is left out."""
    return [
        [int(p.value) for p in cycle.items if whole(p, 0, MAX_POINTS - 1)]
        for cycle in expr.items
        if isinstance(cycle, ast.ListExpr)
    ]


# ---------------------------------------------------------------- automata


def _check_alphabet(alphabet: tuple[str, ...], item: ast.Located, found: Diagnostics) -> None:
    if len(alphabet) > MAX_LETTERS:
        found.error("E0304", f"an alphabet has at most {MAX_LETTERS} letters", item.span)


def check_automaton(item: ast.AutomatonDecl, found: Diagnostics) -> None:
    """Every state has one arrow for each letter, to a state that exists."""
    _check_alphabet(item.alphabet, item, found)
    if len(item.rows) > MAX_STATES:
        found.error("E0304", f"an automaton has at most {MAX_STATES} states", item.span)
        return
    states: dict[str, ast.AutomatonRow] = {}
    for row in item.rows:
        if row.state in states:
            found.error("E0202", f"the state `{row.state}` has two rows", row.span)
        states.setdefault(row.state, row)
        letters: list[str] = []
        for letter, _ in row.arrows:
            if letter not in item.alphabet:
                hint = (
                    suggestion(letter, item.alphabet) or f"the alphabet is {', '.join(f'`{a}`' for a in item.alphabet)}"
                )
                found.error("E0502", f"`{letter}` is not a letter of `{item.name}`", row.span, help=hint)
            elif letter in letters:
                found.error("E0502", f"state `{row.state}` has two arrows for `{letter}`", row.span)
            letters.append(letter)
        missing = [a for a in item.alphabet if a not in letters]
        if missing:
            listed = ", ".join(f"`{m}`" for m in missing)
            found.error("E0502", f"state `{row.state}` has no arrow for {listed}", row.span)
    for row in item.rows:
        for _, target in row.arrows:
            if target not in states:
                hint = suggestion(target, states) or f"add a row `{target}: ...`"
                found.error("E0502", f"`{target}` is not a state of `{item.name}`", row.span, help=hint)
    for name, role in [(item.start, "start"), *((a, "accept") for a in item.accept)]:
        if name not in states:
            found.error(
                "E0502", f"`{role}` names `{name}`, which is not a state", item.span, help=suggestion(name, states)
            )
