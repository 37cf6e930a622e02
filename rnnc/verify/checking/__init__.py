"""The certificate checker: `check(text)` establishes every claim of a certificate again, or raises `Reject`.

It shares no code with what finds proofs, the analyses, theorems and searches.  Shared is what a spec means (the front
end, single operations in `rnnc.ir.ops`, the languages that claims name) and exact arithmetic (`rnnc.exact`).
"""

from rnnc.verify.checking.rules import check
from rnnc.verify.trusted.cells import Reject

__all__ = ["Reject", "check"]
