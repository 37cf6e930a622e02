"""The Triton backend's entry: regions of a cell become kernels, the torch backend writes the module around them."""

from __future__ import annotations

import hashlib
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec

from rnnc.analysis.forms import MatrixState, Normaliser
from rnnc.backends.kernels.region import find_coupled, find_region
from rnnc.backends.kernels.turned import find_turned
from rnnc.backends.torch.backend import Strategies, explanation, for_cell, require_inputs
from rnnc.backends.torch.body import Names, Source
from rnnc.backends.torch.context import identifier
from rnnc.backends.torch.emit import Kernels, emit_file
from rnnc.backends.torch.kernels import Kernel as Call
from rnnc.backends.torch.needs import state_dependence
from rnnc.backends.torch.strategies import Choice, coefficients
from rnnc.backends.triton import newton, scan, sequential
from rnnc.backends.triton.coupled import coupled_kernels
from rnnc.backends.triton.coupled_step import by_products, find_coupled_step
from rnnc.backends.triton.descriptor import coupled_text, recurrence_text
from rnnc.backends.triton.forms import in_chunks, least_log_decay
from rnnc.backends.triton.kernel import Step, find_step
from rnnc.backends.triton.layout import largest
from rnnc.backends.triton.low_rank import LOW_RANK, has_low_rank_kernel
from rnnc.backends.triton.planning import named, plans
from rnnc.backends.triton.stepped import stepped
from rnnc.backends.triton.text import Kernel
from rnnc.ir.graph import CellIR, NodeId
from rnnc.plan.choose import GroupPlan, Plan


def emit(cell: CellIR, *, dims: Mapping[str, int] | None, strategy: Strategies, sources: Mapping[str, str]) -> str:
    """The source text of a standalone file (torch, triton and rnnc.runtime only); see `rnnc.backends.Backend`."""
    require_inputs(cell)
    writer = _File(sources=sources)
    made = {}
    for c, p in plans(cell, dims, strategy).items():
        choices, why = writer.choices(c.name, p, for_cell(c, cell, strategy))
        made[c] = (p.recurrence.cell, choices, why)
    text = emit_file(cell, made, sources, Kernels(texts=tuple(writer.texts)))
    return writer.with_imports(text)


def routes(cell: CellIR) -> list[tuple[str, tuple[str, ...], str]]:
    """For each group of a cell and of those it calls: the cell's name, the states, and by what they run, or "PyTorch: "
    and why.
    """
    writer, found = _File(sources={}), []
    for c, p in plans(cell, None, None).items():
        _, why = writer.choices(c.name, p, None)
        for g, sentence in zip(p.groups, why, strict=True):
            how = sentence.partition(": ")[2].removeprefix("kernel, ").partition("; ")[0]
            _, missing, reason = sentence.partition("No kernel: ")
            found.append((c.name, g.group.states, f"PyTorch: {reason}" if missing else how))
    return found


def unavailable() -> str | None:
    """Why Triton kernels cannot run here: no triton, or no GPU and no interpreter either."""
    if find_spec("triton") is None:
        return "Triton is not installed (pip install rnnc[triton])"
    import torch

    from rnnc.runtime.gpu.compat import interpreted

    if torch.cuda.is_available() or interpreted():
        return None
    return "Triton kernels need a CUDA or HIP device, and PyTorch finds none"


@dataclass(slots=True, kw_only=True)
class _File:
    """The kernels of one file."""

    sources: Mapping[str, str]
    names: Names = field(default_factory=Names)
    texts: list[str] = field(default_factory=list)
    helpers: set[str] = field(default_factory=set)
    coupled: bool = False  # whether some group has products of its states
    chunkwise: bool = False  # whether some group runs by the runtime's chunkwise kernels

    def choices(self, title: str, p: Plan, asked: Strategies) -> tuple[tuple[Choice, ...], tuple[str, ...]]:
        """How each group runs, and a sentence on each; `asked` is what the user said of strategies."""
        found = []
        why = []
        cell = p.recurrence.cell
        later = {g.group.index: [s for o in p.groups[k + 1 :] for s in o.group.states] for k, g in enumerate(p.groups)}
        without = {
            g.group.index: reason
            for g in p.groups
            if (reason := _no_kernel(cell, g, later[g.group.index], asked)) is not None
        }
        columns = {n.state: g for g in p.groups if (n := _normaliser(g)) is not None}
        read: list[NodeId] = []  # by groups that PyTorch runs in a normal form
        for g in p.groups:
            if g.form is not None and (in_chunks(cell, g) or g.group.index in without):
                read += coefficients(cell, g.form)
        for g, planned in zip(p.groups, explanation(p), strict=True):
            choice = replace(Choice.of(cell, g), native=False)  # by C: chunks on a GPU are a function of their own
            call: Call | None = None
            if g.group.states[0] in columns:
                matrix = columns[g.group.states[0]].group.states[0]
                why.append(f"{g.group.states[0]}: one more column of a matrix state, in the same kernels; of {matrix}")
                continue
            if (n := _normaliser(g)) is not None:
                choice = replace(choice, group=replace(g.group, states=(*g.group.states, n.state)))
            if in_chunks(cell, g):
                self.chunkwise = True
                choice = replace(choice, least=least_log_decay(cell, g.form))
                kernels = LOW_RANK if has_low_rank_kernel(cell, g.form) else CHUNKWISE
                sentence = f"{' and '.join(g.group.states)}: {kernels}; {g.chosen.safety}"
            elif g.group.index in without:
                sentence = f"{planned}. No kernel: {without[g.group.index]}"
            elif by_products(cell, g.group, later[g.group.index]):
                call, sentence = self._coupled(title, cell, g, later[g.group.index])
            elif find_region(cell, g.group, later[g.group.index]) is None:
                call, sentence = self._turned(title, cell, g, later[g.group.index])
            else:
                call, sentence = self._kernel(title, cell, g, later[g.group.index], read)
            found.append(choice if call is None else replace(choice, form=None, kernel=call))
            why.append(sentence)
        return tuple(found), tuple(why)

    def _kernel(self, title: str, cell: CellIR, g: GroupPlan, later: list[str], read: list[NodeId]) -> tuple[Call, str]:
        """Write a group's kernels; how they are called, and a sentence."""
        region = find_region(cell, g.group, later, read)
        assert region is not None
        source, inner = Source(self.sources), region.step
        name = self.names.fresh(kernel_name(title, g.group.states))
        step = find_step(name, cell, region, lambda node: source.line(inner.nodes[node]))
        assert step is not None
        kind, kernels = schedule(step, g.strategy)  # by Newton's method where `newton.applies`
        self._write(kernels, lambda key: recurrence_text(step, kind, kernels, key), step.name)
        call = Call(name=name, states=region.states, inputs=region.inputs, outputs=region.outputs, packed=True)
        return call, f"{' and '.join(g.group.states)}: kernel, {SENTENCES[kind]}"

    def _turned(self, title: str, cell: CellIR, g: GroupPlan, later: list[str]) -> tuple[Call, str]:
        """Write the kernels of a group that reads its states under other labels; how they are called, and a
        sentence.
        """
        turned = find_turned(cell, g.group, later)
        assert turned is not None
        region, source = turned.region, Source(self.sources)
        name = self.names.fresh(kernel_name(title, g.group.states))
        inner = region.step
        step = find_step(name, cell, region, lambda node: source.line(inner.nodes[node]), turned.readings)
        assert step is not None
        kernels = sequential.sequential_kernels(step)
        self._write(kernels, lambda key: recurrence_text(step, "sequential", kernels, key), step.name)
        inputs = tuple(region.inputs[k] for k in step.given)
        moving = [i for i in inputs if i not in region.static]
        call = Call(
            name=name,
            states=region.states,
            inputs=inputs,
            outputs=region.outputs,
            views=turned.views,
            asked=largest_state(step) or "",
            fits=None if _always_fits(step) else (*moving, *inputs, cell.state(region.states[0]).node)[0],
            packed=_always_fits(step),
        )
        return call, f"{' and '.join(g.group.states)}: kernel, {SENTENCES['turned']}"

    def _coupled(self, title: str, cell: CellIR, g: GroupPlan, later: list[str]) -> tuple[Call, str]:
        """Write the kernels of a group with products of learned matrices; how they are called, and a sentence."""
        source = Source(self.sources)
        name = self.names.fresh(kernel_name(title, g.group.states))
        c = find_coupled_step(name, cell, g.group, later, source.line)
        assert c is not None
        coupled = c.coupled
        kernels, by_step = coupled_kernels(c), stepped(c)
        between = tuple(p.kernel for p in (*by_step.forward, *by_step.backward))
        self._write((*kernels, *between), lambda key: coupled_text(by_step, kernels, key), name)
        self.coupled = True
        weights = tuple(p.weight for p in c.products)
        call = Call(
            name=name,
            states=coupled.region.states,
            inputs=(*(coupled.region.inputs[k] for k in c.given), *weights),
            outputs=coupled.region.outputs[: coupled.wanted],
            packed=True,
        )
        return call, f"{' and '.join(g.group.states)}: kernel, {SENTENCES['coupled']}"

    def _write(self, kernels: tuple[Kernel, ...], call: Callable[[str], str], name: str) -> None:
        for k in kernels:
            self.helpers |= k.helpers
        text = "\n\n".join(k.text for k in kernels)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.texts.append(text + "\n\n" + call(f"{name}_{digest}"))

    def with_imports(self, text: str) -> str:
        """The file with what its kernels import."""
        if self.chunkwise or self.texts:
            text = text.replace(
                "it needs torch and rnnc.runtime only", "it needs torch, triton and rnnc.runtime only", 1
            )
        if self.chunkwise:
            line = next(x for x in text.split("\n") if x.startswith("from rnnc.runtime import"))
            imported = line.removeprefix("from rnnc.runtime import ").split(", ")
            own = [n for n in ("matrix_scan", "normalised_scan") if f"{n}(" in text]
            ours = f"from rnnc.runtime.gpu.matrix import {', '.join(own)}"
            rest = ", ".join(n for n in imported if n != "matrix_scan")
            text = text.replace(line, f"from rnnc.runtime import {rest}\n{ours}" if rest else ours, 1)
        if not self.texts:
            return text
        classes = ["CoupledRecurrence", "Phase", "Product", "Side"] if self.coupled else []
        classes += ["Recurrence"] if any(" = Recurrence(" in t for t in self.texts) else []
        taken = ["Axes", *classes, *sorted(self.helpers)]
        ours = f"from rnnc.runtime.gpu import {', '.join(taken)}"
        if len(ours) > 112:
            names = textwrap.fill(", ".join(taken) + ",", 108)
            ours = f"from rnnc.runtime.gpu import (\n{textwrap.indent(names, '    ')}\n)"
        text = text.replace("import torch\n", "import torch\nimport triton\nimport triton.language as tl\n", 1)
        head, line, tail = text.partition("\nfrom rnnc.runtime import")
        if line:
            return f"{head}{line}{tail.replace(chr(10), chr(10) + ours + chr(10), 1)}"
        return text.replace("from torch import Tensor, nn\n", f"from torch import Tensor, nn\n\n{ours}\n", 1)


def _normaliser(g: GroupPlan) -> Normaliser | None:
    return g.form.normaliser if isinstance(g.form, MatrixState) else None


CHUNKWISE = "chunkwise kernels, chunk states one after another, outputs all at once"
SERVED = frozenset(
    {"step", "sequential", "scan", "newton"}
)  # strategies whose work a kernel does when they are asked for


def _no_kernel(cell: CellIR, g: GroupPlan, later: list[str], asked: Strategies) -> str | None:
    """Why a group runs by PyTorch; None where there is a kernel."""
    if named(g, asked) and g.strategy not in SERVED and not in_chunks(cell, g):
        return f"the strategy {g.strategy.replace('_', ' ')} was asked for, which has none here"
    if any(cell.nodes[cell.state(s).node].type.dtype == "bool" for s in g.group.states):
        return "a state of truth values"
    if g.natives and not g.chosen.native and not named(g, asked) and not in_chunks(cell, g):
        return "a kernel that takes one step after another is expected to need more than twice as long"
    if by_products(cell, g.group, later):
        return None
    region = find_region(cell, g.group, later)
    if region is None:
        return _not_turned(cell, g, later)
    step = find_step("step", cell, region, lambda node: None)
    if step is None:
        return "no axis of its states could be shared out among programs"
    if g.strategy == "newton" and not newton.applies(cell, g.group, step):
        return "Newton's method over all steps runs by PyTorch where entries of different positions meet"
    return None


def kernel_name(title: str, states: Iterable[str]) -> str:
    """In letters that Triton takes for a function: `Letters`, `α` --> `letters_alpha`."""
    text = "".join(
        c if c.isascii() else unicodedata.name(c, f"u{ord(c):x}").split()[-1].lower()
        for c in f"{title.lower()}_{'_'.join(states)}"
    )
    return identifier(text)


def _not_turned(cell: CellIR, g: GroupPlan, later: list[str]) -> str | None:
    """Why a group that is neither pointwise nor made so by its products runs by PyTorch; None where there is a
    kernel.
    """
    states = [cell.state(s) for s in g.group.states]
    depends = state_dependence(cell)
    if not all(depends[s.update] & set(g.group.states) for s in states):
        return "it is set anew at each step, from what PyTorch has already"
    turned = find_turned(cell, g.group, later)
    if turned is None:
        if find_coupled(cell, g.group, later, sizes=True) is not None:
            return "the vectors of its products lie along different axes, or more than they is summed over"
        return "its step is neither pointwise nor made of products of its states with vectors and matrices"
    step = find_step("step", cell, turned.region, lambda node: None, turned.readings)
    if step is None or largest_state(step) is None:
        return "its products need more axes than a program holds"
    return None


def largest_state(step: Step) -> str | None:
    """The first of the states with the most axes, if its sizes tell those of all that a program holds."""
    arrays = step.forward.states
    most = largest(arrays)
    known = {*most.axes, *(a for a, _ in step.layout.turned)}
    return step.region.states[arrays.index(most)] if {*step.layout.inner} <= known else None


def _always_fits(step: Step) -> bool:
    """Whether what a program holds of a step with readings is small whatever the sizes."""
    from rnnc.runtime.gpu.tuning import turned_fits

    sizes = [step.forward.sizes[a].constant for a in step.layout.inner]
    known = [int(n) for n in sizes if n is not None]
    return len(known) == len(sizes) and turned_fits(known, 2 if step.complex else 1)


SENTENCES = {
    "scan": "tiles of steps scanned in registers, gates and readout inside",
    "sequential": "one step after another in one kernel, the state in registers",
    "newton": "tiles of steps solved in registers by Newton's method, those that do not converge step by step",
    "turned": "one step after another in one kernel, whole states in registers, read by rows and by columns",
    "coupled": "one step after another, in one kernel where matrices fit on chip, else kernels between products",
}


def schedule(step: Step, strategy: str) -> tuple[str, tuple[Kernel, ...]]:
    """The schedule that runs a step, and its kernels forward and backward."""
    if strategy == "newton":
        return "newton", newton.newton_kernels(step)
    if strategy not in ("step", "sequential") and scan.applies(step):
        return "scan", scan.scan_kernels(step)
    return "sequential", sequential.sequential_kernels(step)
