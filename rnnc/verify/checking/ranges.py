"""How large the values of a cell get, for all weights and inputs inside their domains."""

from __future__ import annotations

from rnnc.exact import ranges as iv
from rnnc.exact.ranges import FULL, INF, POSITIVE, RULES, VIEWS, Range, closed, hull
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Node
from rnnc.ir.types import Interval, UnitNorm


class Ranges:
    """Ranges of a cell's nodes: of a real one itself, of a complex one its real part and its modulus."""

    def __init__(self, cell: CellIR) -> None:
        self.cell, self.known = cell, dict[tuple[int, bool], Range]()
        self.domains = {i.node: i.domain for i in cell.inputs}

    def of(self, i: int, size: bool = False) -> Range:
        """The range of a node's (real part's) entries, or of their moduli."""
        if (i, size) not in self.known:
            n = self.cell.nodes[i]
            if n.type.dtype == "complex":
                self.known[i, size] = self.complex(n, size)
            else:
                self.known[i, size] = iv.magnitude(self.of(i)) if size else self.real(n)
        return self.known[i, size]

    def real(self, n: Node) -> Range:
        if n.type.dtype != "real":
            return POSITIVE  # truth values and tokens
        args = [self.of(a, n.op == "abs") for a in n.args if self.cell.nodes[a].type.dtype in ("real", "complex")]
        match n.op, self.domains.get(n.id):
            case "input", Interval() as d:
                return hull([(-INF if d.lo is None else d.lo, d.lo_open), (INF if d.hi is None else d.hi, d.hi_open)])
            case "input", UnitNorm():
                return closed(-1, 1)
            case "const", _:
                return iv.constant(n.attr("value"))
            case "dim", _:
                return closed(1, INF) if str(n.attr("value")).isidentifier() else FULL
            case "arange", _:
                start = Dim.of(n.attr("start")).constant  # type: ignore[arg-type]
                return FULL if start is None else closed(start, INF)
            case "mul", _ if n.args[0] == n.args[1]:
                return iv.power(args[0], closed(2, 2))
        return RULES[n.op](*args) if n.op in RULES else FULL

    def complex(self, n: Node, size: bool) -> Range:
        args = [self.of(a, size) for a in n.args]
        scaled = n.op in ("mul", "div") and any(
            self.cell.nodes[a].type.dtype == "real" for a in n.args[n.op == "div" :]
        )
        if n.op == "exp" and size:
            return iv.rising("exp", self.of(n.args[0]))
        if (n.op == "polar" and size) or (n.op == "complex" and not size) or n.op in VIEWS or n.op == "conj":
            return args[0]
        if n.op in (("mul", "div") if size else ("neg", "add", "sub")) or scaled:
            return RULES[n.op](*args)
        return args[0] if n.op == "neg" else POSITIVE if size else FULL
