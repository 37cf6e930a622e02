"""Files: what a spec imports, and the names at the top level of each file.

use std.gates { decay }        the standard library: stdlib/std/gates.rnn, else stdlib/gates.rnn
use "./mine.rnn" { Foo }       a file next to the importing one
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rnnc.diagnostics import Diagnostics, Span
from rnnc.frontend import ast
from rnnc.frontend.scope import Binding, BindingKind, Scope, suggestion
from rnnc.frontend.values import ERROR
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR

if TYPE_CHECKING:
    from rnnc.frontend.specialise import Lowered

MAX_FILES = 64
MAX_TOTAL = 4_000_000  # characters of all files together


@dataclass(slots=True, eq=False)
class LoadedModule:
    """One file with its top-level names."""

    file: str
    tree: ast.Module
    scope: Scope
    sound: bool  # whether it parsed without errors
    folder: str | None = None  # what "./x.rnn" is relative to; None for text without a place


@dataclass(slots=True, eq=False)
class Library:
    """The files of one spec.  `sources` maps each file's name to its text, for messages."""

    diagnostics: Diagnostics = field(default_factory=Diagnostics)
    sources: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)  # names that statements with syntax errors would have bound
    modules: dict[str, LoadedModule | None] = field(default_factory=dict)
    loading: list[str] = field(default_factory=list)
    lowered: dict[tuple[object, ...], Lowered] = field(default_factory=dict)
    steps: int = 0  # expressions evaluated so far, for a bound on all of them
    lowering: list[str] = field(default_factory=list)  # cells being lowered, to find cells that contain themselves

    def add_text(self, text: str, file: str, folder: str | None) -> LoadedModule | None:
        """Parse one file and what it imports; None when nothing could be parsed."""
        from rnnc.frontend.parse import parse_text

        text = text.replace("\r\n", "\n").replace("\r", "\n")  # as the parser counts positions
        self.sources[file] = text
        tree, found = parse_text(text, file)
        for d in found.items:
            self.diagnostics.add(d)
        if tree is None:
            return None
        self.broken |= tree.broken_names
        module = LoadedModule(file, tree, Scope(), not found.has_errors, folder)
        self.loading.append(file)
        for item in tree.items:
            if isinstance(item, ast.Use):
                self._use(item, module)
        self.loading.pop()
        for item in tree.items:
            if not isinstance(item, ast.Use):
                self._declare(item, module)
        return module

    def add_file(self, path: str, at: Span | None) -> LoadedModule | None:
        """Parse a file once."""
        file = os.path.normpath(path)
        identity = os.path.realpath(file)
        if identity in self.modules:
            return self.modules[identity]
        from rnnc.frontend.source import read_source

        text, problems = read_source(path)
        for d in problems.items:
            if d.span is None and at is not None:
                self.diagnostics.error(d.code, d.message, at, help=d.help)
            else:
                self.diagnostics.add(d)
        if text is None:
            return None
        total = sum(map(len, self.sources.values())) + len(text)
        if len(self.modules) >= MAX_FILES or total > MAX_TOTAL:
            self.diagnostics.error(
                "E0405", f"too many imports: at most {MAX_FILES} files and {MAX_TOTAL} characters", at
            )
            return None
        self.modules[identity] = None
        module = self.add_text(text, file, os.path.dirname(file))
        self.modules[identity] = module
        return module

    # ------------------------------------------------------------ imports

    def _use(self, use: ast.Use, into: LoadedModule) -> None:
        path = self._locate(use, into)
        module = None
        if path is not None:
            if os.path.normpath(path) in self.loading:
                start = self.loading.index(os.path.normpath(path))
                chain = " -> ".join(f"`{os.path.basename(f)}`" for f in [*self.loading[start:], path])
                self.diagnostics.error("E0402", "files import each other in a circle", use.span, label=chain)
            else:
                module = self.add_file(path, use.span)
        for name in use.names:
            binding = self._imported(name, module, use) if module else None
            self._bind(
                into, name.id, binding or Binding(name.id, "value", name.span, value=ERROR, status="done"), name.span
            )

    def _locate(self, use: ast.Use, into: LoadedModule) -> str | None:
        """The path of an import, or None after a report."""
        if use.is_file:
            if os.path.isabs(use.path) or "\\" in use.path or "\0" in use.path or not use.path.endswith(".rnn"):
                self.diagnostics.error(
                    "E0404",
                    f"`{use.path}` cannot be imported",
                    use.span,
                    help='give the path of a .rnn file relative to this one: `use "./mine.rnn" { Foo }`',
                )
                return None
            if into.folder is None:
                self.diagnostics.error(
                    "E0404",
                    "a spec that is not in a file can import only from `std`",
                    use.span,
                    help="save it and load the file, or give `parse` a folder",
                )
                return None
            return os.path.normpath(os.path.join(into.folder, use.path))
        first, *rest = use.path.split(".")
        if first != "std" or not rest or not all(part.isidentifier() for part in rest):
            self.diagnostics.error(
                "E0401",
                f"there is no module `{use.path}`",
                use.span,
                help=f'the standard library is `std.NAME`; a file is `use "./{first}.rnn" {{ ... }}`',
            )
            return None
        root = stdlib_folder()
        for base in (root / "std", root):
            candidate = base.joinpath(*rest).with_suffix(".rnn")
            if candidate.is_file():
                return str(candidate)
        known = [f"std.{p.stem}" for base in (root / "std", root) for p in sorted(base.glob("*.rnn"))]
        self.diagnostics.error("E0401", f"there is no module `{use.path}`", use.span, help=suggestion(use.path, known))
        return None

    def _imported(self, name: ast.Name, module: LoadedModule, use: ast.Use) -> Binding | None:
        binding = module.scope.bindings.get(name.id)
        if binding is not None:
            return binding
        if module.sound or name.id not in module.tree.broken_names:
            self.diagnostics.error(
                "E0403",
                f"`{use.path}` has no `{name.id}`",
                name.span,
                help=suggestion(name.id, module.scope.bindings) or f"it has {_listed(module.scope.bindings)}",
            )
        return None

    def _declare(self, item: ast.TopLevel, module: LoadedModule) -> None:
        kinds: tuple[tuple[type, BindingKind], ...] = (
            (ast.FnDecl, "fn"),
            (ast.CellDecl, "cell"),
            (ast.AutomatonDecl, "automaton"),
            (ast.LanguageDecl, "language"),
            (ast.TaskDecl, "task"),
        )
        if isinstance(item, ast.Use):
            return
        kind = next(k for t, k in kinds if isinstance(item, t))
        span = item.name_span if isinstance(item, ast.CellDecl) else item.span
        self._bind(module, item.name, Binding(item.name, kind, span, decl=item, module=module, status="done"), span)

    def _bind(self, module: LoadedModule, name: str, binding: Binding, span: Span) -> None:
        other = module.scope.bindings.get(name)
        if other is None:
            module.scope.bindings[name] = binding
            return
        where = f"{other.span.line}:{other.span.column}"
        note = (
            f"it is first declared at {where}" if other.span.file == span.file else f"it comes from `{other.span.file}`"
        )
        self.diagnostics.error("E0202", f"`{name}` is declared twice", span, notes=(note,))

    # ------------------------------------------------------------ cells called by models

    def lower_cell(
        self, binding: Binding, given: Mapping[str, Dim | bool], into: Diagnostics, at: Span
    ) -> CellIR | None:
        """The cell of a binding, specialised on `given`; its errors go `into` the caller's."""
        from rnnc.frontend.specialise import lower_declaration

        assert isinstance(binding.decl, ast.CellDecl)
        assert binding.module is not None
        name = binding.decl.name
        if name in self.lowering:
            chain = " -> ".join(f"`{n}`" for n in [*self.lowering[self.lowering.index(name) :], name])
            into.error("E0206", f"`{name}` contains itself", at, label=chain)
            return None
        key = (binding.module.file, name, tuple(sorted(given.items())))
        if key not in self.lowered:
            self.lowered[key] = lower_declaration(self, binding.module, binding.decl, given, at)
        for d in self.lowered[key].problems.items:
            into.add(d)
        return self.lowered[key].cell


def _listed(names: Mapping[str, object]) -> str:
    shown = sorted(names)[:8]
    return ", ".join(f"`{n}`" for n in shown) + (", ..." if len(names) > 8 else "") if shown else "no names"


def stdlib_folder() -> Path:
    """The folder of the standard library's specs."""
    import rnnc.stdlib as package

    assert package.__file__ is not None
    return Path(package.__file__).parent
