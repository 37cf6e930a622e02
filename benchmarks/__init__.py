"""Programs that measure; they run from a checkout, whether rnnc is installed or not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import rnnc

if find_spec("rnnc.backends") is None:  # it stands beside `rnnc` in a checkout, as the grammar and the library do
    rnnc.__path__.append(str(Path(__file__).parents[1]))
