"""The LALR table that ships with the package is the one that lark builds from the grammar, and the package finds it."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files

import pytest
from lark.exceptions import GrammarError

from rnnc.frontend import build_statements
from rnnc.frontend.lalr import table
from rnnc.grammar.build import FOLDER, build_table, dump


def test_table_is_current() -> None:
    grammar = (FOLDER / "rnn.lark").read_text(encoding="utf-8")
    built = dump(build_table(grammar))
    assert (FOLDER / "table.json").read_text(encoding="utf-8") == built, "run `python -m rnnc.grammar.build`"


def test_conflicts_in_the_grammar_are_errors() -> None:
    grammar = (FOLDER / "rnn.lark").read_text(encoding="utf-8")
    ambiguous = grammar.replace("?term: unary\n", "?term: unary\n    | term term -> binary\n")
    assert ambiguous != grammar
    with pytest.raises(GrammarError, match="onflict"):
        build_table(ambiguous)


def test_every_action_is_a_rule_of_the_grammar() -> None:
    rules = {rule[1] for rule in table().rules}
    actions = {name.removeprefix("on_") for name in dir(build_statements.StatementBuilder) if name.startswith("on_")}
    assert actions <= rules


def test_table_is_found_in_the_installed_package() -> None:
    data = json.loads((files("rnnc.grammar") / "table.json").read_text(encoding="utf-8"))
    assert len(data["states"]) == len(table().states)


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rnnc.frontend.parse import parse_text\n"
        "parse_text('cell A() { let a = 1 }', 'f')\n"
        "print(*sorted({'lark', 'numpy', 'torch', 'sympy', 'networkx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == []
