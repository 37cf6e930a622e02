"""The page on adding an op is right: its code runs and gives what it says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rnnc.ir.ops import OPS

PAGE = Path(__file__).parents[2] / "docs" / "adding_an_op.md"


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the page's code defines; the op is taken out again."""
    found: dict[str, Any] = {}
    try:
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
            exec(compile(block, str(PAGE), "exec"), found)
        yield found
    finally:
        OPS.pop("softsign", None)


def test_the_example_does_what_it_says(page: dict[str, Any]) -> None:
    np.testing.assert_allclose(page["value"], [-0.75, 0, 0.5])
    np.testing.assert_allclose(page["slope"], [1 / 16, 1, 1 / 4])
    assert page["reading"].why == "softsign"
    assert page["pattern"].kind == "diagonal"


def test_the_places_it_names_exist() -> None:
    root = PAGE.parents[1]
    for path in re.findall(r"`((?:rnnc|backends|tests)/[\w/]+(?:\.py)?)/?`", PAGE.read_text(encoding="utf-8")):
        assert (root / path).exists(), path
    assert "UNARY_CALLS" in (root / "backends/torch/elementwise.py").read_text(encoding="utf-8")
