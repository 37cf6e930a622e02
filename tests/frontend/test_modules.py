"""Imports between files, and `load`, `stdlib`, `check_file`."""

from __future__ import annotations

from pathlib import Path

import pytest

from rnnc.diagnostics import SpecError
from rnnc.frontend import modules
from rnnc.spec import check_file, load, parse, stdlib

CELL = "cell {name}(d: dim) {{\n  input x: real[d]\n  output y = {value}\n}}\n"


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.rnn").write_text(text, encoding="utf-8")


def codes(path: Path) -> list[tuple[str, str, int]]:
    found, _ = check_file(path)
    return [(d.code, Path(d.span.file).name if d.span else "", d.span.line if d.span else 0) for d in found.items]


def test_names_come_from_other_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, main='use "./sub/a.rnn" { twice, Inner }\n' + CELL.format(name="Main", value="twice(x)"))
    write(
        tmp_path / "sub",
        a='use "../b.rnn" { once }\nfn twice(x: real) -> real { 2 * once(x) }\n' + CELL.format(name="Inner", value="x"),
    )
    write(tmp_path, b="fn once(x: real) -> real { tanh(x) }\n")
    spec = load(tmp_path / "main.rnn")
    assert spec.check().items == []
    assert spec.cells == ("Main",)
    assert [n.op for n in spec.lower("Main").nodes] == ["input", "tanh", "const", "mul"]
    assert spec.lower("Inner").name == "Inner"
    assert len(spec.sources) == 3


def test_errors_are_reported_in_their_own_file(tmp_path: Path) -> None:
    write(
        tmp_path,
        main='use "./a.rnn" { f, Nope }\nuse "./gone.rnn" { g }\n' + CELL.format(name="Main", value="f(x) + g(x)"),
    )
    write(tmp_path, a="fn f(x: real) -> real { x + unknown }\nfn Hope(x: real) -> real { x\n")
    assert codes(tmp_path / "main.rnn") == [
        ("E0201", "a.rnn", 1),
        ("E0103", "a.rnn", 2),
        ("E0403", "main.rnn", 1),
        ("E0401", "main.rnn", 2),
    ]


def test_missing_names_have_a_suggestion() -> None:
    (found,) = parse("use std.gates { deacy }").check().items
    assert (found.code, found.help) == ("E0403", "did you mean `decay`?")
    (found,) = parse("use std.gate { decay }").check().items
    assert (found.code, found.help) == ("E0401", "did you mean `std.gates`?")
    (found,) = parse("use gates { decay }").check().items
    assert found.code == "E0401"


def test_files_cannot_import_each_other_in_a_circle(tmp_path: Path) -> None:
    write(tmp_path, a='use "./b.rnn" { g }\nfn f(x: real) -> real { g(x) }')
    write(tmp_path, b='use "./c.rnn" { h }\nfn g(x: real) -> real { h(x) }')
    write(tmp_path, c='use "./a.rnn" { f }\nfn h(x: real) -> real { f(x) }')
    found, _ = check_file(tmp_path / "a.rnn")
    assert [d.code for d in found.items] == ["E0402"]
    assert found.items[0].label == "`a.rnn` -> `b.rnn` -> `c.rnn` -> `a.rnn`"
    write(tmp_path, own='use "./own.rnn" { f }\nfn f(x: real) -> real { x }')
    assert "E0402" in {code for code, _, _ in codes(tmp_path / "own.rnn")}


@pytest.mark.parametrize("path", ["/etc/hosts", "/tmp/x.rnn", "./notes.txt", "..\\\\x.rnn"])
def test_only_rnn_files_relative_to_the_spec(tmp_path: Path, path: str) -> None:
    write(tmp_path, main=f'use "{path}" {{ f }}\n' + CELL.format(name="C", value="x"))
    assert [code for code, _, _ in codes(tmp_path / "main.rnn")] == ["E0404"]


def test_text_without_a_file_imports_from_std_only(tmp_path: Path) -> None:
    text = 'use "./a.rnn" { f }\n' + CELL.format(name="C", value="f(x)")
    assert [d.code for d in parse(text).check().items] == ["E0404"]
    write(tmp_path, a="fn f(x: real) -> real { x }")
    assert parse(text, folder=tmp_path).check().items == []


def test_a_file_is_read_once_and_imports_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a="fn f(x: real) -> real { x }\nfn g(x: real) -> real { x }")
    uses = f'use "./a.rnn" {{ f }}\nuse "./../{tmp_path.name}/a.rnn" {{ g }}\n'
    write(tmp_path, main=uses + CELL.format(name="C", value="f(g(x))"))
    assert codes(tmp_path / "main.rnn") == []
    assert len(load(tmp_path / "main.rnn").sources) == 2
    monkeypatch.setattr(modules, "MAX_FILES", 1)
    assert [code for code, _, _ in codes(tmp_path / "main.rnn")] == ["E0405", "E0405"]


def test_an_imported_name_cannot_be_declared_again() -> None:
    text = "use std.gates { decay, decay }\nfn decay(x: real) -> real { x }"
    assert [(d.code, d.span and d.span.line) for d in parse(text).check().items] == [("E0202", 1), ("E0202", 2)]


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    assert [code for code, _, _ in codes(tmp_path / "none.rnn")] == ["E0401"]
    assert [code for code, _, _ in codes(tmp_path)] == ["E0401"]
    with pytest.raises(SpecError) as raised:
        load(tmp_path / "none.rnn").lower()
    assert raised.value.diagnostics[0].code == "E0401"
    with pytest.raises(SpecError) as raised:
        stdlib("deltanett")
    assert raised.value.diagnostics[0].help == "did you mean `deltanet`?"


def test_windows_line_ends_keep_positions(tmp_path: Path) -> None:
    (tmp_path / "w.rnn").write_bytes(b"cell C() {\r\n  input x: real\r\n  output y = xx\r\n}\r\n")
    assert codes(tmp_path / "w.rnn") == [("E0201", "w.rnn", 3)]
    found, sources = check_file(tmp_path / "w.rnn")
    span = found.items[0].span
    assert span is not None
    assert sources[span.file][span.start : span.end] == "xx"
