"""The truth table is whole and agrees with itself and with the facts of the languages it cites."""

from __future__ import annotations

from functools import cache

import pytest
from truth_table import CLAIMS, SOURCES, TABLE, Entry, Subject, task_of

from rnnc.spec import stdlib
from rnnc.verify.languages import GroupFacts, GroupTask, LanguageFacts


@cache
def facts_of(claim: str) -> LanguageFacts:
    task = task_of(claim)
    facts = LanguageFacts(task.dfa) if isinstance(task, GroupTask) else task.facts
    assert facts is not None
    return facts


def group_facts_of(entry: Entry) -> GroupFacts:
    task = task_of(entry.claim)
    assert isinstance(task, GroupTask)
    return task.facts


def test_every_cell_has_every_claim_once() -> None:
    subjects = dict.fromkeys(e.subject for e in TABLE)
    assert len(subjects) == 28
    for subject in subjects:
        claims = [e.claim for e in TABLE if e.subject == subject and e.layers == 1]
        assert sorted(claims) == sorted(CLAIMS), subject.name
    assert len({(e.subject, e.text) for e in TABLE}) == len(TABLE)


@pytest.mark.parametrize("subject", dict.fromkeys(e.subject for e in TABLE), ids=lambda s: s.name)
def test_the_cells_exist(subject: Subject) -> None:
    assert stdlib(subject.file).lower(subject.cell, **dict(subject.hyper)).states


def test_every_wave_one_cell_is_there() -> None:
    from rnnc.frontend.modules import stdlib_folder

    assert {e.subject.file for e in TABLE} == {p.stem for p in stdlib_folder().glob("*.rnn")}


def test_sources_are_cited_and_all_are_used() -> None:
    assert {e.source for e in TABLE} == set(SOURCES)
    for entry in TABLE:
        nothing = SOURCES[entry.source].startswith(("no theorem", "trap"))
        assert (entry.truth == "open") == nothing, (entry.subject.name, entry.text)
        assert not (entry.truth != "yes" and entry.missing)


def test_the_languages_have_what_the_theorems_ask_for() -> None:
    for entry in TABLE:
        match entry.source:
            case "N1" | "N1 after m":
                assert max(facts_of(entry.claim).letter_periods.values()) > 1
            case "N7" | "rotary":
                assert facts_of(entry.claim).lasting is not None
                assert not facts_of(entry.claim).in_ac0
            case "N2":
                assert any(p & (p - 1) for p in facts_of(entry.claim).letter_periods.values())
            case "real, |.| <= 1":
                assert max(facts_of(entry.claim).letter_periods.values()) > 2
            case "N3":
                assert not group_facts_of(entry).abelian
            case "N3k":
                length = group_facts_of(entry).derived_length
                assert length is None or length > entry.layers


def test_more_layers_do_no_less() -> None:
    truth = {(e.subject, e.claim, e.layers): e.truth for e in TABLE}
    for (subject, claim, layers), value in truth.items():
        if layers > 1 and value == "no":
            assert truth[subject, claim, 1] == "no"
        if layers == 1 and value == "yes":
            assert truth.get((subject, claim, 2), "yes") == "yes"


def test_what_contradicts_an_entry() -> None:
    yes, no, unknown = (next(e for e in TABLE if e.truth == t) for t in ("yes", "no", "open"))
    assert [yes.contradicted_by(v) for v in ("proved", "refuted", "unknown")] == [False, True, False]
    assert [no.contradicted_by(v) for v in ("proved", "refuted", "unknown")] == [True, False, False]
    assert [unknown.contradicted_by(v) for v in ("proved", "refuted", "unknown")] == [True, True, False]


def test_star_free_columns_are_star_free() -> None:
    star_free = {c: facts_of(c).star_free for c in CLAIMS}
    assert [c.split()[-1] for c, value in star_free.items() if value] == ["flip_flop", "SeenB", "alternating"]
