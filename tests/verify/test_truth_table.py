"""The engine against the truth table: no wrong verdict, and every decided entry reached."""

from __future__ import annotations

from functools import cache

import pytest
from truth_table import DECLARATIONS, TABLE, Entry, Subject

import rnnc
from rnnc.frontend import ast
from rnnc.verify.claims import target_of
from rnnc.verify.engine import Engine
from rnnc.verify.results import ClaimResult
from rnnc.verify.structural import Subject as Cell
from rnnc.verify.target import Target

# Decided positive entries for which no weights are found yet: (subject, claim) -> what is missing.
NOT_FOUND = {
    ("GLA", "recognizes flip_flop"): "a search through the low-rank map of the gate that ends in time",
}

SUBJECTS = tuple(dict.fromkeys(e.subject for e in TABLE))
FOUND = tuple(e for e in TABLE if e.decided and e.truth == "yes")


@cache
def target(claim: str) -> Target:
    body = "state s: real = 0; s <- s; output y: real = s'"
    spec = rnnc.parse(f"{DECLARATIONS}\ncell Ask() {{ {body}; expect {{ {claim} }} }}")
    (asked,) = spec.lower("Ask").expect
    assert isinstance(asked, ast.Claim)
    return target_of(spec, asked)


def engine(subject: Subject, seconds: float) -> Engine:
    cell = rnnc.stdlib(subject.file).lower(subject.cell, **dict(subject.hyper))
    return Engine(Cell(cell=cell), budget=seconds)


def check(entry: Entry, result: ClaimResult) -> None:
    assert not entry.contradicted_by(result.verdict), f"{entry.text}: {result.verdict}: {result.reason}"


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


@pytest.mark.parametrize("entry", FOUND, ids=lambda e: f"{e.subject.name}-{e.text}")
def test_decided_positive_entries_come_with_weights(entry: Entry) -> None:
    pending = (entry.subject.name, entry.text) in NOT_FOUND
    result = engine(entry.subject, 0.5 if pending else 30).decide(target(entry.claim), copies=entry.layers)
    check(entry, result)
    assert entry.reached_by(result.verdict) or pending, f"{entry.text}: {result.verdict}: {result.reason}"
    if result.verdict == "proved":
        assert result.evidence is not None
        assert result.evidence.kind == "witness"
        assert result.evidence.data["weights"]
        assert result.evidence.data["status"] == "attained" if entry.attained else True


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_no_weights_are_found_where_none_exist(subject: Subject) -> None:
    """The search contradicts no theorem and no entry, whatever it is asked."""
    for entry in (e for e in TABLE if e.subject == subject):
        check(entry, engine(subject, 2.0).decide(target(entry.claim), copies=entry.layers))
