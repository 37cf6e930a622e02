"""The operator domain: values that depend on states as sums of monomials, state-free matrices by their structure.

`Operators` answers for any node of a cell: how does it depend on given *atoms* (states, or values that stand for one)?
- `Affine(terms)`: a sum of monomials, those without an atom being the state-free part;
- `Opaque`: linear or affine, but no small sum of monomials;
- `NonLinear`: with the node where it stops being linear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeAlias

from rnnc.analysis import label_rules as rules
from rnnc.analysis.label_rules import VIEWS, Context
from rnnc.analysis.monomials import (
    Factor,
    Labels,
    Monomial,
    NotRepresentable,
    Sum,
    collect,
    labels_of,
)
from rnnc.ir.builder import Builder
from rnnc.ir.dims import Dim
from rnnc.ir.domains.dependence import DependsOn
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.ops import OPS

TAKEN_APART = VIEWS | {"add", "sub", "neg", "mul", "div", "select", "einsum", "sum", "mean", "layout"}
LINEAR_RULES = VIEWS | {"add", "sub", "neg", "mul", "einsum", "sum", "mean", "select", "layout", "slice", "concat"}
SMALL_RANK = 8  # a low-rank product with a known rank up to this is taken apart


@dataclass(frozen=True, slots=True)
class Affine:
    terms: Sum

    @property
    def atoms(self) -> frozenset[str]:
        return frozenset(m.atom for m in self.terms if m.atom is not None)


@dataclass(frozen=True, slots=True)
class Opaque:
    """Affine (`offset`: possibly with a state-free part) without a representation; `why` and `node` say what stood in
    the way.
    """

    offset: bool
    why: str
    node: NodeId


@dataclass(frozen=True, slots=True)
class NonLinear:
    """`node` is not linear in `through`, its argument."""

    node: NodeId
    through: NodeId
    why: str


Value: TypeAlias = Affine | Opaque | NonLinear


class Operators(Domain[Value]):
    """The domain, over a builder's growing graph; `atoms` maps nodes to the names of what they stand for.

    State-free nodes whose structure no rule can see are leaves: nothing below them is read.  So are those in `given`
    (the new values of states that run before): `S'` is read as it is, and not as what it is made of.
    """

    def __init__(
        self,
        builder: Builder,
        atoms: Mapping[NodeId, str],
        labels: Labels | None = None,
        given: frozenset[NodeId] = frozenset(),
    ) -> None:
        self.builder = builder
        self.atoms = dict(atoms)
        self.given = given
        self.ctx = Context(builder, labels or Labels())
        self._moved = Walk(builder.nodes, DependsOn(self.atoms.keys()))
        self._values = Walk(builder.nodes, self)

    def over(self, atoms: Mapping[NodeId, str]) -> Operators:
        """The same domain over other atoms of the same graph."""
        return Operators(self.builder, atoms, self.ctx.labels, self.given)

    def depends(self, node: NodeId) -> bool:
        """Whether `node` is computed from an atom."""
        return self._moved[node]

    def value(self, node: NodeId) -> Value:
        """How `node` depends on the atoms."""
        return self._values[node]

    def structure(self, node: NodeId) -> Sum:
        """A state-free node as a sum of monomials: taken apart where it has structure, one factor where it has none."""
        assert not self.depends(node)
        value = self._values[node]
        assert isinstance(value, Affine)
        return value.terms

    # ------------------------------------------------------------ the domain

    def is_leaf(self, node: Node) -> bool:
        if not node.args or node.id in self.atoms:
            return True
        return not self.depends(node.id) and (node.id in self.given or node.op not in TAKEN_APART)

    def leaf(self, node: Node) -> Value:
        axes = self.ctx.labels.axes(rules.full_shape(node.type))
        if node.id in self.atoms:
            return Affine((Monomial(Fraction(1), (), self.atoms[node.id], axes, axes),))
        if node.op == "const" and isinstance(value := node.attr("value"), Fraction):
            return Affine((Monomial(value, (), None, (), axes),) if value else ())
        if node.op == "eye":
            axis = self.ctx.labels.axis(node.type.shape[0])
            return Affine((Monomial(Fraction(1), (), None, (), (axis, axis)),))
        return Affine(self._factor(node.id))

    def apply(self, node: Node, args: tuple[Value, ...]) -> Value:
        if self.depends(node.id):
            return self._over_atoms(node, args)
        try:
            return Affine(self._taken_apart(node, tuple(v.terms for v in args if isinstance(v, Affine))))
        except NotRepresentable:
            return Affine(self._factor(node.id))

    # ------------------------------------------------------------ state-free values

    def _factor(self, node: NodeId) -> Sum:
        """The node itself as one factor."""
        axes = self.ctx.labels.axes(rules.full_shape(self.ctx.type(node)))
        return (Monomial(Fraction(1), (Factor(node, axes),), None, (), axes),)

    def _taken_apart(self, n: Node, args: tuple[Sum, ...]) -> Sum:
        if n.op in VIEWS or n.op == "layout":
            return rules.view(n, args[0], self.ctx) if n.op in VIEWS else rules.layout(n, args[0], self.ctx)
        carriers = {"div": args[:1], "select": args[1:]}.get(n.op, args)
        if any(has_structure(a) for a in carriers):
            return self._linear_op(n, args)
        if self._is_outer(n, args) or self._is_product(n, args):
            return self._low_rank_sum(n) or self._linear_op(n, args)
        return self._factor(n.id)

    def _is_product(self, n: Node, args: tuple[Sum, ...]) -> bool:
        """Whether the value is a scalar times an array, or a negation: kept as factors, so that scalars can move
        between them.
        """
        if n.op not in ("mul", "neg") or any(len(a) != 1 for a in args):
            return False
        per = len(n.type.per)
        carries = [any(labels_of(m.out[per:]) & m.used for m in a) for a in args]
        return n.op == "neg" or sorted(carries) == [False, True]

    def _is_outer(self, n: Node, args: tuple[Sum, ...]) -> bool:
        """Whether a product brings in an axis from each of its operands that the other lacks."""
        if n.op not in ("mul", "einsum") or any(len(a) != 1 for a in args):
            return False
        if n.op == "mul":
            left, right = ({i for i in range(1, len(m.out) + 1) if labels_of((m.out[-i],)) & m.used} for (m,) in args)
            return bool(left - right) and bool(right - left)
        inputs, output = str(n.attr("spec")).split("->")
        left_letters, right_letters = (set(x) for x in inputs.split(","))
        gone = (left_letters | right_letters) - set(output)
        outer = bool(left_letters & set(output) - right_letters) and bool(right_letters & set(output) - left_letters)
        return outer and (not gone or self._rank_of(n) is not None)

    def _rank_of(self, n: Node) -> int | None:
        """The known small size of the one contracted index of a low-rank product."""
        inputs, output = str(n.attr("spec")).split("->")
        sizes = {
            x: d
            for xs, a in zip(inputs.split(","), n.args, strict=True)
            for x, d in zip(xs, self.ctx.type(a).shape, strict=True)
        }
        gone = [x for x in sizes if x not in output]
        if len(gone) != 1 or (size := sizes[gone[0]].constant) is None or size > SMALL_RANK:
            return None
        others = [sizes[x].constant for x in output]
        return int(size) if all(n is None or n > size for n in others) else None

    def _low_rank_sum(self, n: Node) -> Sum | None:
        """sum_r u_r v_r^T from an einsum that contracts a small index of known size."""
        if n.op != "einsum":
            return None
        inputs, output = str(n.attr("spec")).split("->")
        gone = (set(inputs) - {","}) - set(output)
        rank = self._rank_of(n)
        if not gone or rank is None:
            return None
        letter = gone.pop()
        left, right = inputs.split(",")
        terms: Sum = ()
        for r in range(rank):
            picked = [self._column(a, xs, letter, r) for a, xs in zip(n.args, (left, right), strict=True)]
            spec = f"{left.replace(letter, '')},{right.replace(letter, '')}->{output}"
            terms += rules.contract(spec, picked[0], picked[1], len(n.type.per), self.ctx)
        return terms

    def _column(self, node: NodeId, letters: str, letter: str, r: int) -> Sum:
        if letter not in letters:
            return self.structure(node)
        at = letters.index(letter) - len(letters)
        b = self.builder
        part = b.add("slice", node, axis=at, start=Dim.of(r), stop=Dim.of(r + 1))
        shape = tuple(d for i, d in enumerate(b.type(part).shape) if i != len(letters) + at)
        return self.structure(b.add("reshape", part, shape=shape))

    # ------------------------------------------------------------ values over atoms

    def _over_atoms(self, n: Node, args: tuple[Value, ...]) -> Value:
        for v in args:
            if isinstance(v, NonLinear):
                return v
        stateful = [i for i, v in enumerate(args) if isinstance(v, Opaque) or (isinstance(v, Affine) and v.atoms)]
        if not stateful:  # the state cancelled: what is left is state-free
            stateful = [i for i, a in enumerate(n.args) if self.depends(a)]
            if n.op not in LINEAR_RULES:
                return NonLinear(n.id, n.args[stateful[0]], n.op)
        blocked = self._nonlinear_in(n, args, stateful)
        if blocked is not None:
            return blocked
        opaque = next((v for v in args if isinstance(v, Opaque)), None)
        if opaque is None:
            try:
                return Affine(self._linear_op(n, tuple(v.terms for v in args if isinstance(v, Affine))))
            except NotRepresentable as why:
                opaque = Opaque(False, str(why), n.id)
        return replace(opaque, offset=opaque.offset or self._has_offset(n, args))

    def _has_offset(self, n: Node, args: tuple[Value, ...]) -> bool:
        """Whether the result has a state-free part: that of an argument, or a state-free summand."""
        if n.op == "layout" and n.attr("kind") == "companion":
            return True  # its fixed ones
        linear = OPS[n.op].linear
        for i, v in enumerate(args):
            adds = linear == "joint" or (isinstance(linear, tuple) and i in linear)
            if isinstance(v, Opaque) and v.offset:
                return True
            if isinstance(v, Affine) and any(m.atom is None for m in v.terms) and (v.atoms or adds):
                return True
        return False

    def _nonlinear_in(self, n: Node, args: tuple[Value, ...], stateful: list[int]) -> NonLinear | None:
        """Decides by the op table whether the op is linear in its arguments that have states."""
        op = OPS[n.op]
        through = n.args[stateful[0]]
        if op.linear == "none" or op.category in ("time", "model"):  # these have a memory of their own
            return NonLinear(n.id, through, n.op)
        if op.linear == "multi" and len(stateful) > 1:
            return NonLinear(
                n.id, n.args[stateful[1]], f"product of two values that both depend on the state (`{n.op}`)"
            )
        if isinstance(op.linear, tuple):
            bad = [a for i, a in enumerate(n.args) if i not in op.linear and self.depends(a)]
            if bad:  # also where the state cancels: the value of the node is what is divided by
                return NonLinear(n.id, bad[0], n.op)
        opaque = any(isinstance(args[i], Opaque) for i in stateful)
        if op.over_reals and (opaque or not self._atoms_are_real(args)):
            return NonLinear(n.id, through, f"`{n.op}` of a complex state")
        return None

    def _atoms_are_real(self, args: tuple[Value, ...]) -> bool:
        names = {a for v in args if isinstance(v, Affine) for a in v.atoms}
        return all(self.ctx.type(node).dtype == "real" for node, name in self.atoms.items() if name in names)

    def _linear_op(self, n: Node, args: tuple[Sum, ...]) -> Sum:
        """The result's terms; the caller knows that the op is linear in its arguments that have states."""
        ctx, t = self.ctx, n.type
        if n.op in VIEWS:
            return rules.view(n, args[0], ctx)
        match n.op:
            case "add":
                return rules.add(args[0], args[1], t, ctx)
            case "sub":
                return rules.add(args[0], rules.scale(args[1], Fraction(-1)), t, ctx)
            case "neg":
                return rules.scale(args[0], Fraction(-1))
            case "mul":
                return rules.multiply(args[0], args[1], t, ctx)
            case "div":
                return rules.multiply(args[0], self._reciprocal(n.args[1]), t, ctx)
            case "select":
                return self._select(n, args)
            case "einsum":
                return rules.contract(str(n.attr("spec")), args[0], args[1], len(t.per), ctx)
            case "sum" | "mean":
                return rules.reduce(n, args[0], ctx)
            case "layout":
                return rules.layout(n, args[0], ctx)
            case "slice":
                return rules.slice_(n, args[0], ctx)
            case "concat":
                return rules.concat(n, args, ctx)
            case "complex":
                unit = self.builder.add("complex", self.builder.const(0), self.builder.const(1))
                imaginary = rules.multiply(args[1], self._factor(unit), t, ctx)
                return rules.add(args[0], imaginary, t, ctx)
            case "re" | "im" | "conj":
                return collect(x for m in args[0] for x in self._over_reals(n.op, m))
        raise NotRepresentable(f"`{n.op}` of the state")

    def _reciprocal(self, node: NodeId) -> Sum:
        value = self.builder.nodes[node].attr("value")
        if self.builder.nodes[node].op == "const" and isinstance(value, Fraction) and value:
            return (Monomial(1 / value, (), None, (), self.ctx.labels.axes(rules.full_shape(self.ctx.type(node)))),)
        return self.structure(self.builder.map("div", self.builder.const(1), node))

    def _select(self, n: Node, args: tuple[Sum, ...]) -> Sum:
        """a where c, else b, as [c] a + [not c] b."""
        b, (c, _, _) = self.builder, n.args
        one, zero = b.const(1), b.const(0)
        taken = rules.multiply(args[1], self._factor(b.add("select", c, one, zero)), n.type, self.ctx)
        other = rules.multiply(args[2], self._factor(b.add("select", c, zero, one)), n.type, self.ctx)
        return rules.add(taken, other, n.type, self.ctx)

    def _over_reals(self, op: str, m: Monomial) -> Sum:
        """re, im, conj of a term with a real state: of its complex factor."""
        complex_ = [i for i, f in enumerate(m.factors) if self.ctx.type(f.node).dtype == "complex"]
        if not complex_:
            return () if op == "im" else (m,)
        if op != "conj" and len(complex_) > 1:
            raise NotRepresentable(f"`{op}` of a product of complex factors")
        factors = tuple(
            Factor(self.builder.add(op, f.node), f.axes) if i in complex_ else f for i, f in enumerate(m.factors)
        )
        return (replace(m, factors=factors),)


def is_affine(cell: CellIR, state: str) -> bool:
    """Whether the update of `state` is proved affine in it, every other state being given."""
    s = cell.state(state)
    return not isinstance(Operators(Builder.of(cell), {s.node: state}).value(s.update), NonLinear)


def has_structure(terms: Sum) -> bool:
    """Whether the value is more than one array: an identity, a diagonal, an outer product, blocks, or zero."""
    if len(terms) != 1:
        return True
    m = terms[0]
    flat = [x for axis in m.out for x in axis]
    if len(flat) != len(set(flat)) or any(len(axis) > 1 for axis in m.out):
        return True
    carriers = [f.labels & set(flat) for f in m.factors]
    whole = frozenset().union(*carriers)
    return len(carriers) > 1 and not any(c == whole for c in carriers)
