"""Python expressions with what is known of the tensors they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rnnc.ir.dims import Dim

# Python's precedence, loosest first.
TERNARY, OR, AND, NOT, COMPARE, BIT_OR, BIT_AND, ADD, MUL, UNARY, POWER, ATOM = range(12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expr:
    """Source text and how it binds.

    A tensor's axes are `[*lead, *per, *shape]` (lead: batch and time, none for a static value).  Two liberties keep the
    code free of copies: an axis of `per` or `shape` in `small` may have size 1 where the type says more (it broadcasts
    later), and a static tensor may lack the first `absent` axes.
    """

    text: str
    prec: int = ATOM
    number: bool = False  # a Python number: fits anywhere, is no tensor
    static: bool = False  # no batch and time axes in front
    small: frozenset[int] = frozenset()
    absent: int = 0
    low: bool = False  # may have a lower precision than the states, under autocast
    base: str = ""  # of an indexing expression: what is indexed ...
    index: tuple[bool, ...] = ()  # ... and its last axes, True for a new one
    unlifted: Expr | None = field(default=None, repr=False)  # the value before `lift` gave it per axes
    flipped: Expr | None = field(default=None, repr=False)  # of a transposed matrix: the matrix
    add_bias: Callable[[Expr], Expr | None] | None = field(
        default=None, repr=False, compare=False
    )  # F.linear takes one
    projection: tuple[str, str, str] | None = None  # of a call of the runtime's `linear`: its arguments

    def at(self, prec: int) -> str:
        """The text, in parentheses where a place that binds as tightly as `prec` needs them."""
        return f"({self.text})" if self.prec < prec else self.text

    @property
    def atom(self) -> str:
        """As the object of `.method()` or `[index]`; a negative number or a number needs parentheses too."""
        return f"({self.text})" if self.prec < ATOM or self.number else self.text

    def named(self, name: str) -> Expr:
        """The same value held by a variable."""
        kept = replace(self, text=name, prec=ATOM, base="", index=(), add_bias=None)
        if self.unlifted is not None:
            kept = replace(kept, unlifted=None)
        return replace(kept, flipped=None)


def call(function: str, *args: str) -> str:
    return f"{function}({', '.join(args)})"


def tuple_text(items: list[str]) -> str:
    return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def new_axes(e: Expr, rank: int, axes: tuple[int, ...]) -> Expr:
    """`e` with size-1 axes at the (negative) positions `axes` of a result with `rank` trailing axes.

    Nested indexing is merged: `x[..., None, :]` then a last axis is `x[..., None, :, None]`.
    """
    old = list(e.index)
    new: list[bool] = []
    for axis in range(-1, -rank - 1, -1):
        if axis in axes:
            new.insert(0, True)
        else:
            new.insert(0, old.pop() if old else False)
    index = [*old, *new]
    while index and not index[0]:
        index.pop(0)
    if not index:
        return e
    base = e.base or e.atom
    text = f"{base}[..., {', '.join('None' if fresh else ':' for fresh in index)}]"
    return replace(e, text=text, prec=ATOM, base=base, index=tuple(index), unlifted=None, flipped=None, add_bias=None)


def dim_text(dim: Dim, name_of: Callable[[str], str], prec: int = 0) -> str:
    """A dimension in Python's integer arithmetic: `2*d/heads` -> `2 * d // heads`."""
    bottom: dict[str, int] = {}
    denominator = 1
    for monomial, c in dim.terms:
        denominator = denominator * c.denominator // _gcd(denominator, c.denominator)
        for name, power in monomial:
            if power < 0:
                bottom[name] = max(bottom.get(name, 0), -power)
    scale = Dim.of(denominator)
    for name, power in bottom.items():
        for _ in range(power):
            scale = scale * Dim.of(name)
    top = dim * scale
    factors = [str(denominator)] if denominator != 1 else []
    factors += [name_of(n) for n in sorted(bottom) for _ in range(bottom[n])]
    text = _polynomial(top, name_of)
    own = ADD if len(top.terms) > 1 else UNARY if text.startswith("-") else MUL if " * " in text else ATOM
    if factors:
        below = factors[0] if len(factors) == 1 else f"({' * '.join(factors)})"
        text, own = f"{f'({text})' if own < MUL else text} // {below}", MUL
    return f"({text})" if own < prec else text


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a


def _polynomial(dim: Dim, name_of: Callable[[str], str]) -> str:
    """A polynomial with integer coefficients, highest degree first."""
    if not dim.terms:
        return "0"
    out = ""
    for monomial, c in sorted(dim.terms, key=lambda t: (-sum(p for _, p in t[0]), t[0])):
        factors = [name_of(n) for n, p in monomial for _ in range(p)]
        if abs(c) != 1 or not factors:
            factors.insert(0, str(abs(c)))
        sign = "-" if c < 0 else "+"
        term = " * ".join(factors)
        out = f"{out} {sign} {term}" if out else ("-" if c < 0 else "") + term
    return out
