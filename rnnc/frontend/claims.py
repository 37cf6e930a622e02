"""Claims, automata, languages and tasks: whether the names in them mean something."""

from __future__ import annotations

from rnnc.diagnostics import Diagnostics
from rnnc.frontend import ast
from rnnc.frontend.scope import Scope


def check_top_level(item: ast.TopLevel, scope: Scope, found: Diagnostics) -> None:
    """An automaton, language or task in itself."""


def check_claims(decl: ast.CellDecl, scope: Scope, found: Diagnostics) -> None:
    """The names in a cell's `expect` blocks."""
