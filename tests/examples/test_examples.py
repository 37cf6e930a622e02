"""Every example runs; each checks itself what it shows."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from rnnc.runtime import compiled

EXAMPLES = Path(__file__).parents[2] / "examples"
QUICK = ["--seconds", "0.3", "--length", "40"]
ARGUMENTS = {"train_text": ["", "12"], "generate": QUICK}  # fewer steps than a reader would want


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda p: p.stem)
def test_example(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ARGUMENTS.get(path.stem, [])
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    runpy.run_path(str(path), run_name="__main__")
    assert capsys.readouterr().out.strip()


def test_streaming_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if compiled.compiler() is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(sys, "argv", ["streaming.py", "--backend", "cpu"])
    runpy.run_path(str(EXAMPLES / "streaming.py"), run_name="__main__")
    assert "streamed and whole differ" in capsys.readouterr().out


def generate(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", *QUICK, *arguments])
    runpy.run_path(str(EXAMPLES / "generate.py"), run_name="__main__")


def test_generation_on_a_cpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """By C kernels; the text has the prompt and as many characters as were asked for, and the rate stands beside it."""
    if compiled.compiler() is None:
        pytest.skip("needs a C compiler")
    generate(monkeypatch, "--backend", "cpu", "--prompt", "rnnc", "--temperature", "0")
    shown = capsys.readouterr()
    assert shown.out.startswith("rnnc")
    assert len(shown.out) == 44
    assert "characters a second" in shown.err
    assert "bits a character" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--prompt", "\u2603"), "the prompt cannot be read"),
        (("--file", "/no/such/file"), "cannot read /no/such/file"),
        (("--help",), "0"),
    ],
)
def test_generation_refuses_in_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        generate(monkeypatch, *arguments)
    assert message in str(ended.value)
    assert arguments != ("--help",) or "--temperature" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.rnn")), ids=lambda p: p.stem)
def test_spec(path: Path) -> None:
    import rnnc

    assert not rnnc.load(path).check().has_errors
