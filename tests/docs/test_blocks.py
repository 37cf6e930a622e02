"""Every block of code in README.md and docs/ that can be run is run.

- `python` blocks run in order, in one fresh process a document; `py` blocks are fragments that need only parse.
- `console` blocks hold commands after `$ ` and what they print; a line `...` stands for any lines,
  and `...` at the end of a line for its rest.
- `bash` blocks are lines of commands.
- A comment `<!-- file: name -->` before a block writes the block to that file in the folder where the commands run.

Of commands, `rnnc` is run in this process; `make TARGET` must be a target of the Makefile; `pip` and `git` are left.
"""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rnnc.cli.app import main

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_FENCE = re.compile(r"^(?:<!-- file: (?P<file>[\w./-]+) -->\n+)?```(?P<kind>\w*)\n(?P<code>.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    kind: str
    code: str
    line: int
    file: str | None


def blocks(document: Path) -> Iterator[Block]:
    text = document.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code"))
        yield Block(kind=match["kind"], code=match["code"], line=line, file=match["file"])


def commands(block: Block) -> Iterator[tuple[str, list[str] | None]]:
    """(command, the output that the document shows, or None where it shows none)."""
    lines = block.code.splitlines()
    if block.kind == "bash":
        yield from ((line.split("  #")[0].strip(), None) for line in lines if line.strip() and not line.startswith("#"))
        return
    command: str | None = None
    output: list[str] = []
    for line in lines:
        if line.startswith("$ "):
            if command is not None:
                yield command, output
            command, output = line[2:], []
        else:
            output.append(line)
    if command is not None:
        yield command, output


def matches(shown: list[str], printed: list[str]) -> bool:
    """Whether `printed` is what the document shows, `...` standing for any number of lines."""
    if not shown:
        return not printed
    if shown[0].strip() == "...":
        return any(matches(shown[1:], printed[i:]) for i in range(len(printed) + 1))
    if not printed:
        return False
    start = shown[0].rstrip().removesuffix("...")
    same = shown[0].rstrip() == printed[0].rstrip() or (start != shown[0].rstrip() and printed[0].startswith(start))
    return same and matches(shown[1:], printed[1:])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.stem)
def test_document(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program: list[str] = []
    for block in blocks(document):
        where = f"{document.name}:{block.line}"
        if block.file is not None:
            Path(block.file).write_text(block.code, encoding="utf-8")
        elif block.kind == "python":
            program.append(block.code)
        elif block.kind == "py":
            ast.parse(block.code, where)
        elif block.kind in ("bash", "console"):
            for command, shown in commands(block):
                run(command, shown, where, capsys)
    if program:
        Path("blocks.py").write_text("\n".join(program), encoding="utf-8")
        done = subprocess.run([sys.executable, "blocks.py"], capture_output=True, text=True)
        assert done.returncode == 0, f"{document.name}: {done.stderr}"


def run(command: str, shown: list[str] | None, where: str, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    if program == "rnnc":
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        if shown is None:
            assert code == 0, f"{where}: `{command}` exits with {code}\n{captured.err}"
            return
        printed = (captured.out + captured.err).rstrip("\n").splitlines()
        expected = list(shown)
        while expected and not expected[-1].strip():
            expected.pop()
        assert matches(expected, printed), f"{where}: `{command}` prints\n" + "\n".join(printed)
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.M) for target in arguments), f"{where}: `{command}`"
    elif program == "python":
        named = arguments[1].replace(".", "/") + ".py" if arguments[0] == "-m" else arguments[0]
        assert (ROOT / named).is_file(), f"{where}: `{command}`"  # examples and benchmarks have tests of their own
    else:
        assert program in ("pip", "git", "cd"), f"{where}: `{command}` is not run by any test"


def test_an_output_may_leave_lines_out() -> None:
    assert matches(["a", "...", "d"], ["a", "b", "c", "d"])
    assert matches(["...", "d"], ["d"])
    assert not matches(["a", "d"], ["a", "b", "d"])
    assert not matches(["a", "..."], ["b"])
    assert matches(["a b ..."], ["a b c d"])
    assert not matches(["a b ..."], ["a c d"])
