"""Every code that the compiler can raise has a page; its wrong example gives the code, its right example nothing."""

from __future__ import annotations

import re

import pytest
from syntax_samples import ROOT

from rnnc.diagnostics import render
from rnnc.frontend import codes
from rnnc.frontend.codes import UnknownCode, explain, pages
from rnnc.spec import parse

RAISED = {
    code
    for folder in ("rnnc", "backends", "grammar")
    for path in (ROOT / folder).rglob("*.py")
    for code in re.findall(r"\"(E\d{4})\"", path.read_text(encoding="utf-8"))
}
WITH_EXAMPLES = [code for code, page in pages().items() if page.wrong or page.right]


def test_every_raised_code_has_a_page() -> None:
    assert len(RAISED) > 30
    assert sorted(RAISED - set(pages())) == []


def test_every_page_is_about_a_code_that_is_raised() -> None:
    assert sorted(set(pages()) - RAISED) == []


def test_every_code_of_the_frontend_has_an_example_that_can_be_run() -> None:
    """The others are about files, sizes and commands, which an example cannot show."""
    described = {"E0106", "E0306", "E0310", "E0311", "E0402", "E0405"}
    frontend = {code for code in RAISED if code < "E0500"}
    assert frontend - set(WITH_EXAMPLES) == described


@pytest.mark.parametrize("code", WITH_EXAMPLES)
def test_the_wrong_example_gives_the_code(code: str) -> None:
    found = parse(pages()[code].wrong).check()
    assert {d.code for d in found.items} == {code}, [str(d) for d in found.items]


@pytest.mark.parametrize("code", WITH_EXAMPLES)
def test_the_right_example_is_right(code: str) -> None:
    text = pages()[code].right
    found = parse(text, "right").check()
    assert found.items == [], "\n".join(render(d, {"right": text}) for d in found.items)


@pytest.mark.parametrize("code", list(pages()))
def test_pages_have_one_form(code: str) -> None:
    text = explain(code.lower())
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == [f"# {code}: {pages()[code].title}", "## Wrong", "## Right"]
    assert all(len(line) <= 130 for line in text.split("\n") if "x" * 10 not in line and "-" * 50 not in line)


def test_unknown_codes() -> None:
    with pytest.raises(UnknownCode, match=r"no code 'E020'; did you mean .*E020\d"):
        explain("E020")
    with pytest.raises(UnknownCode, match=r"did you mean E0210 or E02\d\d or E02\d\d\?"):
        explain("E0230")
    with pytest.raises(UnknownCode, match="lists all of them"):
        explain("nonsense")


def test_the_mapping_of_codes_is_public() -> None:
    assert codes.CODES is pages()
