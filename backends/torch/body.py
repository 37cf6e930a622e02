"""Statements of one function (or of one loop inside it): which values get a variable, and under which name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from rnnc.backends.torch.context import Context, attribute_name, identifier
from rnnc.backends.torch.elementwise import lerp
from rnnc.backends.torch.expr import ATOM, Expr, tuple_text
from rnnc.backends.torch.gates import mixture
from rnnc.backends.torch.structure import TABLE, plain
from rnnc.backends.torch.timeops import TIME, Time
from rnnc.ir.dims import Dim
from rnnc.ir.evaluate import Domain, Walk
from rnnc.ir.graph import CellIR, Node, NodeId, State

LEAVES = frozenset({"param", "const", "dim", "eye", "arange"})
VIEWS = frozenset({"lift", "expand", "merge", "split_per", "transpose", "broadcast", "re", "im"})
WORDS = {"einsum": "product", "mul": "product", "add": "sum", "sub": "difference", "div": "ratio", "take": "row"}
LONG = 100  # characters of an expression beyond which a part of it gets a variable


@dataclass(slots=True)
class Names:
    """The variables of one function, or the attributes of one module: no two values share a name."""

    taken: set[str] = field(default_factory=set)

    def fresh(self, name: str) -> str:
        return self.unlike(identifier(name))

    def attribute(self, name: str) -> str:
        return self.unlike(attribute_name(name))

    def unlike(self, name: str) -> str:
        """The name, with a number behind it where it is taken."""
        candidate, n = name, 2
        while candidate in self.taken:
            candidate, n = f"{name}_{n}", n + 1
        self.taken.add(candidate)
        return candidate


@dataclass(slots=True)
class Source:
    """Lines of the spec, for comments."""

    texts: Mapping[str, str]

    def line(self, node: Node) -> str | None:
        """The spec's line on which `node` stands, without its own comment."""
        if node.span is None or node.span.file not in self.texts:
            return None
        lines = self.texts[node.span.file].split("\n")
        if not 0 < node.span.line <= len(lines):
            return None
        text = lines[node.span.line - 1].split("#")[0].strip().rstrip("{").rstrip()
        return text or None


@dataclass(frozen=True, slots=True)
class Owner:
    """The named value that a node is a part of, which a variable for the node is called after."""

    name: str
    node: NodeId


def owners(cell: CellIR, roots: Mapping[NodeId, str], parts: Mapping[NodeId, Owner]) -> dict[NodeId, Owner]:
    """For each node the named value nearest to it on the way to a result; `parts` has those nothing else reads."""
    found = {i: Owner(name, i) for i, name in roots.items()}
    for n in reversed(cell.nodes):
        if n.name and n.op not in LEAVES:
            found[n.id] = Owner(n.name, n.id)
        elif n.id in parts:
            found.setdefault(n.id, parts[n.id])
        for a in n.args:
            if n.id in found:
                found.setdefault(a, found[n.id])
    return found


@dataclass(slots=True, kw_only=True)
class Body(Domain[Expr]):
    """The code domain of one function, or of one loop inside it: a value is an expression, and statements are written
    on the way.

    `env` holds the values that are known, `uses` how often each node is read in the whole function, `titles` names that
    override the spec's (new states, outputs).
    """

    c: Context
    names: Names
    env: dict[NodeId, Expr]
    uses: Mapping[NodeId, int]
    titles: Mapping[NodeId, str]
    results: frozenset[NodeId]  # new states and outputs, which always get a variable
    owners: Mapping[NodeId, Owner]
    source: Source
    time: Time
    suffix: str = ""
    lines: list[str] = field(default_factory=list)
    bound: dict[NodeId, str] = field(default_factory=dict)
    last_comment: str | None = None
    finish: dict[NodeId, tuple[State, str]] = field(default_factory=dict)  # new states, and what holds the old value
    loop_inputs: frozenset[NodeId] = frozenset()
    forced: frozenset[NodeId] = frozenset()  # nodes that get a variable in the build under way

    def build(self, nodes: Iterable[NodeId], forced: frozenset[NodeId] = frozenset()) -> None:
        """Statements for `nodes` and what they need, as far as it is not known; those in `forced` get variables."""
        self.forced = forced
        Walk(self.c.cell.nodes, self, self.env).run(nodes)
        self.forced = frozenset()

    def leaf(self, node: Node) -> Expr:
        return self.apply(node, ())

    def apply(self, node: Node, args: tuple[Expr, ...]) -> Expr:
        e = self._expression(node, list(args))
        while len(e.text) > LONG and self._bind_longest(node):
            e = self._expression(node, [self.env[a] for a in node.args])
        self.env[node.id] = e
        if self._wants_variable(node, e, node.id in self.forced):
            self._hold(node)
        return self.env[node.id]

    def _expression(self, node: Node, args: list[Expr]) -> Expr:
        mixed = mixture(self.c.cell, node.id)
        if mixed and not self.bound.keys() & {*mixed.parts}:
            ends = (mixed.old, mixed.new, mixed.share)
            if all(i in self.env and not self.env[i].number for i in ends):
                return lerp(self.c, node, ends, [self.env[i] for i in ends])
        if node.op == "slice" and not self.suffix and self._split(node):
            return self.env[node.id]
        return self.time.value(self, node, args) if node.op in TIME else TABLE[node.op](self.c, node, args)

    def _split(self, node: Node) -> bool:
        """A slice together with the others of the same value, by one statement; False where it is the only one, or
        they overlap.  Each slice by itself would have a gradient of the size of the whole (inside loops, where wholes
        are small, it was no faster).

        before: z[..., :n], z[..., n : 2 * n]      -->  after: i, f = z.split((n, n), -1)
        """
        whole, axis = self.env[node.args[0]], node.attr("axis")
        alike = [n for n in self.c.cell.nodes if n.op == "slice" and n.args == node.args and n.attr("axis") == axis]
        alike = [n for n in alike if self.uses.get(n.id, 0) > 0 and n.id not in self.env and n.id not in self.finish]
        t = self.c.type(node.args[0])
        cuts = side_by_side(alike, t.shape[int(str(axis))]) if not whole.number else None
        if cuts is None or node not in alike or len(alike) < 2:
            return False
        x = self.c.whole(whole, t, frozenset({int(str(axis))}))
        targets, sizes = [], []
        for part, size in cuts:
            name = "_" if part is None else self.names.fresh(self.title(part) + self.suffix)
            targets.append(name)
            sizes.append(self.c.dim(size))
            if part is not None:
                self.env[part.id] = plain(x, name)
                self.bound[part.id] = name
        self.comment(self.source.line(node))
        self.lines.append(f"{', '.join(targets)} = {x.atom}.split({tuple_text(sizes)}, {axis})")
        return True

    def _bind_longest(self, node: Node) -> bool:
        """Give the longest unnamed argument a variable; False when there is none worth it."""
        takes_bias = [a for a in node.args if node.op == "add" and self.env[a].add_bias is not None]
        open_ = [a for a in node.args if a not in self.bound and a not in takes_bias and len(self.env[a].text) >= 30]
        if not open_:
            return False
        self._hold(self.c.cell.nodes[max(open_, key=lambda a: len(self.env[a].text))])
        return True

    def _wants_variable(self, node: Node, e: Expr, forced: bool) -> bool:
        if node.op in LEAVES or e.number:
            return False
        if forced or node.id in self.results or node.name:
            return True
        if node.id in self.titles and len(e.text) > 30:
            return True
        return self.uses.get(node.id, 0) > 1 and node.op not in VIEWS

    def _hold(self, node: Node) -> None:
        e = self.env[node.id]
        if e.text.isidentifier():
            self.bound[node.id] = e.text
        elif node.id not in self.bound:
            self.assign(node, e)

    def held(self, node: NodeId) -> Expr:
        """The value of `node`, in a variable from here on."""
        if not self.env[node].number and self.c.cell.nodes[node].op not in LEAVES:
            self._hold(self.c.cell.nodes[node])
        return self.env[node]

    def title(self, node: Node) -> str:
        """What the variable of a node is called."""
        if node.id in self.titles:
            return self.titles[node.id]
        if node.name:
            return node.name
        owner = self.owners[node.id].name.removesuffix("_new") if node.id in self.owners else ""
        if owner and node.id in self.loop_inputs:
            return f"{owner}_in"
        word = WORDS.get(node.op, node.op)
        return f"{owner}_{word}" if owner else word

    def assign(self, node: Node, e: Expr) -> str:
        if node.id in self.finish:
            e = state_value(self, *self.finish[node.id])
        name = self.names.fresh(self.title(node) + ("" if node.id in self.finish else self.suffix))
        owner = self.owners.get(node.id)
        if owner is not None:
            self.comment(self.source.line(self.c.cell.nodes[owner.node]))
        self.lines += [f"{name} = {e.text}"] if self.suffix else short_lines(name, e)
        self.bound[node.id] = name
        self.env[node.id] = e.named(name)
        return name

    def comment(self, text: str | None) -> None:
        if text and text != self.last_comment:
            self.last_comment = text
            self.lines.append(f"# {text}" if len(text) <= LONG else f"# {text[: LONG - 4]} ...")

    def statement(self, text: str) -> None:
        self.lines.append(text)

    def variable(self, node: NodeId, name: str, **known: object) -> None:
        """`node` is held by the variable `name`."""
        self.env[node] = replace(Expr(text=name), **known)  # type: ignore[arg-type]
        self.bound[node] = name


def side_by_side(slices: Iterable[Node], size: Dim) -> list[tuple[Node | None, Dim]] | None:
    """Slices along one axis in order, with what lies between them (None), and the size of each; None where it is not
    known that they do not overlap."""
    found: list[tuple[Node | None, Dim]] = []
    at = Dim.of(0)
    for n in sorted(slices, key=lambda n: _middle(n, size)):
        start, stop = (Dim.of(n.attr(k)) for k in ("start", "stop"))  # type: ignore[arg-type]
        if start != at and not (start - at).is_nonnegative():
            return None
        found += [(None, start - at)] if start != at else []
        found.append((n, stop - start))
        at = stop
    return found if at == size else [*found, (None, size - at)] if (size - at).is_nonnegative() else None


def _middle(node: Node, size: Dim) -> Fraction:
    """Where a slice lies for some sizes: an order that is checked afterwards."""
    env = dict.fromkeys(size.names | {x for k in ("start", "stop") for x in Dim.of(node.attr(k)).names}, 840)  # type: ignore[arg-type]
    return sum((Dim.of(node.attr(k)).number(env) for k in ("start", "stop")), Fraction(0))  # type: ignore[arg-type]


def short_lines(name: str, e: Expr) -> list[str]:
    """An assignment, in two where it is long and ends by dividing an axis: `F.linear(...).unflatten(-1, (h, n))`.

    Only of one call: in `a + b.unflatten(...)` the axis is b's.
    """
    head, sign, tail = e.text.rpartition(".unflatten(")
    ends = sign and tail.count("(") + 1 == tail.count(")") and head.count("(") == head.count(")")
    if len(e.text) < LONG or e.prec < ATOM or not ends or not tail.endswith("))"):
        return [f"{name} = {e.text}"]
    return [f"{name} = {head}", f"{name} = {name}{sign}{tail}"]


def state_value(body: Body, state: State, old: str) -> Expr:
    """A state's new value: of its whole shape, and of the old value's dtype."""
    c = body.c
    t = c.type(state.update)
    e = c.whole(body.env[state.update], t, lead=True)
    if e.number or e.low or t.dtype != c.type(state.node).dtype:
        e = replace(e, text=f"{e.atom}.to({old}.dtype)", prec=ATOM, low=False)
    return e


def indented(lines: Iterable[str], levels: int = 1) -> list[str]:
    return ["    " * levels + line if line else line for line in lines]
