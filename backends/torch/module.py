"""One class of an emitted file: its constructor, forward and step."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rnnc.backends.torch.body import Names, Source, indented
from rnnc.backends.torch.cheap import cheap_step
from rnnc.backends.torch.context import REPORT, dim_name, identifier, module_names
from rnnc.backends.torch.expr import dim_text
from rnnc.backends.torch.functions import Forward, Writer, flip, write_step
from rnnc.backends.torch.needs import closure
from rnnc.backends.torch.parameters import DTYPES, Buffer, Initialiser, initial_value, shape_text
from rnnc.backends.torch.parameters import buffers as find_buffers
from rnnc.backends.torch.signatures import argument, check, fits, ordered_dims, positive, signature, tuple_text
from rnnc.backends.torch.strategies import Choice, coefficients
from rnnc.backends.torch.timeops import buffer_length
from rnnc.backends.torch.whole_step import WholeStep
from rnnc.ir.dims import Dim
from rnnc.ir.graph import CellIR, Node, NodeId
from rnnc.ir.linearise import Linearised

PACKED = frozenset({"scan", "convolution", "block_scan", "chunkwise"})  # strategies that take packed sequences


@dataclass(slots=True, kw_only=True)
class Module:
    """One class of the emitted file, in the making."""

    cell: CellIR
    choices: tuple[Choice, ...]
    source: Source
    imports: set[str]
    name: str
    why: tuple[str, ...] = ()
    writer: Writer = field(init=False)
    buffers: list[Buffer] = field(init=False)
    used: set[NodeId] = field(init=False)
    attribute: dict[str, str] = field(default_factory=dict)  # of parameters
    submodules: dict[str, Node] = field(default_factory=dict)  # by key: a call or repeat
    class_names: Mapping[CellIR, str] = field(default_factory=dict)  # of the subcells
    whole_step: WholeStep | None = None
    parts: Mapping[CellIR, Module] = field(default_factory=dict)  # of the subcells
    native: bool = False  # see Context

    def __post_init__(self) -> None:
        cell = self.cell
        recurrent = [n for s in cell.states for n in (s.update, s.init)]
        values = [p.init.node for p in cell.params if p.init.node is not None]
        self.used = closure(
            cell, [*recurrent, *(o.node for o in cell.outputs), *values, *(p.node for p in cell.params)]
        )
        for choice in self.choices:
            self.used |= closure(cell, [] if choice.form is None else coefficients(cell, choice.form))
        names = Names({*module_names(), *(dim_name(d.name) for d in cell.dims)})
        self.attribute = {p.name: names.attribute(p.name) for p in cell.params}
        attributes: dict[NodeId | str, str] = {p.node: f"self.{self.attribute[p.name]}" for p in cell.params}
        self.submodules = {str(n.attr("key")): n for n in self.nodes_of("call", "repeat")}
        attributes |= {key: f"self.{names.attribute(key)}" for key in self.submodules}
        self.writer = Writer(
            cell=cell, attributes=attributes, source=self.source, like=None, imports=self.imports, native=self.native
        )
        self.buffers = find_buffers(self.writer.context(0), self.used, names.taken)
        attributes |= {b.node: f"self.{b.name}" for b in self.buffers}
        self.writer.attributes = attributes
        self.writer.like = self.reference()

    def reference(self) -> str | None:
        """A real tensor the module holds."""
        held = [self.attribute[p.name] for p in self.cell.params if self.cell.nodes[p.node].type.dtype == "real"]
        held += [b.name for b in self.buffers]
        if not held and not any(self.cell.nodes[i.node].type.dtype == "real" for i in self.cell.inputs):
            held = ["like"]  # an empty buffer, which remembers dtype and device
        return f"self.{held[0]}" if held else None

    def nodes_of(self, *ops: str) -> list[Node]:
        return [self.cell.nodes[i] for i in sorted(self.used) if self.cell.nodes[i].op in ops]

    # ------------------------------------------------------------ parts

    def text(self) -> str:
        running = [self.initial_state(), self.forward(), self.step()]
        self.drop_unused(running)
        parts = [self.constructor(), self.reset(), self.apply(), *running, self.extra_repr()]
        body = "\n\n".join("\n".join(indented(p)) for p in parts if p)
        doc = "\n".join(indented(self.docstring()))
        return f"class {self.name}(nn.Module):\n{doc}\n\n{body}\n"

    def drop_unused(self, parts: list[list[str]]) -> None:
        """Keep the buffers that some function reads."""
        words = {word for part in parts for line in part for word in re.findall(r"self\.(\w+)", line)}
        starts = {i for p in self.cell.params if p.init.node is not None for i in closure(self.cell, [p.init.node])}
        self.buffers = [b for b in self.buffers if b.name in words or b.node in starts]

    def docstring(self) -> list[str]:
        cell = self.cell
        title = " ".join(cell.doc.split("\n")[:1]).strip() or f"{cell.name}, one layer"
        lines = [f'"""{title.rstrip(".")}.', ""]
        rest = [line.strip() for line in cell.doc.split("\n")[1:] if line.strip()]
        lines += [*rest, ""] if rest else []
        for i in cell.inputs:
            lines.append(f"input {i.name}: {self.layout(i.node)}")
        for o in cell.outputs:
            lines.append(f"output {o.name}: {self.layout(o.node)}")
        for s in cell.states:
            lines.append(f"state {s.name}: {self.layout(s.node, time=False)}")
        fixed = [f"{k} = {v}" for k, v in cell.hyper]
        if fixed:
            lines += ["", f"Compiled for {', '.join(fixed)}."]
        lines += ["", *(line for why in self.why for line in textwrap.wrap(why, 110))] if self.why else []
        return [*lines, '"""']

    def layout(self, node: NodeId, time: bool = True) -> str:
        t = self.cell.nodes[node].type
        sizes = ["batch", *(["time"] if time else []), *(dim_text(d, str) for d in (*t.per, *t.shape))]
        return f"{'' if t.dtype == 'real' else t.dtype + ' '}[{', '.join(sizes)}]"

    def constructor(self) -> list[str]:
        cell = self.cell
        dims = [argument(d) for d in ordered_dims(cell)]
        lines = [signature("__init__", ["self", *dims, "*", "device=None", "dtype=None"], "None")]
        body = ["super().__init__()"]
        for d in cell.dims:
            if d.default is not None and d.default.names:
                body += [
                    f"if {dim_name(d.name)} is None:",
                    *indented(
                        [
                            *check(d.default),
                            *positive(d.default),
                            f"{dim_name(d.name)} = {dim_text(d.default, dim_name)}",
                        ]
                    ),
                ]
        body += self.checks()
        body += [f"self.{dim_name(d.name)} = {dim_name(d.name)}" for d in cell.dims]
        c = self.writer.context(0)
        c.dim_names = {d.name: dim_name(d.name) for d in cell.dims}
        for p in cell.params:
            t = cell.nodes[p.node].type
            kind = "dtype=dtype" if t.dtype == "real" else "dtype=torch.promote_types(dtype, torch.complex64)"
            body.append(
                f"self.{self.attribute[p.name]} = nn.Parameter(torch.empty({shape_text(c, t)}, device=device, {kind}))"
            )
        for b in self.buffers:
            t = cell.nodes[b.node].type
            body.append(
                f'self.register_buffer("{b.name}", torch.empty({shape_text(c, t)}, device=device, dtype=dtype), '
                "persistent=False)"
            )
        if self.writer.like == "self.like":
            body.append('self.register_buffer("like", torch.empty(0, device=device, dtype=dtype), persistent=False)')
        if any(cell.nodes[p.node].type.dtype == "complex" for p in cell.params):
            body.insert(1, "dtype = dtype or torch.get_default_dtype()")
        body += [self.submodule(key, node) for key, node in self.submodules.items()]
        if cell.params or self.buffers:
            body.append("self.reset_parameters()")
        if any(isinstance(c.form, Linearised) or (c.kernel and c.kernel.report) for c in self.choices):
            self.imports.add("NewtonReport")
            body.append(f"self.{REPORT} = NewtonReport()  # what Newton's method did")
        return [*lines, *indented(body)]

    def checks(self) -> list[str]:
        """Quotients of sizes have to be whole, sizes positive, slices inside their axes."""
        nodes = [self.cell.nodes[i] for i in sorted(self.used)]
        sizes = [d for n in nodes for d in (*n.type.per, *n.type.shape)]
        lines = [tuple(check(d)) for d in sizes]
        lines += [tuple(positive(d)) for d in sizes]
        for n in nodes:
            if n.op == "slice":
                start, stop = (Dim.of(n.attr(k)) for k in ("start", "stop"))  # type: ignore[arg-type]
                size = self.cell.nodes[n.args[0]].type.shape[int(str(n.attr("axis")))]
                lines.append(tuple(fits(start, stop, size)))
        return [line for pair in dict.fromkeys(lines) for line in pair]

    def reset(self) -> list[str]:
        cell = self.cell
        if not (cell.params or self.buffers):
            return []
        init = Initialiser(self.writer.context(0), self.source)
        lines = [f"self.{b.name}.copy_({b.text})" for b in self.buffers]
        for p in cell.params:
            lines += init.lines(p)
        head = [
            "@torch.no_grad()",
            "def reset_parameters(self) -> None:",
            '    """Fresh parameters, as the spec declares them."""',
        ]
        return [*head, *indented(lines)]

    def apply(self) -> list[str]:
        """Complex parameters change precision with the real ones: `nn.Module` would drop their imaginary parts."""
        if not any(self.cell.nodes[p.node].type.dtype == "complex" for p in self.cell.params):
            return []
        self.imports.add("keeping_complex")
        return [
            "def _apply(self, fn, recurse=True):",
            '    """`.to(dtype)` and its kin act on the real and imaginary parts of complex parameters."""',
            "    return super()._apply(keeping_complex(fn), recurse)",
        ]

    def initial_state(self) -> list[str]:
        cell = self.cell
        c = self.writer.context(0)
        head = [
            "def initial_state(self, batch: int, *, device=None, dtype=None) -> State:",
            '    """The state before the first step; every entry is [batch, ...]."""',
        ]
        lines, entries = [], {}
        for s in cell.states:
            before, text = initial_value(c, self.source, s.init, cell.nodes[s.node].type, "batch")
            lines += before
            entries[s.name] = text
        for n in self.nodes_of("delay", "conv", "attention"):
            entries |= self.buffer_entries(n)
        for key, n in self.submodules.items():
            entries[key] = self.initial_of(key, n)
        zeros = any("dtype=" in v for v in entries.values())
        if zeros and self.writer.like:
            like = self.writer.like
            lines = [f"device, dtype = device or {like}.device, dtype or {like}.dtype", *lines]
        elif any("promote_types" in v for v in entries.values()):
            lines = ["dtype = dtype or torch.get_default_dtype()", *lines]
        one = "return {" + ", ".join(f'"{k}": {v}' for k, v in entries.items()) + "}"
        if len(one) <= 100:
            return [*head, *indented([*lines, one])]
        return [*head, *indented([*lines, "return {", *(f'    "{k}": {v},' for k, v in entries.items()), "}"])]

    def initial_of(self, key: str, node: Node) -> str:
        module = self.writer.attributes[key]
        if node.op == "call":
            return f"{module}.initial_state(batch, device=device, dtype=dtype)"
        return f"[layer.initial_state(batch, device=device, dtype=dtype) for layer in {module}]"

    def submodule(self, key: str, node: Node) -> str:
        """The statement of the constructor that makes a submodule, or a list of them."""
        sub = self.cell.subcells[int(str(node.attr("cell")))]
        c = self.writer.context(0)
        c.dim_names = {d.name: dim_name(d.name) for d in self.cell.dims}
        known = {d.name for d in sub.dims}
        given: Any = node.attr("dims")
        sizes = [f"{dim_name(name)}={c.dim(Dim.of(size))}" for name, size in given if name in known]
        made = f"{self.class_names[sub]}({', '.join([*sizes, 'device=device', 'dtype=dtype'])})"
        if node.op == "repeat":
            made = f"nn.ModuleList({made} for _ in range({node.attr('count')}))"
        return f"{self.writer.attributes[key]} = {made}"

    def buffer_entries(self, node: Node) -> dict[str, str]:
        """The past values that `prev`, `conv` or attention looks back at, before the first step."""
        c, key = self.writer.context(0), str(node.attr("key"))
        if node.op == "attention":
            entries = {}
            for part, arg in (("k", node.args[1]), ("v", node.args[2])):
                t = self.cell.nodes[arg].type
                sizes = ", ".join(["batch", "0", *(c.dim(d) for d in (*node.type.per, *t.shape))])
                entries[f"{key}_{part}"] = f"torch.zeros({sizes}, device=device, dtype=dtype)"
            return entries
        length = buffer_length(node)
        if length == 0:
            return {}
        t = node.type
        init = node.args[1] if node.op == "delay" and len(node.args) > 1 else None
        shape = ["batch", str(length), *(c.dim(d) for d in (*t.per, *t.shape))]
        if init is None:
            kind = f"dtype={DTYPES[t.dtype]}"
            return {key: f"torch.zeros({', '.join(shape)}, device=device, {kind})"}
        _, text = initial_value(c, self.source, init, t, f"batch, {length}")
        return {key: text}

    def arguments(self) -> list[str]:
        return [f"{identifier(i.name)}: Tensor" for i in self.cell.inputs]

    def result_type(self) -> str:
        n = len(self.cell.outputs)
        values = "Tensor" if n == 1 else f"tuple[{', '.join(['Tensor'] * n) or '()'}]"
        return f"tuple[{values}, State]"

    @property
    def packs(self) -> bool:
        """Whether packed sequences run as they are, all at once: no group runs in a loop, and nothing attends."""
        served = (c.strategy in PACKED if c.kernel is None else c.kernel.packed for c in self.choices)
        return all(served) and not self.nodes_of("attention")

    def packed(self, names: list[str]) -> list[str]:
        """What `forward` does first with boundaries of packed sequences."""
        self.imports.add("run_packed")
        run = f"return run_packed(self, {tuple_text(names)}, state, cu_seqlens, reverse=reverse)"
        if not self.packs:
            return ["if cu_seqlens is not None:", f"    {run}"]
        self.imports.add("packed_bounds")
        return [
            "if cu_seqlens is not None:",
            f"    if {names[0]}.shape[1] == 0:",
            f"        {run}",
            f"    cu_seqlens = packed_bounds(cu_seqlens, {names[0]}, state)",
        ]

    def fresh_state(self, packed: bool = False) -> list[str]:
        """Without a state given, start from the initial one."""
        first = self.cell.inputs[0]
        x = identifier(first.name)
        options = ""
        if self.writer.like is None:
            real = [identifier(i.name) for i in self.cell.inputs if self.cell.nodes[i.node].type.dtype == "real"]
            options = f", device={x}.device" + (
                f", dtype={self.writer.context(0).use('state_dtype')}({real[0]})" if real else ""
            )
        batch = f"{x}.shape[0]"
        if packed:
            batch += " if cu_seqlens is None else cu_seqlens.shape[0] - 1"
        return ["if state is None:", f"    state = self.initial_state({batch}{options})"]

    def checked(self, names: list[str]) -> str:
        """Refuse what would else be broadcast in silence."""
        self.imports.add("check_shapes")
        types = [self.cell.nodes[i.node].type for i in self.cell.inputs]
        ranks = tuple_text([str(2 + len(t.per) + t.rank) for t in types])
        bounds = ", cu_seqlens" if self.packs else ""
        return f"check_shapes({tuple_text(names)}, {ranks}, state{bounds})"

    def forward(self) -> list[str]:
        names = [identifier(i.name) for i in self.cell.inputs]
        self.writer.packs = self.packs
        written = Forward(w=self.writer, choices=self.choices).write()
        head = signature(
            "forward",
            [
                "self",
                *self.arguments(),
                "state: State | None = None",
                "*",
                "reverse: bool = False",
                "cu_seqlens: Tensor | None = None",
            ],
            self.result_type(),
        )
        self.imports.add("no_steps")
        lines = [*self.packed(names), *self.fresh_state(self.packs), self.checked(names)]
        lines += [f"if {names[0]}.shape[1] == 0:", f"    return no_steps(self, {tuple_text(names)}, state)"]
        if any(c.in_loop for c in self.choices) and not self.nodes_of("attention"):  # whose state grows
            self.imports |= {"open_length", "open_steps"}
            lines.append(f"if open_length({names[0]}):  # left open by an exporter")
            lines.append(f"    return open_steps(self, {tuple_text(names)}, state, reverse=reverse)")
        turn = flip(self.writer)
        lines += ["if reverse:", f"    {', '.join(names)} = {', '.join(map(turn, names))}"]
        return [head, *indented([*lines, *written.lines, *written.ending(turn)])]

    def step_writer(self) -> Writer:
        """The writer of `step`, whose graph may be a cheaper one than that of the whole sequence."""
        native = any(c.kernel is not None for c in self.choices)  # whose cell is cheap already
        cell = self.cell if native else cheap_step(self.cell, tuple(c.group for c in self.choices))
        if cell is self.cell:
            return self.writer
        attributes: dict[NodeId | str, str] = {p.node: f"self.{self.attribute[p.name]}" for p in cell.params}
        fixed = {(n.op, n.attrs): self.writer.attributes[n.id] for n in self.cell.nodes if n.id in self.buffer_nodes}
        attributes |= {n.id: fixed[n.op, n.attrs] for n in cell.nodes if (n.op, n.attrs) in fixed}
        attributes |= {key: self.writer.attributes[key] for key in self.submodules}
        return replace(self.writer, cell=cell, attributes=attributes)

    @property
    def buffer_nodes(self) -> set[NodeId]:
        return {b.node for b in self.buffers}

    def step(self) -> list[str]:
        head = signature("step", ["self", *self.arguments(), "state: State | None = None"], self.result_type())
        doc = '"""One step: inputs are [batch, ...], without the time axis."""'
        written = write_step(self.step_writer(), self.choices)
        first = [] if self.whole_step is None else self.whole_step.call(self.cell, self.path)
        return [head, *indented([doc, *self.fresh_state(), *first, *written.lines, *written.ending()])]

    def path(self, name: str) -> str:
        """Where a parameter of the cell without calls is in this module: `layers.0.mix.weight`."""
        *keys, last = name.split(".")
        module, path, rest = self, list[str](), iter(keys)
        for key in rest:
            path.append(module.writer.attributes[key].removeprefix("self."))
            node = module.submodules[key]
            if node.op == "repeat":
                path.append(next(rest))
            module = self.parts[module.cell.subcells[int(str(node.attr("cell")))]]
        return ".".join([*path, module.attribute[last]])

    def extra_repr(self) -> list[str]:
        if not self.cell.dims:
            return []
        text = ", ".join(f"{d.name}={{self.{dim_name(d.name)}}}" for d in self.cell.dims)
        return ["def extra_repr(self) -> str:", f'    return f"{text}"']
