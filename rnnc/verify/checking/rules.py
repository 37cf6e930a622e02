"""Which facts make a claim: every claim of a certificate is established again, or the certificate is rejected."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rnnc.exact.maps import composed, lasting, period
from rnnc.exact.products import NoForm
from rnnc.exact.ranges import ONE, VIEWS
from rnnc.frontend import ast
from rnnc.ir.graph import CellIR, ancestors
from rnnc.ir.text import print_cell
from rnnc.ir.types import Disk, Interval
from rnnc.ir.unfold import inline_calls
from rnnc.verify.checking.forms import Spectrum, spectrum
from rnnc.verify.checking.ranges import Ranges
from rnnc.verify.checking.replay import Machine, Reject, check_closure, need
from rnnc.verify.claims import domain_of, operator_of, precision_of, target_of, text_of
from rnnc.verify.format import FORMAT, decode_hyper, decode_interval, decode_spec, encode_automaton

JOINT = frozenset({*VIEWS, "neg", "add", "sub", "concat", "sum", "mean", "layout", "complex"})
# semiring -> ops that are linear in all arguments together, in one if the others are free of states, in the first
OVER: dict[str, Any] = {"plus_times": (JOINT, {"mul", "einsum"}, {"div"})} | {
    f"{n}_plus": ({op}, {"add"}, {"sub"}) for n, op in (("max", "max"), ("min", "min"), ("log", "logaddexp"))
}
# on bounded arguments unbounded or not continuous
UNBOUNDED = {"div", "log", "pow", "sqrt", "solve", "cayley", "step", "sign", "lt", "le", "eq", "ne", "select"}


class Cell:
    """A cell and what is known of it: groups of states that read each other, in the order in which they are read."""

    def __init__(self, cell: CellIR, given: Any) -> None:
        self.cell, self.given = inline_calls(cell), given
        self.ranges, self.states = Ranges(self.cell), {s.name: s for s in self.cell.states}
        need(all(n.op != "attention" for n in self.cell.nodes), "attention reads all steps before")
        below = {s.name: self.sources([s.update])[0] for s in self.cell.states}
        for _ in below:
            below = {s: reads.union(*(below[t] for t in reads)) for s, reads in below.items()}
        self.below = below
        groups = {tuple(sorted({s, *(t for t in below[s] if s in below[t])})) for s in below}
        self.groups = sorted(groups, key=lambda g: len(below[g[0]] | {g[0]}))

    def sources(self, nodes: Any) -> tuple[set[str], bool]:
        """The states whose old values nodes are computed from, and whether an input or an earlier time is."""
        seen = ancestors(self.cell, nodes)
        varying = any(self.cell.nodes[i].op in ("input", "delay", "conv") for i in seen)
        return {s.name for s in self.cell.states if s.node in seen}, varying

    def spectrum(self, group: Any) -> Spectrum:
        need(len(group) == 1, f"{group} depend on each other")
        s = self.states[group[0]]
        return spectrum(self.cell, self.ranges, s.node, s.update)

    def fixed(self, group: Any) -> bool:
        return self.sources(self.spectrum(group).nodes) == (set(), False)

    def turns(self, i: int) -> bool:
        """Whether the angle of a number does not vary: of a fixed one, one >= 0, or a polar form with such an angle."""
        n, size = self.cell.nodes[i], self.ranges.of
        polar = n.op == "polar" and size(n.args[0]).lo >= 0 and not any(self.sources(n.args[1:]))
        still = polar or not any(self.sources([i])) or (n.op in VIEWS and self.turns(n.args[0]))
        return still or (n.type.dtype == "real" and size(i).lo >= 0)

    def rotary(self, clock: str) -> bool:
        """Whether other states know only sines and cosines of multiples of a counter, and write products of them."""
        t, nodes = self.states[clock], self.cell.nodes
        if self.sources([t.update]) != ({clock}, False) or self.spectrum([clock]).eigenvalues != ONE:
            return False
        for name in self.states.keys() - {clock}:
            kinds = {t.node: "clock", t.update: "clock"}
            for i in sorted(ancestors(self.cell, [self.states[name].update]) - kinds.keys()):
                args = [kinds.get(a, "") for a in nodes[i].args]
                multiple = self.sources([i]) == ({clock}, False) and self.linear([clock], i, "plus_times")
                turn = nodes[i].op in ("cos", "sin", "rotation_blocks") and "clock" in args
                free = nodes[i].op in JOINT | {"mul", "einsum"} or (nodes[i].op == "div" and not args[1])
                product = "clock" not in args and free
                kinds[i] = "" if not any(args) else "turned" if turn or product else "clock" if multiple else "other"
            wrong = "other" in kinds.values() or kinds[self.states[name].update] == "clock"
            if wrong or clock in self.sources(self.spectrum([name]).nodes)[0]:
                return False
        return True

    def linear(self, names: Any, update: int, over: str) -> bool:
        """Whether the update is affine in these states together, by its operations."""
        joint, products, first = OVER[over]
        degree: dict[int, int] = {}
        for i in sorted(ancestors(self.cell, [update])):
            n, d = self.cell.nodes[i], [degree[a] for a in self.cell.nodes[i].args]
            one = n.op in joint or (n.op in products and sum(d) == 1) or (n.op in first and not any(d[1:]))
            degree[i] = int(any(d) or any(i == self.states[s].node for s in names))
            if any(d) and not one and not (n.op == "select" and not d[0]):
                return False
        return True

    def semirings(self, group: Any) -> list[str]:
        return [o for o in OVER if all(self.linear(group, self.states[s].update, o) for s in group)]

    def ways(self, group: Any) -> set[str]:
        """How a group of states can run in parallel."""
        over = self.semirings(group)
        if not over or over[0] != "plus_times" or len(group) > 1:
            return {"scan" for _ in over}
        try:
            s, fixed = self.spectrum(group), self.fixed(group)
        except NoForm:
            return set()
        legal = {"scan": s.elementwise, "chunk": s.low_rank, "convolution": fixed}
        return {way for way, holds in legal.items() if holds}


def shrinks(s: Spectrum, attained: bool = False) -> bool:
    """Whether the norm is below one by a margin, which it is where it is below one and `attained`."""
    return bool(s.norm.hi < 1 or (attained and s.norm.hi == 1 and s.norm.hi_open))


def established(c: Cell, claim: Any) -> None:
    """A claim about structure, for every input and all weights."""
    subject = getattr(claim.subject, "id", "")
    match claim.kind:
        case "linear" | "affine":
            group = next(g for g in c.groups if subject in g)
            one = c.linear([subject], c.states[subject].update, "plus_times")
            need(one or c.semirings(group), f"`{subject}` enters its update nonlinearly")
        case "time_invariant":
            for group in c.groups:
                need(c.fixed(group), f"the transition of {group} is not fixed")
        case "eigenvalues" | "norm":
            op = operator_of(c.cell, claim.subject)
            z = op.cell.state(op.state)
            s = spectrum(op.cell, Ranges(op.cell), z.node, z.update)
            dims = {p.name: c.given[p.name] for p in c.cell.dims if p.name in c.given}
            domain = Interval() if claim.real else domain_of(claim.domain, c.cell, dims)
            found = s.eigenvalues if claim.kind == "eigenvalues" and not isinstance(domain, Disk) else s.norm
            wanted = Interval(hi=domain.radius) if isinstance(domain, Disk) else domain
            need(
                isinstance(wanted, Interval) and found is not None and found.within(wanted), f"what is found is {found}"
            )
        case "stable":  # on bounded inputs, a continuous norm below one that no open domain pushes up has its maximum
            domains = [x.domain for x in c.cell.inputs if isinstance(x.domain, Interval)]
            sharp = any((d.lo_open and d.lo is not None) or (d.hi_open and d.hi is not None) for d in domains)
            for group in c.groups:
                s, seen = c.spectrum(group), ancestors(c.cell, [c.states[group[0]].update])
                bad = {n.op for n in c.cell.nodes if n.id in seen and n.op in UNBOUNDED and any(c.sources(n.args))}
                need(not bad, f"{group} reads {bad} of varying values")
                need(shrinks(s, c.fixed(group) or not sharp), f"{group} may grow: norm in {s.norm}")
        case "contractive":
            need(shrinks(c.spectrum(next(g for g in c.groups if subject in g)), True), "the norm may be 1 or more")
        case "parallel":
            ways = [c.ways(g) for g in c.groups] if claim.args[0].id != "newton" else [{"newton"} for _ in c.groups]
            need(ways and all(ways) and claim.args[0].id in set().union(*ways), f"what is legal is {ways}")


def contradicted(c: Cell, claim: Any, data: Any) -> None:
    """Two states whose midpoint is off the line; for `parallel` also no monotone map, or off it to both sides."""
    name = data["state"]
    need(claim.kind == "parallel" or (claim.kind in ("linear", "affine") and name == claim.subject.id), "another claim")
    m = Machine(c.cell, c.given, data["sizes"], data["params"], "float64")
    inputs, node = m.inputs(data["inputs"], "an input"), {s.name: s.node for s in m.cell.states}
    others = {s: m.read(node[s], v, f"`{s}`") for s, v in data["others"].items() if s != name}
    a, b = (m.read(node[name], v, f"`{name}`") for v in data["at"])
    points = (a, b, (a + b) / 2, np.maximum(a, b))
    low, high, middle, top = (m.step(inputs, m.start() | others | {name: v}, False)[0][name] for v in points)
    margin = 1e-6 * (1 + np.abs([low, high, middle]).max())
    off = middle - (low + high) / 2
    need(np.abs(off).max() > margin, f"the updates of `{name}` are in line")
    other = np.iscomplexobj(a) or (top < np.maximum(low, high) - margin).any() or min(off.max(), -off.min()) > margin
    need(claim.kind != "parallel" or other, f"`{name}` moves up with its state: (max, +) is not ruled out")


def exponent(c: Cell, copies: int, mode: str) -> int:
    """e: a repeated letter (word, word of suitable length) has period at most 2^e, in words, in the states."""
    before = 0
    for copy in range(copies):
        found: dict[str, int] = {}
        rotary = {g[0] for g in c.groups if mode == "long" and copies == 1 and len(g) == 1 and c.rotary(g[0])}
        for group in c.groups:
            name, tropical = group[0], set(c.semirings(group)) - {"plus_times"} if len(group) == 1 else set()
            s = Spectrum() if tropical else c.spectrum(group)
            reads, varying = c.sources([c.states[name].update])
            gates, gated = c.sources(s.nodes)
            driven = max([before if varying else 0, *(found[t] for t in reads - {name})])
            calm, fixed = not any([gated and before, *(found[t] for t in gates)]), not (gates or gated)
            steady = fixed or (mode == "letter" and calm)
            turns = mode == "long" and not tropical and (fixed or (s.single and all(map(c.turns, s.nodes))))
            alone = copy + 1 == copies and all(name not in c.sources([t.update])[0] - {t.name} for t in c.cell.states)
            clock = not any(c.sources([c.states[t].update])[1] for t in c.below[name] | {name})
            need(not clock or shrinks(s) or name in rotary, f"`{name}` is a clock that no input reaches")
            need(not (reads & rotary - {name}) or (turns and alone), f"`{name}` reads a clock")
            need(tropical or s.eigenvalues or (turns and alone), f"`{name}`: eigenvalues may not be real")
            need(tropical or steady or s.elementwise, f"`{name}`: products may not have real eigenvalues")
            keeps = tropical or turns or (s.eigenvalues is not None and s.eigenvalues.lo >= 0)
            found[name] = driven if keeps else max(driven, 1) if steady else driven + 1
        before = max([before, *found.values()])
    return before


def excluded(c: Cell, claim: Any, dfa: Any, data: Any) -> None:
    """N1, N1*, N2, N7: a period that no layers have (Grazzi et al. 2025; Sarrof et al. 2024; docs/ceilings.md)."""
    word, long, letters = data["word"], data["theorem"] == "N7", list(zip(*dfa.delta))
    f = composed((letters[dfa.alphabet.index(a)] for a in word), len(dfa.states))
    need(precision_of(claim) == "finite_precision" and word, "the theorems speak of words at finite precision")
    need(not long or lasting(letters, f), f"no words of all suitable lengths do what {word} does")
    e = exponent(c, claim.layers or 1, "long" if long else "letter" if len(word) == 1 else "word")
    need(2**e % period(f), f"{word} has period {period(f)}, and the layers may have {2**e}")


def check_facts(c: Cell, facts: Any) -> None:
    """Ranges of nodes, eigenvalues and norms of transitions, as stated in the certificate."""
    for fact in facts:
        of, kind = fact["of"], fact["fact"]
        s = c.spectrum([of]) if kind != "range" else None
        found = c.ranges.of(of) if s is None else s.norm if kind == "norm" else s.eigenvalues
        need(found is not None and found.within(decode_interval(fact["in"])), f"{fact}: what is found is {found}")


def accept(spec: Any, c: Cell, entry: Any) -> str:
    """One claim: read from the spec, established, and its verdict compared.  Raises Reject."""
    claims = [x for x in c.cell.expect if isinstance(x, ast.Claim) and x.span.line == entry["line"]]
    claim: Any = next((x for x in claims if text_of(spec, x) == entry["claim"]), None)
    need(claim is not None, "the spec makes no such claim")
    dfa = target_of(spec, claim).dfa if claim.kind in ("recognizes", "tracks") else None
    by, data = entry["by"], entry["evidence"]
    match by, dfa:
        case "analysis", None:
            established(c, claim)
        case "numbers", None:
            contradicted(c, claim, data)
        case "theorem", _ if dfa:
            excluded(c, claim, dfa, data)
        case "closure", _ if dfa:
            need(data["automaton"] == encode_automaton(dfa), "the automaton is not that of the claim")
            need(len(data["layers"]) <= (claim.layers or 1), "more layers than the claim speaks of")
            attained, exact = check_closure(c.cell, c.given, data, dfa), data["arithmetic"] == "exact"
            serves = {"finite_precision"} | ({"exact", "eta_finite", "log_precision"} if attained else set())
            need(precision_of(claim) in (serves if exact else {"float32"}), "such a closure is of another precision")
        case _:
            raise Reject(f"no rule `{by}` for this claim")
    verdict = "proved" if (by in ("analysis", "closure")) != claim.negated else "refuted"
    need(entry["verdict"] == verdict, f"the claim is {verdict}, not {entry['verdict']}")
    return f"{c.cell.name}: {entry['claim']}: {verdict}"


def check(text: str, spec_text: str | None = None) -> list[str]:
    """A line for each claim; Reject at the first that is not established.  `spec_text`: the spec as it has to be."""
    where, lines, cells = "no certificate", [], []
    try:
        data = json.loads(text)
        need(data["format"] == FORMAT, f"the format is not {FORMAT}")
        spec = decode_spec(data["spec"])
        need(spec_text in (None, spec.text), "the spec is not that of the certificate")
        for made in data["cells"]:
            where, given = f"cell `{made['cell']}`", decode_hyper(made["given"])
            cell = spec.lower(made["cell"], **given)
            need(print_cell(cell) == made["graph"], "the graph is not that of the spec")
            cells.append(Cell(cell, given))
            check_facts(cells[-1], made["facts"])
        for n, entry in enumerate(data["claims"], 1):
            where = f"claim {n} (`{entry['claim']}`)"
            lines.append(accept(spec, cells[entry["cell"]], entry))
    except Exception as error:  # noqa: BLE001 - whatever fails does not establish the claim
        why = f"{error}" if isinstance(error, Reject) else f"malformed: {type(error).__name__}: {error}"
        raise Reject(f"{where}: {why}") from None
    return lines
