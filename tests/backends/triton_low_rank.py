"""Cases of triton_interpreted.py for delta rules and their kin: the operator alone, and cells written in odd ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch_support as support
import triton_buffers as buffers
from torch import Tensor

from rnnc.runtime.chunk import MicroStep, Read, Update, matrix_scan
from rnnc.runtime.gpu import low_rank, low_rank_operator, low_rank_tuning, tuner

WIDE = torch.float64
HEAD = "input q: real[n]\n  input k: unit[n]\n  input v: real[m]\n  input beta: real in [0, 2]\n"
CELLS = {  # a body each, of a cell with dims n and m
    "subtracted": HEAD + "  state S: real[n, m] = 0\n  S <- S - beta * outer(k, S.T @ k) + outer(k, v)\n"
    "  output y: real[m] = S'.T @ q",
    "transposed": HEAD + "  state S: real[m, n] = 0\n  S <- S @ (I - beta * outer(k, k)) + beta * outer(v, k)\n"
    "  output y: real[m] = S' @ q",
    "two keys": HEAD + "  input p: unit[n]\n  state S: real[n, m] = 0\n"
    "  S <- S - outer(k, S.T @ k) - beta * outer(p, S.T @ p) + outer(k, v)\n  output y: real[m] = S.T @ q",
    "other write": HEAD + "  input p: unit[n]\n  input w: real[m]\n  state S: real[n, m] = 0\n"
    "  S <- 0.9 * S - 0.5 * beta * outer(k, S.T @ k) + outer(p, v) + outer(k, w)\n  output y: real[m] = S'.T @ q",
    "asymmetric": HEAD + "  input a: unit[n]\n  state S: real[m, n] = 0\n"
    "  S <- 0.8 * S - outer(S @ a, 0.5 * beta * k) + outer(v, k)\n  output y: real[m] = S' @ q",
    "momentum": HEAD + "  state S: real[n, m] = 0\n  S <- S - beta * outer(k, 0.5 * (S.T @ k) - v)\n"
    "  output y: real[m] = S'.T @ q",
    "forgotten keys": HEAD + "  input f: real[n]\n  state S: real[n, m] = 0\n"
    "  S <- (I - beta * outer(k, k)) @ diag(sigmoid(f)) @ S + beta * outer(k, v)\n  output y: real[m] = S'.T @ q",
    "two directions": HEAD + "  input f: real[n]\n  input a: real[n]\n  state S: real[m, n] = 0\n"
    "  S <- S @ (diag(exp(-exp(-0.5) * sigmoid(f))) - outer(k, sigmoid(a) * k)) + outer(v, k)\n"
    "  output y: real[m] = S' @ q",
    "forgotten twice": HEAD + "  input f: real[n]\n  input p: unit[n]\n  state S: real[n, m] = 0\n"
    "  S <- (I - outer(p, p)) @ (I - beta * outer(k, k)) @ diag(sigmoid(f)) @ S + outer(p, v)\n"
    "  output y: real[m] = S'.T @ q",
    "read twice": HEAD + "  state S: real[n, m] = 0\n  S <- S - beta * outer(k, S.T @ k - v)\n"
    "  output y: real[m] = S'.T @ q\n  output z: real[m] = S.T @ q",
}
STEP_BY_STEP = {  # not served by chunkwise kernels: decays without logarithms, which may be negative or exactly zero
    "decay of keys by value": HEAD + "  input w: real[n] in (0, 1)\n  state S: real[n, m] = 0\n"
    "  S <- diag(w) @ S - beta * outer(k, S.T @ k) + beta * outer(k, v)\n  output y: real[m] = S'.T @ q",
    "signed decay": HEAD + "  input a: real\n  state S: real[n, m] = 0\n"
    "  S <- 0.5 * a * (S - beta * outer(k, S.T @ k)) + beta * outer(k, v)\n  output y: real[m] = S'.T @ q",
}


def cell(name: str) -> str:
    return f"cell Own(n: dim, m: dim) {{\n  {(CELLS | STEP_BY_STEP)[name]}\n}}\n"


def unit(*shape: int) -> Tensor:
    x = torch.randn(*shape, dtype=WIDE)
    return (x / x.norm(dim=-1, keepdim=True)).requires_grad_()


def plain(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=WIDE).requires_grad_()


class Problem:
    """Random steps of a kind, with what they are made of, for sequences [batch, steps, *per]."""

    def __init__(self, batch: int, steps: int, *per: int, keys: int = 5, values: int = 7) -> None:
        torch.manual_seed(steps)
        self.lead, self.per, self.keys, self.values = (batch, steps, *per), per, keys, values
        self.state, self.q = plain(batch, *per, keys, values), plain(*self.lead, keys)
        self.leaves = [self.state, self.q]

    def kept(self, *xs: Tensor) -> Any:
        self.leaves += xs
        return xs[0] if len(xs) == 1 else xs

    def gates(self, *, mild: bool = False) -> Tensor:
        """Log decays of each key; some are one, nearly zero and zero, or, mild, none is far from one."""
        g = (torch.rand(*self.lead, self.keys, dtype=WIDE) * (0.2 if mild else 1)).neg()
        if not mild:
            strange = torch.tensor((0.0, -120.0, -torch.inf)).repeat(self.keys)[: self.keys]
            g[:, 3::7] = strange.to(g)
        return self.kept(g.requires_grad_())  # type: ignore[no-any-return]

    def delta(self, *, gate: bool = True, tied: bool = True, keyed: Tensor | None = None) -> MicroStep:
        k, v = self.kept(unit(*self.lead, self.keys), plain(*self.lead, self.values))
        beta = self.kept((2 * torch.rand(self.lead, dtype=WIDE)).requires_grad_())
        b = k if tied else self.kept(unit(*self.lead, self.keys))
        if keyed is not None:
            return MicroStep(log_decay=keyed, updates=(Update(k, v, b, -1, s=beta),))
        if not gate:
            return MicroStep(updates=(Update(k, v, b, -1, s=beta),))
        g = torch.rand(self.lead, dtype=WIDE).neg()
        g[:, 3:5] = torch.tensor((0.0, -120.0))[: g[:, 3:5].shape[1], *[None] * len(self.per)]  # no decay, all of it
        self.kept(g.requires_grad_())
        return MicroStep(log_decay=g, updates=(Update(k, v, b, -g.exp(), s=beta),))

    def mixed(self, *, reading: bool, keyed: bool = False) -> MicroStep:
        """A low-rank term, a write with another key, and perhaps a second update that reads the state."""
        a, b, u = self.kept(*(unit(*self.lead, self.keys) for _ in range(3)))
        v = self.kept(plain(*self.lead, self.values))
        g = self.gates() if keyed else self.kept(torch.rand(self.lead, dtype=WIDE).neg().requires_grad_())
        extra = Update(self.kept(unit(*self.lead, self.keys)), v, u, -0.3) if reading else None  # no number of float32
        return MicroStep(log_decay=g, low_rank=((a, b),), writes=((u, v),), updates=(extra,) if extra else ())

    def check(self, steps: list[MicroStep], *whens: Any, least: float | None = None) -> None:
        """Outputs, last state and all gradients are those of `rnnc.runtime.matrix_scan`."""
        reads = [Read(self.q, when) for when in whens or ("new",)]
        reads[1:] = [Read(self.kept(plain(*self.lead, self.keys)), r.when) for r in reads[1:]]
        weights = torch.randn(len(reads), *self.lead, self.values, dtype=WIDE), torch.randn_like(self.state)
        found = []
        for scan in (matrix_scan, lambda *given: low_rank.scan(*given, least=least)):
            assert low_rank.served(self.state, steps, reads, False)
            o, last = scan(self.state, steps, reads)
            loss = (torch.stack(o) * weights[0]).sum() + (last * weights[1]).sum()
            found.append([*o, last, *torch.autograd.grad(loss, self.leaves, retain_graph=True)])
        errors = [support.error(a, b.detach()) for b, a in zip(*found, strict=True)]
        assert max(errors) < 1e-9, errors


def gated(when: str, tied: bool) -> None:
    p = Problem(1, 70, 2) if tied else Problem(1, 67)
    p.check([p.delta(tied=tied)], when)


def products(when: str) -> None:
    """Three rows a step, so that chunks of 64 rows begin and end inside of steps; the first one decays."""
    p = Problem(1, 43)
    p.check([p.delta(), p.delta(gate=False), p.delta(gate=False)], when)


def mixed(reading: bool) -> None:
    p = Problem(1, 25, 2)
    p.check([p.mixed(reading=reading)], "old" if reading else "new")


def keyed(when: str, *, mild: bool) -> None:
    """A decay for each key: chunks that are one product, and chunks by halves with gates of zero in them."""
    p = Problem(1, 35 if mild else 67)
    p.check([p.delta(keyed=p.gates(mild=mild))], when)


def keyed_products(when: str) -> None:
    """Three rows a step; the first alone decays, or every one."""
    p = Problem(1, 23, keys=3)
    p.check([p.delta(keyed=p.gates()), p.delta(gate=False), p.delta(gate=False)], when)
    p = Problem(1, 9, keys=3)
    p.check([p.delta(keyed=p.gates()), p.delta(), p.delta(keyed=p.gates())], when)


def keyed_proven() -> None:
    """A proven bound of the gates: blocks of 64, 16 and 2 rows are one product each."""
    for least in (-0.2, -8.0, -50.0):
        p = Problem(1, 19)
        p.check([p.delta(keyed=p.gates(mild=True))], "new" if least < -8 else "old", least=least)


def keyed_mixed(reading: bool) -> None:
    """The low-rank term of RWKV-7, whose vectors differ, with a write in another direction; and rank two."""
    for when in ("old", "new"):
        p = Problem(1, 17)
        p.check([p.mixed(reading=reading, keyed=True)], when)


@contextmanager
def way(**changed: Any) -> Iterator[None]:
    """Configurations with something set."""
    kept = low_rank_tuning.default_way
    low_rank_tuning.default_way = lambda *given: replace(kept(*given), **changed)
    yield
    low_rank_tuning.default_way = kept


def scores_beforehand() -> None:
    """Where registers are few, scores come from a kernel of their own."""
    with way(scored=True):
        for when in ("old", "new"):
            p = Problem(1, 37)
            p.check([p.delta(), p.delta(gate=False)], when)
        p = Problem(1, 19)
        p.check([p.mixed(reading=True)])


def every_way() -> None:
    """All configurations that a tuner would measure are run, and the last of them is the oracle."""
    ways: list[Any] = []

    def timer(run: Callable[[], object]) -> float:
        run()
        ways.append(run)
        return -float(len(ways))

    tuner.TUNER, kept = tuner.Tuner(timer=timer, folder=lambda: None, always=True), tuner.TUNER
    try:
        for keyed in (False, True):
            p = Problem(1, 2, keys=3, values=17)
            p.check([p.delta(keyed=p.gates() if keyed else None)])
        known = tuner.TUNER.known
    finally:
        tuner.TUNER = kept
    assert len(ways) >= 4 * 4  # forward and backward: the walks, and the kernels over all chunks
    tuned = {name for key in known for name in key if isinstance(name, str) and name.startswith("low_rank_")}
    assert tuned >= {"low_rank_backward", "low_rank_inverse", "low_rank_products"}, tuned


def several_reads() -> None:
    p = Problem(1, 19)
    p.check([p.delta()], "new", "old", "new")


def single_precision() -> None:
    """float32, in chunks of 16 rows."""
    for gate in (False, True):
        p = Problem(1, 37, 2)
        step = p.delta(keyed=p.gates()) if gate else p.delta()
        leaves = [x.detach().float().requires_grad_() for x in p.leaves]
        found = []
        for wide in (True, False):
            own = [x.double() if wide else x for x in leaves]
            at = dict(zip(map(id, p.leaves), own, strict=True))
            given = [_as(step, at)]
            (o,), last = (matrix_scan if wide else low_rank.scan)(own[0], given, [Read(own[1])])
            loss = o.double().square().sum() + last.double().square().sum()
            found.append([o, last, *torch.autograd.grad(loss, leaves)])
        errors = [support.error(a.double(), b.detach().double()) for b, a in zip(*found, strict=True)]
        assert max(errors) < 16 * torch.finfo(torch.float32).eps, errors


def _as(step: MicroStep, at: dict[int, Tensor]) -> MicroStep:
    """A step with other leaves."""
    of = lambda x: at.get(id(x), x.exp() if isinstance(x, Tensor) else x)  # noqa: E731
    (x,) = step.updates
    assert isinstance(step.log_decay, Tensor)
    g = at[id(step.log_decay)]
    c = -g.exp() if isinstance(x.c, Tensor) else x.c
    return MicroStep(log_decay=g, updates=(Update(of(x.u), of(x.v), of(x.b), c, s=of(x.s)),))


def outputs_apart() -> None:
    """Where few heads do not fill a GPU, all chunks' outputs are found at once."""
    with way(fused=False):
        for when in ("old", "new"):
            p = Problem(1, 37)
            p.check([p.delta(), p.delta(gate=False)], when)
        p = Problem(1, 67)
        p.check([p.delta(keyed=p.gates())])


def short() -> None:
    p = Problem(1, 1, 1, 3, keys=3, values=2)
    p.check([p.delta(), p.delta(gate=False)])
    p = Problem(2, 0, 3)
    (o,), last = low_rank.scan(p.state, [p.delta()], [Read(p.q)])
    assert o.shape == (2, 0, 3, 7)
    assert torch.equal(last, p.state)
    (d_state,) = torch.autograd.grad(last.sum(), [p.state])
    assert torch.equal(d_state, torch.ones_like(d_state))


def grouped() -> None:
    """Value heads that share keys and gates: the kernels take them by strides, and nothing is copied."""
    p = Problem(1, 9, 2, 3)
    k, v = unit(1, 9, 2, 1, 5), plain(1, 9, 2, 3, 7)
    beta, g = torch.rand(1, 9, 2, 1, dtype=WIDE).requires_grad_(), torch.rand(2, 1, dtype=WIDE).neg().requires_grad_()
    p.q = plain(1, 9, 2, 1, 5)
    p.leaves = [p.state, p.q, k, v, beta, g]
    p.check([MicroStep(log_decay=g, updates=(Update(k, v, k, -g.exp(), s=beta),))])
    h = torch.rand(1, 9, 2, 1, 5, dtype=WIDE).neg().requires_grad_()
    p.leaves = [p.state, p.q, k, v, beta, h]
    p.check([MicroStep(log_decay=h, updates=(Update(k, v, k, -1, s=beta),))])


def packed(keyed: bool) -> None:
    """Sequences of 70, 0 and 5 steps in one row, two rows a step: the same as one by one."""
    lengths = (70, 0, 5)
    p = Problem(1, sum(lengths))
    steps = [p.delta(keyed=p.gates()) if keyed else p.delta(), p.delta(gate=False)]
    start = plain(len(lengths), p.keys, p.values)
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    (o,), last = low_rank.scan(start, steps, [Read(p.q)], bounds=bounds)
    weights = torch.randn_like(o), torch.randn_like(last)
    inputs = [start, *p.leaves[1:]]
    loss = (o * weights[0]).sum() + (last * weights[1]).sum()
    got = [o, last, *torch.autograd.grad(loss, inputs, retain_graph=True)]
    outputs, lasts, loss = [], [], torch.zeros((), dtype=WIDE)
    for i, (a, b) in enumerate(zip(bounds.tolist(), bounds[1:].tolist())):
        cut = [_cut(step, a, b) for step in steps]
        (o,), last = matrix_scan(start[i : i + 1], cut, [Read(p.q[:, a:b])])
        outputs.append(o)
        lasts.append(last)
        loss = loss + (o * weights[0][:, a:b]).sum() + (last * weights[1][i : i + 1]).sum()
    want = [torch.cat(outputs, 1), torch.cat(lasts), *torch.autograd.grad(loss, inputs)]
    errors = [support.error(a, b.detach()) for a, b in zip(got, want, strict=True)]
    assert max(errors) < 1e-9, errors


def _cut(step: MicroStep, a: int, b: int) -> MicroStep:
    at = lambda x: x[:, a:b] if isinstance(x, Tensor) else x  # noqa: E731
    updates = tuple(Update(*map(at, x)) for x in step.updates)
    return MicroStep(log_decay=at(step.log_decay), updates=updates)


def registered() -> None:
    """PyTorch's own checks, with zeros in the buffers: they are compared; and the same bits twice."""
    p = Problem(1, 3, 2, 1, keys=3, values=2)
    k, v, q = unit(1, 3, 1, 2, 1, 3), plain(1, 3, 1, 2, 1, 2), plain(1, 3, 2, 1, 3)
    s, c, g = (torch.rand(1, 3, 1, 2, 1, dtype=WIDE).neg().requires_grad_() for _ in "scg")
    start = p.state
    with buffers.taken(buffers.zeros):
        torch.library.opcheck(low_rank_operator.low_rank_scan, (q, k, None, v, s, c, g, start, None, 1, False, 1))


def traced() -> None:
    """`torch.compile` with fullgraph and `torch.export` keep the scan as one node."""
    p = Problem(1, 5)
    step = p.delta(gate=False)

    class Layer(torch.nn.Module):
        def forward(self, state: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> Any:
            (o,), last = low_rank.scan(state, [MicroStep(updates=(Update(k, v, k, -1, s=beta),))], [Read(q)])
            return o, last

    (update,) = step.updates
    given = tuple(x.detach() for x in (p.state, p.q, update.u, update.v, update.s))  # type: ignore[union-attr]
    want = Layer()(*given)
    found = torch.compile(Layer(), fullgraph=True, backend="eager")(*given)
    exported = torch.export.export(Layer(), given)
    assert sum("low_rank_scan" in str(n.target) for n in exported.graph.nodes) == 1
    for got in (found, exported.module()(*given)):
        assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def half_precision() -> None:
    """bfloat16 and float16 in and out, with a state, sums and the inverse in float32; the same bits twice."""
    for dtype, keyed in (
        (torch.bfloat16, False),
        (torch.float16, False),
        (torch.bfloat16, True),
        (torch.float16, True),
    ):
        p = Problem(1, 40, keys=8, values=8)
        g = p.gates().detach().to(dtype) if keyed else None
        leaves = [x.detach().to(dtype).requires_grad_() for x in (p.state, p.q, unit(1, 40, 8), plain(1, 40, 8))]
        found = []
        for scan, wide in ((matrix_scan, WIDE), (low_rank.scan, dtype), (low_rank.scan, dtype)):
            state, q, k, v = (x.to(wide) for x in leaves)
            (o,), last = scan(
                state,
                [MicroStep(log_decay=None if g is None else g.to(wide), updates=(Update(k, v, k, -1),))],
                [Read(q)],
            )
            assert o.dtype == last.dtype == wide
            loss = o.double().square().sum() + last.double().square().sum()
            found.append([o, last, *torch.autograd.grad(loss, leaves)])
        errors = [support.error(a.double(), b.detach().double()) for b, a in zip(*found[:2], strict=True)]
        assert max(errors) < 8 * torch.finfo(dtype).eps, errors
        assert all(torch.equal(a, b) for a, b in zip(*found[1:], strict=True))


def wide_state() -> None:
    """Vectors in bfloat16, a state and numbers in float32: products have the vectors' dtype, results are float32."""
    p = Problem(1, 40, keys=8, values=8)
    beta, g = torch.rand(1, 40), torch.rand(1, 40).neg()
    low = (p.q, unit(1, 40, 8), plain(1, 40, 8))
    leaves = [p.state.detach().float(), *(x.detach().bfloat16() for x in low), beta, g]
    leaves = [x.requires_grad_() for x in leaves]
    found = []
    for scan, wide in ((matrix_scan, WIDE), (low_rank.scan, None)):
        state, q, k, v, s, decay = (x.to(wide) if wide else x for x in leaves)
        step = MicroStep(log_decay=decay, updates=(Update(k, v, k, -decay.exp(), s=s),))
        (o,), last = scan(state, [step], [Read(q)])
        assert o.dtype == last.dtype == (wide or torch.float32)
        found.append([o, last, *torch.autograd.grad(o.square().sum() + last.square().sum(), leaves)])
    errors = [support.error(b.double(), a.detach().double()) for a, b in zip(*found, strict=True)]
    assert 0.1 < max(errors) / torch.finfo(torch.bfloat16).eps < 8, errors


CASES: dict[str, Callable[[], None]] = {
    "gated delta rule": lambda: gated("new", True),
    "gated delta rule, old reads": lambda: gated("old", True),
    "delta rule, two keys": lambda: gated("new", False),
    "products": lambda: products("new"),
    "products, old reads": lambda: products("old"),
    "a low-rank term and a write": lambda: mixed(False),
    "rank two": lambda: mixed(True),
    "outputs apart": outputs_apart,
    "scores beforehand": scores_beforehand,
    "every way": every_way,
    "short sequences": short,
    "grouped values": grouped,
    "packed delta rules": lambda: packed(False),
    "packed decays of keys": lambda: packed(True),
    "a decay for each key": lambda: keyed("new", mild=False),
    "a decay for each key, old reads": lambda: keyed("old", mild=False),
    "mild decays of keys": lambda: keyed("new", mild=True),
    "mild decays of keys, old reads": lambda: keyed("old", mild=True),
    "decays of keys and products": lambda: keyed_products("new"),
    "decays of keys and products, old reads": lambda: keyed_products("old"),
    "proven decays of keys": keyed_proven,
    "decays of keys and a write": lambda: keyed_mixed(False),
    "decays of keys, rank two": lambda: keyed_mixed(True),
    "several reads of a delta rule": several_reads,
    "delta rule, float32": single_precision,
    "low-rank operator": registered,
    "traced delta rule": traced,
    "delta rule, half precision": half_precision,
    "delta rule, a wide state": wide_state,
}
MODULES = ("DeltaNet", "GatedDeltaNet", "DeltaProduct")
SLOW = (
    *("a decay for each key, old reads", "mild decays of keys", "decays of keys and products, old reads"),
    *("proven decays of keys", "decays of keys, rank two", "forgotten twice", "read twice", "packed delta rules"),
    *("products, old reads", "delta rule, two keys", "other write", "momentum", "signed decay"),
)
