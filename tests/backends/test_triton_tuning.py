"""Tuning of block sizes without a GPU: candidates, choices by a timer of the test's, and the cache on disk."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("triton")

import torch
from triton.runtime.jit import JITFunction

from rnnc.runtime.chunk import MicroStep, Read
from rnnc.runtime.gpu import tuning
from rnnc.runtime.gpu.arrange import near, near_inside
from rnnc.runtime.gpu.compat import Built, built_by, tf32
from rnnc.runtime.gpu.devices import check_devices
from rnnc.runtime.gpu.gates import channel_gradients as gates_kernel
from rnnc.runtime.gpu.matrix import matrix_scan
from rnnc.runtime.gpu.tuner import FEW, Tuner, candidates
from rnnc.runtime.gpu.tuning import FAST, HELD_BY_THREAD, Config, coupled_config, default_config, on_chip
from rnnc.runtime.gpu.walk import walk as states_kernel

DEFAULT = Config(steps=16, channels=64)
OPTIONS = [DEFAULT, Config(steps=16, channels=32), Config(steps=16, channels=32, warps=2)]
KEY = ("content", "forward", "device", 1024)


def tuner(folder: Path | None, seconds: dict[Config, float], measured: list[Config]) -> Tuner:
    """One whose timer looks up how long a configuration takes."""

    def timer(run: Any) -> float:
        measured.append(run())
        return seconds[measured[-1]]

    return Tuner(timer=timer, folder=lambda: folder, always=True)


TIMES = dict(zip(OPTIONS, (3.0, 1.0, 2.0), strict=True))


def test_the_fastest_is_chosen_once_and_remembered_on_disk(tmp_path: Path) -> None:
    measured: list[Config] = []
    first = tuner(tmp_path, TIMES, measured)
    assert first.choose(KEY, lambda: OPTIONS, lambda c: c) == OPTIONS[1]
    assert first.choose(KEY, lambda: OPTIONS, lambda c: c) == OPTIONS[1]
    assert measured == OPTIONS
    other = tuner(tmp_path, {}, measured)  # another process: nothing is measured
    assert other.choose(KEY, lambda: OPTIONS, lambda c: c) == OPTIONS[1]
    assert measured == OPTIONS
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[1]"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text(path.read_text().replace("1024", "4096")),
        lambda path: path.write_text(path.read_text().replace('"channels": 32', '"channels": 4096')),
        lambda path: path.chmod(0o666),
    ],
    ids=["damaged", "no entry", "no text", "another problem's", "no candidate", "writable by all"],
)
def test_an_entry_that_is_not_sound_is_measured_anew(spoil: Any, tmp_path: Path) -> None:
    tuner(tmp_path, TIMES, []).choose(KEY, lambda: OPTIONS, lambda c: c)
    (path,) = tmp_path.glob("*.json")
    spoil(path)
    measured: list[Config] = []
    changed = dict(zip(OPTIONS, (1.0, 3.0, 2.0), strict=True))
    assert tuner(tmp_path, changed, measured).choose(KEY, lambda: OPTIONS, lambda c: c) == DEFAULT
    assert measured == OPTIONS
    assert json.loads(path.read_text())["config"]["channels"] == DEFAULT.channels


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    tuner(tmp_path, TIMES, []).choose(KEY, lambda: OPTIONS, lambda c: c)
    (path,) = tmp_path.glob("*.json")
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    measured: list[Config] = []
    tuner(tmp_path, TIMES, measured).choose(KEY, lambda: OPTIONS, lambda c: c)
    assert measured == OPTIONS


def test_without_a_cache_it_still_chooses(tmp_path: Path) -> None:
    assert tuner(None, TIMES, []).choose(KEY, lambda: OPTIONS, lambda c: c) == OPTIONS[1]
    gone = tmp_path / "gone"
    assert tuner(gone, TIMES, []).choose(KEY, lambda: OPTIONS, lambda c: c) == OPTIONS[1]


def test_a_configuration_that_does_not_run_is_left_out(tmp_path: Path) -> None:
    from triton.runtime.errors import OutOfResources

    def run(c: Config) -> Config:
        if c == OPTIONS[1]:
            raise OutOfResources(300_000, 232_448, "shared memory")
        return c

    assert tuner(tmp_path, TIMES, []).choose(KEY, lambda: OPTIONS, run) == OPTIONS[2]

    def nothing_runs(c: Config) -> Config:
        raise OutOfResources(300_000, 232_448, "shared memory")

    with pytest.raises(OutOfResources):
        tuner(tmp_path, TIMES, []).choose(("another",), lambda: OPTIONS, nothing_runs)


def test_a_configuration_that_spills_is_not_measured(tmp_path: Path) -> None:
    """More than the default, whose library functions may have arrays in memory."""
    measured: list[Config] = []
    of = tuner(tmp_path, dict(zip(OPTIONS, (3.0, 1.0, 2.0), strict=True)), measured)
    spills: dict[Config, int] = {}
    of.built = lambda run: [Built("forward", 0), Built("forward", 0), Built("backward", spills[run()])]
    for spilled, want in (((0, 1, 0), 2), ((0, 0, 2), 1), ((4, 4, 0), 1), ((4, 5, 5), 0)):
        spills |= dict(zip(OPTIONS, spilled, strict=True))
        assert of.choose(("x", spilled), lambda: OPTIONS, lambda c: c) == OPTIONS[want]
    assert measured == [OPTIONS[k] for k in (0, 2, 0, 1, 0, 1, 2, 0)]


def test_candidates_are_compiled_and_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """But what other threads launch meanwhile is."""
    launched: list[tuple[str, bool]] = []

    def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        launched.append((kernel.__name__, warmup))
        return SimpleNamespace(run=len, n_spills=3)

    monkeypatch.setattr(JITFunction, "run", launch)
    other = Thread(target=lambda: states_kernel[1,](None))

    def run() -> None:
        gates_kernel[1,](None)
        other.start()
        other.join()

    assert built_by(run) == [Built("channel_gradients", 3)]
    assert launched == [("channel_gradients", True), ("walk", False)]
    assert JITFunction.run is launch


@pytest.mark.parametrize("kind", ["scan", "sequential"])
@pytest.mark.parametrize(("channels", "inner"), [(1, ()), (60, ()), (2048, ()), (100, (16,)), (64, (64,))])
def test_candidates_are_few_start_with_the_default_and_keep_buffers(
    kind: str, channels: int, inner: tuple[int, ...]
) -> None:
    default = default_config(kind, channels, inner)
    entries = inner[0] if inner else 1
    found = candidates(kind, default, channels, 8, entries)
    assert found[0] == default
    assert len(found) <= FEW
    assert len(set(found)) == len(found)
    assert {c.steps for c in found} == {default.steps}, "buffers have a row for every tile"
    for c in found[1:]:
        assert (c.steps if kind == "scan" else 1) * c.channels * entries <= 2 * 32 * HELD_BY_THREAD * default.warps


def test_loads_ahead_fit_a_small_gpu() -> None:
    """What is read ahead has to fit beside the matrices on the device at hand, not on the largest of its kind."""
    matrices, stage = on_chip([(64, 64)] * 4, 2), 40 * 1024
    for fast in (99 * 1024, FAST["old"], FAST[""]):
        found = coupled_config("forward", 64, matrices, stage, 2, "", fast)
        assert matrices + (found.stages - 1) * stage <= fast
    assert coupled_config("forward", 64, matrices, stage, 2, "").stages == found.stages
    assert coupled_config("forward", 64, matrices, stage, 2, "", 99 * 1024).stages < found.stages


def test_offsets_in_a_chunk_fit_32_bits() -> None:
    """A copy only where they would not: a part of a wider array, with a long axis of time, is read where it is."""
    x = torch.empty(2, 1 << 20, 96, 3 * 128, device="meta")[..., :128]
    assert near(x, 64) is x
    far = torch.empty(128, 1 << 24, 1, 2, device="meta").permute(2, 1, 3, 0)  # 128 entries, 2^25 from each other
    assert near(far, 64) is not far
    assert near(far, 64).is_contiguous()
    rows = torch.empty(1, 8, 1 << 16, 4, 1, 16, device="meta").transpose(1, 2)  # u [B, T, N, H, E, K] of 8 rows a step
    assert near(rows, 64, rows=True) is rows


def test_offsets_inside_a_program_fit_32_bits() -> None:
    """What is not shared out among programs is counted in 32 bits, [.., n] or [.., n, 2]."""
    wide = torch.empty_strided((2, 8, 4, 64), (1 << 40, 4, 1, 1 << 26), device="meta")  # time and channels last
    assert near_inside(wide, 1).stride() == (8 * 4 * 64, 4 * 64, 64, 1)
    assert near_inside(wide, 0) is wide
    assert near_inside(wide[..., :32], 1).stride() == wide.stride()
    assert near_inside(torch.view_as_real(torch.empty(2, 3, 5, dtype=torch.complex64)), 2).shape == (2, 3, 5, 2)


def test_a_single_configuration_is_not_measured() -> None:
    measured: list[Config] = []
    only = default_config("newton", 64, ())
    assert tuner(None, {}, measured).choose(("x",), lambda: [only], measured.append) == only
    assert not measured


def test_steps_are_divided_where_programs_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """132 multiprocessors: 256 programs read their inputs once, and fewer than three for two are made enough."""
    monkeypatch.setattr(tuning, "programs_wanted", lambda: 528)
    assert [tuning.parts_wanted(n) for n in (512, 396, 395, 32, 1)] == [1, 1, 3, 33, 1056]
    monkeypatch.setattr(tuning, "programs_wanted", lambda: 1)
    assert tuning.parts_wanted(1) == 1


def test_what_a_launch_is_told() -> None:
    config = coupled_config("forward", 32, 4096, 4096, 2, "")
    assert config.launch("forward") == {"num_warps": config.warps, "maxnreg": 255}
    assert config.launch("forward", "amd") == {"num_warps": config.warps}
    assert DEFAULT.launch("backward_totals") == {"num_warps": 4, "maxnreg": 255}
    assert DEFAULT.launch("backward") == {"num_warps": 4}


def test_tensors_of_two_devices_are_named() -> None:
    """By a device that is none for kernels: a GPU's number would do as well."""
    here, there = torch.empty(3), torch.empty(3, device="meta")
    with pytest.raises(RuntimeError, match=r"state of this layer is on `cpu`.* on `cpu`, `meta`: move the layer"):
        check_devices([here, here, there])
    with pytest.raises(RuntimeError, match="need a CUDA or HIP device; its state is on `cpu`"):
        check_devices([here, here])
    check_devices([here, here], alone=True)
    check_devices([there, there])
    read = [Read(key=torch.empty(1, 2, 1, 3, device="meta"))]
    step = [MicroStep(writes=((torch.empty(1, 2, 1, 3), torch.empty(1, 2, 1, 4)),))]
    with pytest.raises(RuntimeError, match="tensors on `cpu`, `meta`"):
        matrix_scan(torch.zeros(1, 1, 3, 4), step, read)


def test_machines_are_told_by_how_they_multiply(monkeypatch: pytest.MonkeyPatch) -> None:
    for capability, want in (((8, 0), "old"), ((8, 9), "old"), ((9, 0), ""), ((10, 3), ""), ((12, 0), "old")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        tuning._machine_of.cache_clear()
        assert tuning._machine_of(0) == want, capability
    tuning._machine_of.cache_clear()


def test_tf32_by_either_switch() -> None:
    switch = torch.backends.cuda.matmul
    before = switch.fp32_precision
    try:
        for precision, want in (("tf32", True), ("ieee", False)):
            switch.fp32_precision = precision
            assert tf32() is want  # `allow_tf32` may not be asked now
        switch.allow_tf32 = True
        assert tf32()
    finally:
        switch.allow_tf32 = False
        switch.fp32_precision = before
