"""The certificate checker: `check(text)` establishes every claim of a certificate again, or raises `Reject`.

It shares no code with what finds proofs: nothing of `rnnc.analysis`, of `rnnc.ir.domains`, or of the theorems and the
search in `rnnc.verify`.  Shared is what a spec means (the front end, the values of single operations in `rnnc.ir.ops`,
the languages that claims name) and exact arithmetic (`rnnc.exact`).
"""

from rnnc.verify.checking.replay import Reject
from rnnc.verify.checking.rules import check

__all__ = ["Reject", "check"]
