"""`python -m rnnc`."""

from __future__ import annotations

import sys

from rnnc.cli import main

sys.exit(main())
