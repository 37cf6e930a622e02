"""What a structure can never do: what each theorem asks of the layers and of the language (docs/verification.md).

A rule takes the cell, the number of copies, what the letters of the language do (a map of states for each) and the word
of the certificate; it raises Reject at the first condition that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rnnc.ir.graph import ancestors
from rnnc.verify.trusted.cells import Cell, names, need
from rnnc.verify.trusted.floats import rises
from rnnc.verify.trusted.maps import Map, composed, derived_length, lasting, lasting_image, period
from rnnc.verify.trusted.transitions import Transition

FLOATS = ("float16", "bfloat16", "float32", "float64")


class Theorem(NamedTuple):
    models: tuple[str, ...]  # precision models that it speaks of
    holds: Callable[[Cell, int, Mapping[str, Map], Any], None]
    assuming: str = ""  # a conjecture


def action(letters: Mapping[str, Map], word: Any) -> Map:
    need(word and letters, "the theorem speaks of words of a regular language")
    return composed((letters[a] for a in word), len(next(iter(letters.values()))))


# ---------------------------------------------------------------- periods


def exponent(c: Cell, copies: int, mode: str) -> int:
    """e: a repeated letter (word, word of suitable length) has period at most 2^e, in words, in the states.

    Attention over a repeated word is a ratio of affine functions of the rounds: it adds no period.
    """
    before = 0
    for copy in range(copies):
        found: dict[str, int] = {}
        rotary = {
            g[0] for g in c.groups if mode == "long" and copies == 1 and len(g) == 1 and c.clock(g) and c.rotary(*g)
        }
        for group in c.groups:
            tropical, own, name = c.tropical(group), set(group), names(group)
            t = Transition() if tropical else c.transition(group)
            reads, varying = c.sources(c.updates(group))
            gates, gated = c.sources(t.nodes)
            driven = max([before if varying else 0, *(found[s] for s in reads - own)])
            calm, fixed = not any([gated and before, *(found[s] for s in gates)]), not (gates or gated)
            steady = fixed or (mode == "letter" and calm)
            turns = mode == "long" and not tropical and (fixed or (t.single and all(map(c.turns, t.nodes))))
            read = [u for g in c.groups if g != group for u in c.updates(g)] + c.attends
            alone = copy + 1 == copies and not own & c.sources(read)[0]
            need(not c.clock(group) or own & rotary, f"{name} is a clock that no input reaches")
            need(not (reads & rotary - own) or (turns and alone), f"{name} reads a clock")
            need(tropical or t.eigenvalues or t.products or (turns and alone), f"{name}: eigenvalues may not be real")
            need(tropical or steady or turns or t.products, f"{name}: products may not have real eigenvalues")
            one = t.eigenvalues if steady else t.products
            keeps = tropical or turns or (one is not None and one.lo >= 0)
            found |= dict.fromkeys(group, driven if keeps else max(driven, 1) if steady else driven + 1)
        before = max([before, *found.values()])
    return before


def periods(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N1, N1*, N2: Grazzi et al. 2025, Theorems 1 and 2; Sarrof et al. 2024."""
    f, e = action(letters, word), exponent(c, copies, "letter" if len(word) == 1 else "word")
    need(2**e % period(f), f"{word} has period {period(f)}, and the layers may have {2**e}")


def fixed_angles(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N7: docs/ceilings.md."""
    f = action(letters, word)
    need(lasting(list(letters.values()), f), f"no words of all suitable lengths do what {word} does")
    e = exponent(c, copies, "long")
    need(2**e % period(f), f"{word} has period {period(f)}, and the layers may have {2**e}")


def star_free(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N1* under eta_finite: Metric Automata Theory, Theorem 6."""
    recurrent(c)
    need(all("plus_times" in c.semirings(g) for g in c.groups), "a layer is not linear over (+, x)")
    need(period(action(letters, word)) > 1 and exponent(c, copies, "word") == 0, f"{word} or the layers have no period")
    continuous(c, copies)


# ---------------------------------------------------------------- other theorems


def recurrent(c: Cell) -> None:
    need(not c.attends, "attention reads all steps before")


def continuous(c: Cell, copies: int) -> None:
    need(c.depth * copies <= 1 or copies == 1, "the maps between copies of the cell are any maps")
    need(c.depth <= 1 or not c.jumps(), f"what layers pass on goes through {c.jumps()}")


def contraction(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """Metric Automata Theory: strict contractions forget under a repeated letter."""
    recurrent(c)
    for group in c.groups:
        norm = c.transition(group).norm
        need(norm.hi < 1 or (norm.hi == 1 and norm.hi_open), f"{names(group)}: the norm is in {norm}")
        need(not c.clock(group), f"{names(group)} is a clock that no input reaches")
    need(any(len(lasting_image(f)) > 1 for f in letters.values()), "every letter, repeated, leads to one state")
    continuous(c, copies)


def abelian_series(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N3, N3k: Shakerinava et al.; a layer reads inputs and, of earlier layers, states of the same step."""
    recurrent(c)
    for group in c.groups:
        need(c.transition(group).diagonal, f"{names(group)}: transitions may not be diagonal in one basis")
        need(not c.clock(group), f"{names(group)} is a clock that no input reaches")
    roots = [(set(g), c.updates(g)) for g in c.groups] + [(set[str](), [o.node for o in c.cell.outputs])] * (copies > 1)
    for own, nodes in roots:
        follows = not own or c.sources(nodes)[0] - own
        need(not (follows and c.windows), f"what follows {own} looks back")
        for s in c.cell.states if follows else ():
            seen = ancestors(c.cell, nodes, frozenset({s.update}) - set(nodes))
            need(s.name in own or s.node not in seen, f"`{s.name}` is read before the step")
    need(letters and all(len(set(f)) == len(f) for f in letters.values()), "the language is that of no group")
    length = derived_length(letters.values())
    need(length is None or length > c.depth * copies, f"the derived series has length {length}")


def threshold_circuits(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N4: Merrill, Petty and Sabharwal 2024 (of attention: 2023); a group that is not solvable is complete for NC1.

    `word` has several words that permute the states which all letters together keep apart: the group that they generate
    there is a quotient of one in the monoid.
    """
    for group in c.groups:
        diagonal = c.fixed(group) or c.transition(group).diagonal
        need(diagonal, f"{names(group)}: gated, and transitions may not be diagonal in one basis")
    need(letters, "the language is not regular")
    maps = [action(letters, w) for w in word] if word else [*letters.values()]
    places = sorted(lasting_image(composed(maps, len(maps[0]))))
    need(all({f[q] for q in places} == set(places) for f in maps), "the words do not permute what they keep apart")
    length = derived_length([tuple(places.index(f[q]) for q in places) for f in maps])
    need(length is None, f"the group is solvable: its derived series has length {length}")


def rounding(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N5: each number goes through a nondecreasing map of finitely many floats; -0.0 and 0.0 are one number."""
    recurrent(c)
    need(not c.divides(), "a layer may divide by a state, and so tell -0.0 from 0.0")
    for group in c.groups:
        need(
            len(group) == 1 and (c.tropical(group) or c.transition(group).elementwise),
            f"{names(group)} is not elementwise",
        )
        need(not c.clock(group), f"{names(group)} is a clock that no input reaches")
        s = c.states[group[0]]
        real = c.cell.nodes[s.node].type.dtype == "real"
        need(real and rises(c.cell, s.update, s.node), f"as it is written, the update of {names(group)} may fall")
    need(period(action(letters, word)) > 1, f"{word} has no period")


def finite_states(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N6: finitely many floats make a finite automaton."""
    recurrent(c)
    need(not letters, "the language is regular")


def squashed(c: Cell, copies: int, letters: Mapping[str, Map], word: Any) -> None:
    """N6 at finite precision: Weiss et al. 2018, Merrill 2019."""
    finite_states(c, copies, letters, word)
    for group in c.groups:
        need(not c.semirings(group) and c.bounded(group), f"{names(group)} is linear, or may grow")


THEOREMS: dict[str, tuple[Theorem, ...]] = {
    "N1": (Theorem(("finite_precision",), periods),),
    "N1*": (Theorem(("finite_precision",), periods), Theorem(("eta_finite",), star_free)),
    "N2": (Theorem(("finite_precision",), periods),),
    "N3": (Theorem(("finite_precision",), abelian_series),),
    "N3k": (Theorem(("finite_precision",), abelian_series),),
    "N4": (Theorem(("log_precision",), threshold_circuits, "TC0 != NC1"),),
    "N5": (Theorem(FLOATS, rounding),),
    "N6": (Theorem(FLOATS, finite_states), Theorem(("finite_precision",), squashed)),
    "N7": (Theorem(("finite_precision",), fixed_angles),),
    "contraction": (Theorem(("eta_finite",), contraction),),
}


def excluded(c: Cell, copies: int, model: str, letters: Mapping[str, Map], data: Any) -> str:
    """Whether a theorem rules a language out under a precision model; the conjecture that it rests on."""
    for theorem in THEOREMS[data["theorem"]]:
        if model in theorem.models:
            need(data.get("assuming", "") == theorem.assuming, f"it holds if {theorem.assuming or 'no conjecture'}")
            theorem.holds(c, copies, letters, data["word"])
            return theorem.assuming
    need(False, f"{data['theorem']} says nothing under {model}")
    raise AssertionError
