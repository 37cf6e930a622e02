"""The speeds that the torch backend promises, side by side with their peers, each after a comparison of the numbers.

python -m benchmarks.foundation

The cells are compiled from specs, as a user compiles them; one is also measured without a compiler, by the runtime's
scan.  The table has the time of each competitor, its ratio to the peer named first (the median of the ratios within
each interleaved round, with its quartiles) and, for a promise, whether it is kept; with `--strict` the process fails
where one is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rnnc
from benchmarks.cells import DECAY, ROTATION
from benchmarks.measure import Timing, interleaved, machine, parser, relative_error
from benchmarks.scans import loop as hand_loop
from rnnc.runtime import linear_scan

NEAR = 0.9  # of the fastest's speed: what is promised of a choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """One competitor: `run(*inputs)` gives the output; `parameters` are those of its own that get gradients too.

    A `part` is not a competitor but what all of them contain, timed alone: its ratio bounds theirs from above.
    """

    run: Callable[..., Tensor]
    parameters: Sequence[Tensor] = ()
    part: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Competitors for one job.  The first is the peer; `promise` is the least ratio of one of the others to it, `also`
    are promises about other directions: the direction, who, the least ratio.  `near` promises to be within a tenth of
    the fastest of all.
    """

    name: str
    inputs: Sequence[Tensor]
    runners: Mapping[str, Runner]
    promise: tuple[str, float] | None = None
    bound: float = 1e-4
    direction: str = "forward + backward"  # that the promise is about
    differentiated: bool = True
    near: str | None = None
    least_rounds: int = 1  # of a case that takes little time and varies much
    most_rounds: int = 1000  # of a case that takes minutes
    also: Sequence[tuple[str, str, float]] = ()
    notes: Mapping[str, float] = field(default_factory=dict)  # what was measured once, such as a peer's compilation


def layer(module: nn.Module) -> Runner:
    """A layer with the usual interface, its states dropped."""
    return Runner(run=lambda *inputs: module(*inputs)[0], parameters=list(module.parameters()))


def compiled(spec: rnnc.Spec, cell: str, strategies: Sequence[str | None], **sizes: int) -> list[nn.Module]:
    """One module for each strategy (None: the planner's choice), all with the weights of the first."""
    modules = [rnnc.compile(spec, cell, strategy=s)(**sizes) for s in strategies]
    for module in modules[1:]:
        module.load_state_dict(modules[0].state_dict())
    return modules


def decay_case(batch: int, steps: int, width: int) -> Case:
    """h <- a h + b: the loop by hand, the cell compiled both ways, and the runtime's scan alone."""
    scan, sequential = compiled(rnnc.parse(DECAY), "Decay", (None, "sequential"), n=width)
    start = torch.zeros(batch, width)
    return Case(
        name=f"h <- a h + b [{batch}, {steps}, {width}]",
        inputs=[torch.rand(batch, steps, width), torch.randn(batch, steps, width)],
        runners={
            "loop by hand": Runner(run=lambda a, b: hand_loop(a, b, start)),
            "compiled, sequential": layer(sequential),
            "compiled, scan": layer(scan),
            "runtime's scan": Runner(run=lambda a, b: linear_scan(a, b, start)),
        },
        promise=("compiled, scan", 5.0) if steps >= 4096 and batch * width <= 1024 else None,
    )


def mingru_case(batch: int, steps: int, width: int) -> Case:
    """MinGRU with its two projections, which cost the same in every competitor."""
    scan, sequential = compiled(rnnc.stdlib("mingru"), "MinGRU", (None, "sequential"), d=width)

    own = dict(scan.named_parameters())

    def by_hand(x: Tensor) -> Tensor:
        z = torch.sigmoid(F.linear(x, own["z_linear_weight"], own["z_linear_bias"]))
        c = F.linear(x, own["c_linear_weight"], own["c_linear_bias"])
        h, states = x.new_zeros(batch, width), []
        for z_t, c_t in zip(z.unbind(1), c.unbind(1), strict=True):
            h = torch.lerp(h, c_t, z_t)
            states.append(h)
        return torch.stack(states, 1)

    def projections(x: Tensor) -> Tensor:
        z, c = (F.linear(x, own[f"{k}_linear_weight"], own[f"{k}_linear_bias"]) for k in "zc")
        return torch.stack((z[:, -1], c[:, -1]))  # what is read of them costs nothing; their gradients are whole

    return Case(
        name=f"MinGRU [{batch}, {steps}, {width}]",
        inputs=[torch.randn(batch, steps, width)],
        runners={
            "loop by hand": Runner(run=by_hand, parameters=list(scan.parameters())),
            "compiled, sequential": layer(sequential),
            "compiled, scan": layer(scan),
            "the projections alone": Runner(run=projections, parameters=list(scan.parameters()), part=True),
        },
        promise=("compiled, scan", 5.0) if width <= 64 else None,
    )


def rotation_case(batch: int, steps: int, width: int) -> Case:
    """Two coupled states: a scan over 2 x 2 matrices."""
    blocks, sequential = compiled(rnnc.parse(ROTATION), "Rotation", (None, "sequential"), n=width)
    size = (batch, steps, width)
    return Case(
        name=f"two coupled states [{batch}, {steps}, {width}]",
        inputs=[torch.rand(size), torch.rand(size), torch.randn(size)],
        runners={"compiled, sequential": layer(sequential), "compiled, block_scan": layer(blocks)},
    )


def gated_delta_inputs(batch: int, steps: int, heads: int, keys: int) -> list[Tensor]:
    """q, k, v [B, T, heads, keys], the logarithm of the decay and beta [B, T, heads]."""
    size = (batch, steps, heads)
    q, k, v = (torch.randn(*size, keys) for _ in range(3))
    return [F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, -0.1 * torch.rand(size), torch.rand(size)]


def gated_delta_peer() -> Runner:
    """The chunked fallback that transformers runs on a CPU."""
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    def fallback(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        return torch_chunk_gated_delta_rule(q, k, v, g, beta, output_final_state=True)[0]  # type: ignore[no-any-return]

    return Runner(run=fallback)


def gated_delta_case(batch: int, steps: int, heads: int, keys: int) -> Case:
    """The gated delta rule against the chunked fallback that transformers runs on a CPU."""
    (module,) = compiled(rnnc.stdlib("gated_deltanet"), "GatedDeltaOp", (None,), heads=heads, dk=keys, dv=keys)
    return Case(
        name=f"gated delta rule [{batch}, {steps}, {heads} heads, {keys}]",
        inputs=gated_delta_inputs(batch, steps, heads, keys),
        runners={
            "transformers": gated_delta_peer(),
            "compiled, chunkwise": Runner(run=lambda q, *rest: module(q * keys**-0.5, *rest)[0]),
        },
        promise=("compiled, chunkwise", 1.0),
    )


class CellLoop(nn.Module):
    """A layer made of PyTorch's own cell and a Python loop, with the weights of a whole layer."""

    def __init__(self, whole: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        kind = nn.LSTMCell if isinstance(whole, nn.LSTM) else nn.GRUCell
        self.cell = kind(whole.input_size, whole.hidden_size)
        names = {name: getattr(whole, f"{name}_l0") for name in self.cell.state_dict()}
        self.cell.load_state_dict(names)

    def forward(self, x: Tensor) -> tuple[Tensor, Any]:
        state, outputs = None, []
        for x_t in x.unbind(1):
            state = self.cell(x_t, state)
            outputs.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(outputs, 1), state


def copy_weights(whole: nn.LSTM | nn.GRU, module: nn.Module) -> None:
    """PyTorch's stacked weights into the maps of the standard library's cell; both biases of a gate are one where the
    cell has one."""
    gates = "ifgo" if isinstance(whole, nn.LSTM) else "rzc"
    own, theirs = dict(module.named_parameters()), dict(whole.named_parameters())
    with torch.no_grad():
        for k, gate in enumerate(gates):
            rows = slice(k * whole.hidden_size, (k + 1) * whole.hidden_size)
            own[f"{gate}_linear_weight"].copy_(theirs["weight_ih_l0"][rows])
            own[f"{gate}_linear_2_weight"].copy_(theirs["weight_hh_l0"][rows])
            inner = own.get(f"{gate}_linear_2_bias")
            bias = theirs["bias_ih_l0"][rows] + (0 if inner is not None else theirs["bias_hh_l0"][rows])
            own[f"{gate}_linear_bias"].copy_(bias)
            if inner is not None:
                inner.copy_(theirs["bias_hh_l0"][rows])


def nonlinear_case(kind: str, batch: int, steps: int, width: int) -> Case:
    """LSTM and GRU have no parallel form yet: one step after another, against PyTorch's cell and its fused layer."""
    whole = (nn.LSTM if kind == "LSTM" else nn.GRU)(width, width, batch_first=True)
    (module,) = compiled(rnnc.stdlib(kind.lower()), kind, (None,), d=width)
    copy_weights(whole, module)
    return Case(
        name=f"{kind} [{batch}, {steps}, {width}]",
        inputs=[torch.randn(batch, steps, width)],
        runners={
            f"nn.{kind}Cell in a loop": layer(CellLoop(whole)),
            f"nn.{kind}": layer(whole),
            "compiled, sequential": layer(module),
        },
    )


def cases() -> Iterator[Callable[[], Case]]:
    yield lambda: gated_delta_case(2, 1024, 4, 64)
    yield lambda: gated_delta_case(1, 4096, 4, 64)
    yield lambda: decay_case(2, 4096, 64)
    yield lambda: decay_case(4, 4096, 256)
    yield lambda: decay_case(4, 1024, 1024)
    yield lambda: decay_case(4, 64, 256)
    yield lambda: mingru_case(2, 4096, 64)
    yield lambda: mingru_case(4, 4096, 128)
    yield lambda: rotation_case(2, 1024, 64)
    yield lambda: nonlinear_case("LSTM", 16, 128, 256)
    yield lambda: nonlinear_case("GRU", 16, 128, 256)


def verify(case: Case) -> dict[str, float]:
    """Values and gradients of the inputs against the peer's; nothing is timed before they agree."""
    found: dict[str, list[Tensor]] = {}
    weight = None
    for name, runner in case.runners.items():
        if runner.part:
            continue
        inputs = [x.detach().requires_grad_() for x in case.inputs]
        y = runner.run(*inputs)
        if not case.differentiated:
            found[name] = [y.detach()]
            continue
        weight = torch.randn_like(y) if weight is None else weight
        found[name] = [y.detach(), *torch.autograd.grad(y, inputs, weight)]
    peer = next(iter(found.values()))
    errors = {name: max(map(relative_error, values, peer)) for name, values in found.items()}
    for name, error in errors.items():
        if not error < case.bound:
            raise SystemExit(f"{case.name}: {name} is wrong by {error:.1e}, allowed {case.bound:.0e}")
    return errors


def time_case(case: Case, rounds: int) -> dict[str, dict[str, Timing]]:
    inputs = [x.detach().requires_grad_() for x in case.inputs]

    def forward(runner: Runner) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return runner.run(*inputs)

        return run

    def both(runner: Runner) -> Callable[[], object]:
        wanted = [*inputs, *runner.parameters]

        def run() -> object:
            y = runner.run(*inputs)
            return torch.autograd.grad(y, wanted, torch.ones_like(y))

        return run

    peer = next(iter(case.runners))
    directions = (("forward", forward), ("forward + backward", both))
    return {
        direction: interleaved({n: make(r) for n, r in case.runners.items()}, baseline=peer, rounds=rounds)
        for direction, make in directions[: 1 + case.differentiated]
    }


def judge(case: Case, timings: Mapping[str, Mapping[str, Timing]]) -> list[dict[str, Any]]:
    """Whether promises are kept."""
    promised = list(case.also) if case.promise is None else [(case.direction, *case.promise), *case.also]
    peer = next(iter(case.runners))
    found = [(d, name, peer, least, timings[d][name].speedup) for d, name, least in promised]
    if case.near is not None:
        rows = timings[case.direction]
        best = max(rows, key=lambda name: rows[name].speedup)
        ratio = round(rows[case.near].speedup / rows[best].speedup, 3)
        found.append((case.direction, case.near, f"the best, {best}", NEAR, ratio))
    return [
        {"direction": d, "of": name, "against": against, "least": least, "found": ratio, "kept": ratio >= least}
        for d, name, against, least, ratio in found
    ]


def show(case: Case, errors: Mapping[str, float], timings: Mapping[str, Mapping[str, Timing]]) -> None:
    agree = f"values and gradients agree within {max(errors.values()):.0e}" if len(errors) > 1 else "nothing to compare"
    print(f"\n{case.name}  ({agree})")
    for direction, rows in timings.items():
        for name, t in rows.items():
            times = "{:8.2f} ms [{:7.2f}, {:7.2f}]".format(t.median_ms, *t.quartiles_ms)
            ratios = "x{:5.2f} [{:.2f}, {:.2f}]".format(t.speedup, *t.speedup_quartiles)
            print(f"  {direction:18s} {name:22s} {times}  processor {t.processor_ms:8.2f}  {ratios}")


def verdict_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """All promises with what was found, pass or fail."""
    lines = []
    for row in rows:
        for v in row["promises"]:
            word = "pass" if v["kept"] else "FAIL"
            what = f"{row['case']}, {v['direction']}"
            against = f"{v['of']} against {v['against']}"
            lines.append(f"{word}  {what:72s} {against:44s} x{v['found']:<7.2f} (at least x{v['least']:.2f})")
    return "\n".join(lines)


def main() -> None:
    run_cases(__doc__ or "", "foundation", cases())


def run_cases(
    description: str, name: str, makers: Iterator[Callable[[], Case]], flags: Mapping[str, str] | None = None
) -> None:
    """Verify and time each case, show it, write the JSON record.  `flags` are shown in the help: whoever calls this has
    read them.
    """
    p = parser(description, name)
    for flag, text in (flags or {}).items():
        p.add_argument(flag, action="store_true", help=text)
    p.add_argument("--only", default="", help="cases whose name contains this")
    p.add_argument("--strict", action="store_true", help="fail where a promise is not kept")
    options = p.parse_args()
    torch.set_num_threads(options.threads)
    before = machine()
    rows, broken = [], []
    for k, make in enumerate(makers):
        torch.manual_seed(k)
        case = make()
        if options.only not in case.name:
            continue
        errors = verify(case)
        timings = time_case(case, min(max(options.rounds, case.least_rounds), case.most_rounds))
        show(case, errors, timings)
        verdicts = judge(case, timings)
        for v in verdicts:
            word = "kept" if v["kept"] else "NOT KEPT"
            promised = f"{v['direction']} at least x{v['least']:.2f} against {v['against']}"
            print(f"  promised: {promised}; found x{v['found']:.2f}: {word}")
            broken += [case.name] if not v["kept"] else []
        for note, value in case.notes.items():
            print(f"  {note}: {value:.2f}")
        rows.append(
            {"case": case.name, "errors": errors, "timings": timings, "promises": verdicts, "notes": case.notes}
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"machine": before, "cases": rows}, indent=1, default=asdict) + "\n")
    print(f"\n{verdict_table(rows)}\n\nwritten to {options.output}")
    if broken and options.strict:
        raise SystemExit(f"not kept: {', '.join(broken)}")


if __name__ == "__main__":
    main()
