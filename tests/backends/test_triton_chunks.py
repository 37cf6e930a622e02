"""Chunkwise kernels compiled ahead of time as operators launch them: sizes that are no multiples of 16, and every
configuration that a tuner would measure.  Shared memory fits, and nothing spills.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch

pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources
from triton_launches import every

from rnnc.backends.triton.ahead import SHARED, Resources
from rnnc.backends.triton.launched import Launch, launches
from rnnc.runtime.gpu import tuner
from rnnc.runtime.gpu.compat import Built

TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
SCANS = ("decays of keys", "decays of values", "decays of none", "normaliser")
DELTA = tuple(f"delta rule, {kind}" for kind in ("plain", "gated", "keyed", "untied"))


@cache
def resources(launch: Launch) -> Resources:
    return launch.compiled()


def fit(found: list[Launch]) -> None:
    assert found
    for launch in found:
        built = resources(launch)
        assert built.spilled == 0, (launch.title, built)
        assert built.shared <= SHARED[launch.target], (launch.title, built)


def once(run: Callable[[], object]) -> float:
    """A clock by which every candidate is run, and the default wins."""
    run()
    return 0.0


def measured(target: str, run: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What `run` launches where a tuner measures all that it would on `target`."""

    def built(candidate: Callable[[], object]) -> list[Built]:
        """As a GPU like `target` has it, which says of too much memory what Triton does."""
        found = [resources(x) for x in launches(target, candidate)]
        most = max((x.shared for x in found), default=0)
        if most > SHARED[target]:
            raise OutOfResources(most, SHARED[target], "shared memory")
        return [Built(x.kernel, x.spilled) for x in found]

    monkeypatch.setattr(tuner, "TUNER", tuner.Tuner(timer=once, built=built, folder=lambda: None, always=True))
    return launches(target, run)


def length(launch: Launch) -> int:
    """Numbers of the axis that products sum over."""
    given = dict(launch.constants)
    return int(given["K"] if launch.kernel.__name__.startswith("low_rank_") else given.get("N", 0))


@pytest.mark.parametrize("size", [33, 60, 100])
def test_kernels_see_multiples_of_16_only(size: int) -> None:
    """Whatever the sizes of a state, its rows begin at addresses that can be read 16 bytes at once."""
    for name, run in every(size, size + 1, torch.bfloat16).items():
        for launch in launches("sm_90", run):
            assert length(launch) % 16 == 0, (name, launch.title)
            numbers = {n for n, kind in launch.signature if kind in ("i32", "i64")}
            names = [n for n, _ in launch.signature]
            sixteens = {names[k] for k in launch.sixteens}
            rows = {n for n in numbers if n[0] in "xyzrwqub" and n[1:] in ("_t", "_h", "_b", "_n", "_e")}
            assert rows <= sixteens, (name, launch.title, rows - sixteens)


@pytest.mark.parametrize("target", TARGETS)
def test_odd_sizes_ahead_of_time(target: str) -> None:
    """The walks, which spilled most where they read 100 keys one by one."""
    found = launches(target, every(100, 100, torch.bfloat16)["decays of keys"])
    fit([x for x in found if x.kernel.__name__ == "walk"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SCANS, *DELTA])
@pytest.mark.parametrize(
    ("size", "dtype"), [(100, torch.bfloat16), (60, torch.bfloat16), (33, torch.float32), (100, torch.float32)]
)
@pytest.mark.parametrize("target", TARGETS)
def test_more_odd_sizes_ahead_of_time(target: str, size: int, dtype: torch.dtype, name: str) -> None:
    fit(launches(target, every(size, size, dtype)[name]))


def test_what_the_tuner_measures_does_not_spill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 32 steps, too."""
    found = measured("sm_90", every(64, 64, torch.bfloat16)["decays of none"], monkeypatch)
    assert {dict(x.constants)["C"] for x in found} == {64, 32}
    fit(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SCANS, *DELTA])
@pytest.mark.parametrize(("size", "dtype"), [(64, torch.bfloat16), (128, torch.bfloat16), (64, torch.float32)])
@pytest.mark.parametrize("target", TARGETS)
def test_more_that_the_tuner_measures_spills_nowhere(
    target: str, size: int, dtype: torch.dtype, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(target, every(size, size, dtype)[name], monkeypatch)
    assert len(found) > 4
    fit(found)
