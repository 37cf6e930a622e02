"""Claims about one file of weights: closures, conflicts, counterexamples, spectra of these weights alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import rnnc
from rnnc.cli.app import main
from rnnc.diagnostics import SpecError
from rnnc.ir.oracle import init_params, run
from rnnc.verify.trained import Layer
from rnnc.verify.weights import bind, verify_weights

TOGGLE = """cell Toggle(d: dim) {
  input x: real[d]
  gate a: real in (-1, 1) = tanh(linear(x, bias = false))
  state h: real = 0
  transition A = a
  h <- a * h + linear(x, bias = false)
  output y: real = h'
  expect {
    recognizes parity
    not recognizes mod(3)
    eigenvalues(A) in [-1, 1]
    recognizes flip_flop
    not recognizes mod(3) under float32
    recognizes parity under exact
  }
}
"""
FIXED = """cell Fixed(d: dim, n: dim) {
  input x: real[d]
  param w: real[n]
  state h: real[n] = 0
  transition A = diag(w)
  h <- A @ h + linear(x)
  output y: real[n] = h'
  expect {
    norm(A) <= 1
    eigenvalues(A) in (0, 1)
  }
}
"""


def saved(path: Path, **tensors: Any) -> Path:
    save_file({k: np.asarray(v, np.float32) for k, v in tensors.items()}, path)
    return path


def toggle(tmp_path: Path, gate: list[float], write: list[float]) -> dict[str, Any]:
    path = saved(tmp_path / "w.safetensors", a_linear_weight=gate, h_linear_weight=write)
    found = verify_weights(rnnc.parse(TOGGLE), path=path)
    return {r.claim: r for r in found.results}


END = 20.0  # tanh(20) is 1 in float32, and less in exact arithmetic


def flips(tmp_path: Path) -> dict[str, Any]:
    return toggle(tmp_path, [END, -END, 0.0], [0.0, 1.0, 0.0])


def test_a_closed_set_of_states_proves(tmp_path):
    found = flips(tmp_path)["recognizes parity"]
    assert (found.verdict, found.precision) == ("proved", "float32")
    assert found.evidence.kind == "witness"
    assert found.evidence.data["states"] == 2


def test_a_little_less_is_no_proof(tmp_path):
    found = toggle(tmp_path, [3.8, -3.8, 0.0], [0.0, 1.0, 0.0])["recognizes parity"]
    assert found.verdict != "proved"


def test_equal_states_refute_for_every_readout(tmp_path):
    found = toggle(tmp_path, [0.0, 0.0, 0.0], [0.0, 1.0, 0.0])["recognizes parity"]
    assert found.verdict == "refuted"
    first, second = found.evidence.data["words"]
    assert (first.count("1") + second.count("1")) % 2 == 1
    assert first[-1] == second[-1]


def test_theorems_for_all_weights_come_first(tmp_path):
    found = flips(tmp_path)
    assert found["eigenvalues(A) in [-1, 1]"].verdict == "proved"
    never = found["not recognizes mod(3)"]
    assert (never.verdict, never.precision) == ("proved", "finite_precision")
    assert never.reason.startswith("for all weights: ")
    assert never.evidence.data["these_weights"]["words"]


def test_precision_models_are_not_mixed(tmp_path):
    found = flips(tmp_path)
    assert found["not recognizes mod(3) under float32"].precision == "float32"
    assert found["not recognizes mod(3) under float32"].verdict == "proved"  # two words with one state
    assert found["recognizes parity under exact"].verdict == "unknown"


def test_weights_as_exact_numbers(tmp_path):
    spec = rnnc.parse(FIXED)
    rest = {"h_linear_weight": np.eye(3, 2), "h_linear_bias": np.zeros(3)}
    fine = saved(tmp_path / "fine.safetensors", w=[0.5, 0.25, 0.875], **rest)
    wrong = saved(tmp_path / "wrong.safetensors", w=[0.5, -0.25, 1.5], **rest)
    assert [r.verdict for r in verify_weights(spec, path=fine).results] == ["proved", "proved"]
    found = verify_weights(spec, path=wrong)
    assert [r.verdict for r in found.results] == ["refuted", "refuted"]
    (row,) = verify_weights(spec, path=fine).spectra
    assert row["proved"]["interval"] == [0.25, 0.875]
    assert row["sampled"]["real_part"] == pytest.approx([0.25, 0.875])


@pytest.mark.parametrize(
    ("name", "cell", "sizes"),
    [("deltanet", "DeltaNet", {"d": 8, "heads": 2}), ("lru", "LRU", {"d": 4, "n": 3}), ("gru", "GRU", {"d": 3})],
)
def test_a_bound_cell_is_the_same_function(name, cell, sizes):
    ir = rnnc.stdlib(name).lower(cell)
    dims = ir.dim_values(sizes)
    rng = np.random.default_rng(0)
    params = {
        k: v.astype(np.complex64 if v.dtype.kind == "c" else np.float32) for k, v in init_params(ir, dims, rng).items()
    }
    x = rng.normal(size=(2, 5, dims["d"])).astype(np.float32)
    want, _ = run(ir, dims, params, {"x": x})
    bound = bind(ir, dims, params)
    assert bound.params == ()
    got, _ = run(bound, dims, {}, {"x": x})
    layer = Layer(ir, dims, params)
    state = layer.start(2)
    for t in range(5):
        state, y = layer.step(state, {"x": x[:, t]})
        assert y.dtype == np.float32
        np.testing.assert_allclose(y, want["y"][:, t], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got["y"], want["y"], rtol=1e-12, atol=1e-14)


def test_a_checkpoint_of_training(tmp_path):
    """Two steps of training: the file is read with its own hyperparameters, and its readout is found wrong."""
    torch = pytest.importorskip("torch")
    from rnnc.training.config import TrainConfig
    from rnnc.training.session import prepare

    spec = rnnc.stdlib("deltanet")
    config = TrainConfig(task="parity", steps=2, width=8, layers=2, batch=4, train_length=6, test_lengths=(6,))
    session = prepare(spec, "DeltaNet", config, {"heads": 2, "width": 1, "reach": 2})
    session.run(tmp_path, lambda *_: None)
    path = tmp_path / "checkpoint.safetensors"
    found = verify_weights(spec, path=path)
    results = {r.claim: r for r in found.results}
    assert results["recognizes parity"].verdict == "refuted"
    assert results["recognizes parity"].precision == "float32"
    assert len(found.spectra) == 2
    assert results["eigenvalues(A) in [-1, 1]"].verdict == "proved"
    check_scores(session, found, path, torch)


def check_scores(session: Any, found: Any, path: Path, torch: Any) -> None:
    """The readout's classes are those of the trained module."""
    from rnnc.training.model import build
    from rnnc.verify.trained import Model, layer_prefixes, read_weights

    weights = read_weights(path)
    module = build(session.layer_class, session.fit, session.task, 8, 2, 0)
    module.load_state_dict({k.removeprefix("model/"): torch.from_numpy(v) for k, v in weights.tensors.items()})
    prefixes = layer_prefixes(session.cell, weights)
    names = [p.name for p in session.cell.params]
    params = [{n: weights.tensors[p + n] for n in names} for p in prefixes]
    model = Model([Layer(session.cell, session.fit.dims, p) for p in params], prefixes, weights)
    words = np.random.default_rng(0).integers(0, 2, (6, 9))
    with torch.no_grad():
        scores = module(torch.from_numpy(words)).numpy()
    states = model.start(6)
    rows = model.letters(("0", "1"), None)
    for t in range(9):
        states, classes = model.step(states, rows[words[:, t]])
        clear = np.abs(scores[:, t, 0] - scores[:, t, 1]) > 1e-4
        assert clear.any()
        assert (classes == scores[:, t].argmax(axis=1))[clear].all()


def test_letters(tmp_path):
    path = saved(
        tmp_path / "w.safetensors",
        a_linear_weight=[-END, END, 0.0],
        h_linear_weight=[1.0, 0.0, 0.0],
        table=[[0, 1, 0], [1, 0, 0], [0, 0, 1]],
    )
    for option, verdict in (("table", "proved"), ("0=1,1=0", "proved"), ("0=1,1=7", "unknown")):
        found = verify_weights(rnnc.parse(TOGGLE), path=path, letters=option)
        assert {r.claim: r.verdict for r in found.results}["recognizes parity"] == verdict
    with pytest.raises(SpecError, match="E0505"):
        verify_weights(rnnc.parse(TOGGLE), path=path, letters="nothing")


def test_files_that_do_not_fit(tmp_path):
    spec = rnnc.parse(TOGGLE)
    (tmp_path / "text.safetensors").write_text("no")
    other = saved(tmp_path / "other.safetensors", weight=[1.0])
    shape = saved(tmp_path / "shape.safetensors", a_linear_weight=[1.0, 2.0], h_linear_weight=[1.0])
    for path in (tmp_path / "none.safetensors", tmp_path / "text.safetensors", other, shape):
        with pytest.raises(SpecError) as caught:
            verify_weights(spec, path=path)
        assert [d.code for d in caught.value.diagnostics] == ["E0505"]


def test_the_command(tmp_path, capsys):
    spec = tmp_path / "toggle.rnn"
    spec.write_text(TOGGLE)
    path = saved(tmp_path / "w.safetensors", a_linear_weight=[END, -END, 0], h_linear_weight=[0, 1, 0])
    assert main(["verify", str(spec), "--weights", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["weights"] == str(path)
    assert {c["claim"]: c["verdict"] for c in found["claims"]}["recognizes parity"] == "proved"
    assert main(["verify", str(spec), "--weights", str(path)]) == 1
    assert "eigenvalues proved in" in capsys.readouterr().out
    assert main(["verify", str(spec), "--letters", "a=0"]) == 2


INPUTS = """cell Inputs() {
  input a: real in [-1, 1]
  input b: real
  state h: real = 0
  h <- a * h + b
  output y: real = h'
  expect { recognizes parity }
}
"""


def test_letters_of_several_inputs(tmp_path):
    spec = rnnc.parse(INPUTS)
    path = saved(tmp_path / "w.safetensors", la=[1, -1], lb=[0, 1], wide=[[1, 2], [3, 4]])
    named = verify_weights(spec, path=path, letters="a=la, b=lb").results[0]
    assert named.verdict == "proved"
    missing = verify_weights(spec, path=path, letters="a=la").results[0]
    assert missing.verdict == "unknown"
    assert "`b`" in missing.reason
    for wrong in ("a=la,b=nothing", "a=la,b=wide"):
        with pytest.raises(SpecError, match="E0505"):
            verify_weights(spec, path=path, letters=wrong)


def test_a_saved_witness_says_its_letters_and_sizes(tmp_path):
    from rnnc.verify.target import target_of
    from rnnc.verify.witness import find_witness

    spec = rnnc.parse(TOGGLE.replace("cell Toggle(d: dim)", "cell Toggle(d: dim, n: dim)"))
    cell = spec.lower("Toggle")
    dfa = target_of(spec, cell.expect[0]).dfa
    witness = find_witness(cell, dfa, dims={"n": 3})
    path = tmp_path / "witness.safetensors"
    witness.to_safetensors(path)
    found = verify_weights(spec, path=path)
    assert {r.claim: r.verdict for r in found.results}["recognizes parity"] == "proved"


def test_the_largest_weights_stay_parameters(tmp_path, monkeypatch):
    """With their own values in samples: these refute, and others do not."""
    from rnnc.verify import weights

    monkeypatch.setattr(weights, "MOST_NUMBERS", 3)
    small = saved(tmp_path / "s.safetensors", w=[0.5] * 4, h_linear_weight=np.ones((4, 2)), h_linear_bias=np.ones(4))
    found = {r.claim: r.verdict for r in verify_weights(rnnc.parse(FIXED), path=small).results}
    assert found == {"norm(A) <= 1": "unknown", "eigenvalues(A) in (0, 1)": "unknown"}
    large = saved(tmp_path / "l.safetensors", w=[1.5] * 4, h_linear_weight=np.ones((4, 2)), h_linear_bias=np.ones(4))
    found = {r.claim: r.verdict for r in verify_weights(rnnc.parse(FIXED), path=large).results}
    assert found == {"norm(A) <= 1": "refuted", "eigenvalues(A) in (0, 1)": "refuted"}
