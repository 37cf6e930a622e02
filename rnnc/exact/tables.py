"""Arrays of exact numbers that hold few different ones: as the numbers' places in a table.

A function of entries is worked out once for each choice of arguments that occurs, however large the arrays are.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy

from rnnc.exact.algebraic import NotExact

np: Any = numpy  # object arrays, which its stubs do not describe
DENSE = 1 << 22  # choices of arguments up to which a list of all possible ones is kept


class Table:
    """Different values (exact numbers, or truth values); place 0 is the number zero."""

    def __init__(self) -> None:
        self.values: list[Any] = [Fraction(0)]
        self._places: dict[tuple[type, Any], int] = {(Fraction, Fraction(0)): 0}

    def place(self, value: Any) -> int:
        """Where a value stands, from now on if it is new."""
        key = (type(value), value)
        found = self._places.get(key)
        if found is None:
            found = self._places[key] = len(self.values)
            self.values.append(value)
        return found

    def coded(self, array: Any) -> Any:
        """The places of an array's entries: int64 of its shape."""
        array = np.asarray(array)
        flat = (bool(x) for x in array.flat) if array.dtype == bool else array.flat
        return np.fromiter(map(self.place, flat), dtype=np.int64, count=array.size).reshape(array.shape)

    def read(self, codes: Any) -> Any:
        """The entries at these places: an array of bools if all are, else of objects."""
        codes = np.asarray(codes)
        found = np.empty(codes.size, dtype=object)
        found[:] = [self.values[k] for k in codes.reshape(-1).tolist()]
        whole = codes.size > 0 and all(isinstance(x, bool) for x in found)
        return (found.astype(bool) if whole else found).reshape(codes.shape)

    def each(self, f: Callable[..., Any], *codes: Any) -> Any:
        """f of arrays [K] of the K choices of arguments that occur; the places of its values, in the common shape."""
        wide = np.broadcast_arrays(*codes)
        size = len(self.values)
        if size ** len(wide) >= 2**63:  # more choices than a key can tell apart
            raise NotExact(f"{size} different numbers: too many")
        key = np.zeros(wide[0].shape, dtype=np.int64)
        for code in wide:
            key = key * size + code
        different, at = _different(key.reshape(-1), size ** len(wide))
        columns = []
        for _ in wide:
            different, column = np.divmod(different, size)
            columns.append(column)
        found = self.coded(f(*(self.read(c) for c in reversed(columns))))
        return found[at].reshape(wide[0].shape)


def _different(keys: Any, size: int) -> tuple[Any, Any]:
    """The different keys, all below `size`, and for each key which of these it is."""
    if size > DENSE:
        found, at = np.unique(keys, return_inverse=True)
        return found, at.reshape(-1)
    seen = np.zeros(size, dtype=bool)
    seen[keys] = True
    found = np.flatnonzero(seen)
    number = np.zeros(size, dtype=np.int64)
    number[found] = np.arange(len(found))
    return found, number[keys]
