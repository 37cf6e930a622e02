"""A kernel's source: signature, docstring, body."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rnnc.backends.torch.body import indented
from rnnc.backends.triton.frame import Frame

INDENT: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """One `@triton.jit` function.  `helpers` are what it takes from `rnnc.runtime.gpu`."""

    name: str
    text: str
    helpers: frozenset[str]
    dims: tuple[str, ...]  # dims of the cell among its arguments


def finished(
    frame: Frame,
    name: str,
    what: str,
    arguments: list[list[str]],
    blocks: list[str],
    body: list[str],
    numbers: Sequence[str] = ("T",),
) -> Kernel:
    """The function around `body`; `arguments` are lists that belong on a line each.  `numbers` are arguments for whose
    values nothing is compiled anew.
    """
    s = frame.statements
    dims = list(s.dims.values())
    constants = [*frame.constants, *blocks]
    rows = [row for row in arguments if row]
    rows += [[*dims, *frame.sizes], [f"{c}: tl.constexpr" for c in constants]]
    fixed = ", ".join(f'"{n}"' for n in numbers)
    lines = [f"@triton.jit(do_not_specialize=[{fixed}])", f"def {name}("]
    for row in rows:
        lines += textwrap.wrap(f"{', '.join(row)},".replace(": ", ":~"), 112, **INDENT)
    lines = [line.replace(":~", ": ") for line in lines]
    lines += ["):", *indented([docstring(frame, what)]), *indented(body)]
    return Kernel(
        name=name,
        text="\n".join(lines) + "\n",
        helpers=frozenset(s.helpers),
        dims=tuple(s.dims),
    )


def docstring(frame: Frame, what: str) -> str:
    step = frame.step
    update = step.comment(step.region.step.states[0].update) or step.name
    channels = "BB sequences" if frame.layout.rows else "BD channels of one sequence"
    channels += " and one head" if frame.layout.grid else ""
    return f'"""{update}: {what}, for {channels}."""'
