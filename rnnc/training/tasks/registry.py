"""From the name a user writes to a task.  A new family is one row here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from rnnc.groups import UnknownGroup, group
from rnnc.training.tasks.base import Task, TaskError
from rnnc.training.tasks.data import Digits, read_text
from rnnc.training.tasks.memory import Copying, Recall
from rnnc.training.tasks.words import WordProblem


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """`pattern` matches the whole name; `make` gets the match and the user's text file."""

    pattern: str
    shown: str
    summary: str
    make: Callable[[re.Match[str], Path | None], Task]


def _mod(match: re.Match[str], _: Path | None) -> Task:
    m = int(match[1])
    if m < 2:
        raise TaskError("mod(m) needs m of at least 2")
    return _word_problem(f"z{m}", name=f"mod{m}")


def _word_problem(text: str, name: str = "", generators_only: bool = False) -> Task:
    try:
        found = group(text)
    except UnknownGroup as error:
        raise TaskError(str(error)) from None
    if found.order < 2:
        raise TaskError(f"{found.name} is trivial: there is nothing to learn")
    letters = (0, *found.generators) if generators_only else tuple(range(found.order))
    return WordProblem(name=name or found.name, group=found, letters=tuple(dict.fromkeys(letters)))


def _text(_: re.Match[str], path: Path | None) -> Task:
    if path is None:
        raise TaskError("the task 'text' needs a file: --text FILE")
    return read_text(path)


FAMILIES: tuple[Family, ...] = (
    Family(
        pattern="parity",
        shown="parity",
        summary="the parity of the ones so far",
        make=lambda m, _: _word_problem("z2", name="parity"),
    ),
    Family(pattern=r"mod\(?(\d+)\)?", shown="mod5", summary="the sum so far, modulo m", make=_mod),
    Family(
        pattern="recall", shown="recall", summary="associative recall with many queries", make=lambda m, _: Recall()
    ),
    Family(pattern="copy(?:ing)?", shown="copying", summary="repeat what came before", make=lambda m, _: Copying()),
    Family(pattern="digits", shown="digits", summary="handwritten digits, pixel by pixel", make=lambda m, _: Digits()),
    Family(pattern="text", shown="text", summary="the next character of --text FILE", make=_text),
    Family(
        pattern=r"generators:(.+)",
        shown="generators:s5",
        summary="a group's word problem over its generators only",
        make=lambda m, _: _word_problem(m[1], name=m[0], generators_only=True),
    ),
    Family(
        pattern=r"(?:[sazd]\(?\d+\)?|q8)(?:x(?:[sazd]\(?\d+\)?|q8))*|\(.*\)",
        shown="s3, a5, z6, d4, q8, z2xs3, '(0 1 2), (0 1)'",
        summary="the word problem of a finite group, named or given by generators",
        make=lambda m, _: _word_problem(m[0]),
    ),
)


def make_task(name: str, text: Path | None = None) -> Task:
    """The task called `name`.  Raises TaskError, which lists the names, where there is none."""
    wanted = name.strip()
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, wanted, re.IGNORECASE)
        if match is not None:
            return family.make(match, text)
    near = get_close_matches(wanted.lower(), [f.shown for f in FAMILIES], n=1)
    hint = f"did you mean `{near[0]}`?" if near else f"tasks are {'; '.join(f.shown for f in FAMILIES)}"
    raise TaskError(f"there is no task '{name}'", hint)
