"""The standard library of specs, one architecture a file.

A file starts with a header of comment lines: `# Name: what it is`, then `# Paper: ...` and `# Update: ...`, each of
which may go on in lines that start with `#   `.  `entries()` reads headers and the names of the cells without parsing a
spec, so that `rnnc list` answers at once.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rnnc.spec import Spec

FOLDER = Path(__file__).parent
_DECLARATION = re.compile(r"^(?:cell|model)\s+(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file: `name` is what `rnnc.stdlib(name)` takes, `cells` its cells and models in order."""

    name: str
    path: Path
    title: str
    paper: str
    update: str
    cells: tuple[str, ...]


def entries() -> tuple[Entry, ...]:
    """All architectures, by name; the shared files of `std/` are not among them."""
    return tuple(_entry(path) for path in sorted(FOLDER.glob("*.rnn")))


def path_of(name: str) -> Path:
    """The file of the architecture `name`.  Raises KeyError, with the names there are."""
    path = FOLDER / f"{name}.rnn"
    if not re.fullmatch(r"\w+", name) or not path.is_file():
        raise KeyError(f"no architecture `{name}` in the standard library; there are {', '.join(_names())}")
    return path


def tagger_source(cell: str, use: str = "") -> str:
    """The text of a model `Tagger` that labels every step of a token sequence with a cell from `real[d]` to `real[d]`.

    `use` is where the cell comes from, as in a spec: `std.gru`, or `"./mine.rnn"` with its quotes; without it, the file
    of the standard library that has the cell (KeyError if none has).  The cell is called as `cell(d)`.  The result is a
    spec: embedding, `layers` residual blocks (the cell, then a small MLP), norm, logits per step.
    """
    return _TAGGER.format(use=use or f"std.{_file_with(cell).stem}", cell=cell)


def _names() -> list[str]:
    return [path.stem for path in sorted(FOLDER.glob("*.rnn"))]


def _file_with(cell: str) -> Path:
    for entry in entries():
        if cell in entry.cells:
            return entry.path
    raise KeyError(f"no cell `{cell}` in the standard library")


def _entry(path: Path) -> Entry:
    text = path.read_text(encoding="utf-8")
    fields = _header(text)
    return Entry(
        name=path.stem,
        path=path,
        title=fields.get("title", ""),
        paper=fields.get("Paper", ""),
        update=fields.get("Update", ""),
        cells=tuple(_DECLARATION.findall(text)),
    )


def _header(text: str) -> dict[str, str]:
    """The fields of the leading comment lines: "title" is the first line."""
    fields: dict[str, str] = {}
    key = "title"
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if match := re.match(r"# (Paper|Update): (.*)", line):
            key = match[1]
            fields[key] = match[2].strip()
        elif line.startswith("#   ") or not fields:
            fields[key] = f"{fields.get(key, '')} {line[1:].strip()}".strip()
        else:
            break
    return fields


_TAGGER = """\
use {use} {{ {cell} }}

model Tagger(vocab: dim, classes: dim, d: dim = 64, layers: int = 2) {{
  input t: token[vocab]
  let h0: real[d] = embedding(t, d)
  repeat layers as h from h0 {{
    h = h + {cell}(d)(rmsnorm(h, weight = true))
    h = h + linear(silu(linear[2*d](rmsnorm(h, weight = true))))
  }}
  output logits: real[classes] = linear(rmsnorm(h, weight = true))
}}
"""


class _Library(ModuleType):
    """This package: `rnnc.stdlib("gru")` loads a spec, and `rnnc.stdlib.entries()` is still its function."""

    def __call__(self, name: str) -> Spec:
        from rnnc.spec import stdlib

        return stdlib(name)


sys.modules[__name__].__class__ = _Library
