"""`rnnc verify --weights`: the claims of a cell, asked of one file of weights.

Claims about structure are answered on the cell with these weights in place of its parameters, as exact numbers: inputs
stay free.  Claims on languages: a theorem for all weights decides; else a closure of the reachable float32 states
proves, and two words with one state, or a word that the file's own readout gets wrong, refute.  Samples never prove
anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.analysis.report import spectrum_json
from rnnc.analysis.spectrum import spectrum_of
from rnnc.frontend import ast
from rnnc.ir.builder import Builder
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.rewrite import rebuild, substitute_dims
from rnnc.ir.types import Type
from rnnc.ir.unfold import inline_calls
from rnnc.verify.claims import Unclear, text_of
from rnnc.verify.engine import NO_SEARCH, CellResults, Engine, Verification
from rnnc.verify.results import ClaimResult
from rnnc.verify.spectra import spectrum_at
from rnnc.verify.structural import Answer, Subject, answer, unknown
from rnnc.verify.target import target_of
from rnnc.verify.trained import Layer, Model, Weights, layer_prefixes, read_weights, sizes_of
from rnnc.verify.words import examine

if TYPE_CHECKING:
    from rnnc.spec import Spec

Array = Any
MOST_NUMBERS = 30_000  # of weights that are put into a cell as exact numbers; the largest stay parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsVerification(Verification):
    """`spectra`: for each layer of the file and each group of states, what is proved and what was sampled."""

    weights: str
    spectra: tuple[dict[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        claims = [{**r.to_json(), "cell": c.cell} for c in self.cells for r in c.results]
        return {
            "file": self.file,
            "weights": self.weights,
            "spectra": list(self.spectra),
            "claims": claims,
            "ok": self.ok,
        }

    def to_text(self, width: int = 110) -> str:
        from rnnc.verify.text import as_text

        return f"{self.spectra_text()}\n{as_text(self, width)}"

    def spectra_text(self) -> str:
        """One line a group of states: what is proved of these weights, and what was seen."""
        return "\n".join(_spectrum_line(row, len({r["layer"] for r in self.spectra}) > 1) for row in self.spectra)


def verify_weights(
    spec: Spec, cell: str | None = None, *, path: str | Path, letters: str | None = None, **hyper: Any
) -> WeightsVerification:
    """The claims of one cell about the weights in a safetensors file.

    The file is a checkpoint of `rnnc train`, or a state dict of the compiled layer.  `letters` says what the letters of
    a language are: the name of a tensor of the file, a row a letter; or `a=0,b=1`, rows of the embedding (or unit
    vectors of the input).  Raises SpecError: E0505 for a file that does not fit the cell.
    """
    weights = read_weights(Path(path))
    name = cell if cell is not None else _cell_of(spec, weights)
    given = {**_known(spec, name, weights.hyper), **hyper}
    ir = spec.lower(name, **given)
    prefixes = layer_prefixes(ir, weights)
    names = [p.name for p in inline_calls(ir).params]
    params = [{n: weights.tensors[prefix + n] for n in names} for prefix in prefixes]
    dims = sizes_of(ir, {p.name: int(given[p.name]) for p in ir.dims if p.name in given}, params[0], Path(path))
    model = Model([Layer(ir, dims, p) for p in params], prefixes, weights)
    asked = _Asked(spec=spec, cell=ir, dims=dims, model=model, params=params, letters=letters)
    claims = [c for c in ir.expect if isinstance(c, ast.Claim)]
    results = tuple(asked.result(claim) for claim in claims)
    return WeightsVerification(
        file=spec.file,
        cells=(CellResults(cell=ir.name, hyper=given, results=results),),
        weights=str(path),
        spectra=tuple(s for i in range(len(params)) for s in asked.spectra(i)),
    )


def _cell_of(spec: Spec, weights: Weights) -> str | None:
    name = weights.about.get("cell")
    return name if name in spec.cells else None


def _known(spec: Spec, cell: str | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the run's hyperparameters that the cell has."""
    if spec.tree is None or not given:
        return {}
    declared = [i for i in spec.tree.items if isinstance(i, ast.CellDecl) and cell in (i.name, None)]
    known = {h.name for d in declared for h in d.hyper}
    return {k: v for k, v in given.items() if k in known}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One cell and one file; `params` by layer."""

    spec: Spec
    cell: CellIR
    dims: dict[str, int]
    model: Model
    params: list[dict[str, Array]]
    letters: str | None

    @cached_property
    def bound(self) -> list[Subject]:
        """The cell of each layer with its weights in place of parameters; those that stay have their values."""
        return [bound_subject(self.cell, self.dims, p) for p in self.params]

    def result(self, claim: ast.Claim) -> ClaimResult:
        text, line = text_of(self.spec, claim), claim.span.line
        if claim.kind in ("recognizes", "tracks"):
            return replace(self.language(claim), claim=text, line=line)
        found = self.structure(claim)
        if claim.negated:
            swap = {"proved": "refuted", "refuted": "proved"}
            found = replace(found, verdict=swap.get(found.verdict, found.verdict))  # type: ignore[arg-type]
        return ClaimResult(
            claim=text,
            line=line,
            verdict=found.verdict,
            precision="exact",
            reason=found.reason,
            evidence=found.evidence,
        )

    def structure(self, claim: ast.Claim) -> Answer:
        """Of every layer: the first that is not proved decides."""
        found = unknown("a layer")
        for i, bound in enumerate(self.bound):
            found = answer(bound, claim)
            if found.verdict != "proved":
                where = f" (layer {i})" if len(self.params) > 1 else ""
                return replace(found, reason=found.reason + where)
        return found

    def language(self, claim: ast.Claim) -> ClaimResult:
        """By a theorem for all weights, with these weights' counterexample beside it; else by their own states."""
        try:
            target = target_of(self.spec, claim)
            engine = Engine(Subject(cell=self.cell, dims=self.dims), NO_SEARCH)
            general = engine.decide(target, negated=claim.negated, copies=len(self.params))
            # a theorem of finite precision does not answer a claim on float32
            never = not claim.precision and general.verdict == ("proved" if claim.negated else "refuted")
            if target.dfa is None:
                raise Unclear("an automaton of the language")
            if claim.precision not in ("", "float32"):
                raise Unclear(f"an examination under {claim.precision}: these weights are run in float32")
            inputs = self.model.letters(target.dfa.alphabet, self.letters)
        except Unclear as missing:
            return ClaimResult(claim="", line=0, verdict="unknown", precision="float32", reason=f"missing: {missing}")
        own = examine(self.model, inputs, target.dfa, by_state=claim.kind == "tracks", negated=claim.negated)
        if not never:
            return own
        general = replace(general, reason=f"for all weights: {general.reason}; {own.reason}")
        if general.evidence is None or own.evidence is None:
            return general
        data = {**general.evidence.data, "these_weights": own.evidence.data}
        return replace(general, evidence=replace(general.evidence, data=data))

    def spectra(self, layer: int) -> list[dict[str, Any]]:
        bound = self.bound[layer]
        recurrence = analyse_recurrence(bound.cell)
        found = []
        for group in recurrence.groups:
            row: dict[str, Any] = {"layer": layer, "states": list(group.states), "exact_weights": not bound.fixed}
            if group.kind == "nonlinear" or group.semiring != "plus_times":
                found.append({**row, "proved": None, "sampled": None})
                continue
            samples = spectrum_at(self.cell, group, self.dims, self.params[layer])
            sampled = None
            if samples is not None and samples.norms.size:
                values = samples.eigenvalues
                sampled = {
                    "transitions": len(samples.norms),
                    "real_part": [float(values.real.min()), float(values.real.max())],
                    "imaginary_part": [float(values.imag.min()), float(values.imag.max())],
                    "modulus": [float(abs(values).min()), float(abs(values).max())],
                    "norm": float(samples.norms.max()),
                }
            found.append({**row, "proved": spectrum_json(spectrum_of(recurrence, group)), "sampled": sampled})
        return found


def _spectrum_line(row: Mapping[str, Any], several: bool) -> str:
    where = f"layer {row['layer']}, " if several else ""
    about = f"{where}{', '.join(row['states'])}: "
    proved, sampled = row["proved"], row["sampled"]
    if proved is None:
        return about + "no transition over (+, x)"
    real = proved["real"] is True and proved["interval"] is not None
    region = proved["interval"] if real else proved["modulus"]
    what = "eigenvalues" if real else "eigenvalues of modulus"
    if region is None:
        shown = f"{what} not bounded"
    else:
        low, high = ((f"{v:.6g}" if v is not None else infinite) for v, infinite in zip(region, ("-inf", "inf")))
        left, right = proved["closed"] if real else (True, True)
        shown = f"{what} proved in {'[' if left else '('}{low}, {high}{']' if right else ')'}"
    if sampled is None:
        return f"{about}{shown}"
    low, high = (round(v, 6) + 0.0 for v in sampled["real_part" if real else "modulus"])
    return f"{about}{shown}; seen {low:g} to {high:g} in {sampled['transitions']} transitions"


# ---------------------------------------------------------------- weights in place of parameters


def bound_subject(cell: CellIR, dims: Mapping[str, int], params: Mapping[str, Array]) -> Subject:
    """The cell with these weights, as far as they are bound: what is proved of it holds for the rest of them, too."""
    chosen: dict[str, Array] = {}
    for name, value in sorted(params.items(), key=lambda item: int(np.size(item[1]))):
        if sum(map(np.size, chosen.values())) + np.size(value) <= MOST_NUMBERS and np.isfinite(value).all():
            chosen[name] = value
    rest = {name: np.asarray(value) for name, value in params.items() if name not in chosen}
    return Subject(cell=bind(cell, dims, chosen), dims=dims, fixed=rest)


def bind(cell: CellIR, dims: Mapping[str, int], params: Mapping[str, Array]) -> CellIR:
    """The cell with these weights as exact constants and these sizes; parameters that are not given stay.

    before: y = einsum("oi,i->o", param W, x)      -->  after: y = einsum("oi,i->o", const ((1/2, ...), ...), x)
    """
    flat = inline_calls(cell)
    values = {p.node: params[p.name] for p in flat.params if p.name in params}

    def rule(b: Builder, node: Node, args: tuple[NodeId, ...]) -> NodeId | None:
        attrs = {k: substitute_dims(v, dims) for k, v in node.attrs}
        if node.id not in values:
            return b.add(node.op, *args, name=node.name, **attrs)
        declared = attrs["type"]
        if declared.dtype != "complex":
            return _const(b, values[node.id], declared, node.name)
        real = replace(declared, dtype="real")
        parts = [_const(b, part, real, "") for part in (values[node.id].real, values[node.id].imag)]
        return b.add("complex", *parts, name=node.name)

    bare = replace(flat, params=tuple(p for p in flat.params if p.name not in params))
    return rebuild(bare, rule)[0]


def _const(b: Builder, value: Array, declared: Type, name: str) -> NodeId:
    return b.add("const", value=_exact(np.asarray(value, dtype=float)), type=declared, name=name)  # type: ignore[arg-type]


def _exact(value: Array) -> Any:
    return Fraction(float(value)) if value.ndim == 0 else tuple(_exact(row) for row in value)
