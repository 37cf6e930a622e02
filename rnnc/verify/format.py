"""The file format of certificates: numbers, arrays and specs as JSON, and back (docs/verification.md)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rnnc.exact import Algebraic, Number, root, unity
from rnnc.exact.asymptotic import Asymptotic, Atom, make, wide
from rnnc.frontend.modules import stdlib_folder
from rnnc.ir.types import Interval
from rnnc.spec import Spec, load

FORMAT = "rnnc certificate 3"

# ---------------------------------------------------------------- numbers and arrays


def encode(x: Any) -> Any:
    """A number: "p/q", or its terms [coefficient, turns of the root of unity, radicand, power of omega, atoms]."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    if isinstance(x, (int, np.integer)):
        return int(x)
    if isinstance(x, (float, np.floating)):
        x = Fraction(float(x))
    if isinstance(x, Fraction):
        return f"{x.numerator}/{x.denominator}"
    if isinstance(x, (complex, np.complexfloating)):
        x = Fraction(float(x.real)) + Fraction(float(x.imag)) * unity(Fraction(1, 4))
    y = wide(x)
    terms = []
    for (power, atoms), c in y.terms.items():
        named = [[a.kind, encode(a.value), p] for a, p in atoms]
        parts = c.terms if isinstance(c, Algebraic) else {1: (1, {0: c})}
        for radicand, (n, inner) in parts.items():
            terms += [[str(v), str(Fraction(k, n)), radicand, power, named] for k, v in inner.items()]
    return {"terms": terms, "error": y.error}


def decode(value: Any) -> Any:
    """What `encode` wrote; a ValueError, TypeError or KeyError for what it cannot have written."""
    if isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return Fraction(value)
    error = value["error"]
    total: Number = Asymptotic({}, error) if error is not None else Fraction(0)
    for c, turns, radicand, power, atoms in value["terms"]:
        key = (power, tuple(sorted(((Atom(kind, decode(v)), p) for kind, v, p in atoms), key=str)))
        total = total + make({key: unity(Fraction(turns)) * Fraction(c) * root(radicand)}, None)
    return total


def encode_array(value: Any) -> dict[str, Any]:
    array = np.asarray(value)
    return {"shape": list(array.shape), "entries": [encode(x) for x in array.reshape(-1).tolist()]}


def decode_array(value: Any) -> Any:
    """An array of truth values or tokens, or an object array of exact numbers."""
    entries = [decode(x) for x in value["entries"]]
    array = np.empty(len(entries), dtype=object)
    array[:] = entries
    plain = bool(entries) and all(isinstance(x, (bool, int)) for x in entries)
    return (np.array(entries) if plain else array).reshape(value["shape"])


def encode_interval(x: Interval) -> list[Any]:
    """[lo, hi, lo is open, hi is open]; an infinite end is null."""
    ends = [None if end is None else encode(end) for end in (x.lo, x.hi)]
    return [*ends, x.lo_open or x.lo is None, x.hi_open or x.hi is None]


def decode_interval(value: Any) -> Interval:
    lo, hi, lo_open, hi_open = value
    lo, hi = (None if end is None else Fraction(end) for end in (lo, hi))
    return Interval(lo=lo, hi=hi, lo_open=bool(lo_open), hi_open=bool(hi_open))


# ---------------------------------------------------------------- specs


def encode_spec(spec: Spec) -> dict[str, str]:
    """File -> text, the main file first; the standard library's own files are known."""
    library = str(stdlib_folder())
    own = {f: t for f, t in spec.sources.items() if f == spec.file or not os.path.abspath(f).startswith(library)}
    return {os.path.basename(spec.file): spec.text} if len(own) == 1 else {spec.file: own.pop(spec.file)} | own


def decode_spec(files: Mapping[str, str]) -> Spec:
    """The spec of these texts, read from a folder of their own, out of which no name leads."""
    with tempfile.TemporaryDirectory() as folder:
        common = os.path.commonpath([os.path.dirname(os.path.abspath(f)) for f in files])
        paths = [Path(folder, os.path.relpath(os.path.abspath(f), common)) for f in files]
        for path, text in zip(paths, files.values(), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return load(paths[0])


def encode_hyper(given: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (bool, int)) else str(Fraction(v)) for k, v in given.items()}


def decode_hyper(given: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, (bool, int)) else Fraction(v) for k, v in given.items()}
