"""The recurrence analysis: groups of states, what kind of map each group's update is, and its normal forms."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal

from rnnc.analysis.forms import Elementwise, Form, Group, MatrixState, Read, Recurrence, Semiring, transition_nodes
from rnnc.analysis.framed import Framed, frame
from rnnc.analysis.groups import state_groups
from rnnc.analysis.monomials import Labels, NotRepresentable
from rnnc.analysis.normal_forms import block_linear, coupled, dense, elementwise
from rnnc.analysis.operator import Affine, NonLinear, Opaque, Operators, Value
from rnnc.analysis.reads import find_reads
from rnnc.analysis.realise import Realiser
from rnnc.analysis.segments import Split, cuts, reassociate, split
from rnnc.analysis.semiring import TROPICAL, Affinity, Tropical
from rnnc.analysis.structure import Structure, of_blocks, of_dense, of_elementwise, of_micro_steps
from rnnc.ir.builder import Builder
from rnnc.ir.domains.jacobian import jacobian
from rnnc.ir.graph import CellIR, Node, NodeId, State, ancestors, is_static


def analyse_recurrence(cell: CellIR) -> Recurrence:
    """Groups and normal forms of a cell.

    Requires: no `call` or `repeat` nodes that hold state of their own (models are analysed cell by cell).
    Ensures: the ids of the cell's nodes stay; coefficient nodes are appended, each used by some form.
    """
    b = Builder.of(cell)
    groups = state_groups(cell)
    found: list[Group] = []
    given: frozenset[NodeId] = frozenset()
    for i, names in enumerate(groups):
        found.append(_Analysis(cell, b, names, i, given).group())
        given |= _carried(cell, names)
    return _pruned(cell, b, tuple(found))


def _carried(cell: CellIR, names: tuple[str, ...]) -> frozenset[NodeId]:
    """The new values of a group that are made of its old ones.  A state that is set anew at each step (`k <- f(x)`) is
    but a name for what it is set to.
    """
    states = [cell.state(n) for n in names]
    own = {s.node for s in states}
    return frozenset(s.update for s in states if own & ancestors(cell, [s.update]))


@dataclass(frozen=True, slots=True)
class _Facts:
    """Of a group whose kind is known: its forms and how its transition is structured."""

    forms: tuple[Form, ...]
    structure: Structure
    because: tuple[tuple[str, NodeId], ...] = ()


@dataclass(frozen=True, slots=True)
class _Uses:
    """How a matrix state is used, as `MatrixState` has it."""

    reads: tuple[Read, ...] | None = None
    whole: NodeId | None = None
    across: tuple[Read, ...] = ()


class _Analysis:
    """The analysis of one group."""

    def __init__(self, cell: CellIR, b: Builder, names: tuple[str, ...], index: int, given: frozenset[NodeId]) -> None:
        self.cell, self.b, self.names, self.index = cell, b, names, index
        self.states: list[State] = [cell.state(n) for n in names]
        self.atoms = {s.node: s.name for s in self.states}
        self.labels = Labels()
        self.r = Realiser(b, self.labels)
        self.ops = Operators(b, self.atoms, self.labels, given)

    def group(self) -> Group:
        values = {s.name: self.ops.value(s.update) for s in self.states}
        nonlinear = [v for v in values.values() if isinstance(v, NonLinear)]
        if nonlinear:
            return self._semiring_group() or self._nonlinear_group(nonlinear)
        affine = any(
            v.offset if isinstance(v, Opaque) else isinstance(v, Affine) and any(m.atom is None for m in v.terms)
            for v in values.values()
        )
        facts = self._facts(values)
        return self._finished("affine" if affine else "linear", "plus_times", facts)

    # ------------------------------------------------------------ linear over (+, x)

    def _facts(self, values: dict[str, Value]) -> _Facts:
        for s in self.states:
            if self.b.type(s.node).dtype not in ("real", "complex"):
                return self._no_form("its values are not numbers", s.update)
        opaque = [(s, v) for s in self.states if isinstance(v := values[s.name], Opaque)]
        if len(self.states) > 1:
            if opaque:
                return self._no_form(opaque[0][1].why, opaque[0][1].node)
            return self._coupled_facts({n: v for n, v in values.items() if isinstance(v, Affine)})
        state, value = self.states[0], values[self.names[0]]
        f = self._framed(state, value)
        forms: list[Form] = []
        structure: Structure | None = None
        if f is not None:
            if (form := elementwise(state.name, f, self.r)) is not None:
                forms.append(form)
                structure = of_elementwise(form, f, self.b)
            elif (blocks := block_linear(state.name, f, self.r)) is not None:
                forms.append(blocks)
                structure = of_blocks(blocks, f, self.b)
        matrix, micro = self._matrix_state(state)
        if matrix is not None and micro is not None:
            forms.append(matrix)
            structure = structure or of_micro_steps(micro.steps)
        if f is not None and not forms and (whole := dense(state.name, f, self.r)) is not None:
            forms.append(whole)
            structure = of_dense(whole, f, self.b)
        if forms and structure is not None:
            return _Facts(tuple(forms), structure)
        why, node = (
            (value.why, value.node)
            if isinstance(value, Opaque)
            else ("its terms mix several axes of the state", state.update)
        )
        return self._no_form(why, node)

    def _framed(self, state: State, value: Value) -> Framed | None:
        if not isinstance(value, Affine):
            return None
        try:
            return frame(value.terms, self.b.type(state.node), self.b, self.labels)
        except NotRepresentable:
            return None

    def _matrix_state(self, state: State) -> tuple[MatrixState | None, Split | None]:
        rank = self.b.type(state.node).rank
        if rank not in (1, 2):
            return None, None
        update = reassociate(self.b, state.update, self.ops)
        points = cuts(self.b, state.node, update, self.ops)
        if points[0] != state.node:
            points = [state.node, *points]
        splits = [
            found for side in ("left", "right")[:rank] if (found := split(state.name, points, self.r, self.ops, side))
        ]
        if not splits:
            return None, None
        splits = sorted(splits, key=lambda s: (s.rank, len(s.steps)))
        if rank == 1 and splits[0].rank == 0:
            return None, None  # elementwise
        best, uses = self._uses(state, splits) if rank == 2 else (splits[0], _Uses(whole=self._whole_use(state)))
        form = MatrixState(
            state=state.name,
            side="left" if best.side == "left" else "right",
            steps=tuple(m.step for m in best.steps),
            reads=uses.reads,
            whole_because=uses.whole,
            across=uses.across,
        )
        return form, best

    def _uses(self, state: State, splits: list[Split]) -> tuple[Split, _Uses]:
        """The best of the splits (which are sorted), and how the state is used.

        A scalar decay lies on either axis: the one that is contracted.
        """
        best = splits[0]
        reads, whole = find_reads(self.cell, state.name, best.side, self.r, self.ops)
        if reads is not None or best.rank or len(best.steps) > 1:
            return best, _Uses(reads, whole)
        across, _ = find_reads(self.cell, state.name, "right" if best.side == "left" else "left", self.r, self.ops)
        if across is None:
            return best, _Uses(reads, whole)
        other = next((s for s in splits[1:] if s.rank == 0 and len(s.steps) == 1), None)
        return (best, _Uses(reads, whole, across)) if other is None else (other, _Uses(across))

    def _whole_use(self, state: State) -> NodeId:
        """A node that reads a vector state (contractions of it are scalars, so it is always taken whole)."""
        for n in self.cell.nodes:
            if state.update in n.args:
                return n.id
        return state.update

    def _coupled_facts(self, values: dict[str, Affine]) -> _Facts:
        maps = [self._framed(s, values[s.name]) for s in self.states]
        known = [f for f in maps if f is not None]
        if len(known) == len(maps) and (form := coupled(self.names, known, self.r)) is not None:
            return _Facts((form,), Structure("block_diagonal", jacobian="block_diagonal"))
        return self._no_form("the states of the group are mixed across positions", self.states[0].update)

    def _no_form(self, why: str, node: NodeId) -> _Facts:
        names = ", ".join(f"`{n}`" for n in self.names)
        message = f"the update of {names} is linear, but in no form that a parallel strategy is written for: {why}"
        return _Facts((), Structure("dense"), ((message, node),))

    # ------------------------------------------------------------ other semirings, and nonlinear

    def _semiring_group(self) -> Group | None:
        for semiring in TROPICAL:
            group = self._over(semiring)
            if group is not None:
                return group
        return None

    def _over(self, semiring: Tropical) -> Group | None:
        types = {self.b.type(s.node) for s in self.states}
        if len(types) != 1 or next(iter(types)).dtype != "real":
            return None
        t = next(iter(types))
        domain = Affinity(self.b, semiring, self.atoms, t)
        values = [domain.value(s.update) for s in self.states]
        if any(v is None for v in values):
            return None
        known = [v for v in values if v is not None]
        affine: Literal["affine", "linear"] = "affine" if any(v.b is not None for v in known) else "linear"
        if len(self.states) > 1 or not known[0].states:
            return self._finished(affine, semiring, self._no_form("several states in one group", self.states[0].update))
        (_, a), b = known[0].states[0], known[0].b
        form = Elementwise(state=self.names[0], a=self._full(a), b=self._full(b))
        structure = Structure("scalar" if a is None or self.b.type(a).rank == 0 else "diagonal", jacobian="diagonal")
        return self._finished(affine, semiring, _Facts((form,), structure))

    def _full(self, node: NodeId | None) -> NodeId | None:
        t = self.b.type(self.states[0].node)
        return None if node is None else self.r.full(node, t.per, t.rank)

    def _nonlinear_group(self, reasons: list[NonLinear]) -> Group:
        pattern = _jacobian(self.cell, self.names)
        because = tuple(dict.fromkeys((self._explain(v), v.node) for v in reasons))
        facts = _Facts((), Structure("dense", jacobian=pattern), because)
        return self._finished("nonlinear", "plus_times", facts)

    def _explain(self, v: NonLinear) -> str:
        """`h` enters the gate `z` through sigmoid, line 7."""
        names = [f"`{s.name}`" for s in self.states if s.node in ancestors(self.cell, [v.node])]
        subject = " and ".join(names) or "the state"
        target = self._named_user(v.node)
        where = "" if target is None else f" `{target.name}`"
        how = f"in a {v.why}" if v.why.startswith("product") else f"through {v.why}"
        span = self.cell.nodes[v.node].span
        line = f", line {span.line}" if span is not None else ""
        return f"{subject} enter{'s' if len(names) < 2 else ''}{where or ' the update'} {how}{line}"

    def _named_user(self, node: NodeId) -> Node | None:
        """The first named node that the value of `node` goes into (itself included), if that is no update."""
        reach, updates = {node}, {s.update for s in self.cell.states}
        for n in self.cell.nodes[node:]:
            if n.id == node or reach & set(n.args):
                reach.add(n.id)
                if n.name and n.op != "state":
                    return None if n.id in updates else n
        return None

    # ------------------------------------------------------------ facts common to all

    def _finished(self, kind: Literal["linear", "affine", "nonlinear"], semiring: Semiring, facts: _Facts) -> Group:
        types = [self.b.type(s.node) for s in self.states]
        coefficients = [n for f in facts.forms for n in transition_nodes(f)]
        updates = [s.update for s in self.states]
        return Group(
            index=self.index,
            states=self.names,
            kind=kind,
            semiring=semiring,
            input_dependent=self._reads_input(coefficients if facts.forms else updates),
            transition_static=bool(facts.forms) and is_static(self.b.nodes, coefficients),
            structure=facts.structure.name,
            rank=facts.structure.rank,
            field="complex" if any(t.dtype == "complex" for t in types) else "real",
            jacobian=facts.structure.jacobian,
            forms=facts.forms,
            because=facts.because,
        )

    def _reads_input(self, nodes: list[NodeId]) -> bool:
        """Whether the nodes depend on an input, directly or through states that do."""
        todo, seen = list(nodes), set()
        while todo:
            i = todo.pop()
            if i in seen:
                continue
            seen.add(i)
            n = self.b.nodes[i]
            if n.op in ("input", "call", "repeat"):
                return True
            todo.extend(n.args)
            todo.extend(s.update for s in self.cell.states if s.node == i)
        return False


def _jacobian(cell: CellIR, names: tuple[str, ...]) -> Literal["diagonal", "block_diagonal", "low_rank", "dense"]:
    """The proved pattern; several states coupled position by position have blocks of one entry a state."""
    kind = jacobian(cell, names).kind
    if kind == "zero":
        return "diagonal"
    return "block_diagonal" if kind == "diagonal" and len(names) > 1 else kind


# ---------------------------------------------------------------- tidy up


def _pruned(cell: CellIR, b: Builder, groups: tuple[Group, ...]) -> Recurrence:
    """Only the appended nodes that some group uses, renumbered behind the cell's own."""
    first = len(cell.nodes)
    used = set()
    work = [n for g in groups for n in _referenced(g)]
    while work:
        i = work.pop()
        if i not in used:
            used.add(i)
            work.extend(b.nodes[i].args)
    number = {i: i for i in range(first)}
    nodes = list(cell.nodes)
    for i in sorted(n for n in used if n >= first):
        number[i] = len(nodes)
        n = b.nodes[i]
        nodes.append(replace(n, id=len(nodes), args=tuple(number[a] for a in n.args)))
    return Recurrence(cell=replace(cell, nodes=tuple(nodes)), groups=tuple(_renumbered(g, number) for g in groups))


NODE_FIELDS = frozenset(
    {"a", "b", "decay", "log_decay", "low_rank", "writes", "node", "key", "extra", "whole_because", "blocks"}
)


def _referenced(group: Group) -> list[NodeId]:
    """Every node that the group's forms and reasons name."""
    found = [node for _, node in group.because]

    def go(value: Any, is_node: bool) -> None:
        if is_dataclass(value):
            for f in fields(value):
                go(getattr(value, f.name), f.name in NODE_FIELDS)
        elif isinstance(value, tuple):
            for v in value:
                go(v, is_node)
        elif is_node and isinstance(value, int):
            found.append(value)

    go(group.forms, False)
    return found


def _renumbered(group: Group, number: dict[NodeId, NodeId]) -> Group:
    def go(value: Any, is_node: bool) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{f.name: go(getattr(value, f.name), f.name in NODE_FIELDS) for f in fields(value)})
        if isinstance(value, tuple):
            return tuple(go(v, is_node) for v in value)
        return number[value] if is_node and isinstance(value, int) else value

    because = tuple((message, number[node]) for message, node in group.because)
    return replace(group, forms=go(group.forms, False), because=because)
