"""`rnnc fmt`."""

from __future__ import annotations

from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from rnnc.cli.app import main

UGLY = "cell Sum( d :dim ){\n input x:real[d]   # in\n\n\n\n state s:real[d]=0\n s<-s+x\n output y:real[d]=s'}\n"


@pytest.fixture
def ugly(tmp_path: Path) -> Path:
    path = tmp_path / "ugly.rnn"
    path.write_text(UGLY, encoding="utf-8")
    return path


def test_formats_in_place_and_then_has_nothing_to_do(ugly: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", str(ugly)]) == 0
    once = ugly.read_text(encoding="utf-8")
    assert once != UGLY
    assert "# in" in once
    assert "  s <- s + x\n" in once
    capsys.readouterr()
    assert main(["fmt", "--check", str(ugly)]) == 0
    assert main(["fmt", str(ugly)]) == 0
    assert ugly.read_text(encoding="utf-8") == once
    assert capsys.readouterr().err == ""


def test_check_and_diff_change_nothing(ugly: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", "--check", str(ugly)]) == 2
    assert "would reformat" in capsys.readouterr().err
    assert main(["fmt", "--diff", str(ugly)]) == 0
    assert "+  s <- s + x" in capsys.readouterr().out
    assert ugly.read_text(encoding="utf-8") == UGLY


def test_a_file_with_syntax_errors_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.rnn"
    path.write_text("cell {{{", encoding="utf-8")
    assert main(["fmt", str(path)]) == 2
    assert "error[E01" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == "cell {{{"


def test_bytes_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "binary.rnn"
    path.write_bytes(b"\xff\xfe")
    assert main(["fmt", str(path)]) == 2
    assert "UTF-8" in capsys.readouterr().err


def test_standard_input_goes_to_standard_output(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(UGLY.encode())))
    assert main(["fmt", "-"]) == 0
    once = capsys.readouterr().out
    assert "  s <- s + x\n" in once
    for given, code in ((UGLY, 2), (once, 0)):
        monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(given.encode())))
        assert main(["fmt", "--check", "-"]) == code
    assert capsys.readouterr().out == ""


def test_what_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fmt", str(tmp_path), "/dev/null", "deltanet"]) == 2
    shown = capsys.readouterr().err
    assert shown.count("error[E0401]") == 3
    assert "`deltanet` does not exist" in shown


def test_the_standard_library_is_formatted() -> None:
    from rnnc.stdlib import FOLDER

    assert main(["fmt", "--check", *map(str, FOLDER.rglob("*.rnn"))]) == 0
