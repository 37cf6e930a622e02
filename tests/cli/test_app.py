"""The command line as a whole: help, exit codes, and no traceback for a user."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from rnnc.cli.app import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: rnnc {command}")
    if COMMANDS[command][0] != "later":
        assert f"Example: rnnc {command}" in " ".join(shown.split())


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {command} " in shown for command in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage"),
        (["chek"], "Did you mean 'check'?"),
        (["check"], "Missing argument"),
        (["check", "--wrong", "x"], "No such option"),
        (["check", "absent.rnn"], "error[E0401]: there is no file `absent.rnn`"),
        (["check", "deltanett"], "= help: did you mean `deltanet`"),
        (["check", "."], "is a folder"),
        (["analyze", "deltanet", "--set", "reach"], "name=value"),
        (["analyze", "deltanet", "--set", "reach=two"], "a value is a number"),
        (["analyze", "deltanet", "--set", "reach=1/0"], "a value is a number"),
        (["analyze", "deltanet", "--set", "reach=1e4000000000"], "an exponent of three"),
        (["explain", "E9999"], "there is no code 'E9999'"),
        (["fmt", "absent.rnn"], "does not exist"),
        (["check", "-"], "U+"),
        (["compile", "gru", "-o", "/dev/null/gru.py"], "/dev/null"),
        (["analyze", "gru", "--html", "/"], "directory"),
        (["realize", "x", "--as", "lstm"], "comes in a later version"),
    ],
)
def test_a_wrong_call_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", TextIOWrapper(BytesIO(b"\x01")))
    assert main(arguments) in ((0, 2) if not arguments else (2,))
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert "internal error (" not in captured.err


def test_an_internal_error_asks_for_a_report_and_debug_shows_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("rnnc.stdlib.entries", broken)
    assert main(["list"]) == 2
    quiet = capsys.readouterr().err
    assert "internal error (ZeroDivisionError: a bug)" in quiet
    assert "--debug" in quiet
    assert "Traceback" not in quiet
    for arguments in (["--debug", "list"], ["list", "--debug"]):
        assert main(arguments) == 2
        assert "Traceback" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("rnnc.stdlib.entries", absent)
    assert main(["list"]) == 2
    assert "pip install 'rnnc[torch]'" in capsys.readouterr().err


def test_without_torch_everything_but_what_runs_works(tmp_path: Path) -> None:
    program = """
import sys
sys.modules |= dict.fromkeys(("torch", "safetensors", "matplotlib", "sklearn", "triton"))
from rnnc.cli.app import main
certificate, spec = sys.argv[1:]
for call in ("check gru", "analyze gru --json", "verify mingru", "compare gru rnn", "list", "explain E0203",
             f"verify deltanet --set reach=2 --certificate {certificate}", f"check-certificate {certificate}",
             f"run {spec} --input x=1,1/2", f"fmt --check {spec}"):
    assert main(call.split()) == 0, call
for call in ("compile gru", "train gru --task parity", f"demo --out {certificate}.d", "verify gru --weights x"):
    assert main(call.split()) == 2, call
"""
    spec = tmp_path / "sum.rnn"
    spec.write_text("cell Sum() {\n  input x: real\n  state s: real = 0\n  s <- s + x\n  output y = s'\n}\n")
    call = [sys.executable, "-c", program, str(tmp_path / "c.json"), str(spec)]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pip install 'rnnc[torch]'") == 4, done.stderr
    assert "internal error" not in done.stderr


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m rnnc list --json | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh process has after `code`."""
    program = f"{code}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HEAVY = {"torch", "numpy", "sympy", "networkx", "triton", "rich", "matplotlib", "sklearn", "safetensors", "scipy"}


def test_import_rnnc_loads_nothing_heavy() -> None:
    assert not loaded_by("import rnnc") & (HEAVY | {"lark", "click"})


def test_check_loads_nothing_heavy() -> None:
    code = "from rnnc.cli import main; assert main(['check', 'gated_deltanet', 'lstm', 'mamba2']) == 0"
    assert not loaded_by(code) & HEAVY


def test_list_and_explain_load_nothing_heavy() -> None:
    code = "from rnnc.cli import main; assert main(['list']) == 0; assert main(['explain', 'E0203']) == 0"
    assert not loaded_by(code) & HEAVY
