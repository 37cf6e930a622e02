"""What the expressions of one cell's code share: sizes, placement, and how broadcast values are made whole."""

from __future__ import annotations

import keyword
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache

from rnnc.backends.torch.expr import MUL, Expr, call, dim_text
from rnnc.ir.dims import Dim
from rnnc.ir.domains.dependence import dependences
from rnnc.ir.graph import CellIR, NodeId
from rnnc.ir.types import Type

# What the text of a function says itself: variables, modules and Python's own functions.
PYTHON = frozenset({"zip", "range", "float", "complex", "abs", "max", "min", "super"})
LOCALS = PYTHON | {"self", "state", "reverse", "cu_seqlens", "final", "batch", "device", "dtype"}
LOCALS |= {"torch", "F", "nn", "math", "cmath"} | {"states", "sequences", "statics", "gradients"}  # of Newton's steps


@cache
def runtime_names() -> frozenset[str]:
    """What a generated file may import from rnnc.runtime."""
    import rnnc.runtime

    return frozenset(rnnc.runtime.__all__)


def identifier(name: str) -> str:
    """A spec name as a Python variable, which must not hide what the function calls."""
    return name + "_" if keyword.iskeyword(name) or name in LOCALS or name in runtime_names() else name


REPORT = "newton"  # the attribute of a module that counts what Newton's method did
TAKEN = LOCALS | {
    "Any",
    "Tensor",
    "State",
    "forward",
    "step",
    "initial_state",
    "reset_parameters",
    "extra_repr",
}


@cache
def module_names() -> frozenset[str]:
    """What a module or its class has already: PyTorch's attributes (of an instance, too), and rnnc's."""
    from torch import nn

    generated = {"step", "initial_state", "reset_parameters", "like", REPORT}
    return frozenset({*dir(nn.Module()), *generated, "source", "request", "compiled", "sizes"})


def attribute_name(name: str) -> str:
    """A parameter or a submodule as an attribute: `self.` stands in front, so variables are no trouble."""
    return name + "_" if keyword.iskeyword(name) or name in module_names() else name


def dim_name(name: str) -> str:
    """A dim as a constructor's argument and an attribute of the module."""
    return name + "_" if keyword.iskeyword(name) or name in TAKEN or name in module_names() else name


def class_name(name: str) -> str:
    """A cell as a class, which must not hide what the file imports."""
    return name + "_" if keyword.iskeyword(name) or name in TAKEN or name in runtime_names() else name


def static_nodes(cell: CellIR) -> frozenset[NodeId]:
    """Nodes made of parameters and constants only: they have no batch and time axes."""
    return frozenset(i for i, found in dependences(cell).items() if found.static)


@dataclass(slots=True, kw_only=True)
class Context:
    """One cell in one place: `lead` is the number of axes in front of a time-varying value (1 a step, 2 a sequence)."""

    cell: CellIR
    lead: int
    static: frozenset[NodeId]
    like: str  # a real tensor whose dtype and device fresh tensors take
    lead_text: str = ""  # the sizes of the lead axes, as arguments of `expand`
    attributes: dict[NodeId | str, str] = field(
        default_factory=dict
    )  # parameters, buffers, submodules (by key): self.NAME
    dim_names: dict[str, str] = field(default_factory=dict)  # how a dim is written
    imports: set[str] = field(default_factory=set)  # of rnnc.runtime and modules ("math", "F"): what was used
    native: bool = False  # whether projections of whole sequences run by the runtime's own product

    def dim(self, dim: Dim, prec: int = 0) -> str:
        known = dim.constant
        if known is not None and known.denominator == 1:
            return str(known)
        return dim_text(dim, lambda n: self.dim_names.get(n, f"self.{dim_name(n)}"), prec)

    def type(self, node: NodeId) -> Type:
        return self.cell.nodes[node].type

    def use(self, name: str) -> str:
        """A function of rnnc.runtime, imported because it is used."""
        self.imports.add(name)
        return name

    def leads(self, e: Expr) -> int:
        return 0 if e.static else self.lead

    def whole(self, e: Expr, type_: Type, axes: frozenset[int] | None = None, lead: bool = False) -> Expr:
        """`e` with its real size in `axes` (all when None); with `lead`, batch and time axes too."""
        rank = len(type_.per) + type_.rank
        wanted = frozenset(range(-rank, 0)) if axes is None else axes
        if e.number:
            sizes = [self.dim(d) for d in (*type_.per, *type_.shape)]
            shape = f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"
            if type_.dtype == "complex":
                ones = call(self.use("complex_of"), f"{self.like}.new_ones({shape})")
                e = Expr(text=f"{ones} * {e.at(MUL)}", prec=MUL, static=True)
            else:
                kind = ", dtype=torch.bool" if type_.dtype == "bool" else ""
                e = Expr(text=f"{self.like}.new_full({shape}, {e.text}{kind})", static=True)
        add_lead = lead and e.static
        if not (e.small & wanted) and not add_lead:
            return e
        absent = range(-rank, -rank + e.absent)
        every = add_lead or any(axis in wanted for axis in absent)
        dims = (*type_.per, *type_.shape)
        sizes = [
            self.dim(dims[axis]) if axis in wanted else "1" if axis in absent else "-1"
            for axis in range(-rank if every else -rank + e.absent, 0)
        ]
        front = [self.lead_text] if add_lead else ["-1"] * self.leads(e)
        return Expr(
            text=f"{e.atom}.expand({', '.join([*front, *sizes])})",
            static=e.static and not add_lead,
            small=e.small - wanted,
            absent=0 if every else e.absent,
            low=e.low,
        )


def core(type_: Type) -> frozenset[int]:
    """The core axes, negative."""
    return frozenset(range(-type_.rank, 0))


def number_text(value: Fraction) -> tuple[str, bool]:
    """An exact number in Python, and whether it binds like a quotient."""
    if value.denominator == 1:
        return str(value.numerator), False
    as_float = float(value)
    if Fraction(repr(as_float)) == value:
        return repr(as_float).replace("e-0", "e-"), False
    if abs(value.numerator) < 10**6 and value.denominator < 10**6:
        return f"{value.numerator} / {value.denominator}", True
    return repr(as_float), False
