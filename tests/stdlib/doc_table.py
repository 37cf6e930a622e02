"""Writes the table of docs/stdlib.md: `python tests/stdlib/doc_table.py`; a test keeps the two in step."""

from __future__ import annotations

from pathlib import Path

import rnnc
from rnnc.analysis.forms import Group
from rnnc.analysis.recurrence import analyse_recurrence
from rnnc.plan.choose import plan
from rnnc.stdlib import Entry, entries

DOC = Path(__file__).parents[2] / "docs" / "stdlib.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"

# What each cell is compared with, forward and gradients, its weights copied over.
PEERS = {
    "RNN": "`torch.nn.RNN`",
    "LSTM": "`torch.nn.LSTM`",
    "GRU": "`torch.nn.GRU`",
    "Mamba": "transformers `MambaMixer`",
    "Mamba2": "transformers `Mamba2Mixer`",
    "RGLRU": "transformers `RecurrentGemmaRglru`",
    "Hawk": "transformers `RecurrentGemmaRecurrentBlock`",
    "GatedDeltaNet": "transformers `Qwen3NextGatedDeltaNet`",
    "GatedDeltaOp": "transformers `torch_chunk_gated_delta_rule`, `torch_recurrent_gated_delta_rule`",
    "mLSTMOp": "xlstm `parallel_stabilized_simple`, `recurrent_step_stabilized_simple`",
    "sLSTM": "xlstm `slstm_forward`, vanilla",
}
OWN = "reference loop from the paper"
ORACLE = "float64 oracle"
REFERENCED = {
    *("MinGRU", "MinLSTM", "LRU", "S4D", "S5", "RetNet", "GLA"),
    *("HGRN", "HGRNComplex", "HGRN2", "DeltaNet", "DeltaProduct"),
}


def peer(cell: str) -> str:
    """Every cell is checked against the oracle; this is what it is compared with beside it."""
    return PEERS.get(cell) or (OWN if cell in REFERENCED else ORACLE)


def row(entry: Entry, cell: str) -> str:
    groups = plan(analyse_recurrence(rnnc.stdlib(entry.name).lower(cell)), None).groups
    structures, strategies = [], []
    for g in groups:
        names = ", ".join(f"`{s}`" for s in g.group.states)
        fast = [o.name for o in g.options if o.legal and o.name not in ("step", "sequential")]
        structures.append(f"{names}: {structure(g.group)}")
        strategies.append(", ".join(fast) if fast else "sequential only")
    cells = [f"`{cell}`", f"`{entry.name}`", "; ".join(structures), "; ".join(strategies), peer(cell)]
    return "| " + " | ".join(cells) + " |"


def structure(group: Group) -> str:
    if group.kind == "nonlinear":
        return "nonlinear"
    name = group.structure.replace("_", " ")
    if group.rank:
        name += f" of {group.rank}"
    if group.field == "complex":
        name = f"complex {name}"
    if group.semiring != "plus_times":
        name = f"{name} over {group.semiring.replace('_', '-')}"
    return f"{name}, fixed in time" if group.transition_static else name


def table() -> str:
    head = [
        "| cell | file | states and their transition | parallel strategies | compared with |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(row(e, c) for e in entries() for c in e.cells)])


def papers() -> str:
    lines = []
    for e in entries():
        title = e.title.split(": ", 1)
        lines.append(f"- **{title[0]}** (`{e.name}`): {title[1]} `{e.update}`. {e.paper}")
    return "\n".join(lines)


def generated() -> str:
    return f"{BEGIN}\n{table()}\n\n## Papers\n\n{papers()}\n{END}"


def main() -> None:
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    DOC.write_text(before + generated() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
