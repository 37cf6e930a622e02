"""Helpers of the verifier's tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import rnnc
from rnnc.verify.engine import verify
from rnnc.verify.results import ClaimResult

Verdicts = Callable[..., list[ClaimResult]]


@pytest.fixture
def verdicts() -> Verdicts:
    """The results of a spec's claims by theorems, analyses and numbers; with `search=True` also by witnesses."""

    def run(text: str, cell: str | None = None, *, search: bool = False, **hyper: Any) -> list[ClaimResult]:
        spec = rnnc.parse(text)
        found = spec.check()
        assert not found.has_errors, [d.message for d in found.items]
        return list(verify(spec, cell, search=search, **hyper).results)

    return run
