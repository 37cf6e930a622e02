"""Compiled layers are good PyTorch citizens: compile, export, autocast, torch.func, copies, pickles, dtypes."""

from __future__ import annotations

import copy
import linecache
import pickle
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch_support as support

import rnnc
import rnnc.spec
from rnnc.diagnostics import SpecError

COUPLED = """
cell Swing(d: dim, n: dim = 4) {
  input x: real[d]
  param start: real[n] init normal(1)
  state p: real[n] = start
  state v: real[n] = 0
  let k = sigmoid(linear[n](x))
  p <- p + 0.1 * v
  v <- 0.9 * v - k * p + linear(x)
  output y: real[d] = linear(p')
  output energy: real = sum(p' * p + v' * v')
}
"""
ROTOR = """
cell Rotor(d: dim) {
  input x: real[d]
  param theta: real[d] init uniform(0, 3)
  param B: complex[d]
  state z: complex[d] = 0
  z <- polar(0.95, theta) * z + B * x
  output y: real[d] = re(z') + im(z') * prev(x, 2)
}
"""
SOURCES = {"Swing": COUPLED, "Rotor": ROTOR}
STDLIB = ("gated_deltanet", "gru", "mingru", "lru", "mlstm", "retnet")
ALL = (*STDLIB, *SOURCES)


@cache
def compiled(name: str, strategy: str | None = None) -> Any:
    spec = rnnc.parse(SOURCES[name]) if name in SOURCES else rnnc.stdlib(name)
    return rnnc.compile(spec, spec.cells[0], strategy=strategy)


def layer_of(name: str, strategy: str | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    cls = compiled(name, strategy)
    return cls(**support.small_dims(cls.recurrence.cell), **options)


def example(steps: int = 12) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, steps, 8)


def loss_of(result: Any) -> torch.Tensor:
    """A real number that depends on every output and every state."""
    total = torch.zeros(())
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, tuple):
            total = total + loss_of(part)
        elif isinstance(part, dict):
            total = total + sum((v.abs().square().sum() for v in part.values()), torch.zeros(()))
        else:
            total = total + part.abs().square().sum()
    return total


def gradients(layer: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    layer.zero_grad()
    loss_of(layer(x)).backward()
    return {k: p.grad.clone() for k, p in layer.named_parameters() if p.grad is not None}


def same(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    if isinstance(a, torch.Tensor):
        support.assert_close(a, b, tolerance)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for k in a:
            same(a[k], b[k], tolerance)
    else:
        assert len(a) == len(b)
        for u, v in zip(a, b):
            same(u, v, tolerance)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # raised inside torch.compile
@pytest.mark.parametrize("name", ALL)
def test_torch_compile(name: str) -> None:
    """One graph, forward and backward, with the numbers of the eager module."""
    torch._dynamo.reset()
    layer, x = layer_of(name), example()
    fast = torch.compile(layer, fullgraph=True, backend="aot_eager_decomp_partition")
    same(fast(x), layer(x))
    want = gradients(layer, x)
    layer.zero_grad()
    loss_of(fast(x)).backward()
    same({k: p.grad for k, p in layer.named_parameters() if p.grad is not None}, want, 1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch.compile
def test_inductor() -> None:
    torch._dynamo.reset()
    layer, x = layer_of("mingru"), example()
    same(torch.compile(layer, fullgraph=True)(x), layer(x))


@pytest.mark.parametrize("name", ALL)
def test_torch_export(name: str) -> None:
    layer, x = layer_of(name), example()
    same(torch.export.export(layer, (x,)).module()(x), layer(x))

    class Step(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor, state: dict[str, torch.Tensor]) -> Any:
            return self.layer.step(x, state)

    state = {k: v.detach() for k, v in layer(x)[1].items()}
    same(torch.export.export(Step(), (x[:, 0], state)).module()(x[:, 0], state), layer.step(x[:, 0], state))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside torch.export
@pytest.mark.parametrize("name", ["lstm", "slstm"])
def test_export_with_an_open_length(name: str) -> None:
    """A loop over time is one operation of the program, for any number of steps, in both directions."""
    layer, x = rnnc.compile(rnnc.stdlib(name), backend="torch")(d=8), torch.randn(2, 5, 8)

    class Both(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> Any:
            return self.layer(x), self.layer(x, reverse=True)

    steps = torch.export.Dim("steps", min=2, max=4096)
    program = torch.export.export(Both(), (x,), dynamic_shapes={"x": {1: steps}}).module()
    for count in (2, 9):
        x = torch.randn(2, count, 8)
        for found, wanted in zip(program(x), Both()(x), strict=True):
            same(found, wanted)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("lru", "Rotor")])
def test_autocast(name: str) -> None:
    """Matmuls in bfloat16, states in float32, numbers near those in float32, and a backward pass."""
    layer, x = layer_of(name), example()
    want, _ = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, state = layer(x)
        y_step, state_step = layer.step(x[:, 0])
    own = {s.name for s in compiled(name).recurrence.cell.states}
    for values in (state, state_step):
        assert {k: v.dtype for k, v in values.items() if k in own} == dict.fromkeys(own, torch.float32)
    first, first_want = (v[0] if isinstance(v, tuple) else v for v in (y, want))
    assert torch.linalg.norm(first.float() - first_want) < 0.05 * torch.linalg.norm(first_want)
    del y_step
    loss_of((y, state)).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)


@pytest.mark.filterwarnings(
    "ignore:There is a performance drop:UserWarning"
)  # PyTorch has no batching rule for baddbmm_
@pytest.mark.parametrize("name", ALL)
def test_functional_call_grad_and_vmap(name: str) -> None:
    """Gradients of each sequence of a batch by `vmap(grad(...))` are those of the sequences one by one."""
    layer, x = layer_of(name), example(6)
    params = dict(layer.named_parameters())

    def loss(p: Any, one: torch.Tensor) -> torch.Tensor:
        return loss_of(torch.func.functional_call(layer, p, (one.unsqueeze(0),)))

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(params, x)
    for i in range(2):
        want = gradients(layer, x[i : i + 1])
        for k in want:
            support.assert_close(each[k][i], want[k], 1e-4)


@pytest.mark.parametrize("name", ALL)
def test_copies_are_the_layer(name: str) -> None:
    layer, x = layer_of(name), example()
    want = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        same(other(x), want, 1e-12)
    fresh = type(layer)(**support.small_dims(compiled(name).recurrence.cell))
    fresh.load_state_dict(layer.state_dict())
    same(fresh(x), want, 1e-12)
    assert pickle.loads(pickle.dumps(type(layer))) is type(layer)


def test_pickle_in_a_fresh_process(tmp_path: Path) -> None:
    """Nothing but the file and the package is needed to load a pickled layer."""
    layer, x = layer_of("gated_deltanet"), example()
    torch.save({"layer": layer, "x": x, "y": layer(x)[0]}, tmp_path / "layer.pt")
    code = (
        "import sys, torch; saved = torch.load(sys.argv[1], weights_only=False); "
        "assert torch.equal(saved['layer'](saved['x'])[0], saved['y']); print(type(saved['layer']).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "layer.pt")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "GatedDeltaNet", done.stderr


@pytest.mark.parametrize("name", ALL)
def test_dtypes_and_devices(name: str) -> None:
    """`.to(float64)` and construction in float64 agree; a meta module gets its values from `reset_parameters`."""
    layer, x = layer_of(name), example().double()
    double = copy.deepcopy(layer).to(torch.float64)
    built = layer_of(name, dtype=torch.float64)
    built.load_state_dict(double.state_dict())
    same(double(x), built(x), 1e-6)
    assert all(p.dtype in (torch.float64, torch.complex128) for p in double.parameters())
    meta = layer_of(name, device="meta")
    assert all(p.device.type == "meta" for p in meta.parameters())
    with torch.device("meta"):
        assert [v.shape for v in meta(torch.empty(2, 5, 8))[1].values()] == [
            v.shape for v in layer(x.float())[1].values()
        ]
    torch.manual_seed(3)
    empty = meta.to_empty(device="cpu")
    empty.reset_parameters()
    torch.manual_seed(3)
    layer.reset_parameters()
    same(empty(x.float()), layer(x.float()), 1e-6)


@pytest.mark.parametrize("name", ALL)
def test_state_carries_over(name: str) -> None:
    """Two halves with the state passed on are the whole."""
    layer, x = layer_of(name, dtype=torch.float64), example().double()
    whole, last = layer(x)
    first, state = layer(x[:, :5])
    second, final = layer(x[:, 5:], state)
    halves = [torch.cat(p, 1) for p in zip(*(v if isinstance(v, tuple) else (v,) for v in (first, second)))]
    same(halves, list(whole) if isinstance(whole, tuple) else [whole], 1e-10)
    same(final, last, 1e-10)


# ---------------------------------------------------------------- the class


@pytest.mark.parametrize(("size", "kind"), [(0, ValueError), (-3, ValueError), (2.5, TypeError), ("4", TypeError)])
def test_sizes_are_whole_and_positive(size: Any, kind: type[Exception]) -> None:
    layer = rnnc.compile(rnnc.stdlib("mingru"), backend="torch")
    for given in ({"d": size}, {"d": 3, "n": size}):
        with pytest.raises(kind, match="is a size"):
            layer(**given)
    with pytest.raises(kind, match="`d` is a size"):
        layer(size)
    assert layer(3, n=None).n == 3


@pytest.mark.parametrize("backend", ["torch", "cpu"])
@pytest.mark.parametrize("file", ["lstm", "mingru", "gated_deltanet"])
def test_what_would_be_broadcast_is_refused(file: str, backend: str) -> None:
    spec = rnnc.spec.stdlib(file)
    layer = rnnc.compile(spec, spec.cells[0], backend=backend)(d=8)
    x = torch.randn(2, 3, 8)
    _, one = layer(x[:1])
    with pytest.raises(ValueError, match="has batch size 1, and the inputs have 2"):
        layer(x, one)
    for wrong in (x[0], x.unsqueeze(2).expand(2, 3, 2, 8)):
        with pytest.raises(ValueError, match=r"this layer takes 3, \[batch, time"):
            layer(wrong)


def test_hyperparameters_choose_the_specialisation() -> None:
    spec = rnnc.stdlib("deltanet")
    cls = rnnc.compile(spec, "DeltaNet", reach=1)
    one, two = cls(d=8, heads=2), cls(d=8, heads=2, reach=2)
    assert type(one) is cls
    assert type(two) is not cls
    assert isinstance(two, cls)
    assert not isinstance(two, compiled("gru"))
    two.load_state_dict(one.state_dict())
    x = example()
    assert not torch.allclose(one(x)[0], two(x)[0])
    assert "2 * torch.sigmoid" in type(two).source
    assert "2 * torch.sigmoid" not in cls.source


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "8", None])
def test_hyperparameters_that_are_no_numbers(value: object) -> None:
    with pytest.raises(rnnc.SpecError, match="E0302"):
        rnnc.compile(rnnc.stdlib("rglru"), "RGLRU")(heads=2, w=4, c=value)


def test_sizes_given_at_compilation_are_defaults() -> None:
    cls = rnnc.compile(rnnc.stdlib("gru"), d=6)
    assert cls().d == 6
    assert cls(d=3).d == 3


def test_sizes_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"d has to be divisible by heads, not d = 9, heads = 2"):
        compiled("gated_deltanet")(d=9, heads=2)


def test_an_illegal_strategy_says_why() -> None:
    spec = rnnc.stdlib("gru")
    with pytest.raises(SpecError) as caught:
        rnnc.compile(spec, strategy="scan")
    (problem,) = caught.value.diagnostics
    assert problem.code == "E0602"
    assert any("not linear" in note for note in problem.notes)
    assert "sequential" in problem.help


def test_an_unknown_backend() -> None:
    with pytest.raises(SpecError, match=r"E0601.*there is no backend `tpu`"):
        rnnc.compile(rnnc.stdlib("gru"), backend="tpu")


def test_a_strategy_by_state() -> None:
    source = rnnc.compile(rnnc.stdlib("mlstm"), "mLSTM", strategy={"C": "sequential"}).source
    assert "for " in source
    assert "max_plus_scan" in source


def test_tracebacks_show_the_generated_source() -> None:
    layer = layer_of("gru")
    try:
        layer(torch.zeros(2, 3, 5))
    except RuntimeError:
        text = traceback.format_exc()
    assert "F.linear(x, " in text
    assert any(name.startswith("<rnnc GRU ") for name in linecache.cache)


def test_the_file_stands_alone(tmp_path: Path) -> None:
    """The emitted text is a module of its own that imports neither the compiler nor the spec."""
    (tmp_path / "layer.py").write_text(compiled("gated_deltanet").source)
    code = (
        "import sys, torch; import layer; y, state = layer.GatedDeltaNet(d=8, heads=2)(torch.zeros(1, 4, 8)); "
        "loaded = [m for m in sys.modules if m.startswith('rnnc.') and not m.startswith('rnnc.runtime')]; "
        "print(tuple(y.shape), loaded)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path
    )
    assert done.stdout.strip() == "(1, 4, 8) []", done.stderr


def test_names_that_python_keeps_for_itself() -> None:
    """Dims and cells may be called as they like; in Python such a name ends in an underscore."""
    spec = rnnc.parse(
        """
cell class(forward: dim, nn: dim = 4, lambda: dim = 2) {
  input x: real[forward]
  state h: real[nn] = 0
  h <- 0.5 * h + linear(x) + sum(linear[lambda](x))
  output y: real[forward] = linear(h')
}
cell F(d: dim) {
  input x: real[d]
  state h: real[d] = 0
  h <- 0.5 * h + silu(linear(x))
  output y: real[d] = h'
}
"""
    )
    layer = rnnc.compile(spec, "class")(**{"forward": 8, "lambda": 3})
    assert layer(example())[0].shape == (2, 12, 8)
    assert repr(layer) == "class(forward=8, nn=4, lambda=3)"
    assert rnnc.compile(spec, "F")(8)(example())[0].shape == (2, 12, 8)


@pytest.mark.parametrize(
    "name", ["l2norm", "lerp", "matrix_scan", "run_packed", "Read", "zip", "range", "like", "math"]
)
@pytest.mark.parametrize("kind", ["let", "input", "state", "param"])
def test_names_that_the_text_uses_itself(kind: str, name: str) -> None:
    lines = {
        "let": f"let {name}: real[d] = tanh(linear(x))",
        "input": f"input {name}: real[d]",
        "state": f"state {name}: real[d] = 0\n  {name} <- tanh(linear({name}) + x)",
        "param": f"param {name}: real[d]",
    }
    spec = rnnc.parse(
        f"""
cell Names(d: dim) {{
  input x: real[d]
  {lines[kind]}
  state h: real[d] = 0
  gate g: real[d] in (0, 1) = sigmoid(linear(x))
  h <- (1 - g) * h + g * {name}
  state S: real[d, d] = 0
  S <- 0.9 * S + outer(l2norm(x), {name})
  output y: real[d] = g * h' + (1 - g) * (S' @ x)
}}
"""
    )
    layer = rnnc.compile(spec)(4)
    xs = [torch.randn(1, 5, 4) for _ in range(2 if kind == "input" else 1)]
    y, state = layer(*xs, reverse=True)
    layer.step(*(x[:, 0] for x in xs), state=state)
    layer(*xs, cu_seqlens=torch.tensor([0, 2, 5]))
    assert rnnc.compile(spec, strategy="sequential")(4)(*xs)[0].shape == y.shape


@pytest.mark.parametrize("name", ["training", "source", "cls", "forward", "_modules", "_forward_pre_hooks", "self"])
@pytest.mark.parametrize("kind", ["dim", "param"])
def test_names_that_a_module_has_itself(kind: str, name: str) -> None:
    """Of its class, and of an instance, whose `training` and hooks the class does not know."""
    size, weight = (name, "w") if kind == "dim" else ("d", name)
    spec = rnnc.parse(
        f"""
cell Names({size}: dim) {{
  input x: real[{size}]
  param {weight}: real[{size}]
  state h: real[{size}] = 0
  h <- 0.5 * h + {weight} * x
  output y: real[{size}] = h'
}}
"""
    )
    layer = rnnc.compile(spec)(**{size: 4}).eval()
    layer.load_state_dict(layer.train().state_dict())
    assert layer(torch.randn(1, 5, 4))[0].shape == (1, 5, 4)
    assert [n.removesuffix("_") for n, _ in layer.named_parameters()] == [weight]
    assert repr(layer) == f"Names({size}=4)"


def test_parameters_are_called_as_in_the_spec() -> None:
    """Also where a variable of the text, such as torch.nn.functional, has the name."""
    spec = rnnc.parse(
        "cell Own(n: dim) { input x: real[n]; param F: real[n]; param zip: real[n]; output y: real[n] = F * zip * x }"
    )
    assert [*rnnc.compile(spec)(4).state_dict()] == ["F", "zip"]


def test_truth_values_as_states() -> None:
    spec = rnnc.parse(
        """
cell Alarm(n: dim) {
  input x: real[n]
  state seen: bool = false
  seen <- seen or sum(x) > 3
  output y: real[n] = x if seen' else 0 * x
}
"""
    )
    x = torch.tensor([[[1.0, 1.0], [4.0, 0.0], [0.5, 0.5]]])
    y, state = rnnc.compile(spec)(2)(x)
    assert y.tolist() == [[[0.0, 0.0], [4.0, 0.0], [0.5, 0.5]]]
    assert state["seen"].tolist() == [True]


def test_parameters_start_as_declared() -> None:
    """An initial value is that of the parameter inside its domain, also where a map keeps it there."""
    spec = rnnc.parse(
        """
cell Start(n: dim) {
  input x: real[n]
  param a: real[n] in (0, 1) init constant(0.9)
  param b: real[n] in [-2, 2] init constant(0.5)
  param c: real[n] > 0 init constant(3)
  param w: real[n, n] init orthogonal
  state h: real[n] = 0
  h <- a * h + b * x
  output y: real[n] = h'
  output z: real[n] = c * (w @ x)
}
"""
    )
    layer = rnnc.compile(spec)(4, dtype=torch.float64)
    one = torch.ones(1, 1, 4, dtype=torch.float64)
    (y, z), state = layer(one)
    support.assert_close(y, 0.5 * one)
    (y, _), _ = layer(one, state)
    support.assert_close(y, (0.9 * 0.5 + 0.5) * one)
    assert abs(float(torch.linalg.norm(z.detach())) - 3 * 2) < 1e-10
