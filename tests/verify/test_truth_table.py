"""The truth table against `rnnc verify`: what theorems alone decide (searches for witnesses are tested elsewhere)."""

from __future__ import annotations

import pytest
from truth_table import TABLE, Subject, task_of

from rnnc.spec import stdlib
from rnnc.verify import structural
from rnnc.verify.engine import NO_SEARCH, Engine
from rnnc.verify.target import Target

SUBJECTS = dict.fromkeys(e.subject for e in TABLE)


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_theorems_say_nothing_wrong_and_all_that_is_expected(subject: Subject) -> None:
    cell = stdlib(subject.file).lower(subject.cell, **dict(subject.hyper))
    engine = Engine(structural.Subject(cell=cell, dims={}), NO_SEARCH)
    for entry in (e for e in TABLE if e.subject == subject):
        target = Target(what=entry.claim, task=task_of(entry.claim))
        result = engine.decide(target, copies=entry.layers)
        assert result.precision == "finite_precision"
        assert not entry.contradicted_by(result.verdict), (entry.text, result.reason)
        if entry.truth == "no":
            assert result.verdict == entry.expected, (entry.text, result.reason)
            opposite = engine.decide(target, negated=True, copies=entry.layers)
            assert opposite.verdict == ("proved" if entry.decided else "unknown")
