"""`verify`: every claim of a spec's `expect` blocks, answered with evidence; and the standard questions of a report.

Ceilings (what no weights do) and witnesses (weights that do it) decide claims on expressivity, analyses and numbers all
others.  No verdict is moved from one precision model to another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from rnnc.diagnostics import Span
from rnnc.frontend import ast
from rnnc.ir.graph import CellIR
from rnnc.verify.ceiling import Ceiling
from rnnc.verify.ceilings import ceilings
from rnnc.verify.claims import Unclear, precision_of, text_of
from rnnc.verify.layers import Layer
from rnnc.verify.results import ClaimResult, Condition, Evidence, Precision
from rnnc.verify.structural import Answer, Subject, answer, unknown
from rnnc.verify.target import Target, target_of
from rnnc.verify.witnesses import Found, find

if TYPE_CHECKING:
    from rnnc.spec import Spec

BUDGET = 8.0  # seconds of search for the witnesses of all claims of one cell
NO_SEARCH = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResults:
    """The claims of one cell; `hyper` are the hyperparameters given."""

    cell: str
    hyper: Mapping[str, Any]
    results: tuple[ClaimResult, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The claims of one spec, cell by cell."""

    file: str
    cells: tuple[CellResults, ...]

    @property
    def results(self) -> tuple[ClaimResult, ...]:
        return tuple(r for c in self.cells for r in c.results)

    @property
    def ok(self) -> bool:
        """Whether every claim is proved, without a conjecture."""
        return all(r.verdict == "proved" for r in self.results)

    def to_json(self) -> dict[str, Any]:
        """The stable contract of `rnnc verify --json`."""
        claims = [{**r.to_json(), "cell": c.cell} for c in self.cells for r in c.results]
        return {"file": self.file, "claims": claims, "ok": self.ok}

    def to_text(self, width: int = 110) -> str:
        from rnnc.verify.text import as_text

        return as_text(self, width)

    def __str__(self) -> str:
        return self.to_text()


def verify(
    spec: Spec, cell: str | None = None, *, search: bool = True, budget: float = BUDGET, **hyper: Any
) -> Verification:
    """The claims of a cell (of every cell that has claims, when none is named), specialised on `hyper`.

    `search`: whether witnesses are searched for, for at most `budget` seconds a cell.  Raises SpecError for a spec that
    is wrong.
    """
    names = [cell] if cell is not None else list(spec.cells)
    found: list[CellResults] = []
    for name in names:
        given = hyper if len(names) == 1 else _declared(spec, name, hyper)
        ir = spec.lower(name, **given)
        if cell is not None or ir.expect or len(names) == 1:
            found.append(
                CellResults(
                    cell=ir.name, hyper=given, results=_verify_cell(spec, ir, given, budget if search else NO_SEARCH)
                )
            )
    if hyper and len(names) > 1 and all(not c.hyper for c in found):
        spec.lower(names[0], **hyper)  # reports what no cell declares
    return Verification(file=spec.file, cells=tuple(found))


def _declared(spec: Spec, cell: str, hyper: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters that this cell has, where several cells are verified at once."""
    assert spec.tree is not None
    decl = next(i for i in spec.tree.items if isinstance(i, ast.CellDecl) and i.name == cell)
    known = {h.name for h in decl.hyper}
    return {k: v for k, v in hyper.items() if k in known}


def _verify_cell(spec: Spec, cell: CellIR, given: Mapping[str, Any], budget: float) -> tuple[ClaimResult, ...]:
    dims = {p.name: int(given[p.name]) for p in cell.dims if p.name in given}
    subject = Subject(cell=cell, dims=dims)
    engine = Engine(subject=subject, budget=budget)
    claims = [c for c in cell.expect if isinstance(c, ast.Claim)]
    return tuple(engine.result(spec, claim) for claim in claims)


class Engine:
    """Verdicts on one cell; `budget` is what is left of the time for searches, in seconds."""

    def __init__(self, subject: Subject, budget: float = BUDGET) -> None:
        self.subject = subject
        self.budget = budget
        self._found: dict[tuple[str, int, Precision], Found | str] = {}

    def result(self, spec: Spec, claim: ast.Claim) -> ClaimResult:
        """One claim of an `expect` block."""
        precision = precision_of(claim)
        if claim.kind in ("recognizes", "tracks"):
            try:
                target = target_of(spec, claim)
            except Unclear as missing:
                found: Answer = unknown(str(missing))
            else:
                return replace(
                    self.decide(target, negated=claim.negated, precision=precision, copies=claim.layers or 1),
                    claim=text_of(spec, claim),
                    line=claim.span.line,
                )
        elif claim.precision or claim.layers:
            found = unknown("a meaning: `under` and `with layers` belong to claims on languages and groups")
        else:
            found = answer(self.subject, claim)
            precision = "exact"
            found = _negated(found) if claim.negated else found
        return ClaimResult(
            claim=text_of(spec, claim),
            line=claim.span.line,
            verdict=found.verdict,
            precision=precision,
            reason=found.reason,
            evidence=found.evidence,
        )

    # ------------------------------------------------------------ expressivity

    def decide(
        self, target: Target, *, negated: bool = False, precision: Precision = "finite_precision", copies: int = 1
    ) -> ClaimResult:
        """Whether some weights do what `target` asks (`negated`: whether none do)."""
        what = f"not {target.what}" if negated else target.what
        tried: list[Ceiling] = []
        for ceiling in ceilings(self.subject.layers, target, copies, precision):
            if ceiling.holds:
                return _from_ceiling(what, ceiling, negated, self._facts(copies))
            tried.append(ceiling)
        found = self._witness(target, copies, precision)
        if isinstance(found, Found):
            return ClaimResult(
                claim=what,
                line=0,
                verdict="refuted" if negated else "proved",
                precision=precision,
                reason=found.reason,
                evidence=Evidence(kind="witness", source=found.source, data=found.data, proof=found.proof),
            )
        reason = f"no theorem rules it out ({_nearest(tried, precision)}), and {found}"
        return ClaimResult(
            claim=what,
            line=0,
            verdict="unknown",
            precision=precision,
            reason=reason,
            evidence=Evidence(kind="theorem", conditions=_missing(tried)) if tried else None,
        )

    def _facts(self, copies: int) -> dict[str, Any]:
        """What the analyses say of every layer, as plain JSON: a theorem's conditions rest on it."""
        return {"copies": copies, "layers": [_layer_json(layer) for layer in self.subject.layers.layers]}

    def _witness(self, target: Target, copies: int, precision: Precision) -> Found | str:
        """A witness under this precision, or why there is none."""
        key = (target.what, copies, precision)
        if key not in self._found:
            self._found[key], spent = find(self.subject, target, copies, precision, self.budget)
            self.budget -= spent
        return self._found[key]


def _negated(found: Answer) -> Answer:
    """The answer to `not CLAIM`."""
    match found.verdict:
        case "proved":
            return replace(found, verdict="refuted")
        case "refuted":
            return replace(found, verdict="proved")
        case _:
            return found


def _layer_json(layer: Layer) -> dict[str, Any]:
    s = layer.spectrum
    facts = ("real", "nonnegative", "products_real", "products_nonnegative", "diagonalisable")
    return {
        "states": list(layer.group.states),
        "kind": layer.group.kind,
        "semiring": layer.group.semiring,
        "structure": layer.group.structure,
        "interval": None if s.interval is None else str(s.interval),
        "facts": {name: s.why(name) for name in facts if getattr(s, name)},
    }


def _from_ceiling(what: str, ceiling: Ceiling, negated: bool, facts: dict[str, Any]) -> ClaimResult:
    assuming = f", if {ceiling.assuming}" if ceiling.assuming else ""
    proved = "proved_conditional" if ceiling.assuming else "proved"
    data: dict[str, Any] = {"theorem": ceiling.theorem, "assuming": ceiling.assuming, **ceiling.data, **facts}
    if not negated and ceiling.assuming:  # refuted only if the conjecture holds: not refuted
        verdict, reason = "unknown", f"{ceiling.reason}{assuming}: then no weights do it"
    else:
        verdict, reason = (proved if negated else "refuted"), f"{ceiling.theorem}: {ceiling.reason}{assuming}"
    return ClaimResult(
        claim=what,
        line=0,
        verdict=verdict,  # type: ignore[arg-type]
        precision=ceiling.precision,
        reason=reason,
        evidence=Evidence(kind="theorem", source=ceiling.source, conditions=ceiling.conditions, data=data),
    )


def _missing(tried: Sequence[Ceiling]) -> tuple[Condition, ...]:
    """The first open condition of every theorem that was tried."""
    open_ = [replace(c.missing, text=f"{c.theorem}: {c.missing.text}") for c in tried if c.missing is not None]
    return tuple(dict.fromkeys(open_))


def _nearest(tried: Sequence[Ceiling], precision: Precision) -> str:
    """What kept the theorems from applying, in few words."""
    if not tried:
        return f"none is known under {precision}"
    why: dict[str, list[str]] = {}
    for c in tried:
        if c.missing is not None:
            why.setdefault(c.missing.by or c.missing.text, []).append(c.theorem)
    return "; ".join(f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in why.items())


# ---------------------------------------------------------------- the standard questions of a report

STANDARD: tuple[tuple[str, tuple[int, ...]], ...] = (
    ("parity", ()),
    ("mod", (3,)),
    ("flip_flop", ()),
    ("alternating", ()),
)
STANDARD_GROUPS = (("S", 3), ("S", 5))


def standard_targets() -> tuple[Target, ...]:
    """Parity, counting mod 3, a flip-flop, (ab)*, and the smallest groups that are not abelian and not solvable."""
    from rnnc.verify.languages.language import group_of, language_of, show

    languages = [_named(name, *args) for name, args in STANDARD]
    groups = [_named(family, n) for family, n in STANDARD_GROUPS]
    return (
        *(Target(what=f"recognizes {show(e)}", task=language_of(None, e)) for e in languages),
        *(Target(what=f"tracks group {show(e)}", task=group_of(e)) for e in groups),
    )


def _named(name: str, *args: int) -> ast.Expr:
    """`name`, or `name(args)`."""
    at = Span("<question>", 0, 0, 1, 1, 1, 1)
    numbers = [ast.Number(span=at, value=Fraction(n), is_integer=True, text=str(n)) for n in args]
    callee = ast.Name(span=at, id=name)
    given = tuple(ast.Argument(span=at, value=n) for n in numbers)
    return ast.Call(span=at, callee=callee, args=given) if args else callee


def expressivity(cell: CellIR, dims: Mapping[str, int] | None = None, *, search: bool = False) -> list[ClaimResult]:
    """The standard questions about one cell, under finite precision; without `search` by theorems alone."""
    subject = Subject(cell=cell, dims=dict(dims or {}))
    engine = Engine(subject, BUDGET if search else NO_SEARCH)
    return [engine.decide(target) for target in standard_targets()]
