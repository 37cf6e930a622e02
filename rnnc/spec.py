"""A spec: one `.rnn` text, its imports, and its cells lowered to `CellIR`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from rnnc.analysis.declared import check_declared_ranges
from rnnc.diagnostics import Diagnostics, Span, SpecError
from rnnc.frontend import ast
from rnnc.frontend.claims import check_claims, check_top_level
from rnnc.frontend.hyper import check_sizes, read_given
from rnnc.frontend.lowering import MAX_TOTAL_STEPS, Lowering
from rnnc.frontend.modules import Library, LoadedModule, stdlib_folder
from rnnc.frontend.scope import Binding, suggestion
from rnnc.frontend.specialise import check_function, lower_declaration
from rnnc.frontend.tasks import SettingValue, read_task
from rnnc.ir.graph import CellIR
from rnnc.ir.simplify import simplify

__all__ = ["Spec", "check_file", "load", "parse", "stdlib"]


class Spec:
    """A parsed spec.  It may have errors: `check()` lists them all, and `lower()` raises them.

    `text` is the source, `file` its name; `sources` maps every file read to its text (for rendering diagnostics).
    """

    def __init__(self, text: str, file: str, library: Library, module: LoadedModule | None) -> None:
        self.text = text
        self.file = file
        self._library = library
        self._module = module
        self._checked: Diagnostics | None = None

    @property
    def sources(self) -> dict[str, str]:
        return self._library.sources

    @property
    def tree(self) -> ast.Module | None:
        """The syntax tree, or None when nothing could be parsed."""
        return None if self._module is None else self._module.tree

    @property
    def cells(self) -> tuple[str, ...]:
        """Names of the cells and models of this file, in order."""
        return tuple(d.name for d in self._declarations())

    @property
    def models(self) -> tuple[str, ...]:
        """Those of `cells` that are models."""
        return tuple(d.name for d in self._declarations() if d.keyword == "model")

    def _declarations(self) -> list[ast.CellDecl]:
        items = () if self._module is None else self._module.tree.items
        return [i for i in items if isinstance(i, ast.CellDecl)]

    def check(self) -> Diagnostics:
        """All errors of the spec: of its syntax, its imports, and of every cell, model and function in it.

        Cells are checked with open dims and default hyperparameters; each `bool` one is checked both ways.
        """
        if self._checked is None:
            self._checked = self._check()
        return self._checked

    def _check(self) -> Diagnostics:
        found = Diagnostics()
        self._library.steps = 0
        for d in self._library.diagnostics.items:
            found.add(d)
        if self._module is not None:
            for item in self._module.tree.items:
                if self._library.steps > MAX_TOTAL_STEPS:
                    break  # reported
                if isinstance(item, ast.CellDecl):
                    self._check_cell(item, found)
                elif isinstance(item, ast.FnDecl):
                    _extend(found, check_function(self._library, self._module, item))
                else:
                    check_top_level(item, self._module.scope, found)
        return Diagnostics(list(found.sorted()))

    def _check_cell(self, decl: ast.CellDecl, found: Diagnostics) -> None:
        assert self._module is not None
        variants: list[dict[str, bool]] = [{}]
        flags = [h.name for h in decl.hyper if h.kind == "bool"]
        variants += [{h: value} for h in flags for value in (True, False)]
        for given in variants:
            lowered = lower_declaration(self._library, self._module, decl, given, decl.name_span, generic=True)
            _extend(found, lowered.problems)
            _extend(found, check_declared_ranges(lowered.ranges))
        check_claims(decl, self._module.scope, found, self._library.broken)

    def task(self, name: str) -> dict[str, SettingValue] | None:
        """The settings of the `task` called `name` that the file declares or imports; None where there is none."""
        binding = None if self._module is None else self._module.scope.bindings.get(name)
        if binding is None or not isinstance(binding.decl, ast.TaskDecl):
            return None
        found = Diagnostics()
        settings = read_task(binding.decl, found)
        if found.has_errors:
            self._raise(found)
        if "text" in settings:
            folder = os.path.dirname(binding.decl.span.file)
            settings["text"] = os.path.join(folder, str(settings["text"]))
        return settings

    def lower(self, cell: str | None = None, **hyper: object) -> CellIR:
        """The graph of one cell, specialised on its int, real and bool hyperparameters.

        Dims may be given too: they are checked (`d/heads` must be whole) and stay symbolic.  Raises SpecError
        with every error of the cell; of the file, when it could not be parsed.
        """
        if self._library.diagnostics.has_errors or self._module is None:
            self._raise(self._library.diagnostics)
        binding = self._find(cell)
        decl, module = binding.decl, binding.module
        assert isinstance(decl, ast.CellDecl)
        assert module is not None
        found = Diagnostics()
        self._library.steps = 0
        c = Lowering(library=self._library, diagnostics=found, keyword=decl.keyword, name=decl.name)
        known, dims = read_given(c, decl, hyper, decl.name_span)
        if found.has_errors:
            self._raise(found)
        lowered = lower_declaration(self._library, module, decl, known, decl.name_span)
        _extend(found, lowered.problems)
        if lowered.cell is not None:
            check_sizes(c, lowered.cell, dims, decl.name_span)
        _extend(found, check_declared_ranges(lowered.ranges))
        check_claims(decl, module.scope, found, self._library.broken)
        if found.has_errors or lowered.cell is None:
            self._raise(found)
        return simplify(lowered.cell)

    def _find(self, cell: str | None) -> Binding:
        """The cell of this name; without a name, the file's only cell (or its only model)."""
        assert self._module is not None
        declared = self._declarations()
        names = [d.name for d in declared]
        if cell is None:
            models = self.models
            only = names if len(names) == 1 else list(models) if len(models) == 1 else []
            if not only:
                listed = ", ".join(f"`{n}`" for n in names)
                message = f"which cell? this spec has {listed}" if names else "this spec has no cell"
                self._fail("E0306", message, None, "name one of them" if names else "")
            cell = only[0]
        binding = self._module.scope.bindings.get(cell)
        if binding is None or binding.kind != "cell":
            self._fail("E0306", f"this spec has no cell `{cell}`", None, suggestion(cell, names) or _listed(names))
        return binding

    def _fail(self, code: str, message: str, span: Span | None, help_: str) -> NoReturn:
        found = Diagnostics()
        found.error(code, message, span, help=help_)
        self._raise(found)

    def _raise(self, found: Diagnostics) -> NoReturn:
        raise SpecError(found.sorted(), dict(self.sources))

    def __repr__(self) -> str:
        return f"Spec({self.file!r}, cells={list(self.cells)})"


def _listed(names: list[str]) -> str:
    return f"it has {', '.join(f'`{n}`' for n in names)}" if names else "it has no cells"


def _extend(into: Diagnostics, more: Diagnostics) -> None:
    for d in more.items:
        into.add(d)


def parse(text: str, file: str = "<string>", *, folder: str | Path | None = None) -> Spec:
    """A spec from text.  Errors are kept for `check()`.  `use "./x.rnn"` is relative to `folder` (None: std only)."""
    library = Library()
    module = library.add_text(text, file, None if folder is None else str(folder))
    return Spec(text, file, library, module)


def load(path: str | Path) -> Spec:
    """A spec from a `.rnn` file.  Errors, also of reading it, are kept for `check()`."""
    library = Library()
    file = os.path.normpath(os.fspath(path))
    module = library.add_file(file, None)
    return Spec(library.sources.get(file, ""), file, library, module)


def stdlib(name: str) -> Spec:
    """A spec of the standard library: `stdlib("deltanet")`.  Raises SpecError for an unknown name."""
    folder = stdlib_folder()
    path = folder / f"{name.removesuffix('.rnn')}.rnn"
    known = [p.stem for p in sorted(folder.glob("*.rnn"))]
    if name.removesuffix(".rnn") not in known:
        found = Diagnostics()
        hint = suggestion(name, known) or f"it has {', '.join(known)}"
        found.error("E0401", f"the standard library has no `{name}`", None, help=hint)
        raise SpecError(found.sorted(), {})
    return load(path)


def check_file(path: str | Path) -> tuple[Diagnostics, dict[str, str]]:
    """All errors of a file, in source order, and the texts of the files they are in."""
    spec = load(path)
    return spec.check(), spec.sources
