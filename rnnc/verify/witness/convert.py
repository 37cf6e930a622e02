"""The search's numbers as exact numbers of the domain that closes witnesses."""

from __future__ import annotations

from typing import Any

import numpy as np

from rnnc import exact
from rnnc.verify.witness.numbers import Cosine, Number, Omega, Preimage, Root
from rnnc.verify.witness.rules import Array


def exact_number(x: Number) -> Any:
    total: Any = x.rational
    for atom, c in x.atoms:
        total = total + c * _atom(atom)
    return total


def exact_numbers(values: Array) -> Array:
    """An object array of Numbers as one of exact numbers."""
    out = np.empty(values.shape, dtype=object)
    for at in np.ndindex(*values.shape):
        out[at] = exact_number(values[at])
    return out


def _atom(atom: Omega | Cosine | Root | Preimage) -> Any:
    match atom:
        case Omega(factor=None):
            return exact.omega
        case Omega(factor=factor):
            assert factor is not None
            return exact.omega * _atom(factor)
        case Cosine(turns=turns):
            return exact.cosine(turns)
        case Root(radicand=0):
            return exact.pi
        case Root(radicand=n):
            return exact.root(n)
        case Preimage(function=function, value=value):
            return exact.preimage(function, exact_number(value))
