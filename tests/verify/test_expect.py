"""The claims of the standard library are enforced: every `expect` block, at every setting that turns on others."""

from __future__ import annotations

import time

import pytest

import rnnc
from rnnc.stdlib import entries
from rnnc.verify.engine import verify

SETTINGS: dict[str, tuple[dict[str, int], ...]] = {
    "deltanet": ({}, {"reach": 2}),
    "gated_deltanet": ({}, {"reach": 2}),
    "deltaproduct": ({}, {"steps": 1}, {"reach": 1}, {"steps": 3}),
}

# True, and not yet provable: (file, claim) -> a part of the reason, which names what is missing.
OPEN: dict[tuple[str, str], str] = {}

CASES = [(e.name, hyper) for e in entries() for hyper in SETTINGS.get(e.name, ({},))]


@pytest.mark.parametrize(("name", "hyper"), CASES, ids=[f"{n}-{h}" if h else n for n, h in CASES])
def test_every_claim_is_proved(name: str, hyper: dict[str, int]) -> None:
    begun = time.process_time()
    found = verify(rnnc.stdlib(name), budget=60, **hyper)  # a busy machine is no reason
    assert time.process_time() - begun < 10
    assert found.results, "a file of the library says what it expects"
    for result in found.results:
        missing = OPEN.get((name, result.claim))
        if missing is None:
            assert result.verdict == "proved", f"{result.claim}: {result.verdict}: {result.reason}"
            assert result.evidence is not None
        else:
            assert result.verdict == "unknown"
            assert missing in result.reason


def test_every_setting_is_covered() -> None:
    """A file whose claims stand under an `if` is verified at more than one setting."""
    for entry in entries():
        text = entry.path.read_text(encoding="utf-8")
        conditional = any("expect" in part.split("}", 1)[0] for part in text.split("\n  if ")[1:])
        assert (len(SETTINGS.get(entry.name, ({},))) > 1) == conditional, entry.name
