"""The file format of certificates: numbers, arrays and specs as JSON, and back (docs/verification.md)."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from rnnc.exact import Algebraic, Number, root, unity
from rnnc.exact.asymptotic import EXPONENTIAL, UNKNOWN_ORDER, Asymptotic, Atom, make, omega, sign, wide
from rnnc.exact.cyclotomic import prime_factors
from rnnc.exact.functions import RANGES, conj
from rnnc.frontend.modules import stdlib_folder
from rnnc.ir.types import Interval
from rnnc.spec import Spec, load

FORMAT = "rnnc certificate 3"
MOST_POWER = 1000  # of omega and of atoms

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
        return _rational(value)
    error = value["error"]
    if error is not None and not (type(error) is int and error in (EXPONENTIAL, UNKNOWN_ORDER)):
        _whole(error)
    total: Number = Asymptotic({}, error) if error is not None else Fraction(0)
    for c, turns, radicand, power, atoms in value["terms"]:
        named = ((_atom(kind, decode(v)), _whole(p)) for kind, v, p in atoms)
        key = (_whole(power), tuple(sorted(named, key=str)))
        total = total + make({key: unity(_rational(turns)) * _rational(c) * root(radicand)}, None)
    return total


def _rational(text: Any) -> Fraction:
    """Of "p/q" or "p"; not of "1e999999999", which would fill the memory."""
    if not isinstance(text, str) or not re.fullmatch(r"-?[0-9]+(/[0-9]+)?", text):
        raise ValueError(f"{text} is no quotient of whole numbers")
    return Fraction(text)


def _whole(power: Any) -> int:
    if type(power) is not int or abs(power) > MOST_POWER:
        raise ValueError(f"{power} is no power, or too large")
    return power


def _atom(kind: str, value: Any) -> Atom:
    """An atom that stands for a number: a preimage lies strictly inside the function's range."""
    match kind:
        case "pi":
            fit = value == 0
        case "log":
            whole = isinstance(value, Fraction) and value > 1 and value.denominator == 1
            prime = whole and prime_factors(int(value)) == ((int(value), 1),)
            irrational = isinstance(value, Algebraic) and value.is_real and sign(value) > 0
            fit = prime or irrational or value == omega
        case "silu" | "gelu" | "erf" | "softplus" | "sigmoid" | "tanh":
            low, high = RANGES[kind]
            fit = value == conj(value) and (low is None or value > low) and (high is None or value < high)
        case _:
            fit = False
    if not fit:
        raise ValueError(f"{kind}({value}) stands for no number")
    return Atom(kind, value)


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
    lo, hi = (None if end is None else _rational(end) for end in (lo, hi))
    return Interval(lo=lo, hi=hi, lo_open=bool(lo_open), hi_open=bool(hi_open))


# ---------------------------------------------------------------- specs


def encode_spec(spec: Spec) -> dict[str, str]:
    """File -> text, the main file first; the standard library's own files are known."""
    library = str(stdlib_folder())
    own = {f: t for f, t in spec.sources.items() if f == spec.file or not os.path.abspath(f).startswith(library)}
    return {os.path.basename(spec.file): spec.text} if len(own) == 1 else {spec.file: own.pop(spec.file)} | own


def beside(files: Mapping[str, str]) -> dict[str, str]:
    """The files of a spec by their place beside the main one, which is the first."""
    folder = os.path.dirname(os.path.abspath(next(iter(files))))
    return {os.path.relpath(os.path.abspath(f), folder): text for f, text in files.items()}


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
    return {k: v if isinstance(v, (bool, int)) else _rational(v) for k, v in given.items()}
