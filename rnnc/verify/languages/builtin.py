"""The automata of the languages that need no declaration (their letters: rnnc/frontend/languages.py)."""

from __future__ import annotations

from collections.abc import Callable

from rnnc.frontend.languages import LANGUAGES, bracket_letters
from rnnc.verify.languages.dfa import DFA, explore


def parity() -> DFA:
    """Words over 0 and 1 with an odd number of ones."""
    delta = ((0, 1), (1, 0))
    return DFA(alphabet=("0", "1"), states=("even", "odd"), delta=delta, start=0, accept=frozenset({1}))


def mod(m: int) -> DFA:
    """Words over 0 and 1 whose number of ones is divisible by m."""
    delta = tuple((q, (q + 1) % m) for q in range(m))
    names = tuple(map(str, range(m)))
    return DFA(alphabet=("0", "1"), states=names, delta=delta, start=0, accept=frozenset({0}))


def unary_mod(m: int) -> DFA:
    """Words over the one letter 1 whose length is divisible by m: (1^m)*."""
    delta = tuple(((q + 1) % m,) for q in range(m))
    return DFA(alphabet=("1",), states=tuple(map(str, range(m))), delta=delta, start=0, accept=frozenset({0}))


def flip_flop() -> DFA:
    """Words over set, reset and hold whose last letter other than hold is set."""
    delta = ((1, 0, 0), (1, 0, 1))
    letters = ("set", "reset", "hold")
    return DFA(alphabet=letters, states=("off", "on"), delta=delta, start=0, accept=frozenset({1}))


def alternating() -> DFA:
    """(ab)*: star-free, though `a` and `b` take turns."""
    delta = ((1, 2), (2, 0), (2, 2))
    states = ("after_b", "after_a", "error")
    return DFA(alphabet=("a", "b"), states=states, delta=delta, start=0, accept=frozenset({0}))


def dyck(k: int, depth: int) -> DFA:
    """Well-nested words of k kinds of brackets, never more than `depth` open at once."""
    letters = bracket_letters(k)

    def step(stack: tuple[int, ...] | None, letter: str) -> tuple[int, ...] | None:
        kind, closes = divmod(letters.index(letter), 2)
        if stack is None or (closes and stack[-1:] != (kind,)):
            return None
        if closes:
            return stack[:-1]
        return (*stack, kind) if len(stack) < depth else None

    def name(stack: tuple[int, ...] | None) -> str:
        return "error" if stack is None else "".join(letters[2 * kind] for kind in stack) or "empty"

    start: tuple[int, ...] | None = ()
    return explore(letters, start, step, lambda stack: stack == (), name=name)


def arithmetic(m: int) -> DFA:
    """Well-formed sums, differences and products of digits below m, `*` before `+` and `-`, of value 0 modulo m.

    A state is (sum of the finished terms, the signed product so far, whether a digit ends the word): after `+` a term
    begins as the product 1, after `-` as -1, so that the same states serve them and `*`.
    """

    def step(state: tuple[int, int, bool] | None, letter: str) -> tuple[int, int, bool] | None:
        if state is None or state[2] == letter.isdigit():
            return None
        total, factor, _ = state
        match letter:
            case "*":
                return (total, factor, False)
            case "+":
                return ((total + factor) % m, 1 % m, False)
            case "-":
                return ((total + factor) % m, -1 % m, False)
            case _:
                return (total, factor * int(letter) % m, True)

    def accepts(state: tuple[int, int, bool] | None) -> bool:
        return state is not None and state[2] and (state[0] + state[1]) % m == 0

    def name(state: tuple[int, int, bool] | None) -> str:
        return "error" if state is None else f"{state[0]}+{state[1]}{'' if state[2] else '*'}"

    start: tuple[int, int, bool] | None = (0, 1 % m, False)
    return explore(LANGUAGES["arithmetic"].letters(m), start, step, accepts, name=name)


def left_arithmetic(m: int) -> DFA:
    """As `arithmetic`, but worked out from the left to the right: 1 + 2 * 3 is 9.

    A state is the value so far and the operator that waits for a digit, if any.
    """

    def step(state: tuple[int, str] | None, letter: str) -> tuple[int, str] | None:
        if state is None or bool(state[1]) != letter.isdigit():
            return None
        value, waiting = state
        match waiting:
            case "":
                return (value, letter)
            case "+":
                return ((value + int(letter)) % m, "")
            case "-":
                return ((value - int(letter)) % m, "")
            case _:
                return (value * int(letter) % m, "")

    def name(state: tuple[int, str] | None) -> str:
        return "error" if state is None else f"{state[0]}{state[1]}"

    letters = LANGUAGES["left_arithmetic"].letters(m)
    start: tuple[int, str] | None = (0, "+")
    return explore(letters, start, step, lambda state: state == (0, ""), name=name)


# `dyck(k)` without a depth has no automaton.
BUILDERS: dict[str, Callable[..., DFA]] = {
    "parity": parity,
    "mod": mod,
    "unary_mod": unary_mod,
    "flip_flop": flip_flop,
    "alternating": alternating,
    "dyck": dyck,
    "arithmetic": arithmetic,
    "left_arithmetic": left_arithmetic,
}
