"""`rnnc bench` from the outside: who takes part, what is the same, and what it says when the call is wrong."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import rnnc
from rnnc.bench.mixers import Mixer, ways
from rnnc.bench.peers import gates, peers
from rnnc.bench.run import EAGER, Settings, bench
from rnnc.bench.show import table
from rnnc.cli.app import main
from rnnc.cli.bench import EXAMPLES

QUICK = ["--shape", "2,20,6", "--rounds", "2", "--backend", "torch"]

# nn.GRU under other names, its gates in another order
RENAMED = """
cell Zed(d: dim, n: dim = d) {
  input u: real[d]
  state s: real[n] = 0
  let t: real[n] = sigmoid(linear(u) + linear(s))
  let a: real[n] = sigmoid(linear(u) + linear(s))
  let w: real[n] = tanh(linear(u) + a * linear(s))
  s <- (1 - t) * w + t * s
  output y: real[n] = s'
}
"""
NEARLY = RENAMED.replace("(1 - t) * w + t * s", "(1 - t) * w + 0.9 * t * s")


def test_a_table_with_strategies_the_loop_and_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "mingru", *QUICK]) == 0
    out = capsys.readouterr().out
    for name in ("torch: auto", EAGER):
        assert len(re.findall(rf"{name} .* ms \[.*% of the limit", out)) == 2, out
    assert "* torch: auto" in out
    assert re.search(r"\* torch: h: \w+; .* \(expected \d.* ms; .* ms at B = 2, T = 20", out)
    assert 'backend="auto" is torch here' in out


def test_a_faster_backend_is_named() -> None:
    result = bench(rnnc.stdlib("mingru"), None, {"d": 4}, Settings(batch=2, steps=64, rounds=1, backends=("torch",)))
    own = next(r for r in result.rows if r.name == "torch: auto")
    timing = {d: replace(t, median_ms=t.median_ms / 1000) for d, t in own.timings.items()}
    made = replace(result, rows=(own, replace(own, name="cpu: auto", timings=timing)))
    assert 'compile with backend="cpu"' in table(made)
    assert "compile with" not in table(replace(made, automatic="cpu"))


def test_json_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "new" / "plot.svg"
    assert main(["bench", "gru", *QUICK, "--json", "--plot", str(where)]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sizes"] == {"B": 2, "T": 20, "d": 6, "n": 6}
    names = {r["name"] for r in record["rows"]}
    assert {"torch: auto", EAGER} <= names
    assert len({"torch: sequential", "torch: newton"} & names) == 1  # the other one is what auto chose
    for row in record["rows"]:
        assert row["error"] < 1e-3
        for direction, timing in row["timings"].items():
            low, high = timing["quartiles_ms"]
            assert 0 < timing["fastest_ms"] <= low <= timing["median_ms"] <= high
            assert timing["rounds"] == 2
            assert row["roofline"][direction] == pytest.approx(record["bound_ms"][direction] / timing["median_ms"])
    root = ElementTree.parse(where).getroot()
    assert root.tag.endswith("svg")
    assert len([e for e in root.iter() if e.tag.endswith("rect")]) == 1 + 2 * len(names)


def test_png(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    where = tmp_path / "plot.png"
    assert main(["bench", "mingru", *QUICK, "--plot", str(where)]) == 0
    assert where.read_bytes()[:4] == b"\x89PNG"


def found_peers(text: str, *shape: int, cell: str | None = None) -> set[str]:
    torch.manual_seed(0)
    spec = rnnc.parse(text)
    ir = spec.lower(cell)
    layer = rnnc.compile(spec, cell, backend="torch")(**{d.name: 6 for d in ir.dims if d.default is None})
    inputs = [torch.rand(2, 9, *(6 for _ in ir.nodes[i.node].type.shape)) for i in ir.inputs]
    return {p.name for p in peers(ir, layer, inputs)}


def test_peers_are_found_by_what_they_compute_and_not_by_names() -> None:
    assert len(gates(rnnc.parse(RENAMED).lower())) == 3
    assert found_peers(RENAMED) == {"nn.GRU"}
    assert found_peers(NEARLY) == set()


# Mamba's parameters under other names, its update and its readout written in another order
MIXER = rnnc.stdlib("mamba").text
for old, new in (("low", "aa"), ("dt", "bb"), ("A_log", "cc"), ("D", "ee"), ("u", "ff"), ("z", "gg"), ("B", "hh")):
    MIXER = re.sub(rf"\b{old}\b", new, MIXER)


def test_a_mixer_is_found_by_shapes_under_any_names() -> None:
    pytest.importorskip("transformers")
    spec = rnnc.parse(MIXER)
    name = "Mamba"
    layer = rnnc.compile(spec, name, backend="torch")(d=6, e=12, n=5, rank=3)
    assert not {"A_log", "D", "u_linear_weight"} & {n for n, _ in layer.named_parameters()}
    ir = spec.lower(name)
    found = {p.name for p in peers(ir, layer, [torch.randn(2, 9, 6)])}
    assert "transformers MambaMixer" in found
    other = spec.lower(name).params[0].name
    doubled = rnnc.parse(MIXER.replace("exp(cc)", "exp(2 * cc)"))
    assert doubled.lower(name).params[0].name == other
    layer = rnnc.compile(doubled, name, backend="torch")(d=6, e=12, n=5, rank=3)
    found = {p.name for p in peers(doubled.lower(name), layer, [torch.randn(2, 9, 6)])}
    assert "transformers MambaMixer" not in found


def test_ways_give_each_size_one_value() -> None:
    mixer = Mixer(
        name="two", parts={"a": ("n", "d"), "b": ("d", "n")}, read_by={}, make=lambda s: torch.nn.Identity(), fill=print
    )
    own = {"x": torch.zeros(3, 2), "y": torch.zeros(2, 3)}
    assert [sizes for _, sizes in ways(mixer, own, {}, {})] == [{"n": 3, "d": 2}, {"n": 2, "d": 3}]
    assert [sizes for _, sizes in ways(mixer, own, {}, {"d": 2})] == [{"n": 3, "d": 2}]
    assert list(ways(mixer, {"x": torch.zeros(3, 2), "y": torch.zeros(3, 2)}, {}, {})) == []
    assert list(ways(mixer, {"x": torch.zeros(3, 2)}, {}, {})) == []


@pytest.mark.slow
def test_associative_scan_compiled() -> None:
    settings = Settings(batch=2, steps=12, rounds=1, against="peers", backends=("torch",))
    result = bench(rnnc.stdlib("mingru"), None, {"d": 4}, settings)
    (row,) = [r for r in result.rows if r.name == "associative_scan, compiled"]
    assert set(row.timings) == {"forward"}
    assert "associative_scan, compiled" in table(result)


def test_the_examples_of_the_help_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RNNC_CALIBRATION", str(tmp_path / "calibration.json"))
    monkeypatch.chdir(tmp_path)
    lines = [line.partition("rnnc ")[2].split() for line in EXAMPLES.split("\n") if "rnnc " in line]
    assert len(lines) == 4
    for words in lines:
        shown = words if "--rounds" in words else [*words, "--rounds", "1"]
        assert main([*shown, "--seconds", "1"]) == 0
    assert (tmp_path / "gru.svg").exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("lstm", {"nn.LSTM"}), ("gru", {"nn.GRU"}), ("rnn", {"nn.RNN"}), ("slstm", set())]
)
def test_layers_of_pytorch_are_peers(name: str, expected: set[str]) -> None:
    if name == "slstm":
        assert gates(rnnc.stdlib(name).lower()) == [] or expected == set()
        return
    assert found_peers(rnnc.stdlib(name).text) == expected


def test_associative_scan_runs_what_scans() -> None:
    result = bench(rnnc.stdlib("mingru"), None, {"d": 4}, Settings(batch=2, steps=12, rounds=1, against="eager-peers"))
    assert "associative_scan, eager" in {r.name for r in result.rows}
    assert {r.kind for r in result.rows} == {"loop", "strategy", "peer"}
    assert result.baseline == EAGER
    assert "associative_scan" in table(result)


def test_what_takes_too_long_is_left_out_with_the_reason() -> None:
    settings = Settings(batch=1, steps=60000, rounds=1, seconds=1.0, backends=("torch",))
    result = bench(rnnc.stdlib("mingru"), None, {"d": 2}, settings)
    left = dict(result.left_out)
    assert "a run would take about" in left[EAGER]
    assert "torch: auto" in {r.name for r in result.rows}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gru", "--shape", "4"], "batch and time at least"),
        (["gru", "--shape", "4,x"], "not a list of sizes"),
        (["gru", "--shape", "4,0"], "between 1 and"),
        (["gru", "--shape", "65536,100000,1024"], "E0606"),
        (["gru", "--shape", "1,1,65536"], "E0606"),
        (["lstm", "--shape", "4096,4096,64"], "E0606"),
        (["gru", "--seconds", "nan"], "no number of seconds"),
        (["gru", "--shape", "4,16,8,8,8"], "the dims are: d, n"),
        (["gru", "--backend", "fast"], "E0601"),
        (["gru", "--plot", "x.pdf"], "neither in .svg nor in .png"),
        ([], "a FILE is missing"),
        (["gru", "--calibrate"], "leave out FILE"),
        (["--calibrate"], "RNNC_CALIBRATION is off"),
        (["deltanet", "--shape", "2,8", "--set", "reach=two"], "a value is a number"),
        (["no_such_spec"], "E0401"),
    ],
)
def test_a_wrong_call_is_explained(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RNNC_CALIBRATION", "off")
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert "internal error (" not in captured.err


@pytest.mark.parametrize("arguments", [["gru", "--plot"], ["--calibrate"]])
def test_where_nothing_can_be_written_nothing_is_measured(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*_: object, **__: object) -> None:
        pytest.fail("measured")

    monkeypatch.setattr("rnnc.bench.run.bench", measure)
    monkeypatch.setattr("rnnc.bench.calibrate.measured", measure)
    (tmp_path / "file").write_text("")
    where = tmp_path / "file" / "new" / "x.svg"
    monkeypatch.setenv("RNNC_CALIBRATION", str(where))
    assert main(["bench", *arguments, *([str(where)] if "--plot" in arguments else [])]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err


@pytest.mark.parametrize("name", ["deltanet", "mlstm", "lru"])
def test_other_cells_of_the_library(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--set", "d=8", *(["--set", "heads=2"] if name != "lru" else [])]
    assert main(["bench", name, "--shape", "1,10", "--rounds", "1", "--backend", "torch", *sizes]) == 0
    assert EAGER in capsys.readouterr().out
