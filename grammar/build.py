"""Writes `table.json`, the LALR(1) table of `rnn.lark`, so that a cold `rnnc check` builds no parser.

Run `python -m rnnc.grammar.build` after editing the grammar.  A test keeps the two in step.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
STARTS = [
    *("module", "use", "fn_head", "cell_head", "automaton_head", "language", "task_head"),
    *("input_decl", "param_decl", "const_decl", "let_decl", "state_decl", "update", "assign", "output_decl"),
    *(
        "per_head",
        "substep_head",
        "if_head",
        "repeat_head",
        "claim",
        "row",
        "start_line",
        "accept_line",
        "setting",
        "expr",
    ),
]


def build_table(grammar: str) -> dict[str, Any]:
    """The table as plain data.

    `states[s]` maps a terminal or rule name to `t >= 0` (go to state t) or `-r - 1` (reduce by rule r); `rules[r]` is
    `[origin, action, length, kept, unwrap]`: `action` names the builder's method, `kept` are the positions of the
    children it is given (punctuation is dropped), `unwrap` says that a single child stands for itself (lark's `?rule`).
    """
    from lark import Lark
    from lark.lexer import Lexer
    from lark.parsers.lalr_analysis import Shift

    class NoLexer(Lexer):
        def __init__(self, conf: object) -> None:
            pass

        def lex(self, *args: object) -> Any:
            raise NotImplementedError("tokens come from rnnc.frontend.tokens")

    lark = Lark(grammar, parser="lalr", lexer=NoLexer, start=STARTS, strict=True)  # strict: no conflicts
    table = lark.parser.parser._parse_table
    reduced = {arg for actions in table.states.values() for action, arg in actions.values() if action is not Shift}
    rules = sorted(reduced, key=repr)
    number = {rule: i for i, rule in enumerate(rules)}
    order = _order(table, Shift)
    states = [
        {
            name: order[arg] if action is Shift else -number[arg] - 1
            for name, (action, arg) in sorted(table.states[state].items())
        }
        for state in order
    ]
    return {
        "grammar": digest(grammar),
        "literals": {t.pattern.value: t.name for t in lark.terminals if t.pattern.type == "str"},
        "starts": {name: [order[table.start_states[name]], order[table.end_states[name]]] for name in STARTS},
        "rules": [_rule(r) for r in rules],
        "states": states,
    }


def _order(table: Any, shift: object) -> dict[int, int]:
    """Numbers the states breadth first from the start symbols: lark's own numbers differ from run to run."""
    queue = [table.start_states[name] for name in STARTS]
    for state in queue:
        actions = table.states[state]
        for name in sorted(actions):
            action, arg = actions[name]
            if action is shift and arg not in queue:
                queue.append(arg)
    return {state: i for i, state in enumerate(queue)}


def _rule(rule: Any) -> list[Any]:
    kept = [i for i, symbol in enumerate(rule.expansion) if not (symbol.is_term and symbol.filter_out)]
    unwrap = bool(rule.options.expand1 and not rule.alias)
    return [rule.origin.name, rule.alias or rule.origin.name, len(rule.expansion), kept, unwrap]


def digest(grammar: str) -> str:
    """Identifies a grammar's text."""
    return hashlib.sha256(grammar.encode()).hexdigest()


def dump(table: dict[str, Any]) -> str:
    """The text of `table.json`: one state a line, so that changes can be read."""
    lines = [f"{json.dumps(key)}: {json.dumps(table[key])}" for key in ("grammar", "literals", "starts")]
    for key in ("rules", "states"):
        body = ",\n".join(json.dumps(row, separators=(",", ":")) for row in table[key])
        lines.append(f'"{key}": [\n{body}\n]')
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Renews `table.json`."""
    grammar = (FOLDER / "rnn.lark").read_text(encoding="utf-8")
    (FOLDER / "table.json").write_text(dump(build_table(grammar)), encoding="utf-8")


if __name__ == "__main__":
    main()
