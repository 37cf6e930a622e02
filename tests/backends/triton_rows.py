"""Cases of triton_interpreted.py with as many channels as fill a warp: tiles whose rows are walked one after another.

Fewer channels are scanned by `tl.associative_scan`: the two ways meet nowhere, so each needs cases of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import triton_scans as scans
from triton_oracle import is_the_oracle

from rnnc.runtime.gpu.tuning import LANES, default_config

DIMS = {"d": 3, "n": 70}  # more than LANES, so a second block is filled in part
CELLS = {  # a file, or a cell of `triton_scans`: cell, dims, whether its state is complex
    "mingru": (None, DIMS, False),
    "minlstm": (None, DIMS, False),
    "lru": (None, DIMS, True),
    "old_state": (None, {"n": 70}, False),
    "max_plus": (None, {"n": 70}, False),
    "min_plus": (None, {"n": 70}, False),
    "log_plus": (None, {"n": 70}, False),
    "rglru": ("RGLRU", {"heads": 2, "w": 70}, False),
}
INNER = {"mamba": ("SelectiveScan", {"e": 36, "n": 3})}  # tiles [t, n, d]
LOOPS = {"mingru": DIMS, "nonlinear": {"n": 70}, "coupled": {"n": 70}}
STEPS = 21  # no multiple of a tile


def _source(name: str) -> str:
    return scans.own_cell(name) if name in scans.SPECS else name


def _cases() -> Iterator[tuple[str, Callable[[], None]]]:
    """At the default configuration, undivided and with the steps divided into three; and one step after another."""
    for file, (cell, dims, pairs) in CELLS.items():
        config = default_config("scan", 70, (), parts=2 if pairs else 1)
        assert config.channels == LANES
        scanned = partial(is_the_oracle, _source(file), cell, kind="scan", dims=dims, steps=STEPS)
        yield f"{file}, {LANES} channels", partial(scanned, config=config)
        yield f"{file}, {LANES} channels, split", partial(scanned, config=replace(config, splits=3))
    for file, (cell, dims) in INNER.items():
        config = default_config("scan", 36, (3,))
        assert config.channels >= 32 * config.warps
        assert config.steps > 1
        scanned = partial(is_the_oracle, file, cell, kind="scan", dims=dims, steps=STEPS)
        yield f"{file}, inner axes", partial(scanned, config=config)
        yield f"{file}, inner axes, split", partial(scanned, config=replace(config, splits=3))
    for file, dims in LOOPS.items():
        yield (
            f"{file}, {LANES} channels, sequential",
            partial(
                is_the_oracle,
                _source(file),
                kind="sequential",
                strategy="sequential",
                dims=dims,
                steps=37,  # more than lie between two kept states
                config=default_config("sequential", 70, ()),
            ),
        )


CASES = dict(_cases())
