"""Normal forms of a recurrence: what the recurrence analysis finds, and what strategies and backends are written for.

Every form names *nodes* of the analysed cell (`Recurrence.cell`, the input cell with coefficient nodes appended), so a
backend never has to understand how the user wrote the update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, assert_never

from rnnc.ir.graph import CellIR, NodeId

Semiring = Literal["plus_times", "max_plus", "min_plus", "log_plus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elementwise:
    """h' = a (x) h (+) b, elementwise over one state of any shape, in the group's semiring.

    `a` and `b` broadcast to the state's core shape (real or complex); `b` None is the semiring's zero, `a` None its
    one.
    """

    state: str
    a: NodeId | None
    b: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Coupled:
    """K states of one shape, coupled position by position: h_i' = sum_j a[i][j] * h_j + b[i]; None is zero."""

    states: tuple[str, ...]
    a: tuple[tuple[NodeId | None, ...], ...]
    b: tuple[NodeId | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroStep:
    """S <- D S + sum_r a_r (b_r^T S) + sum_r u_r v_r^T, on the acted axis K (all a_r, b_r read the same S).

    `decay` is None (one), or a node of core shape [] (scalar) or [K]; `log_decay` is a node for its natural logarithm
    where the decay is positive by how it is computed (exp, sigmoid, products of such), else None.  a, b, u have core
    shape [K], v [V]. For a vector state V is absent: v has core shape [] or is None (one).
    """

    decay: NodeId | None = None
    log_decay: NodeId | None = None
    low_rank: tuple[tuple[NodeId, NodeId], ...] = ()
    writes: tuple[tuple[NodeId, NodeId | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """`node` = S^T key for a left-acting state (S key for a right-acting one): a [V] vector, of S before or after the
    step.

    With `extra` (a state-free [V] node, such as RWKV's bonus (r . u*k) v), `node` = S^T key + extra.
    """

    node: NodeId
    when: Literal["old", "new"]
    key: NodeId
    extra: NodeId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Normaliser:
    """A vector state n with the decay and the writes of a matrix state, whose value is a number: n <- D n + u value.

    `value` is a scalar node, None for one.  `reads[j]` are the nodes that are n . key for the key of the matrix's
    `reads[j]`, before or after the step as that is.
    """

    state: str
    value: NodeId | None
    reads: tuple[tuple[NodeId, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixState:
    """A matrix (or vector) state under a product of micro-steps, first to last.

    `side` left: K is the first axis and S <- M S; right: K is the last axis and S <- S M, all vectors given for the
    transposed problem.  `reads` are all uses of the state outside its own update when each is a contraction with a
    vector; None when some use needs the whole state at every step (`whole_because` says which node).

    `across` are the uses of a state that only decays and is written to, when each is a contraction along the other axis
    than the decay's: S key for a left-acting state (S^T key, right), a [K] vector.  Empty where `reads` are known.

    `normaliser` is another state that may run along with this one, as one more column: see `rnnc.analysis.normalisers`.
    """

    state: str
    side: Literal["left", "right"]
    steps: tuple[MicroStep, ...]
    reads: tuple[Read, ...] | None
    whole_because: NodeId | None = None
    across: tuple[Read, ...] = ()
    normaliser: Normaliser | None = None

    @property
    def reads_across(self) -> bool:
        """Whether `reads` are those along the other axis than the decay's: see `read_across`."""
        return bool(self.across) and self.reads == self.across

    def read_across(self) -> MatrixState:
        """The same form for a strategy that contracts the other axis: its `reads` are those `across`."""
        return replace(self, reads=self.across)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockLinear:
    """h' = blockdiag(blocks) h + b: `blocks` is a node [p, n, n]; h has shape [p*n] or [p*n, m]; `b` None is zero."""

    state: str
    blocks: NodeId
    b: NodeId | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """h' = A h + b (side left) or h A + b (side right): `a` is a node [n, n]; h has shape [n] or a matrix; `b` None is
    zero.
    """

    state: str
    side: Literal["left", "right"]
    a: NodeId
    b: NodeId | None


Form: TypeAlias = Elementwise | Coupled | MatrixState | BlockLinear | Dense


def transition_nodes(form: Form) -> list[NodeId]:
    """The coefficients of the state itself (not the additive part)."""
    found: list[NodeId | None]
    match form:
        case Elementwise() | Dense():
            found = [form.a]
        case BlockLinear():
            found = [form.blocks]
        case Coupled():
            found = [a for row in form.a for a in row]
        case MatrixState():
            found = [n for s in form.steps for n in (s.decay, *(x for pair in s.low_rank for x in pair))]
        case _:
            assert_never(form)
    return [n for n in found if n is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """States that depend on each other (a strongly connected component), and how.

    `forms` are all normal forms the group has, the most special first; empty for a nonlinear group, and for a linear
    one in no form (which is then run step by step).  `because` lists (message, node) pairs: why it is not linear, or in
    no form. `structure` and `rank` name the transition in the operator algebra ("diagonal", "householder_product",
    ...). `transition_static`: the transition depends on no input and no earlier group's state.  `input_dependent`: it
    depends on an input, possibly through an earlier group (for a group without forms: its update does).
    """

    index: int
    states: tuple[str, ...]
    kind: Literal["linear", "affine", "nonlinear"]
    semiring: Semiring = "plus_times"
    input_dependent: bool = True
    transition_static: bool = False
    structure: str = "dense"
    rank: int | None = None
    field: Literal["real", "complex"] = "real"
    jacobian: Literal["diagonal", "block_diagonal", "low_rank", "dense"] = "dense"
    forms: tuple[Form, ...] = ()
    because: tuple[tuple[str, NodeId], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """`cell` with coefficient nodes appended (ids of the original nodes stay), and its groups in topological order."""

    cell: CellIR
    groups: tuple[Group, ...]
