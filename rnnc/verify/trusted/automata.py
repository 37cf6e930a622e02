"""Finite automata by brute force: exploration, expressions, minimal form and comparison.

Independent of `rnnc.verify.languages` and of the library behind it; the certificate checker uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from rnnc.verify.trusted.maps import TooMany

MOST_STATES = 10_000


class Automaton(NamedTuple):
    """`delta[state][number of the letter]`; state 0 is the start; `accept` are numbers of states."""

    letters: tuple[str, ...]
    delta: tuple[tuple[int, ...], ...]
    accept: frozenset[int]

    @property
    def actions(self) -> dict[str, tuple[int, ...]]:
        """What each letter does to the states."""
        return dict(zip(self.letters, zip(*self.delta, strict=True), strict=True))


def explored(
    letters: Sequence[str], start: Hashable, step: Callable[[Any, str], Any], accept: Callable[[Any], Any]
) -> Automaton:
    """All values that are reached.  Raises TooMany."""
    index, values = {start: 0}, [start]
    delta: list[tuple[int, ...]] = []
    for value in values:  # grows while it is walked
        row = []
        for letter in letters:
            after = step(value, letter)
            if after not in index:
                if len(values) * len(letters) > 100 * MOST_STATES or len(values) == MOST_STATES:
                    raise TooMany("an automaton of too many states")
                index[after] = len(values)
                values.append(after)
            row.append(index[after])
        delta.append(tuple(row))
    return Automaton(tuple(letters), tuple(delta), frozenset(k for k, v in enumerate(values) if accept(v)))


def minimal(a: Automaton) -> Automaton:
    """The least automaton of the same language (Moore): of reachable states, those that no word tells apart are one."""
    block = [int(q in a.accept) for q in range(len(a.delta))]
    while True:
        first: dict[Any, int] = {}
        finer = [first.setdefault((block[q], *(block[t] for t in row)), len(first)) for q, row in enumerate(a.delta)]
        if len(first) == len(set(block)):
            break
        block = finer
    some = {b: q for q, b in reversed(list(enumerate(block)))}
    step = {(b, letter): block[t] for b, q in some.items() for letter, t in zip(a.letters, a.delta[q], strict=True)}
    return explored(a.letters, block[0], lambda b, letter: step[b, letter], lambda b: some[b] in a.accept)


def same_language(a: Automaton, delta: Any, start: int, accept: Iterable[int]) -> bool:
    """Whether an automaton over the same letters accepts the same nonempty words."""
    accepting, seen, work = set(accept), {(0, start)}, [(0, start)]
    for p, q in work:  # grows while it is walked
        pairs = set(zip(a.delta[p], delta[q], strict=True))
        if any((s in a.accept) != (t in accepting) for s, t in pairs):
            return False
        work += pairs - seen
        seen |= pairs
    return True


def told_by(parts: Sequence[tuple[Any, int]], a: Automaton) -> bool:
    """Whether the states that automata over the same letters, (delta, start), reach by a nonempty word tell `a`'s.

    Letters with the same number are the same.  Raises TooMany.
    """
    seen: dict[tuple[int, ...], int] = {}
    work = [(tuple(start for _, start in parts), 0)]
    for at, q in work:  # grows while it is walked
        for j in range(len(a.letters)):
            after = tuple(delta[p][j] for (delta, _), p in zip(parts, at, strict=True))
            if after not in seen:
                if len(work) * len(a.letters) > 100 * MOST_STATES:
                    raise TooMany("a product of too many states")
                seen[after] = a.delta[q][j]
                work.append((after, a.delta[q][j]))
            elif seen[after] != a.delta[q][j]:
                return False
    return True


def strays(steps: Any, g: Any, delta: Any, start: int) -> str:
    """The first state and letter for which g of the next state is not where the automaton goes, or "".

    State 0 is the initial one, which stands for the automaton's start whatever g says of it.
    """
    for k, row in enumerate(steps):
        for j, to in enumerate(row):
            wanted = {delta[q][j] for q in {g[k]} | ({start} if k == 0 else set())}
            if wanted != {g[to]}:
                return f"state {k}, letter {j}: g of state {to} is {g[to]}, the automaton goes to {wanted}"
    return ""


# ---------------------------------------------------------------- expressions

# A sequence of factors: a letter, ("|", alternatives), ("*", body) or ("+", body); all of these are sequences again.
Expression: TypeAlias = tuple[Any, ...]


def expression(tokens: Iterable[int | str]) -> Expression:
    """From numbers of letters and the operators `|`, `*`, `+`, `?` and parentheses, which are well formed."""
    open_: list[list[list[Any]]] = [[[]]]  # of each open group its alternatives
    for token in tokens:
        match token:
            case "(":
                open_.append([[]])
            case ")":
                closed = ("|", tuple(map(tuple, open_.pop())))
                open_[-1][-1].append(closed)
            case "|":
                open_[-1].append([])
            case "*" | "+":
                body = open_[-1][-1].pop()
                twice = not isinstance(body, int) and body[0] in "*+"  # as in `a+*`
                again = ("+" if token == body[0] == "+" else "*", body[1]) if twice else (token, (body,))
                open_[-1][-1].append(again)
            case "?":
                open_[-1][-1].append(("|", ((open_[-1][-1].pop(),), ())))
            case _:
                open_[-1][-1].append(token)
    return (("|", tuple(map(tuple, open_[0]))),)


def empty(e: Expression) -> bool:
    """Whether it has the empty word."""
    return all(
        not isinstance(f, int) and (f[0] == "*" or (empty(f[1]) if f[0] == "+" else any(map(empty, f[1])))) for f in e
    )


def derivatives(e: Expression, letter: int) -> set[Expression]:
    """What may follow a letter (Antimirov 1996): finitely many expressions, however long the word."""
    found: set[Expression] = set()
    for k, factor in enumerate(e):
        rest = e[k + 1 :]
        if isinstance(factor, int):
            found |= {rest} if factor == letter else set()
        else:
            again = () if factor[0] == "|" else (("*", factor[1]),)
            parts = factor[1] if factor[0] == "|" else (factor[1],)
            found |= {(*d, *again, *rest) for part in parts for d in derivatives(part, letter)}
        if not empty((factor,)):
            break
    return found


def of_expression(tokens: Iterable[int | str], letters: Sequence[str]) -> Automaton:
    number = {a: k for k, a in enumerate(letters)}

    def step(state: frozenset[Expression], letter: str) -> frozenset[Expression]:
        return frozenset(d for e in state for d in derivatives(e, number[letter]))

    return explored(letters, frozenset({expression(tokens)}), step, lambda state: any(map(empty, state)))
