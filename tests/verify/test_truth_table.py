"""The engine against the truth table: no wrong verdict, what is known is found, and docs/truth_table.md says so."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from truth_record import DOCUMENT, Record, engine, record, rendered, stored, target
from truth_table import TABLE, Entry, Subject

from rnnc.verify.engine import BUDGET
from rnnc.verify.results import ClaimResult

SUBJECTS = tuple(dict.fromkeys(e.subject for e in TABLE))
FOUND = tuple(e for e in TABLE if e.expected == "proved")


def check(entry: Entry, result: ClaimResult) -> None:
    assert not entry.contradicted_by(result.verdict), f"{entry.text}: {result.verdict}: {result.reason}"


@cache
def records() -> dict[tuple[str, str], Record]:
    return {(r.cell, r.claim): r for r in stored()}


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_theorems_say_no_exactly_where_they_must(subject: Subject) -> None:
    """Without a search nothing is proved to be possible; both forms of a question agree."""
    judge = engine(subject, 0)
    for entry in (e for e in TABLE if e.subject == subject):
        result = judge.decide(target(entry.claim), copies=entry.layers)
        check(entry, result)
        assert result.verdict in ("refuted", "unknown")
        if entry.truth == "no":
            assert entry.reached_by(result.verdict), f"{entry.text}: {result.reason}"
        negated = judge.decide(target(entry.claim), copies=entry.layers, negated=True)
        assert negated.verdict == {"refuted": "proved", "unknown": "unknown"}[result.verdict]


@pytest.mark.parametrize(
    "entry",
    [pytest.param(e, marks=pytest.mark.slow if e.slow else ()) for e in FOUND],
    ids=lambda e: f"{e.subject.name}-{e.text}",
)
def test_known_positive_entries_come_with_weights(entry: Entry) -> None:
    result = engine(entry.subject, BUDGET).decide(target(entry.claim), copies=entry.layers)
    check(entry, result)
    assert entry.reached_by(result.verdict), f"{entry.text}: {result.verdict}: {result.reason}"
    assert result.evidence is not None
    assert result.evidence.kind == "witness"
    assert result.evidence.data["weights"]
    assert result.evidence.data["status"] == "attained" or not entry.attained


def test_the_record_is_of_this_table() -> None:
    """The whole table was run to its end with the search; nothing there is wrong, and nothing known is missing."""
    assert set(records()) == {(e.subject.name, e.text) for e in TABLE}
    for entry in TABLE:
        verdict = records()[entry.subject.name, entry.text].verdict
        assert not entry.contradicted_by(verdict)
        assert entry.reached_by(verdict), (entry.subject.name, entry.text)
        assert verdict == "unknown" or not entry.missing, f"{entry.subject.name} {entry.text} is found: NOT_FOUND"


def test_the_document_shows_the_record() -> None:
    assert Path(DOCUMENT).read_text(encoding="utf-8") == rendered(stored())


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_the_record_can_be_made_again(subject: Subject) -> None:
    """The search contradicts no theorem and no entry, whatever it is asked."""
    for entry in (e for e in TABLE if e.subject == subject):
        found = record(entry, 10.0)
        assert not entry.contradicted_by(found.verdict), (entry.text, found)
