"""Settings shared by all tests."""

from __future__ import annotations

import os
import sys

# One thread a process: two test processes share two cores.  Set before anything imports torch or numpy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("RNNC_CALIBRATION", "off")  # plans do not depend on what this machine was measured to do
os.environ.setdefault("RNNC_BACKEND", "torch")  # `backend="auto"` builds no C: tests of that backend ask for it

from importlib.util import find_spec
from pathlib import Path

import pytest

import rnnc

if find_spec("rnnc.backends") is None:  # a checkout that is not installed
    rnnc.__path__.append(str(Path(__file__).parents[1]))

try:
    from hypothesis import settings
except ImportError:  # a machine with a GPU, torch and triton, on which `pytest -m gpu tests/backends` runs all the same
    pass
else:
    # A shared machine is slow at times, so no deadline; CI repeats the same examples, a developer's run draws new ones.
    settings.register_profile("rnnc", deadline=None, derandomize=bool(os.environ.get("CI")))
    settings.load_profile("rnnc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite goldens of generated code; refused in CI")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is for people, who read the difference: it is refused in CI")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test draws the same numbers whichever tests ran before it in its process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
