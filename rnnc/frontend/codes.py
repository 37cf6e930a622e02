"""The registry of diagnostic codes: one page a code, in `pages/CODE.md`, shown by `rnnc explain`.

A page is a title `# E0203: ...`, an explanation, and the sections `## Wrong` and `## Right`, each with one example.  An
example in a ```rnn block is a whole spec: the tests check that the wrong one gives the code and the right one nothing.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """`wrong` and `right` are the specs of the examples, empty where an example is no spec (but a command, say)."""

    code: str
    title: str
    text: str
    wrong: str
    right: str


class UnknownCode(LookupError):
    """There is no page for a code; the message names codes that are spelled alike."""

    def __init__(self, code: str) -> None:
        near = _nearest(code.strip().upper())
        hint = f"did you mean {' or '.join(near)}?" if near else "`rnnc explain` without a code lists all of them"
        super().__init__(f"there is no code '{code}'; {hint}")


def _nearest(code: str) -> list[str]:
    """Known codes that differ in one or two digits, the numerically nearest first; else those spelled alike."""
    if re.fullmatch(r"E\d{4}", code):
        distance = {k: (sum(a != b for a, b in zip(code, k)), abs(int(code[1:]) - int(k[1:]))) for k in pages()}
        return sorted((k for k, (digits, _) in distance.items() if digits <= 2), key=lambda k: distance[k])[:3]
    return difflib.get_close_matches(code, sorted(pages()), n=3, cutoff=0.6)


@cache
def pages() -> dict[str, Page]:
    """All pages by code."""
    folder = files("rnnc.frontend") / "pages"
    entries = (entry for entry in folder.iterdir() if re.fullmatch(r"E\d{4}\.md", entry.name))
    parsed = (_parse(entry.name[:5], entry.read_text(encoding="utf-8")) for entry in entries)
    return dict(sorted((page.code, page) for page in parsed))


def _parse(code: str, text: str) -> Page:
    heading = re.match(r"# (E\d{4}): (.+)\n", text)
    assert heading is not None, f"pages/{code}.md begins with its code and title"
    assert heading[1] == code, f"pages/{code}.md is about {heading[1]}"
    return Page(
        code=code, title=heading[2], text=text.strip(), wrong=_example(text, "Wrong"), right=_example(text, "Right")
    )


def _example(text: str, section: str) -> str:
    match = re.search(rf"^## {section}\n(?:(?!^## ).)*?^```rnn\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def explain(code: str) -> str:
    """The page of a code (`e0203` is accepted for `E0203`), as Markdown.  Raises UnknownCode."""
    page = pages().get(code.strip().upper())
    if page is None:
        raise UnknownCode(code)
    return page.text


def __getattr__(name: str) -> dict[str, Page]:
    if name == "CODES":
        return pages()
    raise AttributeError(name)
