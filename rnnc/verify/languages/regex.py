"""Regular expression -> minimal automaton."""

from __future__ import annotations

from collections.abc import Sequence

from rnnc.frontend.patterns import PatternToken, read_pattern
from rnnc.verify.languages.dfa import DFA, explore, minimise

MAX_SUBSETS = 20_000  # states of the automaton before it is made minimal

_FIRST = 0xE000  # letters become single characters of Unicode's private use area, which no operator is among


def regex_dfa(pattern: str, alphabet: Sequence[str], *, most: int = MAX_SUBSETS) -> DFA:
    """The minimal automaton of an expression (syntax: rnnc/frontend/patterns.py).

    Raises PatternError for one that is not well formed, TooLarge when there are more than `most` sets of positions.
    """
    tokens = read_pattern(pattern, alphabet)
    return minimise(_subsets(tokens, tuple(alphabet), most))


def _subsets(tokens: tuple[PatternToken, ...], alphabet: tuple[str, ...], most: int) -> DFA:
    """The library makes a nondeterministic automaton; sets of its states are the states here (bounded)."""
    from automata.fa.nfa import NFA

    characters = {letter: chr(_FIRST + i) for i, letter in enumerate(alphabet)}
    text = "".join(t if isinstance(t, str) else chr(_FIRST + t) for t in tokens)
    nfa = NFA.from_regex(text, input_symbols=set(characters.values()))
    transitions = nfa.transitions

    def closed(states: set[int]) -> frozenset[int]:
        """With everything that is reached without a letter."""
        open_ = list(states)
        while open_:
            for target in transitions.get(open_.pop(), {}).get("", ()):
                if target not in states:
                    states.add(target)
                    open_.append(target)
        return frozenset(states)

    def step(states: frozenset[int], letter: str) -> frozenset[int]:
        c = characters[letter]
        return closed({target for q in states for target in transitions.get(q, {}).get(c, ())})

    def accepts(states: frozenset[int]) -> bool:
        return not states.isdisjoint(nfa.final_states)

    numbers: dict[frozenset[int], str] = {}

    def name(states: frozenset[int]) -> str:
        return numbers.setdefault(states, f"q{len(numbers)}")

    return explore(alphabet, closed({nfa.initial_state}), step, accepts, name=name, most=most)
