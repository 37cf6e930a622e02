"""How long a period a cascade of layers can add to a repeated word: the argument of theorems N1, N1*, N2 and N7.

Let a word w be repeated, at finite precision (products are exact, results are cast to a finite set).  A layer whose
inputs are eventually periodic over P steps has H_{t+P} = M H_t + c with M a product of P transitions.  If the
eigenvalues of M are real and nonnegative, every entry is eventually monotone in the number of rounds, so its cast is
eventually constant: the layer keeps the period P.  If they are only real, M M has nonnegative ones, and the period at
most doubles.  So after all layers the period is |w| 2^e, and a language in which some word has a period that does not
divide 2^e is out of reach.  For e = 0 and single letters this is Theorem 1 of Grazzi et al. 2025, for e > 0 their
Theorem 2; for words of any length it is the star-free ceiling of Sarrof et al. 2024.

Causal attention over such inputs is (A + n B) / (C + n D) in round n, with C + n D > 0: monotone, so its cast (it is a
layer, too) is eventually constant.

Transitions that turn by angles fixed in advance (those of a time-invariant recurrence) add no period to words whose
length p is chosen to suit them: p even where the eigenvalues are real, and for other angles such that all of them,
taken p times, are as small as one likes.  Then every entry, as a function of the number of rounds, satisfies a linear
differential equation whose exponents have small imaginary parts, so over a long time it turns round only as often as
its order says, and its cast stays the same over some two rounds that follow each other.  That says nothing of a period,
and so serves only for states that the readout alone reads: docs/ceilings.md has the proof.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from rnnc.verify.clocks import only_turns
from rnnc.verify.layers import Layer, Layers
from rnnc.verify.results import Condition
from rnnc.verify.turning import fixed_angles

Mode = Literal["letter", "word", "long"]  # "long": words of some length that suits the fixed angles


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """`exponent` e: a repeated letter (or word) has period at most 2^e (times its length) in the states; None: not
    proved, and the last of the conditions says why.  `turned`: some layer's angles had to be suited.
    """

    exponent: int | None
    conditions: tuple[Condition, ...]
    turned: bool = False

    @property
    def missing(self) -> Condition | None:
        return next((c for c in self.conditions if not c.holds), None)


def growth(layers: Layers, copies: int, mode: Mode) -> Growth:
    """For `copies` of the cell stacked with any per-step maps between, over all weights and sizes."""
    rotary = _rotary(layers) if mode == "long" and copies == 1 else frozenset()
    conditions: list[Condition] = [_form(layers, rotary)]
    if not conditions[0].holds:
        return Growth(exponent=None, conditions=tuple(conditions))
    before = 0  # the exponent of what this copy's inputs carry
    suited = False
    for copy in range(copies):
        exponents: dict[int, int] = {}
        for layer in layers.layers:
            driven = max([before if layer.reads_input else 0, *(exponents[i] for i in layer.reads)])
            gate = max([before if layer.gate_reads_input else 0, *(exponents[i] for i in layer.gate_reads)])
            steady = layer.fixed_transition or (mode == "letter" and gate == 0)
            turned = _turned(layers, layer, driven, rotary, last=copy == copies - 1) if mode == "long" else None
            suited = suited or turned is not None
            after, condition = turned or _through(layer, driven, steady)
            if after is None:
                where = f" (in copy {copy + 1} of the cell)" if copies > 1 else ""
                conditions.append(replace(condition, text=condition.text + where))
                return Growth(exponent=None, conditions=tuple(conditions), turned=suited)
            if condition not in conditions:
                conditions.append(condition)
            exponents[layer.group.index] = after
        before = max([before, *exponents.values()])
    return Growth(exponent=before, conditions=tuple(conditions), turned=suited)


def _rotary(layers: Layers) -> frozenset[int]:
    """The clocks that only turn what other layers write."""
    if layers.obstacle:
        return frozenset()
    return frozenset(layer.group.index for layer in layers.layers if layer.is_clock and only_turns(layers, layer))


def _form(layers: Layers, rotary: frozenset[int]) -> Condition:
    """The cell is a cascade of layers H_t = A(u_t) H_{t-1} + B(u_t) with any decoder."""
    text = "the cell is a cascade of linear recurrences, each with a transition free of its own state"
    for layer in layers.layers:
        if layer.feedback:
            why = f"{layer.name} also reads its own past through `{layer.feedback}`"
            return Condition(text=text, holds=False, by=why)
        if layer.group.kind == "nonlinear":
            because = layer.group.because[0][0] if layer.group.because else f"the update of {layer.name} is nonlinear"
            return Condition(text=text, holds=False, by=because)
        if layer.is_clock and layer.group.index not in rotary:
            why = f"{layer.name} is a clock that no input reaches: with a position, arguments about repeated words fail"
            return Condition(text=text, holds=False, by=why)
    groups = ", then ".join(layer.name for layer in layers.layers) or "no states"
    windows = "; conv and prev are windows of finitely many steps" if layers.windows else ""
    attention = (
        "; attention is, over a repeated word, a ratio of affine functions of the rounds" if layers.obstacle else ""
    )
    return Condition(text=text, holds=True, by=f"recurrence analysis: {groups}{windows}{attention}")


def _through(layer: Layer, driven: int, steady: bool) -> tuple[int | None, Condition]:
    """The exponent of a layer whose inputs have exponent `driven`; `steady`: its transition is eventually constant."""
    where = layer.name
    if layer.is_monotone:
        text = f"{where}: each number goes through a nondecreasing function of itself, so rounds are monotone"
        return driven, Condition(text=text, holds=True, by=f"elementwise over {layer.group.semiring}")
    s = layer.spectrum
    if steady:
        return _steady(layer, where, driven)
    product = f"{where}: all products of transitions"
    if s.products_nonnegative:
        text = f"{product} have real eigenvalues >= 0"
        return driven, Condition(text=text, holds=True, by=s.why("products_nonnegative"))
    if s.products_real:
        return driven + 1, Condition(text=f"{product} have real eigenvalues", holds=True, by=s.why("products_real"))
    text = f"{product} over {2**driven} steps have real eigenvalues" if driven else f"{product} have real eigenvalues"
    return None, Condition(text=text, holds=False, by=s.why("products_real"))


def _turned(
    layers: Layers, layer: Layer, driven: int, rotary: frozenset[int], *, last: bool
) -> tuple[int | None, Condition] | None:
    """As `_through`, of a layer that turns by fixed angles, for words of a length that suits them; None for others."""
    s = layer.spectrum
    if layer.group.index in rotary:
        text = f"{layer.name}: a clock of which other layers know cosines and sines alone, in what they write"
        return 0, Condition(text=text, holds=True, by="dependence analysis; its own cast is eventually constant")
    why = fixed_angles(layers.recurrence, layer)
    clocked = bool(layer.reads & rotary)
    if not clocked and (not why or s.products_nonnegative):
        return None
    text = f"{layer.name}: turns by angles that do not depend on the input"
    if s.real and not clocked:
        by = f"{why}, and its eigenvalues are real: words of even length"
        return driven, Condition(text=text, holds=True, by=by)
    if not why and not s.products_nonnegative:
        return None, Condition(text=text, holds=False, by=s.why("products_nonnegative"))
    why = why or s.why("products_nonnegative")
    readers = [other.name for other in layers.layers if layer.group.index in other.reads]
    readers += ["attention"] if layer.attended else []
    if last and not readers:
        return driven, Condition(text=f"{text}, and no other layer reads it", holds=True, by=why)
    reader = readers[0] if readers else "the next layer"
    text = f"{text}, and the angles are rational parts of a circle (or no other layer reads it)"
    by = f"{why}, but {reader} reads {layer.name}, and a turn by an irrational angle never comes round"
    return None, Condition(text=text, holds=False, by=by)


def _steady(layer: Layer, where: str, driven: int) -> tuple[int | None, Condition]:
    """A transition that repeats: its powers have the powers of its eigenvalues."""
    s = layer.spectrum
    if s.nonnegative:
        text = f"{where}: for every input the eigenvalues of the transition are real and >= 0"
        return driven, Condition(text=text, holds=True, by=_with_interval(layer, "nonnegative"))
    if s.real:
        text = f"{where}: for every input the eigenvalues of the transition are real"
        return max(driven, 1), Condition(text=text, holds=True, by=_with_interval(layer, "real"))
    text = f"{where}: for every input the eigenvalues of the transition are real"
    return None, Condition(text=text, holds=False, by=s.why("real"))


def _with_interval(layer: Layer, attribute: str) -> str:
    s = layer.spectrum
    where = f"spectrum in {s.interval}" if s.interval is not None else "spectrum"
    why = s.reasons.get(attribute, "")
    return f"{where}: {why}" if why else where
