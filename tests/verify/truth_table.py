"""What each cell of the first wave can and cannot do, with the source of every entry.

`truth` is what holds in the default precision model (`finite_precision`), by the literature or by a derivation; `open`
where neither is known to us.  `rnnc verify` must find it, by one of the theorems N1 to N7 or by a witness, but for the
entries of `NOT_FOUND`, where `unknown` is a right answer, too.  A verdict may never contradict `truth`, and must be
`unknown` where that is open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from rnnc.frontend import ast
from rnnc.spec import parse
from rnnc.verify.languages import GroupTask, Language, group_of, language_of

Truth = Literal["yes", "no", "open"]
Verdict = Literal["proved", "refuted", "unknown"]

# The languages of the columns.  `SeenB` is the star-free one: some b has been read.
DECLARATIONS = 'language SeenB over {a, b} = regex "[ab]*b[ab]*"'
PARITY, MOD3, MOD4 = "recognizes parity", "recognizes mod(3)", "recognizes mod(4)"
FLIP_FLOP, SEEN, ALTERNATING = "recognizes flip_flop", "recognizes SeenB", "recognizes alternating"
S3, S5 = "tracks group S(3)", "tracks group S(5)"
S3_GENERATORS, S5_GENERATORS = "tracks group S(3, letters = generators)", "tracks group S(5, letters = generators)"
COUNTERS = (PARITY, MOD3, MOD4)
GROUPS = (S3, S5, S3_GENERATORS, S5_GENERATORS)
CLAIMS = (*COUNTERS, FLIP_FLOP, SEEN, ALTERNATING, *GROUPS)

SOURCES = {
    "N1": (
        "Grazzi et al. 2025, Theorem 1, for one letter: all spectra real and nonnegative, so a repeated letter ends "
        "in one state; every one of these has a letter of period above 1"
    ),
    "N1 after m": (
        "derived from Grazzi et al. 2025, Theorem 1: m is a max-plus recurrence whose forget gate is below 0, so a "
        "repeated letter leaves it at one value; then C and n have constant transitions in (0, 1]"
    ),
    "N2": (
        "Grazzi et al. 2025, Theorem 2: one symmetric factor a step has a real spectrum, so in one layer a repeated "
        "letter has no period that is not a power of 2"
    ),
    "real, |.| <= 1": (
        "derived as in Grazzi et al. 2025, Theorem 2: in one layer a repeated letter multiplies by one symmetric "
        "matrix with eigenvalues in [-1, 1], which has period 1 or 2 in the end; period 4 is out of reach"
    ),
    "N3": "Shakerinava et al.: one layer of commuting diagonal transitions tracks no non-abelian group",
    "N3k": (
        "Shakerinava et al.: k layers of diagonal transitions track only groups with a subnormal series of length k "
        "with abelian factors, and S(5) has none"
    ),
    "N7": (
        "docs/ceilings.md: fixed angles tell positions, not contents, so in one layer only languages in AC0 (for parity"
        ": Sarrof et al. 2024)"
    ),
    "flip": (
        "theory.md, parity: h0 = 0; a(0) = 1, b(0) = 0; a(1) = -1, b(1) = 1; -1 is in the closure of the range (a key"
        " e1 with beta towards 2): in the limit"
    ),
    "two reflections": (
        "theory.md, mod m: rotation by 2 pi / m as two reflections; their keys lie 180/m degrees apart, so both have "
        "entries >= 0, as l2norm(silu(.)) in the limit needs"
    ),
    "ones alternate": (
        "derived from Grazzi et al. 2025, Theorem 6: layer 1 is the parity of the ones; layer 2 reflects on a 1 only,"
        " alternately in two lines 180/m degrees apart, which is dihedral of order 2m; keys with entries >= 0"
    ),
    "cycles alternate": (
        "derived as the row above: layer 1 is the parity of the cycles; layer 2 holds z, or its mirror image while that"
        " is odd, so that a cycle is a reflection, and a swap one, too; lines at 0, 30 and 60 degrees do"
    ),
    "Grazzi 3": (
        "Grazzi et al. 2025, Theorem 3: the cycle is a product of n-1 swaps of neighbours; swapping i and i+1 up to "
        "signs is the reflection in e_i + e_(i+1), whose entries are >= 0"
    ),
    "overwrite": "theory.md, flip-flop: set (0, 1), reset (0, 0), hold (1, 0); the ends of the gates are limits",
    "overwrite a key": (
        "derived from the flip-flop of theory.md: set and reset write 1 or 0 at the key e1 with beta = 1, hold writes"
        " 0 at e2"
    ),
    "stabiliser": (
        "derived from the flip-flop of theory.md: f = -infinity sets m' = i and drops the old C and n, i = -infinity "
        "with f = 0 holds them"
    ),
    "latch": ("derived: from 0, b adds a positive number and a holds (a gate towards 1): positive exactly after a b"),
    "latch, f >= floor": (
        "derived: from 0, b leads above (1-f) c > 0 and a holds (f towards 1); not finitely many states in exact "
        "arithmetic"
    ),
    "count": "derived: the modulus towards 1, h counts the letters b: 0 exactly before the first",
    "window": (
        "derived: one latch is set by an a after an a, another by a b that follows no a; a convolution over two steps "
        "shows both letters, so each is a threshold of a sum (where the gate reads the letter alone, the sum is "
        "rectified and added up)"
    ),
    "relu DFA": (
        "theory.md: h_t[q', s] = ReLU(sum over delta(p, t) = q' of h_(t-1)[p, t] + 1[x_t = s] - 1), any DFA; a unit "
        "that is 1 after the first step stands for the start"
    ),
    "threshold DFA": (
        "derived from the ReLU automaton: tanh of an infinite multiple is a sign, so thresholds run any DFA (Merrill "
        "2019: saturated Elman networks, GRU and LSTM recognise the regular languages)"
    ),
    "sLSTM DFA": "as the threshold automaton: f = -infinity makes m' = i, c' = z and n' = 1, so h' = o z",
    "1 layer, no delay": ("no theorem of theory.md and no witness: one diagonal layer does not see the letter before"),
    "bigram": "no theorem and no witness: no bias in the maps of keys and values",
    "averages": (
        "derived: f >= 1/2 erases in no step, but two numbers that average the letters, with f = 1/2 for both and with "
        "f = 1/2 and 3/4, have disjoint compact images after a last set and after a last reset; f towards 1 holds"
    ),
    "rotary": (
        "docs/ceilings.md: t turns what is written and nothing else, which tells positions and not contents; as N7"
    ),
    "fixed decay": "no theorem and no witness: the decay is the same at every step, below 1, so all that is held fades",
    "three factors": ("trap 1: products of three factors have negative and complex eigenvalues, so N1 does not apply"),
    "LTI": "no theorem and no witness: a constant complex transition, and a language in AC0",
    "LTI, k layers": (
        "no theorem: angles that may be irrational under another layer (for roots of unity: Sarrof et al. 2024, Khavari"
        " et al. 2025)"
    ),
    "phases": "no theorem and no witness: the phases are fixed, only the moduli depend on the input; in AC0",
    "three lines": (
        "no theorem and no witness: the swaps of three points reflect in three lines at 60 degrees, of which two lie "
        "in the quadrant of keys with entries >= 0 (the others are kept from |k| = 1 by eps)"
    ),
    "few factors": (
        "no theorem and no witness: fewer reflections a step than the longest cycle needs (Grazzi Theorem 3)"
    ),
    "four of two lines": (
        "derived: with reflections s, t in two lines at 60 degrees the elements of S(3) are 1, s, t, st, ts and sts"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A cell of stdlib/`file`.rnn with its hyperparameters."""

    file: str
    cell: str
    hyper: tuple[tuple[str, int | float | bool], ...] = ()

    @property
    def name(self) -> str:
        return self.cell + "".join(f" {key}={value}" for key, value in self.hyper)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One claim about one cell; `source` is a key of SOURCES; `attained`: without a limit."""

    subject: Subject
    claim: str
    layers: int
    truth: Truth
    source: str
    attained: bool = False

    @property
    def text(self) -> str:
        """The claim as an `expect` block has it."""
        return self.claim if self.layers == 1 else f"{self.claim} with layers = {self.layers}"

    @property
    def missing(self) -> str:
        """What the search lacks to find weights that exist, or ""."""
        return next((why for cells, claims, why in NOT_FOUND if self.subject in cells and self.claim in claims), "")

    @property
    def expected(self) -> Verdict:
        if self.truth == "open" or self.missing:
            return "unknown"
        return "proved" if self.truth == "yes" else "refuted"

    @property
    def slow(self) -> bool:
        """Weights are found, but not within a second or two."""
        large = self.claim in (S5, S5_GENERATORS) and self.subject not in QUICK
        large |= self.claim == S3_GENERATORS and self.layers > 1
        return self.expected == "proved" and (
            large or self.subject == PRODUCT_4_2 or (self.subject, self.claim) in LONG
        )

    def contradicted_by(self, verdict: str) -> bool:
        """Whether a verdict of the default precision model is wrong, or claims what nobody has shown."""
        match verdict:
            case "proved" | "proved_conditional":
                return self.truth != "yes"
            case "refuted":
                return self.truth != "no"
            case _:
                return False

    def reached_by(self, verdict: str) -> bool:
        """Whether a verdict says at least what is expected."""
        return self.expected == "unknown" or verdict == self.expected


def _subject(file: str, cell: str, **hyper: int | float | bool) -> Subject:
    return Subject(file=file, cell=cell, hyper=tuple(hyper.items()))


MINGRU, MINLSTM, GLA = _subject("mingru", "MinGRU"), _subject("minlstm", "MinLSTM"), _subject("gla", "GLA")
MAMBA, MAMBA2 = _subject("mamba", "Mamba"), _subject("mamba2", "Mamba2")
RGLRU, HAWK = _subject("rglru", "RGLRU"), _subject("rglru", "Hawk")
HGRN, HGRN2 = _subject("hgrn", "HGRN"), _subject("hgrn2", "HGRN2")
HGRN_COMPLEX = _subject("hgrn", "HGRNComplex")
LRU, S4D, S5_CELL = _subject("lru", "LRU"), _subject("s4d", "S4D"), _subject("s5", "S5")
RETNET = _subject("retnet", "RetNet")
TANH, RELU = _subject("rnn", "RNN"), _subject("rnn", "RNN", rectified=True)
LSTM, GRU = _subject("lstm", "LSTM"), _subject("gru", "GRU")
MLSTM, SLSTM = _subject("mlstm", "mLSTM"), _subject("slstm", "sLSTM")
DELTA_1, DELTA_2 = (_subject("deltanet", "DeltaNet", reach=r) for r in (1, 2))
GATED_1, GATED_2 = (_subject("gated_deltanet", "GatedDeltaNet", reach=r) for r in (1, 2))
PRODUCT_2_2 = _subject("deltaproduct", "DeltaProduct", steps=2, reach=2)
PRODUCT_4_2 = _subject("deltaproduct", "DeltaProduct", steps=4, reach=2)
PRODUCT_2_1 = _subject("deltaproduct", "DeltaProduct", steps=2, reach=1)
PRODUCT_3_1 = _subject("deltaproduct", "DeltaProduct", steps=3, reach=1)

QUICK = (RELU,)

LONG = ((MAMBA, ALTERNATING), (HGRN2, FLIP_FLOP))

# Weights that exist and are not found: cells, claims, and what is missing.
NOT_FOUND: tuple[tuple[tuple[Subject, ...], tuple[str, ...], str], ...] = ()

Row = tuple[tuple[str, ...], Truth, str]  # claims, truth, source


def _no(claims: tuple[str, ...], source: str) -> Row:
    return claims, "no", source


def _yes(claims: tuple[str, ...], source: str) -> Row:
    return claims, "yes", source


def _open(claims: tuple[str, ...], source: str) -> Row:
    return claims, "open", source


def _entries(subject: Subject, *rows: Row, layers: int = 1, attained: bool = False) -> Iterator[Entry]:
    for claims, truth, source in rows:
        for claim in claims:
            yield Entry(
                subject=subject,
                claim=claim,
                layers=layers,
                truth=truth,
                source=source,
                attained=attained and truth == "yes",
            )


def _positive_diagonal() -> Iterator[Entry]:
    """Input-dependent diagonals and scalars in (0, 1): N1 in every number of layers."""
    gates: dict[Subject, tuple[Row, ...]] = {
        **{
            s: (
                _yes((FLIP_FLOP,), "overwrite"),
                _yes((SEEN,), "latch"),
                _open((ALTERNATING,), "1 layer, no delay"),
            )
            for s in (MINGRU, MINLSTM, GLA, RGLRU)
        },
        **{
            s: (_yes((FLIP_FLOP,), "overwrite"), _yes((SEEN,), "latch"), _yes((ALTERNATING,), "window"))
            for s in (MAMBA, MAMBA2, HAWK)
        },
        **{
            s: (
                _yes((FLIP_FLOP,), "averages"),
                _yes((SEEN,), "latch, f >= floor"),
                _open((ALTERNATING,), "1 layer, no delay"),
            )
            for s in (HGRN, HGRN2)
        },
    }
    for subject, rows in gates.items():
        for layers in (1, 2):
            yield from _entries(subject, _no((*COUNTERS, *GROUPS), "N1"), layers=layers)
        yield from _entries(subject, *rows)


def _time_invariant() -> Iterator[Entry]:
    for subject in (LRU, S4D, S5_CELL, HGRN_COMPLEX):
        fixed = subject != HGRN_COMPLEX
        yield from _entries(
            subject,
            _no(COUNTERS, "N7"),
            _open((FLIP_FLOP, ALTERNATING), "LTI") if fixed else _open((ALTERNATING,), "phases"),
            *(() if fixed else (_yes((FLIP_FLOP,), "averages"),)),
            _yes((SEEN,), "count" if fixed else "latch, f >= floor"),
            _no(GROUPS, "N3"),
        )
        yield from _entries(
            subject,
            _open((*COUNTERS, S3, S3_GENERATORS), "LTI, k layers"),
            _no((S5, S5_GENERATORS), "N3k"),
            layers=2,
        )
    yield from _entries(
        RETNET, _no((*COUNTERS, *GROUPS), "rotary"), _open((FLIP_FLOP, SEEN, ALTERNATING), "fixed decay")
    )


def _deltas() -> Iterator[Entry]:
    writes = (_yes((FLIP_FLOP, SEEN), "overwrite a key"), _open((ALTERNATING,), "bigram"))
    for subject in (DELTA_1, GATED_1, PRODUCT_2_1):
        for layers in (1, 2):
            yield from _entries(subject, _no((*COUNTERS, *GROUPS), "N1"), layers=layers)
        yield from _entries(subject, *writes)
    for subject in (DELTA_2, GATED_2):
        yield from _entries(
            subject,
            _yes((PARITY,), "flip"),
            _no((MOD3, *GROUPS), "N2"),
            _no((MOD4,), "real, |.| <= 1"),
            *writes,
        )
        yield from _entries(
            subject,
            _yes((PARITY,), "flip"),
            _yes((MOD3, MOD4), "ones alternate"),
            _yes((S3_GENERATORS,), "cycles alternate"),
            _open((S3,), "three lines"),
            _open((S5, S5_GENERATORS), "few factors"),
            layers=2,
        )
    yield from _entries(
        PRODUCT_2_2,
        _yes((PARITY,), "flip"),
        _yes((MOD3, MOD4), "two reflections"),
        _yes((S3_GENERATORS,), "Grazzi 3"),
        _open((S3,), "three lines"),
        _open((S5, S5_GENERATORS), "few factors"),
        *writes,
    )
    yield from _entries(
        PRODUCT_4_2,
        _yes((PARITY,), "flip"),
        _yes((MOD3, MOD4), "two reflections"),
        _yes((S3_GENERATORS, S5_GENERATORS), "Grazzi 3"),
        _yes((S3,), "four of two lines"),
        _open((S5,), "three lines"),
        *writes,
    )
    yield from _entries(PRODUCT_3_1, _open((*COUNTERS, *GROUPS), "three factors"), *writes)


def _nonlinear() -> Iterator[Entry]:
    everything = tuple(c for c in CLAIMS if c not in (S5, S5_GENERATORS))
    small = (PARITY, FLIP_FLOP)
    rest = tuple(c for c in everything if c not in small)
    yield from _entries(
        RELU,
        _yes(small, "relu DFA"),
        _yes((*rest, S5, S5_GENERATORS), "relu DFA"),
        attained=True,
    )
    for subject in (TANH, GRU, LSTM):
        yield from _entries(subject, _yes(CLAIMS, "threshold DFA"))
    yield from _entries(SLSTM, _yes(CLAIMS, "sLSTM DFA"))
    for layers in (1, 2):
        yield from _entries(MLSTM, _no((*COUNTERS, *GROUPS), "N1 after m"), layers=layers)
    yield from _entries(MLSTM, _yes((FLIP_FLOP, SEEN), "stabiliser"), _open((ALTERNATING,), "1 layer, no delay"))


TABLE: tuple[Entry, ...] = (*_positive_diagonal(), *_time_invariant(), *_deltas(), *_nonlinear())

CELL = "cell C(d: dim) {{ input x: real[d]; state h: real[d] = 0; h <- 0.5 * h + x; output y = h'; expect {{ {} }} }}"


@cache
def task_of(claim: str) -> Language | GroupTask:
    """The language or group of a column."""
    spec = parse(DECLARATIONS + "\n" + CELL.format(claim))
    assert spec.check().items == []
    assert spec.tree is not None
    cell = next(i for i in spec.tree.items if isinstance(i, ast.CellDecl))
    block = next(s for s in cell.body if isinstance(s, ast.Expect))
    expr = block.claims[0].args[0]
    return group_of(expr) if block.claims[0].kind == "tracks" else language_of(spec, expr)
