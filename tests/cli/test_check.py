"""`rnnc check`."""

from __future__ import annotations

import json
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from rnnc.cli.app import main
from rnnc.cli.console import coloured

WRONG = """cell Wrong(d: dim, n: dim) {
  input x: real[d]
  state h: real[n] = 0
  let z: real[n] = sigmoid(linear(x))
  h <- z * x
  output y: real[d] = linear(hh')
}
"""


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    path = tmp_path / "wrong.rnn"
    path.write_text(WRONG, encoding="utf-8")
    return path


def test_right_files_by_name_and_by_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "mine.rnn"
    mine.write_text(
        "cell Sum(d: dim) {\n  input x: real[d]\n  state s: real[d] = 0\n  s <- s + x\n  output y = s'\n}\n"
    )
    assert main(["check", "deltanet", str(mine)]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"deltanet: ok (DeltaNet, DeltaOp)\n{mine}: ok (Sum)\n"
    assert captured.err == ""


def test_every_error_of_a_wrong_file_with_its_place(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(wrong), "gru"]) == 2
    captured = capsys.readouterr()
    assert "gru: ok" in captured.out, "a wrong file must not hide a right one"
    assert f"{wrong}:5:8" in captured.err
    assert f"{wrong}:6:30" in captured.err
    assert "^^^^^" in captured.err
    assert f"{wrong}: 2 errors" in captured.err


def test_json(wrong: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--json", str(wrong), "gru"]) == 2
    first, second = json.loads(capsys.readouterr().out)
    assert (first["ok"], second["ok"]) == (False, True)
    assert second["cells"] == ["GRU"]
    places = [(d["code"], d["line"], d["column"]) for d in first["diagnostics"]]
    assert places == [("E0203", 5, 8), ("E0201", 6, 30)]
    assert {d["severity"] for d in first["diagnostics"]} == {"error"}


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"cell", b"}" * 50, b"cell A() { let a = " + b"(" * 5000])
def test_any_bytes_get_an_answer_without_a_traceback(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.rnn"
    path.write_bytes(content)
    assert main(["check", str(path)]) in (0, 2)
    captured = capsys.readouterr()
    assert "internal error" not in captured.err
    assert "Traceback" not in captured.err


def test_colours_change_nothing_but_colours() -> None:
    from click import unstyle

    text = "error[E0203]: shapes\n --> a.rnn:3:8\n  |\n3 |   h <- z * x\n  |        ^^^^^ here\n  = help: project `x`"
    assert unstyle(coloured(text)) == text
    assert "\x1b[" in coloured(text)


def test_a_file_that_cannot_be_read_hides_no_other(
    tmp_path: Path, wrong: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.rnn"
    empty.write_text("# nothing yet\n", encoding="utf-8")
    dangling = tmp_path / "dangling.rnn"
    dangling.symlink_to(tmp_path / "nowhere")
    files = ["/dev/null", str(empty), str(dangling), str(tmp_path), "", str(wrong)]
    assert main(["check", *files]) == 2
    captured = capsys.readouterr()
    assert captured.out == f"{empty}: ok (no cells)\n"
    for words in (
        "`/dev/null` is no regular file",
        f"`{dangling}` is a link that leads nowhere",
        f"`{tmp_path}` is a folder, not a spec",
        "the name of a spec is empty",
        f"{wrong}: 2 errors",
    ):
        assert words in captured.err
    assert main(["check", "--json", *files]) == 2
    records = json.loads(capsys.readouterr().out)
    assert [r["ok"] for r in records] == [False, True, False, False, False, False]
    assert records[0]["diagnostics"][0]["code"] == "E0401"
    assert main(["check", "/dev/null"]) == 2


def test_standard_input(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("other.rnn").write_text("fn twice(x: real) -> real {\n  2 * x\n}\n", encoding="utf-8")
    text = b'use "./other.rnn" { twice }\r\ncell A() {\r\n  input x: real\r\n  output y = twice(z)\r\n}\r\n'
    for given, code in ((text, 2), (text.replace(b"z", b"x"), 0)):
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(given)))
        assert main(["check", "-"]) == code
    captured = capsys.readouterr()
    assert "<stdin>:4:20" in captured.err
    assert captured.out == "-: ok (A)\n"
