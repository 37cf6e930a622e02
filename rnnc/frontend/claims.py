"""Claims, automata, languages and tasks: whether the names in them mean something.

What a claim *says* is the verifier's business; here it is only made sure that it speaks of things that exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rnnc.diagnostics import Diagnostics
from rnnc.frontend import ast
from rnnc.frontend.scope import Scope, suggestion

STRATEGIES = ("scan", "chunk", "convolution", "newton")
PRECISIONS = ("finite_precision", "exact", "log_precision", "eta_finite", "float16", "bfloat16", "float32", "float64")
LANGUAGES = ("parity", "mod")
GROUPS = {"S": (1, 12), "A": (1, 12), "Z": (1, 10_000), "D": (1, 10_000)}  # family -> least and greatest argument
MAX_LETTERS, MAX_STATES = 64, 1000


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
    values: set[str] = set(broken)
    transitions: set[str] = set()
    claims: list[ast.Claim] = []
    for s in statements(decl.body):
        match s:
            case ast.StateDecl():
                states.add(s.name)
            case ast.LetDecl() | ast.ParamDecl() | ast.ConstDecl():
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
                if name.id not in values | states and name.id != "I":
                    hint = suggestion(name.id, transitions | values) or f"name it: `transition {name.id} = ...`"
                    found.error("E0501", f"`{name.id}` is unknown", name.span, help=hint)
        case "parallel":
            for arg in claim.args:
                if isinstance(arg, ast.Name) and arg.id not in STRATEGIES:
                    hint = suggestion(arg.id, STRATEGIES) or f"one of {', '.join(STRATEGIES)}"
                    found.error("E0501", f"unknown way to run in parallel `{arg.id}`", arg.span, help=hint)
        case "recognizes":
            for arg in claim.args:
                _check_language(arg, scope, found, broken)
        case "tracks":
            for arg in claim.args:
                _check_group(arg, found)
    if claim.precision and claim.precision not in PRECISIONS:
        hint = suggestion(claim.precision, PRECISIONS) or f"one of {', '.join(PRECISIONS)}"
        found.error("E0501", f"unknown precision model `{claim.precision}`", claim.span, help=hint)
    if claim.layers is not None and claim.layers < 1:
        found.error("E0501", "a claim speaks of at least one layer", claim.span)


def _names(expr: ast.Expr | None) -> Iterator[ast.Name]:
    from rnnc.frontend.bindings import walk

    if expr is not None:
        yield from (n for n in walk(expr) if isinstance(n, ast.Name))


def _check_language(arg: ast.Expr, scope: Scope, found: Diagnostics, broken: frozenset[str] | set[str]) -> None:
    name = arg.callee if isinstance(arg, ast.Call) else arg
    if not isinstance(name, ast.Name):
        found.error("E0501", "name a language", arg.span, help="for example `recognizes parity`")
        return
    if name.id in LANGUAGES:
        wants = name.id == "mod"
        given = arg.args if isinstance(arg, ast.Call) else ()
        fits = len(given) == 1 and _whole(given[0].value, 2) if wants else not isinstance(arg, ast.Call)
        if not fits:
            form = "`mod(m)` with a number of at least 2" if wants else "`parity`"
            found.error("E0501", f"this language is written {form}", arg.span)
        return
    binding = scope.lookup(name.id)
    known = [n for s in scope.chain() for n, b in s.bindings.items() if b.kind in ("automaton", "language")]
    if name.id in broken or (binding is not None and binding.kind == "value"):
        return  # reported where it is declared or imported
    if binding is None or binding.kind not in ("automaton", "language"):
        what = "is not a language" if binding is not None else "is an unknown language"
        hint = suggestion(name.id, [*known, *LANGUAGES]) or "declare it with `automaton` or `language`, or import it"
        found.error("E0501", f"`{name.id}` {what}", name.span, help=hint)


def _check_group(arg: ast.Expr, found: Diagnostics) -> None:
    if isinstance(arg, ast.Call) and isinstance(arg.callee, ast.Name) and arg.callee.id in GROUPS:
        least, most = GROUPS[arg.callee.id]
        if len(arg.args) == 1 and _whole(arg.args[0].value, least, most):
            return
        found.error("E0501", f"`{arg.callee.id}(n)` needs a number from {least} to {most}", arg.span)
        return
    found.error("E0501", "this is not a known group", arg.span, help="one of S(n), A(n), Z(n), D(n)")


def _whole(expr: ast.Expr, least: int, most: int = 10_000) -> bool:
    return isinstance(expr, ast.Number) and expr.is_integer and least <= expr.value <= most


# ---------------------------------------------------------------- automata and languages


def check_top_level(item: ast.TopLevel, scope: Scope, found: Diagnostics) -> None:
    """An automaton, language or task in itself."""
    match item:
        case ast.AutomatonDecl():
            _check_automaton(item, found)
        case ast.LanguageDecl():
            _check_alphabet(item.alphabet, item, found)
            _check_language_value(item, scope, found)
        case _:
            return


def _check_alphabet(alphabet: tuple[str, ...], item: ast.Located, found: Diagnostics) -> None:
    if len(set(alphabet)) < len(alphabet):
        twice = next(a for i, a in enumerate(alphabet) if a in alphabet[:i])
        found.error("E0502", f"the letter `{twice}` stands twice in the alphabet", item.span)
    if len(alphabet) > MAX_LETTERS:
        found.error("E0304", f"an alphabet has at most {MAX_LETTERS} letters", item.span)


def _check_automaton(item: ast.AutomatonDecl, found: Diagnostics) -> None:
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


def _check_language_value(item: ast.LanguageDecl, scope: Scope, found: Diagnostics) -> None:
    value = item.value
    if isinstance(value, ast.Call) and isinstance(value.callee, ast.Name) and value.callee.id == "regex":
        pattern = value.args[0].value if value.args else None
        if isinstance(pattern, ast.String):
            outside = sorted({ch for ch in pattern.value if ch.isalnum() and ch not in item.alphabet})
            if outside and all(len(a) == 1 for a in item.alphabet):
                listed = ", ".join(f"`{ch}`" for ch in outside)
                found.error("E0502", f"{listed} in the expression is no letter of `{item.name}`", pattern.span)
        return
    if isinstance(value, ast.Name):
        other = scope.lookup(value.id)
        if value.id not in LANGUAGES and (other is None or other.kind not in ("automaton", "language")):
            found.error("E0501", f"`{value.id}` is an unknown language", value.span)
