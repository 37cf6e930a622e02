"""The cost model: a strategy's work as symbolic counts, and the time a device would take for it.

seconds = call + launches * overhead + flops * flop + bytes * byte + special * special + far bytes * far
          + strided bytes * strided

with the prices of a device, which are measured for each strategy (`calibration.py`) or the defaults below.

The counts are of one forward pass over B sequences of T steps, 4 bytes a number (complex: two).  The model only has to
rank strategies: that a backward pass costs two to three times as much is in the prices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, isqrt, log

from rnnc.analysis.forms import Group
from rnnc.ir.dims import Dim, DimError
from rnnc.ir.domains.cost import elements
from rnnc.ir.graph import CellIR, Node, NodeId, ancestors
from rnnc.ir.types import Type

BATCH, STEPS = "B", "T"  # names in the symbolic counts
USUAL = {BATCH: 8, STEPS: 1024}
USUAL_DIM = 64  # for dims without a value when strategies are ranked
NUMBER = 4  # bytes
NOTHING = Dim.of(0)
NEAR = 0.4  # in logarithms: how far from a measured work its time is taken for that of another one
EQUAL = 0.01  # the square of such a distance that is as good as none
ALOOF = 0.001  # the weight of the prices beside one measurement of equal work
CACHE = float(1 << 23)  # bytes moved in all from which they are not found in a cache again


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What operations cost in seconds: `call` for the whole, `overhead` for one framework operation, and each unit of
    work: `flop`, `byte` moved, `special` function, and what a byte costs more where all of them do not fit into a cache
    (`far`), or where those of one step lie apart from the next one's (`strided`).  Measured by
    `rnnc bench --calibrate`, for each strategy.

    `known` are works that were measured, with the logarithm of how much longer they took than these prices say: near
    them the estimate is what was measured.
    """

    name: str
    overhead: float
    flop: float
    byte: float
    special: float = 0.0
    call: float = 0.0
    far: float = 0.0
    strided: float = 0.0
    known: tuple[tuple[tuple[float, ...], float], ...] = ()

    def seconds(self, work: Sequence[float]) -> float:
        """What this much work is expected to take."""
        prices = (self.call, self.overhead, self.flop, self.byte, self.special, self.far, self.strided)
        total = sum(n * price for n, price in zip(work, prices, strict=True))
        if not self.known or total <= 0:
            return total
        near = [(_nearness(work, other), late) for other, late in self.known]
        return total * exp(sum(w * late for w, late in near) / (ALOOF + sum(w for w, _ in near)))


def _nearness(a: Sequence[float], b: Sequence[float]) -> float:
    """Towards 0 as launches, flops, bytes, special functions or strided bytes differ by more than a factor of about
    1.5; for equal work so much that no other counts beside it.
    """
    apart = sum(log((x + 1) / (y + 1)) ** 2 for x, y in zip((*a[1:5], a[6]), (*b[1:5], b[6]), strict=True))
    return EQUAL * exp(-apart / (2 * NEAR**2)) / (apart + EQUAL)


DEVICES = {
    "cpu": Device(name="cpu", overhead=2.5e-5, flop=6e-11, byte=2.5e-10),  # PyTorch, a backward pass included
    "cuda": Device(name="cuda", overhead=8e-6, flop=5e-14, byte=3.3e-13),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """`depth` is the longest chain of dependent steps, as text; `bytes` are moved, `memory` is held at once beside the
    inputs and outputs; `launches` counts framework operations at `USUAL` sizes, `special` calls of exp and its kin.
    """

    depth: str
    flops: Dim
    bytes: Dim
    memory: Dim
    launches: float
    special: Dim = NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What a strategy is asked about: one group of a cell, with values for the dims that have one (those in `given` are
    no defaults).
    """

    cell: CellIR
    group: Group
    dims: Mapping[str, int]
    given: frozenset[str] = frozenset()

    def number(self, count: Dim) -> float:
        """The count at the given dims and the usual sizes of everything else."""
        env = {name: self.value(name) for name in count.names}
        total = 0.0
        for monomial, c in count.terms:
            term = float(c)
            for name, power in monomial:
                term *= float(env[name]) ** power
            total += term
        return total

    def value(self, name: str) -> int:
        """What a size is taken as: the one given, else a usual one."""
        return self.dims.get(name, USUAL.get(name, USUAL_DIM))

    def size_names(self, state: str) -> frozenset[str]:
        """The dims that a state's shape is made of."""
        return frozenset(self.size(self.cell.state(state).node).names)

    def size(self, node: NodeId) -> Dim:
        return size_of(self.cell.nodes[node].type)

    @property
    def state_nodes(self) -> list[NodeId]:
        return [self.cell.state(name).node for name in self.group.states]

    @property
    def state_size(self) -> Dim:
        return sum((self.size(node) for node in self.state_nodes), Dim.of(0))

    @property
    def dependent(self) -> list[Node]:
        """The nodes computed from the group's states that its updates need."""
        atoms = {self.cell.state(n).node for n in self.group.states}
        cone = ancestors(self.cell, [self.cell.state(n).update for n in self.group.states])
        found: set[NodeId] = set(atoms)
        nodes = []
        for i in sorted(cone):
            if i not in atoms and found & set(self.cell.nodes[i].args):
                found.add(i)
                nodes.append(self.cell.nodes[i])
        return nodes


def size_of(t: Type) -> Dim:
    """How many real numbers a value is."""
    return elements(t) * (2 if t.dtype == "complex" else 1)


def per_step(*factors: Dim | int) -> Dim:
    """A count per sequence and step, over the whole input."""
    total = Dim.of(BATCH) * Dim.of(STEPS)
    for f in factors:
        total = total * f
    return total


def per_sequence(*factors: Dim | int) -> Dim:
    """A count per sequence, for any number of steps."""
    total = Dim.of(BATCH)
    for f in factors:
        total = total * f
    return total


def seconds(cost: Cost, problem: Problem, device: Device) -> float:
    """What a forward pass is expected to take."""
    return device.seconds(work_of(cost, problem))


def work_of(cost: Cost, problem: Problem) -> tuple[float, ...]:
    """How often each price of a device is paid, in the order of `Device.seconds`."""
    flops, moved, special = (problem.number(c) for c in (cost.flops, cost.bytes, cost.special))
    return (1.0, cost.launches, flops, moved, special, max(0.0, moved - CACHE), 0.0)


def evaluated(count: Dim, problem: Problem) -> int | None:
    """The count as a number where all its dims (and B, T, if given) are known."""
    try:
        return count.evaluate(problem.dims)
    except DimError:
        return None


def per_token(count: Dim, problem: Problem) -> str:
    """The count for one sequence and one step, with the known dims put in: "82k", or an expression in those that are
    open.
    """
    rest = count.substitute({BATCH: 1, STEPS: 1} | {k: v for k, v in problem.dims.items() if k in count.names})
    known = rest.constant
    return str(rest) if known is None else _short(float(known))


def _short(x: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if x >= size:
            return f"{x / size:.3g}{unit}"
    return f"{x:.3g}"


def root(x: float) -> float:
    return float(isqrt(max(int(x), 0)))
