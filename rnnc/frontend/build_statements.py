"""Actions of the grammar's rules for heads, statements, claims and declarations (expressions: build.py)."""

from __future__ import annotations

from typing import Any

from rnnc.frontend import ast
from rnnc.frontend.build import HYPER_KINDS, PARALLEL, PRECISIONS, Builder, Parts, nearest
from rnnc.frontend.tokens import Token


class StatementBuilder(Builder):
    """Heads of items and blocks give `Parts`: the fields of the node that parse.py makes once it has the block."""

    # ------------------------------------------------------------ heads

    def on_use_path(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Use(span=self.span(i, j), path=c[0], is_file=False, names=c[1])

    def on_use_file(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Use(span=self.span(i, j), path=c[0].word, is_file=True, names=c[1])

    def on_path(self, c: list[Any], i: int, j: int) -> Any:
        return ".".join(token.word for token in c)

    def on_names(self, c: list[Any], i: int, j: int) -> Any:
        return tuple(self.name(token) for token in c)

    def on_fn_head(self, c: list[Any], i: int, j: int) -> Any:
        result = None
        params = []
        for part in c[1:]:
            if isinstance(part, Parts):
                result = part.fields["result"]
            else:
                params.append(part)
        self._distinct([(name.word, name) for name, _, _ in params], "parameter")
        plain = tuple((name.word, type_, default) for name, type_, default in params)
        return Parts({"name": c[0].word, "params": plain, "result": result})

    def on_result(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"result": c[0]})

    def on_default(self, c: list[Any], i: int, j: int) -> Any:
        return c[0]

    def on_fn_param(self, c: list[Any], i: int, j: int) -> Any:
        return c[0], c[1], (c[2] if len(c) > 2 else None)

    def on_cell_word(self, c: list[Any], i: int, j: int) -> Any:
        return "cell"

    def on_model_word(self, c: list[Any], i: int, j: int) -> Any:
        return "model"

    def on_cell_head(self, c: list[Any], i: int, j: int) -> Any:
        keyword, name, *hyper = c
        return Parts({"keyword": keyword, "name": name.word, "name_span": self.token_span(name), "hyper": tuple(hyper)})

    def on_hyper(self, c: list[Any], i: int, j: int) -> Any:
        name, kind = c[0], c[1]
        if kind.word not in HYPER_KINDS:
            help_ = nearest(kind.word, HYPER_KINDS) or f"kinds are {', '.join(HYPER_KINDS)}"
            message = f"a hyperparameter is of kind dim, int, real or bool, not `{kind.word}`"
            # The head stays whole, so that the body is checked: where the hyperparameter is used, nothing is said.
            self.diagnostics.error("E0105", message, self.token_span(kind), help=help_)
        default = c[2] if len(c) > 2 else None
        return ast.HyperDecl(span=self.span(i, j), name=name.word, kind=kind.word, default=default)

    def _distinct(self, names: list[tuple[str, Token]], what: str) -> None:
        seen: set[str] = set()
        for name, token in names:
            if name in seen:
                self.error("E0202", f"the {what} `{name}` is declared twice", self.token_span(token))
            seen.add(name)

    def on_automaton_head(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"name": c[0].word, "alphabet": c[1]})

    def on_alphabet(self, c: list[Any], i: int, j: int) -> Any:
        self._distinct([(token.word, token) for token in c], "symbol")
        return tuple(token.word for token in c)

    def on_symbol(self, c: list[Any], i: int, j: int) -> Any:
        return c[0]

    def on_row(self, c: list[Any], i: int, j: int) -> Any:
        return ast.AutomatonRow(span=self.span(i, j), state=c[0].word, arrows=tuple(c[1:]))

    def on_arrow(self, c: list[Any], i: int, j: int) -> Any:
        return c[0].word, c[1].word

    def on_start_line(self, c: list[Any], i: int, j: int) -> Any:
        return c[0]

    def on_accept_line(self, c: list[Any], i: int, j: int) -> Any:
        return c

    def on_language(self, c: list[Any], i: int, j: int) -> Any:
        return ast.LanguageDecl(span=self.span(i, j), name=c[0].word, alphabet=c[1], value=c[2])

    def on_regex(self, c: list[Any], i: int, j: int) -> Any:
        string = ast.String(span=self.token_span(c[0]), value=c[0].word)
        callee = ast.Name(span=self.span(i, i), id="regex")
        return ast.Call(span=self.span(i, j), callee=callee, args=(ast.Argument(span=string.span, value=string),))

    def on_group(self, c: list[Any], i: int, j: int) -> Any:
        callee = ast.Name(span=self.span(i, i), id="group")
        return ast.Call(span=self.span(i, j), callee=callee, args=(ast.Argument(span=c[0].span, value=c[0]),))

    def on_task_head(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"name": c[0].word})

    def on_setting(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Argument(span=self.span(i, j), value=c[1], name=c[0].word)

    def on_per_head(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"axis": self.name(c[0])})

    def on_substep_head(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"index": c[0].word, "lo": c[1], "hi": c[2]})

    def on_repeat_head(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"count": c[0], "name": c[1].word, "start": c[2]})

    def on_if_head(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"condition": c[0]})

    # ------------------------------------------------------------ statements

    def on_input_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.InputDecl(span=self.span(i, j), name=c[0].word, type=c[1])

    def on_init(self, c: list[Any], i: int, j: int) -> Any:
        return c[0]

    def on_param_decl(self, c: list[Any], i: int, j: int) -> Any:
        init = c[2] if len(c) > 2 else None
        return ast.ParamDecl(span=self.span(i, j), name=c[0].word, type=c[1], init=init)

    def _typed(self, c: list[Any]) -> dict[str, Any]:
        return {"name": c[0].word, "type": c[1] if len(c) > 2 else None, "value": c[-1]}

    def on_const_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.ConstDecl(span=self.span(i, j), **self._typed(c))

    def on_let_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.LetDecl(span=self.span(i, j), keyword="let", **self._typed(c))

    def on_gate_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.LetDecl(span=self.span(i, j), keyword="gate", **self._typed(c))

    def on_transition_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.LetDecl(span=self.span(i, j), keyword="transition", **self._typed(c))

    def on_state_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.StateDecl(span=self.span(i, j), name=c[0].word, type=c[1], init=c[2])

    def on_update(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Update(span=self.span(i, j), target=self.name(c[0]), value=c[1])

    def on_assign(self, c: list[Any], i: int, j: int) -> Any:
        return ast.Assign(span=self.span(i, j), target=self.name(c[0]), value=c[1])

    def on_output_decl(self, c: list[Any], i: int, j: int) -> Any:
        return ast.OutputDecl(span=self.span(i, j), **self._typed(c))

    # ------------------------------------------------------------ claims

    def on_negated(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"negated": True})

    def on_claim(self, c: list[Any], i: int, j: int) -> Any:
        fields: dict[str, Any] = {}
        for part in c:
            for key, value in part.fields.items():
                if key in fields:
                    self.error("E0107", "this is said twice", self.span(i, j))
                fields[key] = value
        return ast.Claim(span=self.span(i, j), **fields)

    def on_claim_linear(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "linear", "subject": self.name(c[0])})

    def on_claim_affine(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "affine", "subject": self.name(c[0])})

    def on_claim_time_invariant(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "time_invariant"})

    def on_claim_eigenvalues(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "eigenvalues", "subject": c[0], "domain": c[1]})

    def on_claim_eigenvalues_real(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "eigenvalues", "subject": c[0], "real": True})

    def on_claim_norm(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "norm", "subject": c[0], "domain": c[1]})

    def on_claim_stable(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "stable"})

    def on_claim_contractive(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "contractive", "subject": self.name(c[0])})

    def on_claim_parallel(self, c: list[Any], i: int, j: int) -> Any:
        self._one_of(c[0], PARALLEL, "way to run in parallel")
        return Parts({"kind": "parallel", "args": (self.name(c[0]),)})

    def on_claim_recognizes(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "recognizes", "args": (self._name_or_call(c[0]),)})

    def on_claim_tracks(self, c: list[Any], i: int, j: int) -> Any:
        return Parts({"kind": "tracks", "args": (self._name_or_call(c[0]),)})

    def _name_or_call(self, e: ast.Expr) -> ast.Expr:
        """A name or call, or several joined by operators (which, is checked where names have meaning)."""
        match e:
            case ast.Unary():
                self._name_or_call(e.operand)
            case ast.Binary():
                self._name_or_call(e.left)
                self._name_or_call(e.right)
            case ast.Name(primed=False) | ast.Call():
                pass
            case _:
                self.error("E0107", "a name such as `parity` or `mod(3)` is expected here", e.span)
        return e

    def on_claim_under(self, c: list[Any], i: int, j: int) -> Any:
        self._one_of(c[0], PRECISIONS, "precision")
        return Parts({"precision": c[0].word})

    def on_claim_layers(self, c: list[Any], i: int, j: int) -> Any:
        token: Token = c[0]
        if not token.word.isdigit() or not 1 <= int(token.word) <= 1000:
            self.error("E0107", "a number of layers is a whole number from 1 to 1000", self.token_span(token))
            return Parts({"layers": 1})
        return Parts({"layers": int(token.word)})

    def _one_of(self, token: Token, known: tuple[str, ...], what: str) -> None:
        if token.word not in known:
            help_ = nearest(token.word, known) or f"known are {', '.join(known)}"
            self.error("E0107", f"there is no {what} `{token.word}`", self.token_span(token), help_=help_)
