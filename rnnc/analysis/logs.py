"""The logarithm of a coefficient that is positive by how it is computed, without a `log` of something that may
underflow.
"""

from __future__ import annotations

from fractions import Fraction

from rnnc.analysis import intervals
from rnnc.analysis.ranges import Ranges
from rnnc.ir.builder import Builder
from rnnc.ir.graph import Node, NodeId
from rnnc.ir.logs import Logarithms


class CoefficientLogs(Logarithms):
    """By structure where there is any; other values that are positive whatever the parameters and inputs are get a
    `log` node (declared domains of inputs are not trusted: a logarithm of a negative number would be silent).
    """

    def __init__(self, b: Builder) -> None:
        super().__init__(b)
        self.ranges = Ranges(b.nodes, {})

    def other(self, node: Node) -> NodeId | None:
        if node.op == "const":
            return self.b.add("log", node.id) if _is_positive(node) else None
        return self.b.map("log", node.id) if intervals.is_positive(self.ranges.real(node.id)) else None


def _is_positive(n: Node) -> bool:
    value = n.attr("value")
    return value in ("pi", "e") or (isinstance(value, Fraction) and value > 0)
